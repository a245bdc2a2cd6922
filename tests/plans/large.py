"""What fills the large database: 40,000 customers, 5,000 of them with 20 hours each, and some of
every state."""

from typing import Final

SUBJECTS: Final = 5_000
HOURS: Final = 20
GROUP: Final = "substring(sha256('{}') for 16)"
_EACH: Final = f"generate_series(1, {SUBJECTS}) n"
# Of most customers nothing came lately.
_KNOWN: Final = f"generate_series(1, {8 * SUBJECTS}) n"
_EVERY: Final = f"{_EACH} cross join generate_series(0, {HOURS - 1}) h"
_DAY: Final = "timestamptz '2026-03-09 00:00Z'"
_NOWHERE: Final = "usage_record_id = null"
_LATER: Final = "retry_at = '2027-01-01'"
_SINCE: Final = "retry_at = '2026-03-01'"
_MOVING: Final = f"reason = 'moving', {_SINCE}"
_OWED: Final = "due_at = '2026-03-10', unsent_since = '2026-03-10', wanted_quantity = 2"

# Of every state that is rare some: of which rows, and what.
RARE: Final = [
    ("usage_windows", "1 and 300", f"{_NOWHERE}, state = 'parked', reason = 'no_meter_mapping'"),
    (
        "usage_windows",
        "301 and 400",
        f"{_NOWHERE}, state = 'parked', reason = 'item_not_found', retry_at = '2026-03-10'",
    ),
    ("usage_windows", "401 and 500", f"{_NOWHERE}, state = 'pending'"),
    (
        "usage_windows",
        "501 and 600",
        f"{_NOWHERE}, state = 'pending', reason = 'awaiting_snapshot', detail = 'sub_9', {_LATER}",
    ),
    ("usage_windows", "601 and 620", "source = 'flush'"),
    (
        "usage_windows",
        "621 and 640",
        f"{_NOWHERE}, state = 'pending', reason = 'awaiting_query', source = 'flush', {_SINCE}",
    ),
    ("usage_windows", "641 and 660", f"{_NOWHERE}, state = 'covered', reason = 'replaced'"),
    (
        "usage_windows",
        "661 and 680",
        f"moving_from = usage_record_id, {_NOWHERE}, state = 'pending', {_MOVING}",
    ),
    ("usage_records", "1001 and 1100", f"state = 'due', {_OWED}"),
    ("usage_records", "1101 and 1120", f"state = 'late', {_OWED}"),
    ("usage_records", "1121 and 1150", "state = 'held', reason = 'negative_increment'"),
    (
        "usage_records",
        "1151 and 1160",
        "state = 'held', reason = 'in_doubt', compare_at = '2026-03-10', sent_key = 'k'",
    ),
]
FILL: Final = [
    """
    insert into meter_mappings (meter, price_selector, scale_numerator, scale_denominator,
                                rounding, timestamp_rule, updated_at)
    values ('tokens', '{"ids": ["price_1"]}', 1, 1, 'half_up', 'inside', now())
    """,
    f"""
    insert into subject_mappings (subject, subscription, updated_at)
    select 'customer-' || n, 'sub_' || n, now() from {_EACH}
    """,
    f"""
    insert into usage_series (meter, subject, group_key, group_by, aggregation, newest_start,
                              newest_end, longest)
    select 'tokens', 'customer-' || n, {GROUP}, '{{}}', 'SUM', {_DAY} + interval '19 hours',
           {_DAY} + interval '20 hours', '1 hour' from {_KNOWN}
    """,
    f"""
    insert into item_periods (subscription, subscription_item, period_start, period_end,
                              exact_numerator, exact_denominator, rounding, rounded_total)
    select 'sub_' || n, 'si_' || n, '2026-03-01 00:00Z', '2026-04-01 00:00Z', 20, 1, 'half_up', 20
    from {_KNOWN}
    """,
    f"insert into subscription_lanes (subscription) select 'sub_' || n from {_KNOWN}",
    f"""
    insert into deliveries (svix_id, body, body_sha256, message_at, received_at, state)
    select 'msg_' || n || '_' || h, 'x', 'x', {_DAY} + h * interval '1 hour',
           {_DAY} + h * interval '1 hour', 'booked' from {_EVERY} order by h, n
    """,
    f"""
    insert into usage_records (item_period_id, subscription, subscription_item, timestamp,
                               wanted_quantity, reported_quantity, revision, svix_id, state)
    select p.id, p.subscription, p.subscription_item,
           extract(epoch from {_DAY})::bigint + (h + 1) * 3600 - 1, 1, 1, 1, 'msg_1', 'reported'
    from item_periods p, generate_series(0, {HOURS - 1}) h where p.id <= {SUBJECTS}
    order by h, p.id
    """,
    f"""
    insert into usage_windows (
        meter, subject, group_key, group_by, window_start, window_end, aggregation, value,
        delivery_id, svix_id, message_at, state, usage_record_id, amount_numerator,
        scale_numerator, scale_denominator, booked_at)
    select 'tokens', 'customer-' || n, {GROUP}, '{{}}', {_DAY} + h * interval '1 hour',
           {_DAY} + (h + 1) * interval '1 hour', 'SUM', 1, d.id, d.svix_id, d.message_at, 'booked',
           r.id, 1, 1, 1, now()
    from {_EVERY}
    join deliveries d on d.svix_id = 'msg_' || n || '_' || h
    join usage_records r on r.subscription_item = 'si_' || n
        and r.timestamp = extract(epoch from {_DAY})::bigint + (h + 1) * 3600 - 1
    order by h, n
    """,
    f"""
    insert into attempts (usage_record_id, idempotency_key, action, quantity, started_at,
                          finished_at, outcome, worker)
    select id, 'k', 'set', 1, '2026-03-09', {_DAY} + id * interval '1 s', 'succeeded', 'w'
    from usage_records
    """,
    """
    insert into window_revisions (usage_window_id, value, aggregation, source, delivery_id, svix_id,
                                  message_at, verdict, kept_at)
    select id, 2, 'SUM', 'webhook', delivery_id, svix_id, message_at, 'superseded', now()
    from usage_windows where id % 5 = 0
    """,
    *(f"update {table} set {what} where id between {ids}" for table, ids, what in RARE),
    """
    update subscription_lanes l set due_at = '2026-03-10' from usage_records r
    where r.subscription = l.subscription and r.state = 'due'
    """,
    """
    insert into carries (from_record_id, to_record_id, quantity, svix_id, carried_at)
    select n, n + 1, 1, 'msg_1', now() from generate_series(2001, 22000) n
    """,
]
