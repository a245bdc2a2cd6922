"""Logs: one JSON object a line (or text for a terminal), on standard error, without secrets."""

import logging
import re
import sys
from collections.abc import Iterable
from typing import Literal

import structlog
from structlog.types import EventDict, Processor, WrappedLogger

from app.observability.flood import FloodFilter

HIDDEN = "[hidden]"


class HideSecrets:
    """Replaces every known secret in every text of an event: the last line of defence."""

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(secret for secret in secrets if secret)

    def __call__(self, _logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
        """Hide in one event."""
        for key, value in event.items():
            if isinstance(value, str):
                for secret in self._secrets:
                    if secret in value:
                        value = value.replace(secret, HIDDEN)  # noqa: PLW2901 - rewritten in place
                event[key] = value
        return event


# What PostgreSQL and its driver say beside the fault itself: the row that failed, or the value.
_VALUES = re.compile(r"^(DETAIL: |.*invalid input for query argument \$\d+:).*$", re.MULTILINE)


def hide_values(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """Cut rows and parameters out of the database's errors: they hold the bodies of deliveries."""
    for key, value in event.items():
        if isinstance(value, str):
            event[key] = _VALUES.sub(rf"\1 {HIDDEN}", value)
    return event


def _drop_colours(_logger: WrappedLogger, _name: str, event: EventDict) -> EventDict:
    """uvicorn sends every message twice, the second with escape codes."""
    event.pop("color_message", None)
    return event


def configure_logs(
    *,
    level: str,
    log_format: Literal["json", "text"],
    secrets: Iterable[str] = (),
) -> None:
    """Send the program's, uvicorn's and all libraries' logs through one formatter."""
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
        structlog.processors.format_exc_info,
        _drop_colours,
        hide_values,
        HideSecrets(secrets),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=True,
    )
    renderer: Processor = (
        structlog.processors.JSONRenderer()
        if log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0)
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(FloodFilter())
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(level.upper())
    for name in ("uvicorn", "uvicorn.error", "uvicorn.access"):
        logger = logging.getLogger(name)
        logger.handlers = []
        logger.propagate = name != "uvicorn.access"  # a line per request is the proxy's business
    for name in ("httpx", "alembic.runtime.migration", "asyncio"):
        logging.getLogger(name).setLevel(logging.WARNING)
