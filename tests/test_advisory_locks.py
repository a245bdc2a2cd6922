"""The advisory locks of the program: one number is one lock, whoever takes it."""

import re
from collections import Counter
from pathlib import Path

from app.ledger.series import ROWLESS_LOCK
from app.mapping.repository import MAPPING_LOCK

ROOT = Path(__file__).parent.parent
ASSIGNED = re.compile(r"^([A-Z_]*LOCK)(?:: [^=]+)? = ([0-9_]+)$", re.MULTILINE)


def test_every_advisory_lock_has_a_number_of_its_own() -> None:
    sources = [*(ROOT / "app").rglob("*.py"), ROOT / "alembic" / "env.py"]
    numbers = [
        (name, int(number))
        for source in sources
        for name, number in ASSIGNED.findall(source.read_text(encoding="utf-8"))
    ]
    assert {("ROWLESS_LOCK", ROWLESS_LOCK), ("MAPPING_LOCK", MAPPING_LOCK)} < set(numbers)
    assert "ADVISORY_LOCK" in dict(numbers)  # of the migrations
    assert max(Counter(number for _, number in numbers).values()) == 1, numbers


def test_no_advisory_lock_is_taken_under_a_number_without_a_name() -> None:
    """What the other test does not see would be free to collide."""
    taken = re.compile(r"pg_(?:try_)?advisory\w*lock\w*\(([^)]*)\)")
    arguments = [
        argument
        for folder in ("app", "alembic")
        for source in (ROOT / folder).rglob("*.py")
        for argument in taken.findall(source.read_text(encoding="utf-8"))
    ]
    assert len(arguments) >= 4
    # PostgreSQL keeps pairs of numbers apart from single ones.
    assert set(arguments) <= {":key", ":space, :key"}
