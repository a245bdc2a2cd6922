"""What is over for good is deleted, and what it came to stays; nothing of it is billed again."""

import asyncio
from datetime import timedelta

import pytest
from alembic import command as command_of_alembic
from sqlalchemy import text

from app.commands import pruning as command
from app.config import Settings
from app.db import ProgramSchema, alembic_config, transaction
from app.health import Health
from app.ledger.explaining import ExplainingRepository
from app.mapping.file import from_yaml, to_mappings
from app.retention.pruner import PRUNING_LOCK, PruningLoop
from app.retention.terms import Batch, Place, Terms
from app.retention.windows import prune_periods
from tests.ledger.months import APRIL, JUNE, MARCH, MAY, Line, Months, used
from tests.ledger.world import ONE_CUSTOMER
from tests.mapping.stripe_side import HOUR
from tests.retention.pruned import KEPT, counts, prune, pruner, totals, windows_of


async def three_months(months: Months) -> None:
    """March, April and May with an hour or two each; it is June."""
    await months.tell(used(MARCH, 5, 3), used(MARCH, 6, 4))
    for month, value in ((APRIL, 5), (MAY, 6)):
        await months.begin(month)
        await months.tell(used(month, 0, value))
    await months.begin(JUNE)


async def test_an_old_period_is_emptied_and_what_it_came_to_stays(months: Months) -> None:
    await three_months(months)
    before = await totals(months)
    pruned = await prune(months)
    assert dict(pruned) == {
        "item_periods": 1,
        "usage_windows": 2,
        "usage_records": 2,
        "deliveries": 1,
    }
    assert await totals(months) == before
    assert await months.months() == {APRIL: Line(5), MAY: Line(6)}
    [period] = await months.world.rows(
        "select pruned_at, pruned_reported from item_periods where pruned_at is not null"
    )
    assert (period["pruned_at"], period["pruned_reported"]) == (months.world.clock.now(), 7)
    assert not await prune(months)
    await months.check()


async def test_a_dry_run_says_what_would_go_and_changes_nothing(months: Months) -> None:
    await three_months(months)
    before = await counts(months)
    settings = Settings(retention_days=100, raw_retention_days=30, _env_file=None)
    months.world.clock.set(MARCH + timedelta(days=140))
    said = await told(months, settings, dry_run=True)
    assert said == [
        "1 item periods, with their windows and records: to be deleted",
        "3 raw bodies: to be deleted",
        command.NOT_COUNTED,
    ]
    assert await counts(months) == before
    assert "2 usage records: deleted" in await told(months, settings, dry_run=False)
    assert (await told(months, settings, dry_run=False))[0].startswith("Nothing is older")


async def told(months: Months, settings: Settings, *, dry_run: bool) -> list[str]:
    """What the command says."""
    world = months.world
    return command.describe(
        await command.prune(world.engine, world.clock, settings, dry_run=dry_run)
    )


@pytest.mark.parametrize("dry_run", [False, True])
async def test_the_command_says_why_nothing_is_deleted(months: Months, dry_run: bool) -> None:
    await three_months(months)
    world = months.world
    kept = await counts(months)

    async def outcome(days: int) -> command.Pruning:
        settings = Settings(retention_days=days, raw_retention_days=days, _env_file=None)
        return await command.prune(world.engine, world.clock, settings, dry_run=dry_run)

    never = await outcome(0)
    assert not never.blocked
    assert command.describe(never) == [
        "RETENTION_DAYS and RAW_RETENTION_DAYS are both 0: nothing is ever deleted."
    ]
    world.clock.set(MARCH + timedelta(days=140))
    await world.run(OLDER, name="pod-0:1", now=world.clock.now() - timedelta(hours=1))
    older = await outcome(100)
    assert older.blocked is not dry_run
    last = command.describe(older)[-1]
    assert f"before {world.clock.now() + timedelta(hours=23):%Y-%m-%d %H:%M} UTC" in last
    assert "pod-0:1" in last
    await world.run("delete from replicas")
    async with world.engine.begin() as connection:
        await connection.execute(text("select pg_advisory_xact_lock(:key)"), {"key": PRUNING_LOCK})
        busy = await outcome(100)
    assert not busy.blocked
    assert command.describe(busy) == [
        "Another process is deleting just now; the rest is left to it."
    ]
    assert await counts(months) == kept


