"""Owners and servers that are killed, at every moment that matters."""

import contextlib
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import psutil
import pytest

from app.embedded import running, start
from app.embedded.account import account_for
from app.embedded.errors import ServerNotStarted
from app.embedded.folder import DataFolder
from app.embedded.install import find_install
from app.embedded.spawn import command, environment
from app.errors import SettingsError
from tests.embedded.processes import Owner, gone, servers_on, wait_until
from tests.embedded.queries import remember, remembered, value


@pytest.mark.parametrize("variant", ["plain", "without_death_signal"])
def test_the_next_start_carries_on_after_kill_9_of_the_owner(data_dir: Path, variant: str) -> None:
    with Owner(data_dir, variant) as owner:
        report = owner.report()
        remember(report["url"], "committed")
        owner.kill()
    with start(data_dir) as server:
        assert server.server.owned
        assert gone(report["pid"])
        assert [process.pid for process in servers_on(data_dir)] == [server.server.pid]
        assert remembered(server.url) == "committed"


if os.uname().sysname == "Linux":

    def test_the_server_dies_with_its_owner_and_stops_cleanly(data_dir: Path) -> None:
        with Owner(data_dir) as owner:
            report = owner.report()
            owner.kill()
            wait_until(lambda: gone(report["pid"]), "the server is gone")
        assert "database system is shut down" in (data_dir / "postgres.log").read_text()
        assert not (data_dir / "postgres" / "postmaster.pid").exists()


MOMENTS = ["initdb-*/PG_VERSION", "initdb-*/base/5", "postgres"]


@pytest.mark.parametrize("moment", MOMENTS)
def test_kill_9_during_the_first_start_leaves_no_half_cluster(fresh: Path, moment: str) -> None:
    with Owner(fresh) as owner:
        wait_until(lambda: any(fresh.glob(moment)), f"{moment} is there")
        owner.kill()
    with start(fresh) as server:
        remember(server.url, "works")
        assert remembered(server.url) == "works"


def test_leftovers_of_a_killed_initdb_go_at_the_next_start(data_dir: Path) -> None:
    leftover = data_dir / "initdb-left"
    (leftover / "base").mkdir(parents=True)
    (leftover / "PG_VERSION").write_text("18\n")
    start(data_dir).stop()
    assert not leftover.exists()


def test_kill_9_of_the_server_loses_no_commit(data_dir: Path) -> None:
    with Owner(data_dir) as owner:
        report = owner.report()
        remember(report["url"], "committed")
        psutil.Process(report["pid"]).kill()
        wait_until(lambda: gone(report["pid"]), "the server is gone")
        owner.leave()
    with start(data_dir) as server:
        assert remembered(server.url) == "committed"


def test_a_killed_server_is_started_again_at_the_same_address(data_dir: Path) -> None:
    server = start(data_dir)
    remember(server.url, "committed")
    for _ in range(2):
        [postmaster] = servers_on(data_dir)
        before = postmaster.pid
        postmaster.kill()
        wait_until(partial(another_answers, data_dir, before), "another one answers")
        assert remembered(server.url) == "committed"
    server.stop()
    assert servers_on(data_dir) == []
    start(data_dir).stop()  # the folder's lock was let go, once


def test_a_server_that_does_not_come_up_again_is_given_up_with_its_owner(data_dir: Path) -> None:
    server = start(data_dir)
    control = data_dir / "postgres" / "global" / "pg_control"
    away = control.rename(data_dir / "away")
    psutil.Process(server.server.pid).kill()
    log = data_dir / "postgres.log"
    wait_until(lambda: "pg_control" in log.read_text(), "it was tried")
    server.stop()
    away.rename(control)
    with start(data_dir) as again:
        assert value(again.url, "select 1") == 1


def another_answers(data_dir: Path, before: int) -> bool:
    found = running(data_dir)
    return found is not None and found.pid != before


def is_checkpointer(process: psutil.Process) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return "checkpointer" in " ".join(process.cmdline())
    return False


def test_sessions_of_a_killed_server_are_waited_for(data_dir: Path) -> None:
    """PostgreSQL refuses to start while one of them still uses the old shared memory."""
    server = start(data_dir)
    postmaster = psutil.Process(server.server.pid)
    (session,) = [p for p in postmaster.children() if is_checkpointer(p)]
    session.suspend()
    postmaster.kill()
    server.stop()
    resume = subprocess.Popen(["sh", "-c", f"sleep 0.5; kill -CONT {session.pid}"])
    try:
        with start(data_dir) as again:
            assert gone(session.pid)
            assert value(again.url, "select 1") == 1
    finally:
        resume.wait()


def test_a_server_started_by_hand_is_left_alone(data_dir: Path) -> None:
    start(data_dir).stop()  # the files belong to the server's user now
    account = account_for(DataFolder(data_dir))
    socket_dir = data_dir / "run"
    program = [find_install().program("postgres"), "-D", str(data_dir / "postgres")]
    options = ["-c", "listen_addresses=", "-c", f"unix_socket_directories={socket_dir}"]
    by_hand = subprocess.Popen(
        command(account, [*program, *options], at_parents_death=signal.SIGINT),
        env=environment(),
        stderr=subprocess.DEVNULL,
    )
    try:
        pid_file = data_dir / "postgres" / "postmaster.pid"
        wait_until(lambda: pid_file.exists() and "ready" in pid_file.read_text(), "it is ready")
        with pytest.raises(SettingsError, match="did not start") as caught:
            start(data_dir)
        assert str(by_hand.pid) in str(caught.value)
        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait()
    with start(data_dir) as server:
        assert server.server.owned


def test_a_damaged_cluster_is_an_error_and_not_made_anew(data_dir: Path) -> None:
    (data_dir / "postgres" / "global" / "pg_control").unlink()
    with pytest.raises(ServerNotStarted, match="pg_control"):
        start(data_dir)
    assert servers_on(data_dir) == []
