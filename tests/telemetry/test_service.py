"""What the daemon knows of itself: warnings that cannot flood the log."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from beluna_gateway.telemetry.service import LimitedLog


def test_a_flood_of_warnings_is_a_few_lines_and_a_number():
    """Ten lines in ten seconds, then one with the number of the others; then it begins anew, with one timer each."""
    timers: list[tuple[float, Callable[[], None]]] = []
    with structlog.testing.capture_logs() as lines:
        log = LimitedLog("line rejected", lambda seconds, function: timers.append((seconds, function)))
        for number in range(25):
            log.warning(number=number)
        ((seconds, end),) = timers
        end()
        log.warning(number=25)

    assert seconds == LimitedLog.WINDOW_SECONDS
    assert [line.get("number") for line in lines] == [*range(10), None, 25]
    assert lines[10] == {"event": "line rejected", "log_level": "warning", "suppressed": 15, "seconds": 10.0}
    assert len(timers) == 2


def test_nothing_is_said_where_nothing_was_suppressed():
    """A few warnings are these warnings."""
    timers: list[Callable[[], None]] = []
    with structlog.testing.capture_logs() as lines:
        log = LimitedLog("line rejected", lambda seconds, function: timers.append(function))
        for _ in range(3):
            log.warning()
        timers[0]()

    assert len(lines) == 3
