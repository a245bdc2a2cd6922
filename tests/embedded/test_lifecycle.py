import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from app.embedded import (
    RunningServer,
    ServerNotStarted,
    embedded_postgres,
    postmaster,
    running,
    start,
)
from app.embedded.server import ROLE
from app.errors import SettingsError
from tests.embedded.processes import gone, no_server_left, servers_on, wait_until
from tests.embedded.queries import ask, connect, remember, remembered, value


def test_the_first_start_makes_everything_and_the_second_keeps_it(
    fresh: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "app.embedded")
    with start(fresh) as first:
        assert first.server.owned
        assert str(fresh) in caplog.text
        remember(first.url, "kept")
    assert gone(first.server.pid)
    with start(fresh) as second:
        assert second.server.pid != first.server.pid
        assert remembered(second.url) == "kept"


@pytest.fixture(scope="module")
def server(shelf: Path) -> Iterator[RunningServer]:
    """One server for the tests that only look at it."""
    folder = shelf / "observed"
    with pytest.MonkeyPatch.context() as patch, no_server_left(folder):
        patch.setenv("STRIPE_API_KEY", "sk_test_secret")
        patch.setenv("PGDATA", "/nowhere")
        with start(folder, settings={"work_mem": "5MB"}) as server:
            yield server


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("select current_user::text", "meterbridge"),
        ("select current_database()::text", "meterbridge"),
        ("select rolsuper from pg_roles where rolname = current_user", False),
        ("select rolcreatedb from pg_roles where rolname = current_user", True),
        ("select datdba::regrole::text from pg_database where datname = 'meterbridge'", ROLE),
        ("show server_encoding", "UTF8"),
        ("select datlocale from pg_database where datname = 'meterbridge'", "C.UTF-8"),
        ("show fsync", "on"),
        ("show listen_addresses", ""),
        ("show timezone", "UTC"),
        ("show shared_buffers", "64MB"),
        ("show max_connections", "200"),
        ("show idle_in_transaction_session_timeout", "1min"),
        ("show unix_socket_permissions", "0700"),
        ("show work_mem", "5MB"),
    ],
)
def test_what_a_server_is(server: RunningServer, question: str, answer: object) -> None:
    assert value(server.url, question) == answer


def test_nobody_else_can_reach_the_socket(server: RunningServer) -> None:
    assert server.server.socket_dir.stat().st_mode & 0o077 == 0


async def test_our_secrets_do_not_reach_the_server(server: RunningServer) -> None:
    """Asked of the server itself: root in a container may not look into others' processes."""
    connection = await connect(server.url, user="postgres")
    await connection.execute("create temp table words (word text); copy words from program 'env'")
    lines = [row["word"] for row in await connection.fetch("select word from words")]
    await connection.close()
    assert "TZ=UTC" in lines
    assert [line for line in lines if "sk_test_secret" in line or "/nowhere" in line] == []


def test_ctrl_c_in_a_terminal_is_not_for_the_server(server: RunningServer) -> None:
    assert os.getsid(server.server.pid) == server.server.pid != os.getsid(0)


def test_stopping_twice_is_harmless(data_dir: Path) -> None:
    server = start(data_dir)
    server.stop()
    server.stop()
    assert servers_on(data_dir) == []


def test_stopping_while_a_session_is_open_cuts_it(data_dir: Path) -> None:
    async def scenario() -> None:
        server = await asyncio.to_thread(start, data_dir)
        session = await connect(server.url)
        await asyncio.to_thread(server.stop)
        assert gone(server.server.pid)
        session.terminate()

    asyncio.run(scenario())


def test_a_forked_copy_of_the_owner_stops_nothing(data_dir: Path) -> None:
    with start(data_dir) as server:
        ours, server._process = server._process, -1
        server.stop()
        assert running(data_dir) is not None
        server._process = ours
    assert running(data_dir) is None


def test_a_server_outlives_the_thread_that_asked_for_it(data_dir: Path) -> None:
    """Linux sends the parent-death signal at the end of the forking thread."""

    async def scenario() -> None:
        servers = []
        thread = threading.Thread(target=lambda: servers.append(start(data_dir)))
        thread.start()
        await asyncio.to_thread(thread.join)
        (server,) = servers
        # A server told to stop would cut this session in its sleep.
        assert await ask(server.url, "select true from pg_sleep(0.5)")
        await asyncio.to_thread(server.stop)

    asyncio.run(scenario())


async def test_the_event_loop_runs_on_while_the_server_starts_and_stops(data_dir: Path) -> None:
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    counting = asyncio.create_task(count())
    async with embedded_postgres(data_dir) as server:
        after_start = turns
        assert after_start > 1
        assert server.owned
        assert await ask(server.url, "select 1") == 1
        before_stop = turns
    counting.cancel()
    assert turns > before_stop + 1
    assert gone(server.pid)


async def test_an_error_in_the_body_stops_the_server(data_dir: Path) -> None:
    with pytest.raises(ZeroDivisionError):
        async with embedded_postgres(data_dir):
            raise ZeroDivisionError
    assert servers_on(data_dir) == []


async def cancelled_at(folder: Path, moment: str) -> None:
    async def use() -> None:
        async with embedded_postgres(folder):
            await asyncio.Event().wait()

    using = asyncio.create_task(use())
    await asyncio.to_thread(wait_until, lambda: any(folder.glob(moment)), f"{moment} is there")
    using.cancel()
    with pytest.raises(asyncio.CancelledError):
        await using
    assert servers_on(folder) == []


async def test_a_first_start_that_is_cancelled_leaves_no_server(fresh: Path) -> None:
    await cancelled_at(fresh, "initdb-*")
    async with embedded_postgres(fresh) as server:
        assert server.owned


async def test_a_start_that_is_cancelled_leaves_no_server(data_dir: Path) -> None:
    await cancelled_at(data_dir, "postgres/postmaster.pid")
    async with embedded_postgres(data_dir) as server:
        assert server.owned


def test_a_server_that_does_not_start_shows_its_log(data_dir: Path) -> None:
    with pytest.raises(ServerNotStarted, match="shared_buffers") as caught:
        start(data_dir, settings={"shared_buffers": "nonsense"})
    assert str(data_dir) in str(caught.value)
    with start(data_dir) as server:
        assert server.server.owned


@pytest.mark.parametrize("name", ["port", "listen_addresses", "Port", "a b", "x=y", "-c", ""])
def test_settings_that_may_not_be_given(fresh: Path, name: str) -> None:
    with pytest.raises(SettingsError, match="does not take"):
        start(fresh, settings={name: "1"})
    assert not fresh.exists()


def test_an_end_that_nobody_asked_for_is_reported(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with start(data_dir) as server:
        psutil.Process(server.server.pid).kill()
        wait_until(lambda: "ended by itself" in caplog.text, "the end is in the log")
    with start(data_dir) as server:
        assert value(server.url, "select 1") == 1


def test_a_long_log_is_put_aside(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(postmaster, "LOG_KEPT", 100)
    for _ in range(3):
        start(data_dir).stop()
    logs = sorted(path.name for path in data_dir.glob("postgres.log*"))
    assert logs == ["postgres.log", "postgres.log.1"]
    assert (data_dir / "postgres.log").read_text().count("starting PostgreSQL") == 1