@pytest.mark.parametrize(("combination", "left"), [("max", 4), ("latest", 4), ("sum", 7)])
async def test_what_is_left_of_a_period_is_what_its_price_makes_of_it(
    months: Months, combination: str, left: int
) -> None:
    await three_months(months)
    await months.world.run("update item_periods set combination = :it", it=combination)
    await prune(months)
    [period] = await months.world.rows(
        "select pruned_reported from item_periods where pruned_at is not null"
    )
    assert period["pruned_reported"] == left


async def test_what_is_kept_for_ever_is_kept(months: Months) -> None:
    await three_months(months)
    before = await counts(months)
    assert not await prune(months, Terms.of_days(0, 0))
    assert await counts(months) == before


async def test_a_window_that_was_deleted_and_comes_again_is_never_billed_again(
    months: Months,
) -> None:
    await three_months(months)
    before = await totals(months)
    await prune(months)
    for value in (3, 0, 1_000):
        await months.tell(used(MARCH, 5, value), used(MARCH, 2, value))
        assert await months.world.parked() == {"older_than_retention": 2}
    await months.release("older_than_retention")
    assert await months.world.parked() == {"older_than_retention": 2}
    assert await totals(months) == before
    assert await months.months() == {APRIL: Line(5), MAY: Line(6)}


async def test_nor_where_the_item_is_another_one_by_now(months: Months) -> None:
    """Nothing is known of the new item: a late window would be carried to its open period."""
    await three_months(months)
    await prune(months)
    await months.begin(JUNE, after=3 * HOUR)
    await months.show("si_new")
    await months.tell(used(MARCH, 5, 3))
    assert await months.world.parked() == {"older_than_retention": 1}
    assert await months.months() == {APRIL: Line(5), MAY: Line(6)}


async def test_nor_with_other_bounds(months: Months) -> None:
    """A daily sync over what an hourly one told; what begins later is booked beside it."""
    await three_months(months)
    await prune(months)
    day = {"windowStart": MARCH.isoformat(), "windowEnd": (MARCH + 24 * HOUR).isoformat()}
    await months.tell({"value": "99", **day}, used(MARCH, 20, 1))
    told = {row["window_start"]: row["reason"] for row in await windows_of(months)}
    assert told[MARCH] == "older_than_retention"
    assert told[MARCH + 20 * HOUR] == "older_than_retention"  # its period was emptied
    assert await months.months() == {APRIL: Line(5), MAY: Line(6)}


async def test_what_follows_is_not_taken_for_what_was_deleted(months: Months) -> None:
    await three_months(months)
    await prune(months)
    over = {
        "windowStart": (MARCH + 6 * HOUR).isoformat(),
        "windowEnd": (APRIL + 3 * HOUR).isoformat(),
    }
    await months.tell({"value": "99", **over})
    await months.tell(used(APRIL, 1, 2))
    assert await months.world.parked() == {"older_than_retention": 1}
    # April is closed: its new window is billed in June, although the long one lies over it.
    assert await months.months() == {APRIL: Line(5), MAY: Line(6), JUNE: Line(2)}


async def test_what_overlapped_is_not_billed_when_the_other_one_is_deleted(
    months: Months,
) -> None:
    half = {
        "windowStart": (MARCH + 5.5 * HOUR).isoformat(),
        "windowEnd": (MARCH + 6.5 * HOUR).isoformat(),
    }
    await months.tell(used(MARCH, 5, 3))
    await months.tell({"value": "8", **half})
    assert await months.world.parked() == {"overlaps_window": 1}
    for month in (APRIL, MAY, JUNE):
        await months.begin(month)
    await prune(months)
    await months.release("overlaps_window")
    assert await months.world.parked() == {"older_than_retention": 1}
    assert await months.months() == {}


VALID_FROM = """
meters: [{meter: tokens, price: price_1}]
subjects: [{subject: customer-1, subscription: sub_1, valid_from: "2026-03-01"}]
"""


async def test_what_waited_for_its_mapping_all_the_while_is_carried_when_it_comes(
    months: Months,
) -> None:
    await months.world.apply(VALID_FROM)
    await months.tell(used(MARCH, -20, 9))
    await three_months(months)
    assert await months.world.parked() == {"no_subject_mapping": 1}
    assert (await prune(months))["usage_windows"] == 2
    await months.tell(used(MARCH, -30, 100))
    await months.world.apply(ONE_CUSTOMER)
    await months.settle()
    assert await months.world.parked() == {"older_than_retention": 1}
    assert await months.months() == {APRIL: Line(5), MAY: Line(6), JUNE: Line(9)}


