"""Usage that stands on records, as a change of the mappings sees it, and what moves. SQL only.

A subject's windows are found by the unique key, which begins with the meter: the meters are few,
and are found by going from one to the next; so are the subjects of a meter. Subjects are looked at
in portions, each far below the statement timeout.
"""

import json
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncConnection

from app.db import text
from app.mapping.models import SubjectMapping
from app.mapping.moving import Obstacle, PlaceOfUsage, Span, StandingUsage
from app.mapping.releases import KEY_ORDER

MOVING: Final = "moving"
# Of 300 windows each: half a second to look at, two to mark. A thousand took longer than the
# statement timeout.
SUBJECTS_AT_ONCE = 100


@dataclass(frozen=True, slots=True)
class Changed:
    """What of the mappings has another place: the spans of subjects, and the meters.

    `given`: all mappings of the subjects that are changed, as they are to be.
    """

    spans: Mapping[str, Sequence[Span]]
    meters: Collection[str]
    given: Mapping[str, Sequence[SubjectMapping]]


_INSIDE: Final = "w.window_end - interval '1 second'"


def _within(span: str) -> str:
    return (
        f"({span}.starts is null or {span}.starts <= {_INSIDE}) "
        f"and ({span}.ends is null or {span}.ends > {_INSIDE})"
    )


# The windows that a change may move, each with the subscription that pays for it by the new
# mappings: by those that stand where its subject is unchanged.
_PLACED: Final = f"""
    with recursive meters as (
        select min(meter) as meter from usage_windows
        union all
        select (select min(w.meter) from usage_windows w where w.meter > m.meter)
        from meters m where m.meter is not null),
    spans as (
        select * from unnest(cast(:span_subjects as text[]), cast(:span_starts as timestamptz[]),
                             cast(:span_ends as timestamptz[])) as t (subject, starts, ends)),
    given as (
        select * from unnest(
            cast(:given_subjects as text[]), cast(:given_subscriptions as text[]),
            cast(:given_starts as timestamptz[]), cast(:given_ends as timestamptz[])
        ) as t (subject, subscription, starts, ends)
        union all
        select subject, subscription, valid_from, valid_to from subject_mappings
        where subject = any(cast(:unchanged as text[]))),
    found as (
        select w.id, true as respanned
        from unnest(cast(:subjects as text[])) as s (subject)
        cross join meters m
        join usage_windows w on w.meter = m.meter and w.subject = s.subject
        where w.usage_record_id is not null
          and exists (select 1 from spans t where t.subject = w.subject and {_within("t")})
        union all
        select w.id, false from usage_windows w
        where w.meter = any(cast(:meters as text[]))
          and w.subject = any(cast(:meter_subjects as text[])) and w.usage_record_id is not null
          and not exists (select 1 from spans t where t.subject = w.subject and {_within("t")})),
    placed as (
        select w.id, f.respanned, g.subscription as to_subscription
        from found f join usage_windows w on w.id = f.id
        left join given g on g.subject = w.subject and {_within("g")})
"""  # noqa: S608 - constants of this module

_SUBJECTS_OF_METER = text(
    """
    with recursive subjects as (
        select min(subject) as subject from usage_windows where meter = :meter
        union all
        select (select min(w.subject) from usage_windows w
                where w.meter = :meter and w.subject > s.subject)
        from subjects s where s.subject is not null)
    select subject from subjects where subject is not null
    """
)

# Nothing has to come down where Stripe holds nothing, and nothing was carried.
_STANDING = text(
    f"""
    {_PLACED}
    select w.meter, w.group_by, r.subscription, r.subscription_item, i.period_start, i.period_end,
           p.respanned, p.to_subscription, w.source = 'period' as whole_period,
           w.state = 'parked' and w.moving_from is null as parked, k.at_stripe,
           case when not k.at_stripe then null
                when r.timestamp <= i.closed_until or i.period_end <= :now then 'period_closed'
                when r.state = 'held' then 'record_held'
                when r.increment then 'only_increments'
                when i.combination = 'latest' then 'newest_counts' end as obstacle,
           w.amount_denominator as denominator, sum(w.amount_numerator) as numerator,
           count(*) as windows
    from placed p
    join usage_windows w on w.id = p.id
    join usage_records r on r.id = w.usage_record_id
    join item_periods i on i.id = r.item_period_id and i.pruned_at is null
    cross join lateral (
        select r.reported_quantity <> 0 or r.carried_quantity <> 0 or r.sent_key is not null
               or r.doubtful as at_stripe) k
    group by 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13
    """  # noqa: S608 - a constant
)

