"""A cache for look-ups that cost something: bounded, with a life for hits and a shorter one for
misses, and single-flight, so that a hundred misses at once make one look-up.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class Cache(Generic[K, V]):
    """Maps keys to values through `load`, which takes many keys and returns those it found.

    A key that `load` did not return is remembered as absent for `negative_ttl` seconds.
    A key dropped while it is being loaded is not stored: the load may have read the old value.
    """

    def __init__(
        self,
        load: Callable[[Sequence[K]], Awaitable[Mapping[K, V]]],
        *,
        ttl: float,
        negative_ttl: float,
        size: int,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._load = load
        self._ttl = ttl
        self._negative_ttl = negative_ttl
        self._size = size
        self._monotonic = monotonic
        self._held: OrderedDict[K, tuple[float, V | None]] = OrderedDict()
        self._loading: dict[K, asyncio.Task[Mapping[K, V]]] = {}

    async def get(self, key: K) -> V | None:
        """The value of one key, or None where there is none."""
        return (await self.get_many((key,))).get(key)

    async def get_many(self, keys: Iterable[K]) -> dict[K, V]:
        """The values of those keys that have one; all unknown keys are loaded in one look-up."""
        found: dict[K, V] = {}
        waiting: dict[asyncio.Task[Mapping[K, V]], list[K]] = {}
        missing: list[K] = []
        now = self._monotonic()
        for key in dict.fromkeys(keys):
            entry = self._held.get(key)
            if entry is not None and now < entry[0]:
                self._held.move_to_end(key)
                if entry[1] is not None:
                    found[key] = entry[1]
            elif key in self._loading:
                waiting.setdefault(self._loading[key], []).append(key)
            else:
                missing.append(key)
        if missing:
            # A task of its own: a caller that is cancelled must not fail those who wait with it.
            task = asyncio.create_task(self._fill(missing))
            task.add_done_callback(_retrieve)
            self._loading.update(dict.fromkeys(missing, task))
            waiting[task] = missing
        for task, awaited in waiting.items():
            loaded = await asyncio.shield(task)
            found.update({key: loaded[key] for key in awaited if key in loaded})
        return found

    async def _fill(self, keys: Sequence[K]) -> Mapping[K, V]:
        task = asyncio.current_task()
        try:
            loaded = await self._load(keys)
            for key in keys:
                if self._loading.get(key) is task:
                    self._store(key, loaded.get(key))
            return loaded
        finally:
            for key in keys:
                if self._loading.get(key) is task:
                    del self._loading[key]

    def _store(self, key: K, value: V | None) -> None:
        life = self._negative_ttl if value is None else self._ttl
        self._held[key] = (self._monotonic() + life, value)
        self._held.move_to_end(key)
        while len(self._held) > self._size:
            self._held.popitem(last=False)

    def put(self, key: K, value: V) -> None:
        """Store a value that was learned elsewhere."""
        self._loading.pop(key, None)
        self._store(key, value)

    def drop(self, key: K) -> None:
        """Forget one key, also where it is being loaded right now."""
        self._held.pop(key, None)
        self._loading.pop(key, None)

    def clear(self) -> None:
        """Forget everything, also what is being loaded right now."""
        self._held.clear()
        self._loading.clear()

    def __len__(self) -> int:
        return len(self._held)


def _retrieve(task: asyncio.Task[Mapping[K, V]]) -> None:
    """Look at the outcome, so that a failed load whose callers are all gone is not a warning."""
    if not task.cancelled():
        task.exception()
