"""Data folders of every kind: each works, or is refused in one line that names the setting."""

import importlib.util
import os
from collections.abc import Callable
from pathlib import Path

import platformdirs
import pytest

from app.embedded import cluster, default_data_dir, install, launcher, running, start
from app.embedded.account import account_for
from app.embedded.folder import DataFolder, create
from app.embedded.install import Install, find_install
from app.embedded.orphan import command_line
from app.embedded.socket_dir import LONGEST_SOCKET_PATH, choose, make
from app.errors import SettingsError
from tests.embedded.processes import Owner, no_server_left
from tests.embedded.queries import value

AS_ROOT = os.geteuid() == 0


@pytest.mark.parametrize(
    "name", ["with space", "a,b", 'quo"te', "10%", "é-ü", "q?x=1&y#z+w", "colon:9", "x" * 100]
)
def test_names_that_have_broken_others(data_dir: Path, place: Path, name: str) -> None:
    folder = place / name
    data_dir.rename(folder)
    with no_server_left(folder), start(folder) as server, start(folder) as second:
        assert second.server.pid == server.server.pid
        assert second.url == server.url
        assert value(server.url, "select 1") == 1
        assert server.server.data_dir == folder
    folder.rename(data_dir)


def test_a_long_path_gets_a_short_socket_folder_that_is_cleared_away(data_dir: Path) -> None:
    long = data_dir / ("y" * 90)
    long.mkdir(mode=0o711)
    (data_dir / "postgres").rename(long / "postgres")
    with no_server_left(long), start(long) as server:
        socket_dir = server.server.socket_dir
        assert len(os.fsencode(socket_dir / ".s.PGSQL.5432")) <= LONGEST_SOCKET_PATH
        assert socket_dir.stat().st_mode & 0o077 == 0
        found = running(long)
        assert found is not None
        assert found.socket_dir == socket_dir
    assert not socket_dir.exists()
    (long / "postgres").rename(data_dir / "postgres")


def test_a_short_socket_folder_that_others_can_write_is_not_trusted(place: Path) -> None:
    folder = DataFolder(place / ("z" * 90))
    socket_dir = choose(folder)
    socket_dir.symlink_to(place)
    try:
        with pytest.raises(SettingsError, match="somebody else's"):
            make(socket_dir, folder, account_for(folder))
        assert place.stat().st_mode & 0o777 == 0o711
    finally:
        socket_dir.unlink()


def one_line(error: pytest.ExceptionInfo[SettingsError]) -> str:
    message = str(error.value)
    assert "\n" not in message
    assert message.startswith("METERBRIDGE_DATA_DIR: ")
    return message


def test_a_folder_below_a_file(place: Path) -> None:
    (place / "file").write_text("")
    for folder in (place / "file", place / "file" / "below"):
        with pytest.raises(SettingsError) as caught:
            start(folder)
        assert str(folder) in one_line(caught)


def test_a_folder_that_may_not_be_entered_or_written(place: Path) -> None:
    """Ourselves, or for root the server's user: the mode keeps the one or the other out."""
    closed = place / "closed"
    closed.mkdir(mode=0o500)
    with pytest.raises(SettingsError) as caught:
        start(closed / "data")
    assert str(closed) in one_line(caught)
    assert closed.stat().st_mode & 0o777 == 0o500


def test_a_folder_in_use_for_something_else_is_not_opened_to_others(place: Path) -> None:
    home = place / "home"
    home.mkdir(mode=0o700)
    (home / "letter").write_text("")
    if AS_ROOT:
        with pytest.raises(SettingsError) as caught:
            start(home)
        assert str(home) in one_line(caught)
    else:
        create(DataFolder(home))
    assert home.stat().st_mode & 0o777 == 0o700


def test_a_folder_of_ours_with_mode_0700_is_used(data_dir: Path) -> None:
    data_dir.chmod(0o700)
    with start(data_dir) as server:
        assert value(server.url, "select 1") == 1


