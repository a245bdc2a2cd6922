"""The whole way in one process: what is delivered is booked and sent to a sandbox."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from pydantic import SecretStr
from sqlalchemy.engine import URL

from app.bootstrap import Services, receiving, services, working
from app.commands.outgoing import OutgoingWindow, message_id, report_body
from app.config import Settings
from app.inbox.delivery import Delivery
from app.mapping.file import from_yaml, to_mappings
from tests.dispatch.stripe_side import KEY, PRICE, StripeSide

HOUR = timedelta(hours=1)
START = datetime.now(UTC).replace(minute=0, second=0, microsecond=0) - 9 * HOUR
AT = int((START + HOUR).timestamp()) - 1
MAPPINGS = f"""
meters: [{{meter: tokens, price: {PRICE}}}]
subjects: [{{subject: customer-1, subscription: sub_1}}]
"""


@asynccontextmanager
async def bridge(url: URL, stripe: StripeSide) -> AsyncIterator[Services]:
    """The whole of steps 1 to 3 in this process, without HTTP in front."""
    settings = Settings(
        _env_file=None,
        stripe_api_key=SecretStr(KEY),
        stripe_api_base=stripe.url,
        stripe_rate_limit=1000,
        dispatch_linger=0,
    )
    async with services(settings, url) as built, receiving(built), working(built):
        now = datetime.now(UTC)
        await built.mappings.replace(to_mappings(from_yaml(MAPPINGS)), now=now)
        yield built


async def deliver(built: Services, value: int, *, hour: int = 0) -> None:
    """Accept a report of one window of customer-1."""
    begin = START + hour * HOUR
    body = report_body(
        meter="tokens",
        subject="customer-1",
        windows=[OutgoingWindow(Decimal(value), begin, begin + HOUR)],
    )
    now = datetime.now(UTC)
    await built.inbox.accept(
        Delivery.of(message_id(), body, message_at=now, received_at=now, faults=None)
    )


async def drained(built: Services) -> bool:
    return (await built.status.backlog()).drained
