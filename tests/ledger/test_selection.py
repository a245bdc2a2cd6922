"""What may be asked to be explained."""

from datetime import UTC, date, datetime
from typing import Any

import pytest

from app.errors import InvalidRequest
from app.ledger.selection import ItemSelection, SubjectSelection, parse_moment, select

MIDDLE = datetime(2026, 3, 15, tzinfo=UTC)


@pytest.mark.parametrize(
    "text",
    ["2026-03-15", "2026-03-15T00:00:00Z", "2026-03-15T01:30:00+01:30", "1773532800"],
)
def test_moments(text: str) -> None:
    assert parse_moment(text) == MIDDLE


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "neither"),
        ("yesterday", "neither"),
        ("2026-13-01", "neither"),
        ("2026-02-30", "neither"),
        ("2026-03-15T25:00:00Z", "neither"),
        ("2026-03-15T00:00:00", "offset"),
        ("-1", "neither"),
        ("1773532800000", "neither"),  # milliseconds
        ("999999999999", "neither"),
        ("9999-12-31", "out of range"),
        ("9999-12-31T23:59:59-23:00", "neither"),
        ("0001-01-01", "out of range"),
        ("\u0661\u0667\u0667\u0663", "neither"),  # digits, but not ours
    ],
)
def test_what_is_no_moment(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_moment(text)


def chosen(**given: Any) -> Any:
    plain: dict[str, Any] = {"item": None, "period": None, "subject": None, "at": None}
    return select(**{**plain, **given})


def test_the_two_selections() -> None:
    assert chosen(item="si_1", period="2026-03-15") == ItemSelection("si_1", MIDDLE)
    assert chosen(item="si_1", period="2026-03-15", after=7) == ItemSelection("si_1", MIDDLE, 7)
    assert chosen(subject="a", at="2026-03-15T23:59:59Z") == SubjectSelection(
        "a", date(2026, 3, 15)
    )


@pytest.mark.parametrize(
    ("given", "path"),
    [
        ({}, "item"),
        ({"item": "si_1"}, "period"),
        ({"subject": "a"}, "at"),
        ({"item": "si_1", "subject": "a", "period": "2026-03-15"}, "item"),
        ({"item": "si_1", "period": "2026-03-15", "at": "2026-03-15"}, "at"),
        ({"subject": "a", "at": "2026-03-15", "period": "2026-03-15"}, "period"),
        ({"subject": "a", "at": "2026-03-15", "after": 1}, "after"),
        ({"item": "si_1", "period": "soon"}, "period"),
        ({"subject": "a", "at": "soon"}, "at"),
        ({"period": "2026-03-15"}, "item"),
    ],
)
def test_refusals_name_the_parameter_as_it_is_called(given: dict[str, Any], path: str) -> None:
    names = {name: f"--{name}" for name in ("item", "period", "subject", "at", "after")}
    with pytest.raises(InvalidRequest) as refused:
        chosen(**given, names=names)
    [fault] = refused.value.faults
    assert fault.path == f"--{path}"
    assert "soon" not in fault.message
