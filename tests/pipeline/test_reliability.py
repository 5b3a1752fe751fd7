"""The breaker and the retry rule: decisions, with time and chance given."""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, get_args

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from beluna_gateway.config.settings import Reliability
from beluna_gateway.errors import ErrorKind, GatewayError
from beluna_gateway.pipeline.reliability import COUNTED_KINDS, CircuitBreaker, retry_delay


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def breaker(threshold: int = 2, open_ms: int = 1000) -> tuple[CircuitBreaker, Clock]:
    clock = Clock()
    return CircuitBreaker(Reliability(breaker_failure_threshold=threshold, breaker_open_ms=open_ms), clock), clock


def run(circuit: CircuitBreaker, error: BaseException | None = None) -> None:
    """One attempt, from its beginning to its end."""
    try:
        with circuit.attempt():
            if error is not None:
                raise error
    except BaseException as left:
        if left is not error:
            raise


def failure(kind: Any = "backend_transient") -> GatewayError:
    return GatewayError(kind, "x")


def refusal(circuit: CircuitBreaker) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        circuit.check()
    with pytest.raises(GatewayError), circuit.attempt():
        raise AssertionError("let through")
    assert (caught.value.kind, caught.value.retryable) == ("circuit_open", False)
    return caught.value


def test_what_counts_is_the_contracts_list():
    """The breaker counts three kinds of errors, all of them the backend's."""
    assert {"backend_transient", "rate_limited", "timeout"} == COUNTED_KINDS


@pytest.mark.parametrize("kind", get_args(ErrorKind))
def test_consecutive_counted_failures_open_the_circuit(kind: Any):
    """A counted failure brings it nearer to opening; any other outcome is neither failure nor success."""
    circuit, _ = breaker(threshold=2)
    run(circuit, failure())
    run(circuit, failure(kind))

    assert circuit.state == ("open" if kind in COUNTED_KINDS else "closed")
    run(circuit, failure()) if circuit.state == "closed" else None
    assert circuit.state == "open"


@pytest.mark.parametrize(
    "neutral", [asyncio.CancelledError(), ValueError("a bug"), failure("invalid_request")], ids=repr
)
def test_a_neutral_outcome_does_not_reset_the_count(neutral: BaseException):
    """A cancel, a bug or a 400 between two failures changes nothing."""
    circuit, _ = breaker(threshold=2)
    run(circuit, failure())
    run(circuit, neutral)
    run(circuit, failure())

    assert circuit.state == "open"


def test_success_resets_the_count():
    """Only failures in a row open the circuit."""
    circuit, _ = breaker(threshold=2)
    for _ in range(5):
        run(circuit, failure())
        run(circuit)

    assert circuit.state == "closed"


def test_an_open_circuit_says_when_to_come_back():
    """`retry_after_ms` is what is left of the open window, and at least one."""
    circuit, clock = breaker(threshold=1, open_ms=1000)
    run(circuit, failure())

    assert refusal(circuit).message == "the circuit is open after 1 consecutive failures"
    assert refusal(circuit).retry_after_ms == 1000
    clock.now += 0.75
    assert refusal(circuit).retry_after_ms == 250
    clock.now += 0.2499
    assert refusal(circuit).retry_after_ms == 1


def test_half_open_lets_one_through():
    """After the window one attempt is let through, and everyone else is told how long an open window is."""
    circuit, clock = breaker(threshold=1, open_ms=1000)
    run(circuit, failure())
    clock.now += 1

    with circuit.attempt():
        assert circuit.state == "half_open"
        assert refusal(circuit).message == "the circuit is half-open and its one probe is under way"
        assert [refusal(circuit).retry_after_ms for _ in range(1000)] == [1000] * 1000
    circuit.check()


def test_a_failed_probe_opens_anew():
    """One counted failure of the probe is enough, whatever the threshold, and the window begins again."""
    circuit, clock = breaker(threshold=3, open_ms=1000)
    for _ in range(3):
        run(circuit, failure())
    clock.now += 1.5
    run(circuit, failure())

    assert refusal(circuit).retry_after_ms == 1000


@pytest.mark.parametrize(
    "neutral", [asyncio.CancelledError(), ValueError("a bug"), failure("authentication")], ids=repr
)
def test_a_neutral_probe_gives_its_place_to_the_next(neutral: BaseException):
    """A probe that proves nothing frees its place at once: the circuit is never wedged."""
    circuit, clock = breaker(threshold=1)
    run(circuit, failure())
    clock.now += 1
    for _ in range(3):
        run(circuit, neutral)
        assert circuit.state == "half_open"

    run(circuit)
    assert circuit.state == "closed"


