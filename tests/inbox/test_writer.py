"""The inbox on the real database: group commit, and what may not go wrong in it."""

import asyncio
import contextlib
import socket
from collections import Counter
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager

import pytest
from sqlalchemy import text
from sqlalchemy.engine import URL
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from app.db import create_engine, transaction
from app.errors import DatabaseUnavailable, Overloaded
from app.inbox.delivery import Delivery, Receipt
from app.inbox.repository import DeliveryRepository
from app.inbox.writer import Inbox, InboxLimits
from tests.inbox.deliveries import FAULTS, delivery, stored


@asynccontextmanager
async def running(
    engine: AsyncEngine, *, limits: InboxLimits | None = None, commits: list[None] | None = None
) -> AsyncIterator[Inbox]:
    inbox = Inbox(
        engine,
        on_committed=lambda: None if commits is None else commits.append(None),
        limits=limits,
    )
    await inbox.start()
    try:
        yield inbox
    finally:
        await inbox.stop()


async def test_each_answer_comes_after_the_commit(engine: AsyncEngine) -> None:
    async with running(engine) as inbox:
        assert await inbox.accept(delivery()) is Receipt.ACCEPTED
        assert [row.svix_id for row in await stored(engine)] == ["msg_1"]
        assert await inbox.accept(delivery()) is Receipt.DUPLICATE
        assert await inbox.accept(delivery(body=b"[]")) is Receipt.CONFLICT


async def test_a_hundred_at_once_of_one_id_are_one_delivery(engine: AsyncEngine) -> None:
    async with running(engine) as inbox:
        receipts = await asyncio.gather(*(inbox.accept(delivery()) for _ in range(100)))
    assert Counter(receipts) == {Receipt.ACCEPTED: 1, Receipt.DUPLICATE: 99}
    assert len(await stored(engine)) == 1


async def test_two_replicas_accept_an_id_once(engine: AsyncEngine, fresh_url: URL) -> None:
    second = create_engine(fresh_url, pool_size=3)
    try:
        async with running(engine) as one, running(second) as other:
            receipts = await asyncio.gather(
                *(
                    inbox.accept(delivery(f"msg_{number}"))
                    for number in range(50)
                    for inbox in (one, other)
                )
            )
    finally:
        await second.dispose()
    assert Counter(receipts) == {Receipt.ACCEPTED: 50, Receipt.DUPLICATE: 50}


async def test_of_two_bodies_at_once_the_first_stays(engine: AsyncEngine) -> None:
    async with running(engine) as inbox:
        receipts = await asyncio.gather(
            *(inbox.accept(delivery(body=body)) for body in (b"1", b"2", b"1", b"3"))
        )
    assert receipts == [
        Receipt.ACCEPTED,
        Receipt.CONFLICT,
        Receipt.DUPLICATE,
        Receipt.CONFLICT,
    ]
    assert [row.body for row in await stored(engine)] == [b"1"]


async def test_a_rejected_delivery_goes_through_after_a_fix(engine: AsyncEngine) -> None:
    commits: list[None] = []
    async with running(engine, commits=commits) as inbox:
        assert await inbox.accept(delivery(faults=FAULTS)) is Receipt.REJECTED
        assert await inbox.accept(delivery(faults=FAULTS)) is Receipt.REJECTED
        assert commits == []
        receipts = await asyncio.gather(
            inbox.accept(delivery()),
            inbox.accept(delivery()),
            inbox.accept(delivery("msg_2")),
        )
        assert list(receipts) == [Receipt.ACCEPTED, Receipt.DUPLICATE, Receipt.ACCEPTED]
        assert await inbox.accept(delivery()) is Receipt.DUPLICATE
    assert [row.state for row in await stored(engine)] == ["received", "received"]


