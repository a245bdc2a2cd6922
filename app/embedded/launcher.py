"""Starting the server of a data folder, or finding the one that runs."""

import atexit
import logging
import os
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from app.embedded import handshake, pidfile, reach, socket_dir
from app.embedded.account import account_for
from app.embedded.cluster import check_version, ensure_cluster, require_cluster
from app.embedded.errors import Abandoned, ServerNotStarted, folder_errors
from app.embedded.folder import DataFolder, create, resolve
from app.embedded.install import MAJOR, copied_install, find_install
from app.embedded.keeper import Keeper
from app.embedded.lock import FolderLock
from app.embedded.orphan import settle
from app.embedded.postmaster import Postmaster
from app.embedded.server import EmbeddedServer, url_of
from app.embedded.server_settings import options
from app.embedded.startup import start_postmaster

logger = logging.getLogger(__name__)

ATTACH_TIMEOUT = 120.0
"""Seconds for another process, which holds the lock, to bring its server up (or to let go)."""

POLL = 0.02


class RunningServer:
    """A server in use by this process. `stop()` ends an owned one and leaves another's alone.

    An owned one that ends by itself is started again, at the same address.
    """

    def __init__(
        self,
        server: EmbeddedServer,
        folder: DataFolder,
        owned: Keeper | None = None,
    ) -> None:
        self.server = server
        self._folder = folder
        self._owned = owned
        self._process = os.getpid()
        self._guard = threading.Lock()
        if owned is not None:
            # Without the kernel's parent-death signal (macOS) a program that forgets would leak it.
            atexit.register(self.stop)

    @property
    def url(self) -> str:
        """The SQLAlchemy URL of the database."""
        return self.server.url

    def stop(self) -> None:
        """Stop an owned server and wait for its end. A second call, or one in a fork, is harmless.

        Sessions of other processes are cut with an error; committed work is safe.
        """
        with self._guard:
            if self._owned is None or self._process != os.getpid():
                return
            keeper, self._owned = self._owned, None
            try:
                keeper.stop()
                socket_dir.remove(self.server.socket_dir, self._folder)
            finally:
                atexit.unregister(self.stop)
        logger.info("embedded PostgreSQL in %s stopped", self._folder.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()


def start(data_dir: Path, *, settings: Mapping[str, str] | None = None) -> RunningServer:
    """Start the server of the folder and own it, or attach to the one that runs there.

    `settings` are PostgreSQL settings by name; an attached server keeps those of its owner. Blocks
    until the server takes connections: 0.5 to 2 s for the first start, then far less.

    Raises SettingsError (one line, naming what to change) for a folder or installation that cannot
    be used, ServerNotStarted when the server does not come up.
    """
    return start_unless(threading.Event(), data_dir, settings=settings)


def start_unless(
    given_up: threading.Event,
    data_dir: Path,
    *,
    settings: Mapping[str, str] | None = None,
    existing: bool = False,
) -> RunningServer:
    """`start`, for a caller that may lose interest: raises Abandoned soon after `given_up`.

    With `existing` no cluster is made: NoCluster where none is there, and nothing was changed.
    """
    folder = resolve(data_dir)
    install = find_install()
    place = socket_dir.choose(folder)
    server_options = options(place, settings or {})
    with folder_errors(folder.path):
        check_version(folder)
        # Another process may be making one: it holds the lock until that is there.
        if existing and not folder.lock_file.exists():
            require_cluster(folder)
    create(folder)
    lock = acquire_or_attach(folder, given_up)
    if isinstance(lock, EmbeddedServer):
        logger.info("using the PostgreSQL (pid %d) that runs in %s", lock.pid, folder.path)
        return RunningServer(lock, folder)
    try:
        with folder_errors(folder.path):
            if existing:
                require_cluster(folder)
            account = account_for(folder)
            if not reach.survey(folder, place, install, account):
                install = copied_install(install, folder)
            settle(folder)
            ensure_cluster(folder, install, account)
            socket_dir.make(place, folder, account)
            program = [install.program("postgres"), "-D", str(folder.cluster), *server_options]

            def begin(given_up: threading.Event) -> Postmaster:
                return start_postmaster(program, account, folder, place, given_up)

            postmaster = begin(given_up)
    except BaseException:
        lock.release()
        raise
    logger.info("embedded PostgreSQL %d (pid %d) runs in %s", MAJOR, postmaster.pid, folder.path)
    server = EmbeddedServer(url_of(place), folder.path, place, owned=True, pid=postmaster.pid)
    return RunningServer(server, folder, Keeper(postmaster, lock, begin))


def acquire_or_attach(folder: DataFolder, given_up: threading.Event) -> FolderLock | EmbeddedServer:
    """Whatever comes first: the lock, or a server of the one who holds it."""
    deadline = time.monotonic() + ATTACH_TIMEOUT
    while True:
        with folder_errors(folder.path):
            lock = FolderLock.try_acquire(folder.lock_file)
        if lock is not None:
            return lock
        found = running(folder.path)
        if found is not None:
            return found
        if given_up.wait(POLL):
            raise Abandoned
        if time.monotonic() > deadline:
            raise ServerNotStarted(
                f"another process holds {folder.lock_file}, and its PostgreSQL did not answer "
                f"within {ATTACH_TIMEOUT:.0f} s; see {folder.log_file}"
            )


def running(data_dir: Path) -> EmbeddedServer | None:
    """The server that takes connections in the folder now; None when there is none.

    Changes nothing. Raises SettingsError when the folder is closed to this user.
    """
    folder = resolve(data_dir)
    with folder_errors(folder.path):
        text = pidfile.read(folder.cluster)
    found = None if text is None else pidfile.PidFile.parse(text)
    if found is None or found.cluster != str(folder.cluster):
        return None
    answer = handshake.ask(found.socket_dir)
    if answer.state is handshake.State.READY:
        return EmbeddedServer(
            url_of(found.socket_dir), folder.path, found.socket_dir, owned=False, pid=found.pid
        )
    return None
