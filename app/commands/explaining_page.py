"""The page of `meterbridge explain`: a sentence, the sums, and a tree of records."""

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime

from rich.console import Console
from rich.table import Table
from rich.text import Text
from rich.tree import Tree

from app.ledger.explained import (
    CarryEnd,
    ExplainedAttempt,
    ExplainedCarry,
    ExplainedPeriod,
    ExplainedRecord,
    ExplainedRevision,
    ExplainedWindow,
    PeriodHead,
    PeriodTotals,
    SubjectDay,
    Waiting,
)
from app.ledger.explained_words import SOURCES, action_of, counted, moment, span
from app.ledger.explanation import Explanation, PeriodExplanation
from app.mapping.units import exact_text

_HELD_BACK = frozenset({"held", "parked"})


def print_explanation(console: Console, explanation: Explanation) -> None:
    """The whole page."""
    if explanation.day is not None:
        console.print(Text(explanation.sentence, style="bold"))
        _print_aside(console, explanation.day)
    for period in explanation.periods:
        if explanation.day is not None:
            console.print()
        _print_period(console, period)
    console.print(Text(f"\nAll times are UTC. Made on {moment(explanation.made_at)}.", "dim"))


def _print_aside(console: Console, day: SubjectDay) -> None:
    if day.aside:
        tree = Tree(Text("Not on a record"))
        _add_waiting(tree, day.aside, day.aside_counts)
        console.print()
        console.print(tree)


def _print_period(console: Console, explained: PeriodExplanation) -> None:
    period = explained.period
    console.print(Text(explained.sentence, style="bold"))
    console.print()
    console.print(_sums(explained))
    if period.waiting:
        tree = Tree(Text("Not booked"))
        _add_waiting(tree, period.waiting, period.waiting_counts)
        console.print()
        console.print(tree)
    if period.carries:
        tree = Tree(Text("Carried between periods"))
        for carry in period.carries:
            tree.add(_carry(carry))
        _add_more(tree, period.carries_in_all - len(period.carries), "step")
        console.print()
        console.print(tree)
    if period.records:
        console.print()
        console.print(_records(period))


def _sums(explained: PeriodExplanation) -> Table:
    period, says = explained.period, explained.stripe
    head, totals = period.head, period.totals
    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column(overflow="fold")
    for name, said in (
        ("item", f"{head.subscription_item} of {head.subscription}{_price(head)}"),
        (
            "period",
            f"{span(head.period_start, head.period_end)}, {explained.status}"
            + (f" since {moment(head.closed_at)}" if head.closed_at else ""),
        ),
        ("rules", _rules(head)),
        ("wanted", _wanted(totals)),
        ("reported", f"{totals.reported:,}, as far as Stripe's answers tell"),
        ("Stripe", f"{says.total:,}. {says.note}" if says.total is not None else says.note),
        ("invoice", says.invoice),
    ):
        if said:
            grid.add_row(name, Text(said))
    return grid


def _price(head: PeriodHead) -> str:
    named = [name for name in (head.lookup_key, head.price) if name]
    return f", {' = '.join(named)}" if named else ""


def _rules(head: PeriodHead) -> str:
    if head.combination is None:
        return "nothing was booked yet"
    late = {"carry_forward": "is carried into the next", "hold": "is held"}
    policy = late.get(head.late_policy or "", head.late_policy)
    if head.combination != "sum":  # such values cannot be added to another period's
        policy = late["hold"]
    return f"records combine by {head.combination}, rounded {head.rounding}; late usage {policy}"


def _wanted(totals: PeriodTotals) -> str:
    if totals.exact is None or totals.rounded is None:
        return f"{totals.wanted:,}"
    said = f"{exact_text(totals.exact)} exactly, {totals.rounded:,} rounded"
    if totals.carried_in:
        said += f", {totals.carried_in:+,} carried here"
    if totals.carried_out:
        said += f", {-totals.carried_out:+,} carried away"
    return f"{said}: {totals.wanted:,}"


def _add_waiting(tree: Tree, windows: Iterable[ExplainedWindow], counts: Iterable[Waiting]) -> None:
    shown = 0
    for window in windows:
        _add_window(tree, window)
        shown += 1
    _add_more(tree, sum(count.windows for count in counts) - shown, "window")


def _carry(carry: ExplainedCarry) -> Text:
    def end(of: CarryEnd) -> str:
        at = f"{of.subscription_item} at {_second(of.timestamp)}"
        return f"{at} (period from {moment(of.period_start)})"

    if carry.destination is None:
        return Text(
            f"{counted(-carry.quantity, 'unit')} of {end(carry.origin)} credited by hand, "
            f"on {moment(carry.carried_at)}"
        )
    units = f"{carry.quantity:,} unit{'' if carry.quantity in (1, -1) else 's'}"
    return Text(
        f"{units} from {end(carry.origin)} to {end(carry.destination)}, "
        f"on {moment(carry.carried_at)}, behind {carry.svix_id}"
    )