def test_late_results_are_ignored():
    """What an attempt of before the opening finds out neither closes the circuit nor opens it for longer."""
    circuit, clock = breaker(threshold=1, open_ms=1000)
    late = [circuit.attempt() for _ in range(2)]
    for attempt in late:
        attempt.__enter__()
    run(circuit, failure())
    clock.now += 0.5
    late[0].__exit__(None, None, None)
    error = failure()
    late[1].__exit__(type(error), error, None)

    assert refusal(circuit).retry_after_ms == 500


def test_late_results_of_before_an_opening_stay_late():
    """Also when the circuit has closed again: they belong to a time that is over."""
    circuit, clock = breaker(threshold=1)
    late = circuit.attempt()
    late.__enter__()
    run(circuit, failure())
    clock.now += 1
    run(circuit)
    error = failure()
    late.__exit__(type(error), error, None)

    assert circuit.state == "closed"


def test_late_results_stay_late_however_often_the_circuit_opens():
    """An attempt that lasted through a whole opening and closing is of neither the next closed time nor a later one."""
    circuit, clock = breaker(threshold=1)
    late = []
    for _ in range(3):
        attempt = circuit.attempt()
        attempt.__enter__()
        late.append(attempt)
        run(circuit, failure())
        clock.now += 1
        run(circuit)
    error = failure()
    for attempt in late:
        attempt.__exit__(type(error), error, None)

        assert circuit.state == "closed"


def test_who_waits_is_told_of_an_opening():
    """The callbacks are called once, when the circuit opens, and may take themselves out."""
    circuit, _ = breaker(threshold=2)
    told: list[str] = []

    def tell() -> None:
        told.append(circuit.state)
        circuit.on_open.discard(tell)

    circuit.on_open.add(tell)
    run(circuit, failure())
    assert told == []
    run(circuit, failure())
    assert told == ["open"]


# --- any history ---------------------------------------------------------------------------------------------


class Running(NamedTuple):
    attempt: AbstractContextManager[None]
    generation: int
    probe: bool


class AnyHistory(RuleBasedStateMachine):
    """The breaker beside a model of it that is as plain as the contract's sentences."""

    @initialize(threshold=st.integers(1, 3))
    def begin(self, threshold: int) -> None:
        self.threshold = threshold
        self.circuit, self.clock = breaker(threshold, open_ms=1000)
        self.running: list[Running] = []
        self.failures, self.generation = 0, 0
        self.opened_at: float | None = None
        self.openings = 0
        self.told = 0
        self.circuit.on_open.add(self._tell)

    def _tell(self) -> None:
        self.told += 1

    @property
    def expected_state(self) -> str:
        if self.opened_at is None:
            return "closed"
        return "open" if self.clock.now < self.opened_at + 1 else "half_open"

    @property
    def probing(self) -> bool:
        return any(attempt.probe for attempt in self.running)

    @rule()
    def start(self) -> None:
        attempt, refused = self.circuit.attempt(), None
        allowed = self.expected_state == "closed" or (self.expected_state == "half_open" and not self.probing)
        try:
            attempt.__enter__()
        except GatewayError as error:
            refused = error
        assert allowed == (refused is None)
        if refused is not None:
            assert refused.kind == "circuit_open"
            assert 1 <= (refused.retry_after_ms or 0) <= 1000
        else:
            self.running.append(Running(attempt, self.generation, self.expected_state == "half_open"))

    @precondition(lambda self: self.running)
    @rule(data=st.data(), how=st.sampled_from(["success", "failure", "cancel", "invalid", "bug"]))
    def end(self, data: st.DataObject, how: str) -> None:
        ended = self.running.pop(data.draw(st.integers(0, len(self.running) - 1)))
        error: BaseException | None = {
            "failure": failure(),
            "cancel": asyncio.CancelledError(),
            "invalid": failure("invalid_request"),
            "bug": ValueError(),
        }.get(how)
        swallowed = ended.attempt.__exit__(type(error) if error else None, error, None)
        assert not swallowed
        if ended.generation != self.generation:
            return
        if how == "success":
            self.failures = 0
            if self.opened_at is not None:
                self.generation, self.opened_at = self.generation + 1, None
        elif how == "failure":
            self.failures += 1
            if ended.probe or self.failures >= self.threshold:
                self.generation, self.opened_at = self.generation + 1, self.clock.now
                self.openings += 1

    @rule(seconds=st.sampled_from([0.1, 0.5, 1.0, 5.0]))
    def wait(self, seconds: float) -> None:
        self.clock.now += seconds

    @invariant()
    def is_as_the_model_says(self) -> None:
        assert self.circuit.state == self.expected_state
        assert sum(attempt.probe for attempt in self.running) <= 1
        assert self.told == self.openings

    @precondition(lambda self: not self.running)
    @rule()
    def is_never_wedged(self) -> None:
        """With nothing under way, one open window later a request is let through, and success closes it."""
        self.clock.now += 1
        self.start()
        assert self.running
        ended = self.running.pop()
        ended.attempt.__exit__(None, None, None)
        self.failures = 0
        if self.opened_at is not None:
            self.generation, self.opened_at = self.generation + 1, None
        assert self.circuit.state == "closed"


