"""What an owner that was killed may have left behind: its pid file, or its running server."""

import itertools
import logging
import os
import signal
import subprocess
import time
from pathlib import Path

from app.embedded import handshake, pidfile
from app.embedded.folder import DataFolder
from app.embedded.server_settings import CLUSTER_NAME
from app.errors import SettingsError

logger = logging.getLogger(__name__)

FAST_STOP = 30.0
"""Seconds for a stop with a checkpoint, before the one without."""

GIVE_UP = 45.0

UNREADABLE = 1.0
"""Seconds for a pid file to get its content: PostgreSQL creates it empty and fills it at once."""

POLL = 0.02

PROC = Path("/proc")


def settle(folder: DataFolder) -> None:
    """Wait until no server runs on the cluster, stopping one that lost its owner. Needs the lock.

    Who holds the lock knows that the owner is gone. On Linux the kernel has told its server to
    stop, which may take a moment; elsewhere the server lives on until somebody does this.

    Raises SettingsError for a server that meterbridge did not start or cannot reach.
    """
    began = time.monotonic()
    asked: signal.Signals | None = None
    while (text := pidfile.read(folder.cluster)) is not None:
        waited = time.monotonic() - began
        found = pidfile.PidFile.parse(text)
        if found is None:
            if waited > UNREADABLE:
                logger.warning("removing an unreadable postmaster.pid in %s", folder.cluster)
                pidfile.path_in(folder.cluster).unlink(missing_ok=True)
                return
        elif serves(found.pid, folder.cluster):
            raise_if_foreign(found.pid, folder)
            wanted = signal.SIGINT if waited < FAST_STOP else signal.SIGQUIT
            if asked is not wanted:
                logger.warning("stopping PostgreSQL (pid %d), whose owner is gone", found.pid)
                send(found.pid, wanted)
                asked = wanted
        elif not answers(found, folder):
            if alive(found.pid):
                logger.info("postmaster.pid names pid %d, which is not ours now", found.pid)
                pidfile.forget_pid(folder.cluster, text)
            return
        if waited > GIVE_UP:
            raise SettingsError(
                f"METERBRIDGE_DATA_DIR: a PostgreSQL server that cannot be stopped from here uses "
                f"{folder.path}, perhaps in another container; stop it, or name another folder"
            )
        time.sleep(POLL)


def answers(found: pidfile.PidFile, folder: DataFolder) -> bool:
    """Whether somebody listens where the file says; a file copied with its folder says nothing."""
    if found.cluster != str(folder.cluster):
        return False
    return handshake.ask(found.socket_dir).state is not handshake.State.ABSENT


def serves(pid: int, cluster: Path) -> bool:
    """Whether the process is a PostgreSQL server on this cluster, and not one that got its pid."""
    words = command_line(pid)
    if not words or Path(words[0]).name != "postgres":
        return False
    return any(pair == ("-D", str(cluster)) for pair in itertools.pairwise(words))


def raise_if_foreign(pid: int, folder: DataFolder) -> None:
    if f"cluster_name={CLUSTER_NAME}" not in command_line(pid):
        raise SettingsError(
            f"METERBRIDGE_DATA_DIR: PostgreSQL (pid {pid}), which meterbridge did not start, runs "
            f"on {folder.path}; stop it, or set DATABASE_URL to use it"
        )


def command_line(pid: int) -> list[str]:
    """The words a process was started with; empty for one that is gone or a zombie.

    Not `/proc/PID/cwd`, which root in a container may not read of another user's process.
    """
    if not PROC.joinpath("self", "cmdline").exists():
        return words_of_ps(pid)
    try:
        words = PROC.joinpath(str(pid), "cmdline").read_bytes().split(b"\0")
    except OSError:
        return []
    return [os.fsdecode(word) for word in words[:-1]]


def words_of_ps(pid: int) -> list[str]:
    """The same from `ps`, for macOS: it does not quote, so a path with spaces is put together."""
    result = subprocess.run(  # noqa: S603 (a fixed program)
        ["/bin/ps", "-ww", "-o", "args=", "-p", str(pid)],
        capture_output=True,
        check=False,
    )
    program, _, rest = os.fsdecode(result.stdout).strip().partition(" -D ")
    cluster, *options = rest.split(" -c ")
    return [program, "-D", cluster, *options]


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (PermissionError, OverflowError):
        return True
    return True


def send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
    except PermissionError:
        logger.warning("PostgreSQL (pid %d) runs as a user we may not signal", pid)
