"""How long what is kept for, as the settings say it."""

from datetime import timedelta

import pytest

from app.config import load_settings
from app.errors import SettingsError
from app.retention.terms import Terms


def test_days_are_spans_and_nothing_is_for_ever() -> None:
    assert Terms.of_days(400, 100) == Terms(timedelta(days=400), timedelta(days=100))
    assert Terms.of_days(0, 0) == Terms(None, None)


@pytest.mark.parametrize("days", [1, 90, 99, -1])
def test_less_than_the_sender_can_resend_is_refused_by_name(days: int) -> None:
    with pytest.raises(SettingsError, match="RETENTION_DAYS"):
        load_settings(retention_days=days)


@pytest.mark.parametrize("days", [0, 100, 400])
def test_more_than_that_or_for_ever_is_taken(days: int) -> None:
    assert load_settings(retention_days=days).retention_days == days
