"""What several rounds did together."""

from app.ledger.rounds import Round
from app.ledger.taking import Waiting


def test_what_one_round_found_waiting_still_waits_after_the_next() -> None:
    """Booked piece by piece, the last piece looks at nothing: what is late must be carried."""
    found = Round(deliveries=1, waiting=Waiting(late=True)) + Round(windows=2)
    assert (found.deliveries, found.windows, found.waiting) == (1, 2, Waiting(late=True))
    both = Round(waiting=Waiting(windows=True)) + Round(waiting=Waiting(late=True))
    assert both.waiting == Waiting(windows=True, late=True)
