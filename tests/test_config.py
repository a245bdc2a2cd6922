"""Settings: a wrong one is one line that names it, and never shows what was in it."""

import base64
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from app.config import Settings, load_settings
from app.db import database_url
from app.errors import SettingsError
from app.workshop import open_client

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
    ("DATABASE_URL", "postgresql://u@h/d?pgbouncer=true", "has a parameter that is none of"),
    ("DATABASE_URL", f"postgresql://u:{MARK}@h:{MARK}/d", "is not a database address"),
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
    ("STRIPE_API_KEY", "sk_test_" + "x" * 250, "sk_… or rk_…"),
    ("STRIPE_API_KEY", "sk_test_ x", "sk_… or rk_…"),
    *(
        ("STRIPE_API_BASE", address, "http(s)://host[:port][/path]")
        for address in (
            f"https://{MARK}@h",
            f"https://u:{MARK}@h/v1",
            f"https://h?{MARK}",
            f"https://h/v1?x={MARK}",
            f"https://h#{MARK}",
            "https://h?",
            "https://h#",
            "https://",
            "https:///v1",
            f"https://h/{MARK} x",
            f"https://h/../{MARK}",
            f"https://h/%2e%2e/{MARK}",
            f"https://h\\{MARK}",
            f"https://h/{MARK}\n",
            "https://h/v1//x",
            f"https://h:{MARK}",
            "https://h:",
            "https://h:0",
            "https://h:65536",
            "https://1.2.3.999",
            "https://[::1",
            "https://[::g]",
            "https://[1.2.3.4]",
            "https://stripe.ü",
        )
    ),
    ("OPENMETER_API_URL", f"ftp://{MARK}", "http(s)"),
    ("OPENMETER_API_URL", f"https://{MARK}@h", "http(s)://host[:port][/path]"),
    ("OPENMETER_API_URL", f"https://h?{MARK}", "http(s)://host[:port][/path]"),
    ("OPENMETER_API_KEY", f"{MARK} x", "visible ASCII"),
    ("OPENMETER_API_KEY", "x" * 256, "visible ASCII"),
    ("OPENMETER_API_KEY", MARK, "without OPENMETER_API_URL"),
    ("OPENMETER_TIMEOUT", "0", "greater than 0"),
    ("STRIPE_ACCOUNT", MARK, "acct_"),
    ("STRIPE_ACCOUNT", f"acct_ {MARK}", "acct_"),
    ("STRIPE_ACCOUNT", "acct_" + "x" * 251, "acct_"),
    ("STRIPE_RATE_LIMIT", "0", "greater than or equal to 0.01"),
    ("STRIPE_RATE_LIMIT", "1e-300", "greater than or equal to 0.01"),
    ("STRIPE_IN_FLIGHT", "1" + "0" * 5000, "integer"),
    ("STRIPE_RATE_LIMIT", MARK, "number"),
    ("STRIPE_TIMEOUT", "-1", "greater than 0"),
    ("STRIPE_IN_FLIGHT", "0", "greater than or equal to 1"),
    ("ADMIN_TOKENS", "short", "token 1 is shorter than 16"),
    ("ADMIN_TOKENS", f"sixteen ch {MARK}", "token 1 must be visible ASCII"),
    ("ADMIN_TOKENS", "\udcff" * 16, "token 1 must be visible ASCII"),
    ("DISPATCH_LINGER", "-1", "greater than or equal to 0"),
    ("LATE_POLICY", MARK, "'carry_forward' or 'hold'"),
    ("LATE_POLICY", "", "is empty; leave it out"),
    ("LATE_POLICY", "", "'carry_forward' or 'hold'"),
    ("STRIPE_TIMEOUT", "", "is empty; leave it out"),
    ("STRIPE_IN_FLIGHT", "", "is empty; leave it out"),
    ("RETENTION_DAYS", "99", "100 or more"),
    ("APPROVE_REDUCTIONS_ABOVE", MARK, "decimal"),
    ("APPROVE_REDUCTIONS_ABOVE", "-0.01", "greater than or equal to 0"),
    ("APPROVE_REDUCTIONS_ABOVE", "nan", "finite"),
    ("APPROVE_REDUCTIONS_ABOVE", "inf", "finite"),
    ("APPROVE_REDUCTIONS_ABOVE", "1e31", "30 digits"),
    ("APPROVE_REDUCTIONS_ABOVE", "1e-13", "12 decimal places"),
    ("APPROVE_REDUCTIONS_ABOVE", "1e-999999", "30 digits"),
    ("SNAPSHOT_MAX_AGE", "0", "greater than 0"),
    ("MAPPING_CACHE_TTL", "0", "greater than 0"),
    ("MAPPING_CACHE_SIZE", "10000001", "less than or equal to 10000000"),
    ("DATABASE_POOL_SIZE", "1", "greater than or equal to 3"),
    ("LOG_LEVEL", MARK, "'debug'"),
    ("LOG_FORMAT", MARK, "'json'"),
]


SECONDS_AND_RATES = [
    name.upper() for name, field in Settings.model_fields.items() if field.annotation is float
]
BAD += [(name, value, "finite") for name in SECONDS_AND_RATES for value in ("inf", "-inf", "nan")]
BAD += [(name, "1e15", "less than or equal to") for name in SECONDS_AND_RATES]


