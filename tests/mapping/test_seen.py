"""What the database knows of meters and prices when they are mapped, and that misfits stop there.

Snapshots are kept by `Snapshots` itself: what it writes is what is read here.
"""

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import transaction
from app.errors import InvalidMapping
from app.mapping.file import Mappings
from app.mapping.fitting import Seen
from app.mapping.models import SnapshotItem, SubscriptionSnapshot
from app.mapping.repository import MappingRepository, share_lock
from app.mapping.seen import what_was_seen
from tests.mapping.seen_side import keep, series
from tests.mapping.stripe_side import NOW, item, meter, price, snapshot, span

TOKENS = Mappings({"tokens": (meter(),)}, {"customer-1": (span(),)})


async def window(engine: AsyncEngine, aggregation: str) -> None:
    """A window that was parked before anything was known of series."""
    async with transaction(engine) as connection:
        await connection.execute(
            text(
                """
                insert into usage_windows (meter, subject, group_key, group_by, window_start,
                    window_end, aggregation, value, svix_id, message_at, state)
                values ('tokens', 'customer-1', '', '{}', now() - interval '1 hour', now(),
                    :aggregation, 1, 'msg_1', now(), 'pending')
                """
            ),
            {"aggregation": aggregation},
        )


async def seen(engine: AsyncEngine, wanted: Mappings = TOKENS) -> Seen:
    async with transaction(engine) as connection:
        return await what_was_seen(connection, wanted)


def prices(found: Seen) -> list[tuple[str, str | None]]:
    return [(held.price_id, held.aggregate_usage) for held in found.items]


async def test_of_an_empty_database_nothing_is_known(engine: AsyncEngine) -> None:
    assert await seen(engine) == Seen({}, ())


async def test_the_newest_series_tells_the_aggregation_of_a_meter(engine: AsyncEngine) -> None:
    await series(engine, "COUNT", at=NOW - timedelta(days=1))
    await series(engine, "SUM", at=NOW)
    await series(engine, "MAX", at=NOW - timedelta(days=2))
    await series(engine, "AVG", meter="others", at=NOW + timedelta(days=1))
    assert (await seen(engine)).aggregations == {"tokens": "SUM"}


async def test_without_series_a_window_tells_the_aggregation(engine: AsyncEngine) -> None:
    await window(engine, "MAX")
    assert (await seen(engine)).aggregations == {"tokens": "MAX"}
    await series(engine, "SUM")
    assert (await seen(engine)).aggregations == {"tokens": "SUM"}


async def test_an_aggregation_that_no_message_told_is_not_known(engine: AsyncEngine) -> None:
    await series(engine, "UNKNOWN")
    assert (await seen(engine)).aggregations == {}


async def test_prices_are_those_of_the_subscriptions_that_will_pay(engine: AsyncEngine) -> None:
    repository = MappingRepository(engine)
    await repository.replace(
        Mappings(
            {}, {"stays": (span("sub_2", subject="stays"),), "customer-1": (span("sub_left"),)}
        ),
        now=NOW,
    )
    await keep(
        engine,
        snapshot(item(price_id="wanted")),
        snapshot(item(price_id="standing"), name="sub_2"),
        snapshot(item(price_id="left"), name="sub_left"),
        snapshot(item(price_id="of_nobody"), name="sub_3"),
    )
    assert prices(await seen(engine)) == [("standing", "sum"), ("wanted", "sum")]


@pytest.mark.parametrize(
    "held",
    [
        snapshot(status="canceled"),
        snapshot(status="incomplete_expired"),
        SubscriptionSnapshot("sub_1", NOW, found=False),
        snapshot(item(usage_type="licensed", aggregate_usage=None)),
        snapshot(item(billing_meter="mtr_1", aggregate_usage=None)),
        snapshot(item(aggregate_usage=None)),
    ],
)
async def test_what_takes_no_usage_records_tells_nothing(
    engine: AsyncEngine, held: SubscriptionSnapshot
) -> None:
    await keep(engine, held)
    assert (await seen(engine)).items == ()


async def test_of_a_price_what_was_read_last_counts(engine: AsyncEngine) -> None:
    """A lookup key goes over to another price; snapshots of before still name the old one."""
    everything = Mappings(TOKENS.meters, {"customer-1": (span(), span("sub_2"), span("sub_3"))})
    keyed = item(lookup_key="tokens", price_metadata=(("a", "ü"),))
    await keep(
        engine,
        snapshot(keyed, fetched_at=NOW - timedelta(days=1)),
        snapshot(replace(keyed, lookup_key=None), name="sub_2"),
        snapshot(replace(keyed, lookup_key="old"), name="sub_3", fetched_at=NOW - timedelta(2)),
    )
    (found,) = (await seen(engine, everything)).items
    assert (found.price_id, found.lookup_key, found.price_metadata) == (
        "price_1",
        None,
        (("a", "ü"),),
    )


@pytest.mark.parametrize("body", [None, "{}", '{"items": null}', '{"items": {}, "status": "x"}'])
async def test_a_snapshot_of_another_version_tells_nothing(
    engine: AsyncEngine, body: str | None
) -> None:
    async with transaction(engine) as connection:
        await connection.execute(
            text(
                "insert into subscription_snapshots (subscription, fetched_at, found, body) "
                "values ('sub_1', now(), true, cast(:body as jsonb))"
            ),
            {"body": body},
        )
    assert (await seen(engine)).items == ()


async def test_subjects_alone_ask_for_no_prices(engine: AsyncEngine) -> None:
    await keep(engine, snapshot())
    assert await seen(engine, Mappings({}, TOKENS.subjects)) == Seen({}, ())


def by_max() -> SnapshotItem:
    return item(aggregate_usage="max")


async def test_a_misfit_is_refused_and_nothing_is_changed(engine: AsyncEngine) -> None:
    repository = MappingRepository(engine)
    await series(engine, "SUM")
    await keep(engine, snapshot(by_max()))
    for apply in (repository.preview(TOKENS, now=NOW), repository.replace(TOKENS, now=NOW)):
        with pytest.raises(InvalidMapping) as refused:
            await apply
        (fault,) = refused.value.faults
        assert fault.path == "meter tokens"
        assert "aggregate_usage max" in fault.message
        assert "SUM" in fault.message
    assert await repository.everything() == Mappings({}, {})
    async with transaction(engine) as connection:
        assert await share_lock(connection) == 1
    other = Mappings({"tokens": (meter(selector=price("price_2")),)}, TOKENS.subjects)
    assert (await repository.replace(other, now=NOW)).notes != ()


async def test_a_misfit_that_comes_to_light_later_keeps_no_customer_out(
    engine: AsyncEngine,
) -> None:
    repository = MappingRepository(engine)
    applied = await repository.replace(TOKENS, now=NOW)
    assert [note.message for note in applied.notes] == [
        "not checked: no window of this meter and no subscription with this price has been seen"
    ]
    await series(engine, "SUM")
    await keep(engine, snapshot(by_max()))
    more = Mappings(TOKENS.meters, TOKENS.subjects | {"c-2": (span("sub_2", subject="c-2"),)})
    (note,) = (await repository.replace(more, now=NOW)).notes
    assert note.message.endswith("its usage is parked")
    assert await repository.everything() == more
