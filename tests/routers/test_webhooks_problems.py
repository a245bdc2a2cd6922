"""Errors as answers: every class of the tree, and everything that is not in it."""

from collections.abc import Iterator
from typing import Annotated

import httpx
import pytest
from fastapi import Body, FastAPI
from pydantic import BaseModel, ConfigDict
from starlette.exceptions import HTTPException
from structlog.testing import capture_logs

from app import errors
from app.errors import Fault, MeterbridgeError
from app.routers.problems import install_problem_handlers, responses
from app.routers.webhooks import router

MARKER = "Zq7Marker"


def tree(root: type[MeterbridgeError]) -> Iterator[type[MeterbridgeError]]:
    yield root
    for child in root.__subclasses__():
        yield from tree(child)


CLASSES = [cls for cls in tree(MeterbridgeError) if cls.__module__ == errors.__name__]


class Item(BaseModel):
    model_config = ConfigDict(extra="forbid")
    amounts: list[int]
    names: dict[str, int] = {}


def app_raising(error: Exception) -> FastAPI:
    app = FastAPI()
    install_problem_handlers(app)

    @app.get("/raise")
    async def fail() -> None:
        raise error

    @app.post("/items")
    async def take(item: Annotated[Item, Body()], limit: int = 1) -> None:
        pass

    return app


async def ask(
    app: FastAPI, method: str = "GET", url: str = "/raise", **body: object
) -> httpx.Response:
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://bridge") as client:
        return await client.request(method, url, **body)  # type: ignore[arg-type]


@pytest.mark.parametrize("cls", CLASSES)
async def test_each_class_of_the_tree(cls: type[MeterbridgeError]) -> None:
    answer = await ask(app_raising(cls()))
    assert answer.status_code == cls.status
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json() == {
        "type": f"urn:meterbridge:problem:{cls.slug}",
        "title": cls.title,
        "status": cls.status,
        "detail": cls.title,
    }
    assert answer.headers.get("retry-after") == (
        None if cls.retry_after is None else str(cls.retry_after)
    )
    assert answer.headers.get("www-authenticate") == (
        "Bearer" if cls is errors.Unauthorized else None
    )


def test_slugs_are_not_shared() -> None:
    # A statement that takes too long is told like a database that is not there.
    own = [cls for cls in CLASSES if cls is not errors.StatementTimeout]
    assert len({cls.slug for cls in own}) == len(own)


async def test_detail_and_faults() -> None:
    error = errors.InvalidMapping("two mappings overlap", faults=(Fault("subjects[1]", "again"),))
    assert (await ask(app_raising(error))).json() == {
        "type": "urn:meterbridge:problem:invalid-mapping",
        "title": "The mapping cannot be applied",
        "status": 422,
        "detail": "two mappings overlap",
        "faults": [{"path": "subjects[1]", "message": "again"}],
    }


async def test_what_nobody_foresaw_is_told_to_the_log_only() -> None:
    with capture_logs() as logs:
        answer = await ask(app_raising(RuntimeError(MARKER)))
    assert answer.status_code == 500
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.json()["detail"] == "Internal error"
    assert MARKER not in answer.text
    assert [entry["event"] for entry in logs] == ["unforeseen_error"]
    assert repr(logs[0]["exc_info"]) == f"RuntimeError('{MARKER}')"


@pytest.mark.parametrize(
    ("method", "url", "status", "slug"),
    [
        ("GET", f"/{MARKER}", 404, "not-found"),
        ("DELETE", "/items", 405, "method-not-allowed"),
    ],
)
async def test_what_starlette_answers(method: str, url: str, status: int, slug: str) -> None:
    answer = await ask(app_raising(RuntimeError()), method, url)
    assert answer.status_code == status
    assert answer.json()["type"] == f"urn:meterbridge:problem:{slug}"
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)
    assert MARKER not in answer.text


@pytest.mark.parametrize("status", [400, 418, 431, 599])
async def test_http_exceptions_keep_status_and_headers(status: int) -> None:
    answer = await ask(app_raising(HTTPException(status, headers={"X-Kept": "yes"})))
    assert (answer.status_code, answer.headers["x-kept"]) == (status, "yes")
    assert answer.json()["type"].removeprefix("urn:meterbridge:problem:").strip("-")


@pytest.mark.parametrize(
    ("url", "content", "paths"),
    [
        ("/items", b"{", ["[1]"]),
        ("/items", b'{"amounts":["Zq7Marker"]}', ["amounts[0]"]),
        ("/items", b"{}", ["amounts"]),
        ("/items", b'"Zq7Marker"', ["body"]),
        ("/items?limit=Zq7Marker", b'{"amounts":[]}', ["query.limit"]),
        ("/items", b'{"amounts":[],"names":{"Zq7Marker!":"x"}}', ["names.*"]),
        ("/items", b'{"amounts":%s}' % (b"[null" + b",null" * 99 + b"]"), None),
    ],
)
async def test_requests_that_are_not_valid(
    url: str, content: bytes, paths: list[str] | None
) -> None:
    answer = await ask(
        app_raising(RuntimeError()),
        "POST",
        url,
        content=content,
        headers={"content-type": "application/json"},
    )
    assert answer.status_code == 422
    assert answer.json()["type"] == "urn:meterbridge:problem:invalid-request"
    found = [fault["path"] for fault in answer.json()["faults"]]
    assert len(found) == 20 if paths is None else found == paths
    assert MARKER not in answer.text


def test_errors_of_one_status_are_documented_together() -> None:
    documented = responses(errors.NotConfigured, errors.Overloaded, 415)
    assert set(documented) == {503, 415}
    content = documented[503]["content"]["application/problem+json"]
    assert set(content["examples"]) == {"not-configured", "overloaded"}
    assert documented[503]["headers"]["Retry-After"]["schema"] == {"type": "string"}


def test_the_webhook_is_documented_once_and_whole() -> None:
    app = FastAPI()
    app.include_router(router)
    install_problem_handlers(app)
    document = app.openapi()
    assert set(document["paths"]) == {"/webhooks/openmeter"}
    operation = document["paths"]["/webhooks/openmeter"]["post"]
    assert set(operation["responses"]) == {
        *("200", "202", "400", "401", "408", "409", "413", "415", "422", "503")
    }
    for status, answer in operation["responses"].items():
        kinds = {"application/json"} if status < "300" else {"application/problem+json"}
        assert set(answer["content"]) == kinds
        assert all("schema" in content for content in answer["content"].values())
    assert operation["security"] == [{"WebhookSignature": []}]
    assert set(document["components"]["schemas"]) >= {"Problem", "ProblemFault", "WebhookAnswer"}
    assert document == app.openapi()


def test_the_documented_example_is_one_that_we_accept() -> None:
    import json

    from app.openmeter.report import UsageReport, parse_message
    from app.routers.webhook_document import WEBHOOK_DOCUMENT

    content = WEBHOOK_DOCUMENT["requestBody"]["content"]["application/json"]
    example = content["examples"]["report.meter"]["value"]
    found = parse_message(json.dumps(example).encode())
    assert isinstance(found, UsageReport)
    assert len(found.windows) == 2
