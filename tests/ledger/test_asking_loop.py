"""The asking loop: ends when it is told to, and neither half of it waits for the other."""

import asyncio
from collections.abc import Callable
from typing import cast

import pytest

from app.errors import DatabaseUnavailable
from app.ledger.asking_loop import AskingLoop
from app.ledger.flushing import Flusher
from app.ledger.querying import Querier


class Half:
    """Stands for a querier or a flusher."""

    def __init__(self, *rounds: Callable[[], int], hangs: bool = False) -> None:
        self._rounds = list(rounds)
        self._hangs = hangs
        self.looked = asyncio.Event()
        self.cancelled = False

    async def ask(self) -> int:
        """One round: what was given, then nothing more."""
        if not self._rounds:
            self.looked.set()
            if not self._hangs:
                return 0
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                self.cancelled = True
                raise
        return self._rounds.pop(0)()

    flush = ask


def loop_of(querier: Half, flusher: Half | None, woken: list[int]) -> AskingLoop:
    return AskingLoop(
        cast(Querier, querier), cast(Flusher, flusher), on_answered=lambda: woken.append(1)
    )


def away() -> int:
    raise DatabaseUnavailable


def broken() -> int:
    raise ZeroDivisionError


async def test_a_question_that_hangs_keeps_neither_the_flush_nor_the_end() -> None:
    querier, flusher = Half(hangs=True), Half(lambda: 1)
    woken: list[int] = []
    loop = loop_of(querier, flusher, woken)
    running = asyncio.create_task(loop.run())
    await querier.looked.wait()
    await flusher.looked.wait()
    assert woken == [1]
    loop.stop()
    await running
    assert querier.cancelled


async def test_without_a_database_it_goes_on_later() -> None:
    querier = Half(away, lambda: 1)
    woken: list[int] = []
    loop = loop_of(querier, None, woken)
    running = asyncio.create_task(loop.run())
    await querier.looked.wait()
    assert woken == [1]
    loop.stop()
    await running


async def test_what_nobody_foresaw_ends_it_for_its_supervisor() -> None:
    flusher = Half(hangs=True)
    loop = loop_of(Half(broken), flusher, [])
    with pytest.raises(ZeroDivisionError):
        await loop.run()
    assert flusher.cancelled or not flusher.looked.is_set()
