"""Ports for programs that are told theirs: no two programs of a test run get the same."""

import os
import random
import socket

# Below the ports that systems give to whoever asks for any (Linux: from 32768 on): such a one may
# be taken again before the program, two seconds later, listens, or while it is restarted.
FIRST = 12_000
EACH = 1_000
WORKERS = 20


def ports_of(worker: str) -> range:
    """The ports of one of pytest's workers: "gw0", "gw1", ..., or "" where there are none."""
    number = int(worker.removeprefix("gw") or 0) % WORKERS
    return range(FIRST + number * EACH, FIRST + (number + 1) * EACH)


def free_port() -> int:
    """A loopback port that nobody listens on, and that no other worker's tests will."""
    ours = ports_of(os.environ.get("PYTEST_XDIST_WORKER", ""))
    for port in random.SystemRandom().sample(ours, EACH):
        with socket.socket() as bound:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                bound.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise RuntimeError(f"all ports from {ours.start} to {ours.stop - 1} are in use")
