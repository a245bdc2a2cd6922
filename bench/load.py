"""A sender of webhooks in a process of its own, so cheap that it is not what is measured.

Requests are signed before the clock starts, by svix itself; then they are only written and their
answers read, by bare protocols on uvloop: no HTTP client stands in between.

    python -m bench.load PLAN      says {"ready": …}, waits for a line, says the result
"""

import asyncio
import gc
import json
import resource
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import uvloop
from svix.webhooks import Webhook

from app.commands.outgoing import message_id
from bench.arithmetic import percentile

_STEP = 0.004  # seconds: the times inside message ids have such steps
_END = b"\r\n\r\n"
_LENGTH = b"content-length:"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be sent. `rate` is requests a second; 0: as fast as they are answered.

    The bodies of the file are sent in turns, each time under a new id, until there were `count`, or
    for `seconds` after `warm_up`, whose requests are not in the result.
    """

    url: str
    secret: str
    bodies: str
    connections: int = 64
    count: int = 0
    seconds: float = 0.0
    warm_up: float = 0.0
    rate: float = 0.0
    tells_times: bool = False


@dataclass(frozen=True, slots=True)
class Request:
    """A request that is ready to be written."""

    svix_id: str
    head: bytes
    body: bytes


@dataclass(frozen=True, slots=True)
class Result:
    """What came of it. Times in seconds; `began` by the wall clock, `sent` by id if asked for."""

    statuses: dict[str, int]
    seconds: float
    began: float
    p50: float
    p99: float
    cpu: float
    sent: dict[str, float]

    @property
    def answered(self) -> int:
        """Webhooks that were answered."""
        return sum(self.statuses.values())


def prepare(plan: Plan, bodies: list[bytes], many: int) -> list[Request]:
    """Sign so many requests. Their messages were written one step after the other, until now."""
    address = urlsplit(plan.url)
    signer = Webhook(plan.secret)
    now = datetime.now(UTC)
    first = now.timestamp() - many * _STEP
    requests = []
    for number in range(many):
        body = bodies[number % len(bodies)]
        svix_id = message_id(first + number * _STEP)
        signature = signer.sign(svix_id, now, body.decode())
        head = (
            f"POST /webhooks/openmeter HTTP/1.1\r\nHost: {address.netloc}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n"
            f"svix-id: {svix_id}\r\nsvix-timestamp: {int(now.timestamp())}\r\n"
            f"svix-signature: {signature}\r\n\r\n"
        )
        requests.append(Request(svix_id, head.encode(), body))
    return requests


class Sender(asyncio.Protocol):
    """One connection: one request at a time, and the time each took."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._transport: asyncio.Transport | None = None
        self._read = b""
        self._wrote = 0.0
        self.request: Request | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.Transport, transport)  # uvloop's is no subclass

    def send(self, request: Request) -> None:
        """Write a request."""
        assert self._transport is not None  # noqa: S101 - connected before it is used
        self.request = request
        self._wrote = time.perf_counter()
        self._run.note(request)
        self._transport.write(request.head + request.body)

    def data_received(self, data: bytes) -> None:
        self._read = self._read + data if self._read else data
        end = self._read.find(_END)
        if end < 0:
            return
        head = self._read[:end].lower()
        at = head.find(_LENGTH)
        length = int(head[at + len(_LENGTH) :].split(b"\r\n", 1)[0]) if at >= 0 else 0
        if len(self._read) < end + len(_END) + length:
            return
        self._read = b""
        self.request = None
        self._run.answered(self, head[9:12], time.perf_counter() - self._wrote)

    def connection_lost(self, exc: Exception | None) -> None:
        if self.request is not None:
            self.request = None
            self._run.lost()

    def close(self) -> None:
        """End the connection."""
        if self._transport is not None:
            self._transport.close()


