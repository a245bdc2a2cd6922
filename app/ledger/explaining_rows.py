"""Rows of the explaining queries as nouns. Pure."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import datetime
from fractions import Fraction
from typing import Any, TypeVar

from sqlalchemy import Row

from app.ledger.explained import (
    CarryEnd,
    ExplainedAttempt,
    ExplainedCarry,
    ExplainedRecord,
    ExplainedRevision,
    ExplainedWindow,
    PeriodHead,
    WholeWindow,
)

T = TypeVar("T")


def by(found: Iterable[Row[Any]], column: str, made: Callable[[Row[Any]], T]) -> dict[int, Any]:
    """Rows as nouns, in their order, by the id in a column."""
    grouped: dict[int, tuple[T, ...]] = {}
    for row in found:
        owner = getattr(row, column)
        grouped[owner] = (*grouped.get(owner, ()), made(row))
    return grouped


def head(row: Row[Any]) -> PeriodHead:
    """An item period."""
    booked = row.id is not None
    return PeriodHead(
        row.id,
        row.subscription,
        row.subscription_item,
        row.period_start,
        row.period_end,
        row.combination,
        row.rounding,
        row.late_policy,
        row.closed_at,
        Fraction(int(row.exact_numerator), int(row.exact_denominator)) if booked else Fraction(0),
        int(row.rounded_total) if booked else 0,
        row.price,
        row.lookup_key,
        row.pruned_at if booked else None,
        int(row.pruned_reported or 0) if booked else 0,
    )


def record(
    row: Row[Any],
    windows: tuple[ExplainedWindow, ...],
    attempts: tuple[ExplainedAttempt, ...],
) -> ExplainedRecord:
    """A usage record with what belongs to it."""
    return ExplainedRecord(
        row.id,
        row.timestamp,
        int(row.wanted_quantity),
        int(row.reported_quantity),
        int(row.carried_quantity),
        row.revision,
        row.svix_id,
        row.state,
        row.reason,
        row.detail,
        row.increment,
        row.in_doubt,
        row.due_at,
        row.windows_in_all,
        row.attempts_in_all,
        windows,
        attempts,
    )


def window(row: Row[Any]) -> ExplainedWindow:
    """A usage window, without its revisions."""
    whole = None
    if row.part_of is not None:
        whole = WholeWindow(
            row.part_of, row.whole_start, row.whole_end, row.whole_value, row.whole_svix_id
        )
    scale = None
    if row.scale_numerator is not None:
        scale = Fraction(int(row.scale_numerator), int(row.scale_denominator))
    return ExplainedWindow(
        row.id,
        row.meter,
        row.subject,
        row.group_by,
        row.window_start,
        row.window_end,
        row.aggregation,
        row.value,
        scale,
        Fraction(int(row.amount_numerator), int(row.amount_denominator)),
        row.source,
        row.svix_id,
        row.message_at,
        row.revision,
        row.state,
        row.reason,
        row.detail,
        row.slipped_from,
        row.slipped_to,
        row.usage_record_id,
        whole,
        certain=row.certain,
    )


def revision(row: Row[Any]) -> ExplainedRevision:
    """A revision that does not stand."""
    return ExplainedRevision(
        row.value,
        row.aggregation,
        row.source,
        row.svix_id,
        row.message_at,
        row.verdict,
        row.kept_at,
    )


def with_revisions(
    of: ExplainedWindow, revisions: tuple[ExplainedRevision, ...], in_all: int
) -> ExplainedWindow:
    """The window with its history."""
    return replace(of, revisions=revisions, revisions_in_all=in_all)


def attempt(row: Row[Any]) -> ExplainedAttempt:
    """One POST."""
    return ExplainedAttempt(
        row.idempotency_key,
        row.action,
        int(row.quantity),
        row.started_at,
        row.finished_at,
        row.outcome,
        row.problem,
        row.http_status,
        row.message,
        row.request_id,
        row.replayed,
    )


def carry(row: Row[Any]) -> ExplainedCarry:
    """What went from one record to another."""

    def end(side: str) -> CarryEnd:
        def of(name: str) -> Any:
            return getattr(row, f"{side}_{name}")

        start: datetime = of("start")
        return CarryEnd(of("id"), of("item"), of("timestamp"), start, of("end"))

    return ExplainedCarry(
        int(row.quantity),
        row.carried_at,
        row.svix_id,
        end("origin"),
        None if row.destination_id is None else end("destination"),
    )