def test_files_that_root_restored_are_given_to_the_servers_user(data_dir: Path) -> None:
    files = data_dir / "postgres"
    for path in (files, *files.rglob("*")):
        os.chown(path, os.geteuid(), os.getegid())
    files.chmod(0o755 if AS_ROOT else 0o700)
    with start(data_dir) as server:
        assert value(server.url, "select 1") == 1


@pytest.mark.parametrize("path", ["/srv/a\nb", "/srv/a\x1bb"])
def test_characters_that_would_break_a_line(path: str) -> None:
    with pytest.raises(SettingsError) as caught:
        start(Path(path))
    one_line(caught)


def listing(folder: Path) -> dict[str, tuple[int, int, int]]:
    return {
        str(path): (path.stat().st_mtime_ns, path.stat().st_mode, path.stat().st_uid)
        for path in (folder, *folder.rglob("*"))
    }


@pytest.mark.parametrize(
    ("at", "content", "message"),
    [
        ("postgres/PG_VERSION", "17\n", "PostgreSQL 17"),
        ("postgres/PG_VERSION", "19\n", "PostgreSQL 19"),
        ("postgres/base/something", "", "no PostgreSQL cluster"),
        ("PG_VERSION", "18\n", "is itself the data directory"),
    ],
)
def test_data_of_another_kind_is_refused_and_not_touched(
    fresh: Path, at: str, content: str, message: str
) -> None:
    (fresh / at).parent.mkdir(parents=True)
    (fresh / at).write_text(content)
    before = listing(fresh)
    with pytest.raises(SettingsError, match=message) as caught:
        start(fresh)
    one_line(caught)
    assert listing(fresh) == before


def test_without_the_wheel_the_message_says_what_to_do(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(SettingsError, match=r"DATABASE_URL.*meterbridge\[embedded\]") as caught:
        start(fresh)
    assert "\n" not in str(caught.value)
    assert not fresh.exists()


def test_the_default_folder_can_be_reached_by_the_servers_user() -> None:
    if AS_ROOT:
        assert not default_data_dir().is_relative_to(Path.home())
    else:
        assert default_data_dir() == platformdirs.user_data_path("meterbridge", appauthor=False)
    assert default_data_dir().name == "meterbridge"


@pytest.mark.parametrize("use", [lambda: start(Path("~/x")), default_data_dir])
def test_a_user_without_a_home_is_told_what_to_set(
    monkeypatch: pytest.MonkeyPatch, use: Callable[[], object]
) -> None:
    def no_home(_: object) -> object:
        raise RuntimeError("could not determine the home directory")

    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    monkeypatch.setattr(Path, "expanduser", no_home)
    monkeypatch.setattr(platformdirs, "user_data_path", lambda *_, **__: no_home(None))
    with pytest.raises(SettingsError, match="home directory") as caught:
        use()
    one_line(caught)


def test_a_user_without_a_name_is_told_what_to_do(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a container that runs with any uid: initdb would fail with a riddle."""
    monkeypatch.setattr(cluster, "has_entry", lambda _: False)
    with pytest.raises(SettingsError, match="/etc/passwd, or set DATABASE_URL"):
        start(fresh)
    assert not (fresh / "postgres").exists()


def test_programs_in_a_closed_place_are_copied(
    data_dir: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wheel = find_install()
    closed = place / "closed"
    install.copy_programs(wheel, closed / "site")
    closed.chmod(0o700)
    monkeypatch.setattr(launcher, "find_install", lambda: Install(closed / "site", wheel.version))
    with start(data_dir) as server:
        assert value(server.url, "select 1") == 1
        program = command_line(server.server.pid)[0]
        assert Path(program).is_relative_to(data_dir if AS_ROOT else closed)
    assert closed.stat().st_mode & 0o777 == 0o700


def test_without_capabilities(data_dir: Path) -> None:
    """Nobody but root needs one; root is told in one line what to do."""
    with Owner(data_dir, "without_capability") as owner:
        report = owner.report()
        if AS_ROOT:
            assert report["error"] == "SettingsError"
            assert "root may not become" in report["message"]
            assert "\n" not in report["message"]
        else:
            assert report["owned"]
