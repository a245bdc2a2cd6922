"""Whatever is delivered, changed, refused or killed: drained, Stripe holds what the model says.

`MODEL_STEPS=20000` for so many steps (default: 450), `MODEL_SEED=random` for other ones than
always, `MODEL_SEED=7` to repeat a run; with `MODEL_SHRINK=1` a failing example is made smaller,
which takes minutes. `make model` is a long run with a random seed.
"""

import asyncio
import os
import random
from collections.abc import Iterator
from uuid import uuid4

import asyncpg
import hypothesis
import pytest
from hypothesis import HealthCheck, Phase
from hypothesis.stateful import run_state_machine_as_test
from sqlalchemy.engine import URL

from tests.model.machine import Bench, MeterbridgeMachine

STEPS = int(os.environ.get("MODEL_STEPS", "450"))
STEPS_OF_AN_EXAMPLE = 30
# Shrinking takes minutes, and is worth them only where somebody waits for it.
SHRINK = "MODEL_SHRINK" in os.environ


@pytest.fixture(scope="session")
def bench(server_url: URL, template_database: str) -> Iterator[Bench]:
    """A database and a sandbox for the session."""
    name = f"mb_model_{uuid4().hex[:12]}"
    _admin(server_url, f'create database "{name}" template "{template_database}"')
    found = Bench(server_url.set(database=name))
    yield found
    found.close()
    _admin(server_url, f'drop database "{name}" with (force)')


def _admin(url: URL, sql: str) -> None:
    async def run() -> None:
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        connection = await asyncpg.connect(plain)
        try:
            await connection.execute(sql)
        finally:
            await connection.close()

    asyncio.run(run())


@pytest.mark.timeout(60 + STEPS)
def test_what_stripe_holds_is_what_the_model_says(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    # A change is not refused for what another one did: the random search is `make model`.
    asked = os.environ.get("MODEL_SEED", "1")
    seed = random.SystemRandom().randrange(10**9) if asked == "random" else int(asked)
    say(capsys, f"\nMODEL_SEED={seed}")

    @hypothesis.seed(seed)
    class Machine(MeterbridgeMachine):
        def __init__(self) -> None:
            super().__init__(bench)

    run_state_machine_as_test(
        Machine,
        settings=hypothesis.settings(
            max_examples=max(1, STEPS // STEPS_OF_AN_EXAMPLE),
            stateful_step_count=STEPS_OF_AN_EXAMPLE,
            phases=[Phase.generate, *([Phase.shrink] if SHRINK else [])],
            deadline=None,
            derandomize=False,
            database=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        ),
    )
    say(
        capsys,
        f"{bench.steps} steps in {bench.examples} examples: {bench.drains} drains, "
        f"{bench.posts} POSTs executed; {bench.adopted} times the ledger chose what is owed; "
        f"{dict(bench.seen)}",
    )


def say(capsys: pytest.CaptureFixture[str], line: str) -> None:
    """Where a passed test's output is not shown, this is: it says how to repeat the run."""
    with capsys.disabled():
        print(line)  # noqa: T201 - the only place to tell it
