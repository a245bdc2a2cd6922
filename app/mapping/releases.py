"""Releases: parked windows become pending again, because what they waited for may be there now.

Asking is one row, in the transaction that brought the change; doing is the booker's, in batches. A
statement that turned 600,000 parked windows at once ran into its timeout, every time, and kept all
booking waiting for the mapping lock meanwhile.
"""

from collections.abc import Iterable, Sequence
from typing import Final, Literal

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.mapping.reasons import ACCEPTED, STRIPE_SIDE, ParkReason

Kind = Literal["meter", "subject", "subscription", "reason"]

_AT_STRIPE = ", ".join(f"'{reason}'" for reason in sorted(STRIPE_SIDE))
# Those that stay known by their reason until they are booked.
_KEPT: Final = ", ".join(
    f"'{reason}'" for reason in sorted(ACCEPTED | {ParkReason.QUERY_UNANSWERED})
)
# Which parked windows a release is about. Reasons that lie at Stripe are those that a changed
# subscription can mend.
_ABOUT: Final[dict[Kind, str]] = {
    "meter": "meter = :name",
    "subject": "subject = :name",
    "reason": "reason = :name",
    "subscription": f"""
        reason in ({_AT_STRIPE})
        and subject in (select subject from subject_mappings where subscription = :name)
    """,  # noqa: S608 - from an enumeration
}
# Whoever waits for locked windows takes them in the order of their unique key: so two replicas
# never wait for each other in a circle.
KEY_ORDER: Final = "order by meter, subject, group_key, window_start, window_end"


async def ask(connection: AsyncConnection, kind: Kind, names: Iterable[str]) -> None:
    """Have the parked windows of these names released; names without any are passed over."""
    await connection.execute(
        text(
            f"""
            insert into window_releases (kind, name)
            select :kind, n.name from unnest(cast(:names as text[])) as n (name)
            where exists (
                select 1 from usage_windows
                where state = 'parked' and {_ABOUT[kind].replace(":name", "n.name")})
            """  # noqa: S608 - from the table above
        ),
        {"kind": kind, "names": list(names)},
    )


async def release_some(connection: AsyncConnection, *, limit: int) -> int:
    """Carry out releases until about `limit` windows are pending again. Returns their number."""
    released = 0
    while released < limit:
        asked = (
            await connection.execute(
                text(
                    "select id, kind, name, after_id from window_releases "
                    "order by id limit 1 for update skip locked"
                )
            )
        ).one_or_none()
        if asked is None:
            break
        found, last = await _release(
            connection, asked.kind, asked.name, after=asked.after_id, limit=limit
        )
        released += found
        await connection.execute(
            text(
                "delete from window_releases where id = :id"
                if found < limit
                else "update window_releases set after_id = :last where id = :id"
            ),
            {"id": asked.id} | ({} if found < limit else {"last": last}),
        )
    return released


async def _release(
    connection: AsyncConnection, kind: Kind, name: str, *, after: int, limit: int
) -> tuple[int, int]:
    """Release the next windows of one release: how many were looked at, and the last id."""
    ids = (
        (
            await connection.execute(
                text(
                    f"""
                    select id from usage_windows
                    where state = 'parked' and id > :after and {_ABOUT[kind]}
                    order by id limit :limit
                    """  # noqa: S608 - from the table above
                ),
                {"name": name, "after": after, "limit": limit},
            )
        )
        .scalars()
        .all()
    )
    if ids:
        await release_named(connection, ids, vouched=kind == "reason")
    return len(ids), ids[-1] if ids else after


async def release_named(connection: AsyncConnection, ids: Sequence[int], *, vouched: bool) -> None:
    """Release those of these windows that are parked.

    `vouched`: an operator asked, who thereby vouches for rows that contradict their query, and
    approves what a revision takes away: this revision, not those that may follow. What OpenMeter
    did not tell is asked for again: without its reason it would be booked with no value. And what
    was accepted stays accepted, whatever was deleted of its series meanwhile.
    """
    await connection.execute(
        text(
            f"""
            update usage_windows set state = 'pending', detail = null, retry_at = null,
                subject_contradicts = subject_contradicts
                    and not (:vouched and reason = 'subject_contradicts'),
                approved_revision = case when :vouched and reason = 'needs_approval'
                                         then revision else approved_revision end,
                reason = case when reason in ({_KEPT}) then reason end
            where id in (
                select id from usage_windows
                where id = any(cast(:ids as bigint[])) and state = 'parked'
                {KEY_ORDER} for update)
            """  # noqa: S608 - constants of this module
        ),
        {"ids": list(ids), "vouched": vouched},
    )
