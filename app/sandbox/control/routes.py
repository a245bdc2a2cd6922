"""The control API's routes, put together."""

from fastapi import APIRouter, FastAPI, Request
from fastapi.responses import JSONResponse

from app.sandbox.control import billing_cycle, faults, objects, reading, running
from app.sandbox.errors import StripeError
from app.sandbox.sandbox import Sandbox

CONTROL = "/_sandbox"


def build_router(sandbox: Sandbox) -> APIRouter:
    """All routes under `/_sandbox`."""
    router = APIRouter(prefix=CONTROL)
    for noun in (objects, billing_cycle, running, faults, reading):
        router.include_router(noun.build_router(sandbox))
    return router


def install_error_handler(app: FastAPI) -> None:
    """Answer what the account refuses in Stripe's own error shape."""

    async def refuse(_: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, StripeError):
            raise error
        return JSONResponse(error.body("control"), status_code=error.status)

    app.add_exception_handler(StripeError, refuse)