def test_the_table_covers_what_is_a_number() -> None:
    assert {"STRIPE_TIMEOUT", "DISPATCH_LINGER", "SNAPSHOT_MAX_AGE"} <= set(SECONDS_AND_RATES)


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


@pytest.mark.parametrize(
    ("given", "bound"),
    [("", None), ("0", Decimal(0)), ("100", Decimal(100)), ("0.1", Decimal("0.1"))],
)
def test_reductions_wait_for_approval_above_an_exact_bound(
    monkeypatch: pytest.MonkeyPatch, given: str, bound: Decimal | None
) -> None:
    monkeypatch.setenv("APPROVE_REDUCTIONS_ABOVE", given)
    assert load_settings().approve_reductions_above == bound


@pytest.mark.parametrize(
    "address",
    [
        "https://api.stripe.com",
        "http://127.0.0.1:12111",
        "http://[::1]:12111/",
        "http://stripe_sandbox:12111",
        "HTTPS://Stripe.Example:443/some/path.v1/",
    ],
)
async def test_addresses_of_stripe_that_its_client_takes(
    monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("STRIPE_API_BASE", address)
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_x")
    settings = load_settings()
    assert settings.stripe_api_base == address.rstrip("/")
    await open_client(settings).aclose()


@pytest.mark.parametrize("most", [True, False])
async def test_the_bounds_themselves_can_be_worked_with(
    monkeypatch: pytest.MonkeyPatch, *, most: bool
) -> None:
    """No setting that is taken is too large, or too small, for what is made of it."""
    monkeypatch.setenv("STRIPE_API_KEY", "sk_test_x")
    for name, field in Settings.model_fields.items():
        lower = [getattr(rule, "ge", None) or getattr(rule, "gt", None) for rule in field.metadata]
        upper = [rule.le for rule in field.metadata if hasattr(rule, "le")]
        if upper:
            none = 0 if field.annotation is int else 1e-300
            least = next((bound for bound in lower if bound), none)
            monkeypatch.setenv(name.upper(), str(upper[0] if most else least))
    settings = load_settings()
    for seconds in (
        settings.dispatch_linger,
        settings.shutdown_grace,
        settings.snapshot_max_age,
        settings.mapping_cache_ttl,
    ):
        assert datetime.now(UTC) + timedelta(seconds=seconds) < datetime(2200, 1, 1, tzinfo=UTC)
    await open_client(settings).aclose()


def test_a_live_key_needs_https(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", "sk_live_" + "x" * 20)
    for address in ("http://stripe.example", "HTTP://stripe.example"):
        monkeypatch.setenv("STRIPE_API_BASE", address)
        with pytest.raises(SettingsError, match="STRIPE_API_BASE: must be https"):
            load_settings()
    monkeypatch.setenv("STRIPE_API_BASE", "http://127.0.0.1:12111/")
    settings = load_settings()
    assert settings.live_mode
    assert settings.stripe_api_base == "http://127.0.0.1:12111"


@pytest.mark.parametrize(
    ("address", "taken"),
    [
        ("https://openmeter.cloud", True),
        ("http://openmeter.cloud", False),
        ("http://203.0.113.7.example", False),
        ("http://8.8.8.8:8888", False),
        ("http://[2001:4860:4860::8888]", False),
        ("http://127.0.0.1:8888", True),
        ("http://[::1]:8888", True),
        ("http://10.1.2.3:8888", True),
        ("http://localhost:8888", True),
        ("http://openmeter:8888", True),
        ("http://openmeter.billing.svc:8888", True),
        ("http://openmeter.billing.svc.cluster.local", True),
    ],
)
def test_a_key_of_openmeter_does_not_cross_the_internet_in_the_open(
    monkeypatch: pytest.MonkeyPatch, address: str, *, taken: bool
) -> None:
    monkeypatch.setenv("OPENMETER_API_URL", address)
    assert load_settings().openmeter_api_url == address
    monkeypatch.setenv("OPENMETER_API_KEY", MARK)
    if taken:
        assert load_settings().openmeter_api_key is not None
    else:
        with pytest.raises(SettingsError, match="OPENMETER_API_URL: must be https") as refused:
            load_settings()
        assert MARK not in refused.value.detail


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


@pytest.mark.parametrize(
    ("limit", "ceiling", "refused"),
    [
        ("30", "25", True),
        ("25", "25", False),
        ("25", "30", False),
        (None, "10", False),  # below the default: what nobody set gives way
        ("30", None, False),
        (None, None, False),
    ],
)
def test_a_ceiling_below_the_limit(
    monkeypatch: pytest.MonkeyPatch, limit: str | None, ceiling: str | None, refused: bool
) -> None:
    for name, value in (("STRIPE_RATE_LIMIT", limit), ("STRIPE_RATE_CEILING", ceiling)):
        if value is not None:
            monkeypatch.setenv(name, value)
    if refused:
        with pytest.raises(SettingsError, match=r"^STRIPE_RATE_CEILING: .*STRIPE_RATE_LIMIT, 30$"):
            load_settings()
    else:
        assert load_settings().highest_rate == float(ceiling or limit or 25)


def test_secrets_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STRIPE_API_KEY", f"sk_test_{MARK}")
    monkeypatch.setenv("OPENMETER_API_URL", "https://openmeter.example")
    monkeypatch.setenv("OPENMETER_API_KEY", MARK)
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
