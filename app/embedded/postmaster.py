"""The server process, and the thread that is its parent."""

import logging
import os
import signal
import subprocess
import threading
from collections.abc import Sequence
from pathlib import Path

from app.embedded import spawn
from app.embedded.account import Account
from app.embedded.lock import give_to_owner_of_folder

logger = logging.getLogger(__name__)

STOP_STEPS = (
    # A fast stop: sessions are cut, committed work is check-pointed.
    (signal.SIGINT, 30.0),
    # At once; the next start recovers from the write-ahead log.
    (signal.SIGQUIT, 10.0),
    (signal.SIGKILL, 10.0),
)
"""Signals and the seconds each gets."""

LOG_KEPT = 1024 * 1024
"""Bytes after which a start puts the log aside, as the one previous log."""


class Postmaster:
    """A running `postgres`, direct child of this process.

    Linux sends the parent-death signal when the *thread* that forked ends, not the process. A
    thread of a pool would take the server with it when it is let go, so each server has a thread
    of its own, which lives as long as it does.
    """

    def __init__(self, program: Sequence[str], account: Account, log_file: Path) -> None:
        self._command = spawn.command(account, program, at_parents_death=signal.SIGINT)
        self._log_file = log_file
        self._process: subprocess.Popen[bytes] | None = None
        self._failure: OSError | None = None
        self._spawned = threading.Event()
        self._ended = threading.Event()
        self._report_end = False
        self._log_start = 0

    def spawn(self) -> None:
        """Start the process; it is not ready yet. Raises OSError when it cannot be forked."""
        name = "embedded-postgres"
        # A daemon: a program that forgets to stop can end, and the kernel tells the server.
        threading.Thread(target=self._keep, name=name, daemon=True).start()
        self._spawned.wait()
        if self._failure is not None:
            raise self._failure

    def _keep(self) -> None:
        try:
            log = open_log(self._log_file)
            try:
                self._log_start = os.fstat(log).st_size
                self._process = subprocess.Popen(  # noqa: S603 (our own program, no shell)
                    self._command,
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=spawn.environment(),
                    # Ctrl-C in a terminal is for us; the server stops when we have drained.
                    start_new_session=True,
                )
            finally:
                os.close(log)
        except OSError as error:
            self._failure = error
            return
        finally:
            self._spawned.set()
        status = self._process.wait()
        self._ended.set()
        if self._report_end:
            logger.error("PostgreSQL ended by itself, status %d; see %s", status, self._log_file)

    @property
    def pid(self) -> int:
        return self._started().pid

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._started().returncode if self._ended.is_set() else None

    def wait_ended(self, seconds: float | None) -> bool:
        """Wait that long at most (None: for ever) for the process to end; whether it has."""
        return self._ended.wait(seconds)

    def log_since_start(self) -> str:
        """What this server wrote into its log."""
        with self._log_file.open("rb") as log:
            log.seek(self._log_start)
            return log.read(LOG_KEPT).decode(errors="replace")

    def report_end(self) -> None:
        """From now on an end that nobody asked for is an error in our log."""
        self._report_end = True

    def stop(self) -> None:
        """Stop the server and wait until it is gone. Harmless when it is gone already."""
        self._report_end = False
        process = self._started()
        for number, seconds in STOP_STEPS:
            if self._ended.is_set():
                return
            process.send_signal(number)
            if self._ended.wait(seconds):
                return
            logger.warning("PostgreSQL (pid %d) still runs %ds after %s", self.pid, seconds, number)

    def _started(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise RuntimeError("spawn() comes first")
        return self._process


def open_log(path: Path) -> int:
    """Open the log for appending; a long one is put aside first."""
    try:
        if path.lstat().st_size > LOG_KEPT:
            path.replace(path.with_name(path.name + ".1"))
    except FileNotFoundError:
        pass
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
    log = os.open(path, flags, 0o600)
    give_to_owner_of_folder(log, path.parent)
    return log
