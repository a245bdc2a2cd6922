"""The cached mapping repository: what booking asks.

Exact in spite of the cache: booking reads the mappings' version under the shared mapping lock and
hands it to `sync`; a cache that is behind forgets everything. Notifications only make that rare:
they name the keys that changed, so that the rest of the cache stays.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from app.mapping.cache import Cache
from app.mapping.models import MeterMapping, SubjectMapping
from app.mapping.repository import MappingRepository

# An unmapped subject is likely to be mapped soon; the version makes even this exact for booking.
NEGATIVE_TTL = 5.0
ALL = "*"


@dataclass(frozen=True, slots=True)
class KnownMappings:
    """The mappings of one batch of windows."""

    subjects: dict[str, tuple[SubjectMapping, ...]]
    meters: dict[str, tuple[MeterMapping, ...]]


class CachedMappings:
    """Mappings of subjects and meters, from memory where they were looked up before."""

    def __init__(self, repository: MappingRepository, *, ttl: float, size: int) -> None:
        self._subjects: Cache[str, tuple[SubjectMapping, ...]] = Cache(
            repository.subjects, ttl=ttl, negative_ttl=NEGATIVE_TTL, size=size
        )
        self._meters: Cache[str, tuple[MeterMapping, ...]] = Cache(
            repository.meters, ttl=ttl, negative_ttl=NEGATIVE_TTL, size=size
        )
        self._version = 0

    async def find(self, subjects: Iterable[str], meters: Iterable[str]) -> KnownMappings:
        """The mappings of these subjects and meters; those without one are absent."""
        return KnownMappings(
            await self._subjects.get_many(subjects), await self._meters.get_many(meters)
        )

    def sync(self, version: int) -> None:
        """Forget everything that was cached before `version`, unless it was told key by key."""
        if version != self._version:
            self.forget_all()
            self._version = version

    def forget_all(self) -> None:
        """Notifications may have been missed."""
        self._subjects.clear()
        self._meters.clear()

    def notified(self, payload: str) -> None:
        """Another transaction changed mappings: `version` and the changed keys, a line each."""
        first, *keys = payload.split("\n")
        version = int(first)
        if version <= self._version:
            return
        if version != self._version + 1 or ALL in keys:
            self.forget_all()
        for key in keys:
            kind, _, name = key.partition(":")
            if kind == "s":
                self._subjects.drop(name)
            elif kind == "m":
                self._meters.drop(name)
        self._version = version
