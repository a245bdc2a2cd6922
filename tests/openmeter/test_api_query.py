"""Queries on a real port: bounds, subjects, groups, numbers, and what must not be asked."""

from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import Any

import pytest

from app.openmeter.api import SUBJECTS_PER_CALL, OpenMeterClient
from tests.openmeter_side.side import OpenMeterSide

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)
SECOND = timedelta(seconds=1)


async def test_the_end_is_exclusive_and_the_start_inclusive(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    for at, value in ((NOON - SECOND, 1), (NOON, 10), (NOON + HOUR - SECOND, 100)):
        side.event("ai_tokens", "customer-1", at, value)
    side.event("ai_tokens", "customer-1", NOON + HOUR, 1000)
    [row] = await openmeter.query("ai_tokens", from_=NOON, to=NOON + HOUR, subject="customer-1")
    assert row.value == 110
    assert (row.window_start, row.window_end) == (NOON, NOON + HOUR)
    assert (row.subject, dict(row.group_by)) == ("customer-1", {})


async def test_two_parts_of_a_window_add_up_to_it(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    """What a window that straddles a period's boundary is divided by."""
    for minute in range(60):
        side.event("ai_tokens", "customer-1", NOON + minute * MINUTE + 15 * SECOND, minute + 1)
    cut = NOON + 20 * MINUTE + 10 * SECOND
    parts = [
        await openmeter.query(
            "ai_tokens", from_=start, to=end, subject="customer-1", window_size="MINUTE"
        )
        for start, end in ((NOON, cut), (cut, NOON + HOUR))
    ]
    assert [len(part) for part in parts] == [20, 40]
    assert [sum(row.value for row in part) for part in parts] == [210, 1830 - 210]
    # The window that the bound cuts has its full bounds.
    assert parts[1][0].window_start == NOON + 20 * MINUTE


async def test_empty_windows_and_quiet_subjects_have_no_rows(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    side.event("ai_tokens", "customer-1", NOON, 1)
    side.event("ai_tokens", "customer-1", NOON + 5 * HOUR, 2)
    rows = await openmeter.query(
        "ai_tokens",
        from_=NOON,
        to=NOON + 24 * HOUR,
        subject=["customer-1", "customer-2"],
        window_size="HOUR",
    )
    assert [(row.subject, row.window_start, int(row.value)) for row in rows] == [
        ("customer-1", NOON, 1),
        ("customer-1", NOON + 5 * HOUR, 2),
    ]


async def test_values_are_decimals_digit_by_digit(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    side.event("ai_tokens", "customer-1", NOON, Decimal("0.1"))
    side.event("ai_tokens", "customer-1", NOON, Decimal("0.2"))
    [row] = await openmeter.query("ai_tokens", from_=NOON, to=NOON + HOUR, subject="customer-1")
    assert isinstance(row.value, Decimal)
    assert str(row.value) == "0.30000000000000004"


async def test_groups_and_filters(side: OpenMeterSide, openmeter: OpenMeterClient) -> None:
    for value, group in (
        (1, {"model": "gpt-4", "type": "in"}),
        (10, {"model": "gpt-4", "type": "out"}),
        (100, {"model": "a&b=c[d] +%ü", "type": "in"}),
        (1000, {"type": "in"}),
    ):
        side.event("ai_tokens", "customer-1", NOON, value, group=group)

    async def ask(**how: Any) -> list[tuple[dict[str, str], int]]:
        rows = await openmeter.query(
            "ai_tokens", from_=NOON, to=NOON + HOUR, subject="customer-1", **how
        )
        return [(dict(row.group_by), int(row.value)) for row in rows]

    assert await ask(group_by=["model"]) == [
        ({"model": ""}, 1000),
        ({"model": "a&b=c[d] +%ü"}, 100),
        ({"model": "gpt-4"}, 11),
    ]
    assert await ask(filter_group_by={"model": "gpt-4"}) == [({}, 11)]
    assert await ask(filter_group_by={"model": "a&b=c[d] +%ü"}) == [({}, 100)]
    assert await ask(filter_group_by={"model": ""}) == [({}, 1000)]
    assert await ask(group_by=["subject", "type"], filter_group_by={"model": "gpt-4"}) == [
        ({"type": "in"}, 1),
        ({"type": "out"}, 10),
    ]
    assert await ask(filter_group_by={"model": "gpt-4", "type": "out"}) == [({}, 10)]


async def test_many_subjects_are_asked_in_several_calls(
    side: OpenMeterSide, openmeter: OpenMeterClient
) -> None:
    names = [f"customer-{number:03}" for number in range(2 * SUBJECTS_PER_CALL + 1)]
    for number, name in enumerate(names, start=1):
        side.event("ai_tokens", name, NOON, number)
    side.event("ai_tokens", "somebody-else", NOON, 10**6)
    rows = await openmeter.query(
        "ai_tokens", from_=NOON, to=NOON + HOUR, subject=[*names, *names[:3]]
    )
    assert [(row.subject, int(row.value)) for row in rows] == [
        (name, number) for number, name in enumerate(names, start=1)
    ]
    assert len(side.requests) == 3


async def test_bounds_are_asked_in_utc(side: OpenMeterSide, openmeter: OpenMeterClient) -> None:
    there = NOON.astimezone(timezone(timedelta(hours=5, minutes=45)))
    await openmeter.query("ai_tokens", from_=there, to=there + HOUR, subject="customer-1")
    [(path, parameters)] = side.requests
    assert path == "/api/v1/meters/ai_tokens/query"
    assert dict(parameters)["from"] == "2026-03-01T12:00:00Z"
    assert dict(parameters)["to"] == "2026-03-01T13:00:00Z"


@pytest.mark.parametrize(
    "wrong",
    [
        {"from_": NOON.replace(tzinfo=None)},
        {"to": (NOON + HOUR).replace(microsecond=1)},
        {"to": NOON},
        {"to": NOON - HOUR},
        {"subject": ""},
        {"subject": []},
        {"subject": ["customer-1", ""]},
        {"group_by": ["model[0]"]},
        {"group_by": [""]},
        {"filter_group_by": {"model]": "x"}},
        {"filter_group_by": {"subject": "customer-1"}},
        {"window_size": "MONTH"},
        {"meter": "ai_tokens/../x"},
        {"meter": ""},
        {"meter": "x" * 65},
    ],
)
async def test_what_must_not_be_asked_is_not_sent(
    side: OpenMeterSide, openmeter: OpenMeterClient, wrong: dict[str, Any]
) -> None:
    asked = {"from_": NOON, "to": NOON + HOUR, "subject": "customer-1", **wrong}
    with pytest.raises(ValueError, match=r".+"):
        await openmeter.query(asked.pop("meter", "ai_tokens"), **asked)
    assert side.requests == []


async def test_subjects_of_a_meter(side: OpenMeterSide, openmeter: OpenMeterClient) -> None:
    for at, subject in ((NOON, "b"), (NOON, "a"), (NOON + SECOND, "b"), (NOON + HOUR, "late")):
        side.event("ai_tokens", subject, at)
    assert await openmeter.subjects("ai_tokens", from_=NOON, to=NOON + HOUR) == ("a", "b")
    with pytest.raises(ValueError, match="before"):
        await openmeter.subjects("ai_tokens", from_=NOON, to=NOON)
