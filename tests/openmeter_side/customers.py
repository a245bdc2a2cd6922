"""OpenMeter's customers, and its way of finding them."""

from dataclasses import dataclass
from typing import Any

_LONG_AGO = "2024-01-01T00:00:00Z"


@dataclass(frozen=True, slots=True)
class CustomerEntry:
    """A customer; `stripe` is its id at Stripe."""

    id: str
    key: str | None = None
    subjects: tuple[str, ...] = ()
    stripe: str | None = None
    deleted: bool = False

    def matches(self, filters: dict[str, str]) -> bool:
        """Whether the filters find it: by any part of a name, in any case."""
        names = {"subject": self.subjects, "key": (self.key,) if self.key else ()}
        return all(
            any(text.lower() in name.lower() for name in names[kind])
            for kind, text in filters.items()
        )

    def as_json(self) -> dict[str, Any]:
        """The customer as it travels."""
        told: dict[str, Any] = {
            "id": self.id,
            "name": f"The {self.id} company",
            "primaryEmail": f"{self.id}@example.com",
            "createdAt": _LONG_AGO,
            "updatedAt": _LONG_AGO,
            "usageAttribution": {"subjectKeys": list(self.subjects)},
        }
        if self.key is not None:
            told["key"] = self.key
        if self.deleted:
            told["deletedAt"] = _LONG_AGO
        return told
