"""/v1 is for holders of an admin token, and for nobody else."""

from dataclasses import replace

import httpx
import pytest
from fastapi import FastAPI

from app.bootstrap import Services

ROUTES = [
    ("GET", "/v1/summary"),
    ("GET", "/v1/windows"),
    ("GET", "/v1/records"),
    ("GET", "/v1/usage/explain"),
    ("GET", "/v1/mappings"),
    ("PUT", "/v1/mappings"),
    ("POST", "/v1/windows/release"),
    ("POST", "/v1/records/release"),
    ("POST", "/v1/records/{id}/settle"),
    ("POST", "/v1/records/{id}/credit"),
    ("GET", "/v1/deliveries"),
    ("POST", "/v1/deliveries/release"),
]


def test_every_v1_route_is_in_the_table(app: FastAPI) -> None:
    documented = {
        (method.upper(), path)
        for path, methods in app.openapi()["paths"].items()
        for method in methods
        if path.startswith("/v1")
    }
    assert documented == set(ROUTES)


@pytest.mark.parametrize(("method", "path"), ROUTES)
@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        "Bearer an-admin-token-of-test",
        "Bearer an-admin-token-of-tests2",
        "Basic an-admin-token-of-tests",
        "an-admin-token-of-tests",
        "Bearer \u00fc\u00fc",
    ],
)
async def test_no_token_no_answer(
    anonymous: httpx.AsyncClient, method: str, path: str, authorization: str | None
) -> None:
    headers = httpx.Headers(encoding="latin-1")
    if authorization is not None:
        headers["Authorization"] = authorization
    answer = await anonymous.request(method, path, headers=headers, json={})
    assert answer.status_code == 401
    assert answer.headers["www-authenticate"] == "Bearer"
    assert answer.json()["type"] == "urn:meterbridge:problem:unauthorized"


@pytest.mark.parametrize("token", ["an-admin-token-of-tests", "another-admin-token"])
async def test_each_token_opens(anonymous: httpx.AsyncClient, token: str) -> None:
    answer = await anonymous.get("/v1/summary", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 200


@pytest.mark.parametrize(("method", "path"), ROUTES)
async def test_without_tokens_the_routes_say_so(
    app: FastAPI, built: Services, anonymous: httpx.AsyncClient, method: str, path: str
) -> None:
    bare = built.settings.model_copy(update={"admin_tokens": ()})
    app.state.services = replace(built, settings=bare)
    answer = await anonymous.request(
        method, path, json={}, headers={"Authorization": "Bearer an-admin-token-of-tests"}
    )
    assert answer.status_code == 503
    assert "ADMIN_TOKENS" in answer.json()["detail"]
