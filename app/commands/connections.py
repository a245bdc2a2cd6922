"""Connections that cost little however they behave: uvicorn's protocol, within bounds.

uvicorn lets a client take for ever over a request, or over reading its answer; it holds a head of
any length, reads on when a body was refused, and answers what is no HTTP by plain text. Here

- a request arrives in whole within `seconds` of its first byte (else 408), and so is an answer
  taken;
- a head has at most `head_bytes` (else 431), and a body that was answered before its end is read
  on for at most `ignored_bytes`, and `linger` seconds later cut;
- there are at most `connections`: one more, and of those to which no answer is due the one goes
  that has not moved on for the longest time. A request has no claim before it is there in whole:
  forged heads would keep everybody out. Where all wait for answers, the new one is refused (503);
- no answer that is due is replaced by such a refusal: it comes after them.
"""

import asyncio
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from typing import Any, cast

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from app.commands.gathering import GatheringTransport
from app.errors import Overloaded
from app.observability.refusals import RefusalLog
from app.routers.problems import refusal

_END_OF_HEAD = b"\r\n\r\n"


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """Bounds of one server's connections. Numbers, bytes, seconds."""

    connections: int = 1_000
    # Svix's headers are under 2 KiB, and so is what proxies add. What comes in one piece with the
    # rest of a head (256 KiB at most) is taken all the same.
    head_bytes: int = 64 * 1024
    ignored_bytes: int = 1024 * 1024
    linger: float = 5.0
    # For 16 MiB of mappings over a slow line. A webhook's body has a limit of its own (10 s).
    seconds: float = 30.0


class Connections:
    """What the connections of one server share."""

    def __init__(self, limits: ConnectionLimits) -> None:
        self.limits = limits
        self.refusals = RefusalLog()
        self.without_claim: dict[BoundedConnection, None] = {}
        """Those that go first. To the end moves who has sent a head, or got an answer."""

    def protocol(self) -> type[asyncio.Protocol]:
        """What uvicorn takes for a protocol class."""
        return cast("type[asyncio.Protocol]", partial(BoundedConnection, shared=self))


