"""The published description is the truth: schemathesis tries every route of the real program."""

import os
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from fastapi import FastAPI
from sqlalchemy.engine import URL

from tests.api.conftest import SECRET, TOKEN
from tests.ports import free_port

HERE = Path(__file__).parent
PROGRAM = [sys.executable, "-c", "from app.cli import main; main()"]


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


@pytest.fixture
def address(fresh_url: URL, tmp_path: Path) -> Iterator[str]:
    """The real program, receiving only."""
    port = free_port()
    environment = {
        **os.environ,
        "DATABASE_URL": fresh_url.render_as_string(hide_password=False),
        "OPENMETER_WEBHOOK_SECRETS": SECRET,
        "ADMIN_TOKENS": TOKEN,
        "PYTHONPATH": str(HERE.parent.parent),
    }
    log = tmp_path / "serve.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*PROGRAM, "serve", "--no-worker", "--port", str(port)],
            env=environment,
            cwd=tmp_path,
            stdout=output,
            stderr=output,
        )
    url = f"http://127.0.0.1:{port}"
    try:
        deadline = time.monotonic() + 30
        while not _answers(f"{url}/healthz"):
            assert process.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.1)
        yield url
        assert "Traceback" not in log.read_text()
    finally:
        process.terminate()
        process.wait(20)


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=2) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


@pytest.mark.timeout(300)  # 25 s alone, 50 s beside others, over 110 s at load 10
def test_schemathesis_finds_nothing(address: str, tmp_path: Path) -> None:
    found = subprocess.run(
        [
            *(sys.executable, "-m", "schemathesis.cli"),
            *("--config-file", str(HERE / "schemathesis.toml")),
            *("run", f"{address}/openapi.json"),
            *("--header", f"Authorization: Bearer {TOKEN}"),
            *("--max-examples", "40", "--generation-deterministic", "--no-color"),
        ],
        env={
            **os.environ,
            "SCHEMATHESIS_HOOKS": "tests.api.schemathesis_hooks",
            "TEST_WEBHOOK_SECRET": SECRET,
            "PYTHONPATH": str(HERE.parent.parent),
        },
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=280,
        check=False,
    )
    assert found.returncode == 0, found.stdout[-8000:] + found.stderr
    # It has come everywhere, also past the signature.
    assert "Tested: 16" in found.stdout
