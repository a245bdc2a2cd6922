"""Requests and answers as they go over the wire."""

import base64
import binascii
import json
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Protocol

from starlette.types import Message, Receive, Scope, Send

Headers = tuple[tuple[bytes, bytes], ...]
JsonObject = dict[str, object]

JSON = (b"content-type", b"application/json")
_CONNECTION = "sandbox_connection"


class Connection(Protocol):
    """A client's TCP connection, as far as the sandbox ends it rudely."""

    def drop(self, *, reset: bool) -> None:
        """End it at once: by FIN, or by RST."""
        ...

    def finish(self) -> None:
        """End it after what was written so far."""
        ...

    def write(self, data: bytes) -> None:
        """Send bytes as they are, if it still stands."""
        ...


class ConnectionCut(Exception):
    """The client gets no (whole) answer. In-process clients see this exception itself."""

    def __init__(self, *, reset: bool = False, partial: "Answer | None" = None) -> None:
        super().__init__("the sandbox cut the connection")
        self.reset = reset
        self.partial = partial


@dataclass(frozen=True, slots=True)
class Answer:
    """A complete HTTP answer."""

    status: int
    body: bytes
    headers: Headers = (JSON,)
    repeated_after_ms: int | None = None
    """Sent a second time, so much later, by something in between."""

    def adding(self, *headers: tuple[bytes, bytes]) -> "Answer":
        """The same answer with more headers."""
        return Answer(self.status, self.body, self.headers + headers, self.repeated_after_ms)

    @staticmethod
    def ok(document: JsonObject) -> "Answer":
        """200 with a JSON document."""
        return Answer(200, json.dumps(document).encode())

    async def send(self, send: Send) -> None:
        """Write it out whole."""
        await send(self.start())
        await send({"type": "http.response.body", "body": self.body})

    def start(self) -> Message:
        """The ASGI message with status and headers, the length of the whole body among them."""
        return {
            "type": "http.response.start",
            "status": self.status,
            "headers": [*self.headers, self._length],
        }

    def on_the_wire(self) -> bytes:
        """As HTTP/1.1 writes it."""
        known = {status.value: status.phrase for status in HTTPStatus}
        lines = [f"HTTP/1.1 {self.status} {known.get(self.status, '')}".encode()]
        lines += [name + b": " + value for name, value in (*self.headers, self._length)]
        return b"\r\n".join([*lines, b"", self.body])

    @property
    def _length(self) -> tuple[bytes, bytes]:
        return (b"content-length", str(len(self.body)).encode())


@dataclass(frozen=True, slots=True)
class Request:
    """A request before anything is known about it. Header names are lower case."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    body: bytes
    connection: Connection | None

    @staticmethod
    async def read(scope: Scope, receive: Receive) -> "Request":
        """Read a request, body and all."""
        state = scope.get("state") or {}
        body = b""
        if scope["method"] not in {"GET", "HEAD"}:
            message = await receive()
            body = message.get("body", b"")
            while message.get("more_body", False):
                message = await receive()
                body += message.get("body", b"")
        return Request(
            method=scope["method"],
            path=scope["path"],
            query=scope.get("query_string", b""),
            headers=dict(scope["headers"]),
            body=body,
            connection=state.get(_CONNECTION),
        )

    def header(self, name: bytes) -> str | None:
        """A header's value; None when it is not there."""
        value = self.headers.get(name)
        return None if value is None else value.decode("latin-1")

    def api_key(self) -> str | None:
        """The key of `Authorization: Bearer`, or the user name of `Basic`; None for neither."""
        scheme, _, value = (self.header(b"authorization") or "").partition(" ")
        if scheme.lower() == "bearer":
            return value.strip() or None
        if scheme.lower() == "basic":
            try:
                user = base64.b64decode(value, validate=True).decode("latin-1").partition(":")[0]
            except binascii.Error:
                return None
            return user or None
        return None


def offer_connection(state: dict[str, object], connection: Connection) -> None:
    """Put a connection where `Request.read` finds it: in the scope's `state`."""
    state[_CONNECTION] = connection


Execution = Callable[[], JsonObject]
