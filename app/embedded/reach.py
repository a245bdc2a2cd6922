"""Whether the server's user, when it is not us, can get to the places it needs."""

from pathlib import Path

from app.embedded.account import Account
from app.embedded.folder import DataFolder
from app.embedded.install import Install
from app.embedded.spawn import unreachable
from app.errors import SettingsError

OUR_PREFIXES = ("initdb-", "postgresql-", "postgres.log")


def survey(folder: DataFolder, socket_dir: Path, install: Install, account: Account) -> bool:
    """Whether the programs can be reached, after making sure that the data folder can.

    Opens the data folder itself for passing through, if it is ours; never a folder above it.
    Raises SettingsError naming the folder that is closed.
    """
    if not account.switched:
        return True
    places = [folder.path, socket_dir.parent]
    data, socket, *programs = unreachable(account, [*places, *install.needed])
    if data == folder.path and holds_only_ours(folder):
        folder.path.chmod(folder.path.stat().st_mode & 0o7777 | 0o011)
        data, socket = unreachable(account, places)
    closed = data or socket
    if closed is not None:
        raise SettingsError(
            f"METERBRIDGE_DATA_DIR: PostgreSQL does not run as root but as '{account.name}', who "
            f"cannot pass through {closed}; name a data folder outside of it"
        )
    return not any(programs)


def holds_only_ours(folder: DataFolder) -> bool:
    """Empty but for what we put there, so that METERBRIDGE_DATA_DIR=/root opens nobody's home."""
    ours = {folder.lock_file, folder.cluster, folder.log_file, folder.run}
    return all(path in ours or path.name.startswith(OUR_PREFIXES) for path in folder.path.iterdir())