async def test_what_overlaps_a_window_that_waits_stays_until_that_is_compared_with_it(
    months: Months,
) -> None:
    """As a provisional window does, which is not looked for when a regular one is accepted."""
    half = {
        "windowStart": (MARCH + 5.5 * HOUR).isoformat(),
        "windowEnd": (MARCH + 6.5 * HOUR).isoformat(),
    }
    await months.tell(used(MARCH, 5, 3), used(MARCH, 8, 4))
    await months.tell({"value": "8", **half})
    await months.world.run(
        "update usage_windows set reason = 'no_subject_mapping' where state = 'parked'"
    )
    for month in (APRIL, MAY, JUNE):
        await months.begin(month)
    assert (await prune(months))["usage_windows"] == 1
    assert not await prune(months)
    await months.release("no_subject_mapping")
    assert await months.world.parked() == {"overlaps_window": 1}
    assert (await prune(months))["usage_windows"] == 1
    await months.release("overlaps_window")
    assert await months.world.parked() == {"older_than_retention": 1}
    assert await months.months() == {}


FIRST_RECORD = "(select min(id) from usage_records)"
RECORD = f"usage_records set {{}} where id = {FIRST_RECORD}"
WINDOW = f"usage_windows set {{}} where usage_record_id = {FIRST_RECORD}"
NEWEST = "usage_windows set {} where id = (select max(id) from usage_windows)"
# What keeps March, and how that comes to its end.
KEPT_BY = [
    (RECORD, "state = 'held', reason = 'credit_due'", "state = 'reported', reason = null"),
    (RECORD, "state = 'due', due_at = now()", "state = 'reported', due_at = null"),
    (RECORD, "state = 'late', due_at = now()", "state = 'reported', due_at = null"),
    (RECORD, "sent_key = 'k'", "sent_key = null"),
    (RECORD, "doubtful = true", "doubtful = false"),
    (WINDOW, "state = 'parked', reason = 'needs_approval'", "state = 'booked', reason = null"),
    (WINDOW, "state = 'pending'", "state = 'booked'"),
    (NEWEST, f"moving_from = {FIRST_RECORD}", "moving_from = null"),
    (WINDOW, "source = 'period'", "source = 'webhook'"),
    (WINDOW, "subject_contradicts = true", "subject_contradicts = false"),
]


async def test_what_is_not_settled_keeps_its_whole_period(months: Months) -> None:
    await three_months(months)
    before = await counts(months)
    for row, keep, settle in KEPT_BY:
        await months.world.run("update " + row.format(keep))
        assert not await prune(months), keep
        assert await counts(months) == before, keep
        await months.world.run("update " + row.format(settle))
    assert (await prune(months))["usage_windows"] == 2


async def test_a_carry_keeps_where_it_came_from_as_long_as_where_it_went(months: Months) -> None:
    await months.tell(used(MARCH, 5, 3))
    for month in (APRIL, MAY):
        await months.begin(month)
    await months.tell(used(MARCH, 6, 4))
    await months.begin(JUNE)
    assert await months.carries() == [4]
    assert not await prune(months)
    assert await months.months() == {MARCH: Line(3), MAY: Line(4)}
    months.world.clock.set(JUNE + 2 * KEPT)
    pruned = await prune(months)
    assert (pruned["usage_records"], pruned["carries"]) == (3, 1)
    [march, may] = await months.world.rows(
        "select pruned_reported, rounded_total from item_periods order by period_start"
    )
    assert (march["pruned_reported"], march["rounded_total"]) == (3, 7)
    assert (may["pruned_reported"], may["rounded_total"]) == (4, 0)


async def test_row_by_row_and_stopped_anywhere_it_comes_to_the_same(months: Months) -> None:
    await three_months(months)
    before = await totals(months)
    batches = 0
    while True:
        one = pruner(months, rows_at_once=1)
        sweep = asyncio.create_task(one.sweep())
        for _ in range(150 * (batches + 1)):
            await asyncio.sleep(0)
        sweep.cancel()
        [outcome] = await asyncio.gather(sweep, return_exceptions=True)
        batches += 1
        await months.check()
        assert await totals(months) == before
        if not isinstance(outcome, BaseException):
            break
        assert batches < 500
    assert await counts(months) == {"deliveries": 2, "usage_windows": 2, "usage_records": 2}


