"""All figures by name, in the order in which they are measured."""

from bench.figures import (
    booking,
    calls,
    end_to_end,
    ingest,
    latency,
    pace,
    reaction,
    recipe,
    volume,
)
from bench.result import Figure

FIGURES: tuple[Figure, ...] = (
    Figure("ingest", "Receiving", ingest.measure),
    Figure("booking", "Booking", booking.measure),
    Figure("end_to_end", "From webhook to reported", end_to_end.measure),
    Figure("latency", "A slow Stripe", latency.measure),
    Figure("calls", "Calls spared", calls.measure),
    Figure("pace", "The allowed rate", pace.measure),
    Figure("reaction", "A single webhook's way", reaction.measure),
    Figure("volume", "A great table", volume.measure),
    Figure("recipe", "Beside the published recipe", recipe.measure),
)
