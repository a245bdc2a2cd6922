"""Answers of OpenMeter's API as values: read strictly, and checked to be about what was asked.

Pure. Raises OpenMeterMalformed, and nothing else, on any document.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, FailFast, Field, TypeAdapter, ValidationError
from pydantic.alias_generators import to_camel

from app.openmeter.api_answers import Customer, QueryRow
from app.openmeter.api_errors import OpenMeterMalformed
from app.openmeter.api_query import WINDOW_SIZES, MeterQuery
from app.openmeter.payload import Name, Subject, UsagePayload, payload_faults

T = TypeVar("T")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class _Model(BaseModel):
    model_config = ConfigDict(frozen=True, extra="ignore", strict=True, alias_generator=to_camel)


class _QueryResult(_Model):
    # The first fault is enough: listing those of 100,000 rows takes seconds.
    data: Annotated[tuple[UsagePayload, ...], Field(strict=False), FailFast()]


class _UsageAttribution(_Model):
    subject_keys: Annotated[tuple[Subject, ...], Field(strict=False), FailFast()] = ()


class _CustomerPayload(_Model):
    id: Annotated[Name, Field(min_length=1)]
    key: Name | None = None
    usage_attribution: _UsageAttribution | None = None
    deleted_at: Any = None


class _CustomerPage(_Model):
    items: Annotated[tuple[_CustomerPayload, ...], Field(strict=False), FailFast()]
    total_count: Annotated[Decimal, Field(ge=0, le=2**31)]


class _StripeData(_Model):
    stripe_customer_id: Annotated[Name, Field(min_length=1)]


_SUBJECTS: TypeAdapter[tuple[str, ...]] = TypeAdapter(
    Annotated[tuple[Subject, ...], Field(strict=False), FailFast()]
)


@dataclass(frozen=True, slots=True)
class CustomerPage:
    """One page of a list: the ids on it, deleted ones too, and the customers that are not."""

    ids: tuple[str, ...]
    customers: tuple[Customer, ...]
    total: int
    """How many ids all pages have together."""


def read_rows(document: object, asked: MeterQuery) -> tuple[QueryRow, ...]:
    """The rows of an answer, in the answer's order; each (subject, group, window) stands once."""
    rows: dict[object, QueryRow] = {}
    for position, payload in enumerate(_read(_QueryResult.model_validate, document).data):
        row = _row(payload, asked, f"data[{position}]")
        # Without windows each group has one total, whatever bounds it claims.
        window = row.window_start if asked.window_size else None
        if rows.setdefault((row.subject, *row.group_by.values(), window), row) is not row:
            raise OpenMeterMalformed(f"data[{position}] repeats an earlier row")
    return tuple(rows.values())


def _row(payload: UsagePayload, asked: MeterQuery, at: str) -> QueryRow:
    only = asked.subjects[0] if len(asked.subjects) == 1 else None
    subject = payload.subject or only
    if subject not in asked.subjects or subject is None:
        raise OpenMeterMalformed(f"{at}.subject is none that was asked for")
    start, end = payload.window_start, payload.window_end
    # A server that ignores the bounds would have us bill what was billed before.
    if not (start < end and start < asked.to and asked.from_ < end):
        raise OpenMeterMalformed(f"{at} lies outside the bounds that were asked for")
    if asked.window_size is not None:
        size = WINDOW_SIZES[asked.window_size]
        if end - start != size or (start - _EPOCH) % size:
            raise OpenMeterMalformed(f"{at} is no window of the size that was asked for")
    told = payload.group_by or {}
    if not told.keys() <= set(asked.told_groups):
        raise OpenMeterMalformed(f"{at}.groupBy has a name that was not asked for")
    if any((told.get(name) or "") != wanted for name, wanted in asked.filter_group_by.items()):
        raise OpenMeterMalformed(f"{at}.groupBy is none that was filtered for")
    return QueryRow(
        value=payload.value,
        window_start=start,
        window_end=end,
        subject=subject,
        group_by={name: told.get(name) or "" for name in asked.group_by},
    )


def read_subjects(document: object) -> tuple[str, ...]:
    """Subjects, each once, sorted."""
    return tuple(sorted(set(_read(_SUBJECTS.validate_python, document))))


def read_customers(document: object) -> CustomerPage:
    """One page of customers, or the plain list that older versions answer."""
    if isinstance(document, list):
        document = {"items": document, "totalCount": Decimal(len(document))}
    page = _read(_CustomerPage.model_validate, document)
    return CustomerPage(
        ids=tuple(item.id for item in page.items),
        customers=tuple(
            Customer(
                id=item.id,
                key=item.key or None,
                subject_keys=item.usage_attribution.subject_keys if item.usage_attribution else (),
            )
            for item in page.items
            if item.deleted_at is None
        ),
        total=int(page.total_count),
    )


def read_stripe_customer_id(document: object) -> str:
    """The Stripe customer that an OpenMeter customer is linked to."""
    return _read(_StripeData.model_validate, document).stripe_customer_id


def _read(validate: Callable[[Any], T], document: object) -> T:
    try:
        return validate(document)
    except ValidationError as error:
        faults = payload_faults(error.errors(include_url=False, include_context=False))
    path, message = faults[0]
    raise OpenMeterMalformed(f"{path or 'the body'} {message}")
