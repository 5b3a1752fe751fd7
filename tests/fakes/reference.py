"""A reference model of the gateway: what may happen to each request, to each place and to each circuit breaker.

It does not predict: it is told what the real gateway does, as it happens, and says whether the rules of
protocol/README.md allow it at that moment (`Model.violations`), and afterwards whether something is overdue
(`Model.overdue`). `Puppet` is the adapter through which it sees attempts, and through which a test plays the backend.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from copy import deepcopy
from dataclasses import dataclass, field
from math import inf
from typing import Any, Literal

from beluna_gateway.adapters.base import BackendAdapter, Call, Emit, SilenceTimer
from beluna_gateway.canonical import (
    BackendRawEvent,
    CanonicalRequest,
    Completed,
    Embedding,
    ModelList,
    Operation,
    OutputTextDelta,
    ResolvedCredential,
    TokenCount,
    UsageStats,
)
from beluna_gateway.config.settings import BackendProfile, Capabilities
from beluna_gateway.errors import GatewayError
from beluna_gateway.live_backends import LiveBackend
from beluna_gateway.telemetry.records import RequestRecord

from .client import user

FIRST_EVENT, IDLE, TOTAL, BACKOFF, OPEN = 20.0, 10.0, 60.0, 1.0, 15.0
"""The timers of every backend, in seconds."""
RETRIES = 2
EARLIEST, LATEST = 0.8 * BACKOFF, 1.2 * BACKOFF
"""The wait before each retry: the backoff does not grow."""
TURNS = 1e-3
"""A timer takes a few turns of the event loop, each of which takes a microsecond."""

COUNTED = frozenset({"backend_transient", "rate_limited", "timeout"})
FAULTS: dict[str, Callable[[], BaseException | None]] = {
    "cut": lambda: GatewayError("backend_transient", "cut", retryable=True),
    "limited": lambda: GatewayError("rate_limited", "slow down", retryable=True, retry_after_ms=5000),
    "spent": lambda: GatewayError("rate_limited", "no credit left"),
    "refused": lambda: GatewayError("backend_permanent", "no such model"),
    "garbage": lambda: GatewayError("protocol_violation", "no HTTP"),
    "bug": lambda: ValueError("a bug"),
    "no end": lambda: None,
}
"""How an attempt may go wrong, beside silence; None: it returns without an end."""

OPERATIONS: dict[str, tuple[str, dict[str, Any], BackendRawEvent]] = {
    "embed": ("embedding", {"inputs": ["one"]}, Embedding([[1.0]], UsageStats())),
    "count_tokens": ("token_count", {"messages": user()}, TokenCount(3)),
    "models": ("model_list", {}, ModelList([{"id": "m"}])),
}
"""What a client may ask beside `infer`: the frame that answers it, its own fields, and the backend's answer."""

State = Literal["queued", "running", "waiting", "over", "ended"]


@dataclass(eq=False)
class Attempt:
    """One attempt, as the backend sees it."""

    request: Request
    adapter: Puppet
    probe: bool
    generation: int
    deadline: float
    commands: asyncio.Queue[tuple[str, Any]] = field(default_factory=asyncio.Queue)
    suspended: bool = False
    """It waits for a client that does not read."""
    commanded_to_end: bool = False


@dataclass(eq=False)
class Request:
    """One accepted request."""

    name: str
    backend: Backend | None
    """As configured when it was accepted; None: it names none that was."""
    deadline: float
    type: str = "infer"
    """Of its frame."""
    state: State = "queued"
    attempts: int = 0
    texts: list[str] = field(default_factory=list)
    """What its backend said, which is what its client must hear."""
    attempt: Attempt | None = None
    failed_at: float = 0.0
    earliest: float = 0.0
    latest: float = inf
    """When the retry may begin, and when it must have."""
    kind: str | None = None
    """Of the last error, or `completed`."""
    left: str | None = None
    """Why it was ended from outside: `cancel`, `disconnect` or `stop`."""
    outcome: str | None = None
    """What was reported at its end."""

    def __repr__(self) -> str:
        where = "no backend" if self.backend is None else self.backend.live.id
        known = f"attempts={self.attempts} kind={self.kind} left={self.left} outcome={self.outcome}"
        return f"<{self.type} {self.name} at {where}: {self.state}, {known}, until {self.deadline:.3f}>"


