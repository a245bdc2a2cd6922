"""Folders for servers: fresh, or with a cluster that serves one test after the other."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from app.embedded import start
from tests.embedded.processes import no_server_left


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty folder that every user may pass through, as pytest's `tmp_path` is not for root."""
    folder = Path(tempfile.mkdtemp(prefix="mb-")).resolve()
    folder.chmod(0o711)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def fresh(place: Path) -> Iterator[Path]:
    """A data folder that does not exist yet."""
    folder = place / "data"
    with no_server_left(folder):
        yield folder


@pytest.fixture(scope="session")
def shelf() -> Iterator[Path]:
    """Where a cluster waits between tests: making or copying one takes longer than most tests."""
    folder = Path(tempfile.mkdtemp(prefix="mb-")).resolve()
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def data_dir(fresh: Path, shelf: Path) -> Iterator[Path]:
    """A data folder with a cluster that was stopped cleanly; no server runs.

    Goes back to the shelf unless the test crashed or damaged it.
    """
    waiting, used = shelf / "postgres", fresh / "postgres"
    if not waiting.exists():
        start(shelf).stop()
    fresh.mkdir()
    fresh.chmod(0o711)
    waiting.rename(used)
    yield fresh
    parts = [used / "PG_VERSION", used / "global" / "pg_control"]
    if all(part.exists() for part in parts) and not (used / "postmaster.pid").exists():
        used.rename(waiting)
