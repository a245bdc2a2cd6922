"""Whatever a server answers is either what was asked for, or one error of the tree."""

import json
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.openmeter.api_errors import OpenMeterMalformed
from app.openmeter.api_query import MeterQuery
from app.openmeter.api_reading import (
    read_customers,
    read_rows,
    read_stripe_customer_id,
    read_subjects,
)
from app.openmeter.strict_json import read_json
from tests.openmeter_side.side import OpenMeterSide

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
ASKED = MeterQuery(
    meter="ai_tokens",
    from_=NOON,
    to=NOON + timedelta(hours=2),
    subjects=("a", "b"),
    group_by=("model",),
    window_size="HOUR",
)

WORDS = st.sampled_from(
    (
        *("data", "value", "subject", "groupBy", "model", "windowStart", "windowEnd", "a", "b"),
        *("items", "id", "totalCount", "usageAttribution", "subjectKeys", "stripeCustomerId", ""),
        *("2026-03-01T12:00:00Z", "2026-03-01T13:00:00+00:00", "2026-03-01T12:59:59.5Z"),
    )
)
DOCUMENTS = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | WORDS | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(WORDS, inner, max_size=6),
    max_leaves=25,
)
ROWS = st.fixed_dictionaries(
    {
        "value": st.integers() | st.floats(),
        "windowStart": st.sampled_from(["2026-03-01T12:00:00Z", "2026-03-01T11:00:00Z"]),
        "windowEnd": st.sampled_from(["2026-03-01T13:00:00Z", "2026-03-01T12:00:00Z"]),
        "subject": WORDS | st.none(),
        "groupBy": st.none() | st.dictionaries(WORDS, WORDS | st.none(), max_size=2),
    }
)


@given(DOCUMENTS | st.fixed_dictionaries({"data": st.lists(ROWS | DOCUMENTS, max_size=4)}))
def test_any_document(document: Any) -> None:
    read = read_json(json.dumps(document).encode())
    for reader in (read_subjects, read_customers, read_stripe_customer_id):
        with suppress(OpenMeterMalformed):
            reader(read)
    try:
        rows = read_rows(read, ASKED)
    except OpenMeterMalformed:
        return
    assert len({(row.window_start, row.subject, row.group_by["model"]) for row in rows}) == len(
        rows
    )
    for row in rows:
        assert row.subject in ASKED.subjects
        assert row.value.is_finite()
        assert ASKED.from_ <= row.window_start < row.window_end <= ASKED.to
        assert row.window_end - row.window_start == timedelta(hours=1)


AMOUNTS = st.decimals(-10, 10**6, places=3, allow_nan=False)


@given(st.lists(st.tuples(st.integers(0, 7199), st.sampled_from("abc"), AMOUNTS), max_size=30))
def test_what_the_stand_in_tells_is_read_as_it_was_told(
    events: list[tuple[int, str, Decimal]],
) -> None:
    side = OpenMeterSide()
    side.meter("ai_tokens", group_by=("model",))
    for second, subject, value in events:
        side.event("ai_tokens", subject, NOON + timedelta(seconds=second), value)
    told = [
        row
        for row in side.windows("ai_tokens", "HOUR", ASKED.from_, ASKED.to, ["model"])
        if row.subject in ASKED.subjects
    ]
    document = read_json(json.dumps({"data": [row.as_json() for row in told]}).encode())
    assert [(r.window_start, r.subject, r.value) for r in read_rows(document, ASKED)] == [
        (row.window_start, row.subject, row.exact) for row in told
    ]