class Backend:
    """One backend under one configuration: its places and its breaker."""

    def __init__(self, live: LiveBackend, places: int, threshold: int) -> None:
        self.live = live
        self.places = places
        self.threshold = threshold
        self.retired = False
        self.adapter: Puppet | None = None
        self.queue: list[Request] = []
        self.holding: set[Request] = set()
        self.unended = 0
        self.failures = 0
        self.opened_at: float | None = None
        self.probing = False
        self.generation = 0

    def state(self, now: float) -> str:
        """Of the breaker."""
        if self.opened_at is None:
            return "closed"
        return "open" if now < self.opened_at + OPEN else "half_open"

    def allows(self, now: float) -> bool:
        """Whether an attempt may begin."""
        state = self.state(now)
        return state == "closed" or (state == "half_open" and not self.probing)

    def refusal(self, now: float) -> int | None:
        """What a request that comes now is told, in milliseconds; None where it is let through."""
        if self.allows(now):
            return None
        left = OPEN if self.opened_at is None or self.probing else self.opened_at + OPEN - now
        return max(1, round(left * 1000))

    def attempt_ended(self, attempt: Attempt, kind: str | None, now: float) -> None:
        """Success is `completed`, None neither success nor failure."""
        if attempt.probe:
            self.probing = False
        if attempt.generation != self.generation:
            return
        if kind == "completed":
            self.failures = 0
            if self.opened_at is not None:
                self.generation, self.opened_at = self.generation + 1, None
        elif kind in COUNTED:
            self.failures += 1
            if attempt.probe or self.failures >= self.threshold:
                self.generation, self.opened_at = self.generation + 1, now


