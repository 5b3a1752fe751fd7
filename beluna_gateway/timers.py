"""The timers of one attempt: connect, first event, silence. One timer of the event loop, moved and not re-created.

The hot path (`progressed`, once per batch of events) writes one number. When the loop's timer fires too early, because
the deadline has moved since, it is set again; so a stream of a thousand batches costs a handful of timer calls.
"""

from __future__ import annotations

import asyncio
from math import inf
from types import TracebackType
from typing import Self

from .config import Reliability
from .errors import GatewayError


class AttemptTimer:
    """``with AttemptTimer(settings) as timer:`` around an attempt, inside its task.

    When a deadline passes, the block is cancelled and left with `GatewayError`: `timeout`, retryable, naming it.
    A cancellation from outside stays a cancellation.
    """

    def __init__(self, settings: Reliability) -> None:
        self._settings = settings
        self._loop = asyncio.get_running_loop()
        self._task: asyncio.Task[object] | None = None
        self._cancelling = 0
        self._handle: asyncio.TimerHandle | None = None
        self._first_event_at: float | None = None
        self._at = inf
        self._name = ""
        self._expired: str | None = None

    def __enter__(self) -> Self:
        self._task = asyncio.current_task()
        assert self._task is not None  # noqa: S101 - an attempt runs in a task
        self._cancelling = self._task.cancelling()
        return self

    def connecting(self) -> None:
        """From now on `connect_timeout_ms` runs, and `request_timeout_ms` too."""
        self._start()
        self._limit("connect_timeout_ms", self._loop.time() + self._settings.connect_timeout_ms / 1000)

    def connected(self) -> None:
        """From now on only `request_timeout_ms` runs, counted from the attempt's start."""
        self._start()
        self._limit("request_timeout_ms", inf)

    def progressed(self) -> None:
        """Something with content came: from now on `idle_timeout_ms` runs, counted from here."""
        self._name = "idle_timeout_ms"
        self._at = self._loop.time() + self._settings.idle_timeout_ms / 1000
        if self._handle is None or self._handle.when() > self._at:
            self._arm()

    def suspended(self) -> None:
        """Nobody waits for the backend: no timer runs until `progressed`."""
        self._at = inf

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        task, self._task = self._task, None  # a cancelled task holds its frames, and they hold us
        if self._expired is None or task is None:
            return
        # As asyncio.timeout() does: our own cancel() is taken back, and only if nobody else cancelled as well is this
        # a timeout rather than a cancellation.
        alone = task.uncancel() <= self._cancelling
        if alone and kind is asyncio.CancelledError:
            raise GatewayError("timeout", _MESSAGES[self._expired].format(self._limit_ms()), retryable=True) from error

    def _start(self) -> None:
        if self._first_event_at is None:
            self._first_event_at = self._loop.time() + self._settings.request_timeout_ms / 1000

    def _limit(self, name: str, at: float) -> None:
        assert self._first_event_at is not None  # noqa: S101 - _start was called
        self._name, self._at = (name, at) if at < self._first_event_at else ("request_timeout_ms", self._first_event_at)
        self._arm()

    def _arm(self) -> None:
        if self._handle is not None:
            self._handle.cancel()
        self._handle = self._loop.call_at(self._at, self._fire)

    def _fire(self) -> None:
        self._handle = None
        if self._at == inf:
            return  # suspended; progressed() will set the timer again
        if self._loop.time() < self._at:
            self._arm()
            return
        self._expired = self._name
        assert self._task is not None  # noqa: S101 - set on entry
        self._task.cancel()

    def _limit_ms(self) -> int:
        return int(getattr(self._settings, self._expired or ""))


_MESSAGES = {
    "connect_timeout_ms": "no connection to the backend within {} ms (reliability.connect_timeout_ms)",
    "request_timeout_ms": "no first event from the backend within {} ms (reliability.request_timeout_ms)",
    "idle_timeout_ms": "the backend was silent for {} ms (reliability.idle_timeout_ms)",
}
