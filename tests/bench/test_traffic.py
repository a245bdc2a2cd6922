"""What is sent: windows that differ, in one period, the same every time; and a sender's ears."""

import asyncio
import itertools
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from typing import cast

import pytest

from app.commands.outgoing import OutgoingWindow
from app.openmeter.report import UsageReport, parse_message
from bench.load import Plan, Request, Run, Sender, prepare
from bench.traffic import BEGAN, Message, began, reports, units

SINCE = datetime(2026, 1, 1, tzinfo=UTC)
SECRET = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz"


def _messages(*, subjects: int, each: int) -> list[Message]:
    return list(reports(subjects=subjects, each=each, since=SINCE))


def test_windows_of_a_subject_follow_each_other_without_a_gap() -> None:
    by_subject: defaultdict[str, list[OutgoingWindow]] = defaultdict(list)
    for message in _messages(subjects=3, each=4):
        by_subject[message.subject] += message.windows
    assert len(by_subject) == 3
    for windows in by_subject.values():
        assert windows[0].window_start == SINCE
        assert len(windows) == 32
        for one, other in itertools.pairwise(windows):
            assert one.window_end == other.window_start


def test_the_same_every_time() -> None:
    assert _messages(subjects=2, each=2) == _messages(subjects=2, each=2)


def test_a_body_is_one_line_that_the_program_reads_as_it_was_meant() -> None:
    message = _messages(subjects=1, each=1)[0]
    body = message.body()
    report = parse_message(body)
    assert b"\n" not in body
    assert isinstance(report, UsageReport)
    assert sum(window.value for window in report.windows) == units([message])["customer-00000"]


def test_what_is_sent_lies_in_the_open_period_of_the_shortest_month() -> None:
    assert timedelta(days=28) > BEGAN
    # The longest history that a figure makes, in windows of a minute, is over before today.
    assert began() + timedelta(minutes=27_500) < datetime.now(UTC)


class _Transport:
    """Keeps what is written."""

    def __init__(self) -> None:
        self.written: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.written.append(data)


def _sender(run: Run) -> tuple[Sender, _Transport]:
    sender, transport = Sender(run), _Transport()
    sender.connection_made(cast(asyncio.Transport, transport))
    return sender, transport


def _plan(**how: float) -> Plan:
    return Plan("http://127.0.0.1:1", SECRET, "", **how)  # type: ignore[arg-type]


@pytest.mark.parametrize("cut", range(1, 70, 7))
async def test_an_answer_in_pieces_is_one_answer(cut: int) -> None:
    requests = prepare(_plan(count=2), [b"{}"], 2)
    run = Run(_plan(count=2), requests)
    sender, transport = _sender(run)
    sending = asyncio.create_task(run.carry_out([sender]))
    await asyncio.sleep(0)
    answer = b'HTTP/1.1 202 Accepted\r\nContent-Length: 21\r\n\r\n{"status":"accepted"}'
    for expected in (1, 2):
        assert len(transport.written) == expected
        sender.data_received(answer[:cut])
        assert len(transport.written) == expected
        sender.data_received(answer[cut:])
    result = await asyncio.wait_for(sending, 5)
    assert result.statuses == {"202": 2}
    assert result.answered == 2


async def test_a_connection_that_is_lost_under_a_request_is_no_answer() -> None:
    run = Run(_plan(count=1), prepare(_plan(count=1), [b"{}"], 1))
    lost, _ = _sender(run)
    sending = asyncio.create_task(run.carry_out([lost]))
    await asyncio.sleep(0)
    lost.connection_lost(None)
    result = await asyncio.wait_for(sending, 5)
    assert result.statuses == {"lost": 1}


def test_requests_are_signed_one_by_one_and_written_in_order() -> None:
    requests = prepare(_plan(count=4), [b'{"a":1}', b'{"b":2}'], 4)
    assert [request.body for request in requests] == [b'{"a":1}', b'{"b":2}'] * 2
    assert len({request.svix_id for request in requests}) == 4
    assert [r.svix_id[:9] for r in requests] == sorted(r.svix_id[:9] for r in requests)
    assert all(isinstance(r, Request) and b"svix-signature: v1," in r.head for r in requests)
