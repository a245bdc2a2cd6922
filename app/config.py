"""Settings, read from the environment and `.env`. Names without a prefix are the documented ones.

Each field's description is the text of `meterbridge serve --help` and of README's table.
"""

import base64
import binascii
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from app.addresses import is_api_address, is_private
from app.errors import SettingsError

MIN_SECRET_BYTES = 24
STRIPE_RATE = 25.0  # what Stripe allows an endpoint of an account, unless it raised it
_DAY = 86_400.0
_SHORTEST_RETENTION_DAYS = 100
_LONGEST_HEADER = 255


def _split(value: Any) -> Any:
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return value


_FITS_A_HEADER = f"visible ASCII without spaces, at most {_LONGEST_HEADER} characters"


def _fits_a_header(value: str) -> bool:
    return len(value) <= _LONGEST_HEADER and all("!" <= character <= "~" for character in value)


def decode_webhook_secret(secret: str) -> bytes:
    """The signing key behind `whsec_<base64>`. A ValueError says what is wrong, safe to show."""
    if not secret.startswith("whsec_"):
        raise ValueError("does not begin with whsec_")
    try:
        key = base64.b64decode(secret.removeprefix("whsec_"), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("is not base64 after whsec_") from None
    if len(key) < MIN_SECRET_BYTES:
        raise ValueError(f"has {len(key)} bytes; {MIN_SECRET_BYTES} or more are needed")
    return key


class Settings(BaseSettings):
    """All settings. Frozen: a running process never changes its mind."""

    model_config = SettingsConfigDict(
        env_file=".env",
        extra="ignore",
        frozen=True,
        hide_input_in_errors=True,
        allow_inf_nan=False,
    )

    database_url: SecretStr | None = Field(
        None,
        description="PostgreSQL: `postgresql://…` or `postgresql+asyncpg://…`; "
        "behind PgBouncer with `?pooler=session` or `?pooler=transaction`. "
        "Not set: the program starts its own in METERBRIDGE_DATA_DIR.",
    )
    meterbridge_data_dir: Path | None = Field(
        None,
        description="Where the embedded PostgreSQL keeps its data (default: user data folder).",
    )
    openmeter_webhook_secrets: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Signing secrets `whsec_…`, comma-separated (several during a rotation)."
    )
    openmeter_api_url: str | None = Field(
        None,
        description="OpenMeter's API, e.g. `https://openmeter.cloud`. "
        "Not set: usage is known from webhooks alone.",
    )
    openmeter_api_key: SecretStr | None = Field(
        None, description="Bearer token of OpenMeter's API; a self-hosted one may need none."
    )
    openmeter_timeout: float = Field(
        20, gt=0, le=120, description="Seconds after which one call to OpenMeter is given up."
    )
    period_end_flush: int = Field(
        180,
        ge=0,
        le=3600,
        description="Seconds before a billing period's end from which on usage that no webhook has "
        "told yet is asked from OpenMeter; 0 is never. Needs `OPENMETER_API_URL`.",
    )
    stripe_api_key: SecretStr | None = Field(
        None,
        description="Stripe secret or restricted key, `sk_…` or `rk_…`. Needed to book and send.",
    )
    stripe_api_base: str = Field(
        "https://api.stripe.com", description="Stripe's API, or the sandbox's address."
    )
    stripe_account: str | None = Field(
        None, description="Connect: the account to act for, `acct_…`."
    )
    stripe_rate_limit: float = Field(
        20,
        ge=0.01,
        le=100_000,
        description="Usage-record calls a second, of all processes together (Stripe allows 25).",
    )
    stripe_rate_ceiling: float | None = Field(
        None,
        ge=0.01,
        le=100_000,
        description="What that rises to at most, while Stripe takes them; not below "
        "`STRIPE_RATE_LIMIT`. Not set: `STRIPE_RATE_LIMIT` where that is set, else 25.",
    )
    stripe_timeout: float = Field(
        20, gt=0, le=120, description="Seconds after which one call to Stripe is given up."
    )
    stripe_in_flight: int = Field(
        64, ge=1, le=1024, description="Calls to Stripe in flight at once, per process."
    )
    admin_tokens: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="Bearer tokens for /v1, comma-separated. None: /v1 answers 503."
    )
    dispatch_linger: float = Field(
        1,
        ge=0,
        le=3600,
        description="Seconds a record waits after its last change, to bundle changes.",
    )
    late_policy: Literal["carry_forward", "hold"] = Field(
        "carry_forward",
        description="Usage of a closed period: carry_forward bills it in the period that is open "
        "now, hold keeps it for somebody; a meter mapping may say otherwise.",
    )
    approve_reductions_above: Decimal | None = Field(
        None,
        ge=0,
        max_digits=30,
        decimal_places=12,
        description="A correction that lowers a booked window by more units waits for approval. "
        "Not set: none waits.",
    )
    shutdown_grace: float = Field(
        25, ge=0, le=600, description="Seconds that calls in flight get to finish after SIGTERM."
    )
    snapshot_max_age: float = Field(
        # A day: Stripe allows 500 reads per transaction on average, and a change that matters is
        # noticed by itself (an item that is gone, a window beyond the period).
        86400,
        gt=0,
        le=31 * _DAY,
        description="Seconds after which a subscription is read again from Stripe.",
    )
    mapping_cache_ttl: float = Field(
        300,
        gt=0,
        le=_DAY,
        description="Seconds a mapping stays cached; a change is seen at once regardless.",
    )
    mapping_cache_size: int = Field(
        50_000,
        ge=1,
        le=10_000_000,
        description="Subjects and subscriptions kept in memory at most.",
    )
    retention_days: int = Field(
        400,
        ge=0,
        le=36_500,
        description="Days after its billing period's end for which usage is kept: windows, "
        "records, deliveries; 100 or more, or 0: for ever.",
    )
    raw_retention_days: int = Field(
        100,
        ge=0,
        le=36_500,
        description="Days for which raw bodies of webhooks and attempts at Stripe, the audit "
        "trail, are kept; 0 is for ever.",
    )
    database_pool_size: int = Field(
        10, ge=3, le=200, description="Database connections per process, 3 or more."
    )
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "info", description="The least severity that is logged."
    )
    log_format: Literal["json", "text"] = Field(
        "json", description="json for machines, text for a terminal."
    )

    @field_validator("openmeter_webhook_secrets", "admin_tokens", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        return _split(value)

    @field_validator(
        "database_url",
        "meterbridge_data_dir",
        "openmeter_api_url",
        "openmeter_api_key",
        "approve_reductions_above",
        "stripe_api_key",
        "stripe_account",
        "stripe_rate_ceiling",
        mode="before",
    )
    @classmethod
    def _empty_is_unset(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("database_url")
    @classmethod
    def _postgresql_only(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            scheme = value.get_secret_value().partition("://")[0]
            if scheme not in ("postgresql", "postgres", "postgresql+asyncpg"):
                raise ValueError("must begin with postgresql:// or postgresql+asyncpg://")
            from app.database_address import database_url  # noqa: PLC0415 - `--help` needs no SQL

            database_url(value.get_secret_value())
        return value

    @field_validator("retention_days")
    @classmethod
    def _longer_than_resends(cls, value: int) -> int:
        # The sender can resend for 90 days: what came again after its deletion would be parked.
        if 0 < value < _SHORTEST_RETENTION_DAYS:
            raise ValueError(f"must be {_SHORTEST_RETENTION_DAYS} or more, or 0 for ever")
        return value

    @field_validator("openmeter_webhook_secrets")
    @classmethod
    def _decodable(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for position, secret in enumerate(value, start=1):
            try:
                decode_webhook_secret(secret.get_secret_value())
            except ValueError as error:
                raise ValueError(f"secret {position} {error}") from None
        return value

    @field_validator("admin_tokens")
    @classmethod
    def _long_enough(cls, value: tuple[SecretStr, ...]) -> tuple[SecretStr, ...]:
        for position, token in enumerate(value, start=1):
            if len(token.get_secret_value()) < 16:
                raise ValueError(f"token {position} is shorter than 16 characters")
            if not _fits_a_header(token.get_secret_value()):
                raise ValueError(f"token {position} must be {_FITS_A_HEADER}")
        return value

    @field_validator("stripe_api_key")
    @classmethod
    def _looks_like_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            key = value.get_secret_value()
            if not key.startswith(("sk_", "rk_")) or not _fits_a_header(key):
                raise ValueError("must be a secret or restricted key: sk_… or rk_…")
        return value

    @field_validator("openmeter_api_key")
    @classmethod
    def _is_a_token(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not _fits_a_header(value.get_secret_value()):
            raise ValueError(f"must be {_FITS_A_HEADER}")
        return value

    @field_validator("stripe_api_base", "openmeter_api_url")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is None:
            return None
        if not is_api_address(value):
            raise ValueError(
                "must be an http(s) address: http(s)://host[:port][/path], without user, query or "
                "fragment"
            )
        return value.rstrip("/")

    @field_validator("stripe_account")
    @classmethod
    def _account(cls, value: str | None) -> str | None:
        if value is not None and not (value.startswith("acct_") and _fits_a_header(value)):
            raise ValueError("must be an account id: acct_…")
        return value

    @model_validator(mode="after")
    def _live_key_only_over_tls(self) -> "Settings":
        base = urlsplit(self.stripe_api_base)
        here = base.hostname in ("localhost", "127.0.0.1", "::1")
        if self.live_mode and base.scheme == "http" and not here:
            raise ValueError("STRIPE_API_BASE: must be https with a live key")
        return self

    @model_validator(mode="after")
    def _ceiling_above_limit(self) -> "Settings":
        # A limit that nobody set gives way to a lower ceiling.
        limit = self.stripe_rate_limit
        if "stripe_rate_limit" in self.model_fields_set and self.highest_rate < limit:
            raise ValueError(f"STRIPE_RATE_CEILING: must not be below STRIPE_RATE_LIMIT, {limit:g}")
        return self

    @model_validator(mode="after")
    def _openmeter_key_stays_private(self) -> "Settings":
        if self.openmeter_api_key is None:
            return self
        if self.openmeter_api_url is None:
            raise ValueError("OPENMETER_API_KEY: is of no use without OPENMETER_API_URL")
        address = urlsplit(self.openmeter_api_url)
        if address.scheme == "http" and not is_private(address.hostname or ""):
            raise ValueError("OPENMETER_API_URL: must be https with a key, unless it is private")
        return self

    @property
    def highest_rate(self) -> float:
        """Usage-record calls a second at most; a limit that somebody set is one."""
        if self.stripe_rate_ceiling is not None:
            return self.stripe_rate_ceiling
        limited = "stripe_rate_limit" in self.model_fields_set
        return self.stripe_rate_limit if limited else STRIPE_RATE

    @property
    def stripe_side(self) -> str:
        """Whose calls these are: `live` or `test`, and of which connected account."""
        mode = "live" if self.live_mode else "test"
        return f"{mode} {self.stripe_account}" if self.stripe_account else mode

    @property
    def live_mode(self) -> bool:
        """Whether the Stripe key moves real money."""
        key = self.stripe_api_key.get_secret_value() if self.stripe_api_key else ""
        return key.startswith(("sk_live_", "rk_live_"))


def load_settings(**overrides: Any) -> Settings:
    """Settings from the environment and `.env`; SettingsError names what is wrong in one line."""
    try:
        return Settings(**overrides)
    except ValidationError as error:
        first = error.errors(include_url=False, include_context=False)[0]
        said = first["msg"].removeprefix("Value error, ")
        if first["input"] == "":
            said = f"is empty; leave it out, or give it a value ({said})"
        # A rule about several settings names them itself.
        raise SettingsError(
            f"{str(first['loc'][0]).upper()}: {said}" if first["loc"] else said
        ) from None
    except UnicodeDecodeError:
        raise SettingsError(".env is not UTF-8") from None
