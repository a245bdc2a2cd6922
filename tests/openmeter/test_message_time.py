"""The time inside a message id."""

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.openmeter.message_time import message_time
from tests.openmeter.ksuid import message_id

CREATED = st.datetimes(datetime(2020, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


@given(CREATED, st.integers(0, 2**120 - 1), st.timedeltas(timedelta(0), timedelta(days=99)))
def test_a_plausible_time_is_used_whenever_the_message_is_seen(
    created: datetime, tail: int, later: timedelta
) -> None:
    found = message_time(message_id(created, tail), created + later)
    assert timedelta(0) <= created - found < timedelta(milliseconds=4)


@given(CREATED, CREATED)
def test_later_messages_are_never_ordered_before_earlier_ones(a: datetime, b: datetime) -> None:
    early, late = sorted((a, b))
    seen = late
    if late - early < timedelta(days=99):
        assert message_time(message_id(early), seen) <= message_time(message_id(late), seen)


@given(st.text(max_size=40), CREATED)
def test_any_text_gives_a_time_near_the_first_sight(text: str, seen: datetime) -> None:
    for candidate in (text, "msg_" + text, "msg_" + text[:27].ljust(27, "z")):
        found = message_time(candidate, seen)
        assert seen - timedelta(days=100) <= found <= seen + timedelta(minutes=5)


# The example of KSUID's own documentation: 107608047 seconds after its epoch, fifth byte 0xB5.
DOCUMENTED = "msg_0ujtsYcgvSTl8PAuAdqWYSMnLOv"
DOCUMENTED_TIME = datetime(2017, 10, 10, 4, 0, 47, 0xB5 * 4000, tzinfo=UTC)


def test_the_documented_example() -> None:
    assert message_time(DOCUMENTED, DOCUMENTED_TIME + timedelta(days=1)) == DOCUMENTED_TIME


def test_a_fifth_byte_of_more_than_a_second_is_carried() -> None:
    second = DOCUMENTED_TIME.replace(microsecond=0)
    found = message_time(message_id(second, tail=255 << 120), second + timedelta(days=1))
    assert found == second + timedelta(milliseconds=1020)


@pytest.mark.parametrize(
    ("off", "used"),
    [
        (timedelta(days=100), True),
        (timedelta(days=100, milliseconds=1), False),
        (timedelta(minutes=-5), True),
        (timedelta(minutes=-5, milliseconds=-1), False),
    ],
)
def test_plausible_from_100_days_before_to_5_minutes_after(off: timedelta, used: bool) -> None:
    seen = DOCUMENTED_TIME + off
    assert message_time(DOCUMENTED, seen) == (DOCUMENTED_TIME if used else seen)


@pytest.mark.parametrize(
    "not_a_ksuid",
    [
        "",
        "msg_",
        DOCUMENTED.removeprefix("msg_"),
        DOCUMENTED + "0",
        DOCUMENTED[:-1],
        DOCUMENTED[:-1] + "-",
        DOCUMENTED[:-1] + "\u0661",
        "MSG_" + DOCUMENTED[4:],
        "msg_" + "z" * 27,  # 27 digits hold more than 20 bytes
    ],
)
def test_else_the_first_sight(not_a_ksuid: str) -> None:
    seen = DOCUMENTED_TIME + timedelta(days=1)
    assert message_time(not_a_ksuid, seen) == seen