AnyHistory.TestCase.settings = settings(max_examples=60, stateful_step_count=30)
TestAnyHistory = AnyHistory.TestCase


# --- retry_delay ---------------------------------------------------------------------------------------------

RETRYABLE = GatewayError("backend_transient", "x", retryable=True)


def delay(
    error: GatewayError = RETRYABLE, *, attempt: int = 1, left: float = 1e9, jitter: float = 0.5, **values: Any
) -> float | None:
    return retry_delay(
        Reliability(**{"max_retries": 1000, **values}),
        error,
        attempt=attempt,
        output_sent=False,
        seconds_left=left,
        jitter=lambda: jitter,
    )


def test_the_wait_doubles_up_to_its_limit():
    """Before retry k the wait is base·2^(k-1), at most backoff_max_ms; with jitter in its middle, exactly."""
    waits = [delay(attempt=attempt, backoff_base_ms=200, backoff_max_ms=1000) for attempt in (1, 2, 3, 4, 5, 1000)]

    assert waits == pytest.approx([0.2, 0.4, 0.8, 1.0, 1.0, 1.0])


@given(st.floats(0, 1, exclude_max=True), st.integers(1, 40), st.integers(1, 5000), st.integers(1, 5000))
def test_jitter_stays_within_a_fifth(jitter: float, attempt: int, base: int, most: int):
    """The wait is never further than 20 % from its formula."""
    formula = min(base * 2 ** (attempt - 1), most) / 1000
    wait = delay(attempt=attempt, jitter=jitter, backoff_base_ms=base, backoff_max_ms=most)

    assert wait is not None
    assert formula * 0.8 - 1e-9 <= wait <= formula * 1.2 + 1e-9


def test_the_real_jitter_uses_its_range():
    """Without a jitter of the test's own the waits differ, and stay within their bounds."""
    waits = {retry_delay(Reliability(), RETRYABLE, attempt=1, output_sent=False, seconds_left=9) for _ in range(200)}

    assert len(waits) > 100
    assert all(wait is not None and 0.16 <= wait <= 0.24 for wait in waits)


def test_a_longer_retry_after_wins():
    """`Retry-After` is waited for where it is longer than the backoff, and never shortens it."""
    longer = GatewayError("rate_limited", "x", retryable=True, retry_after_ms=7000)
    shorter = GatewayError("rate_limited", "x", retryable=True, retry_after_ms=1)

    assert delay(longer) == 7.0
    assert delay(shorter) == pytest.approx(0.2)


def test_a_wait_past_the_deadline_is_not_begun():
    """A retry is only waited for where the wait ends before the request's own deadline."""
    later = GatewayError("rate_limited", "x", retryable=True, retry_after_ms=7000)

    assert delay(later, left=7.001) == 7.0
    assert delay(later, left=7.0) is None
    assert delay(left=0.1) is None
    assert delay(left=-1) is None


def test_attempts_are_counted():
    """`max_retries` attempts follow the first one, none where it is 0."""
    assert [delay(attempt=n, max_retries=2) is not None for n in (1, 2, 3)] == [True, True, False]
    assert delay(attempt=1, max_retries=0) is None


def test_nothing_is_said_twice_and_nothing_hopeless_is_tried():
    """After output there is no other attempt, nor after an error that another one cannot change."""
    assert delay(GatewayError("invalid_request", "x")) is None
    sent = retry_delay(Reliability(), RETRYABLE, attempt=1, output_sent=True, seconds_left=9)
    assert sent is None
