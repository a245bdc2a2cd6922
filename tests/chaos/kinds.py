"""The kinds of faults: how often each comes, and what it is in words. One table."""

from dataclasses import dataclass
from typing import Any, Final

# Longer than `STRIPE_TIMEOUT` of the run's processes, and shorter: both happen.
DELAYS_MS: Final = (150, 600, 1_500, 3_500)
RETRY_AFTER: Final = (None, 1, 2)
GARBAGE: Final[tuple[dict[str, Any], ...]] = (
    {"body": "<html><body>upstream", "content_type": "text/html"},
    {"body": '{"id": "mbur_1", "object": "usage_rec'},
    {"body": ""},
    {"body": "[]"},
    {"body": '{"id": "mbur_1", "object": "usage_record", "livemode": false, "quantity": 1, '
     '"subscription_item": "si_of_somebody_else", "timestamp": 1}'},
    {"body": "<html>Bad Gateway</html>", "content_type": "text/html", "status": 502},
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of fault. `most`: in one run; None is any number."""

    name: str
    weight: int
    words: str
    most: int | None = None


STRIPE_KINDS: Final = (
    Kind("cut_before_execution", 24, "connection cut, the call not executed"),
    Kind("cut_after_execution", 24, "connection cut, the call executed"),
    Kind("cut_mid_answer", 18, "connection cut in the middle of the answer"),
    Kind("delay_arrival", 18, "request arrives late, some after we gave up"),
    Kind("delay_execution", 18, "execution takes long, the subscription locked"),
    Kind("delay_answer", 18, "executed, the answer comes late or too late"),
    Kind("duplicate_answer", 20, "answered twice on one connection"),
    Kind("429_global-rate", 4, "429 global-rate: the pace is halved", most=6),
    Kind("429_global-concurrency", 8, "429 global-concurrency"),
    Kind("429_endpoint-rate", 4, "429 endpoint-rate: the pace is halved", most=6),
    Kind("429_endpoint-concurrency", 8, "429 endpoint-concurrency"),
    Kind("429_resource-specific", 8, "429 resource-specific"),
    Kind("lock_timeout", 14, "429 lock_timeout"),
    Kind("409_key_in_use", 14, "409, the key is in use"),
    Kind("stored_500", 20, "500 stored under the key, not executed"),
    Kind("stored_500_executed", 20, "500 stored under the key, executed"),
    Kind("garbage", 24, "executed, the answer is garbage or somebody else's"),
    Kind("version_echo", 8, "the answer names another API version"),
)
"""What meets one call to Stripe, or a few in a row."""

PROCESS_KINDS: Final = (
    Kind("stripe_503", 8, "Stripe answers 503 to everything for seconds"),
    Kind("stripe_hangs", 8, "Stripe takes connections and does not answer (SIGSTOP)"),
    Kind("kill_worker", 36, "kill -9 of a process that books and sends"),
    Kind("kill_serve", 22, "kill -9 of a process that receives"),
    Kind("pause_worker", 20, "SIGSTOP of a process that books and sends"),
    Kind("pause_serve", 14, "SIGSTOP of a process that receives"),
    Kind("restart", 8, "SIGTERM, and a start"),
    Kind("database_restart", 16, "PostgreSQL: immediate shutdown, recovery"),
    Kind("clock_forward", 12, "all clocks 6 hours on, over ends of billing periods", most=14),
    Kind("clock_skew", 12, "one process's clock is wrong by up to 15 s, either way"),
    Kind(
        "mapping_change",
        12,
        "mappings change: late, dated back, from a moment on, a split",
        most=15,
    ),
    Kind("secret_rotation", 4, "the signing secret is rotated", most=5),
)
"""What meets processes, PostgreSQL, clocks and mappings."""

KINDS: Final = {kind.name: kind for kind in (*STRIPE_KINDS, *PROCESS_KINDS)}
