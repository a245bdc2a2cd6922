"""The data folder: where everything of one embedded server lives.

<data folder>/
  server.lock        held by the process that owns the server
  postgres/          the cluster (PGDATA); complete, or not there
  initdb-*/          a cluster in the making; whoever holds the lock may delete it
  run/               the socket, in a folder only the server's user may enter
  postgres.log       the server's log, the previous one beside it as postgres.log.1
  postgresql-*/      a copy of the programs, only where the server's user cannot reach the wheel
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from app.embedded.errors import folder_errors
from app.errors import SettingsError

APP_NAME = "meterbridge"


@dataclass(frozen=True, slots=True)
class DataFolder:
    """The places inside one data folder; `path` is absolute, without symlinks."""

    path: Path

    @property
    def lock_file(self) -> Path:
        return self.path / "server.lock"

    @property
    def cluster(self) -> Path:
        return self.path / "postgres"

    @property
    def log_file(self) -> Path:
        return self.path / "postgres.log"

    @property
    def run(self) -> Path:
        return self.path / "run"


def default_data_dir() -> Path:
    """The folder that is used when METERBRIDGE_DATA_DIR names none.

    A user's own data directory. For root a folder of the system: PostgreSQL runs as another user
    then, who cannot enter root's home (mode 0700). Raises SettingsError for a user without a home.
    """
    if os.geteuid() != 0:
        with home_errors():
            return platformdirs.user_data_path(APP_NAME, appauthor=False)
    if sys.platform == "darwin":
        return platformdirs.site_data_path(APP_NAME, appauthor=False)
    return Path("/var/lib") / APP_NAME


@contextmanager
def home_errors() -> Iterator[None]:
    """A container may run us as a uid without a home."""
    try:
        yield
    except RuntimeError as error:
        raise SettingsError(f"METERBRIDGE_DATA_DIR: name a data folder: {error}") from error


def resolve(data_dir: Path) -> DataFolder:
    """The folder behind a path as a user writes it; nothing is made or changed.

    Raises SettingsError where the path can never be a data folder.
    """
    if not str(data_dir).isprintable():
        raise SettingsError(
            f"METERBRIDGE_DATA_DIR: {str(data_dir)!r} holds characters that cannot be printed"
        )
    with folder_errors(data_dir), home_errors():
        path = data_dir.expanduser().resolve()
        if path.exists() and not path.is_dir():
            raise NotADirectoryError(20, "it is not a folder", str(path))
        if (path / "PG_VERSION").exists():
            raise SettingsError(
                f"METERBRIDGE_DATA_DIR: {path} is itself the data directory of a PostgreSQL "
                "server; name a folder of its own"
            )
    return DataFolder(path)


def create(folder: DataFolder) -> None:
    """Make the folder, and what is missing above it, without touching what was there."""
    with folder_errors(folder.path):
        missing = [p for p in (folder.path, *folder.path.parents) if not p.exists()]
        # Root's server runs as another user, who must be able to pass through.
        mode = 0o711 if os.geteuid() == 0 else 0o700
        for path in reversed(missing):
            try:
                path.mkdir()
            except FileExistsError:  # another process starts at the same moment
                continue
            path.chmod(mode)  # mkdir's own mode is cut by the umask
