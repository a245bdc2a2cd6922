"""On large tables nothing that runs by itself reads a table from end to end, and what is rare has
an index of its own. What is explained are the very statements that the program sends."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL

from app.db import ProgramSchema, transaction
from app.dispatch import doubt_records, lanes, records
from app.dispatch.claiming import claim_records
from app.dispatch.lanes import Lane
from app.dispatch.records import RecordUpdate, WrittenAttempt
from app.health import Health
from app.inbox.delivery import Delivery
from app.inbox.repository import DeliveryRepository
from app.ledger import counting, flushes, questions
from app.ledger import windows as facts
from app.ledger.late_records import late_periods
from app.ledger.moving import wake_moving
from app.ledger.status import StatusRepository
from app.mapping.releases import ask, release_some
from app.retention.pruner import Pruner
from app.retention.terms import Terms
from tests.ledger.world import DAY, Replica, World, row
from tests.mapping.stripe_side import HOUR, NOW
from tests.plans.watching import nodes, plans, watched


async def _receive(world: World, _: Replica) -> None:
    inbox = DeliveryRepository(world.engine)
    for faults in (None, ()):
        new, known = (
            Delivery.of(svix_id, b"{}", message_at=NOW, received_at=NOW, faults=faults)
            for svix_id in (f"msg_new_{faults}", "msg_7_7")
        )
        await inbox.store([new, known])
    await inbox.readmit([Delivery.of("msg_new_()", b"{}", message_at=NOW, received_at=NOW)])


async def _book(world: World, replica: Replica) -> None:
    """New windows, revised ones, and those that overlap one."""
    for subject in ("customer-7", "customer-8"):
        world.stripe.show(subject.replace("customer-", "sub_"))
        await world.deliver(row(3, 5), row(22, 1), subject=subject, sent=10**7)
        await world.deliver(row(23, 1), subject=subject)
        await world.deliver(
            {
                "value": "1",
                "windowStart": (DAY + HOUR / 2).isoformat(),
                "windowEnd": (DAY + HOUR).isoformat(),
            },
            subject=subject,
        )
    for _ in range(4):
        done = await replica.booker.book()
        await replica.read(sorted(done.subscriptions & {"sub_7", "sub_8", "sub_9"}))


async def _release(world: World, _: Replica) -> None:
    async with transaction(world.engine) as connection:
        await ask(connection, "meter", ["tokens"])
        await ask(connection, "subject", ["customer-1"])
        await ask(connection, "reason", ["item_not_found"])
        await ask(connection, "subscription", ["sub_302"])
        await release_some(connection, limit=50)
        await connection.rollback()
    async with transaction(world.engine) as connection:
        await facts.wake_parked(connection, now=NOW, limit=1_000)
        await wake_moving(connection, limit=1_000)
        await connection.rollback()


async def _wait(world: World, _: Replica) -> None:
    async with transaction(world.engine) as connection:
        await facts.snapshot_arrived(connection, "sub_9", retry_at=NOW)
        await questions.claim(connection, NOW)
        await flushes.claim(connection, NOW)
        await flushes.series_of(connection, "sub_9", NOW)
        asked = flushes.Asked("tokens", "customer-9")
        await flushes.standing_starts(connection, [asked], NOW)
        await connection.rollback()


async def _carry(world: World, _: Replica) -> None:
    async with transaction(world.engine) as connection:
        await late_periods(connection, NOW, limit=500)


async def _send(world: World, _: Replica) -> None:
    async with transaction(world.engine) as connection:
        claim = await lanes.claim_lanes(connection, now=NOW, worker="w", limit=8, urgent=4)
        leased = claim.leased
        claimed = await claim_records(connection, leased, now=NOW, per_lane=5)
        await lanes.renew(connection, {token: name for name, token in leased.items()})
        await lanes.lock_leased(
            connection, [Lane(name, token, ()) for name, token in leased.items()]
        )
        attempts = [
            WrittenAttempt(one, NOW, NOW, "succeeded", None, 200, None, None, replayed=False)
            for one in claimed
        ]
        await records.write_attempts(connection, attempts, worker="w")
        updates = [RecordUpdate(one.id, reported=one.quantity, settled=True) for one in claimed]
        await records.write_updates(connection, updates, now=NOW)
        await lanes.release_lanes(connection, leased)
        await connection.rollback()
    async with transaction(world.engine) as connection:
        for item in (await doubt_records.items_to_look_at(connection, now=NOW))[:1]:
            await doubt_records.begin_look(connection, item, now=NOW, worker="w")
            await doubt_records.reported_between(connection, item, 0, 1)
        await doubt_records.raise_again(connection, now=NOW)
        await connection.rollback()


async def _look(world: World, _: Replica) -> None:
    await Health(world.engine, "replica", ProgramSchema.of_program()).check(NOW)
    status = StatusRepository(world.engine)
    await status.backlog()
    await status.release_deliveries()


async def _prune(world: World, _: Replica) -> None:
    for days in (1, 10_000):
        terms = Terms(timedelta(days=days), timedelta(days=days))
        world.clock.set(DAY + timedelta(hours=24.5))
        await Pruner(world.engine, world.clock, terms, rows_at_once=100, pause=0).sweep()


@dataclass(frozen=True, slots=True)
class Path:
    """A part of the program that runs by itself, and the indexes that it must use."""

    run: Callable[[World, Replica], Awaitable[None]]
    indexes: frozenset[str]


PATHS = {
    "receive": Path(_receive, frozenset({"uq_deliveries_svix_id"})),
    "book": Path(
        _book,
        frozenset(
            {
                "ix_deliveries_received",
                "ix_usage_windows_to_book",
                "uq_usage_windows_meter_subject_group_key_window_start_w_9f13",
                "uq_usage_records_subscription_item_timestamp",
                "uq_item_periods_subscription_item_period_start",
                "pk_usage_windows",
                "ix_usage_windows_flush",
            }
        ),
    ),
    "release": Path(
        _release,
        frozenset({"ix_usage_windows_parked_retry", "ix_usage_windows_moving_from"}),
    ),
    "wait": Path(
        _wait,
        frozenset(
            {
                "ix_usage_windows_awaiting_snapshot",
                "ix_usage_windows_awaiting_query",
                "ix_usage_windows_flush",
                "ix_usage_series_subject",
                "ix_subject_mappings_subscription",
            }
        ),
    ),
    "carry": Path(_carry, frozenset({"ix_usage_records_late"})),
    "send": Path(
        _send,
        frozenset(
            {
                "ix_subscription_lanes_due_at",
                "ix_usage_records_due",
                "ix_usage_records_compare_at",
                "ix_usage_records_held",
            }
        ),
    ),
    "look": Path(
        _look,
        frozenset({"ix_usage_records_owed", "ix_deliveries_received", "ix_deliveries_unbooked"}),
    ),
    "prune": Path(
        _prune,
        frozenset({"ix_usage_windows_covered", "ix_item_periods_kept", "ix_item_periods_pruned"}),
    ),
}


async def test_nothing_that_runs_by_itself_reads_a_large_table_from_end_to_end(
    world: World, replica: Replica, server_url: URL, large_database: str
) -> None:
    for name, path in PATHS.items():
        with watched(world.engine, replica.engine) as asked:
            await path.run(world, replica)
        found = await plans(server_url.set(database=large_database), asked)
        assert found, name
        scanned = [f"{name}: {plan.asked.line}: {plan.scanned}" for plan in found if plan.scanned]
        assert not scanned, "\n".join(scanned)
        used = frozenset[str]().union(*(plan.indexes for plan in found))
        assert not path.indexes - used, f"{name}: {path.indexes - used} of {sorted(used)}"


async def test_a_summary_of_large_tables_does_not_count_what_is_usual_one_by_one(
    world: World, server_url: URL, large_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(counting, "COUNTED_BYTES", 1_000)
    with watched(world.engine) as asked:
        found = await StatusRepository(world.engine).summary()
    for plan in await plans(server_url.set(database=large_database), asked):
        # The count itself is not carried out: its plan stands beside the estimate's.
        assert not plan.scanned or "reltuples" in plan.asked.sql, plan.asked.line
    [estimated] = await world.rows(
        "select reltuples::bigint as n from pg_class where relname = 'usage_windows'"
    )
    assert sum(found.windows.values()) == estimated["n"]
    rare = await world.rows(
        "select state, count(*) as n from usage_windows where state <> 'booked' group by 1"
    )
    assert {state: n for state, n in found.windows.items() if state != "booked"} == {
        row["state"]: row["n"] for row in rare
    }


async def test_half_a_table_that_waits_for_later_is_not_looked_at(world: World) -> None:
    """By its estimates the planner would look for what is due along the whole primary key."""
    async with transaction(world.engine) as connection:
        await connection.execute(
            text(
                "update usage_windows set state = 'pending', reason = 'awaiting_snapshot', "
                "retry_at = '2027-01-01' where id % 2 = 0 and state = 'booked'"
            )
        )
        await connection.execute(text("analyze usage_windows"))
        with watched(world.engine) as asked:
            await facts.claim_pending(connection, now=NOW, limit=2_000)
        [claim] = asked
        told = await connection.exec_driver_sql(
            f"explain (analyze, format json) {claim.sql}", claim.arguments
        )
        looked_at = sum(node.get("Rows Removed by Filter", 0) for node in nodes(told.scalar_one()))
        assert looked_at < 1_000
        await connection.rollback()
