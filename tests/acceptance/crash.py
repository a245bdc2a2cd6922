"""The real program, but it kills itself (as `kill -9` does) right before or after a commit.

    python -m tests.acceptance.crash STEP before|after WORDS...

WORDS are those of the command line. STEP is one of `STEPS`; transactions of a step that had
nothing to do (a worker that looks, and finds nothing due) do not count. `before`: all statements
have run, the commit has not. `after`: committed, and nobody has been told.
"""

import functools
import importlib
import os
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, Never

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from app.cli import main
from app.stripe_client import StripeClient


@dataclass(frozen=True)
class Step:
    """Whose `transaction` it is, and the call that shows that there was something to do."""

    module: str
    call: str


STEPS = {
    "receive": Step("app.inbox.repository", "app.inbox.repository:_insert"),
    "book": Step("app.ledger.booker", "app.ledger.windows:settle_windows"),
    "carry": Step("app.ledger.carrying", "app.ledger.late_records:write_carries"),
    "claim": Step("app.dispatch.claims", "app.dispatch.claims:claim_records"),
    "write": Step("app.dispatch.writing", "app.dispatch.records:write_attempts"),
}
POST = "post"

_worked: ContextVar[bool] = ContextVar("worked", default=False)


def die() -> Never:
    """As kill -9: nothing is flushed, closed or told."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise SystemExit("unreachable")


def crash_at_commit(step: Step, *, after: bool) -> None:
    """Replace the step's `transaction` by one that dies at its commit."""
    module = importlib.import_module(step.module)
    where, _, name = step.call.partition(":")
    owner = importlib.import_module(where)
    call: Callable[..., Awaitable[Any]] = getattr(owner, name)
    transaction = module.__dict__["transaction"]

    @functools.wraps(call)
    async def noted(*args: Any, **kwargs: Any) -> Any:
        result = await call(*args, **kwargs)
        _worked.set(name != "claim_records" or bool(result))
        return result

    @asynccontextmanager
    async def crashing(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        _worked.set(False)
        async with transaction(engine) as connection:
            yield connection
            if _worked.get() and not after:
                die()
        if _worked.get():
            die()

    setattr(owner, name, noted)
    module.__dict__["transaction"] = crashing


def crash_at_post(*, after: bool) -> None:
    """Die before the first usage record leaves, or when its answer has come."""
    post = StripeClient.post_usage_record

    async def crashing(*args: Any, **kwargs: Any) -> Any:
        if after:
            await post(*args, **kwargs)
        die()

    StripeClient.post_usage_record = crashing  # type: ignore[method-assign]


if __name__ == "__main__":
    name, moment, *words = sys.argv[1:]
    if name == POST:
        crash_at_post(after=moment == "after")
    else:
        crash_at_commit(STEPS[name], after=moment == "after")
    sys.argv = ["meterbridge", *words]
    main()
