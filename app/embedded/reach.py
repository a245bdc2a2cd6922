"""Whether the server's user, when it is not us, can get to the places it needs."""

from pathlib import Path

from app.embedded.account import Account
from app.embedded.folder import DataFolder
from app.embedded.spawn import unreachable
from app.errors import SettingsError


def ensure(folder: DataFolder, socket_dir: Path, account: Account) -> None:
    """Open the data folder itself for passing through, if it is ours; never a folder above it.

    Raises SettingsError naming the folder that is closed.
    """
    if not account.switched:
        return
    blocked = unreachable(account, [folder.path])[0]
    if blocked == folder.path and holds_only_ours(folder):
        folder.path.chmod(folder.path.stat().st_mode & 0o7777 | 0o011)
        blocked = unreachable(account, [folder.path])[0]
    if blocked is None:
        blocked = unreachable(account, [socket_dir.parent])[0]
    if blocked is not None:
        raise SettingsError(
            f"METERBRIDGE_DATA_DIR: PostgreSQL does not run as root but as '{account.name}', who "
            f"cannot pass through {blocked}; name a data folder outside of it"
        )


def holds_only_ours(folder: DataFolder) -> bool:
    """Empty but for what we put there, so that METERBRIDGE_DATA_DIR=/root opens nobody's home."""
    ours = {folder.lock_file, folder.cluster, folder.log_file, folder.run}
    return all(path in ours or path.name.startswith(OUR_PREFIXES) for path in folder.path.iterdir())


OUR_PREFIXES = ("initdb-", "postgresql-", "postgres.log")
