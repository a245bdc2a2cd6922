"""The stand-in on a real port, and in-process for those who ask a thousand times."""

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import httpx
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from app.openmeter.api import OpenMeterClient
from tests.openmeter_side.answers import Answer
from tests.openmeter_side.api import respond
from tests.openmeter_side.side import OpenMeterSide

_CUT = "openmeter_side.cut"


class _CuttableProtocol(H11Protocol):
    """uvicorn's protocol, which in addition lets the application end the connection."""

    def handle_events(self) -> None:
        self.app_state[_CUT] = self.transport.abort
        super().handle_events()


class _Application:
    """The stand-in as an ASGI application."""

    def __init__(self, side: OpenMeterSide) -> None:
        self._side = side

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope["raw_path"].decode()
        fault = self._side.fault_for(path)
        if fault is not None and fault.kind == "reset":
            scope["state"][_CUT]()
            return
        if fault is not None and fault.kind == "hang":
            while (await receive())["type"] != "http.disconnect":
                pass
            return
        headers = {name.decode(): value.decode() for name, value in scope["headers"]}
        answer = fault.answer if fault else None
        if answer is None:
            answer = respond(self._side, path, scope["query_string"].decode(), headers)
        told = {"content-type": answer.content_type, **answer.headers}
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [(name.encode(), value.encode()) for name, value in told.items()],
            }
        )
        await send({"type": "http.response.body", "body": answer.body})


@contextmanager
def serving(side: OpenMeterSide) -> Iterator[str]:
    """The address of the stand-in, served by a thread of its own."""
    config = uvicorn.Config(
        _Application(side),
        http=_CuttableProtocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_level="critical",  # of answers that are cut on purpose it would complain
        timeout_graceful_shutdown=1,
    )
    server = uvicorn.Server(config)
    with socket.create_server(("127.0.0.1", 0)) as bound:
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        try:
            deadline = time.monotonic() + 20
            while not server.started and time.monotonic() < deadline:
                time.sleep(0.01)
            yield f"http://127.0.0.1:{bound.getsockname()[1]}"
        finally:
            server.should_exit = True
            thread.join(timeout=20)


class _InProcess(httpx.AsyncBaseTransport):
    """Hands requests to the stand-in without a socket; what would hang is a timeout at once."""

    def __init__(self, side: OpenMeterSide) -> None:
        self._side = side

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Answer one request."""
        path, _, query = request.url.raw_path.decode().partition("?")
        fault = self._side.fault_for(path)
        if fault is not None and fault.kind == "reset":
            raise httpx.ReadError("reset by the stand-in")
        if fault is not None and fault.kind == "hang":
            raise httpx.ReadTimeout("the stand-in hangs")
        answer = fault.answer if fault else None
        if answer is None:
            answer = respond(self._side, path, query, request.headers)
        return _response(answer)


def _response(answer: Answer) -> httpx.Response:
    headers = {"content-type": answer.content_type, **answer.headers}
    return httpx.Response(answer.status, headers=headers, content=answer.body)


def client_of(side: OpenMeterSide, **settings: Any) -> OpenMeterClient:
    """The real client, asking in-process: same checks, no socket, no thread."""
    return OpenMeterClient(
        base_url="http://openmeter", api_key=side.api_key, transport=_InProcess(side), **settings
    )