async def test_a_correction_between_two_batches_changes_nothing_and_stays(months: Months) -> None:
    await three_months(months)
    before = await totals(months)
    now = months.world.clock.now()
    async with transaction(months.world.engine) as connection:
        await connection.execute(
            text("update item_periods set pruned_at = :now where period_start = :march"),
            {"now": now, "march": MARCH},
        )
        await prune_periods(connection, Batch(now, now - KEPT, Place(), limit=1))
    # One of the two is deleted, and both are told anew.
    await months.tell(used(MARCH, 5, 30), used(MARCH, 6, 40))
    assert await months.world.parked() == {"older_than_retention": 2}
    await prune(months)
    assert await totals(months) == before
    kept = [row for row in await windows_of(months) if row["window_end"] < APRIL]
    assert [(row["state"], row["value"]) for row in kept] == [("parked", 30), ("parked", 40)]
    assert await months.months() == {MARCH: Line(4), APRIL: Line(5), MAY: Line(6)}


async def test_a_changed_mapping_moves_nothing_of_what_is_being_deleted(months: Months) -> None:
    await three_months(months)
    months.world.stripe.show("sub_2")
    await months.world.run(
        "update item_periods set pruned_at = now() where period_start = '2026-03-01'"
    )
    await months.world.run("update subject_mappings set subscription = 'sub_1'")
    moved = await months.world.mappings.replace(
        to_mappings(from_yaml("subjects: [{subject: customer-1, subscription: sub_2}]")),
        now=months.world.clock.now(),
        force=True,
    )
    assert moved.moves.windows == 2  # of April and May


async def test_while_another_replica_prunes_nothing_is_done(months: Months) -> None:
    await three_months(months)
    async with transaction(months.world.engine) as other:
        await other.execute(text("select pg_advisory_xact_lock(:key)"), {"key": PRUNING_LOCK})
        assert not await prune(months)
    assert await prune(months)


HEEDED = "insert into replicas (name, seen_at, heeds_pruning_at) values (:name, :now, :now)"
OLDER = (
    "insert into replicas (name, seen_at) values (:name, :now) "
    "on conflict (name) do update set seen_at = excluded.seen_at"
)


async def test_while_an_older_program_works_here_nothing_is_pruned(
    months: Months, caplog: pytest.LogCaptureFixture
) -> None:
    await three_months(months)
    before = await counts(months)
    clock = months.world.clock
    await months.world.run(HEEDED, name="pod-0:1", now=clock.now())
    clock.advance(timedelta(minutes=1))
    await months.world.run(HEEDED, name="pod-1:1", now=clock.now())
    # After a rollback the older program has the name, and the row, of the newer one.
    await months.world.run(OLDER, name="pod-0:1", now=clock.now())
    one = pruner(months, Terms(KEPT, KEPT))
    for _ in range(2):
        assert not await one.sweep()
    assert caplog.text.count("nothing is pruned: replica pod-0:1 is of an older program") == 1
    assert await counts(months) == before
    clock.advance(timedelta(days=1, seconds=1))
    assert (await one.sweep())["usage_windows"] == 2


async def test_an_older_program_that_comes_back_stops_the_pruning_it_meets(
    months: Months,
) -> None:
    await three_months(months)
    assert (await pruner(months).sweep())["item_periods"] == 1
    await months.world.run(OLDER, name="pod-0:1", now=months.world.clock.now())
    months.world.clock.advance(timedelta(hours=23))
    assert not await prune(months, Terms(timedelta(days=1), timedelta(days=1)))


async def test_readiness_says_that_what_was_pruned_is_heeded(months: Months) -> None:
    await three_months(months)
    health = Health(months.world.engine, "pod-0:1", ProgramSchema.of_program())
    await health.check(months.world.clock.now())
    assert await prune(months)


async def test_the_marks_of_what_was_pruned_are_not_dropped(months: Months) -> None:
    await three_months(months)
    await prune(months)
    config = alembic_config(months.world.engine.url)
    with pytest.raises(RuntimeError, match=r"windows were pruned: .* billed again"):
        await asyncio.to_thread(command_of_alembic.downgrade, config, "0008")
    assert await months.world.rows("select 1 from usage_series where pruned_until is not null")


async def test_an_explanation_says_that_it_is_all_that_is_left(months: Months) -> None:
    await three_months(months)
    await prune(months)
    explained = await ExplainingRepository(months.world.engine).item_period(
        "si_1", MARCH + HOUR, after=None
    )
    assert explained is not None
    assert explained.head.pruned_at == months.world.clock.now()
    assert (explained.totals.rounded, explained.totals.reported) == (7, 7)


async def test_the_loop_prunes_until_it_is_stopped(months: Months) -> None:
    await three_months(months)
    loop = PruningLoop(pruner(months), first_after=0, every=0.01)
    running = asyncio.create_task(loop.run())
    async with asyncio.timeout(30):
        while (await counts(months))["usage_windows"] > 2:
            assert not running.done()
            await asyncio.sleep(0.01)
        loop.stop()
        await running