def _records(period: ExplainedPeriod) -> Tree:
    title = counted(period.selected, "record")
    if period.selected < period.totals.records:
        of = counted(period.totals.records, "record")
        title = f"{period.selected:,} of {of}: those of the day"
    tree = Tree(Text(title))
    for record in period.records:
        _add_record(tree, record)
    if period.next_after is not None:
        tree.add(Text(f"... more: add --after {period.next_after}", "yellow"))
    return tree


def _add_record(tree: Tree, record: ExplainedRecord) -> None:
    said = (
        f"{_second(record.timestamp)}: wanted {record.wanted_quantity:,}, "
        f"reported {record.reported_quantity:,}"
    )
    if record.carried_quantity:
        said += f", of it carried {record.carried_quantity:+,}"
    branch = tree.add(Text(said) + _state(record.state, record.reason, record.detail))
    if record.in_doubt:
        branch.add(Text("whether Stripe took the last attempt is not known yet", "yellow"))
    for window in record.windows:
        _add_window(branch, window)
    _add_more(branch, record.windows_in_all - len(record.windows), "window")
    _add_more(branch, record.attempts_in_all - len(record.attempts), "earlier attempt")
    for attempt in record.attempts:
        branch.add(_attempt(attempt))


def _add_window(tree: Tree, window: ExplainedWindow) -> None:
    groups = "".join(f" {name}={value}" for name, value in sorted(window.group_by.items()))
    said = (
        f"{window.meter} of {window.subject}{groups}, "
        f"{span(window.window_start, window.window_end)}: {window.value:f} ({window.aggregation})"
    )
    if window.scale is not None:
        said += f" x {window.scale} = {exact_text(window.amount)}"
    branch = tree.add(Text(said) + _state(window.state, window.reason, window.detail))
    for line in _origin(window):
        branch.add(Text(line, "dim"))


def _origin(window: ExplainedWindow) -> Iterator[str]:
    source = SOURCES.get(window.source, window.source)
    yield f"{source}: {window.svix_id}, sent {moment(window.message_at)}"
    if window.part_of is not None:
        whole = window.part_of
        yield (f"of {span(whole.window_start, whole.window_end)}, {whole.value:f}: {whole.svix_id}")
    if window.slipped_from is not None and window.slipped_to is not None:
        yield (
            f"{span(window.slipped_from, window.slipped_to)} is billed in another period than "
            "its own"
        )
    if window.revision > 1:
        yield f"its value was changed: this is revision {window.revision}"
    if window.revisions_in_all > len(window.revisions):
        yield f"... {window.revisions_in_all - len(window.revisions):,} earlier values"
    yield from map(_revision, window.revisions)
    if not window.certain:
        yield "not certain to be for this item: no mapping leads to any of the subscription's"


def _revision(revision: ExplainedRevision) -> str:
    why = "was superseded" if revision.verdict == "superseded" else "came late: older than known"
    return f"{revision.value:f} {why}: {revision.svix_id}, sent {moment(revision.message_at)}"


def _attempt(attempt: ExplainedAttempt) -> Text:
    http = f"HTTP {attempt.http_status}" if attempt.http_status else "no answer"
    said = [f"{moment(attempt.started_at)}: {attempt.action} {attempt.quantity:,}", http]
    said += [attempt.outcome, attempt.problem or "", attempt.request_id or "no request id"]
    if attempt.replayed:
        said.append("Stripe repeated an earlier answer")
    said += [f"key {attempt.idempotency_key}", attempt.message or ""]
    ok = attempt.outcome == "succeeded"
    return Text(", ".join(part for part in said if part), "green" if ok else "red")


def _state(state: str, reason: str | None, detail: str | None) -> Text:
    if state in ("booked", "reported"):
        return Text("")
    said = f"  [{state}{f': {reason}' if reason else ''}]"
    action = action_of(state, reason)
    more = " ".join(part for part in (f"{detail}." if detail else "", action or "") if part)
    return Text(f"{said} {more}", "red" if state in _HELD_BACK else "yellow")


def _add_more(tree: Tree, number: int, noun: str) -> None:
    if number > 0:
        tree.add(Text(f"... {counted(number, noun)} more", "yellow"))


def _second(timestamp: int) -> str:
    return moment(datetime.fromtimestamp(timestamp, UTC))
