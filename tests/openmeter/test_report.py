"""Reading reports: what is understood, and what is refused, by path."""

import json
from decimal import Decimal
from typing import Any

import pytest

from app.openmeter.report import (
    Meter,
    OtherMessage,
    ReportedWindow,
    UnknownType,
    UsageReport,
    parse_message,
)
from tests.openmeter.reports import DAY_1, DAY_2, DROP, fault_paths, faults, message, parse, row


def test_the_whole_report() -> None:
    assert parse(message(row(), row(value=10_000, groupBy={"model": "a", "b": None}))) == (
        UsageReport(
            "my_usage_report",
            Meter("ai_tokens", "01H98E5HHJ8K0AYXQKM3EKAVYG", "SUM"),
            (
                ReportedWindow(
                    "customer-1", (("model", "gpt-4"),), Decimal(500), DAY_1, DAY_2, False
                ),
                ReportedWindow(
                    "customer-1", (("b", ""), ("model", "a")), Decimal(10_000), DAY_1, DAY_2, False
                ),
            ),
        )
    )


def test_what_may_be_absent() -> None:
    found = parse(message(row(groupBy=DROP), report=DROP, query=DROP, meter={"slug": "m"}))
    assert found.report_slug is None
    assert found.meter == Meter("m", None, "UNKNOWN")
    assert found.windows[0].group_by == ()
    assert parse(message()).windows == ()


def test_unknown_members_are_tolerated() -> None:
    strange = {"x": [10**600, {"y": None}], "createdAt": 1}
    whole = message(row(**strange), **strange, meter={"slug": "m", "windowSize": "MINUTE"})
    assert len(parse(whole | {"report": {"slug": "s", "metadata": {}}}).windows) == 1


@pytest.mark.parametrize("end", ["2023-01-01T00:00:00Z", "2022-12-31T00:00:00Z"])
def test_a_window_must_end_after_it_starts(end: str) -> None:
    assert fault_paths(message(row(windowEnd=end))) == ["usage[0].windowEnd"]


@pytest.mark.parametrize(
    ("of_row", "of_query", "subject", "contradicts"),
    [
        ("a", "a", "a", False),
        ("a", None, "a", False),
        ("a", "", "a", False),
        (None, "a", "a", False),
        ("", "a", "a", False),
        (DROP, "a", "a", False),
        ("a", "b", "a", True),
        ("a", "A", "a", True),
        ("\u00e9" * 512, None, "\u00e9" * 512, False),
    ],
)
def test_whose_usage_it_is(
    of_row: object, of_query: object, subject: str, contradicts: bool
) -> None:
    window = parse(message(row(subject=of_row), query={"subject": of_query})).windows[0]
    assert (window.subject, window.subject_contradicts) == (subject, contradicts)


def test_the_same_fact_twice_is_one_window() -> None:
    again = row(value="5e2", windowStart="2023-01-01T01:00:00+01:00", groupBy={"model": "gpt-4"})
    assert len(parse(message(row(), again)).windows) == 1


def test_nobodys_row_and_the_querys_own_are_the_same_fact() -> None:
    assert len(parse(message(row(), row(subject=None))).windows) == 1


def test_two_values_for_one_fact_are_refused_by_both_paths() -> None:
    assert faults(json.dumps(message(row(), row(subject="b"), row(value=501))).encode()) == (
        ("usage[2]", "contradicts usage[0]: another value"),
    )


