"""What comes before the routes, as an ASGI middleware: the webhook's fast path, the gate of /v1.

The fast path answers webhooks by the same function as their route, without FastAPI's routing and
dependencies, which cost three times as much as checking a signature. The gate looks at the admin
token before the body: FastAPI reads and parses up to 16 MiB of it before a dependency is asked.
"""

from collections.abc import Sequence
from typing import cast

from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.bootstrap import Services
from app.routers.access import admit
from app.routers.problems import refusal
from app.routers.webhooks import PATHS, WebhookServices, receive_message

_GUARDED = "/v1/"
# Answers of /v1 name customers and their usage: for nobody's cache, and nothing to be guessed at.
_PRIVATE = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class Edge:
    """The middleware. Whatever it does not know goes on to `app`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or hand it on."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
        elif scope["path"] in PATHS and scope["method"] == "POST":
            answer = await _receive_webhook(scope, receive)
            await answer(scope, receive, send)
        elif scope["path"].startswith(_GUARDED):
            await self._guarded(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_PRIVATE]}
            await send(message)

        refused = _refused(scope)
        if refused is None:
            await self._app(scope, receive, send_private)
        else:
            await refused(scope, receive, send_private)


async def _receive_webhook(scope: Scope, receive: Receive) -> Response:
    services = cast(WebhookServices, scope["app"].state.services)
    headers: Sequence[tuple[bytes, bytes]] = scope["headers"]
    try:
        return await receive_message(services, headers, receive)
    except Exception as error:
        answer = refusal(error)
        if answer is None:
            raise  # one for the handler of what nobody foresaw
        return answer


def _refused(scope: Scope) -> Response | None:
    built: Services = scope["app"].state.services
    try:
        admit(built, dict(scope["headers"]).get(b"authorization", b""))
    except Exception as error:
        answer = refusal(error)
        if answer is None:
            raise
        return answer
    return None
