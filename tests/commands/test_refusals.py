"""A wrong or missing setting stops a command with one line that names it, and no secret."""

import sys
from pathlib import Path

import pytest

from app.cli import main
from tests.commands.program import SECRET, TOKEN, Program

PASSWORD = "pa55word-of-nobody"

# Found before anything is started.
SETTINGS = [
    (
        "a key that is none",
        ("worker",),
        {"STRIPE_API_KEY": f"pk_test_{PASSWORD}"},
        ["STRIPE_API_KEY", "sk_…"],
    ),
    (
        "a short signing secret",
        ("serve",),
        {"OPENMETER_WEBHOOK_SECRETS": "whsec_c2hvcnQ="},
        ["OPENMETER_WEBHOOK_SECRETS", "secret 1", "5 bytes", "24"],
    ),
    (
        "a signing secret that is not base64",
        ("serve",),
        {"OPENMETER_WEBHOOK_SECRETS": f"{SECRET},whsec_{PASSWORD}!"},
        ["OPENMETER_WEBHOOK_SECRETS", "secret 2", "base64"],
    ),
    ("a short admin token", ("serve",), {"ADMIN_TOKENS": f"{TOKEN},short"}, ["token 2", "16"]),
    (
        "another kind of database",
        ("drain",),
        {"DATABASE_URL": f"mysql://me:{PASSWORD}@localhost/x"},
        ["DATABASE_URL", "postgresql://"],
    ),
    (
        "a live key over http",
        ("serve",),
        {"STRIPE_API_KEY": f"sk_live_{PASSWORD}", "STRIPE_API_BASE": "http://stripe.example"},
        ["STRIPE_API_BASE", "https"],
    ),
    ("a level that is none", ("migrate",), {"LOG_LEVEL": PASSWORD}, ["LOG_LEVEL", "'info'"]),
    ("a number that is none", ("serve",), {"STRIPE_RATE_LIMIT": PASSWORD}, ["STRIPE_RATE_LIMIT"]),
]
# Found by the program at work.
AT_WORK = [
    ("no Stripe key", ("serve",), {"STRIPE_API_KEY": ""}, ["STRIPE_API_KEY", "--no-worker"]),
    (
        "nobody at the database's address",
        ("mappings", "list"),
        {"DATABASE_URL": f"postgresql://me:{PASSWORD}@127.0.0.1:1/x"},
        ["database", "not available"],
    ),
]


# What they would find in a database made for them is nothing: to be booked, sent, billed.
LOOKING = [
    ("drain",),
    ("prune", "--dry-run"),
    ("explain", "--item", "si_1", "--period", "2026-03-15", "--no-stripe"),
    ("mappings", "list"),
    ("mappings", "discover"),
]


def refused(said: str, words: list[str]) -> None:
    [line] = said.splitlines()
    assert line.startswith("meterbridge: ")
    for word in words:
        assert word in line
    assert PASSWORD not in line


@pytest.mark.parametrize(
    ("arguments", "settings", "words"), [c[1:] for c in SETTINGS], ids=[c[0] for c in SETTINGS]
)
def test_a_wrong_setting(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    arguments: tuple[str, ...],
    settings: dict[str, str],
    words: list[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["meterbridge", *arguments])
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    said = capsys.readouterr()
    assert said.out == ""
    refused(said.err, words)


@pytest.mark.parametrize("arguments", LOOKING, ids=lambda words: words[0])
def test_no_database_is_made_to_be_looked_at(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    place: Path,
    arguments: tuple[str, ...],
) -> None:
    folder = place / "data"
    monkeypatch.chdir(place)
    monkeypatch.setattr(sys, "argv", ["meterbridge", *arguments])
    monkeypatch.setenv("METERBRIDGE_DATA_DIR", str(folder))
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_sandbox")
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    refused(capsys.readouterr().err, ["DATABASE_URL", str(folder), "meterbridge serve"])
    assert not folder.exists()


@pytest.mark.parametrize(
    ("arguments", "settings", "words"), [c[1:] for c in AT_WORK], ids=[c[0] for c in AT_WORK]
)
def test_what_is_missing_at_work(
    program: Program, arguments: tuple[str, ...], settings: dict[str, str], words: list[str]
) -> None:
    done = program.run(*arguments, **settings)
    assert done.returncode == 2
    assert done.stdout == ""
    refused(done.stderr, words)
