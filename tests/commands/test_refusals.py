"""A wrong or missing setting stops a command with one line that names it, and no secret."""

import pytest

from tests.commands.program import Program

PASSWORD = "pa55word-of-nobody"

CASES = [
    ("no Stripe key", ("serve",), {"STRIPE_API_KEY": ""}, ["STRIPE_API_KEY", "--no-worker"]),
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
        {"OPENMETER_WEBHOOK_SECRETS": f"whsec_{PASSWORD}!"},
        ["OPENMETER_WEBHOOK_SECRETS", "base64"],
    ),
    ("a short admin token", ("serve",), {"ADMIN_TOKENS": "short"}, ["ADMIN_TOKENS", "16"]),
    (
        "another database",
        ("drain",),
        {"DATABASE_URL": f"mysql://me:{PASSWORD}@localhost/x"},
        ["DATABASE_URL", "postgresql://"],
    ),
    (
        "nobody at the database's address",
        ("mappings", "list"),
        {"DATABASE_URL": f"postgresql://me:{PASSWORD}@127.0.0.1:1/x"},
        ["database", "not available"],
    ),
    (
        "a live key over http",
        ("serve",),
        {"STRIPE_API_KEY": f"sk_live_{PASSWORD}", "STRIPE_API_BASE": "http://stripe.example"},
        ["STRIPE_API_BASE", "https"],
    ),
]


@pytest.mark.parametrize(
    ("arguments", "settings", "words"), [case[1:] for case in CASES], ids=[c[0] for c in CASES]
)
def test_one_line_names_the_setting(
    program: Program, arguments: tuple[str, ...], settings: dict[str, str], words: list[str]
) -> None:
    done = program.run(*arguments, **settings)
    assert done.returncode == 2
    assert done.stdout == ""
    [line] = done.stderr.splitlines()
    assert line.startswith("meterbridge: ")
    for word in words:
        assert word in line
    assert PASSWORD not in line
