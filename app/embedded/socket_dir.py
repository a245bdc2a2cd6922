"""The folder of the server's socket: only the server's user enters it, and its path is short."""

import hashlib
import os
import re
import stat
import tempfile
from pathlib import Path

from app.embedded.account import Account
from app.embedded.errors import folder_errors
from app.embedded.folder import DataFolder
from app.embedded.server import socket_file
from app.errors import SettingsError

LONGEST_SOCKET_PATH = 103
"""Bytes: macOS holds 104 with the final NUL, Linux 108."""

# A comma separates hosts in a URL and folders in PostgreSQL's setting, a leading @ means an
# abstract socket; the rest has been seen to survive URL, setting and driver.
PLAIN = re.compile(r"/[\w /.+=~@#%-]*")


def choose(folder: DataFolder) -> Path:
    """Where the socket goes: in the data folder, or in a short folder named after a hash of it.

    Other processes need not compute it: they read it in postmaster.pid.
    """
    if fits(folder.run):
        return folder.run
    digest = hashlib.sha256(os.fsencode(folder.path)).hexdigest()[:16]
    short = Path(tempfile.gettempdir()).resolve() / f"meterbridge-{digest}"
    if not fits(short):
        raise SettingsError(
            f"METERBRIDGE_DATA_DIR: the path {folder.path} is too long for a socket, and so is "
            "that of the temporary folder; name a shorter one, or set TMPDIR"
        )
    return short


def fits(socket_dir: Path) -> bool:
    size = len(os.fsencode(socket_file(socket_dir)))
    return size <= LONGEST_SOCKET_PATH and PLAIN.fullmatch(str(socket_dir)) is not None


def make(socket_dir: Path, folder: DataFolder, account: Account) -> None:
    """Make the folder for the server's user alone.

    Raises SettingsError when something is in its place that somebody else could have put there:
    who owns the folder can pretend to be the server.
    """
    with folder_errors(folder.path):
        try:
            socket_dir.mkdir(mode=0o700)
        except FileExistsError:
            found = socket_dir.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid not in (account.uid, os.geteuid()):
                raise SettingsError(
                    f"METERBRIDGE_DATA_DIR: {socket_dir} should be a folder for the server's "
                    "socket, and is somebody else's; remove it, or name another data folder"
                ) from None
        # In this order: root without CAP_FOWNER may not change the mode of others' folders.
        if stat.S_IMODE(socket_dir.stat().st_mode) != 0o700:
            socket_dir.chmod(0o700)
        account.take(socket_dir)


def remove(socket_dir: Path, folder: DataFolder) -> None:
    """Clear away a short folder; the one inside the data folder stays."""
    if socket_dir != folder.run:
        try:
            socket_dir.rmdir()
        except OSError:  # not empty, or gone: it is made good at the next start
            return


def as_setting(socket_dir: Path) -> str:
    """The folder as PostgreSQL's list of folders wants it: quoted, for the sake of spaces."""
    return '"' + str(socket_dir).replace('"', '""') + '"'
