"""Item periods in the database: made where they are missing, locked, and written. SQL only."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from fractions import Fraction
from typing import Final, NamedTuple

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.driver import Row, Statement
from app.mapping.models import Combination, LatePolicy, Rounding
from app.mapping.resolution import EPOCH, Period, Target


class PeriodKey(NamedTuple):
    """An item's billing period; the start is exclusive."""

    subscription_item: str
    period_start: datetime


@dataclass(frozen=True, slots=True)
class ItemPeriod:
    """A locked item period with its totals; these stay at zero unless records add up."""

    id: int
    exact: Fraction
    rounded: int
    rounding: Rounding
    combination: Combination = Combination.SUM
    late_policy: LatePolicy = LatePolicy.CARRY_FORWARD
    # The last second (Unix) that Stripe takes nothing more for.
    closed_until: int | None = None
    series: bytes | None = None
    # Its windows and records are deleted, or are about to be.
    pruned: bool = False

    def is_closed_at(self, second: int) -> bool:
        """Whether Stripe takes no record at this second any more."""
        return self.closed_until is not None and second <= self.closed_until


def latest(one: int | None, other: int | None) -> int | None:
    """The later of two seconds; what was closed stays so."""
    if one is None or other is None:
        return other if one is None else one
    return max(one, other)


async def open_periods(
    connection: AsyncConnection, targets: Iterable[Target], *, now: datetime
) -> dict[PeriodKey, int]:
    """Make the targets' item periods where they are missing. Returns their ids."""
    wanted = {PeriodKey(t.subscription_item, t.period_start): t for t in targets}
    if not wanted:
        return {}
    found = await _ids(connection, wanted)
    missing = sorted(wanted.keys() - found.keys())
    if missing:
        await _insert(connection, [wanted[key] for key in missing], now)
        found |= await _ids(connection, missing)
    return found


async def _insert(connection: AsyncConnection, targets: Sequence[Target], now: datetime) -> None:
    await connection.execute(
        text(
            """
            insert into item_periods (
                subscription, subscription_item, period_start, period_end, rounding, combination,
                late_policy, closed_at, closed_until, exact_numerator, exact_denominator,
                rounded_total)
            select t.subscription, t.item, t.start, t.finish, t.rounding, t.combination,
                   t.late_policy,
                   case when t.closed_until is not null then cast(:now as timestamptz) end,
                   t.closed_until, 0, 1, 0
            from unnest(cast(:subscriptions as text[]), cast(:items as text[]),
                        cast(:starts as timestamptz[]), cast(:ends as timestamptz[]),
                        cast(:roundings as text[]), cast(:combinations as text[]),
                        cast(:late_policies as text[]), cast(:closed_until as bigint[]))
                as t (subscription, item, start, finish, rounding, combination, late_policy,
                      closed_until)
            order by t.item, t.start
            on conflict (subscription_item, period_start) do nothing
            """
        ),
        {
            "now": now,
            "items": [target.subscription_item for target in targets],
            "starts": [target.period_start for target in targets],
            "ends": [target.period_end for target in targets],
            "subscriptions": [target.subscription for target in targets],
            "roundings": [target.rounding.value for target in targets],
            "combinations": [target.combination.value for target in targets],
            "late_policies": [target.late_policy.value for target in targets],
            "closed_until": [target.closed_until for target in targets],
        },
    )


async def _ids(connection: AsyncConnection, keys: Iterable[PeriodKey]) -> dict[PeriodKey, int]:
    listed = list(keys)
    rows = await connection.execute(
        text(
            """
            select p.id, p.subscription_item, p.period_start from item_periods p
            join unnest(cast(:items as text[]), cast(:starts as timestamptz[])) as t (item, start)
                on p.subscription_item = t.item and p.period_start = t.start
            """
        ),
        {
            "items": [key.subscription_item for key in listed],
            "starts": [key.period_start for key in listed],
        },
    )
    return {PeriodKey(row.subscription_item, row.period_start): row.id for row in rows}


async def known_periods(
    connection: AsyncConnection, subscription_items: Collection[str]
) -> dict[str, list[Period]]:
    """The periods of some items that have something booked, but for the lump before them all."""
    if not subscription_items:
        return {}
    rows = await connection.execute(
        text(
            """
            select subscription_item, period_start, period_end from item_periods
            where subscription_item = any(cast(:items as text[])) and period_start > :epoch
            order by subscription_item, period_start
            """
        ),
        {"items": sorted(subscription_items), "epoch": EPOCH},
    )
    found: dict[str, list[Period]] = defaultdict(list)
    for row in rows:
        found[row.subscription_item].append(Period(row.period_start, row.period_end))
    return found


