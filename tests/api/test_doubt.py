"""An operator settles an increment that Stripe's totals do not settle."""

from datetime import UTC, datetime

import httpx
import pytest
from sqlalchemy import text

from app.bootstrap import Services
from app.db import transaction


async def put_in_doubt(built: Services, *, reason: str = "in_doubt") -> int:
    """A record that wants 8, of which 3 are reported and an increment of 5 is in doubt."""
    async with transaction(built.engine) as connection:
        period = await connection.scalar(
            text(
                """
                insert into item_periods (subscription, subscription_item, period_start,
                    period_end, exact_numerator, exact_denominator, rounding, rounded_total)
                values ('sub_1', 'si_1', '2026-03-01', '2026-04-01', 8, 1, 'half_up', 8)
                returning id
                """
            )
        )
        await connection.execute(
            text("insert into subscription_lanes (subscription) values ('sub_1')")
        )
        record: int = (
            await connection.execute(
                text(
                    """
                    insert into usage_records (item_period_id, subscription, subscription_item,
                        timestamp, wanted_quantity, reported_quantity, svix_id, state, reason,
                        increment, sent_key, sent_quantity, sent_at, sent_action, compare_at)
                    values (:period, 'sub_1', 'si_1', 1772400000, 8, 3, 'msg_1', 'held', :reason,
                        true, 'k', 5, :at, 'increment', :at)
                    returning id
                    """
                ),
                {"period": period, "reason": reason, "at": datetime(2026, 3, 2, tzinfo=UTC)},
            )
        ).scalar_one()
    return record


@pytest.mark.parametrize(
    ("executed", "state", "reported"), [(True, "reported", 8), (False, "due", 3)]
)
async def test_as_the_operator_says(
    client: httpx.AsyncClient, built: Services, executed: bool, state: str, reported: int
) -> None:
    record = await put_in_doubt(built)
    answer = await client.post(f"/v1/records/{record}/settle", json={"executed": executed})
    assert answer.status_code == 200
    assert answer.json() == {"id": record, "state": state, "reported_quantity": reported}
    [shown] = (await client.get("/v1/records")).json()["data"]
    assert (shown["state"], shown["in_doubt"], shown["reason"]) == (state, False, None)
    assert "by hand" in shown["detail"]
    async with transaction(built.engine) as connection:
        row = (
            await connection.execute(
                text(
                    "select r.sent_key, r.compare_at, r.key_suffix, l.due_at is not null as due "
                    "from usage_records r join subscription_lanes l using (subscription)"
                )
            )
        ).one()
    assert tuple(row) == (None, None, 0 if executed else 1, True)
    # It is settled once: what is in doubt no more cannot be settled otherwise.
    again = await client.post(f"/v1/records/{record}/settle", json={"executed": not executed})
    assert again.status_code == 404


async def test_only_what_is_in_doubt(client: httpx.AsyncClient, built: Services) -> None:
    record = await put_in_doubt(built, reason="attempts_exhausted")
    for number in (record, record + 1):
        answer = await client.post(f"/v1/records/{number}/settle", json={"executed": True})
        assert answer.status_code == 404
        assert answer.json()["type"].endswith("not-found")
    [shown] = (await client.get("/v1/records")).json()["data"]
    assert (shown["state"], shown["reported_quantity"]) == ("held", 3)


@pytest.mark.parametrize("body", [{}, {"executed": None}, {"executed": "yes"}, {"executed": 1}])
async def test_a_yes_is_a_yes(client: httpx.AsyncClient, built: Services, body: object) -> None:
    record = await put_in_doubt(built)
    answer = await client.post(f"/v1/records/{record}/settle", json=body)
    assert answer.status_code == 422


async def test_nobody_else_settles(anonymous: httpx.AsyncClient, built: Services) -> None:
    record = await put_in_doubt(built)
    answer = await anonymous.post(f"/v1/records/{record}/settle", json={"executed": True})
    assert answer.status_code == 401
