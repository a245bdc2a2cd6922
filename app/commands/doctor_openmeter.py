"""The doctor at OpenMeter's API: one small question that shows whether address and key work."""

from collections.abc import Iterable
from datetime import datetime, timedelta

from app.commands.doctor_findings import Finding, Level
from app.openmeter.api import OpenMeterClient
from app.openmeter.api_errors import OpenMeterError, OpenMeterRefused, OpenMeterUnreachable

CHECK = "openmeter_api"
# Whoever has this name has no usage in the asked minute: the answer is as small as can be.
NOBODY = "meterbridge_doctor"
_KEY_STATUSES = frozenset({401, 403})


async def openmeter_finding(
    client: OpenMeterClient, meters: Iterable[str], now: datetime
) -> Finding:
    """Ask for one minute of the first mapped meter; where none is mapped, for a customer."""
    meter = min(meters, default=None)
    try:
        if meter is None:
            await client.stripe_customer_id(NOBODY)
            return Finding(CHECK, Level.OK, "address and key are accepted")
        minute = now.replace(second=0, microsecond=0)
        await client.query(meter, from_=minute - timedelta(minutes=1), to=minute, subject=NOBODY)
    except OpenMeterError as error:
        return _failure(error, meter)
    return Finding(CHECK, Level.OK, f"address and key are accepted, and it knows {meter}")


def _failure(error: OpenMeterError, meter: str | None) -> Finding:
    if isinstance(error, OpenMeterUnreachable):
        action = (
            "Check OPENMETER_API_URL, DNS and the way out of this network; if OpenMeter itself is "
            "down, everything goes on by itself later."
        )
    elif error.status in _KEY_STATUSES:
        action = "Set OPENMETER_API_KEY to a token that may read meters and customers."
    elif isinstance(error, OpenMeterRefused) and error.absent and meter is not None:
        action = (
            f"OpenMeter has no meter {meter}: check whether OPENMETER_API_URL and the key are of "
            "the OpenMeter that sends the webhooks, and the meter's name in the mapping file."
        )
    else:
        action = (
            "Set OPENMETER_API_URL to the address of OpenMeter's API, without /api/v1, e.g. "
            "https://openmeter.cloud."
        )
    return Finding(CHECK, Level.PROBLEM, error.detail, action)
