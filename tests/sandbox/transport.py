"""The sandbox as an httpx transport, for tests that need neither a port nor a server.

Unlike on `httpx.ASGITransport`, an injected cut is the httpx error that a cut connection would be,
and not an exception of the sandbox's own.
"""

from typing import Any

import httpx
from starlette.types import Message

from app.sandbox.server import SandboxApp
from app.sandbox.wire import ConnectionCut


class SandboxTransport(httpx.AsyncBaseTransport):
    """Every request goes to one sandbox, whatever its host."""

    def __init__(self, app: SandboxApp) -> None:
        self._app = app

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One exchange. Raises `httpx.ReadError` for an RST, else `RemoteProtocolError`."""
        incoming: Message = {"type": "http.request", "body": await request.aread()}
        sent: list[Message] = []

        async def receive() -> Message:
            return incoming

        async def send(message: Message) -> None:
            sent.append(message)

        try:
            await self._app(_scope(request), receive, send)
        except ConnectionCut as cut:
            if cut.reset:
                raise httpx.ReadError("connection reset", request=request) from cut
            raise httpx.RemoteProtocolError("server disconnected", request=request) from cut
        start, *bodies = sent
        content = b"".join(message.get("body", b"") for message in bodies)
        return httpx.Response(start["status"], headers=start["headers"], content=content)


def _scope(request: httpx.Request) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": request.method,
        "scheme": request.url.scheme,
        "path": request.url.path,
        "raw_path": request.url.raw_path.partition(b"?")[0],
        "root_path": "",
        "query_string": request.url.query,
        "headers": [(name.lower(), value) for name, value in request.headers.raw],
        "client": ("127.0.0.1", 0),
        "server": ("sandbox", 80),
        "state": {},
    }
