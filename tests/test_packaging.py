"""What is handed out: the wheel, and the files that put it into containers."""

import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path
from typing import Any

import pytest
import yaml

from app.config import Settings
from app.main import create_app

ROOT = Path(__file__).parent.parent
# Compose composes the address itself; an image holds no PostgreSQL to keep data for.
NOT_HANDED_ON = {"DATABASE_URL", "METERBRIDGE_DATA_DIR"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The contents of a freshly built wheel by name."""
    folder = tmp_path_factory.mktemp("wheel")
    subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)],
        cwd=ROOT,
        check=True,
        capture_output=True,
        timeout=60,
    )
    (built,) = folder.iterdir()
    with zipfile.ZipFile(built) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_has_every_file_of_the_program(wheel: dict[str, bytes]) -> None:
    expected = {
        str(path.relative_to(ROOT)): path.read_bytes()
        for path in (ROOT / "app").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert "app/py.typed" in expected
    assert "app/routers/static/swagger-ui/swagger-ui-bundle.js" in expected
    packed = {
        name: content
        for name, content in wheel.items()
        if name.startswith("app/") and not name.startswith(("app/_migrations/", "app/_examples/"))
    }
    assert packed.keys() == expected.keys()
    assert packed == expected


def test_the_wheel_has_the_migrations_where_the_program_looks(wheel: dict[str, bytes]) -> None:
    expected = {
        f"app/_migrations/{path.relative_to(ROOT / 'alembic')}"
        for path in (ROOT / "alembic").rglob("*")
        if path.suffix in (".py", ".mako")
    }
    assert "app/_migrations/env.py" in expected
    assert {name for name in wheel if name.startswith("app/_migrations/")} == expected


def test_the_wheel_has_command_and_licence(wheel: dict[str, bytes]) -> None:
    by_suffix = {name.split(".dist-info/")[-1]: content for name, content in wheel.items()}
    assert b"meterbridge = app.cli:main" in by_suffix["entry_points.txt"]
    assert by_suffix["licenses/LICENSE"] == (ROOT / "LICENSE").read_bytes()


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    """`docker-compose.yml`, anchors merged."""
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def _environment(service: dict[str, Any]) -> set[str]:
    return {entry.partition("=")[0] for entry in service["environment"]}


def test_compose_hands_on_every_setting(compose: dict[str, Any]) -> None:
    names = {name.upper() for name in Settings.model_fields}
    assert _environment(compose["services"]["app"]) | NOT_HANDED_ON == names
    assert _environment(compose["services"]["migrate"]) < names


@pytest.mark.parametrize("name", ["migrate", "app", "sandbox"])
def test_compose_takes_rights_away(compose: dict[str, Any], name: str) -> None:
    service = compose["services"][name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    for port in service.get("ports", []):
        assert port.startswith("127.0.0.1:")


def test_compose_starts_in_order(compose: dict[str, Any]) -> None:
    services = compose["services"]
    assert services["app"]["depends_on"] == {
        "postgres": {"condition": "service_healthy"},
        "migrate": {"condition": "service_completed_successfully"},
    }
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}


def test_probes_ask_for_routes_that_exist(compose: dict[str, Any]) -> None:
    asked = {
        re.search(r"'GET', '([^']+)'", text).group(1)  # type: ignore[union-attr]
        for text in (
            (ROOT / "Dockerfile").read_text(),
            compose["services"]["app"]["healthcheck"]["test"][-1],
        )
    }
    assert asked == {"/healthz", "/readyz/receive"}
    assert asked <= create_app(Settings(_env_file=None)).openapi()["paths"].keys()


@pytest.mark.parametrize("lock", ["build.txt", "runtime.txt"])
def test_the_image_installs_what_the_tests_ran_with(lock: str) -> None:
    def pins(name: str) -> set[str]:
        text = (ROOT / "requirements" / name).read_text()
        return set(re.findall(r"^([a-z0-9.-]+==[^ ]+)", text, re.MULTILINE))

    assert pins(lock)
    assert pins(lock) <= pins("dev.txt")


def test_the_image_is_built_from_all_that_the_wheel_needs() -> None:
    """A folder that the wheel takes in but the image is not given fails only where Docker runs."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    needed = {*wheel["packages"], *wheel["force-include"]}
    copied = set((ROOT / "Dockerfile").read_text().split())
    allowed = set((ROOT / ".dockerignore").read_text().split())
    assert needed <= copied
    assert {f"!{name}" for name in needed} <= allowed