class BoundedConnection(HttpToolsProtocol):
    """One connection."""

    def __init__(self, *given: Any, shared: Connections, **named: Any) -> None:
        super().__init__(*given, **named)
        self._shared = shared
        self._limits = shared.limits
        self._deadline: asyncio.TimerHandle | None = None
        """Runs from a request's first byte to its last, if they do not come at once."""
        self._arriving = False
        """Whether a request has begun, and has not come to its end."""
        self._in_head = False
        self._head_bytes = 0
        self._ignored_bytes = 0
        self._ends_in_read = False
        """Whether a request came to its end in what is being read now."""
        self._body_bytes_in_read = 0
        self._refused: Exception | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Take the connection, or refuse it where there is no room."""
        super().connection_made(GatheringTransport(transport, self.loop, self._watch_reader))
        waiting = self._shared.without_claim
        if len(self.connections) > self._limits.connections:
            if not waiting:
                self._shared.refusals.note("connection_refused")
                self.transport.write(_raw(Overloaded()))
                self.transport.close()
                return
            self._shared.refusals.note("connection_closed_for_another")
            first = next(iter(waiting))
            del waiting[first]
            first.transport.abort()
        waiting[self] = None
        self._wait_for_request()

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget it."""
        self._shared.without_claim.pop(self, None)
        self._end_deadline()
        self._unset_keepalive_if_required()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bytes of a request, of several, or of none."""
        if self._refused is not None:  # read on for what is being answered
            self.flow.pause_reading()
            return
        self._ends_in_read = False
        self._body_bytes_in_read = 0
        super().data_received(data)
        if self.transport.is_closing() or self._refused is not None:
            return
        # Only here, and not at a first byte: most requests are there in whole by now.
        if self._arriving and self._deadline is None:
            self._deadline = self.loop.call_later(self._limits.seconds, self._too_slow)
        if self._in_head:
            self._head_bytes += len(data) - self._bytes_before_head(data)
            if self._head_bytes > self._limits.head_bytes:
                self._refuse(
                    HTTPException(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE), "head_too_large"
                )
        elif self._idle and self._arriving:
            self._ignored_bytes += len(data)
            if self._ignored_bytes > self._limits.ignored_bytes:
                self._linger()
        elif self._idle and self.timeout_keep_alive_task is None:
            self._wait_for_request()  # it was an empty line, which is no request

    def _bytes_before_head(self, data: bytes) -> int:
        """At most those of `data` that belong to the requests before the head that is arriving.

        The parser does not tell where a request begins: after all bodies, and after what looks
        like the end of a head.
        """
        if not self._ends_in_read:
            return 0
        return max(self._body_bytes_in_read, data.rfind(_END_OF_HEAD) + len(_END_OF_HEAD))

    @property
    def _idle(self) -> bool:
        """Whether every request has its answer, although some may not have come to their end."""
        return self.cycle is None or self.cycle.response_complete

    @property
    def _due(self) -> bool:
        """Whether an answer is under way, or due to a request that is there in whole."""
        cycle = self.cycle
        if cycle is None or cycle.response_complete:
            return False
        return bool(self.pipeline) or not cycle.more_body or cycle.response_started

    def _take_place(self) -> None:
        waiting = self._shared.without_claim
        waiting.pop(self, None)
        if not self._due:
            waiting[self] = None

    def on_message_begin(self) -> None:
        """The first byte of a request."""
        self._arriving = True
        self._in_head = True
        self._head_bytes = 0
        self._ignored_bytes = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """A head is there."""
        self._in_head = False
        super().on_headers_complete()
        self._take_place()

    def on_body(self, body: bytes) -> None:
        """A part of a body."""
        self._body_bytes_in_read += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is there in whole."""
        self._ends_in_read = True
        self._arriving = False
        self._end_deadline()
        super().on_message_complete()
        self._take_place()

    def on_response_complete(self) -> None:
        """An answer is written, as far as we are concerned."""
        super().on_response_complete()
        if self.transport.is_closing():
            return
        self._take_place()
        if self._refused is not None and not self._due:
            self._write_refusal(self._refused)

    def send_400_response(self, msg: str) -> None:
        """Answer what is no HTTP; uvicorn's own text says the same as ours."""
        self._refuse(HTTPException(HTTPStatus.BAD_REQUEST, msg), "no_http")

    def _wait_for_request(self) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(
            self.timeout_keep_alive, self.timeout_keep_alive_handler
        )

    def _end_deadline(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _too_slow(self) -> None:
        if self.flow.read_paused:  # by us: it cannot send
            self._deadline = self.loop.call_later(self._limits.seconds, self._too_slow)
        elif self._in_head or not self.cycle.response_started:
            self._refuse(HTTPException(HTTPStatus.REQUEST_TIMEOUT), "request_too_slow")
        else:
            self.transport.abort()  # it has its answer already

    def _watch_reader(self) -> None:
        self.loop.call_later(self._limits.seconds, self._drop_slow_reader)

    def _drop_slow_reader(self) -> None:
        if self.transport.get_write_buffer_size():
            self.transport.abort()

    def _refuse(self, error: Exception, event: str) -> None:
        """Answer once more, without a request to be answered, after all that is due; then no more.

        Whatever is sent from now on is not looked at.
        """
        self._shared.refusals.note(event)
        self._end_deadline()
        self._refused = error
        if self._due:
            self.flow.pause_reading()
        else:
            self._write_refusal(error)

    def _write_refusal(self, error: Exception) -> None:
        if self.cycle is not None:  # nothing of what is being made goes after it
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.write(_raw(error))
        self.transport.write_eof()
        self._linger()

    def _linger(self) -> None:
        """Read nothing more, and cut the connection later: at once, the answer would be lost."""
        self.flow.pause_reading()
        self._shared.without_claim[self] = None
        self.loop.call_later(self._limits.linger, self.transport.abort)


def _raw(error: Exception) -> bytes:
    answer = refusal(error)
    assert answer is not None  # noqa: S101 - of the kinds that it knows
    headers = b"".join(b"%s: %s\r\n" % line for line in answer.raw_headers)
    return b"%s%sconnection: close\r\n\r\n%s" % (
        STATUS_LINE[answer.status_code],
        headers,
        answer.body,
    )