class Run:
    """All connections together, until the plan is done."""

    def __init__(self, plan: Plan, requests: list[Request]) -> None:
        self._plan = plan
        self._waiting: Iterator[Request] = iter(requests)
        self._idle: deque[Sender] = deque()
        self._due: deque[Request] = deque()
        self._in_flight = 0
        self._stopped = False
        self._done = asyncio.Event()
        self._statuses: Counter[bytes] = Counter()
        self._latencies: list[float] = []
        self._sent: dict[str, float] = {}
        self._counting = True

    def note(self, request: Request) -> None:
        """A request is being written."""
        self._in_flight += 1
        if self._plan.tells_times:
            self._sent[request.svix_id] = time.time()

    def answered(self, sender: Sender, status: bytes, seconds: float) -> None:
        """An answer came."""
        self._in_flight -= 1
        if self._counting:
            self._statuses[status] += 1
            self._latencies.append(seconds)
        if self._plan.rate:
            self._idle.append(sender)
            self._send_due()
        else:
            self._send_next(sender)
        self._look()

    def lost(self) -> None:
        """A connection was lost under a request: the run says nothing any more, and ends."""
        self._in_flight -= 1
        self._statuses[b"lost"] += 1
        self._stopped = True
        self._look()

    def _send_next(self, sender: Sender) -> None:
        if self._stopped:
            return
        request = next(self._waiting, None)
        if request is None:
            self._stopped = True
        else:
            sender.send(request)

    def _send_due(self) -> None:
        while self._due and self._idle:
            self._idle.popleft().send(self._due.popleft())

    def _look(self) -> None:
        if self._stopped and not self._in_flight and not self._due:
            self._done.set()

    async def carry_out(self, senders: list[Sender]) -> Result:
        """Send, and wait for the last answer."""
        plan = self._plan
        used = _cpu()
        self._counting = not plan.warm_up
        began, start = time.time(), time.perf_counter()
        if plan.rate:
            self._idle.extend(senders)
            await self._send_at_rate(start)
        else:
            for sender in senders:
                self._send_next(sender)
        if plan.warm_up:
            await asyncio.sleep(plan.warm_up)
            used, began, start = _cpu(), time.time(), time.perf_counter()
            self._counting = True
        if plan.seconds and not plan.rate:
            await asyncio.sleep(plan.seconds)
            if self._stopped:
                raise SystemExit("all requests that were signed are sent: sign more")
            self._counting = False
            self._stopped = True
        seconds = time.perf_counter() - start
        cpu = _cpu() - used
        self._look()
        await self._done.wait()
        if not plan.seconds or plan.rate:
            seconds, cpu = time.perf_counter() - start, _cpu() - used
        return Result(
            {status.decode(): count for status, count in self._statuses.items()},
            seconds,
            began,
            self._latency(0.50),
            self._latency(0.99),
            cpu,
            self._sent,
        )

    def _latency(self, share: float) -> float:
        return percentile(self._latencies, share) if self._latencies else float("nan")

    async def _send_at_rate(self, start: float) -> None:
        """Each request at its time, whether the ones before were answered or not."""
        for number, request in enumerate(self._waiting):
            wait = start + number / self._plan.rate - time.perf_counter()
            if wait > 0:
                await asyncio.sleep(wait)
            self._due.append(request)
            self._send_due()
        self._stopped = True


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _say(message: Any) -> None:
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


# More than any server here answers; they are signed ahead.
_MOST_PER_SECOND = 16_000


async def _main(plan: Plan, bodies: list[bytes]) -> None:
    many = plan.count or int((plan.seconds + plan.warm_up) * (plan.rate or _MOST_PER_SECOND))
    requests = prepare(plan, bodies, many)
    run = Run(plan, requests)
    address = urlsplit(plan.url)
    loop = asyncio.get_running_loop()
    senders = []
    for _ in range(plan.connections):
        _, sender = await loop.create_connection(
            lambda: Sender(run), address.hostname or "", address.port or 80
        )
        senders.append(sender)
    gc.collect()
    gc.freeze()
    gc.disable()  # what is kept is a number for each request
    _say({"ready": many})
    if not await loop.run_in_executor(None, sys.stdin.readline):
        return  # the bench has ended
    result = await run.carry_out(senders)
    _say(asdict(result))
    for sender in senders:
        sender.close()


if __name__ == "__main__":
    given = Plan(**json.loads(Path(sys.argv[1]).read_text()))
    uvloop.run(_main(given, Path(given.bodies).read_bytes().split(b"\n")))