MARKER = "Zq7Marker"
M = {"slug": "m"}
INVALID: dict[str, tuple[object, list[str]]] = {
    "a list": ([MARKER], ["$"]),
    "a string": (MARKER, ["$"]),
    "null": (None, ["$"]),
    "no type": (message(row(), type=DROP), ["type"]),
    "type null": (message(row(), type=None), ["type"]),
    "type a list": (message(row(), type=[MARKER]), ["type"]),
    "no usage": (message(usage=DROP), ["usage"]),
    "usage null": (message(usage=None), ["usage"]),
    "usage an object": (message(usage={MARKER: 1}), ["usage"]),
    "usage a string": (message(usage=MARKER), ["usage"]),
    "row a string": (message(usage=[MARKER]), ["usage[0]"]),
    "row null": (message(row(), usage=[None]), ["usage[0]"]),
    "no meter": (message(row(), meter=DROP), ["meter"]),
    "meter null": (message(row(), meter=None), ["meter"]),
    "meter a string": (message(row(), meter=MARKER), ["meter"]),
    "no slug": (message(row(), meter={}), ["meter.slug"]),
    "slug with capitals": (message(row(), meter={"slug": MARKER}), ["meter.slug"]),
    "slug with a line end": (message(row(), meter={"slug": "m\n"}), ["meter.slug"]),
    "slug with two underscores": (message(row(), meter={"slug": "a__b"}), ["meter.slug"]),
    "slug too long": (message(row(), meter={"slug": "m" * 65}), ["meter.slug"]),
    "slug empty": (message(row(), meter={"slug": ""}), ["meter.slug"]),
    "meter id a number": (message(row(), meter=M | {"id": 1}), ["meter.id"]),
    "meter id too long": (message(row(), meter=M | {"id": MARKER * 30}), ["meter.id"]),
    "aggregation a list": (message(row(), meter=M | {"aggregation": []}), ["meter.aggregation"]),
    "aggregation too long": (
        message(row(), meter=M | {"aggregation": MARKER * 9}),
        ["meter.aggregation"],
    ),
    "report a string": (message(row(), report=MARKER), ["report"]),
    "report slug NUL": (message(row(), report={"slug": f"{MARKER}\0"}), ["report.slug"]),
    "query a list": (message(row(), query=[MARKER]), ["query"]),
    "query subject a list": (message(row(), query={"subject": [MARKER]}), ["query.subject"]),
    "no subject anywhere": (message(row(subject=None), query={}), ["usage[0].subject"]),
    "empty subjects": (message(row(subject=""), query={"subject": ""}), ["usage[0].subject"]),
    "subject a number": (message(row(subject=7)), ["usage[0].subject"]),
    "subject too long": (message(row(subject="s" * 513)), ["usage[0].subject"]),
    "subject with NUL": (message(row(subject=f"{MARKER}\0")), ["usage[0].subject"]),
    "subject a lone surrogate": (message(row(subject=f"{MARKER}\ud800")), ["usage[0].subject"]),
    "no value": (message(row(value=DROP)), ["usage[0].value"]),
    "no start": (message(row(windowStart=DROP)), ["usage[0].windowStart"]),
    "no end": (message(row(windowEnd=DROP)), ["usage[0].windowEnd"]),
    "group a list": (message(row(groupBy=[MARKER])), ["usage[0].groupBy"]),
    "group value a number": (message(row(groupBy={MARKER: 1})), ["usage[0].groupBy"]),
    "group value an object": (message(row(groupBy={MARKER: {}})), ["usage[0].groupBy"]),
    "group value NUL": (message(row(groupBy={"g": f"{MARKER}\0"})), ["usage[0].groupBy"]),
    "group value surrogate": (message(row(groupBy={"g": "\udfff"})), ["usage[0].groupBy"]),
    "group name NUL": (message(row(groupBy={f"{MARKER}\0": "x"})), ["usage[0].groupBy"]),
    "group name surrogate": (message(row(groupBy={"\ud800": "x"})), ["usage[0].groupBy"]),
    "group name too long": (message(row(groupBy={MARKER * 30: "x"})), ["usage[0].groupBy"]),
    "group value too long": (message(row(groupBy={"g": "x" * 4097})), ["usage[0].groupBy"]),
    "too many groups": (
        message(row(groupBy={f"{MARKER}{n}": "" for n in range(65)})),
        ["usage[0].groupBy"],
    ),
    "several": (
        message(row(), row(value=MARKER, windowEnd=1), meter=DROP),
        ["usage[1].value", "usage[1].windowEnd", "meter"],
    ),
}


@pytest.mark.parametrize(("whole", "paths"), INVALID.values(), ids=INVALID)
def test_invalid(whole: object, paths: list[str]) -> None:
    found = faults(json.dumps(whole).encode())
    assert [path for path, _ in found] == paths
    assert MARKER not in repr(found)