async def test_a_rejected_delivery_is_not_replaced_by_another_body(engine: AsyncEngine) -> None:
    commits: list[None] = []
    async with running(engine, commits=commits) as inbox:
        receipts = await asyncio.gather(
            inbox.accept(delivery(faults=FAULTS)), inbox.accept(delivery(body=b"[1]"))
        )
        assert list(receipts) == [Receipt.REJECTED, Receipt.CONFLICT]
        assert await inbox.accept(delivery(body=b"[2]", faults=FAULTS)) is Receipt.CONFLICT
    assert commits == []
    assert [(row.body, row.state) for row in await stored(engine)] == [(b"{}", "rejected")]


async def test_the_booker_is_woken_for_work_only(engine: AsyncEngine) -> None:
    commits: list[None] = []
    async with running(engine, commits=commits) as inbox:
        await inbox.accept(delivery())
        assert len(commits) == 1
        await inbox.accept(delivery())
        await inbox.accept(delivery("msg_2", faults=FAULTS))
        assert len(commits) == 1


async def test_what_waits_is_committed_together(engine: AsyncEngine) -> None:
    async with running(engine) as inbox:
        await asyncio.gather(*(inbox.accept(delivery(f"msg_{n}")) for n in range(300)))
        async with engine.connect() as connection:
            transactions = await connection.scalar(
                text("select count(distinct xmin::text) from deliveries")
            )
    assert transactions == 1


async def _poison(engine: AsyncEngine, svix_id: str) -> None:
    """Make the database refuse one row, as a constraint that nobody foresaw would."""
    async with engine.begin() as connection:
        await connection.execute(
            text(
                "create function refuse() returns trigger language plpgsql as "
                "$$ begin raise exception 'refused'; end $$"
            )
        )
        await connection.execute(
            text(
                "create trigger refuse before insert on deliveries for each row "
                f"when (new.svix_id = '{svix_id}') execute function refuse()"
            )
        )


async def test_a_row_that_fails_does_not_fail_its_neighbours(engine: AsyncEngine) -> None:
    await _poison(engine, "msg_3")
    async with running(engine) as inbox:
        outcomes = await asyncio.gather(
            *(inbox.accept(delivery(f"msg_{number}")) for number in range(6)),
            return_exceptions=True,
        )
        assert isinstance(outcomes.pop(3), DBAPIError)
        assert outcomes == [Receipt.ACCEPTED] * 5
        assert await inbox.accept(delivery("msg_9")) is Receipt.ACCEPTED
    assert [row.svix_id for row in await stored(engine)] == [f"msg_{n}" for n in (0, 1, 2, 4, 5, 9)]


async def test_a_row_that_the_driver_cannot_write_fails_alone(engine: AsyncEngine) -> None:
    async with running(engine) as inbox:
        wrong, right = await asyncio.gather(
            inbox.accept(delivery("msg_\0")), inbox.accept(delivery()), return_exceptions=True
        )
    assert isinstance(wrong, DBAPIError)
    assert right is Receipt.ACCEPTED


async def test_without_our_schema_it_is_not_available(engine: AsyncEngine) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("alter table deliveries rename to elsewhere"))
    async with running(engine) as inbox:
        with pytest.raises(DatabaseUnavailable):
            await inbox.accept(delivery())
        async with engine.begin() as connection:
            await connection.execute(text("alter table elsewhere rename to deliveries"))
        assert await inbox.accept(delivery()) is Receipt.ACCEPTED


