"""The one window that counts on a record whose quantity is no sum. SQL only."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Final

from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.mapping.models import Combination


@dataclass(frozen=True, slots=True)
class StandingWindow:
    """What of a window is counted on a record."""

    id: int
    usage_record_id: int
    window_end: datetime
    amount: Fraction


# Which of a record's windows it is. Quotients of PostgreSQL are rounded, its `div` and `mod` are
# exact: this is floor + ceil of twice the amount. It never falls where the amount rises, and says
# all that rounding to whole units asks for: whichever of several it is, the quantity is the same.
_FOREMOST: Final = {
    Combination.MAX: """
        2 * div(2 * w.amount_numerator, w.amount_denominator)
        + sign(mod(2 * w.amount_numerator, w.amount_denominator)) desc
    """,
    Combination.LATEST: "w.window_end desc, w.id desc",
}


async def foremost_on(
    connection: AsyncConnection,
    usage_record_ids: Collection[int],
    combination: Combination,
    *,
    without: Collection[int],
) -> list[StandingWindow]:
    """Of each locked record the one window that counts, by its combination, `without` some.

    One, because a record of a day or a period has all windows of its time: to fetch these for every
    window that is booked took seconds.
    """
    rows = await connection.execute(
        text(
            f"""
            select f.* from unnest(cast(:records as bigint[])) as r (id)
            cross join lateral (
                select w.id, w.usage_record_id, w.window_end,
                       w.amount_numerator, w.amount_denominator
                from usage_windows w
                where w.usage_record_id = r.id and w.id <> all(cast(:without as bigint[]))
                order by {_FOREMOST[combination]} limit 1) f
            """  # noqa: S608 - a constant of this module
        ),
        {"records": list(usage_record_ids), "without": list(without)},
    )
    return [
        StandingWindow(
            row.id,
            row.usage_record_id,
            row.window_end,
            Fraction(int(row.amount_numerator), int(row.amount_denominator)),
        )
        for row in rows
    ]
