"""The stand-in itself: against a count by hand, by its two ways, and fast enough for a year."""

import json
import random
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from app.openmeter.api_errors import OpenMeterRefused, OpenMeterUnreachable
from app.openmeter.report import UsageReport, parse_message
from tests.openmeter_side.answers import unavailable
from tests.openmeter_side.querying import Question
from tests.openmeter_side.serving import client_of
from tests.openmeter_side.side import OpenMeterSide

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
MINUTE = timedelta(minutes=1)


def side_of(aggregation: str = "SUM") -> OpenMeterSide:
    side = OpenMeterSide()
    side.meter("ai_tokens", aggregation, group_by=("model",))
    return side


@pytest.mark.parametrize(
    ("aggregation", "value"),
    [
        ("SUM", 15),
        ("COUNT", 5),
        ("MAX", 7),
        ("MIN", 1),
        ("LATEST", 3),
        ("AVG", 3),
        ("UNIQUE_COUNT", 4),
    ],
)
def test_aggregations(aggregation: str, value: int) -> None:
    side = side_of(aggregation)
    for minute, measured in ((30, 7), (10, 2), (50, 3), (20, 1), (40, 2)):
        side.event("ai_tokens", "customer-1", START + minute * MINUTE, measured)
    side.event("ai_tokens", "customer-1", START + HOUR, 99)
    [row] = side.windows("ai_tokens", "HOUR", START, START + HOUR)
    assert row.exact == value


@pytest.mark.parametrize(("size", "length"), [("MINUTE", MINUTE), ("HOUR", HOUR)])
def test_windows_against_a_count_by_hand(size: str, length: timedelta) -> None:
    side, dice = side_of(), random.Random(20260301)  # noqa: S311 - dice
    wanted: dict[tuple[str, str | None, datetime], int] = defaultdict(int)
    first, last = START + 90 * MINUTE + timedelta(seconds=7), START + 300 * MINUTE
    for _ in range(2_000):
        at = START + timedelta(seconds=dice.randrange(6 * 3600))
        subject, model = dice.choice("abc"), dice.choice([None, "x", "y"])
        value = dice.randrange(-5, 50)
        side.event("ai_tokens", subject, at, value, group={"model": model} if model else None)
        if first <= at < last:
            wanted[subject, model, at - (at - START) % length] += value
    rows = side.windows("ai_tokens", size, first, last, ["model"])
    assert {
        (str(row.subject), row.group_by["model"], row.window_start): row.value for row in rows
    } == wanted
    assert all(row.window_end - row.window_start == length for row in rows)
    assert len(rows) == len(wanted)


def test_webhooks_are_what_the_bridge_reads() -> None:
    side = side_of()
    side.event("ai_tokens", "customer-2", START, Decimal("0.1"), group={"model": "x"})
    side.event("ai_tokens", "customer-2", START, Decimal("0.2"), group={"model": "x"})
    side.event("ai_tokens", "customer-2", START, 5)
    side.event("ai_tokens", "customer-1", START + HOUR, 12)
    first, second = side.webhooks("ai_tokens", "HOUR", START, START + 24 * HOUR, ["model"])
    assert (first.subject, second.subject) == ("customer-1", "customer-2")
    assert b'"value": 12,' in first.body  # not 12.0
    report = parse_message(second.body)
    assert isinstance(report, UsageReport)
    assert {(w.group_by, w.value, w.window_start, w.window_end) for w in report.windows} == {
        ((("model", "x"),), Decimal("0.30000000000000004"), START, START + HOUR),
        ((("model", ""),), Decimal(5), START, START + HOUR),
    }
    assert (report.meter.slug, report.meter.aggregation) == ("ai_tokens", "SUM")


def test_nothing_is_known_before_it_arrives() -> None:
    now = START + 30 * MINUTE
    side = OpenMeterSide(now=lambda: now)
    side.meter("ai_tokens")
    for minute in range(60):
        side.event("ai_tokens", "customer-1", START + minute * MINUTE)
    side.event("ai_tokens", "customer-1", START, 100, arrived=START + 45 * MINUTE)

    def known() -> int | float:
        [row] = side.windows("ai_tokens", "HOUR", START, START + HOUR)
        return row.value

    assert known() == 31
    now = START + 45 * MINUTE
    assert known() == 146
    assert side.subjects("ai_tokens", START + HOUR, START + 2 * HOUR) == []


async def test_in_process_and_with_the_webhooks_numbers() -> None:
    side = side_of()
    side.event("ai_tokens", "customer-1", START, Decimal("0.1"))
    side.event("ai_tokens", "customer-1", START + HOUR, Decimal("0.7"))
    async with client_of(side) as client:
        rows = await client.query(
            "ai_tokens",
            from_=START,
            to=START + 2 * HOUR,
            subject="customer-1",
            window_size="HOUR",
        )
        told = side.windows("ai_tokens", "HOUR", START, START + 2 * HOUR)
        assert [(r.value, r.window_start) for r in rows] == [
            (w.exact, w.window_start) for w in told
        ]
        for fault in (side.fail(kind="hang"), side.fail(kind="reset"), side.fail(unavailable())):
            with pytest.raises(OpenMeterUnreachable):
                await client.subjects("ai_tokens", from_=START, to=START + HOUR)
            assert fault.met == 1
            fault.times = 1
        side.heal()
        assert await client.subjects("ai_tokens", from_=START, to=START + HOUR) == ("customer-1",)
        side.api_key = "another"
        with pytest.raises(OpenMeterRefused):
            await client.subjects("ai_tokens", from_=START, to=START + HOUR)


def test_a_question_about_everybody_tells_no_subject() -> None:
    side = side_of("LATEST")
    side.event("ai_tokens", "a", START + MINUTE, 1)
    side.event("ai_tokens", "b", START, 2)
    [row] = side.query("ai_tokens", Question(START, START + HOUR, group_by=()))
    assert (row.subject, row.value) == (None, 1)
    assert row.as_json()["groupBy"] == {}


def test_a_year_of_daily_runs_tells_every_hour_once() -> None:
    side = side_of()
    hours = 365 * 24
    for hour in range(hours):
        side.event("ai_tokens", "customer-1", START + hour * HOUR)
    told = [
        entry["windowStart"]
        for day in range(365)
        for webhook in side.webhooks(
            "ai_tokens", "HOUR", START + day * 24 * HOUR, START + (day + 1) * 24 * HOUR
        )
        for entry in json.loads(webhook.body)["usage"]
    ]
    assert len(told) == len(set(told)) == hours
