"""What `send` and the demo send is what the service reads."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.commands.outgoing import OutgoingWindow, message_id, report_body, signed_headers
from app.openmeter.message_time import message_time
from app.openmeter.report import UsageReport, parse_message
from app.openmeter.signature import SignatureInvalid, WebhookVerifier
from tests.commands.program import SECRET

START = datetime(2026, 3, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)

values = st.decimals(
    min_value=Decimal("-1e20"), max_value=Decimal("1e20"), allow_nan=False, allow_infinity=False
)
names = st.text(st.characters(codec="ascii", categories=["L", "N"]), min_size=1, max_size=20)
groups = st.dictionaries(names, names, max_size=3)


@given(st.lists(st.tuples(values, groups), min_size=1, max_size=5), names)
def test_a_report_comes_back_as_it_was_meant(
    rows: list[tuple[Decimal, dict[str, str]]], subject: str
) -> None:
    windows = [
        OutgoingWindow(value, START + n * HOUR, START + (n + 1) * HOUR, group_by)
        for n, (value, group_by) in enumerate(rows)
    ]
    body = report_body(meter="api_calls", subject=subject, windows=windows, aggregation="COUNT")
    report = parse_message(body)
    assert isinstance(report, UsageReport)
    assert (report.meter.slug, report.meter.aggregation) == ("api_calls", "COUNT")
    for sent, read in zip(windows, report.windows, strict=True):
        assert read.subject == subject
        assert read.value == sent.value
        assert (read.window_start, read.window_end) == (sent.window_start, sent.window_end)
        assert dict(read.group_by) == sent.group_by
        assert not read.subject_contradicts


@pytest.mark.parametrize("written", ["0.30000000000000004", "1E+3", "1.10", "-7", "0"])
def test_values_go_out_digit_by_digit(written: str) -> None:
    window = OutgoingWindow(Decimal(written), START, START + HOUR)
    body = report_body(meter="m", subject="s", windows=[window])
    assert f'"value": {written}'.encode() in body


def test_times_go_out_in_utc() -> None:
    start = datetime.fromisoformat("2026-03-01T01:30:00+01:30")
    window = OutgoingWindow(Decimal(1), start, start + HOUR)
    body = report_body(meter="m", subject="s", windows=[window])
    assert b'"windowStart": "2026-03-01T00:00:00Z"' in body


@given(
    st.datetimes(
        min_value=datetime(2020, 1, 1),  # noqa: DTZ001 - hypothesis adds the zone
        max_value=datetime(2080, 1, 1),  # noqa: DTZ001
        timezones=st.just(UTC),
    )
)
def test_a_message_id_holds_its_time(at: datetime) -> None:
    found = message_time(message_id(at.timestamp()), at)
    assert timedelta(0) <= at - found <= timedelta(milliseconds=5)


def test_message_ids_are_new_each_time() -> None:
    assert len({message_id(1_700_000_000.0) for _ in range(100)}) == 100


def test_a_signature_is_accepted_for_its_body_only() -> None:
    body, svix_id = b'{"type":"report.meter"}', message_id()
    headers = signed_headers(SECRET, svix_id, body)
    raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
    verifier = WebhookVerifier([SECRET])
    assert verifier.verify(body, raw).message_id == svix_id
    with pytest.raises(SignatureInvalid):
        verifier.verify(body + b" ", raw)
