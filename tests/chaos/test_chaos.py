"""A short run with a fixed seed: every kind of fault, and nothing lost, doubled or unaccounted for.

`make chaos` is the long one.
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chaos.injector import Lengths
from tests.chaos.kinds import KINDS
from tests.chaos.launching import forked
from tests.chaos.outcome import Options
from tests.chaos.report import page, text
from tests.chaos.run import run
from tests.conftest import SERVER_SETTINGS, folder_in_memory

pytestmark = pytest.mark.acceptance

SHORT = Options(
    seed=1,
    faults=len(KINDS) + 5,
    windows=3_000,
    seconds=8.0,
    within=165.0,
    lengths=Lengths(pause=1.5, down=0.5, outage=1.5),
    least={"mapping_change": 4},  # one of each sort
    database=SERVER_SETTINGS,
    launcher=forked,
)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that every user may pass through, as pytest's `tmp_path` is not for root."""
    with tempfile.TemporaryDirectory(
        prefix="mb-", dir=folder_in_memory(), ignore_cleanup_errors=True
    ) as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.mark.timeout(180)
async def test_a_short_run(folder: Path) -> None:
    said: list[str] = []
    try:
        outcome = await run(SHORT, folder, said.append)
    except BaseException:
        print("\n".join(said))  # noqa: T201 - pytest shows it where the test failed
        raise
    assert outcome.clean, "\n".join([*said, text(outcome)])
    # Some find no occasion in so short a time, such as a call to be met.
    assert set(outcome.recoveries.injected) | set(outcome.recoveries.skipped) == set(KINDS)
    assert outcome.verdict.windows >= SHORT.windows
    assert outcome.verdict.units == outcome.verdict.at_stripe > 10**6
    assert set(outcome.verdict.parked) == {"no_subject_mapping", "before_subscription"}
    assert "Nothing was lost" in page(outcome)
