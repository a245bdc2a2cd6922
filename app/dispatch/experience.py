"""What one process learns from outcomes, beyond the record that each is about."""

from collections.abc import Iterable
from datetime import datetime

from app.dispatch import line as the_line
from app.dispatch.decide import Verdict
from app.dispatch.sending import Outcome

# Of more records in trouble at once the oldest are forgotten: they are asked about sooner.
MOST_IN_TROUBLE = 10_000


class Experience:
    """When Stripe last took a record, which ones fail, and whether the line is stopped."""

    def __init__(self) -> None:
        self.last_success: datetime | None = None
        self.line_stopped = False
        self.stops = 0  # outcomes so far that stop the line
        self._unwritten = 0  # outcomes that stop the line, and of which the database does not know
        self._outages = 0  # failures in a row that speak of Stripe and not of a record
        self._in_a_row: dict[int, int] = {}  # record -> its failures since its last success

    @property
    def stop_unwritten(self) -> bool:
        """Whether the line's stop is about to be written down: nothing is to be claimed."""
        return self._unwritten > 0

    def failures_of(self, record: int) -> int:
        """How often a record failed since its last success, as far as this process knows."""
        return self._in_a_row.get(record, 0)

    def line_is(self, *, stopped: bool, stops_before: int) -> None:
        """The line as the database had it, asked after so many `stops`.

        What it did not know yet counts, too: an open line that was read before a stop is not open.
        """
        if not stopped and self.stops > stops_before:
            return
        if self.line_stopped and not stopped and not self._unwritten:
            self._outages = 0  # opened by a probe
        self.line_stopped = stopped or self._unwritten > 0

    def written(self, outcomes: Iterable[Outcome]) -> None:
        """The database knows these outcomes."""
        self._unwritten -= sum(outcome.stop is not None for outcome in outcomes)

    def learn(self, outcome: Outcome) -> Outcome:
        """Take from an outcome what concerns all records. Returns it, marked where it is the last
        of so many failures that Stripe itself is down. To be followed by `written`."""
        decision = outcome.decision
        record = outcome.attempt.record.id
        failures = self._in_a_row.pop(record, 0)
        if decision is None:
            self.last_success = outcome.attempt.finished_at
            self._outages = 0
            return outcome
        if decision.verdict in (Verdict.RETRY, Verdict.NEW_KEY):
            self._in_a_row[record] = failures + 1
            if len(self._in_a_row) > MOST_IN_TROUBLE:
                del self._in_a_row[next(iter(self._in_a_row))]
        if decision.outage:
            self._outages += 1
            if self.line_stopped or self._outages >= the_line.OUTAGE_AFTER:
                outcome = outcome._replace(ends_outage_run=True)
        if outcome.stop is not None:
            self.line_stopped = True
            self.stops += 1
            self._unwritten += 1
        return outcome
