"""From a command line to a server that takes connections."""

import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

from app.embedded import handshake
from app.embedded.account import Account
from app.embedded.errors import Abandoned, ServerNotStarted
from app.embedded.folder import DataFolder
from app.embedded.postmaster import Postmaster
from app.embedded.spawn import raise_if_not_executed

logger = logging.getLogger(__name__)

READY_TIMEOUT = 300.0
"""Seconds; recovery after a kill replays up to `max_wal_size` (1 GB) of log."""

LEFTOVER_TIMEOUT = 15.0
"""Seconds for the sessions of a killed postmaster to notice and end."""

LEFTOVER = ("pre-existing shared memory block", 'lock file "postmaster.pid" already exists')
"""How PostgreSQL says that they have not yet."""

LOG_LINES = 10
POLL = 0.02


def start_postmaster(
    program: Sequence[str],
    account: Account,
    folder: DataFolder,
    socket_dir: Path,
    given_up: threading.Event,
) -> Postmaster:
    """Start the server and wait until it is ready. Raises ServerNotStarted, Abandoned, OSError."""
    began = time.monotonic()
    while True:
        postmaster = Postmaster(program, account, folder.log_file)
        postmaster.spawn()
        try:
            if wait_ready(postmaster, folder, socket_dir, given_up):
                return postmaster
            log = postmaster.log_since_start()
            raise_if_not_executed(account, postmaster.status or 0, log.encode())
            leftover = any(text in log for text in LEFTOVER)
            if not leftover or time.monotonic() - began > LEFTOVER_TIMEOUT:
                raise ServerNotStarted(told(folder, f"exit status {postmaster.status}", log))
        except BaseException:
            postmaster.stop()
            raise
        logger.info("sessions of a killed PostgreSQL still end in %s; trying again", folder.path)
        if given_up.wait(0.1):
            raise Abandoned


def wait_ready(
    postmaster: Postmaster, folder: DataFolder, socket_dir: Path, given_up: threading.Event
) -> bool:
    """True when it takes connections, False when it ended."""
    began = time.monotonic()
    while not postmaster.wait_ended(POLL):
        answer = handshake.ask(socket_dir)
        if answer.state is handshake.State.READY:
            postmaster.report_end()
            return True
        waited = time.monotonic() - began
        if answer.state is handshake.State.REFUSED or waited > READY_TIMEOUT:
            why = f"after {waited:.0f} s: {answer.detail or answer.state.value}"
            raise ServerNotStarted(told(folder, why, postmaster.log_since_start()))
        if given_up.is_set():
            raise Abandoned
    return False


def told(folder: DataFolder, why: str, log: str) -> str:
    lines = log.strip().splitlines()[-LOG_LINES:]
    return "\n  ".join(
        [f"the embedded PostgreSQL in {folder.path} did not start ({why}); its log ends:", *lines]
    )
