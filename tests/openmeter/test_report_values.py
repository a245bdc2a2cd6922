"""Values and times: kept digit by digit and to the microsecond, or refused by path."""

import json
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from app.openmeter.report import UsageReport, parse_message
from tests.openmeter.reports import DAY_1, fault_paths, faults, message, parse, row


@pytest.mark.parametrize(
    "written",
    [
        "0",
        "-0",
        "500",
        "0.1",
        "0.30000000000000004",
        "1e3",
        "1E+3",
        "1.50",
        "-7.25",
        "12345678901234567890.123",
        "123456789012345678901234567890",
        "-" + "9" * 30,
        "0e29",
        "1" * 30 + "." + "1" * 400,
        "5e-324",
        "4.9406564584124654e-324",
        "0." + "0" * 399 + "1",
    ],
)
@pytest.mark.parametrize("quoted", [False, True])
def test_values_are_kept_as_written(written: str, quoted: bool) -> None:
    raw = json.dumps(message(row(value="@"))).replace('"@"', f'"{written}"' if quoted else written)
    found = parse_message(raw.encode())
    assert isinstance(found, UsageReport)
    assert str(found.windows[0].value) == str(Decimal(written))


@pytest.mark.parametrize(
    "written",
    [
        *("true", "false", "null", "[]", "{}", "[1]"),
        *("NaN", "Infinity", "-Infinity", '"NaN"', '"nan"', '"sNaN"', '"Infinity"', '"-inf"'),
        *('""', '" 5"', '"5 "', '"5\\n"', '"1_000"', '"+5"', '".5"', '"5."', '"05"', '"0x10"'),
        *('"1,5"', '"\u0661"', '"\uff15"', '"5\\u0000"', '"\\ud800"', '"five"', '"1e"', '"--1"'),
        *("1e30", "-1e30", "1e999", "1e99999999999999999999", '"1e99999999999999999999"'),
        *("0e30", "9" * 512, "9" * 513, "0." + "0" * 400 + "1"),
        *("1e-401", "1e-99999999999999999999", "0e31", "0e99999999"),
        *("9" * 31, "9" * 5000, "0." + "1" * 451, '"' + "9" * 5000 + '"'),
    ],
)
def test_values_that_are_no_quantity(written: str) -> None:
    raw = json.dumps(message(row(value="@"))).replace('"@"', written)
    assert [path for path, _ in faults(raw.encode())] == ["usage[0].value"]


@pytest.mark.parametrize(
    ("written", "understood"),
    [
        ("2023-01-01T00:00:00Z", DAY_1),
        ("2023-01-01t00:00:00z", DAY_1),
        ("2023-01-01T05:30:00+05:30", DAY_1),
        ("2022-12-31T16:00:00-08:00", DAY_1),
        ("2023-01-01T00:00:00-00:00", DAY_1),
        ("2023-01-01T00:00:00.25Z", DAY_1.replace(microsecond=250_000)),
        ("2023-01-01T00:00:00.123456789Z", DAY_1.replace(microsecond=123_456)),
    ],
)
def test_times_become_utc(written: str, understood: datetime) -> None:
    start = parse(message(row(windowStart=written))).windows[0].window_start
    assert start == understood
    assert start.tzinfo is UTC


@pytest.mark.parametrize(
    "wrong",
    [
        *("2023-01-01T00:00:00", "2023-01-01", "2023-01-01 00:00:00Z", "20230101T000000Z"),
        *("2023-01-01T00:00Z", "2023-01-01T00:00:00+0530", "2023-W01-1T00:00:00Z", "1672531200"),
        *("2023-02-29T00:00:00Z", "2023-01-01T24:00:00Z", "2023-01-01T00:00:60Z", "", "now"),
        *("2023-01-01T00:00:00+24:00", "0001-01-01T00:00:00+05:00", "0001-01-01T00:00:00Z"),
        *("9999-12-31T23:59:59-05:00", "1969-12-31T23:59:59Z", "3000-01-01T00:00:00Z"),
        *("2023-01-01T00:00:00.Z", "2023-01-01T00:00:00,5Z", "2023-01-01T00:00:00Z\n"),
        *("\u0662023-01-01T00:00:00Z", "2023-01-01T00:00:00.1234567890Z", "x" * 5000),
        *(1672531200, 1672531200.5, True, None, [], {}),
    ],
)
def test_times_that_are_none(wrong: object) -> None:
    assert fault_paths(message(row(windowStart=wrong))) == ["usage[0].windowStart"]
