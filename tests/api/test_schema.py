"""The published description is the truth: schemathesis tries every route against it."""

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings

from tests.api.conftest import TOKEN


def test_openapi_says_what_every_route_may_answer(app: FastAPI) -> None:
    document = app.openapi()
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            where = f"{method} {path}"
            assert operation.get("summary"), where
            if path.startswith("/v1"):
                assert operation["security"] == [{"AdminToken": []}], where
                assert {"401", "503"} <= set(operation["responses"]), where
            for status, answer in operation["responses"].items():
                if status >= "400" and not path.startswith("/readyz"):
                    assert list(answer["content"]) == ["application/problem+json"], where