class Model:
    """All backends and requests; also the telemetry sink that hears of each request's end."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.requests: dict[str, Request] = {}
        self.current: dict[str, Backend] = {}
        self.retired: list[Backend] = []
        self.attempts: list[Attempt] = []
        """Those that run."""
        self.violations: list[str] = []
        self.bugs = 0
        """Exceptions of the adapter that are no `GatewayError`."""

    def __iter__(self) -> Iterator[Backend]:
        """Every backend, those that a reload has replaced included."""
        yield from self.current.values()
        yield from self.retired

    def wrong(self, what: str, request: Request | None = None) -> None:
        """Notes a broken rule: what raises inside of the gateway would only be an error of a request."""
        self.violations.append(what if request is None else f"{what}: {request}")

    # --- what the test does ---

    def accepted(self, name: str, backend_id: str, frame_type: str = "infer") -> Request:
        """A request's line has been sent to a gateway that takes it."""
        backend = self.current.get(backend_id)
        request = self.requests[name] = Request(name, backend, self.clock() + TOTAL, frame_type)
        if backend is not None:
            backend.queue.append(request)
            backend.unended += 1
        return request

    def left(self, request: Request, why: str) -> None:
        """It has been ended from outside, where it had not ended."""
        if request.left is None:
            request.left = why

    def reloaded(self, current: dict[str, Backend]) -> None:
        """Those of before that are not there any more are retired."""
        for backend in self.current.values():
            if backend not in current.values():
                backend.retired = True
                self.retired.append(backend)
        self.current = current

    # --- what the backend sees ---

    def begins(self, name: str, adapter: Puppet) -> Attempt:
        """An attempt begins."""
        now, request = self.clock(), self.requests[name]
        backend = request.backend
        attempt = Attempt(request, adapter, probe=False, generation=0, deadline=now + FIRST_EVENT)
        self.attempts.append(attempt)
        if backend is None or backend.live.adapter is not adapter:
            self.wrong("an attempt at a backend of another configuration", request)
            return attempt
        if request.state == "queued":
            if any(before.left is None for before in backend.queue[: backend.queue.index(request)]):
                self.wrong("it overtakes another one that came before", request)
            if len(backend.holding) >= backend.places:
                self.wrong(f"more than {backend.places} at the backend", request)
            backend.queue.remove(request)
            backend.holding.add(request)
        elif request.state == "waiting":
            if now < request.earliest - TURNS:
                self.wrong("a retry before its time", request)
        else:
            self.wrong("an attempt that nothing calls for", request)
        if not backend.allows(now):
            self.wrong("an attempt in spite of the open circuit, or a second probe", request)
        attempt.generation = backend.generation
        attempt.probe = backend.opened_at is not None
        backend.probing = backend.probing or attempt.probe
        request.state, request.attempt = "running", attempt
        request.attempts += 1
        return attempt

    def ends(self, attempt: Attempt, how: str | None, retry_after: float = 0.0, retryable: bool = False) -> None:
        """An attempt ends: with the kind of its error, with `completed`, or None, where it was cancelled."""
        now, request = self.clock(), attempt.request
        backend = request.backend
        self.attempts.remove(attempt)
        assert backend is not None
        if how is None and request.left is None and now < request.deadline:
            if now < attempt.deadline:
                self.wrong("an attempt is cancelled without a reason", request)
            how, retryable = "timeout", True
        elif how is None and request.left is None:
            request.kind = "timeout"
        backend.attempt_ended(attempt, how, now)
        if backend.state(now) == "open":
            for other in backend.holding:
                if other.state == "waiting":  # its retry would be refused: it ends at once
                    other.state = "over"
        request.attempt = None
        request.state = "over"
        if how is None:
            return
        request.kind = how
        if retryable and not request.texts and request.attempts <= RETRIES and backend.state(now) != "open":
            request.earliest = now + max(EARLIEST, retry_after)
            request.latest = now + max(LATEST, retry_after)
            if request.earliest < request.deadline:
                request.state = "waiting"

    # --- what telemetry hears ---

    def finished(self, record: RequestRecord) -> None:
        """See `TelemetrySink`: a request has ended."""
        now, request, outcome = self.clock(), self.requests[record.request_id], record.outcome
        if request.outcome is not None:
            self.wrong(f"a second end, {outcome}", request)
            return
        request.outcome = outcome
        if not self._may_end(request, outcome, now):
            self.wrong(f"it may not end as {outcome}", request)
        if request.attempt is not None:
            self.wrong("it ends before its attempt", request)
        request.state = "ended"
        if (backend := request.backend) is not None:
            backend.holding.discard(request)
            if request in backend.queue:
                backend.queue.remove(request)
            backend.unended -= 1

    def _may_end(self, request: Request, outcome: str, now: float) -> bool:
        backend = request.backend
        if outcome == "cancelled":
            return request.left is not None
        if backend is None:
            return outcome == "invalid_request"
        if request.state == "over":
            return outcome == request.kind
        if outcome == "timeout" and now >= request.deadline:
            return True
        if request.state == "queued":
            return outcome == "circuit_open" and not backend.allows(now)
        if request.state == "waiting":
            # The circuit has opened, or is half-open and probed as the retry wants to begin; or no time is left.
            refused = not backend.allows(now) or request.latest >= request.deadline
            return outcome == request.kind and refused
        return False

    # --- what had to happen ---

    def overdue(self) -> list[str]:
        """What is not as it must be once everything that was under way has been done."""
        now = self.clock()
        found = list(self.violations)
        for request in self.requests.values():
            attempt = request.attempt
            if request.outcome is not None:
                continue
            if request.left is not None or request.state == "over" or request.backend is None:
                found.append(f"it has not ended: {request}")
            elif now > request.deadline + TURNS:
                found.append(f"beyond its total time: {request}")
            elif request.state == "waiting" and now > request.latest + TURNS:
                found.append(f"its retry has not begun: {request}")
            elif attempt is not None and now > attempt.deadline + TURNS:
                found.append(f"silent for too long: {request}")
        for backend in self:
            found += self._unbalanced(backend, now)
        return found

    def _unbalanced(self, backend: Backend, now: float) -> Iterator[str]:
        live, budget = backend.live, backend.live.budget
        name = f"{live.id}{' (retired)' if backend.retired else ''}"
        if backend.queue and len(backend.holding) < backend.places:
            yield f"{name}: a place is free, and {len(backend.queue)} wait for one"
        counted = (budget.in_flight, budget.queued, live.users)
        if counted != (len(backend.holding), len(backend.queue), backend.unended):
            yield f"{name}: {counted} have a place, wait, are in flight; should be {backend.holding}, {backend.queue}"
        if live.breaker.state != backend.state(now):
            yield f"{name}: the circuit is {live.breaker.state}, not {backend.state(now)}"
        if (refusal := _refusal(live)) != (expected := backend.refusal(now)):
            yield f"{name}: the circuit tells to come back in {refusal} ms, not {expected}"
        if live.has_adapter:
            closed = live.adapter.closed if isinstance(live.adapter, Puppet) else -1
            if closed != (backend.retired and backend.unended == 0):
                yield f"{name}: closed {closed} times, with {backend.unended} in flight"


