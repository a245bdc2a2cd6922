"""The owner's side of a server: it is started again when it ends by itself."""

import logging
import threading
from collections.abc import Callable

from app.embedded.errors import Abandoned
from app.embedded.lock import FolderLock
from app.embedded.postmaster import Postmaster
from app.errors import MeterbridgeError

logger = logging.getLogger(__name__)

PAUSES = (0.0, 1.0, 2.0, 5.0, 10.0)
"""Seconds before each new start; the last one repeats."""


class Keeper:
    """Keeps a server running until `stop`. Holds the folder's lock for as long.

    `begin` starts a server and waits until it is ready; it raises Abandoned soon after the event
    that it is given is set.
    """

    def __init__(
        self,
        postmaster: Postmaster,
        lock: FolderLock,
        begin: Callable[[threading.Event], Postmaster],
    ) -> None:
        self._postmaster = postmaster
        self._lock = lock
        self._begin = begin
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="embedded-keeper", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Stop the server, wait for its end, and let go of the folder."""
        self._stopping.set()
        try:
            self._postmaster.stop()
            self._thread.join()
        finally:
            self._lock.release()

    def _keep(self) -> None:
        failures = 0
        while True:
            self._postmaster.wait_ended(None)
            if self._stopping.wait(PAUSES[min(failures, len(PAUSES) - 1)]):
                return
            try:
                # In this order: `stop` finds the new one, or is found by the next line.
                self._postmaster = self._begin(self._stopping)
                if self._stopping.is_set():
                    self._postmaster.stop()
            except Abandoned:
                return
            except (MeterbridgeError, OSError) as error:
                failures += 1
                logger.error("PostgreSQL could not be started again: %s", error)
            else:
                failures = 0
                logger.warning("PostgreSQL was started again (pid %d)", self._postmaster.pid)
