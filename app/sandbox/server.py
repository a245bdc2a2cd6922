"""The sandbox as an application and as a server."""

import asyncio
import gc
import socket
import struct
import sys
from contextlib import suppress
from typing import Any, cast

import uvicorn
from fastapi import FastAPI
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from app.sandbox.api import StripeApi
from app.sandbox.clock import SandboxClock
from app.sandbox.control.routes import CONTROL, build_router, install_error_handler
from app.sandbox.sandbox import Sandbox
from app.sandbox.wire import offer_connection

DEFAULT_KEYS = frozenset({"sk_test_sandbox"})
_LINGER_OFF = struct.pack("ii", 1, 0)  # closing then sends RST and drops what is unsent
_DESCRIPTION = (
    "The control API of a stateful stand-in for Stripe's API: creates objects, moves the clock, "
    "injects faults, reads back what was executed. No key is asked for: loopback only."
)


class SandboxApp(FastAPI):
    """`/_sandbox/...` is the control API; every other path is Stripe's.

    Stripe's paths go past FastAPI's middleware and router: they cost more than the rest of a
    usage record together.
    """

    _stripe_api: StripeApi

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lead a request to one of the two APIs."""
        if scope["type"] != "http" or scope["path"].startswith(CONTROL):
            await super().__call__(scope, receive, send)
        else:
            await self._stripe_api(scope, receive, send)


def create_sandbox(
    *,
    api_keys: frozenset[str] = DEFAULT_KEYS,
    clock: SandboxClock | None = None,
    limit_per_second: int = 25,
) -> SandboxApp:
    """A sandbox account of its own, as an ASGI application; its state is `app.state.sandbox`.

    `limit_per_second` is per operation; 0 is no limit. Injected cuts end the TCP connection when
    the application runs on `build_server`; in-process they raise `wire.ConnectionCut`.
    """
    app = SandboxApp(
        title="Stripe sandbox: control API",
        description=_DESCRIPTION,
        openapi_url=f"{CONTROL}/openapi.json",
        docs_url=None,
        redoc_url=None,
    )
    sandbox = Sandbox(
        api_keys=api_keys, clock=clock or SandboxClock(), limit_per_second=limit_per_second
    )
    app.state.sandbox = sandbox
    app._stripe_api = StripeApi(sandbox)  # noqa: SLF001 - this function is its constructor
    app.include_router(build_router(sandbox))
    install_error_handler(app)
    return app


class _OneWrite:
    """Stands before a transport, and writes in one piece what comes in one turn of the loop.

    uvicorn writes head and body of an answer apart: a tenth of the sandbox's time, and every
    client is woken twice.
    """

    def __init__(self, transport: Any, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._held: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._transport, name)

    def write(self, data: bytes) -> None:
        """Write soon."""
        if not self._held:
            self._loop.call_soon(self.flush)
        self._held.append(data)

    def close(self) -> None:
        """Close after what was written."""
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        """Close at once."""
        self._held.clear()
        self._transport.abort()

    def flush(self) -> None:
        """Write now."""
        held, self._held = self._held, []
        if held and not self._transport.is_closing():
            self._transport.write(b"".join(held))


class _TransportConnection:
    """The connection under a request."""

    def __init__(self, transport: _OneWrite) -> None:
        self._transport = transport

    def drop(self, *, reset: bool) -> None:
        """End it at once; harmless where the client has ended it."""
        if reset and not self._transport.is_closing():
            sock = self._transport.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_OFF)
        self._transport.abort()

    def finish(self) -> None:
        """End it after what was written."""
        self._transport.close()

    def write(self, data: bytes) -> None:
        """Send bytes as they are and apart from the answer, if it still stands."""
        if not self._transport.is_closing():
            self._transport.flush()
            self._transport.write(data)


class _CuttableProtocol(HttpToolsProtocol):
    """uvicorn's protocol, which in addition lets the application end the connection."""

    def connection_made(self, transport: Any) -> None:
        self._one_write = _OneWrite(transport, self.loop)
        super().connection_made(cast("asyncio.Transport", self._one_write))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        offer_connection(self.scope["state"], _TransportConnection(self._one_write))


def build_server(app: SandboxApp) -> uvicorn.Server:
    """A server for sockets that are already bound: `server.run(sockets=[...])`."""
    return uvicorn.Server(
        uvicorn.Config(
            app,
            http=_CuttableProtocol,
            ws="none",
            lifespan="off",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            log_level="warning",
            timeout_graceful_shutdown=1,
        )
    )


def bind(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. Raises OSError when the port is taken."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    return socket.create_server((host, port), family=family)


def url_of(bound: socket.socket) -> str:
    """The URL of a listening socket."""
    host, port = bound.getsockname()[:2]
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def serve(
    host: str,
    port: int,
    api_keys: frozenset[str] = DEFAULT_KEYS,
    *,
    limit_per_second: int = 25,
) -> None:
    """Run a sandbox until SIGINT or SIGTERM. Prints one line with its URL once it listens."""
    app = create_sandbox(api_keys=api_keys, limit_per_second=limit_per_second)
    with bind(host, port) as bound:
        sys.stdout.write(f"Stripe sandbox listening on {url_of(bound)}\n")
        sys.stdout.flush()
        # The ledger only grows: looking through all of it again and again for garbage costs a
        # third of the throughput once it holds some 100,000 calls.
        gc.freeze()
        gc.set_threshold(50_000, 20, 100)
        with suppress(KeyboardInterrupt):  # uvicorn raises SIGINT again once it has stopped
            build_server(app).run(sockets=[bound])
