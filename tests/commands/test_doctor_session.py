"""What the doctor says of a session: whose it is, and whether everything in it ends."""

import pytest
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from app.commands.doctor import examine
from app.commands.doctor_findings import Finding, Level
from app.commands.doctor_session import BOUNDS, session_findings
from app.config import Settings
from app.database_address import Pooler
from app.db import transaction
from tests.poolers import StandInPooler


async def test_a_session_with_all_its_bounds(engine: AsyncEngine) -> None:
    assert await session_findings(engine) == []


async def test_bounds_that_nobody_set_are_named(fresh_url: URL) -> None:
    """As behind a pooler that ignores what is asked for, with only one of them on the role."""
    bare = create_async_engine(fresh_url, pool_size=1)
    async with bare.connect() as connection:
        for name in BOUNDS:  # whatever the server gives to all
            bound = "5s" if name == "lock_timeout" else "0"
            await connection.execute(text(f"set {name} = '{bound}'"))
        await connection.commit()
    [found] = await session_findings(bare)
    assert found.level is Level.WARNING
    for name, bound in BOUNDS.items():
        named = f"set {name} = '{bound}'" in found.action
        assert named is (name != "lock_timeout") is (name in found.detail)
    async with transaction(bare) as connection:
        for statement in found.action.replace("alter role ...", "").split(";")[:-1]:
            await connection.execute(text(statement))
    assert await session_findings(bare) == []
    await bare.dispose()


@pytest.mark.parametrize(
    ("mode", "refuses", "query", "detail", "action"),
    [
        (Pooler.TRANSACTION, None, {}, "does not say how", "Change DATABASE_URL"),
        (Pooler.SESSION, None, {}, "does not say how", "Change DATABASE_URL"),
        (
            Pooler.TRANSACTION,
            None,
            {"pooler": "session"},
            "write pooler=transaction",
            "Change DATABASE_URL",
        ),
        (
            Pooler.SESSION,
            b"lock_timeout",
            {"pooler": "session"},
            "unsupported startup parameter",
            "ignore_startup_parameters",
        ),
    ],
)
async def test_a_pooler_that_is_not_used_as_it_has_to_be(
    fresh_url: URL,
    mode: Pooler,
    refuses: bytes | None,
    query: dict[str, str],
    detail: str,
    action: str,
) -> None:
    told: list[Finding] = []
    async with StandInPooler(fresh_url, mode, refuses).way() as way:
        url = way.update_query_dict(query).render_as_string(hide_password=False)
        chosen = Settings(_env_file=None, database_url=SecretStr(url))
        await examine(lambda: chosen, told.append)
    [found] = [finding for finding in told if finding.check == "database"]
    assert found.level is Level.PROBLEM
    assert detail in found.detail
    assert action in found.action
