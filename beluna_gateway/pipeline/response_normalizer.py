"""Turns a backend's events into the client's, in the order that the protocol promises.

`Started` first and once, usage at most once, one terminal event and nothing after it; in what is passed on as the
provider said it, null in place of numbers that no 64-bit float holds. A dialect that breaks the order
ends the request with `internal`, so that a client never sees a broken order.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Protocol

from ..canonical import (
    Annotation,
    BackendRawEvent,
    Completed,
    Failed,
    GatewayEvent,
    OutputTextDelta,
    Progress,
    ReasoningDelta,
    Started,
    ToolCallDelta,
    ToolCallReady,
    Usage,
    UsageStats,
)
from ..config.settings import Pricing
from ..errors import GatewayError
from ..wire.strict_json import without_too_large
from .pricing import ListedCost, spent


class EventSink(Protocol):
    """The receiver of one request's events: a client's connection, or a program that embeds the gateway."""

    def write(self, events: Sequence[GatewayEvent]) -> None:
        """Takes a batch; never blocks, never raises."""

    @property
    def blocked(self) -> bool:
        """The reader is slow: write no more before `drained` returns."""

    async def drained(self) -> None:
        """Returns once the reader has caught up."""


class ResponseNormalizer:
    """The `Emit` of one request, for all its attempts.

    Args:
        sink: Where the client's events go.
        include_reasoning: Whether the client asked for reasoning.
        clock: Monotonic seconds.
        later: Schedules a callback two event-loop turns from now.
    """

    def __init__(
        self,
        sink: EventSink,
        include_reasoning: bool,
        clock: Callable[[], float],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        self._sink = sink
        self._include_reasoning = include_reasoning
        self._clock = clock
        self._later = later
        self.price: Pricing | None = None
        """The configured price of the chosen backend and model."""
        self.listed_cost: ListedCost | None = None
        """Gives the cost where there is no such price and the provider names none."""
        self.first_output_at: float | None = None
        self.reasoning_first = False
        """Whether the first output was reasoning."""
        self._named_calls: set[str] = set()
        self._ready_calls: set[str] = set()
        self.started = False
        self._held_started: Started | None = None
        self.output_sent = False
        """An output or tool event has been written: no other attempt may follow."""
        self.usage: UsageStats | None = None
        self.terminal: Completed | Failed | None = None

    @property
    def blocked(self) -> bool:
        """See `EventSink`."""
        return self._sink.blocked

    async def drained(self) -> None:
        """See `EventSink`."""
        await self._sink.drained()

    def start(self, backend_id: str, model: str) -> None:
        """Schedules `Started`, on the first call only: the backend's request is to be sent before it is written."""
        if not self.started:
            self.started = True
            self._held_started = Started(backend_id, model)
            self._later(self._write_started)

    def _write_started(self) -> None:
        if self._held_started is not None:
            started, self._held_started = self._held_started, None
            self._sink.write([started])

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        """Passes a batch on in one write."""
        passed: list[GatewayEvent] = []
        end = self.terminal
        for event in events:
            if end is not None:
                raise GatewayError("internal", f"the dialect went on after the end of its answer: {event!r}")
            # `type`, because `isinstance` takes several times as long to say no.
            if type(event) is OutputTextDelta:  # nearly every event is one, so it is asked first
                if event.delta:
                    passed.append(event)
            elif type(event) is ReasoningDelta:
                if self._include_reasoning and event.delta:
                    passed.append(event)
            elif type(event) is Completed:
                kept = without_too_large(event.backend_metadata)
                end = event if kept is event.backend_metadata else Completed(event.finish_reason, kept)
                passed.append(end)
            elif type(event) is not Progress:
                passed.append(self._rare(event))
        self.terminal = end  # only now: of a batch that is refused half-way nothing is written
        if passed:
            if not self.output_sent:
                self.output_sent = True
                self.first_output_at = self._clock()
                self.reasoning_first = type(passed[0]) is ReasoningDelta
                if self._held_started is not None:
                    passed.insert(0, self._held_started)
                    self._held_started = None
            self._sink.write(passed)

    def assert_ended(self) -> None:
        """Checks that an attempt that returned has emitted `Completed`.

        Raises:
            GatewayError: `internal`, where it has not.
        """
        if self.terminal is None:
            raise GatewayError("internal", "the dialect left its answer without an end")

    def fail(self, error: GatewayError) -> None:
        """Writes `Failed`, unless the request has ended already."""
        if self.terminal is None:
            self.terminal = Failed(error)
            self._write_started()
            self._sink.write([self.terminal])

    def _rare(self, event: BackendRawEvent) -> GatewayEvent:
        if isinstance(event, Usage):
            return self._note_usage(event)
        if isinstance(event, ToolCallDelta):
            call_id = event.call_id
            if call_id in self._ready_calls:
                raise GatewayError("internal", f"the dialect went on with tool call {call_id!r} after its end")
            if event.name is None and call_id not in self._named_calls:
                raise GatewayError("internal", f"the dialect began tool call {call_id!r} without a name")
            self._named_calls.add(call_id)
        elif isinstance(event, ToolCallReady):
            if event.call.id in self._ready_calls:
                raise GatewayError("internal", f"the dialect ended tool call {event.call.id!r} twice")
            self._ready_calls.add(event.call.id)
        elif isinstance(event, Annotation):
            kept = without_too_large(event.raw)
            return event if kept is event.raw else replace(event, raw=kept)
        else:
            raise GatewayError("internal", f"the dialect answered an inference with {type(event).__name__}")
        return event

    def _note_usage(self, event: Usage) -> Usage:
        if self.usage is not None:
            raise GatewayError("internal", "the dialect reported usage twice")
        usage = event.usage
        raw = None if usage.provider_usage_raw is None else without_too_large(usage.provider_usage_raw)
        cost = spent(usage, self.price, self.listed_cost)
        if raw is usage.provider_usage_raw and cost == usage.cost:
            self.usage = usage
            return event
        self.usage = replace(usage, cost=cost, provider_usage_raw=raw)
        return Usage(self.usage)
