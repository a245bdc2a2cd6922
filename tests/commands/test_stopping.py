"""A SIGTERM is never lost, whenever in the start of `serve` it comes."""

import asyncio
import signal
from collections.abc import Iterator
from socket import socket

import pytest
import uvicorn
from pydantic import SecretStr
from sqlalchemy.engine import URL

from app.commands import serving
from app.config import Settings


@pytest.fixture(autouse=True)
def handlers_as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    # It would freeze what the test session holds.
    monkeypatch.setattr(serving, "settle_garbage_collector", lambda: None)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


async def _serve(url: URL) -> None:
    settings = Settings(
        _env_file=None,
        database_url=SecretStr(url.render_as_string(hide_password=False)),
    )
    async with asyncio.timeout(60):
        await serving.serve(
            settings, host="127.0.0.1", port=0, with_worker=False, migrate_first=False
        )


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_just_before_uvicorn_listens_to_signals(
    fresh_url: URL, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    begun: list[uvicorn.Server] = []
    real = uvicorn.Server.serve

    async def late(server: uvicorn.Server, sockets: list[socket] | None = None) -> None:
        begun.append(server)
        signal.raise_signal(number)
        await real(server, sockets=sockets)

    monkeypatch.setattr(uvicorn.Server, "serve", late)
    await _serve(fresh_url)
    assert len(begun) == 1


async def test_while_it_is_built(fresh_url: URL, monkeypatch: pytest.MonkeyPatch) -> None:
    def announce(*_: object, **__: object) -> None:
        signal.raise_signal(signal.SIGTERM)

    async def serve(*_: object, **__: object) -> None:
        pytest.fail("it was asked to stop before")

    monkeypatch.setattr(serving, "announce", announce)
    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    await _serve(fresh_url)
    assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
