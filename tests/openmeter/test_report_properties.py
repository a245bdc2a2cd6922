"""Properties of reading: nothing but the declared errors, and no digit lost."""

import json
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from app.openmeter.report import (
    InvalidMessage,
    UnknownType,
    UsageReport,
    is_report,
    parse_message,
)

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner),
    max_leaves=12,
)
MEMBERS = ("report", "usage", "query", "meter", "subject", "value", "groupBy", "windowStart")


def _accepts_or_refuses(body: bytes) -> None:
    """Nothing but the declared errors, and the same whether windows are wanted or not."""
    verdicts: list[object] = []
    for read in (is_report, lambda body: isinstance(parse_message(body), UsageReport)):
        try:
            verdicts.append(read(body))
        except InvalidMessage as error:
            verdicts.append(error.faults)
        except UnknownType:
            verdicts.append(UnknownType)
    assert verdicts[0] == verdicts[1]


@given(st.binary(max_size=200))
def test_any_bytes(body: bytes) -> None:
    _accepts_or_refuses(body)


@given(JSON)
def test_any_json(value: Any) -> None:
    _accepts_or_refuses(json.dumps(value).encode())


@given(st.dictionaries(st.sampled_from(MEMBERS), JSON), st.lists(JSON, max_size=3))
def test_any_json_in_the_members_of_a_report(members: dict[str, Any], rows: list[Any]) -> None:
    _accepts_or_refuses(json.dumps({"usage": rows, **members, "type": "report.meter"}).encode())


@given(
    st.fixed_dictionaries(
        {},
        optional={
            "subject": JSON,
            "value": JSON,
            "groupBy": JSON,
            "windowStart": JSON,
            "windowEnd": JSON,
        },
    )
)
def test_any_json_in_a_row(row: dict[str, Any]) -> None:
    whole = {
        "subject": "s",
        "value": 1,
        "windowStart": "2023-01-01T00:00:00Z",
        "windowEnd": "2023-01-02T00:00:00Z",
    }
    _accepts_or_refuses(
        json.dumps(
            {"type": "report.meter", "usage": [whole | row], "meter": {"slug": "m"}}
        ).encode()
    )


TEXT = st.text(st.characters(exclude_characters="\0", codec="utf-8"), min_size=1, max_size=30)
VALUES = st.decimals(
    min_value=Decimal("-9e29"), max_value=Decimal("9e29"), allow_nan=False, allow_infinity=False
).filter(lambda value: value.as_tuple().exponent in range(-400, 31))
ZONES = st.integers(-23 * 60, 23 * 60).map(lambda minutes: timedelta(minutes=minutes))
TIMES = st.datetimes(datetime(1971, 1, 1), datetime(2990, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(
    st.lists(
        st.tuples(TEXT, st.dictionaries(TEXT, TEXT, max_size=3), VALUES, TIMES, ZONES),
        max_size=6,
        unique_by=lambda row: (row[0], tuple(sorted(row[1].items())), row[3]),
    )
)
def test_a_valid_report_comes_back_whole(
    rows: list[tuple[str, dict[str, str], Decimal, datetime, timedelta]],
) -> None:
    usage = []
    for subject, group_by, value, start, zone in rows:
        local = start + zone
        minutes = abs(zone) // timedelta(minutes=1)
        sign = "-" if zone < timedelta(0) else "+"
        written = local.strftime("%Y-%m-%dT%H:%M:%S.%f")
        usage.append(
            {
                "subject": subject,
                "groupBy": group_by,
                "value": str(value),
                "windowStart": f"{written}{sign}{minutes // 60:02}:{minutes % 60:02}",
                "windowEnd": (start + timedelta(hours=1)).isoformat(),
            }
        )
    body = json.dumps({"type": "report.meter", "usage": usage, "meter": {"slug": "m"}})
    for row in rows:  # as a bare number, as OpenMeter sends it
        body = body.replace(f'"value": "{row[2]}"', f'"value": {row[2]}')
    report = parse_message(body.encode())
    assert isinstance(report, UsageReport)
    assert [
        (w.subject, dict(w.group_by), str(w.value), w.window_start) for w in report.windows
    ] == [(subject, groups, str(value), start) for subject, groups, value, start, _ in rows]