async def has_ended(connection: AsyncConnection, period: int, *, now: datetime) -> bool:
    """Whether an item period is over by the clock."""
    ended: bool = (
        await connection.execute(
            text("select period_end <= :now from item_periods where id = :id"),
            {"id": period, "now": now},
        )
    ).scalar_one()
    return ended


_PERIOD_COLUMNS: Final = """
    p.id, p.subscription_item, p.period_start, p.exact_numerator, p.exact_denominator,
    p.rounded_total, p.rounding, p.combination, p.late_policy, p.closed_until, p.series,
    p.pruned_at is not null as pruned
"""
_LOCK: Final = Statement(
    f"""
    select {_PERIOD_COLUMNS} from item_periods p
    where p.id = any(cast(:ids as bigint[])) order by p.id for update
    """  # noqa: S608 - the columns are a constant of this module
)
# None of them before all are there: to make one is to wait for whoever makes it, too, and who waits
# holds no period.
_LOCK_NAMED: Final = Statement(
    f"""
    with named as materialized (
        select p.id from item_periods p
        join unnest(cast(:items as text[]), cast(:starts as timestamptz[])) as t (item, start)
            on p.subscription_item = t.item and p.period_start = t.start)
    select {_PERIOD_COLUMNS} from item_periods p
    where p.id = any(cast(:ids as bigint[]) || array(select id from named))
      and (select count(*) from named) = :number
    order by p.id for update
    """  # noqa: S608 - the columns are a constant of this module
)


async def lock_periods(connection: AsyncConnection, ids: Collection[int]) -> dict[int, ItemPeriod]:
    """Lock item periods, always in the order of their ids."""
    rows = await _LOCK.fetch(connection, {"ids": sorted(ids)})
    return {row.id: _period(row) for row in rows}


async def lock_all_periods(
    connection: AsyncConnection, ids: Collection[int], targets: Iterable[Target], *, now: datetime
) -> tuple[dict[PeriodKey, int], dict[int, ItemPeriod]]:
    """Lock item periods by their ids, and those of targets, which are made where they are missing.

    Returns the ids of these, and all of them.
    """
    wanted = {PeriodKey(t.subscription_item, t.period_start): t for t in targets}
    if not wanted:
        return {}, await lock_periods(connection, ids)
    rows = await _LOCK_NAMED.fetch(
        connection,
        {
            "ids": list(ids),
            "items": [key.subscription_item for key in wanted],
            "starts": [key.period_start for key in wanted],
            "number": len(wanted),
        },
    )
    if not rows:
        opened = await open_periods(connection, wanted.values(), now=now)
        return opened, await lock_periods(connection, {*ids, *opened.values()})
    opened = {PeriodKey(row.subscription_item, row.period_start): row.id for row in rows}
    return opened, {row.id: _period(row) for row in rows}


def _period(row: Row) -> ItemPeriod:
    return ItemPeriod(
        row.id,
        Fraction(int(row.exact_numerator), int(row.exact_denominator)),
        int(row.rounded_total),
        Rounding(row.rounding),
        Combination(row.combination),
        LatePolicy(row.late_policy),
        row.closed_until,
        row.series,
        row.pruned,
    )


_WRITE: Final = Statement(
    """
    update item_periods p set exact_numerator = t.numerator,
        exact_denominator = t.denominator, rounded_total = t.rounded,
        rounding = t.rounding, late_policy = t.late_policy, series = t.series,
        closed_until = t.closed_until,
        closed_at = case when t.closed_until is not null
                         then coalesce(p.closed_at, cast(:now as timestamptz)) end
    from unnest(cast(:id as bigint[]), cast(:numerator as numeric[]),
                cast(:denominator as numeric[]), cast(:rounded as numeric[]),
                cast(:rounding as text[]), cast(:late_policy as text[]),
                cast(:series as bytea[]), cast(:closed_until as bigint[]))
        as t (id, numerator, denominator, rounded, rounding, late_policy, series,
              closed_until)
    where p.id = t.id
    """
)


async def write_periods(
    connection: AsyncConnection, periods: Sequence[ItemPeriod], *, now: datetime
) -> None:
    """Write locked item periods. What is closed stays closed."""
    await _WRITE.fetch(
        connection,
        {
            "now": now,
            "id": [p.id for p in periods],
            "numerator": [Decimal(p.exact.numerator) for p in periods],
            "denominator": [Decimal(p.exact.denominator) for p in periods],
            "rounded": [Decimal(p.rounded) for p in periods],
            "rounding": [p.rounding.value for p in periods],
            "late_policy": [p.late_policy.value for p in periods],
            "series": [p.series for p in periods],
            "closed_until": [p.closed_until for p in periods],
        },
    )
