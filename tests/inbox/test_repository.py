"""What stands under an id, and what a delivery of the same id is answered."""

import asyncio
from datetime import timedelta

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from app.inbox.delivery import Receipt
from app.inbox.repository import DeliveryRepository
from tests.inbox.deliveries import AT, FAULTS, delivery, set_state, stored


@pytest.fixture
def repository(engine: AsyncEngine) -> DeliveryRepository:
    return DeliveryRepository(engine)


async def test_new_deliveries_are_stored_whole(
    engine: AsyncEngine, repository: DeliveryRepository
) -> None:
    raw = bytes(range(256))
    assert await repository.store([delivery("b", raw), delivery("a", faults=FAULTS)]) == {
        "a": Receipt.REJECTED,
        "b": Receipt.ACCEPTED,
    }
    rejected, received = await stored(engine)
    assert (received.body, received.state, received.message_at, received.faults) == (
        raw,
        "received",
        AT,
        None,
    )
    assert rejected.state == "rejected"
    assert rejected.faults == [{"path": "usage[0].value", "message": "is missing"}]


@pytest.mark.parametrize(
    ("state", "same_body", "valid", "receipt"),
    [
        ("received", True, True, Receipt.DUPLICATE),
        ("booked", True, True, Receipt.DUPLICATE),
        ("failed", True, True, Receipt.DUPLICATE),
        ("received", False, True, Receipt.CONFLICT),
        ("booked", False, True, Receipt.CONFLICT),
        ("failed", False, True, Receipt.CONFLICT),
        ("received", False, False, Receipt.CONFLICT),
        # A release that reads less than the one before it must not undo what is accepted.
        ("booked", True, False, Receipt.DUPLICATE),
        ("rejected", True, False, Receipt.REJECTED),
        ("rejected", True, True, None),
        # What was rejected stands, too: only its very body may follow.
        ("rejected", False, False, Receipt.CONFLICT),
        ("rejected", False, True, Receipt.CONFLICT),
    ],
)
async def test_an_id_that_stands_already_is_not_touched(
    engine: AsyncEngine,
    repository: DeliveryRepository,
    *,
    state: str,
    same_body: bool,
    valid: bool,
    receipt: Receipt | None,
) -> None:
    await repository.store([delivery()])
    await set_state(engine, "msg_1", state)
    before = await stored(engine)
    again = delivery(
        body=b"{}" if same_body else b"[]",
        at=AT + timedelta(hours=1),
        faults=None if valid else FAULTS,
    )
    assert await repository.store([again, delivery("msg_2")]) == {
        "msg_1": receipt,
        "msg_2": Receipt.ACCEPTED,
    }
    assert (await stored(engine))[:1] == before


async def test_readmitting_keeps_the_time_of_the_first_sight(
    engine: AsyncEngine, repository: DeliveryRepository
) -> None:
    await repository.store([delivery(faults=FAULTS)])
    later = delivery(at=AT + timedelta(hours=1))
    assert await repository.readmit([later]) == {"msg_1": Receipt.ACCEPTED}
    (row,) = await stored(engine)
    assert (row.body, row.state, row.message_at, row.faults) == (b"{}", "received", AT, None)


async def test_another_body_is_not_readmitted(
    engine: AsyncEngine, repository: DeliveryRepository
) -> None:
    await repository.store([delivery(faults=FAULTS)])
    before = await stored(engine)
    assert await repository.readmit([delivery(body=b"[1]")]) == {"msg_1": Receipt.CONFLICT}
    assert await stored(engine) == before


async def test_of_two_that_readmit_one_wins_and_the_other_is_held_against_it(
    engine: AsyncEngine, repository: DeliveryRepository
) -> None:
    await repository.store([delivery(faults=FAULTS)])
    answers = await asyncio.gather(*(repository.readmit([delivery()]) for _ in range(2)))
    assert sorted(str(answer["msg_1"]) for answer in answers) == ["accepted", "duplicate"]
    (row,) = await stored(engine)
    assert row.state == "received"


async def test_a_row_that_another_replica_commits_meanwhile_is_seen(
    engine: AsyncEngine, repository: DeliveryRepository
) -> None:
    """The insert waits for the other's, creates nothing, and must still find what stands."""
    async with engine.connect() as other:
        await other.execute(
            text(
                "insert into deliveries"
                " (svix_id, body, body_sha256, message_at, received_at, state)"
                " values ('msg_1', '{}', :digest, :at, :at, 'received')"
            ),
            {"digest": delivery().body_sha256, "at": AT},
        )
        storing = asyncio.create_task(repository.store([delivery()]))
        await _until_somebody_waits(engine)
        await other.commit()
    assert await storing == {"msg_1": Receipt.DUPLICATE}


async def _until_somebody_waits(engine: AsyncEngine) -> None:
    async with asyncio.timeout(30), engine.connect() as connection:
        while not await connection.scalar(
            text(
                "select count(*) from pg_stat_activity "
                "where datname = current_database() and wait_event_type = 'Lock'"
            )
        ):
            await connection.rollback()
            await asyncio.sleep(0.01)


async def test_crossing_batches_do_not_deadlock(
    engine: AsyncEngine, repository: DeliveryRepository
) -> None:
    forward = [delivery(f"msg_{number:03}") for number in range(200)]
    answers = await asyncio.gather(
        *(repository.store(batch) for batch in (forward, forward[::-1]) * 4)
    )
    accepted = [
        svix_id for answer in answers for svix_id in answer if answer[svix_id] == "accepted"
    ]
    assert sorted(accepted) == [one.svix_id for one in forward]
    assert len(await stored(engine)) == 200
