"""Several processes on one folder."""

import shutil
import threading
from pathlib import Path

import pytest

from app.embedded import NoCluster, embedded_postgres, running, start
from app.embedded.launcher import start_unless
from tests.embedded.processes import Owner, gone, servers_on
from tests.embedded.queries import ask, remember, remembered


def test_a_second_process_uses_the_server_and_leaves_it_running(data_dir: Path) -> None:
    with start(data_dir) as server, Owner(data_dir) as other:
        remember(server.url, "seen")
        report = other.report()
        assert report == {"pid": server.server.pid, "owned": False, "url": server.url}
        assert remembered(report["url"]) == "seen"
        other.leave()
        assert remembered(server.url) == "seen"


def test_a_second_start_in_the_same_process_attaches(data_dir: Path) -> None:
    with start(data_dir) as server:
        with start(data_dir) as second:
            assert not second.server.owned
        assert running(data_dir) is not None
    assert gone(server.server.pid)


async def test_attaching_is_asynchronous_too(data_dir: Path) -> None:
    async with embedded_postgres(data_dir) as owner:
        async with embedded_postgres(data_dir) as second:
            assert (owner.owned, second.owned) == (True, False)
            assert owner.pid == second.pid
        assert await ask(owner.url, "select 1") == 1


def test_of_several_that_start_at_once_one_owns_the_server(fresh: Path) -> None:
    with Owner(fresh) as first, Owner(fresh) as second, Owner(fresh) as third:
        reports = [owner.report() for owner in (first, second, third)]
        assert sorted(report["owned"] for report in reports) == [False, False, True]
        pids = {report["pid"] for report in reports}
        assert {process.pid for process in servers_on(fresh)} == pids
        assert len(pids) == 1


def test_who_only_looks_makes_no_cluster_and_uses_one_that_is_there(data_dir: Path) -> None:
    shutil.move(data_dir / "postgres", data_dir / "aside")
    for lock in (False, True):  # one that was killed while it began leaves the lock's file
        if lock:
            (data_dir / "server.lock").touch()
        before = set(data_dir.iterdir())
        with pytest.raises(NoCluster, match="DATABASE_URL is not set"):
            start_unless(threading.Event(), data_dir, existing=True)
        assert set(data_dir.iterdir()) == before
    shutil.move(data_dir / "aside", data_dir / "postgres")
    with start_unless(threading.Event(), data_dir, existing=True) as server:
        assert server.server.owned
        with start_unless(threading.Event(), data_dir, existing=True) as second:
            assert not second.server.owned


def test_when_the_owner_leaves_the_next_start_takes_over(data_dir: Path) -> None:
    with Owner(data_dir) as owner:
        first = owner.report()
        with start(data_dir) as attached:
            assert not attached.server.owned
            remember(attached.url, "kept")
            owner.leave()
        assert gone(first["pid"])
    with start(data_dir) as server:
        assert server.server.owned
        assert remembered(server.url) == "kept"


def test_running_tells_only_of_a_server_that_answers(data_dir: Path) -> None:
    assert running(data_dir / "no" / "folder") is None
    assert running(data_dir) is None
    with start(data_dir) as server:
        found = running(data_dir)
        assert found is not None
        assert (found.pid, found.url, found.owned) == (server.server.pid, server.url, False)
    assert running(data_dir) is None


def test_a_folder_is_the_same_by_every_path(data_dir: Path, place: Path) -> None:
    link = place / "link"
    link.symlink_to(data_dir)
    with start(link) as server, start(data_dir) as second:
        assert second.server.pid == server.server.pid


def test_a_copy_of_the_folder_is_not_taken_for_the_original(data_dir: Path, place: Path) -> None:
    """The copy's postmaster.pid names the original's server, which lives."""
    copy = place / "copy"
    with start(data_dir) as original:
        shutil.copytree(data_dir / "postgres", copy / "postgres")
        copy.chmod(0o711)
        assert (copy / "postgres" / "postmaster.pid").exists()
        assert running(copy) is None
        with start(copy) as server:
            assert server.server.owned
            assert server.server.pid != original.server.pid
        assert running(data_dir) is not None
