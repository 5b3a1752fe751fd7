"""Decides whether a request may be tried, and whether and when again. The gateway waits and the adapter calls.

Source of the rules: protocol/README.md, "Retry and breaker".
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Literal

from ..config.settings import Reliability
from ..errors import GatewayError

BreakerState = Literal["closed", "open", "half_open"]

COUNTED_KINDS = frozenset({"backend_transient", "rate_limited", "timeout"})
"""The kinds that the breaker counts. A `timeout` inside an attempt is one of connect, first event, idle, or HTTP 408:
the total time of a request reaches an attempt as a cancellation, which is neither failure nor success."""


class CircuitBreaker:
    """Per backend: closed, open after consecutive counted failures, then half-open with exactly one probe.

    Args:
        settings: `breaker_failure_threshold` and `breaker_open_ms`.
        clock: Monotonic seconds.
    """

    def __init__(self, settings: Reliability, clock: Callable[[], float]) -> None:
        self._threshold = settings.breaker_failure_threshold
        self._open_seconds = settings.breaker_open_ms / 1000
        self._clock = clock
        self._failures = 0
        self._opened_at: float | None = None
        self._probing = False
        # Each opening or closing begins a new generation; the results of attempts of an older one do not count.
        self._generation = 0
        self.on_open: set[Callable[[], None]] = set()
        """Callbacks for when the circuit opens, of requests that wait for their next attempt."""

    @property
    def state(self) -> BreakerState:
        """`half_open` from the end of the open window on, whether or not the probe has begun."""
        if self._opened_at is None:
            return "closed"
        return "open" if self._remaining() > 0 else "half_open"

    def check(self) -> None:
        """Refuses where no attempt would be let through; reserves nothing.

        Raises:
            GatewayError: `circuit_open`, with `retry_after_ms`.
        """
        if self._opened_at is None:
            return
        if (remaining := self._remaining()) > 0:
            raise self._refusal(f"the circuit is open after {self._threshold} consecutive failures", remaining)
        if self._probing:
            raise self._refusal("the circuit is half-open and its one probe is under way", self._open_seconds)

    def attempt(self) -> BreakerAttempt:
        """A context manager around one attempt: ``with breaker.attempt(): …``.

        Leaving it normally is a success, by a `GatewayError` of a counted kind a failure, by anything else (a
        cancellation, a 400, a bug) neither; each of them ends a probe.

        Raises:
            GatewayError: `circuit_open`, on entering.
        """
        return BreakerAttempt(self)

    def _begin(self) -> tuple[int, bool]:
        if self._opened_at is None:
            return self._generation, False
        self.check()
        self._probing = True
        return self._generation, True

    def _end(self, generation: int, probe: bool, error: BaseException | None) -> None:
        if probe:
            self._probing = False
        if error is None:
            self._succeeded(generation)
        elif isinstance(error, GatewayError) and error.kind in COUNTED_KINDS:
            self._failed(generation, probe)

    def _failed(self, generation: int, probe: bool) -> None:
        if generation != self._generation:
            return
        self._failures += 1
        if probe or self._failures >= self._threshold:
            self._generation += 1
            self._opened_at = self._clock()
            for callback in list(self.on_open):
                callback()

    def _succeeded(self, generation: int) -> None:
        if generation != self._generation:
            return
        self._failures = 0
        if self._opened_at is not None:
            self._generation += 1
            self._opened_at = None

    def _remaining(self) -> float:
        return 0.0 if self._opened_at is None else self._opened_at + self._open_seconds - self._clock()

    def _refusal(self, why: str, seconds: float) -> GatewayError:
        return GatewayError("circuit_open", why, retry_after_ms=max(1, round(seconds * 1000)))


class BreakerAttempt:
    """See `CircuitBreaker.attempt`."""

    __slots__ = ("_breaker", "_generation", "_probe")

    def __init__(self, breaker: CircuitBreaker) -> None:
        self._breaker = breaker

    def __enter__(self) -> None:
        self._generation, self._probe = self._breaker._begin()  # noqa: SLF001 - the other half of it

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self._breaker._end(self._generation, self._probe, error)  # noqa: SLF001


def retry_delay(
    settings: Reliability,
    error: GatewayError,
    *,
    attempt: int,
    output_sent: bool,
    seconds_left: float,
    jitter: Callable[[], float] = random.random,
) -> float | None:
    """Seconds to wait before the next attempt; None where there must be none.

    Args:
        settings: Attempts and backoff.
        error: How the last attempt ended.
        attempt: Its number, from 1.
        output_sent: An output or tool event has reached the client: another attempt would repeat it.
        seconds_left: Until the request's deadline; a wait that would not end before it is not begun.
        jitter: A number in [0, 1).
    """
    if not error.retryable or output_sent or attempt > settings.max_retries:
        return None
    backoff = min(settings.backoff_base_ms * 2 ** min(attempt - 1, 30), settings.backoff_max_ms) / 1000
    delay = backoff * (0.8 + 0.4 * jitter())
    if error.retry_after_ms is not None:
        delay = max(delay, error.retry_after_ms / 1000)
    return delay if delay < seconds_left else None
