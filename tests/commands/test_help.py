"""Every command and every option explains itself."""

import pytest
import typer
from typer.testing import CliRunner

from app.cli import app
from app.config import Settings

FIXED = (
    "serve",
    "worker",
    "migrate",
    "mappings",
    "send",
    "sandbox",
    "demo",
    "doctor",
    "drain",
    "prune",
    "explain",
)


def _leaves(command: object, path: tuple[str, ...] = ()) -> list[tuple[tuple[str, ...], object]]:
    children = getattr(command, "commands", None)
    if not children:
        return [(path, command)]
    return [leaf for name, child in children.items() for leaf in _leaves(child, (*path, name))]


LEAVES = _leaves(typer.main.get_command(app))


def help_of(*path: str) -> str:
    result = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "80", "TERM": "dumb"})
    assert result.exit_code == 0
    return result.output


def test_all_commands_are_there() -> None:
    assert {path[0] for path, _ in LEAVES} >= set(FIXED)


@pytest.mark.parametrize(("path", "command"), LEAVES, ids=[" ".join(p) for p, _ in LEAVES])
def test_everything_is_explained(path: tuple[str, ...], command: object) -> None:
    assert getattr(command, "help", None)
    said = help_of(*path)
    for parameter in command.params:  # type: ignore[attr-defined]
        assert getattr(parameter, "help", None), f"{parameter.name} has no help"
        for name in parameter.opts:
            if name.startswith("--"):
                assert name in said


def test_serve_names_every_setting() -> None:
    words = help_of("serve").split()
    for name in Settings.model_fields:
        assert any(word.strip(":│[]").startswith(name.upper()) for word in words), name


def test_every_setting_has_a_meaning() -> None:
    assert all(field.description for field in Settings.model_fields.values())


def test_without_a_command_the_help_is_shown() -> None:
    said = CliRunner().invoke(app, [], env={"COLUMNS": "80", "TERM": "dumb"}).output
    for name in FIXED:
        assert name in said
