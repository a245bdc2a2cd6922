"""Errors as answers: the one place that turns the error tree into problem+json (RFC 9457).

Nothing of the input goes back: sender and receiver of a webhook are not always the same company.
"""

import re
from collections.abc import Mapping, Sequence
from functools import cache
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.routing import Match

from app.errors import Fault, InvalidRequest, MeterbridgeError, Unauthorized

log = structlog.get_logger(__name__)

MEDIA_TYPE = "application/problem+json"
_URN = "urn:meterbridge:problem:"
_MAX_FAULTS = 20


class ProblemFault(BaseModel):
    """One thing that is wrong in the input."""

    path: str = Field(examples=["usage[3].value"])
    message: str = Field(examples=["is missing"])


class Problem(BaseModel):
    """Every error of this API (RFC 9457). `type` is stable; match on it."""

    type: str = Field(examples=[f"{_URN}not-found"])
    title: str = Field(examples=["Not found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["Not found"])
    faults: list[ProblemFault] | None = Field(
        None, description="Where the input is wrong, at most twenty; absent where it is not."
    )


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem, and `Problem` a component of its OpenAPI document."""
    app.add_exception_handler(MeterbridgeError, _refused)
    app.add_exception_handler(HTTPException, _http_exception)
    app.add_exception_handler(RequestValidationError, _validation_error)
    app.add_exception_handler(ClientDisconnect, _refused)
    app.add_exception_handler(Exception, unforeseen)

    generate = app.openapi

    def openapi() -> dict[str, Any]:
        document = generate()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        for model in (ProblemFault, Problem):
            schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
            schema.pop("$defs", None)
            schemas[model.__name__] = schema
        return document

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documented way to extend it


def problem(
    status: int,
    slug: str,
    title: str,
    *,
    detail: str | None = None,
    faults: Sequence[Fault] = (),
    headers: Mapping[str, str] | None = None,
) -> Response:
    """A problem+json answer. All texts must be constant, or at least ours."""
    body = Problem(
        type=_URN + slug,
        title=title,
        status=status,
        detail=detail or title,
        faults=[ProblemFault(path=fault.path, message=fault.message) for fault in faults] or None,
    )
    return Response(
        body.model_dump_json(exclude_none=True),
        status_code=status,
        headers=dict(headers or {}),
        media_type=MEDIA_TYPE,
    )


def responses(*errors: type[MeterbridgeError] | int) -> dict[int | str, dict[str, Any]]:
    """What a route may answer with, for its `responses=`: error classes, or plain HTTP statuses."""
    documented: dict[int | str, dict[str, Any]] = {}
    for error in errors:
        if isinstance(error, int):
            status, slug, title = error, _slug(error), _phrase(error)
        else:
            status, slug, title = error.status, error.slug, error.title
        entry = documented.setdefault(
            status,
            {
                "description": title,
                "content": {
                    MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}, "examples": {}}
                },
            },
        )
        if title not in entry["description"]:
            entry["description"] += f"; or: {title}"
        entry["content"][MEDIA_TYPE]["examples"][slug] = {
            "value": {"type": _URN + slug, "title": title, "status": status, "detail": title}
        }
        headers = _headers(error) if not isinstance(error, int) else {}
        for name, value in headers.items():
            entry.setdefault("headers", {})[name] = {
                "schema": {"type": "string"},
                "example": value,
            }
    return documented


def _headers(error: type[MeterbridgeError]) -> dict[str, str]:
    headers = {}
    if error.retry_after is not None:
        headers["Retry-After"] = str(error.retry_after)
    if issubclass(error, Unauthorized):  # a refused signature has no scheme to offer
        headers["WWW-Authenticate"] = "Bearer"
    return headers


def refusal(error: Exception) -> Response | None:
    """The answer to an error that is raised before or beside routing; None for one unforeseen."""
    if isinstance(error, MeterbridgeError):
        headers = _headers(type(error))
        if not error.faults and error.detail == error.title:
            return _constant(error.status, error.slug, error.title, tuple(headers.items()))
        return problem(
            error.status,
            error.slug,
            error.title,
            detail=error.detail,
            faults=error.faults,
            headers=headers,
        )
    if isinstance(error, ClientDisconnect):
        # Nobody is there to read it, and it is no error of ours: no log, no 500 in the metrics.
        return problem(400, _slug(400), _phrase(400), detail="The request was cut off")
    if isinstance(error, HTTPException):
        detail = error.detail if isinstance(error.detail, str) else None
        status = error.status_code
        return problem(status, _slug(status), _phrase(status), detail=detail, headers=error.headers)
    return None


# One for each kind: a flood of forged webhooks is answered 5,000 times a second.
@cache
def _constant(status: int, slug: str, title: str, headers: tuple[tuple[str, str], ...]) -> Response:
    return problem(status, slug, title, headers=dict(headers))


async def _refused(_: Request, error: Exception) -> Response:
    answer = refusal(error)
    assert answer is not None  # noqa: S101 - registered for those classes only
    return answer


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


def _allowed(request: Request) -> str:
    """All methods of a path; the router names only those of the first route that has it."""
    routes = request.app.routes
    return ", ".join(
        method
        for method in _METHODS
        if any(
            route.matches({**request.scope, "method": method})[0] is Match.FULL for route in routes
        )
    )


async def _http_exception(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - registered for this class only
    if error.status_code in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
        return Response(status_code=error.status_code, headers=dict(error.headers or {}))
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        error.headers = {**(error.headers or {}), "Allow": _allowed(request)}
    return await _refused(request, error)


async def _validation_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - registered for this class only
    faults = [
        Fault(_path(found["loc"]), _message(found["type"], found["msg"]))
        for found in error.errors()[:_MAX_FAULTS]
    ]
    kind = InvalidRequest
    return problem(kind.status, kind.slug, kind.title, faults=faults)


async def unforeseen(request: Request, error: Exception) -> Response:
    """The answer to an error that nobody foresaw; the log has it, the caller only its status."""
    log.error("unforeseen_error", method=request.method, exc_info=error)
    return problem(MeterbridgeError.status, MeterbridgeError.slug, MeterbridgeError.title)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Error"


def _slug(status: int) -> str:
    return re.sub(r"[^a-z]+", "-", _phrase(status).lower())


_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]{0,63}", re.ASCII)
# Pydantic's texts hold no input, but for these.
_MESSAGES = {
    "extra_forbidden": "has a member that is not known",
    "json_invalid": "is not JSON",
    "union_tag_invalid": "is none of the known kinds",
    "literal_error": "is none of the allowed values",
}


def _message(kind: str, text: str) -> str:
    return _MESSAGES.get(kind, text.removeprefix("Value error, "))


def _path(location: Sequence[int | str]) -> str:
    """`("body", "meters", 0, "scale")` as `meters[0].scale`; `query.limit` keeps where it is."""
    parts = location[1:] if len(location) > 1 and location[0] == "body" else location
    path = ""
    for part in parts:
        if isinstance(part, int):
            path += f"[{part}]"
        else:
            # A key of a free-form object is input; one that is a plain name does no harm.
            name = part if _NAME.fullmatch(part) else "*"
            path += f".{name}" if path else name
    return path
