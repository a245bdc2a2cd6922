"""What is looked at to say that the way goes on again: leases, attempts, windows. SQL only."""

import json
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal

from tests.chaos.account import Window
from tests.chaos.database import Database
from tests.chaos.verdict import Fate

# Of an attempt that leaves nothing to be sent on its record: done, or the windows go elsewhere.
ENDED = ("succeeded", "resolved")


@dataclass(frozen=True, slots=True)
class Observer:
    """Looks into the program's database from outside."""

    database: Database

    async def leases(self, replica: str) -> list[str]:
        """The tokens of the leases that a process holds."""
        rows = await self.database.rows(
            "select lease_token::text from subscription_lanes where starts_with(leased_by, $1)",
            replica,
        )
        return [row["lease_token"] for row in rows]

    async def taken_up(self, tokens: list[str], now: int) -> bool:
        """Whether nothing that is due still waits under one of these leases."""
        rows = await self.database.rows(
            """
            select 1 from subscription_lanes l
            where l.lease_token::text = any($1) and exists (
                select 1 from usage_records r
                where r.subscription = l.subscription and r.state = 'due' and r.due_at <= $2)
            limit 1
            """,
            tokens,
            datetime.fromtimestamp(now, UTC),
        )
        return not rows

    async def line_stopped(self) -> bool:
        """Whether nothing is sent but one call at a time, to see if Stripe is there again."""
        rows = await self.database.rows("select stopped from stripe_line")
        return bool(rows[0]["stopped"])

    async def newest_attempt(self) -> int:
        """The id of the newest attempt; 0 where there is none."""
        rows = await self.database.rows("select coalesce(max(id), 0) as id from attempts")
        newest: int = rows[0]["id"]
        return newest

    async def settled(self, item: str, key: str, after: int) -> bool:
        """Whether the record that a key was of is settled, by an attempt after that one."""
        rows = await self.database.rows(
            """
            select a.id, a.usage_record_id, a.idempotency_key, a.outcome
            from attempts a join usage_records r on r.id = a.usage_record_id
            where r.subscription_item = $1 and a.id > $2 order by a.id
            """,
            item,
            after,
        )
        met = next((row for row in rows if row["idempotency_key"] == key), None)
        return met is not None and any(
            row["usage_record_id"] == met["usage_record_id"]
            and row["id"] >= met["id"]
            and row["outcome"] in ENDED
            for row in rows
        )

    async def sent_by(self, replica: str, after: int) -> bool:
        """Whether a process reported a record, by an attempt after that one."""
        rows = await self.database.rows(
            "select 1 from attempts "
            "where id > $1 and starts_with(worker, $2) and outcome = 'succeeded' limit 1",
            after,
            replica,
        )
        return bool(rows)

    async def unmoved(self, subject: str | None) -> bool:
        """Whether windows still wait for a mapping, or on their way to another record."""
        rows = await self.database.rows(
            """
            select 1 from usage_windows
            where ($1::text is null or subject = $1)
              and (moving_from is not null
                   or ($1 is not null and state = 'parked' and reason = 'no_subject_mapping'))
            limit 1
            """,
            subject,
        )
        return bool(rows)

    async def oldest_unanswered(self) -> int | None:
        """Since when (Unix seconds, the world's) a call's answer is not written down, if any's."""
        rows = await self.database.rows(
            "select min(sent_at) as at from usage_records where sent_key is not null"
        )
        at: datetime | None = rows[0]["at"]
        return None if at is None else int(at.timestamp())

    async def to_do(self) -> dict[str, int]:
        """What is left that the program does by itself, and what waits for somebody."""
        rows = await self.database.rows(
            """
            select 'unbooked' as what, count(*) as n from deliveries where state <> 'booked'
            union all select 'pending', count(*) from usage_windows where state = 'pending'
            union all select 'unsent', count(*) from usage_records where state in ('due', 'late')
            union all select 'waiting', count(*) from usage_windows
                where state = 'parked' and retry_at is not null
            union all select 'releases', count(*) from window_releases
            union all select 'held ' || reason, count(*) from usage_records
                where state = 'held' group by reason
            """
        )
        return {row["what"]: row["n"] for row in rows if row["n"]}

    async def fates(self) -> dict[Window, Fate]:
        """What became of every window that a webhook told."""
        rows = await self.database.rows(
            """
            select meter, subject, group_by::text as groups, window_start, window_end,
                   state, reason, value
            from usage_windows where source = 'webhook'
            """
        )
        return {
            Window(
                row["meter"],
                row["subject"],
                _groups(row["groups"]),
                int(row["window_start"].timestamp()),
                int(row["window_end"].timestamp()),
            ): Fate(row["state"], row["reason"], Decimal(row["value"]))
            for row in rows
        }

    async def version(self) -> str:
        """PostgreSQL's version."""
        rows = await self.database.rows("show server_version")
        version: str = rows[0]["server_version"]
        return version


def _groups(text: str) -> tuple[tuple[str, str], ...]:

    return tuple(sorted(json.loads(text).items()))