def _refusal(live: LiveBackend) -> int | None:
    try:
        live.breaker.check()
    except GatewayError as error:
        return error.retry_after_ms
    return None


class Puppet(BackendAdapter):
    """An adapter whose attempts do what a test tells them, when it does."""

    def __init__(self, profile: BackendProfile, model: Model) -> None:
        self.capabilities = Capabilities()
        self.profile = profile
        self.model = model
        self.closed = 0

    def prepare(self, request: CanonicalRequest, model: str, credential: ResolvedCredential) -> Call:
        return _PuppetCall(self, request.request_id)

    def prepare_operation(self, request: Operation, model: str, credential: ResolvedCredential) -> Call:
        return _PuppetCall(self, request.request_id)

    async def probe(self, credential: ResolvedCredential) -> str:
        return "a puppet"

    async def close(self) -> None:
        self.closed += 1


class _PuppetCall(Call):
    def __init__(self, adapter: Puppet, name: str) -> None:
        self._adapter = adapter
        self._name = name

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        model = self._adapter.model
        attempt = model.begins(self._name, self._adapter)
        try:
            timer.connecting()
            timer.connected()
            error = await self._play(attempt, emit, timer)
        except asyncio.CancelledError:
            model.ends(attempt, None)
            raise
        if error is None:
            return
        if isinstance(error, GatewayError):
            model.ends(attempt, error.kind, (error.retry_after_ms or 0) / 1000, error.retryable)
        else:
            model.bugs += 1
            model.ends(attempt, "internal")
        raise error

    async def _play(self, attempt: Attempt, emit: Emit, timer: SilenceTimer) -> BaseException | None:
        """Returns at the attempt's end: the error to raise, or None."""
        model, request = self._adapter.model, attempt.request
        while True:
            command, what = await attempt.commands.get()
            if command == "complete":
                emit([deepcopy(OPERATIONS[request.type][2]) if request.type in OPERATIONS else Completed("stop", {})])
                model.ends(attempt, "completed")
                return None
            if command == "fail":
                error = FAULTS[what]()
                if error is None:
                    model.ends(attempt, "internal")
                return error
            request.texts.append(what)
            emit([OutputTextDelta(what)])
            timer.progressed()
            attempt.deadline = model.clock() + IDLE
            if emit.blocked:
                timer.suspended()
                attempt.suspended, attempt.deadline = True, inf
                await emit.drained()
                attempt.suspended = False
                timer.progressed()
                attempt.deadline = model.clock() + IDLE
