"""The demo's scenario: who is billed for what, and the deliveries that OpenMeter sends. Pure.

All windows are whole days and hours that ended before `midnight`, and all periods began twenty days
before it at most: so nothing lies in the future or in a closed period, whatever the time of day or
month at which the demo is run.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from decimal import Decimal
from fractions import Fraction

from app.commands import outgoing
from app.commands.outgoing import OutgoingWindow

DAY = timedelta(days=1)
HOUR = timedelta(hours=1)
# Shorter than any month: a period that began so long ago is still open.
CYCLE_BEGAN = 20 * DAY
# In the middle of the others' cycle, and in the middle of a day.
GLOBEX_BEGAN = 6 * DAY - timedelta(hours=10, minutes=30)
ADDONS = 11  # with the item that counts more than Stripe shows on one page of ten


@dataclass(frozen=True, slots=True)
class BilledItem:
    """A subscription item, and how many of its units one unit of usage is."""

    id: str
    subscription: str
    price: str
    scale: Fraction = Fraction(1)


@dataclass(frozen=True, slots=True)
class Delivery:
    """One attempt to deliver a message, and what must come of it.

    `created` is the time inside the message id. `parked` is the reason its windows wait under.
    """

    title: str
    svix_id: str
    created: datetime
    subject: str
    meter: str
    windows: tuple[OutgoingWindow, ...]
    aggregation: str = "SUM"
    status: int = 202
    parked: str | None = None
    forged: bool = False

    @property
    def body(self) -> bytes:
        """The raw body, the same at every attempt."""
        return outgoing.report_body(
            meter=self.meter,
            subject=self.subject,
            windows=self.windows,
            aggregation=self.aggregation,
        )


ACME_TOKENS = BilledItem("si_acme_tokens", "sub_acme", "price_tokens", Fraction(1, 1000))
ACME_CALLS = BilledItem("si_acme_calls", "sub_acme", "price_api_calls")
GLOBEX_GPU = BilledItem("si_globex_gpu", "sub_globex", "price_gpu")
GLOBEX_CALLS = BilledItem("si_globex_calls", "sub_globex", "price_api_calls")
INITECH_TOKENS = BilledItem("si_initech_12th", "sub_initech", "price_tokens", Fraction(1, 1000))

BILLED: Mapping[tuple[str, str], BilledItem] = {
    ("acme", "ai_prompt_tokens"): ACME_TOKENS,
    ("acme-eu", "ai_prompt_tokens"): ACME_TOKENS,
    ("acme", "api_calls"): ACME_CALLS,
    ("globex", "gpu_hours"): GLOBEX_GPU,
    ("globex", "api_calls"): GLOBEX_CALLS,
    ("initech", "ai_prompt_tokens"): INITECH_TOKENS,
}


@dataclass(frozen=True, slots=True)
class _Story:
    """Makes deliveries; `now` is when the newest of their messages were written."""

    now: datetime
    midnight: datetime

    def day(self, ago: int, value: str, **group_by: str) -> OutgoingWindow:
        """A day: 1 is yesterday."""
        start = self.midnight - ago * DAY
        return OutgoingWindow(Decimal(value), start, start + DAY, group_by)

    def hour(self, of_yesterday: int, value: str) -> OutgoingWindow:
        """An hour of yesterday."""
        start = self.midnight - DAY + of_yesterday * HOUR
        return OutgoingWindow(Decimal(value), start, start + HOUR)

    def delivery(
        self,
        title: str,
        subject: str,
        meter: str,
        *windows: OutgoingWindow,
        written: timedelta = timedelta(0),
        aggregation: str = "SUM",
        parked: str | None = None,
    ) -> Delivery:
        """A delivery of a message that was written some time ago."""
        created = self.now - written
        svix_id = outgoing.message_id(created.timestamp())
        return Delivery(
            title, svix_id, created, subject, meter, windows, aggregation, parked=parked
        )


def deliveries(now: datetime) -> Sequence[Delivery]:
    """What is sent, in this order, one after the other. `now` is aware, in UTC."""
    story = _Story(now, now.replace(hour=0, minute=0, second=0, microsecond=0))
    groups = story.delivery(
        "two groups in one window",
        "acme",
        "ai_prompt_tokens",
        story.day(1, "1250300", model="gpt-4"),
        story.day(1, "849900", model="gpt-4o"),
    )
    calls = story.delivery(
        "a day of calls",
        "acme",
        "api_calls",
        story.day(2, "1200"),
        written=2 * HOUR,
        aggregation="COUNT",
    )
    return (
        groups,
        replace(groups, title="the same delivery again", status=200),
        story.delivery(
            "a second subject on the same item",
            "acme-eu",
            "ai_prompt_tokens",
            story.day(1, "400500"),
        ),
        calls,
        story.delivery(
            "a correction of that day",
            "acme",
            "api_calls",
            story.day(2, "1175"),
            aggregation="COUNT",
        ),
        story.delivery(
            "an older message, late: ignored",
            "acme",
            "api_calls",
            story.day(2, "900"),
            written=3 * HOUR,
            aggregation="COUNT",
        ),
        story.delivery(
            "fractions in three windows",
            "globex",
            "gpu_hours",
            *(story.hour(hour, "0.4") for hour in (9, 10, 11)),
        ),
        story.delivery(
            "what float64 makes of 0.1 + 0.2",
            "globex",
            "gpu_hours",
            story.hour(12, "0.30000000000000004"),
        ),
        story.delivery(
            "the day a subscription began",
            "globex",
            "api_calls",
            story.day(6, "64"),
            aggregation="COUNT",
        ),
        story.delivery(
            f"the last of {ADDONS + 1} items: two pages",
            "initech",
            "ai_prompt_tokens",
            story.day(3, "42000"),
        ),
        story.delivery(
            "a day before the subscription began",
            "globex",
            "api_calls",
            story.day(9, "31"),
            aggregation="COUNT",
            parked="before_subscription",
        ),
        story.delivery(
            "a subject that nobody mapped",
            "hooli",
            "ai_prompt_tokens",
            story.day(1, "5000"),
            parked="no_subject_mapping",
        ),
        story.delivery(
            "an average: cannot be added up",
            "acme",
            "latency_ms",
            story.day(1, "182.5"),
            aggregation="AVG",
            parked="aggregation_unsupported",
        ),
        _forged(story.delivery("a bad signature", "acme", "api_calls", story.day(1, "999999"))),
    )


def _forged(delivery: Delivery) -> Delivery:
    return replace(delivery, status=401, forged=True)
