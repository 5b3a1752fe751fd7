"""The timers of one request: its total time, and of each attempt connect, first event, silence.

The hot path (`AttemptTimer.progressed`, once per batch of events) writes one number. When the loop's timer fires too
early, because the deadline has moved since, it is set again; so a stream of a thousand batches costs a handful of timer
calls.
"""

from __future__ import annotations

import asyncio
from abc import abstractmethod
from math import inf
from types import TracebackType
from typing import Self

from ..config.settings import Reliability
from ..errors import GatewayError


class _Timer:
    """Around a block, inside its task. When the time is over the block is cancelled, and left with `GatewayError`.

    As `asyncio.timeout()`, which knows one deadline and raises nothing of ours: a cancellation from outside stays one.
    """

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._handle: asyncio.TimerHandle | None = None
        self._expired = False

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
        task, self._task = self._task, None  # a cancelled task holds its frames, and they hold us
        if not self._expired or task is None:
            return
        # Our own cancel() is taken back, and only if nobody else cancelled as well is this a timeout.
        alone = task.uncancel() <= self._cancelling
        if alone and kind is asyncio.CancelledError:
            raise self._error() from error

    def _expire(self) -> None:
        self._handle = None
        self._expired = True
        assert self._task is not None  # noqa: S101 - set on entry
        self._task.cancel()

    @abstractmethod
    def _error(self) -> GatewayError: ...


class TotalTimer(_Timer):
    """``with TotalTimer(seconds) as timer:`` around a request, waits between its attempts included."""

    def __init__(self, seconds: float) -> None:
        super().__init__()
        self._seconds = seconds
        self.deadline = self._loop.time() + seconds
        """On the event loop's clock."""

    def __enter__(self) -> Self:
        self._handle = self._loop.call_at(self.deadline, self._expire)
        return super().__enter__()

    def _error(self) -> GatewayError:
        milliseconds = round(self._seconds * 1000)
        return GatewayError("timeout", f"the request did not end within {milliseconds} ms (max_request_time_ms)")


class AttemptTimer(_Timer):
    """``with AttemptTimer(settings) as timer:`` around an attempt; its errors are retryable and name the setting."""

    def __init__(self, settings: Reliability) -> None:
        super().__init__()
        self._settings = settings
        self._idle_seconds = settings.idle_timeout_ms / 1000
        self._first_event_at: float | None = None
        self._at = inf
        self._armed_at = inf
        self._name = ""

    def connecting(self) -> None:
        """From now on `connect_timeout_ms` runs, and `request_timeout_ms` too."""
        self._limit("connect_timeout_ms", self._loop.time() + self._settings.connect_timeout_ms / 1000)

    def connected(self) -> None:
        """From now on only `request_timeout_ms` runs, counted from the attempt's start."""
        self._limit("request_timeout_ms", inf)

    def progressed(self) -> None:
        """Something with content came: from now on `idle_timeout_ms` runs, counted from here."""
        self._name = "idle_timeout_ms"
        self._at = at = self._loop.time() + self._idle_seconds
        if self._armed_at > at:
            self._arm()

    def suspended(self) -> None:
        """Nobody waits for the backend: no timer runs until `progressed`."""
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
        self._handle = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._handle = None
        self._armed_at = inf
        if self._at == inf:
            return  # suspended; progressed() will set the timer again
        if self._loop.time() < self._at:
            self._arm()
        else:
            self._expire()

    def _error(self) -> GatewayError:
        limit = getattr(self._settings, self._name)
        return GatewayError("timeout", _MESSAGES[self._name].format(limit), retryable=True)


_MESSAGES = {
    "connect_timeout_ms": "no connection to the backend within {} ms (reliability.connect_timeout_ms)",
    "request_timeout_ms": "no first event from the backend within {} ms (reliability.request_timeout_ms)",
    "idle_timeout_ms": "the backend was silent for {} ms (reliability.idle_timeout_ms)",
}
