"""A ledger in which a test says what must stand at Stripe, written as booking writes it."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from fractions import Fraction
from itertools import count
from typing import Any

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.ledger.recording import record
from app.ledger.windows import PendingWindow
from app.mapping.models import Rounding
from app.mapping.resolution import Target, WindowFacts

NOW = datetime.now(UTC).replace(microsecond=0)
AT = int((NOW - timedelta(hours=2)).timestamp())
PERIOD = (NOW - timedelta(days=10), NOW + timedelta(days=20))


@dataclass(frozen=True)
class Written:
    """A usage record as it stands in the database."""

    id: int
    wanted: int
    reported: int
    state: str
    reason: str | None
    detail: str | None
    due_at: datetime | None
    unsent_since: datetime | None
    failures: int
    failed_at: datetime | None
    sent_key: str | None
    sent_quantity: int | None
    key_suffix: int
    increment: bool
    sent_action: str | None
    compare_at: datetime | None
    comparisons: int


class SeededLedger:
    """Changes and reads usage records. Item `si_N` belongs to subscription `sub_N`."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._ids = count(1)

    async def want(
        self,
        number: int,
        quantity: int,
        *,
        at: int = AT,
        now: datetime = NOW,
        svix_id: str | None = None,
        increment: bool = False,
    ) -> None:
        """Book a quantity for `si_N` at a second, due at once; with `increment` to be added."""
        subscription, item = f"sub_{number}", f"si_{number}"
        svix_id = svix_id or f"msg_{next(self._ids)}"
        target = Target(subscription, item, *PERIOD, at, Fraction(1), Rounding.HALF_UP)
        async with transaction(self._engine) as connection:
            wanted = await connection.scalar(
                text(
                    "select wanted_quantity::bigint from usage_records "
                    "where subscription_item = :item and timestamp = :at"
                ),
                {"item": item, "at": at},
            )
            # One window that revises all that stands on the record.
            window = PendingWindow(
                id=0,
                facts=WindowFacts(
                    "ai_prompt_tokens", "customer-1", "SUM", now - timedelta(hours=1), now
                ),
                group_key=b"",
                value=Decimal(quantity),
                revision=1,
                svix_id=svix_id,
                message_at=now,
                usage_record_id=None,
                amount=Fraction(wanted or 0),
                scale=Fraction(1),
            )
            await record(connection, [(window, target)], [], now=now, linger=timedelta(0))
            if increment:
                await connection.execute(
                    text(
                        "update usage_records set increment = true "
                        "where subscription_item = :item and timestamp = :at"
                    ),
                    {"item": item, "at": at},
                )

    async def record(self, number: int, *, at: int = AT) -> Written:
        """The record of `si_N` at a second."""
        rows = await self.rows(
            """
            select id, wanted_quantity::bigint as wanted, reported_quantity::bigint as reported,
                   state, reason, detail, due_at, unsent_since, failures, failed_at, sent_key,
                   sent_quantity::bigint as sent_quantity, key_suffix, increment, sent_action,
                   compare_at, comparisons
            from usage_records where subscription_item = :item and timestamp = :at
            """,
            item=f"si_{number}",
            at=at,
        )
        return Written(**rows[0])

    async def attempts(self, number: int | None = None) -> list[dict[str, Any]]:
        """The audit trail, of `si_N` or of all, in order."""
        return await self.rows(
            """
            select a.usage_record_id as record_id, a.idempotency_key as key,
                   a.action, a.quantity::bigint as quantity, a.outcome,
                   a.problem, a.http_status, a.request_id, a.replayed, a.worker,
                   r.subscription_item as item
            from attempts a join usage_records r on r.id = a.usage_record_id
            where cast(:item as text) is null or r.subscription_item = :item order by a.id
            """,
            item=None if number is None else f"si_{number}",
        )

    async def line(self) -> dict[str, Any]:
        """The line's row."""
        [row] = await self.rows("select * from stripe_line")
        return row

    async def backlog(self) -> int:
        """How many records are due, now or later."""
        [row] = await self.rows("select count(*) as n from usage_records where state = 'due'")
        count: int = row["n"]
        return count

    async def expire_leases(self) -> None:
        """As if their holders had been dead for a while."""
        await self.run(
            "update subscription_lanes set leased_until = clock_timestamp() - interval '1 s' "
            "where leased_until is not null"
        )

    async def run(self, sql: str, **parameters: object) -> None:
        """Run a statement and commit it."""
        async with transaction(self._engine) as connection:
            await connection.execute(text(sql), parameters)

    async def rows(self, sql: str, **parameters: object) -> list[dict[str, Any]]:
        """The rows of a query."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(text(sql), parameters)
            return [dict(row) for row in found.mappings()]
