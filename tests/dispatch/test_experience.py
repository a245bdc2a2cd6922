"""What a process knows of the line, beside what the database says of it."""

import pytest

from app.dispatch.experience import Experience


@pytest.mark.parametrize(
    ("stops_since", "stopped", "then"),
    [(0, False, False), (0, True, True), (1, False, True), (1, True, True)],
)
def test_an_open_line_that_was_read_before_a_stop_is_not_open(
    stops_since: int, stopped: bool, then: bool
) -> None:
    experience = Experience()
    experience.line_is(stopped=stops_since > 0, stops_before=0)
    before = experience.stops
    experience.stops += stops_since
    experience.line_is(stopped=stopped, stops_before=before)
    assert experience.line_stopped is then
