"""`postmaster.pid` after a crash: it may name anybody, or nobody."""

import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from app.embedded import orphan, pidfile, start
from app.embedded.account import account_for
from app.embedded.folder import DataFolder
from app.embedded.orphan import serves, words_of_ps
from app.embedded.spawn import command
from tests.embedded.queries import value

TEMPLATE = "{pid}\n{cluster}\n1700000000\n5432\n{cluster}/../run\n\n  5432001  1\nready   \n"


@pytest.fixture
def stranger(data_dir: Path) -> Iterator[int]:
    """A living process of the server's own user, which PostgreSQL by itself would not start beside.

    Its command line even holds the cluster's path.
    """
    account = account_for(DataFolder(data_dir))
    words = ["/bin/sh", "-c", "read x", "postgres", "-D", str(data_dir / "postgres")]
    process = subprocess.Popen(command(account, words), stdin=subprocess.PIPE)
    yield process.pid
    assert process.poll() is None, "the stranger was hurt"
    process.communicate(b"\n")


def write(data_dir: Path, text: str) -> None:
    path = data_dir / "postgres" / "postmaster.pid"
    path.write_text(text)
    owner = path.parent.stat()
    os.chown(path, owner.st_uid, owner.st_gid)


def test_a_pid_file_that_names_a_stranger(data_dir: Path, stranger: int) -> None:
    write(data_dir, TEMPLATE.format(pid=stranger, cluster=data_dir / "postgres"))
    with start(data_dir) as server:
        assert server.server.pid != stranger
        assert value(server.url, "select 1") == 1


CONTENTS: dict[str, Callable[[str], str]] = {
    "our own pid": lambda cluster: TEMPLATE.format(pid=os.getpid(), cluster=cluster),
    "pid 1": lambda cluster: TEMPLATE.format(pid=1, cluster=cluster),
    "a pid beyond all limits": lambda cluster: TEMPLATE.format(pid=2**31 - 1, cluster=cluster),
    "a pid no system call takes": lambda cluster: TEMPLATE.format(pid=2**80, cluster=cluster),
    "another folder": lambda _: TEMPLATE.format(pid=os.getpid(), cluster="/srv/elsewhere"),
    "empty": lambda _: "",
    "cut short": lambda cluster: f"{os.getpid()}\n{cluster}\n",
    "not a pid file": lambda _: "\0\0\0\n" * 9,
}


@pytest.mark.parametrize("content", CONTENTS.values(), ids=CONTENTS)
def test_a_stale_pid_file_does_not_prevent_a_start(
    data_dir: Path, content: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(orphan, "UNREADABLE", 0.1)
    write(data_dir, content(str(data_dir / "postgres")))
    with start(data_dir) as server:
        assert value(server.url, "select 1") == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("12\n/d\n1\n5432\n/run\n", pidfile.PidFile(12, "/d", Path("/run"))),
        ("12\n/d a\n1\n5432\n/run b\n*\n k\nready", pidfile.PidFile(12, "/d a", Path("/run b"))),
        ("", None),
        ("12", None),
        ("12\n/d\n1\n5432", None),
        ("12\n/d\n1\n5432\n", None),  # the socket's line is written later
        ("-12\n/d\n1\n5432\n/run\n", None),  # a single-user session
        ("x\n/d\n1\n5432\n/run\n", None),
        ("\u0661\n/d\n1\n5432\n/run\n", None),
        ("9" * 5000 + "\n/d\n1\n5432\n/run\n", None),
    ],
)
def test_parsing(text: str, expected: pidfile.PidFile | None) -> None:
    assert pidfile.PidFile.parse(text) == expected


def test_forgetting_a_pid_keeps_what_guards_the_shared_memory(tmp_path: Path) -> None:
    text = TEMPLATE.format(pid=4711, cluster="/d")
    pidfile.path_in(tmp_path).write_text(text)
    pidfile.forget_pid(tmp_path, text)
    kept = pidfile.path_in(tmp_path).read_text()
    assert kept.splitlines()[1:] == text.splitlines()[1:]
    assert kept.splitlines()[0] == str(pidfile.NO_PID)


def test_a_server_is_known_by_its_command_line(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with start(data_dir) as server:
        pid, cluster = server.server.pid, data_dir.resolve() / "postgres"
        assert serves(pid, cluster)
        assert not serves(pid, data_dir)
        assert not serves(os.getpid(), cluster)
    assert not serves(pid, cluster)


def test_the_words_of_ps(monkeypatch: pytest.MonkeyPatch) -> None:
    def ps(*_: object, **__: object) -> subprocess.CompletedProcess[bytes]:
        line = (
            b"/opt/my tree/postgres -D /data/a b/postgres -c fsync=on -c cluster_name=meterbridge\n"
        )
        return subprocess.CompletedProcess([], 0, line, b"")

    monkeypatch.setattr(subprocess, "run", ps)
    assert words_of_ps(1) == [
        "/opt/my tree/postgres",
        "-D",
        "/data/a b/postgres",
        "fsync=on",
        "cluster_name=meterbridge",
    ]
