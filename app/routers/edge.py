"""What comes before the routes and all middleware: the webhook's fast path, and the gate of /v1.

The fast path answers webhooks by the same function as their route, without FastAPI's six layers of
middleware, routing and dependencies, which cost more than checking a signature. The gate looks at
the admin token before the body: FastAPI reads and parses up to 16 MiB of it before a dependency is
asked.
"""

from fastapi import FastAPI, Request, Response
from starlette.types import Message, Receive, Scope, Send

from app.bootstrap import Services
from app.errors import NotConfigured, Unauthorized
from app.routers.access import admit
from app.routers.problems import refusal, unforeseen
from app.routers.webhooks import PATHS, WebhookServices, receive_message

_GUARDED = "/v1/"
# Answers of /v1 name customers and their usage: for nobody's cache, and nothing to be guessed at.
_PRIVATE = [(b"cache-control", b"no-store"), (b"x-content-type-options", b"nosniff")]


class Api(FastAPI):
    """An application with the edge before it. Its services are `state.services`."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        path = scope.get("path", "")
        if path in PATHS and scope["method"] == "POST":
            await self._receive_webhook(scope, receive, send)
        elif path.startswith(_GUARDED):
            await self._guarded(scope, receive, send)
        else:
            await super().__call__(scope, receive, send)

    async def _receive_webhook(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer: Response | None
        try:
            services: WebhookServices = self.state.services
            answer = await receive_message(services, scope["headers"], receive)
        except Exception as error:
            answer = refusal(error)
            if answer is None:
                answer = await unforeseen(Request(scope), error)
                await answer(scope, receive, send)
                raise
        await answer(scope, receive, send)

    async def _guarded(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_private(message: Message) -> None:
            if message["type"] == "http.response.start":
                message = {**message, "headers": [*message.get("headers", ()), *_PRIVATE]}
            await send(message)

        refused = self._refused(scope)
        if refused is None:
            await super().__call__(scope, receive, send_private)
        else:
            await refused(scope, receive, send_private)

    def _refused(self, scope: Scope) -> Response | None:
        built: Services = self.state.services
        try:
            admit(built, dict(scope["headers"]).get(b"authorization", b""))
        except (NotConfigured, Unauthorized) as error:
            return refusal(error)
        return None
