"""What a run says of itself, clean and not."""

from dataclasses import replace

import pytest

from tests.chaos.kinds import KINDS
from tests.chaos.outcome import Options, Outcome
from tests.chaos.recovery import Recoveries
from tests.chaos.report import page, text
from tests.chaos.verdict import Verdict


@pytest.fixture
def outcome() -> Outcome:
    """A clean run with three faults."""
    recoveries = Recoveries()
    recoveries.injected.update({"kill_worker": 2, "database_restart": 1})
    recoveries.met.update({"kill_worker": 2, "database_restart": 1})
    recoveries.seconds["kill_worker"] += [4.21, 1.0]
    recoveries.seconds["database_restart: webhooks"] += [0.5]
    recoveries.seconds["database_restart: records"] += [0.75]
    verdict = Verdict(
        windows=100_123,
        units=5_000,
        at_stripe=5_000,
        lost=0,
        doubled=0,
        early=0,
        unaccounted=0,
        parked={"no_subject_mapping": 48},
        calls=777,
        twice=0,
        findings=(),
    )
    return Outcome(
        options=Options(seed=9),
        verdict=verdict,
        recoveries=recoveries,
        trouble=(),
        messages=2_345,
        sent={"retries": 12, "forged": 3},
        answers={202: 2_300, 0: 7},
        starts=9,
        moved=21_600,
        seconds=654.3,
        postgresql="18.0",
    )


def test_the_page_has_every_figure_and_how_to_repeat_it(outcome: Outcome) -> None:
    said = page(outcome)
    assert "--seed 9 --faults 500 --windows 100000 --minutes 20" in said
    for row in (
        "| windows accepted | 100,123 |",
        "| units lost | 0 |",
        "| units doubled | 0 |",
        "| windows unaccounted for | 0 |",
        "| windows parked, as they must be | 48 `no_subject_mapping` |",
        f"| `kill_worker` | {KINDS['kill_worker'].words} | 2 | 2 | 2.6 s | 4.2 s |",
        "| 1 | 1 | records 0.8 s | 0.8 s |",
        "|  |  |  |  | webhooks 0.5 s | 0.5 s |",
    ):
        assert row in said
    assert "Nothing was lost" in said
    assert "PostgreSQL 18.0" in said
    assert "{" not in said


def test_what_is_wrong_is_said_and_the_run_failed(outcome: Outcome) -> None:
    wrong = replace(
        outcome,
        verdict=replace(outcome.verdict, lost=3, findings=("si_1: 3 owed, 0 at Stripe",)),
        trouble=("left at the end: 1 unsent",),
    )
    assert outcome.clean
    assert not wrong.clean
    for said in (text(wrong), page(wrong)):
        assert "si_1: 3 owed, 0 at Stripe" in said
        assert "left at the end: 1 unsent" in said
        assert "Nothing was lost" not in said
    assert text(wrong).endswith("FAILED")
    assert text(outcome).endswith("unaccounted for")
