"""What must hold in the ledger whatever is still to be done: totals, records and carries agree."""

from typing import Final

# A statement that finds the item periods and carries which are wrong.
NOT_ADDING_UP: Final = """
    with moved as (
        select r.id,
               coalesce((select sum(quantity) from carries where to_record_id = r.id), 0) as came,
               coalesce((select sum(quantity) from carries where from_record_id = r.id), 0) as went
        from usage_records r)
    select p.subscription_item, p.period_start, p.rounded_total, sum(r.wanted_quantity) as wanted,
           sum(m.came) as came, sum(m.went) as went
    from item_periods p join usage_records r on r.item_period_id = p.id
    join moved m on m.id = r.id
    where p.pruned_at is null
    group by p.id
    having (p.combination = 'sum'
            and sum(r.wanted_quantity) <> p.rounded_total + sum(m.came) - sum(m.went))
        or bool_or(r.carried_quantity <> m.came - m.went)
        or bool_or(m.came < 0)
        or bool_or(r.wanted_quantity - r.carried_quantity < 0)
        or bool_or(r.state = 'reported' and r.wanted_quantity <> r.reported_quantity)
    union all
    select f.subscription_item, null, null, null, null, null from carries c
    join usage_records f on f.id = c.from_record_id
    join usage_records t on t.id = c.to_record_id
    where f.item_period_id = t.item_period_id
"""
