"""A program that owns (or uses) the server of a folder until its standard input ends.

    python -m tests.embedded.owner FOLDER [VARIANT]

It prints one line of JSON when the server answers, or when it does not start.
"""

import ctypes
import json
import logging
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from app.embedded import spawn, start
from app.embedded.account import Account
from app.errors import MeterbridgeError

PR_CAPBSET_DROP = 24
CAP_SETUID = 7


def without_death_signal() -> None:
    """As on macOS, whose kernel knows no parent-death signal."""
    original = spawn.command

    def command(account: Account, program: Sequence[str], **_: object) -> list[str]:
        return original(account, program)

    spawn.command = command


def without_capability() -> None:
    """As in a container that may not change users. Nothing to lose for who is not root."""
    ctypes.CDLL(None).prctl(PR_CAPBSET_DROP, CAP_SETUID, 0, 0, 0)


VARIANTS: dict[str, Callable[[], None]] = {
    "plain": lambda: None,
    "without_death_signal": without_death_signal,
    "without_capability": without_capability,
}


def main(folder: str, variant: str = "plain") -> None:
    logging.basicConfig(level=logging.INFO)
    VARIANTS[variant]()
    report: dict[str, object]
    try:
        server = start(Path(folder))
    except MeterbridgeError as error:
        report = {"error": type(error).__name__, "message": str(error)}
    else:
        report = {"pid": server.server.pid, "owned": server.server.owned, "url": server.url}
    sys.stdout.write(json.dumps(report) + "\n")
    sys.stdout.flush()
    sys.stdin.read()
    if "error" not in report:
        server.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