async def test_a_statement_that_takes_too_long_is_sent_again(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is answered as an absent database is, and stores nothing."""
    store = DeliveryRepository.store

    async def slow(repository: DeliveryRepository, deliveries: Sequence[Delivery]) -> object:
        async with transaction(engine) as connection:
            await connection.execute(text("set local statement_timeout = '20ms'"))
            await connection.execute(text("select pg_sleep(5)"))
        return await store(repository, deliveries)

    async with running(engine) as inbox:
        with monkeypatch.context() as patch:
            patch.setattr(DeliveryRepository, "store", slow)
            with pytest.raises(DatabaseUnavailable) as caught:
                await inbox.accept(delivery())
        assert caught.value.status == 503
        assert await inbox.accept(delivery()) is Receipt.ACCEPTED


async def test_nothing_listens_where_the_database_was() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = URL.create("postgresql+asyncpg", "x", "x", "127.0.0.1", closed.getsockname()[1], "x")
        engine = create_engine(url, pool_size=3)
        async with running(engine, limits=InboxLimits(wait=60)) as inbox, asyncio.timeout(30):
            outcomes = await asyncio.gather(
                *(inbox.accept(delivery(f"msg_{n}")) for n in range(10)), return_exceptions=True
            )
        await engine.dispose()
    assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 10


async def test_connections_that_were_cut_cost_one_answer_at_most(engine: AsyncEngine) -> None:
    async with running(engine) as inbox:
        await inbox.accept(delivery("msg_0"))
        async with engine.connect() as connection:
            await connection.execute(
                text(
                    "select pg_terminate_backend(pid) from pg_stat_activity "
                    "where datname = current_database() and pid <> pg_backend_pid()"
                )
            )
        outcomes = [
            (await asyncio.gather(inbox.accept(delivery("msg_1")), return_exceptions=True))[0]
            for _ in range(2)
        ]
    assert outcomes[-1] in (Receipt.ACCEPTED, Receipt.DUPLICATE)
    assert len(await stored(engine)) == 2


@asynccontextmanager
async def _locked(engine: AsyncEngine) -> AsyncIterator[None]:
    """While it lasts, no delivery can be stored: each flush hangs on a lock."""
    async with engine.begin() as connection:
        await connection.execute(text("lock table deliveries in access exclusive mode"))
        yield


async def _until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not condition():
            await asyncio.sleep(0.005)


async def _send(inbox: Inbox, *svix_ids: str) -> list[asyncio.Task[Receipt]]:
    """One after the other, so that the first is in the flush before the rest queue up."""
    tasks = []
    for svix_id in svix_ids:
        tasks.append(asyncio.create_task(inbox.accept(delivery(svix_id, b"x" * 100))))
        await asyncio.sleep(0)
        if len(tasks) == 1:
            await _until(lambda: inbox.queued == 0)
    return tasks


@pytest.mark.parametrize(
    "limits", [InboxLimits(queued_deliveries=2), InboxLimits(queued_bytes=250)]
)
async def test_the_queue_is_bounded(engine: AsyncEngine, limits: InboxLimits) -> None:
    async with running(engine, limits=limits) as inbox:
        async with _locked(engine):
            tasks = await _send(inbox, "msg_0", "msg_1", "msg_2")
            assert inbox.queued == 2
            with pytest.raises(Overloaded):
                await inbox.accept(delivery("msg_3", b"x" * 100))
        assert await asyncio.gather(*tasks) == [Receipt.ACCEPTED] * 3
        # The bound counts what is queued, not what has gone through.
        for number in range(4, 10):
            assert await inbox.accept(delivery(f"msg_{number}", b"x" * 100)) is Receipt.ACCEPTED


async def test_a_batch_is_bounded_in_bytes_but_takes_one_whatever_its_size(
    engine: AsyncEngine,
) -> None:
    async with running(engine, limits=InboxLimits(batch_bytes=150)) as inbox:
        big = delivery("big", b"x" * 1000)
        small = [delivery(f"msg_{n}", b"x" * 100) for n in range(3)]
        receipts = await asyncio.gather(*(inbox.accept(one) for one in (big, *small)))
        assert receipts == [Receipt.ACCEPTED] * 4
        async with engine.connect() as connection:
            assert (
                await connection.scalar(text("select count(distinct xmin::text) from deliveries"))
                == 4
            )


async def test_nobody_waits_longer_than_the_bound(engine: AsyncEngine) -> None:
    async with running(engine, limits=InboxLimits(wait=0.1)) as inbox:
        async with _locked(engine):
            outcomes = await asyncio.gather(
                *await _send(inbox, "msg_0", "msg_1"), return_exceptions=True
            )
            assert [type(outcome) for outcome in outcomes] == [DatabaseUnavailable] * 2
        # It was only slow: both get through after all, and a resend says so.
        async with asyncio.timeout(30):
            while len(await stored(engine)) < 2:
                await asyncio.sleep(0.01)
    async with running(engine) as inbox:
        assert await inbox.accept(delivery("msg_0", b"x" * 100)) is Receipt.DUPLICATE


async def test_a_commit_that_never_ends_is_given_up(
    engine: AsyncEngine, fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with it all sessions of the process, but not somebody else's, who holds the lock."""
    monkeypatch.setattr("app.db.ANSWER_TIMEOUT", 1.0)
    own = create_engine(fresh_url, pool_size=3)
    async with running(own) as inbox:
        async with _locked(engine):
            with pytest.raises(DatabaseUnavailable):
                await inbox.accept(delivery())
        assert await _accept_in_the_end(inbox) in {Receipt.ACCEPTED, Receipt.DUPLICATE}
    assert len(await stored(engine)) == 1
    await own.dispose()


async def _accept_in_the_end(inbox: Inbox) -> Receipt:
    """As the sender does: again, until it is taken (a slow machine needs more than one try)."""
    async with asyncio.timeout(30):
        while True:
            with contextlib.suppress(DatabaseUnavailable):
                return await inbox.accept(delivery())


async def test_a_request_that_goes_away_harms_nobody(engine: AsyncEngine) -> None:
    async with running(engine) as inbox:
        async with _locked(engine):
            tasks = await _send(inbox, "msg_0", "msg_1", "msg_2", "msg_3")
            tasks[0].cancel()  # in the flush
            tasks[2].cancel()  # in the queue
            outcomes = await asyncio.gather(tasks[0], tasks[2], return_exceptions=True)
            assert [type(outcome) for outcome in outcomes] == [asyncio.CancelledError] * 2
        assert await asyncio.gather(*tasks[1::2]) == [Receipt.ACCEPTED] * 2
        assert await inbox.accept(delivery("msg_0", b"x" * 100)) is Receipt.DUPLICATE


async def test_stopping_commits_what_is_queued(engine: AsyncEngine) -> None:
    async with running(engine) as inbox:
        async with _locked(engine):
            tasks = await _send(inbox, "msg_0", "msg_1")
            stopping = asyncio.create_task(inbox.stop())
            await _until(lambda: not inbox.is_open)
            with pytest.raises(Overloaded):
                await inbox.accept(delivery("msg_2"))
        await stopping
        assert await asyncio.gather(*tasks) == [Receipt.ACCEPTED] * 2
        with pytest.raises(Overloaded):
            await inbox.accept(delivery("msg_2"))


async def test_stopping_is_bounded_and_leaves_no_one_waiting(engine: AsyncEngine) -> None:
    async with running(engine, limits=InboxLimits(wait=0.2)) as inbox, _locked(engine):
        tasks = await _send(inbox, "msg_0", "msg_1")
        async with asyncio.timeout(30):
            await inbox.stop()
        outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    assert all(isinstance(outcome, DatabaseUnavailable | Overloaded) for outcome in outcomes)
    assert await stored(engine) == []


async def test_closed_until_started(engine: AsyncEngine) -> None:
    inbox = Inbox(engine, on_committed=lambda: None)
    with pytest.raises(Overloaded):
        await inbox.accept(delivery())
    await inbox.stop()


async def test_a_mistake_in_the_callback_costs_nothing(engine: AsyncEngine) -> None:
    def broken() -> None:
        raise RuntimeError("broken")

    inbox = Inbox(engine, on_committed=broken)
    await inbox.start()
    for number in range(2):
        assert await inbox.accept(delivery(f"msg_{number}")) is Receipt.ACCEPTED
    await inbox.stop()
