"""Mappings in the database: applied all or nothing, told to the replicas, exact in every cache."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction

import asyncpg
import pytest
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine

from app import db
from app.db import transaction
from app.errors import DatabaseUnavailable
from app.mapping.cached import CachedMappings
from app.mapping.file import Mappings
from app.mapping.models import (
    LatePolicy,
    MeterMapping,
    PriceSelector,
    RecordPer,
    Rounding,
    SubjectMapping,
    TimestampRule,
)
from app.mapping.repository import CHANNEL, AppliedMappings, MappingRepository, share_lock
from tests.mapping.stripe_side import NOW, meter, price, span

JULY = datetime(2026, 7, 1, tzinfo=UTC)
EVERYTHING = Mappings(
    {
        "calls": (meter("calls", selector=price("price_1", "price_2")),),
        "requests": (meter("requests", selector=PriceSelector(lookup_key="requests")),),
        "split": (
            replace(meter("split"), record_per=RecordPer.HOUR),
            replace(meter("split"), group_filter=(("model", ""),), whole_period=True),
            replace(
                meter("split", selector=price("price_2")),
                group_filter=(("model", "gpt-4 №"), ("region", "eu")),
                record_per=RecordPer.PERIOD,
                late_policy=LatePolicy.HOLD,
            ),
        ),
        "tokens": (
            meter(
                "tokens",
                selector=PriceSelector(metadata=(("a", "1"), ("b", "ü"))),
                scale=Fraction(10**30 - 1, 10**29 + 3),
                rounding=Rounding.HALF_EVEN,
                rule=TimestampRule.WINDOW_END,
            ),
        ),
    },
    {
        "customer-1": (span("sub_1", valid_to=JULY), span("sub_2", valid_from=JULY)),
        "Kunde № 2": (span("sub_1", subject="Kunde № 2"),),
    },
)


@pytest.fixture
def repository(engine: AsyncEngine) -> MappingRepository:
    return MappingRepository(engine)


async def version(engine: AsyncEngine) -> int:
    async with transaction(engine) as connection:
        return await share_lock(connection)


def some(subject: str, subscription: str = "sub_1") -> Mappings:
    return Mappings({}, {subject: (span(subscription, subject=subject),)})


async def test_what_is_applied_is_what_is_read(repository: MappingRepository) -> None:
    applied = await repository.replace(EVERYTHING, now=NOW)
    assert applied.before == Mappings({}, {})
    assert await repository.everything() == EVERYTHING
    assert await repository.meters(["tokens", "nobody"]) == {"tokens": EVERYTHING.meters["tokens"]}
    found = await repository.subjects(["customer-1", "nobody"])
    assert found == {"customer-1": EVERYTHING.subjects["customer-1"]}


async def test_applying_again_changes_nothing(
    engine: AsyncEngine, repository: MappingRepository
) -> None:
    await repository.replace(EVERYTHING, now=NOW)
    first = await version(engine)
    assert await repository.replace(EVERYTHING, now=NOW) == AppliedMappings(EVERYTHING)
    assert await version(engine) == first


async def test_what_is_not_named_stays(engine: AsyncEngine, repository: MappingRepository) -> None:
    await repository.replace(EVERYTHING, now=NOW)
    first = await version(engine)
    changed = Mappings({"calls": (meter("calls"),)}, {"customer-1": (span("sub_9"),)})
    before = (await repository.replace(changed, now=NOW)).before
    assert before.meters == {"calls": EVERYTHING.meters["calls"]}
    assert before.subjects == {"customer-1": EVERYTHING.subjects["customer-1"]}
    assert await repository.everything() == Mappings(
        EVERYTHING.meters | changed.meters, EVERYTHING.subjects | changed.subjects
    )
    assert await version(engine) == first + 1


async def test_looking_is_no_change(engine: AsyncEngine, repository: MappingRepository) -> None:
    first = await version(engine)
    assert (await repository.preview(EVERYTHING, now=NOW)).before == Mappings({}, {})
    assert await repository.everything() == Mappings({}, {})
    assert await version(engine) == first


async def test_an_apply_that_fails_changes_nothing(
    engine: AsyncEngine, repository: MappingRepository
) -> None:
    backwards = Mappings(
        {"calls": (meter("calls"),)}, {"a": (SubjectMapping("a", "sub_1", JULY, NOW),)}
    )
    with pytest.raises(Exception, match="ck_subject_mappings_span"):
        await repository.replace(backwards, now=NOW)
    assert await repository.everything() == Mappings({}, {})
    assert await version(engine) == 1


async def test_fifty_thousand_subjects_are_applied_at_once(
    engine: AsyncEngine, repository: MappingRepository
) -> None:
    """More than PostgreSQL takes parameters, and than a notification takes bytes."""
    names = [f"customer-{n:05}" for n in range(50_000)]
    many = Mappings({}, {name: (span(subject=name),) for name in names})
    await repository.replace(many, now=NOW)
    assert (await repository.everything()).subjects == many.subjects
    assert await repository.replace(many, now=NOW) == AppliedMappings(many)
    assert await version(engine) == 2


async def test_two_applies_at_once_follow_one_another(
    engine: AsyncEngine, repository: MappingRepository
) -> None:
    await asyncio.gather(
        *(repository.replace(some("customer-1", f"sub_{n}"), now=NOW) for n in range(8))
    )
    found = await repository.subjects(["customer-1"])
    assert len(found["customer-1"]) == 1
    assert await version(engine) == 9


async def test_an_apply_behind_a_booking_that_never_ends_gives_up(
    engine: AsyncEngine, fresh_url: URL, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(db, "LOCK_TIMEOUT", "100ms")
    impatient = db.create_engine(fresh_url, pool_size=1)
    repository = MappingRepository(impatient)
    async with transaction(engine) as booking:
        await share_lock(booking)
        async with transaction(engine) as other:
            await share_lock(other)  # bookers do not wait for one another
        with pytest.raises(DatabaseUnavailable):
            await repository.replace(EVERYTHING, now=NOW)
    assert await repository.everything() == Mappings({}, {})
    await impatient.dispose()


@pytest.fixture
async def heard(fresh_url: URL) -> AsyncIterator[asyncio.Queue[str]]:
    """What is notified of mappings."""
    queue: asyncio.Queue[str] = asyncio.Queue()
    connection = await asyncpg.connect(
        fresh_url.set(drivername="postgresql").render_as_string(hide_password=False)
    )
    await connection.add_listener(CHANNEL, lambda *args: queue.put_nowait(str(args[-1])))
    yield queue
    await connection.close()


async def test_replicas_are_told_the_version_and_the_changed_keys(
    repository: MappingRepository, heard: asyncio.Queue[str]
) -> None:
    await repository.replace(EVERYTHING, now=NOW)
    first = await asyncio.wait_for(heard.get(), 5)
    assert first.split("\n") == ["2", "m:calls", "m:requests", "m:split", "m:tokens"] + [
        f"s:{name}" for name in EVERYTHING.subjects
    ]
    await repository.replace(EVERYTHING, now=NOW)
    await repository.replace(some("customer-1", "sub_9"), now=NOW)
    assert await asyncio.wait_for(heard.get(), 5) == "3\ns:customer-1"


@pytest.mark.parametrize(
    "names", [[f"c-{n}" for n in range(51)], ["ü" * 500 + str(n) for n in range(8)]]
)
async def test_too_many_keys_for_a_notification_are_all_keys(
    repository: MappingRepository, heard: asyncio.Queue[str], names: list[str]
) -> None:
    await repository.replace(Mappings({}, {name: (span(subject=name),) for name in names}), now=NOW)
    assert await asyncio.wait_for(heard.get(), 5) == "2\n*"


class Counted(MappingRepository):
    """Counts the look-ups of each subject."""

    def __init__(self, engine: AsyncEngine) -> None:
        super().__init__(engine)
        self.asked: Counter[str] = Counter()

    async def subjects(self, subjects: Sequence[str]) -> dict[str, tuple[SubjectMapping, ...]]:
        self.asked.update(subjects)
        return await super().subjects(subjects)

    async def meters(self, meters: Sequence[str]) -> dict[str, tuple[MeterMapping, ...]]:
        self.asked.update(meters)
        return await super().meters(meters)


async def subscription(cached: CachedMappings, subject: str) -> str | None:
    spans = (await cached.find([subject], [])).subjects.get(subject, ())
    return spans[0].subscription if spans else None


async def test_a_cache_that_is_behind_the_version_forgets_everything(
    engine: AsyncEngine, repository: MappingRepository
) -> None:
    counted = Counted(engine)
    cached = CachedMappings(counted, ttl=300, size=100)
    cached.sync(await version(engine))
    assert await subscription(cached, "customer-1") is None
    assert await subscription(cached, "customer-1") is None
    assert counted.asked == {"customer-1": 1}
    await repository.replace(some("customer-1"), now=NOW)
    assert await subscription(cached, "customer-1") is None  # nobody has told it
    cached.sync(await version(engine))
    assert await subscription(cached, "customer-1") == "sub_1"


async def test_a_notification_forgets_only_what_changed(engine: AsyncEngine) -> None:
    repository = MappingRepository(engine)
    counted = Counted(engine)
    cached = CachedMappings(counted, ttl=300, size=100)
    await repository.replace(EVERYTHING, now=NOW)
    cached.sync(2)
    await cached.find(["customer-1", "Kunde № 2"], ["tokens", "calls"])
    counted.asked.clear()
    cached.notified("3\ns:customer-1\nm:tokens")
    cached.sync(3)  # is not behind: the keys were told
    await cached.find(["customer-1", "Kunde № 2"], ["tokens", "calls"])
    assert counted.asked == {"customer-1": 1, "tokens": 1}


@pytest.mark.parametrize(
    ("payload", "asked"),
    [
        ("3\n*", 2),  # all
        ("4\ns:customer-1", 2),  # one was missed in between
        ("3\ns:*", 0),  # a subject of that name
        ("2\ns:customer-1", 0),  # known already
        ("1\n*", 0),
    ],
)
async def test_what_a_notification_makes_forgotten(
    engine: AsyncEngine, payload: str, asked: int
) -> None:
    counted = Counted(engine)
    cached = CachedMappings(counted, ttl=300, size=100)
    cached.sync(2)
    await cached.find(["customer-1", "customer-2"], [])
    counted.asked.clear()
    cached.notified(payload)
    await cached.find(["customer-1", "customer-2"], [])
    assert counted.asked.total() == asked


async def test_after_a_gap_everything_is_looked_up_again(engine: AsyncEngine) -> None:
    counted = Counted(engine)
    cached = CachedMappings(counted, ttl=300, size=100)
    cached.sync(1)
    await cached.find(["customer-1"], ["tokens"])
    cached.forget_all()
    await cached.find(["customer-1"], ["tokens"])
    assert counted.asked == {"customer-1": 2, "tokens": 2}
