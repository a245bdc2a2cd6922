"""Settings: a wrong one is one line that names it, and never shows what was in it."""

import base64
from pathlib import Path

import pytest

from app.config import Settings, load_settings
from app.db import database_url
from app.errors import SettingsError

GOOD_SECRET = "whsec_" + base64.b64encode(b"k" * 24).decode()
MARK = "DoNotShowMe"


@pytest.fixture(autouse=True)
def nothing_set(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Neither the developer's environment nor a `.env`."""
    for name in Settings.model_fields:
        monkeypatch.delenv(name.upper(), raising=False)
    monkeypatch.chdir(tmp_path)


BAD = [
    ("DATABASE_URL", f"mysql://u:{MARK}@h/d", "postgresql://"),
    ("DATABASE_URL", MARK, "postgresql://"),
    ("OPENMETER_WEBHOOK_SECRETS", MARK, "secret 1 does not begin with whsec_"),
    ("OPENMETER_WEBHOOK_SECRETS", f"{GOOD_SECRET},whsec_{MARK}!", "secret 2 is not base64"),
    (
        "OPENMETER_WEBHOOK_SECRETS",
        "whsec_" + base64.b64encode(b"k" * 23).decode(),
        "has 23 bytes; 24 or more",
    ),
    ("STRIPE_API_KEY", f"pk_test_{MARK}", "sk_… or rk_…"),
    ("STRIPE_API_KEY", f"sk_test_{MARK}\n", "sk_… or rk_…"),
    ("STRIPE_API_BASE", f"ftp://{MARK}", "http(s)"),
    ("STRIPE_API_BASE", MARK, "http(s)"),
    ("STRIPE_ACCOUNT", MARK, "acct_"),
    ("STRIPE_RATE_LIMIT", "0", "greater than 0"),
    ("STRIPE_RATE_LIMIT", MARK, "number"),
    ("STRIPE_TIMEOUT", "-1", "greater than 0"),
    ("STRIPE_IN_FLIGHT", "0", "greater than or equal to 1"),
    ("ADMIN_TOKENS", "short", "token 1 is shorter than 16"),
    ("DISPATCH_LINGER", "-1", "greater than or equal to 0"),
    ("DATABASE_POOL_SIZE", "1", "greater than or equal to 3"),
    ("LOG_LEVEL", MARK, "'debug'"),
    ("LOG_FORMAT", MARK, "'json'"),
]


@pytest.mark.parametrize(("name", "value", "says"), BAD)
def test_a_wrong_setting(monkeypatch: pytest.MonkeyPatch, name: str, value: str, says: str) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as refused:
        load_settings()
    message = refused.value.detail
    assert message.startswith(f"{name}: ")
    assert says in message
    assert "\n" not in message
    assert MARK not in message


def test_a_live_key_needs_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_" + "x" * 20)
    monkeypatch.setenv("STRIPE_API_BASE", "http://stripe.example")
    with pytest.raises(SettingsError, match="STRIPE_API_BASE: must be https"):
        load_settings()
    monkeypatch.setenv("STRIPE_API_BASE", "http://127.0.0.1:12111/")
    settings = load_settings()
    assert settings.live_mode
    assert settings.stripe_api_base == "http://127.0.0.1:12111"


@pytest.mark.parametrize(
    ("key", "live"),
    [("sk_live_x", True), ("rk_live_x", True), ("sk_test_x", False), ("rk_test_x", False)],
)
def test_which_keys_are_live(monkeypatch: pytest.MonkeyPatch, key: str, live: bool) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", key)
    assert load_settings().live_mode is live


def test_lists_are_comma_separated_and_empty_is_unset(monkeypatch: pytest.MonkeyPatch) -> None:
    other = "whsec_" + base64.b64encode(b"o" * 32).decode()
    monkeypatch.setenv("OPENMETER_WEBHOOK_SECRETS", f" {GOOD_SECRET} , {other},")
    monkeypatch.setenv("ADMIN_TOKENS", "")
    monkeypatch.setenv("DATABASE_URL", "")
    settings = load_settings()
    assert [s.get_secret_value() for s in settings.openmeter_webhook_secrets] == [
        GOOD_SECRET,
        other,
    ]
    assert settings.admin_tokens == ()
    assert settings.database_url is None


def test_a_dotenv_file_counts_and_the_environment_wins(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / ".env").write_text("STRIPE_RATE_LIMIT=5\nDISPATCH_LINGER=3\nSOMEBODY_ELSES=x\n")
    monkeypatch.setenv("DISPATCH_LINGER", "0.5")
    settings = load_settings()
    assert (settings.stripe_rate_limit, settings.dispatch_linger) == (5, 0.5)


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", f"sk_test_{MARK}")
    monkeypatch.setenv("ADMIN_TOKENS", f"{MARK}{MARK}")
    monkeypatch.setenv("DATABASE_URL", f"postgresql://u:{MARK}@h/d")
    settings = load_settings()
    assert MARK not in repr(settings)
    assert MARK not in str(settings.model_dump())


@pytest.mark.parametrize(
    ("raw", "host", "query"),
    [
        ("postgresql://u@h/d", "h", {}),
        ("postgres://u@h/d", "h", {}),
        ("postgresql+asyncpg://u@h/d", "h", {}),
        ("postgresql://u@h/d?sslmode=require", "h", {"ssl": "require"}),
        ("postgresql+asyncpg://u@/d?host=/run/pg", None, {"host": "/run/pg"}),
    ],
)
def test_database_addresses(raw: str, host: str | None, query: dict[str, str]) -> None:
    url = database_url(raw)
    assert url.drivername == "postgresql+asyncpg"
    assert (url.host, dict(url.query)) == (host, query)


@pytest.mark.parametrize(
    "raw",
    [
        f"postgresql://u:p@h:{MARK}/d",
        f"postgresql://u:p/{MARK}:x@h:y/d",
        "postgresql",
        "postgresql://u@h/d?connect_timeout=3",
    ],
)
def test_addresses_that_are_none(raw: str) -> None:
    with pytest.raises(SettingsError, match="DATABASE_URL: ") as refused:
        database_url(raw)
    assert MARK not in refused.value.detail
