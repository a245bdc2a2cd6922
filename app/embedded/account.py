"""The user of the operating system that the server runs as: PostgreSQL refuses to run as root."""

import os
import pwd
from dataclasses import dataclass
from pathlib import Path

from app.embedded.folder import DataFolder
from app.errors import SettingsError

UNPRIVILEGED = "nobody"


@dataclass(frozen=True, slots=True)
class Account:
    """`switched` is true when we are root and the server runs as somebody else."""

    name: str
    uid: int
    gid: int
    switched: bool

    def take(self, path: Path) -> None:
        """Give one file or folder to this user. Never follows a symlink somebody put there."""
        if self.switched:
            os.chown(path, self.uid, self.gid, follow_symlinks=False)

    def take_tree(self, path: Path) -> None:
        self.take(path)
        for folder, folders, files in os.walk(path):
            for name in (*folders, *files):
                self.take(Path(folder, name))


def account_for(folder: DataFolder) -> Account:
    """Ourselves; for root the one the files belong to already, else `nobody`.

    Raises SettingsError when there is no such user.
    """
    if os.geteuid() != 0:
        uid = os.geteuid()
        return Account(name_of(uid), uid, os.getegid(), switched=False)
    for path in (folder.cluster, folder.path):
        if path.is_dir() and (owner := path.stat()).st_uid != 0:
            gid = primary_group(owner.st_uid)
            gid = owner.st_gid if gid is None else gid
            return Account(name_of(owner.st_uid), owner.st_uid, gid, switched=True)
    try:
        entry = pwd.getpwnam(UNPRIVILEGED)
    except KeyError:
        raise SettingsError(
            f"PostgreSQL does not run as root, and there is no user '{UNPRIVILEGED}' to run it as: "
            "start meterbridge as another user, or set DATABASE_URL"
        ) from None
    return Account(entry.pw_name, entry.pw_uid, entry.pw_gid, switched=True)


def name_of(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def primary_group(uid: int) -> int | None:
    try:
        return pwd.getpwuid(uid).pw_gid
    except KeyError:
        return None


def has_entry(uid: int) -> bool:
    """Whether the user database knows this uid; initdb refuses to work for one it does not know."""
    return primary_group(uid) is not None
