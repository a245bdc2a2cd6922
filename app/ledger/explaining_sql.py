"""The statements behind `explaining`. Each uses an index for what it counts or lists."""

from typing import Final

from sqlalchemy import TextClause

from app.db import text

_HEAD: Final = """
    select p.id, p.subscription, p.subscription_item, p.period_start, p.period_end,
           p.combination, p.rounding, p.late_policy, p.closed_at,
           p.exact_numerator, p.exact_denominator, p.rounded_total, p.pruned_at, p.pruned_reported,
           i.body ->> 'price_id' as price, i.body ->> 'lookup_key' as lookup_key
    from item_periods p
    left join lateral (
        select e.body from subscription_snapshots s,
               jsonb_array_elements(s.body -> 'items') as e (body)
        where s.subscription = p.subscription and e.body ->> 'id' = p.subscription_item limit 1
    ) i on true
"""

# A period may have ended before its time, when a threshold or an upgrade moved the anchor: of two
# that have the moment between their bounds the later one counts.
HEAD_AT: Final = text(
    f"""
    {_HEAD}
    where p.subscription_item = :item and p.period_start <= :at and p.period_end > :at
    order by p.period_start desc limit 1
    """
)
HEADS: Final = text(
    f"""
    {_HEAD} where p.id = any(cast(:ids as bigint[])) order by p.subscription_item, p.period_start
    """
)

_ITEM_AT_STRIPE: Final = """
    from subscription_snapshots s, jsonb_array_elements(s.body -> 'items') as i (body),
         lateral (values
            (i.body ->> 'period_start', i.body ->> 'period_end'),
            (i.body ->> 'previous_start', i.body ->> 'previous_end')) as t (start, finish)
    where s.body @> jsonb_build_object(
            'items', jsonb_build_array(jsonb_build_object('id', cast(:item as text))))
      and i.body ->> 'id' = :item and t.start is not null and t.finish is not null
"""
# Nothing was booked, perhaps because all of it is parked. This reads every snapshot: it is for the
# rare item that the ledger has not met.
HEAD_AT_STRIPE: Final = text(
    f"""
    select * from (
        select null as id, s.subscription, i.body ->> 'id' as subscription_item,
               to_timestamp(cast(t.start as bigint)) as period_start,
               to_timestamp(cast(t.finish as bigint)) as period_end,
               null as combination, null as rounding, null as late_policy, null as closed_at,
               i.body ->> 'price_id' as price, i.body ->> 'lookup_key' as lookup_key
        {_ITEM_AT_STRIPE}) p
    where period_start <= :at and period_end > :at order by period_start desc limit 1
    """  # noqa: S608 - constants of this module
)
KNOWN_PERIODS: Final = text(
    f"""
    select period_start, period_end from item_periods where subscription_item = :item
    union
    select to_timestamp(cast(t.start as bigint)), to_timestamp(cast(t.finish as bigint))
    {_ITEM_AT_STRIPE}
    order by period_start desc limit :limit
    """  # noqa: S608 - constants of this module
)

TOTALS: Final = text(
    """
    with r as (select * from usage_records where item_period_id = cast(:period as bigint))
    select count(*) as records,
           sum(wanted_quantity) as wanted_sum, sum(reported_quantity) as reported_sum,
           max(wanted_quantity) as wanted_max, max(reported_quantity) as reported_max,
           (array_agg(wanted_quantity order by timestamp desc))[1] as wanted_newest,
           (array_agg(reported_quantity order by timestamp desc))[1] as reported_newest,
           count(*) filter (where sent_key is not null or doubtful) as in_doubt,
           (select coalesce(sum(quantity), 0) from carries
            where to_record_id in (select id from r)) as carried_in,
           (select coalesce(sum(quantity), 0) from carries
            where from_record_id in (select id from r)) as carried_out
    from r
    """
)
UNSETTLED: Final = text(
    """
    select state, reason, count(*) as records, sum(wanted_quantity - reported_quantity) as quantity
    from usage_records where item_period_id = cast(:period as bigint) and state <> 'reported'
    group by state, reason, sign(wanted_quantity - reported_quantity)
    order by state, reason, quantity desc
    """
)
RECORDS: Final = text(
    """
    select r.id, r.timestamp, r.wanted_quantity, r.reported_quantity, r.carried_quantity,
           r.revision, r.svix_id, r.state, r.reason, r.detail, r.increment, r.due_at,
           (r.sent_key is not null or r.doubtful) as in_doubt,
           (select count(*) from usage_windows w where w.usage_record_id = r.id) as windows_in_all,
           (select count(*) from attempts a where a.usage_record_id = r.id) as attempts_in_all
    from usage_records r
    where r.item_period_id = cast(:period as bigint)
      and (cast(:after as bigint) is null or r.timestamp > :after)
      and (cast(:only as bigint[]) is null or r.id = any(cast(:only as bigint[])))
    order by r.timestamp limit :limit
    """
)
ATTEMPTS: Final = text(
    """
    select * from (
        select a.*, row_number() over (partition by usage_record_id order by id desc) as newest
        from attempts a where usage_record_id = any(cast(:ids as bigint[]))) t
    where newest <= :limit order by usage_record_id, id
    """
)
REVISIONS: Final = text(
    """
    select * from (
        select r.*, row_number() over (partition by usage_window_id order by id desc) as newest,
               count(*) over (partition by usage_window_id) as in_all
        from window_revisions r where usage_window_id = any(cast(:ids as bigint[]))) t
    where newest <= :limit order by usage_window_id, id
    """
)
CARRIES: Final = text(
    """
    with r as (select id from usage_records where item_period_id = cast(:period as bigint)),
    mine as (
        select * from carries where from_record_id in (select id from r)
        union select * from carries where to_record_id in (select id from r))
    select c.quantity, c.carried_at, c.svix_id, count(*) over () as in_all,
           f.id as origin_id, f.subscription_item as origin_item, f.timestamp as origin_timestamp,
           fp.period_start as origin_start, fp.period_end as origin_end,
           t.id as destination_id, t.subscription_item as destination_item,
           t.timestamp as destination_timestamp,
           tp.period_start as destination_start, tp.period_end as destination_end
    from mine c
    join usage_records f on f.id = c.from_record_id
    join item_periods fp on fp.id = f.item_period_id
    left join usage_records t on t.id = c.to_record_id
    left join item_periods tp on tp.id = t.item_period_id
    order by c.id limit :limit
    """
)


