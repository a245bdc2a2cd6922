"""Columns: what is written as an array is what PostgreSQL reads, to the last character."""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import text, transaction
from app.ledger.columns import column, moments, numbers, texts

# PostgreSQL's text has no NUL, and what is no character (a lone surrogate) no encoding.
TEXTS = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=8)
AWKWARD = st.lists(
    TEXTS | st.sampled_from(["", "null", "NULL", '"', "\\", "a,b", "{}", " a ", "\n"])
)
HERE = timezone(timedelta(hours=5, minutes=45))
A_TIME = st.datetimes(
    min_value=datetime(1, 1, 2),  # noqa: DTZ001 - hypothesis adds the zone
    max_value=datetime(9999, 12, 30),  # noqa: DTZ001 - as above
    timezones=st.sampled_from([UTC, HERE]),
)
A_NUMBER = st.integers() | st.decimals(allow_nan=False, allow_infinity=False) | st.none()


async def read(engine: AsyncEngine, kind: str, written: str) -> list[object]:
    async with transaction(engine) as connection:
        found = await connection.execute(
            text(f"select unnest(cast(cast(:written as text) as {kind}[]))"), {"written": written}
        )
        return list(found.scalars())


against_the_database = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture]
)


@against_the_database
@given(values=AWKWARD)
async def test_texts(engine: AsyncEngine, values: list[str]) -> None:
    assert await read(engine, "text", texts(values)) == values


@against_the_database
@given(values=st.lists(A_TIME))
async def test_moments(engine: AsyncEngine, values: list[datetime]) -> None:
    assert await read(engine, "timestamptz", moments(values)) == values


@against_the_database
@given(values=st.lists(A_NUMBER))
async def test_numbers(engine: AsyncEngine, values: list[int | Decimal | None]) -> None:
    assert await read(engine, "numeric", numbers(values)) == values


@pytest.mark.parametrize(
    ("values", "given_once", "every"),
    [
        ([], [], None),
        (["a"], [], "a"),
        (["a", "a"], [], "a"),
        ([None, None], [], None),
        (["a", "b"], ["a", "b"], None),
        (["a", None], ["a", None], None),
        ([None, "a"], [None, "a"], None),
    ],
)
def test_what_all_rows_have_in_common_is_given_once(
    values: Sequence[object], given_once: list[object], every: object
) -> None:
    assert column("state", values) == {"state": given_once, "every_state": every}
