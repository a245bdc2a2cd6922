"""The cache: alive only so long, never too big, and one look-up for all who ask at once."""

import asyncio
import gc
from collections.abc import Sequence

import pytest

from app.mapping.cache import Cache


class Source:
    """Answers look-ups from `values`, when `gate` is open, and notes what it was asked."""

    def __init__(self, **values: str) -> None:
        self.values = values
        self.asked: list[list[str]] = []
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.time = 0.0
        self._begun = asyncio.Condition()

    async def load(self, keys: Sequence[str]) -> dict[str, str]:
        async with self._begun:
            self.asked.append(list(keys))
            self._begun.notify_all()
        found = {key: self.values[key] for key in keys if key in self.values}
        await self.gate.wait()
        if self.failure is not None:
            raise self.failure
        return found

    async def begun(self, loads: int = 1) -> None:
        """Wait until so many look-ups have begun."""
        async with asyncio.timeout(5), self._begun:
            await self._begun.wait_for(lambda: len(self.asked) >= loads)

    def cache(
        self, *, ttl: float = 60, negative_ttl: float = 5, size: int = 100
    ) -> Cache[str, str]:
        return Cache(
            self.load, ttl=ttl, negative_ttl=negative_ttl, size=size, monotonic=lambda: self.time
        )


async def test_a_hit_lives_for_its_ttl() -> None:
    source = Source(a="1")
    cache = source.cache(ttl=60)
    for time, looks in [(0.0, 1), (59.9, 1), (60.0, 2), (119.9, 2), (120.0, 3)]:
        source.time = time
        assert await cache.get("a") == "1"
        assert len(source.asked) == looks


async def test_a_miss_lives_shorter_than_a_hit() -> None:
    source = Source()
    cache = source.cache(negative_ttl=5)
    assert await cache.get("a") is None
    source.values["a"] = "1"
    source.time = 4.9
    assert await cache.get("a") is None
    source.time = 5.0
    assert await cache.get("a") == "1"
    assert len(source.asked) == 2


async def test_a_look_at_a_hit_does_not_prolong_its_life() -> None:
    source = Source(a="1")
    cache = source.cache(ttl=60)
    await cache.get("a")
    source.values["a"] = "2"
    source.time = 40
    assert await cache.get("a") == "1"
    source.time = 60
    assert await cache.get("a") == "2"


async def test_the_least_recently_used_makes_room() -> None:
    source = Source(**dict.fromkeys("abcd", "x"))
    cache = source.cache(size=3)
    await cache.get_many("abc")
    await cache.get("a")
    await cache.get("d")
    assert len(cache) == 3
    source.asked.clear()
    await cache.get_many("acd")
    assert source.asked == []
    await cache.get("b")
    assert source.asked == [["b"]]


async def test_more_keys_than_it_holds_are_all_answered() -> None:
    source = Source(**{str(n): "x" for n in range(50)})
    cache = source.cache(size=3)
    assert len(await cache.get_many(map(str, range(50)))) == 50
    assert len(cache) == 3


async def test_a_hundred_misses_at_once_are_one_look_up() -> None:
    source = Source(a="1")
    source.gate.clear()
    cache = source.cache()
    waiting = [asyncio.create_task(cache.get("a")) for _ in range(100)]
    await source.begun()
    source.gate.set()
    assert await asyncio.gather(*waiting) == ["1"] * 100
    assert source.asked == [["a"]]


async def test_only_what_is_unknown_is_looked_up_and_in_one_call() -> None:
    source = Source(a="1", b="2", c="3")
    cache = source.cache()
    await cache.get("a")
    assert await cache.get_many(["c", "a", "b", "nobody", "c"]) == {"a": "1", "b": "2", "c": "3"}
    assert source.asked == [["a"], ["c", "b", "nobody"]]


async def test_keys_that_are_being_loaded_are_not_loaded_again() -> None:
    source = Source(a="1", b="2")
    source.gate.clear()
    cache = source.cache()
    first = asyncio.create_task(cache.get_many("a"))
    await source.begun()
    second = asyncio.create_task(cache.get_many("ab"))
    await source.begun(2)
    source.gate.set()
    assert (await first, await second) == ({"a": "1"}, {"a": "1", "b": "2"})
    assert source.asked == [["a"], ["b"]]


async def test_a_caller_that_is_cancelled_does_not_fail_the_others() -> None:
    source = Source(a="1")
    source.gate.clear()
    cache = source.cache()
    asked_first = asyncio.create_task(cache.get("a"))
    await source.begun()
    other = asyncio.create_task(cache.get("a"))
    await asyncio.sleep(0)
    asked_first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asked_first
    source.gate.set()
    assert await other == "1"
    assert await cache.get("a") == "1"
    assert source.asked == [["a"]]


async def test_a_failed_look_up_fails_all_who_wait_and_is_not_remembered() -> None:
    source = Source(a="1")
    source.gate.clear()
    source.failure = LookupError("away")
    cache = source.cache()
    waiting = [asyncio.create_task(cache.get("a")) for _ in range(3)]
    await source.begun()
    source.gate.set()
    outcomes = await asyncio.gather(*waiting, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [LookupError] * 3
    source.failure = None
    assert await cache.get("a") == "1"


async def test_a_failure_that_nobody_waits_for_is_no_warning() -> None:
    source = Source()
    source.gate.clear()
    source.failure = LookupError("away")
    complaints: list[dict[str, object]] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context))
    alone = asyncio.create_task(source.cache().get("a"))
    await source.begun()
    alone.cancel()
    source.gate.set()
    await asyncio.gather(alone, return_exceptions=True)
    for _ in range(5):
        await asyncio.sleep(0)
    gc.collect()
    assert complaints == []


@pytest.mark.parametrize("forget", ["drop", "clear"])
@pytest.mark.parametrize("again", [True, False], ids=["asked again meanwhile", "asked again after"])
async def test_what_is_forgotten_while_it_is_loaded_is_not_stored(forget: str, again: bool) -> None:
    """The look-up may have read the old value before it was changed."""
    source = Source(a="old")
    source.gate.clear()
    cache = source.cache()
    before = asyncio.create_task(cache.get("a"))
    await source.begun()
    source.values["a"] = "new"
    if forget == "drop":
        cache.drop("a")
    else:
        cache.clear()
    if again:
        after = asyncio.create_task(cache.get("a"))
        await source.begun(2)
        source.gate.set()
        assert await after == "new"
    source.gate.set()
    assert await before == "old"
    assert await cache.get("a") == "new"
    assert len(source.asked) == 2


async def test_what_was_learned_elsewhere_is_not_overwritten_by_a_look_up_under_way() -> None:
    source = Source(a="old")
    source.gate.clear()
    cache = source.cache()
    before = asyncio.create_task(cache.get("a"))
    await source.begun()
    cache.put("a", "new")
    source.gate.set()
    await before
    assert await cache.get("a") == "new"
    assert len(source.asked) == 1


async def test_with_no_life_at_all_only_those_who_ask_together_share_an_answer() -> None:
    source = Source(a="1")
    cache = source.cache(ttl=0, size=1)
    await cache.get("a")
    await asyncio.gather(cache.get("a"), cache.get("a"))
    assert len(source.asked) == 2