def _windows(source: str, columns: str = "w.*, true as certain") -> str:
    """Windows `w` of a source, with what a part is of."""
    return f"""
        select {columns}, whole.window_start as whole_start,
               whole.window_end as whole_end, whole.value as whole_value,
               whole.svix_id as whole_svix_id
        from {source}
        left join usage_windows whole on whole.id = w.part_of
    """  # noqa: S608 - constants of this module


WINDOWS: Final = text(
    _windows("usage_windows w")
    + """
        where w.usage_record_id = any(cast(:ids as bigint[]))
        order by w.usage_record_id, w.window_end, w.id limit :limit
    """
)

# A subject's windows, by the unique index, which begins with the meter: the meters are few, and are
# found by going from one to the next instead of reading all windows.
_OF_SUBJECT: Final = """
    with recursive meters as (
        select min(meter) as meter from usage_windows
        union all
        select (select min(w.meter) from usage_windows w where w.meter > m.meter)
        from meters m where m.meter is not null),
    mine as (
        select w.* from meters m
        join usage_windows w on w.meter = m.meter and w.subject = :subject
        where w.window_end > :since and w.window_end <= :until)
"""
DAY_COUNTS: Final = text(
    f"""
    {_OF_SUBJECT} select state, reason, count(*) as windows from mine group by 1, 2 order by 1, 2
    """  # noqa: S608 - constants of this module
)
DAY_ASIDE: Final = text(
    _OF_SUBJECT
    + _windows("mine w")
    + "where w.state <> 'booked' order by w.window_end, w.id limit :limit"
)
DAY_RECORDS: Final = text(
    f"""
    {_OF_SUBJECT}
    select distinct r.id, r.item_period_id from mine w
    join usage_records r on r.id = w.usage_record_id order by r.id
    """  # noqa: S608 - constants of this module
)

# Parked and pending windows by the subscription their subject is mapped to at their time: the rule
# of booking. The union's branches each have an index of their own.
_WAITING: Final = """
    with mine as (
        select w.id from subject_mappings s
        join usage_windows w on w.subject = s.subject and w.state = 'parked'
        where s.subscription = :subscription and w.window_end > :start and w.window_end <= :end
          and (s.valid_from is null or s.valid_from <= w.window_end - interval '1 second')
          and (s.valid_to is null or s.valid_to > w.window_end - interval '1 second')
        union
        select w.id from usage_windows w
        join subject_mappings s on w.subject = s.subject and s.subscription = :subscription
        where w.state = 'pending' and w.window_end > :start and w.window_end <= :end
          and (s.valid_from is null or s.valid_from <= w.window_end - interval '1 second')
          and (s.valid_to is null or s.valid_to > w.window_end - interval '1 second')),
    placed as (
        select w.id from usage_records r
        join usage_windows w on w.usage_record_id = r.id and w.state in ('parked', 'pending')
        where r.item_period_id = cast(:period as bigint)
        union
        select w.id from usage_records r
        join usage_windows w on w.moving_from = r.id and w.state in ('parked', 'pending')
        where r.item_period_id = cast(:period as bigint)),
    items as (
        select i.body from subscription_snapshots s,
               jsonb_array_elements(s.body -> 'items') as i (body)
        where s.subscription = :subscription),
    waiting as (
        select w.*, m.here or p.id is not null as certain
        from (select id from mine union select id from placed) u
        join usage_windows w on w.id = u.id
        left join placed p on p.id = w.id
        -- Whether the meter's mapping names this item's price, or that of another item.
        cross join lateral (
            select coalesce(bool_or(i.body ->> 'id' = :item), false) as here, count(*) > 0 as known
            from items i
            join (select price_selector from meter_mappings m
                  where m.meter = w.meter and w.group_by @> m.group_filter
                  order by m.group_filter = cast('{}' as jsonb) limit 1) m
              on jsonb_exists(m.price_selector -> 'ids', i.body ->> 'price_id')
                 or m.price_selector ->> 'lookup_key' = i.body ->> 'lookup_key'
                 or (i.body -> 'price_metadata') @> (m.price_selector -> 'metadata')) m
        where m.here or p.id is not null or not m.known)
"""


def _waiting(select: str) -> TextClause:
    return text(_WAITING + select)


WAITING_COUNTS: Final = _waiting(
    "select state, reason, certain, count(*) as windows from waiting "
    "group by 1, 2, 3 order by 1, 2, 3 desc"
)
WAITING: Final = _waiting(_windows("waiting w", "w.*") + "order by w.window_end, w.id limit :limit")
