"""What the server is told on its command line. A cluster's postgresql.conf cannot override it."""

import re
from collections.abc import Mapping
from pathlib import Path

from app.embedded.server import PORT
from app.embedded.socket_dir import as_setting
from app.errors import SettingsError

CLUSTER_NAME = "meterbridge"
"""Marks the process as one that we started; also shown by `ps`."""

DEFAULTS: Mapping[str, str] = {
    "fsync": "on",  # a ledger that a power failure can tear is none
    "shared_buffers": "64MB",
    "max_connections": "200",
    "timezone": "UTC",
    "log_timezone": "UTC",
    # A session that died half way must not hold its row locks for ever.
    "idle_in_transaction_session_timeout": "60s",
    # The log tells of the server's own life. Errors of statements go to the client, which reports
    # them; here they would fill the disk, and quote customers' data.
    "log_min_messages": "log",
    "log_checkpoints": "off",
    "logging_collector": "off",
}

FOUND_BY = frozenset(
    {
        "cluster_name",
        "config_file",
        "data_directory",
        "external_pid_file",
        "listen_addresses",
        "port",
        "unix_socket_directories",
        "unix_socket_group",
        "unix_socket_permissions",
    }
)
"""Settings by which the server is found and kept private: not to be changed."""

NAME = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)?")


def options(socket_dir: Path, extra: Mapping[str, str]) -> list[str]:
    """The `-c name=value` arguments. Raises SettingsError for a name that may not be given."""
    for name in extra:
        if not NAME.fullmatch(name) or name in FOUND_BY:
            raise SettingsError(f"the embedded PostgreSQL does not take the setting {name!r}")
    fixed = {
        "cluster_name": CLUSTER_NAME,
        "listen_addresses": "",
        "port": str(PORT),
        "unix_socket_directories": as_setting(socket_dir),
        "unix_socket_permissions": "0700",
    }
    merged = {**DEFAULTS, **extra, **fixed}
    return [word for name, value in merged.items() for word in ("-c", f"{name}={value}")]