NOT_JSON = {
    "nothing": b"",
    "spaces": b"  ",
    "text": b"Zq7Marker",
    "cut off": b'{"type":"report.meter"',
    "two values": b'{"type":"report.meter"}{}',
    "single quotes": b"{'type':'report.meter'}",
    "comment": b'{"type":"report.meter"/* */}',
    "trailing comma": b'{"type":"report.meter",}',
    "a number with a leading zero": b'{"type":"report.meter","x":01}',
    "a raw line end in a string": b'{"type":"report\n.meter"}',
    "byte order mark": b'\xef\xbb\xbf{"type":"report.meter"}',
    "UTF-16": '{"type":"report.meter"}'.encode("utf-16"),
    "not UTF-8": b'{"type":"\xff"}',
    "a surrogate in UTF-8": b'{"type":"\xed\xa0\x80"}',
    "NUL": b"\0",
    "the type twice": b'{"type":"invoice.created","type":"report.meter"}',
    "a member twice, deep": b'{"type":"report.meter","x":[{"a":1,"a":1}]}',
    "arrays to the depth": b"[" * 1_000_000,
    "objects to the depth": b'{"a":' * 200_000,
    "closed arrays to the depth": b"[" * 500_000 + b"]" * 500_000,
}


@pytest.mark.parametrize("body", NOT_JSON.values(), ids=NOT_JSON)
def test_not_json(body: bytes) -> None:
    found = faults(body)
    assert [path for path, _ in found] == ["$"]
    assert MARKER not in repr(found)


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_a_constant_that_is_no_json_is_refused_where_nobody_reads(constant: str) -> None:
    raw = json.dumps(message(row(), metadata="@")).replace('"@"', constant).encode()
    assert [path for path, _ in faults(raw)] == ["$"]


def test_the_words_nan_and_infinity_are_only_words_in_a_string() -> None:
    window = parse(message(row(subject="NaN", groupBy={"model": "Infinity"}))).windows[0]
    assert (window.subject, window.group_by) == ("NaN", (("model", "Infinity"),))


def test_ten_thousand_windows_and_no_more() -> None:
    rows = [row(subject=str(number)) for number in range(10_001)]
    assert len(parse(message(*rows[:-1])).windows) == 10_000
    assert faults(json.dumps(message(*rows)).encode()) == (
        ("usage", "has more than 10000 entries"),
    )


@pytest.mark.parametrize(
    "rows", [[row(value="x")] * 500, [row(windowEnd=row()["windowStart"])] * 500]
)
def test_faults_are_bounded(rows: list[dict[str, Any]]) -> None:
    assert len(faults(json.dumps(message(*rows)).encode())) == 20


@pytest.mark.parametrize(
    "kind",
    [
        *("entitlements.balance.threshold", "entitlements.reset"),
        *("invoice.created", "invoice.updated", "invoice.paid"),
    ],
)
def test_the_other_products_messages(kind: str) -> None:
    assert parse_message(json.dumps({"id": "1", "type": kind, "data": {}}).encode()) == (
        OtherMessage(kind)
    )


@pytest.mark.parametrize(
    "kind",
    [
        *("", "report", "report.meter ", "REPORT.METER", "report.meter\n", "report.meters"),
        *("entitlements", "entitlements.", "invoice.", "invoice.\n", "invoices.created", "\ud800"),
        "invoice." + "x" * 65,
    ],
)
def test_types_that_nobody_announced(kind: str) -> None:
    with pytest.raises(UnknownType):
        parse_message(json.dumps({"type": kind}).encode())


@pytest.mark.parametrize(
    ("sent", "understood"),
    [("sum", "SUM"), ("MEDIAN", "MEDIAN"), ("", "UNKNOWN"), (None, "UNKNOWN")],
)
def test_aggregation(sent: str | None, understood: str) -> None:
    assert parse(message(row(), meter={"slug": "m", "aggregation": sent})).meter.aggregation == (
        understood
    )