# What is pending for another reason (a revision, a question to OpenMeter) keeps that.
_MARK = text(
    f"""
    {_PLACED},
    chosen as (
        select w.id from placed p
        join usage_windows w on w.id = p.id
        join usage_records r on r.id = w.usage_record_id
        join item_periods i on i.id = r.item_period_id and i.pruned_at is null
        join unnest(cast(:place_meters as text[]), cast(:place_groups as text[]),
                    cast(:place_items as text[]), cast(:place_subscriptions as text[]))
            as c (of_meter, groups, item, subscription)
            on c.of_meter = w.meter and cast(c.groups as jsonb) = w.group_by
               and c.item = r.subscription_item and c.subscription = p.to_subscription
        where w.state in ('booked', 'pending') and w.source <> 'period' and w.moving_from is null),
    locked as (
        select id, usage_record_id from usage_windows where id in (select id from chosen)
        {KEY_ORDER} for update)
    update usage_windows w set moving_from = l.usage_record_id, state = 'pending',
        reason = case when w.state = 'booked' then '{MOVING}' else w.reason end,
        detail = case when w.state = 'booked' then 'to where the mappings say now' else w.detail end
    from locked l where w.id = l.id
    """  # noqa: S608 - constants
)


async def standing_usage(
    connection: AsyncConnection, changed: Changed, *, now: datetime
) -> list[StandingUsage]:
    """What stands where the mappings change."""
    found = []
    async for parameters in _portions(connection, changed):
        rows = await connection.execute(_STANDING, {**parameters, "now": now})
        found += [_usage(row) for row in rows]
    return found


async def mark_moving(
    connection: AsyncConnection, changed: Changed, places: Collection[PlaceOfUsage]
) -> int:
    """Have the windows at these places taken off their records and booked anew. Returns how many.

    To be called under the mapping lock, held alone: nobody is booking then.
    """
    if not places:
        return 0
    named = {
        "place_meters": [place.meter for place in places],
        "place_groups": [json.dumps(dict(place.groups)) for place in places],
        "place_items": [place.subscription_item for place in places],
        "place_subscriptions": [place.to_subscription for place in places],
    }
    marked = 0
    async for parameters in _portions(connection, changed):
        marked += (await connection.execute(_MARK, parameters | named)).rowcount
    return marked


async def _portions(
    connection: AsyncConnection, changed: Changed
) -> AsyncIterator[dict[str, list[Any]]]:
    """The parameters of `_PLACED`: subjects that are changed, and those of changed meters."""
    for subjects in _some(changed.spans):
        yield _parameters(changed, subjects=subjects)
    for meter in sorted(changed.meters):
        rows = await connection.execute(_SUBJECTS_OF_METER, {"meter": meter})
        for subjects in _some(rows.scalars().all()):
            yield _parameters(changed, meter=meter, meter_subjects=subjects)


def _some(subjects: Collection[str]) -> list[list[str]]:
    ordered = sorted(subjects)
    return [ordered[n : n + SUBJECTS_AT_ONCE] for n in range(0, len(ordered), SUBJECTS_AT_ONCE)]


def _parameters(
    changed: Changed,
    *,
    subjects: Sequence[str] = (),
    meter: str | None = None,
    meter_subjects: Sequence[str] = (),
) -> dict[str, list[Any]]:
    names = [*subjects, *meter_subjects]
    spans = [(name, span) for name in names for span in changed.spans.get(name, ())]
    mappings = [mapping for name in names for mapping in changed.given.get(name, ())]
    return {
        "subjects": list(subjects),
        "meters": [] if meter is None else [meter],
        "meter_subjects": list(meter_subjects),
        "span_subjects": [name for name, _ in spans],
        "span_starts": [span.start for _, span in spans],
        "span_ends": [span.end for _, span in spans],
        "given_subjects": [mapping.subject for mapping in mappings],
        "given_subscriptions": [mapping.subscription for mapping in mappings],
        "given_starts": [mapping.valid_from for mapping in mappings],
        "given_ends": [mapping.valid_to for mapping in mappings],
        "unchanged": [name for name in names if name not in changed.given],
    }


def _usage(row: Row[Any]) -> StandingUsage:
    return StandingUsage(
        row.meter,
        tuple(sorted(row.group_by.items())),
        row.subscription,
        row.subscription_item,
        row.period_start,
        row.period_end,
        row.respanned,
        row.to_subscription,
        row.windows,
        Fraction(int(row.numerator), int(row.denominator)),
        row.windows if row.at_stripe else 0,
        None if row.obstacle is None else Obstacle(row.obstacle),
        row.whole_period,
        row.parked,
    )
