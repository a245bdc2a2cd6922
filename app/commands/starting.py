"""What every command begins with: settings and logs, an event loop, an engine, the terminal."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from typing import Any, TypeVar

from rich.console import Console
from sqlalchemy.ext.asyncio import AsyncEngine

from app.config import Settings, load_settings
from app.observability.logs import configure_logs

T = TypeVar("T")

console = Console()


def begin(*, log_format: str | None = None) -> Settings:
    """Settings and logs. Raises SettingsError."""
    overrides: dict[str, Any] = {"log_format": log_format} if log_format else {}
    settings = load_settings(**overrides)
    secrets = [*settings.openmeter_webhook_secrets, *settings.admin_tokens]
    secrets += [key for key in (settings.stripe_api_key, settings.openmeter_api_key) if key]
    configure_logs(
        level=settings.log_level,
        log_format=settings.log_format,
        secrets=[secret.get_secret_value() for secret in secrets],
    )
    return settings


def run_async(main: Callable[[], Coroutine[Any, Any, T]]) -> T:
    """Run on uvloop where it is there."""
    try:
        import uvloop  # noqa: PLC0415 - it is not there on every platform

        return uvloop.run(main())
    except ImportError:
        return asyncio.run(main())


@asynccontextmanager
async def open_engine(settings: Settings) -> AsyncIterator[AsyncEngine]:
    """An engine on the database of the settings: given, running beside us, or started for us.

    Raises NoCluster where an embedded one would have to be made first.
    """
    from app.bootstrap import database  # noqa: PLC0415 - `--help` takes a tenth of the time
    from app.db import create_engine, require_head  # noqa: PLC0415 - the same

    async with database(settings, existing=True) as url:
        engine = create_engine(url, pool_size=3)
        try:
            await require_head(engine)
            yield engine
        finally:
            await engine.dispose()
