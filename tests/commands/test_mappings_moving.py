"""`mappings apply` where booked usage moves: shown, refused, forced."""

from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from app.mapping.file import from_yaml, to_mappings
from app.mapping.repository import MappingRepository
from tests.commands.program import Program
from tests.ledger.explainable import DAY, HOUR, Written
from tests.mapping.stripe_side import NOW

STANDS = """
meters: [{meter: tokens, price: price_1}]
subjects: [{subject: customer-1, subscription: sub_1}]
"""
MOVED = "subjects: [{subject: customer-1, subscription: sub_2}]"


@pytest.fixture
async def written(engine: AsyncEngine) -> Written:
    """Of customer-1, on sub_1: an hour of March with 10 units that Stripe holds."""
    await MappingRepository(engine).replace(to_mappings(from_yaml(STANDS)), now=NOW)
    made = Written(engine)
    at = DAY + HOUR - timedelta(seconds=1)
    record = await made.record(await made.period(), at, 10)
    await made.window(DAY, 10, record)
    return made


async def moving(written: Written) -> int:
    async with written.engine.connect() as connection:
        rows = await connection.exec_driver_sql(
            "select count(*) from usage_windows where moving_from is not null"
        )
        return int(rows.scalar_one())


async def test_shown_refused_and_forced(program: Program, written: Written, tmp_path: Path) -> None:
    file = tmp_path / "moved.yaml"
    file.write_text(MOVED)

    shown = program.run("mappings", "apply", str(file), "--dry-run", COLUMNS="300")
    assert shown.returncode == 0
    told = " ".join(shown.stdout.split())
    for part in (
        "si_1 of sub_1",
        "sub_2, price price_1",
        "its billing period is over",
        "1 booked window with 10 units would move. This would be refused without --force",
    ):
        assert part in told

    refused = program.run("mappings", "apply", str(file))
    assert refused.returncode == 2
    assert refused.stdout == ""
    told = " ".join(refused.stderr.split())
    assert "moves 1 window with 10 units" in told
    assert "--force" in told
    assert "its billing period is over" in told
    assert "Traceback" not in told
    assert await moving(written) == 0

    forced = program.run("mappings", "apply", str(file), "--force", COLUMNS="300")
    assert forced.returncode == 0
    assert "1 booked window with 10 units move" in forced.stdout
    assert await moving(written) == 1


async def test_what_stays_is_told(program: Program, written: Written, tmp_path: Path) -> None:
    file = tmp_path / "ended.yaml"
    file.write_text("subjects: [{subject: customer-1, subscription: sub_1, valid_to: 2026-03-01}]")
    done = program.run("mappings", "apply", str(file), COLUMNS="300")
    assert done.returncode == 0
    assert "no mapping of their subject is valid at their time any more" in done.stdout
    assert await moving(written) == 0
