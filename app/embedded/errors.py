"""What can go wrong with the embedded server, as errors of the application's own tree."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from app.errors import DatabaseUnavailable, SettingsError


class ServerNotStarted(DatabaseUnavailable):
    """The server program was run and did not come up; the message ends with its last log lines."""

    slug = "embedded-server-not-started"
    title = "The embedded PostgreSQL did not start"


class NoCluster(SettingsError):
    """Only an existing server was asked for, and the folder has none."""


class Abandoned(Exception):
    """The caller has given up waiting for the start; nothing runs."""


@contextmanager
def folder_errors(data_dir: Path) -> Iterator[None]:
    """Turn an `OSError` on the data folder into the one line that names the setting to change."""
    try:
        yield
    except OSError as error:
        where = f" ({error.filename})" if error.filename not in (None, str(data_dir)) else ""
        raise SettingsError(
            f"METERBRIDGE_DATA_DIR: the data folder {data_dir} cannot be used: "
            f"{error.strerror or error}{where}; name a folder that can be written, "
            "or set DATABASE_URL"
        ) from error
