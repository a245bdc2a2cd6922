"""Usage that stands on records, as a change of the mappings sees it, and what moves. SQL only.

A subject's windows are found by the unique key, which begins with the meter: the meters are few,
and are found by going from one to the next. Subjects are looked at in portions, each far below the
statement timeout.
"""

import json
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from fractions import Fraction
from typing import Any, Final

from sqlalchemy import Row, text
from sqlalchemy.ext.asyncio import AsyncConnection

from app.mapping.models import SubjectMapping
from app.mapping.moving import Obstacle, PlaceOfUsage, Span, StandingUsage
from app.mapping.releases import KEY_ORDER

MOVING: Final = "moving"
SUBJECTS_AT_ONCE = 1_000


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
# mappings. A subject that is not given has the mappings that stand.
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
        ) as t (subject, subscription, starts, ends)),
    named as (select distinct subject from given),
    found as (
        select w.id, true as respanned
        from unnest(cast(:subjects as text[])) as s (subject)
        cross join meters m
        join usage_windows w on w.meter = m.meter and w.subject = s.subject
        where w.usage_record_id is not null
          and exists (select 1 from spans t where t.subject = w.subject and {_within("t")})
        union all
        select w.id, false from usage_windows w
        where w.meter = any(cast(:meters as text[])) and w.usage_record_id is not null
          and not exists (select 1 from spans t where t.subject = w.subject and {_within("t")})),
    placed as (
        select w.id, f.respanned,
               case when n.subject is null then s.subscription else g.subscription end
                   as to_subscription
        from found f join usage_windows w on w.id = f.id
        left join named n on n.subject = w.subject
        left join given g on g.subject = w.subject and {_within("g")}
        left join (select subject, subscription, valid_from as starts, valid_to as ends
                   from subject_mappings) s
            on n.subject is null and s.subject = w.subject and {_within("s")})
"""  # noqa: S608 - constants of this module

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
    join item_periods i on i.id = r.item_period_id
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
    for parameters in _portions(changed):
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
    for parameters in _portions(changed):
        marked += (await connection.execute(_MARK, parameters | named)).rowcount
    return marked


def _portions(changed: Changed) -> Iterator[dict[str, list[Any]]]:
    """The parameters of `_PLACED`: a portion of the subjects each, and at last the meters."""
    names = sorted(changed.spans)
    for first in range(0, len(names), SUBJECTS_AT_ONCE):
        subjects = names[first : first + SUBJECTS_AT_ONCE]
        spans = {subject: changed.spans[subject] for subject in subjects}
        given = {subject: changed.given[subject] for subject in subjects}
        yield _parameters(subjects, spans, given, ())
    if changed.meters:
        yield _parameters((), changed.spans, changed.given, sorted(changed.meters))


def _parameters(
    subjects: Sequence[str],
    spans: Mapping[str, Iterable[Span]],
    given: Mapping[str, Iterable[SubjectMapping]],
    meters: Sequence[str],
) -> dict[str, list[Any]]:
    flat = [(subject, span) for subject, found in spans.items() for span in found]
    mappings = [mapping for found in given.values() for mapping in found]
    return {
        "subjects": list(subjects),
        "meters": list(meters),
        "span_subjects": [subject for subject, _ in flat],
        "span_starts": [span.start for _, span in flat],
        "span_ends": [span.end for _, span in flat],
        "given_subjects": [mapping.subject for mapping in mappings],
        "given_subscriptions": [mapping.subscription for mapping in mappings],
        "given_starts": [mapping.valid_from for mapping in mappings],
        "given_ends": [mapping.valid_to for mapping in mappings],
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
