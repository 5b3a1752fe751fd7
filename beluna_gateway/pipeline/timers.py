"""The timers of one request: its total time, and for each attempt the time to connect, to the first event, and between
events.

The hot path (`AttemptTimer.progressed`, once per batch of events) writes one number: a deadline is a number in its
timer, and all timers share one of the event loop (`Deadlines`). So neither a request nor a stream of a thousand batches
costs a call of the event loop.

A deadline that has passed ends a block only after the event loop has polled its sockets again and their callbacks have
run: where the process was stopped, or the loop was busy, what the backend sent meanwhile is read first.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from math import inf
from types import TracebackType
from typing import Self

from ..config.settings import Reliability
from ..errors import GatewayError

LAST_POLLS = 8
"""Event-loop turns between a deadline and its effect. Each polls the sockets; from the bytes of an event to
`progressed` it takes up to four of them: the transport reads, a task is woken, it wakes another one."""

ROUNDING_SECONDS = 1e-7
"""By so much a sum of floats may miss the whole milliseconds of uvloop's clock and timers."""

PAUSE_SECONDS = 0.01
"""The least time between two looks for what is due, which bounds their cost where thousands of requests time out, each
at a moment of its own. So much later, at most, one of many deadlines takes effect."""


class Deadlines:
    """The open timers of an event loop, and the one timer of the loop that they share.

    To set a timer of the loop and to cancel it takes 2 µs, and next to none is ever due. So the loop's timer is set for
    the earliest deadline that is known. When it fires it looks through the open timers: most have been moved since.
    """

    def __init__(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.open: set[_Timer] = set()
        self.next_look = inf
        """When the loop's timer fires, on the loop's clock."""
        self._not_before = 0.0
        self._handle: asyncio.TimerHandle | None = None

    def expect(self, at: float) -> None:
        """Has it looked for what is due at `at`, or earlier."""
        at = max(at, self._not_before)
        if at < self.next_look:
            self.close()
            self.next_look = at
            self._handle = self.loop.call_at(at, self._look)

    def close(self) -> None:
        """Ends the loop's timer."""
        self.next_look = inf
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None

    def _look(self) -> None:
        self.close()
        now = self.loop.time()
        self._not_before = now + PAUSE_SECONDS
        earliest = inf
        for timer in self.open:
            if timer.at > now + ROUNDING_SECONDS:
                earliest = min(earliest, timer.at)
            else:
                timer.due()
        self.expect(earliest)


class _Timer:
    """A context manager around a block of a task. At its deadline it cancels the task, and makes the `CancelledError`
    that leaves the block a `GatewayError`.

    Like `asyncio.timeout()`, which has one deadline and raises `TimeoutError`: a cancellation from outside stays one.
    """

    at: float = inf
    """The deadline, on the event loop's clock."""
    _task: asyncio.Task[object] | None = None
    _cancelling = 0
    _effect: asyncio.Handle | None = None
    _expired = False

    def __init__(self, deadlines: Deadlines) -> None:
        self._deadlines = deadlines
        self._loop = deadlines.loop

    def __enter__(self) -> Self:
        self._task = asyncio.current_task(self._loop)
        assert self._task is not None  # noqa: S101 - a request runs in a task
        self._cancelling = self._task.cancelling()
        deadlines = self._deadlines
        deadlines.open.add(self)
        if self.at < deadlines.next_look:
            deadlines.expect(self.at)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._deadlines.open.discard(self)
        task, self._task = self._task, None  # breaks the reference cycle: task, its frames, this timer
        if self._effect is not None:
            self._effect.cancel()
            self._effect = None
        if not self._expired or task is None:
            return
        # Takes the timer's own cancel() back. It is a timeout only if nobody else cancelled the task as well.
        alone = task.uncancel() <= self._cancelling
        if alone and kind is asyncio.CancelledError:
            raise self._error() from error

    def due(self) -> None:
        """The deadline has passed: cancels the block after `LAST_POLLS` more turns of the event loop, where it has not
        been moved by then.
        """
        if self._effect is None and not self._expired:
            self._effect = self._loop.call_soon(self._count, LAST_POLLS - 1)

    def _count(self, polls: int) -> None:
        self._effect = None
        if self.at > self._loop.time() + ROUNDING_SECONDS:
            return  # it was moved
        if polls:
            self._effect = self._loop.call_soon(self._count, polls - 1)
            return
        self._expired = True
        assert self._task is not None  # noqa: S101 - set on entry
        self._task.cancel()

    @abstractmethod
    def _error(self) -> GatewayError: ...


class TotalTimer(_Timer):
    """``with TotalTimer(deadlines, seconds) as timer:`` around a request, the waits between its attempts included."""

    def __init__(self, deadlines: Deadlines, seconds: float) -> None:
        super().__init__(deadlines)
        self._seconds = seconds
        self.at = self._loop.time() + seconds

    def _error(self) -> GatewayError:
        milliseconds = round(self._seconds * 1000)
        return GatewayError("timeout", f"the request did not end within {milliseconds} ms (max_request_time_ms)")


class AttemptTimer(_Timer):
    """``with AttemptTimer(deadlines, settings) as timer:`` around an attempt; its errors are retryable and name the
    setting.
    """

    _first_event_at: float | None = None
    _name = ""

    def __init__(self, deadlines: Deadlines, settings: Reliability) -> None:
        super().__init__(deadlines)
        self._settings = settings
        self._idle_seconds = settings.idle_timeout_ms / 1000

    def connecting(self) -> None:
        """From now on `connect_timeout_ms` runs, and `request_timeout_ms` too."""
        self._limit("connect_timeout_ms", self._loop.time() + self._settings.connect_timeout_ms / 1000)

    def connected(self) -> None:
        """From now on only `request_timeout_ms` runs, counted from the attempt's start."""
        self._limit("request_timeout_ms", inf)

    def progressed(self) -> None:
        """An event with content has come: from now on `idle_timeout_ms` runs, counted from here."""
        self._name = "idle_timeout_ms"
        self.at = at = self._loop.time() + self._idle_seconds
        if at < self._deadlines.next_look:
            self._deadlines.expect(at)

    def suspended(self) -> None:
        """The gateway does not wait for the backend: no timer runs until `progressed`."""
        self.at = inf

    def _limit(self, name: str, at: float) -> None:
        first = self._first_event_at
        if first is None:
            self._first_event_at = first = self._loop.time() + self._settings.request_timeout_ms / 1000
        self._name, self.at = (name, at) if at < first else ("request_timeout_ms", first)
        if self.at < self._deadlines.next_look:
            self._deadlines.expect(self.at)

    def _error(self) -> GatewayError:
        limit = getattr(self._settings, self._name)
        return GatewayError("timeout", _MESSAGES[self._name].format(limit), retryable=True)


_MESSAGES = {
    "connect_timeout_ms": "no connection to the backend within {} ms (reliability.connect_timeout_ms)",
    "request_timeout_ms": "no first event from the backend within {} ms (reliability.request_timeout_ms)",
    "idle_timeout_ms": "the backend was silent for {} ms (reliability.idle_timeout_ms)",
}
