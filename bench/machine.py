"""The machine that figures are of."""

import os
import platform
import subprocess
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

import psutil

_PACKAGES = (
    "fastapi",
    "uvicorn",
    "uvloop",
    "asyncpg",
    "SQLAlchemy",
    "httpx",
    "httpx-aiohttp",
    "aiohttp",
)


@dataclass(frozen=True, slots=True)
class Machine:
    """What decides the absolute figures."""

    processor: str
    cores: int
    memory: float
    """Gigabytes."""
    system: str
    disk: str
    """The file system that the database is on."""
    python: str
    packages: str
    postgres: str
    measured_at: datetime
    busy: float
    """Processes that wanted to run on average in the minute before: others' work."""
    commit: str


def look(folder: Path, postgres: str) -> Machine:
    """Look at the machine. `folder` is where the database is."""
    return Machine(
        _processor(),
        os.cpu_count() or 1,
        psutil.virtual_memory().total / 2**30,
        f"{platform.system()} {platform.release()}",
        _file_system(folder),
        platform.python_version(),
        ", ".join(f"{name} {version(name)}" for name in _PACKAGES),
        postgres,
        datetime.now(UTC),
        psutil.getloadavg()[0],
        _commit(),
    )


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        return platform.processor() or platform.machine()
    return platform.machine()


def _file_system(folder: Path) -> str:
    mounts = [
        part for part in psutil.disk_partitions(all=True) if folder.is_relative_to(part.mountpoint)
    ]
    if not mounts:
        return "unknown"
    return max(mounts, key=lambda part: len(part.mountpoint)).fstype


def _commit() -> str:
    here = Path(__file__).parent
    try:
        found = subprocess.run(
            ["git", "describe", "--always", "--dirty"],  # noqa: S607 - whichever git is there
            cwd=here,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
    return found.stdout.strip()
