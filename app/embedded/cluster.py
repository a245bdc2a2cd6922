"""The cluster: made once, whole or not at all."""

import logging
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from app.embedded.account import Account, has_entry
from app.embedded.errors import NoCluster, ServerNotStarted
from app.embedded.folder import DataFolder
from app.embedded.install import MAJOR, Install
from app.embedded.server import DATABASE, ROLE
from app.embedded.spawn import run
from app.errors import SettingsError

logger = logging.getLogger(__name__)

UNFINISHED = "initdb-"

INITDB_OPTIONS = (
    "--username=postgres",
    "--encoding=UTF8",
    # Sorts by code point on every system; the C library's order changes with its version and
    # would silently break indexes.
    "--locale-provider=builtin",
    "--builtin-locale=C.UTF-8",
    "--locale=C",
    # The socket's folder keeps strangers out, and the server listens on nothing else.
    "--auth-local=trust",
    "--auth-host=reject",
)

# The application is no superuser: a hole in it stays inside its database.
FIRST_STATEMENTS = (
    f"CREATE ROLE {ROLE} LOGIN CREATEDB;\n"  # CREATEDB: tests make databases of their own
    f"CREATE DATABASE {DATABASE} OWNER {ROLE};\n"
)


def check_version(folder: DataFolder) -> None:
    """Raise SettingsError, with nothing changed, for a cluster these programs cannot serve."""
    version_file = folder.cluster / "PG_VERSION"
    try:
        version = version_file.read_text().strip()
    except FileNotFoundError:
        if folder.cluster.exists() and any(folder.cluster.iterdir()):
            raise SettingsError(
                f"METERBRIDGE_DATA_DIR: {folder.cluster} holds files but no PostgreSQL cluster "
                "(PG_VERSION is missing); move it away, or name another folder"
            ) from None
        return
    if version != str(MAJOR):
        raise SettingsError(
            f"METERBRIDGE_DATA_DIR: {folder.path} holds data of PostgreSQL {version}, and this "
            f"meterbridge runs PostgreSQL {MAJOR}; carry it over with pg_dump "
            "(docs/embedded-postgres.md), or name another folder"
        )


def require_cluster(folder: DataFolder) -> None:
    """Raise NoCluster where none was made yet; nothing is made or changed."""
    if not (folder.cluster / "PG_VERSION").exists():
        raise NoCluster(
            "DATABASE_URL is not set (or is empty) in the environment and in .env of this folder, "
            f"and there is no embedded PostgreSQL in {folder.path} yet: set it, or start "
            "`meterbridge serve`, which makes one"
        )


def ensure_cluster(folder: DataFolder, install: Install, account: Account) -> None:
    """Make the cluster with its role and database, unless it is there. Needs the folder's lock.

    All of it happens under another name; the last step is one rename. A kill at any moment leaves
    no cluster or a whole one.
    """
    for unfinished in folder.path.glob(f"{UNFINISHED}*"):
        # An initdb that outlived its parent for a moment may still write here; then the rest goes
        # at the next start.
        shutil.rmtree(unfinished, ignore_errors=True)
    if (folder.cluster / "PG_VERSION").exists():
        adopt_files_of_root(folder, account)
        return
    if not has_entry(account.uid):
        raise SettingsError(
            f"PostgreSQL's initdb needs a user name, and the user database has none for uid "
            f"{account.uid}: add one to /etc/passwd, or set DATABASE_URL"
        )
    logger.info("making a new PostgreSQL cluster in %s", folder.path)
    unfinished = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder.path))
    try:
        account.take(unfinished)
        initialise(unfinished, install, account)
        if folder.cluster.exists():  # empty, as check_version has seen
            folder.cluster.rmdir()
        unfinished.rename(folder.cluster)
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    flush(folder.path)


def initialise(cluster: Path, install: Install, account: Account) -> None:
    initdb = [install.program("initdb"), "-D", str(cluster), *INITDB_OPTIONS]
    raise_if_failed("initdb", run(account, initdb))
    # In single-user mode, so that nobody can connect before role and database are there.
    single = [install.program("postgres"), "--single", "-D", str(cluster)]
    options = ["-c", "exit_on_error=on", "-c", "log_checkpoints=off"]
    statements = FIRST_STATEMENTS.encode()
    result = run(account, [*single, *options, "postgres"], stdin=statements)
    raise_if_failed("making role and database", result)


def raise_if_failed(step: str, result: subprocess.CompletedProcess[bytes]) -> None:
    if result.returncode != 0:
        lines = result.stderr.decode(errors="replace").strip().splitlines()[-5:]
        raise ServerNotStarted(
            f"the embedded PostgreSQL: {step} failed (exit status {result.returncode}): "
            + " | ".join(lines)
        )


def adopt_files_of_root(folder: DataFolder, account: Account) -> None:
    """A cluster that root copied or restored: PostgreSQL insists on owning its files."""
    if account.switched and folder.cluster.stat().st_uid == 0:
        folder.cluster.chmod(0o700)
        account.take_tree(folder.cluster)


def flush(path: Path) -> None:
    """Make a rename inside the folder outlast a power failure."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
