"""Faults of the middle between the bridge and Stripe, as the sandbox takes them. Pure."""

import random
from collections.abc import Callable
from typing import Any

from tests.chaos.kinds import DELAYS_MS, GARBAGE, RETRY_AFTER

MOST_IN_A_ROW = 3
# Each halves the pace, which then rises by a hundredth of a call a second with each success: more
# of them than Stripe would ever mean leave nothing to be sent in the time of a run.
ALONE = frozenset({"429_global-rate", "429_endpoint-rate"})
VERSIONS = ("2024-06-20", "2025-03-31.basil", None)

Draw = Callable[[random.Random], dict[str, Any]]


def _cut(when: str) -> Draw:
    return lambda dice: {"kind": "cut", "when": when, "reset": dice.random() < 0.5}


def _delay(phase: str) -> Draw:
    return lambda dice: {"kind": "latency", "phase": phase, "ms": dice.choice(DELAYS_MS)}


def _limited(reason: str) -> Draw:
    return lambda dice: {
        "kind": "rate_limited",
        "reason": reason,
        "retry_after": dice.choice(RETRY_AFTER),
    }


def _plain(kind: str, **members: object) -> Draw:
    return lambda _: {"kind": kind, **members}


_DRAWS: dict[str, Draw] = {
    "cut_before_execution": _cut("before_execution"),
    "cut_after_execution": _cut("after_execution"),
    "cut_mid_answer": _cut("mid_answer"),
    "delay_arrival": _delay("arrival"),
    "delay_execution": _delay("execution"),
    "delay_answer": _delay("answer"),
    "duplicate_answer": lambda dice: {
        "kind": "duplicate_answer",
        "delay_ms": dice.choice((0, 0, 1, 5, 50)),
    },
    "lock_timeout": _plain("lock_timeout"),
    "409_key_in_use": _plain("key_in_use"),
    "stored_500": _plain("stored_error"),
    "stored_500_executed": _plain("stored_error", executed=True),
    "garbage": lambda dice: {"kind": "garbage", **dice.choice(GARBAGE)},
    "version_echo": lambda dice: {"kind": "version_echo", "version": dice.choice(VERSIONS)},
}


def stripe_fault(kind: str, dice: random.Random) -> dict[str, Any]:
    """A fault of a kind for the sandbox's control API."""
    draw = _limited(kind.removeprefix("429_")) if kind.startswith("429_") else _DRAWS[kind]
    times = 1 if kind in ALONE else dice.randint(1, MOST_IN_A_ROW)
    return {**draw(dice), "times": times}
