"""The timers of one request: its total time, and for each attempt the time to connect, to the first event, and between
events.

The hot path (`AttemptTimer.progressed`, once per batch of events) writes one number. A timer of the event loop that
fires before the deadline, because that has moved since, is set again; so a stream of a thousand batches costs a handful
of timer calls.

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


class _Timer:
    """A context manager around a block of a task. At its deadline it cancels the task, and makes the `CancelledError`
    that leaves the block a `GatewayError`.

    Like `asyncio.timeout()`, which has one deadline and raises `TimeoutError`: a cancellation from outside stays one.
    """

    _task: asyncio.Task[object] | None = None
    _cancelling = 0
    _handle: asyncio.Handle | None = None
    _expired = False

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()

    def __enter__(self) -> Self:
        self._task = asyncio.current_task(self._loop)
        assert self._task is not None  # noqa: S101 - a request runs in a task
        self._cancelling = self._task.cancelling()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        task, self._task = self._task, None  # breaks the reference cycle: task, its frames, this timer
        if not self._expired or task is None:
            return
        # Takes the timer's own cancel() back. It is a timeout only if nobody else cancelled the task as well.
        alone = task.uncancel() <= self._cancelling
        if alone and kind is asyncio.CancelledError:
            raise self._error() from error

    def _due(self, polls: int = LAST_POLLS) -> None:
        """Cancels the block after `polls` more turns of the event loop."""
        if polls:
            self._handle = self._loop.call_soon(self._due, polls - 1)
            return
        self._handle = None
        self._expired = True
        assert self._task is not None  # noqa: S101 - set on entry
        self._task.cancel()

    @abstractmethod
    def _error(self) -> GatewayError: ...


class TotalTimer(_Timer):
    """``with TotalTimer(seconds) as timer:`` around a request, the waits between its attempts included."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.deadline = self._loop.time() + seconds
        """On the event loop's clock."""

    def __enter__(self) -> Self:
        self._handle = self._loop.call_at(self.deadline, self._due)
        return super().__enter__()

    def _error(self) -> GatewayError:
        milliseconds = round(self._seconds * 1000)
        return GatewayError("timeout", f"the request did not end within {milliseconds} ms (max_request_time_ms)")


class AttemptTimer(_Timer):
    """``with AttemptTimer(settings) as timer:`` around an attempt; its errors are retryable and name the setting."""

    _first_event_at: float | None = None
    _at = inf
    _armed_at = inf
    _name = ""

    def __init__(self, settings: Reliability) -> None:
        super().__init__()
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
        self._at = at = self._loop.time() + self._idle_seconds
        if self._armed_at > at:
            self._arm()

    def suspended(self) -> None:
        """The gateway does not wait for the backend: no timer runs until `progressed`."""
        self._at = inf

    def _limit(self, name: str, at: float) -> None:
        if self._first_event_at is None:
            self._first_event_at = self._loop.time() + self._settings.request_timeout_ms / 1000
        self._name, self._at = (name, at) if at < self._first_event_at else ("request_timeout_ms", self._first_event_at)
        self._arm()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._armed_at = self._at
        self._handle = self._loop.call_at(self._at, self._due)

    def _due(self, polls: int = LAST_POLLS) -> None:
        self._armed_at = inf  # so that progressed() sets the timer again
        if self._at == inf:
            self._handle = None  # suspended
        elif self._loop.time() < self._at:
            self._arm()
        else:
            super()._due(polls)

    def _error(self) -> GatewayError:
        limit = getattr(self._settings, self._name)
        return GatewayError("timeout", _MESSAGES[self._name].format(limit), retryable=True)


_MESSAGES = {
    "connect_timeout_ms": "no connection to the backend within {} ms (reliability.connect_timeout_ms)",
    "request_timeout_ms": "no first event from the backend within {} ms (reliability.request_timeout_ms)",
    "idle_timeout_ms": "the backend was silent for {} ms (reliability.idle_timeout_ms)",
}
