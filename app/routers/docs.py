"""The API's pages for people: Swagger UI at `/docs`, from assets that are part of the program.

All references in the page are relative to it: it works under any prefix a proxy puts before the
service, whether or not the service was told of it.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final

from fastapi import APIRouter, Request, Response
from starlette.datastructures import Headers

from app.errors import NotFound

router = APIRouter(include_in_schema=False)

_FOLDER: Final = Path(__file__).parent / "static"
# The only files that are served: a name from a request never becomes a path.
_ASSETS: Final = {
    "swagger-ui-bundle.js": ("swagger-ui/swagger-ui-bundle.js", "text/javascript; charset=utf-8"),
    "swagger-ui-bundle.js.LICENSE.txt": (
        "swagger-ui/swagger-ui-bundle.js.LICENSE.txt",
        "text/plain; charset=utf-8",
    ),
    "swagger-ui.css": ("swagger-ui/swagger-ui.css", "text/css; charset=utf-8"),
    "favicon-32x32.png": ("swagger-ui/favicon-32x32.png", "image/png"),
    "docs.js": ("docs.js", "text/javascript; charset=utf-8"),
    "docs.css": ("docs.css", "text/css; charset=utf-8"),
}
_SECURITY_HEADERS: Final = {
    # data: images are the icons inside swagger-ui.css.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_REVALIDATE: Final = "no-cache"
_IMMUTABLE: Final = "public, max-age=31536000, immutable"
_HTML: Final = "text/html; charset=utf-8"


@dataclass(frozen=True, slots=True)
class _Document:
    """What is served under one name. `digest` changes whenever `content` does."""

    content: bytes
    media_type: str
    digest: str

    @classmethod
    def of(cls, content: bytes, media_type: str) -> "_Document":
        return cls(content, media_type, hashlib.sha256(content).hexdigest()[:16])


@router.api_route("/docs", methods=["GET", "HEAD"])
def docs(request: Request) -> Response:
    """The page."""
    return _answer(request, _page(""))


# Of its own and not a redirect: a redirect would name a host that a proxy may have hidden.
@router.api_route("/docs/", methods=["GET", "HEAD"])
def docs_with_slash(request: Request) -> Response:
    """The same page, whose references begin one step further down."""
    return _answer(request, _page("../"))


@router.api_route("/docs/assets/{name}", methods=["GET", "HEAD"])
def asset(request: Request, name: str) -> Response:
    """One of the page's files. Raises NotFound for every other name."""
    if name not in _ASSETS:
        raise NotFound
    document = _asset(name)
    named_by_digest = request.query_params.get("v") == document.digest
    return _answer(request, document, _IMMUTABLE if named_by_digest else _REVALIDATE)


@cache
def _asset(name: str) -> _Document:
    path, media_type = _ASSETS[name]
    return _Document.of((_FOLDER / path).read_bytes(), media_type)


@cache
def _page(root: str) -> _Document:
    """The page; `root` is the way from it to where `/docs` and `/openapi.json` lie."""

    def address(name: str) -> str:
        # With its digest: a browser keeps the file for good, and takes a new one at once.
        return f"{root}docs/assets/{name}?v={_asset(name).digest}"

    definition = f"{root}openapi.json"
    return _Document.of(
        f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>meterbridge API</title>
<link rel="icon" type="image/png" href="{address("favicon-32x32.png")}">
<link rel="stylesheet" href="{address("swagger-ui.css")}">
<link rel="stylesheet" href="{address("docs.css")}">
<script src="{address("swagger-ui-bundle.js")}" defer></script>
<script src="{address("docs.js")}" defer></script>
</head>
<body>
<div id="swagger-ui" data-openapi="{definition}"></div>
<noscript>This page needs JavaScript. The definition itself:
<a href="{definition}">openapi.json</a></noscript>
</body>
</html>
""".encode(),
        _HTML,
    )


def _answer(request: Request, document: _Document, caching: str = _REVALIDATE) -> Response:
    tag = f'"{document.digest}"'
    headers = {**_SECURITY_HEADERS, "ETag": tag, "Cache-Control": caching}
    if _holds(request.headers, tag):
        return Response(status_code=304, headers=headers)
    return Response(document.content, headers=headers, media_type=document.media_type)


def _holds(headers: Headers, tag: str) -> bool:
    """Whether `If-None-Match` says that the client has it already; a proxy may weaken the tag."""
    held = {part.strip().removeprefix("W/") for part in headers.get("if-none-match", "").split(",")}
    return tag in held or "*" in held
