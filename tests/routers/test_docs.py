"""The pages at /docs: complete without a network, under any prefix, and nothing but themselves."""

import hashlib
import re
from collections.abc import AsyncIterator
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit

import httpx
import pytest
from fastapi import FastAPI
from starlette.types import Message

import app.routers.docs
from app.routers.docs import router
from app.routers.problems import install_problem_handlers

STATIC = Path(app.routers.docs.__file__).parent / "static"
ASSETS = {
    "swagger-ui-bundle.js": "text/javascript",
    "swagger-ui-bundle.js.LICENSE.txt": "text/plain",
    "swagger-ui.css": "text/css",
    "favicon-32x32.png": "image/png",
    "docs.js": "text/javascript",
    "docs.css": "text/css",
}
# What makes a browser load something, or leave the page.
REFERENCES = {"src", "href", "action", "data", "poster", "srcset", "data-openapi"}


class Page(HTMLParser):
    """What a page refers to, and what it would run or style by itself."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.references: list[str] = []
        self.inline: list[str] = []
        self._inside = ""
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self._inside = tag
        self.references += [value or "" for name, value in attrs if name in REFERENCES]
        self.inline += [name for name, _ in attrs if name == "style" or name.startswith("on")]

    def handle_data(self, data: str) -> None:
        if self._inside in ("script", "style") and data.strip():
            self.inline.append(data)

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""


@pytest.fixture
def application() -> FastAPI:
    """An application of nothing but these pages."""
    application = FastAPI(docs_url=None, redoc_url=None, redirect_slashes=False)
    application.include_router(router)
    install_problem_handlers(application)
    return application


@pytest.fixture
async def client(application: FastAPI) -> AsyncIterator[httpx.AsyncClient]:
    """A client of it."""
    transport = httpx.ASGITransport(application)
    async with httpx.AsyncClient(transport=transport, base_url="http://bridge.test") as client:
        yield client


async def raw_request(
    application: FastAPI, method: str, path: str
) -> tuple[int, dict[bytes, bytes]]:
    """Status and headers for a path exactly as given: httpx would take `..` out of it."""
    sent: list[Message] = []

    async def receive() -> Message:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(path),
        "raw_path": path.encode(),
        "root_path": "",
        "query_string": b"",
        "headers": [(b"host", b"bridge.test")],
        "client": ("127.0.0.1", 1),
        "server": ("127.0.0.1", 80),
    }
    await application(scope, receive, send)
    return sent[0]["status"], dict(sent[0]["headers"])


async def test_the_raw_request_reaches_the_pages(application: FastAPI) -> None:
    status, _ = await raw_request(application, "GET", "/docs/assets/docs%2Ejs")
    assert status == 200


async def page(client: httpx.AsyncClient, path: str = "/docs") -> Page:
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    return Page(answer.text)


def test_the_parser_sees_what_it_must() -> None:
    seen = Page('<p onclick="x" style="y"><script>z</script><img src="https://cdn.test/a.png">')
    assert seen.references == ["https://cdn.test/a.png"]
    assert seen.inline == ["onclick", "style", "z"]


@pytest.mark.parametrize("path", ["/docs", "/docs/"])
@pytest.mark.parametrize("prefix", ["", "/deep/prefix"])
async def test_everything_the_page_needs_is_served_under_the_same_prefix(
    client: httpx.AsyncClient, path: str, prefix: str
) -> None:
    references = (await page(client, path)).references
    assert len(references) == 7
    for reference in references:
        assert not urlsplit(reference).netloc
        assert not urlsplit(reference).scheme
        # As a browser resolves it, behind a proxy that strips the prefix.
        resolved = urlsplit(urljoin(f"http://bridge.test{prefix}{path}", reference))
        assert resolved.path.startswith(f"{prefix}/")
        behind = f"{resolved.path.removeprefix(prefix)}?{resolved.query}"
        assert (await client.get(behind)).status_code == 200, reference
    assert "openapi.json" in {reference.split("/")[-1] for reference in references}


async def test_nothing_on_the_page_needs_inline_rights(client: httpx.AsyncClient) -> None:
    assert (await page(client)).inline == []


@pytest.mark.parametrize("name", ["swagger-ui.css", "docs.css"])
def test_style_sheets_load_nothing(name: str) -> None:
    text = next(STATIC.rglob(name)).read_text()
    loaded = re.findall(r"url\(\s*[\"']?([a-z]*)", text)
    assert set(loaded) <= {"data"}
    assert "@import" not in text


def test_the_page_asks_nobody_to_validate_the_definition() -> None:
    script = (STATIC / "docs.js").read_text()
    assert "validatorUrl: null" in script
    assert "://" not in script


@pytest.mark.parametrize("path", ["/docs", "/docs/", *(f"/docs/assets/{name}" for name in ASSETS)])
async def test_security_headers(client: httpx.AsyncClient, path: str) -> None:
    headers = (await client.get(path)).headers
    policy = dict(
        directive.strip().split(" ", 1)
        for directive in headers["content-security-policy"].split(";")
    )
    assert policy == {
        "default-src": "'none'",
        "script-src": "'self'",
        "style-src": "'self'",
        "img-src": "'self' data:",
        "connect-src": "'self'",
        "base-uri": "'none'",
        "form-action": "'none'",
        "frame-ancestors": "'none'",
    }
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(("name", "media_type"), ASSETS.items())
async def test_assets(client: httpx.AsyncClient, name: str, media_type: str) -> None:
    path = f"/docs/assets/{name}"
    answer = await client.get(path)
    assert answer.status_code == 200
    assert answer.headers["content-type"].split(";")[0] == media_type
    assert answer.content == next(STATIC.rglob(name)).read_bytes()
    assert answer.headers["cache-control"] == "no-cache"

    kept = await client.get(path, headers={"If-None-Match": f'"x", W/{answer.headers["etag"]}'})
    assert (kept.status_code, kept.content) == (304, b"")
    assert kept.headers["etag"] == answer.headers["etag"]

    other = await client.get(path, headers={"If-None-Match": '"x"'})
    assert other.status_code == 200

    head = await client.head(path)
    assert head.status_code == 200
    assert head.headers["content-length"] == str(len(answer.content))


async def test_only_an_address_that_names_the_content_is_kept_for_good(
    client: httpx.AsyncClient,
) -> None:
    named = [reference for reference in (await page(client)).references if "/assets/" in reference]
    assert len(named) == 5
    for reference in named:
        answer = await client.get(f"/{reference}")
        assert "immutable" in answer.headers["cache-control"]
        older = await client.get(f"/{reference.split('?')[0]}?v=0123456789abcdef")
        assert older.headers["cache-control"] == "no-cache"
    assert (await client.get("/docs")).headers["cache-control"] == "no-cache"


@pytest.mark.parametrize(
    "path",
    [
        "/docs/assets",
        "/docs/assets/",
        "/docs/assets/README.md",
        "/docs/assets/LICENSE",
        "/docs/assets/swagger-ui",
        "/docs/assets/swagger-ui/README.md",
        "/docs/assets/docs.py",
        "/docs/assets/..",
        "/docs/assets/../docs.py",
        "/docs/assets/%2e%2e%2fdocs.py",
        "/docs/assets/..%2f..%2fdocs.py",
        "/docs/assets/..%5cdocs.py",
        "/docs/assets/%2fetc%2fpasswd",
        "/docs/assets/docs.js%00.png",
        "/docs/assets/docs.js%20",
        "/docs/assets/DOCS.JS",
        "/docs/assets/swagger-ui-bundle.js.map",
        "/docs/oauth2-redirect",
        "/docs//assets/docs.js",
        "/docs/../docs",
    ],
)
async def test_other_names_are_not_found(application: FastAPI, path: str) -> None:
    for method in ("GET", "HEAD"):
        status, headers = await raw_request(application, method, path)
        assert status == 404, method
        assert headers[b"content-type"] == b"application/problem+json"


@pytest.mark.parametrize("path", ["/docs", "/docs/", "/docs/assets/docs.js"])
@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH"])
async def test_the_pages_are_only_read(client: httpx.AsyncClient, method: str, path: str) -> None:
    answer = await client.request(method, path)
    assert answer.status_code == 405
    assert set(answer.headers["allow"].split(", ")) == {"GET", "HEAD"}


async def test_the_page_answers_head_and_is_not_sent_twice(client: httpx.AsyncClient) -> None:
    answer = await client.get("/docs")
    head = await client.head("/docs")
    assert head.headers["content-length"] == str(len(answer.content))
    again = await client.get("/docs", headers={"If-None-Match": answer.headers["etag"]})
    assert again.status_code == 304


async def test_the_routes_are_not_in_the_definition(client: httpx.AsyncClient) -> None:
    assert (await client.get("/openapi.json")).json()["paths"] == {}


def test_vendored_files_are_those_of_the_package() -> None:
    folder = STATIC / "swagger-ui"
    text = (folder / "README.md").read_text()
    sums = dict(re.findall(r"^\| `([^`]+)` \| `([0-9a-f]{64})` \|$", text, re.MULTILINE))
    present = {path.name for path in folder.iterdir()} - {"README.md"}
    assert sums.keys() == present
    for name, digest in sums.items():
        assert hashlib.sha256((folder / name).read_bytes()).hexdigest() == digest, name
