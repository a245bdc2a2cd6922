"""Folders for the program, and a sandbox on a real port."""

import shutil
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.engine import URL

from app.commands.demo_http import LocalApi
from app.config import Settings
from app.sandbox.server import bind, build_server, create_sandbox, url_of
from tests.commands.program import SECRET, TOKEN, Program


@pytest.fixture(autouse=True)
def no_settings_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a developer has set for the service is none of the tests' business."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder that every user may pass through, as pytest's `tmp_path` is not for root."""
    folder = Path(tempfile.mkdtemp(prefix="mb-")).resolve()
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def program(tmp_path: Path, fresh_url: URL) -> Program:
    """The program on a fresh database."""
    return Program(
        tmp_path,
        {
            "DATABASE_URL": fresh_url.render_as_string(hide_password=False),
            "OPENMETER_WEBHOOK_SECRETS": SECRET,
            "ADMIN_TOKENS": TOKEN,
            "STRIPE_API_KEY": "sk_test_sandbox",
            "STRIPE_API_BASE": "http://127.0.0.1:9",
        },
    )


@pytest.fixture(scope="session")
def sandbox_server() -> Iterator[str]:
    with bind("127.0.0.1", 0) as bound:
        server = build_server(create_sandbox())
        thread = threading.Thread(target=server.run, kwargs={"sockets": [bound]})
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started and time.monotonic() < deadline:
            time.sleep(0.01)
        yield url_of(bound)
        server.should_exit = True
        thread.join(timeout=20)


@pytest.fixture
def control(sandbox_server: str) -> LocalApi:
    """The control API of a sandbox at its start; its key is `sk_test_sandbox`."""
    api = LocalApi(sandbox_server)
    api.call("POST", "/_sandbox/reset")
    return api
