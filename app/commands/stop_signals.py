"""SIGTERM and SIGINT: the first asks to stop, the second ends the process at once."""

import logging
import os
import signal
from collections.abc import Callable
from types import FrameType

logger = logging.getLogger(__name__)

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


def on_stop(ask: Callable[[], object]) -> None:
    """Call `ask` at the first of these signals; at the second exit with 128 and its number.

    At once, without any clean-up: whoever sends a second signal has waited long enough, and an
    end at any moment costs nothing but the time of the leases. Call it in the main thread.
    """
    asked = False

    def handle(number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            logger.warning("a second signal: ending at once")
            os._exit(128 + number)
        asked = True
        ask()

    for number in STOP_SIGNALS:
        signal.signal(number, handle)
