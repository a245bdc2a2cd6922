"""Reading with patience, and applying beside others."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.commands.discovering import WAITS, Paces, Reader, apply
from app.errors import MeterbridgeError
from app.mapping.discovery import Proposal
from app.mapping.evidence import Reading, Source
from app.mapping.models import SubjectMapping
from app.mapping.repository import MappingRepository
from app.stripe_client import StripeClient, TokenBucket
from tests.openmeter_side.answers import Fault, problem, unavailable
from tests.openmeter_side.serving import client_of
from tests.openmeter_side.side import OpenMeterSide

NOW = datetime(2026, 3, 15, 12, tzinfo=UTC)


class Clock:
    """Time that passes by sleeping only."""

    def __init__(self) -> None:
        self.now = 0.0

    async def sleep(self, seconds: float) -> None:
        self.now += seconds

    def bucket(self) -> TokenBucket:
        return TokenBucket(1000, 1, monotonic=lambda: self.now, sleep=self.sleep)


@pytest.fixture
def side() -> OpenMeterSide:
    made = OpenMeterSide()
    made.customer("01A", subjects=["acme"])
    return made


async def read(side: OpenMeterSide, clock: Clock, *subjects: str) -> Reading:
    async with client_of(side) as openmeter, StripeClient(api_key="sk_test_1") as stripe:
        paces = Paces(clock.bucket(), clock.bucket())
        reader = Reader(stripe, openmeter, paces, 100, NOW, lambda *_: None)
        return await reader.read(metadata=False, subjects=subjects)


async def test_what_fails_for_a_moment_is_asked_again(side: OpenMeterSide) -> None:
    clock = Clock()
    side.fail(problem(429, "Too Many Requests", "slow down", **{"retry-after": "7"}), times=1)
    side.fail(unavailable(), path="/01A/", times=2)
    [attribution] = (await read(side, clock, "acme")).attributions
    assert [customer.id for customer in attribution.customers] == ["01A"]
    assert clock.now >= 7 + WAITS[0] + WAITS[1]


async def test_what_goes_on_failing_is_told(side: OpenMeterSide) -> None:
    clock = Clock()
    fault = side.fail(unavailable())
    with pytest.raises(MeterbridgeError, match=r"OpenMeter cannot be read: .*503"):
        await read(side, clock, "acme")
    assert fault.met == len(WAITS) + 1


@pytest.mark.parametrize(
    ("answered", "asked"), [(False, 1), (True, len(WAITS) + 1)], ids=["never", "before"]
)
async def test_an_address_that_never_answered_is_told_at_once(
    side: OpenMeterSide, answered: bool, asked: int
) -> None:
    fault: Fault = side.fail(kind="reset", path="/stripe" if answered else "")
    with pytest.raises(MeterbridgeError, match="OpenMeter cannot be read"):
        await read(side, Clock(), "acme")
    assert fault.met == asked


class Overtaken(MappingRepository):
    """Somebody maps a subject right after the look whether it is mapped."""

    async def subjects(self, subjects: Sequence[str]) -> dict[str, tuple[SubjectMapping, ...]]:
        return {}


@pytest.mark.parametrize("kind", [MappingRepository, Overtaken])
async def test_what_somebody_has_mapped_meanwhile_stays(
    engine: AsyncEngine, kind: Callable[[AsyncEngine], MappingRepository]
) -> None:
    repository = MappingRepository(engine)
    first = [Proposal("acme", "sub_theirs", Source.STRIPE, "")]
    assert await apply(repository, first, NOW) == ()
    both = [Proposal(name, "sub_ours", Source.STRIPE, "") for name in ("acme", "globex")]
    assert await apply(kind(engine), both, NOW) == ("acme",)
    assert (await repository.everything()).subjects == {
        "acme": (SubjectMapping("acme", "sub_theirs"),),
        "globex": (SubjectMapping("globex", "sub_ours"),),
    }
