"""A request's events for a program that embeds the gateway: as an async iterator, or collected into one result."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from dataclasses import field

from .canonical import (
    Annotation,
    Completed,
    Failed,
    FinishReason,
    GatewayEvent,
    JsonObject,
    OutputTextDelta,
    ReasoningDelta,
    ToolCall,
    ToolCallReady,
    Usage,
    UsageStats,
    immutable,
)

HIGH_WATER = 256
"""High-water mark of events that have not been taken; at it reading from the backend is paused."""


class EventStream:
    """The `EventSink` whose reader is a Python program. Iterate it once."""

    def __init__(self) -> None:
        self._events: deque[GatewayEvent] = deque()
        self._changed = asyncio.Event()
        self._room = asyncio.Event()
        self._room.set()
        self._closed = False

    def write(self, events: Sequence[GatewayEvent]) -> None:
        """See `EventSink`."""
        self._events.extend(events)
        self._changed.set()
        if len(self._events) >= HIGH_WATER:
            self._room.clear()

    @property
    def blocked(self) -> bool:
        """See `EventSink`."""
        return not self._room.is_set()

    async def drained(self) -> None:
        """See `EventSink`."""
        await self._room.wait()

    def close(self, _task: object = None) -> None:
        """Ends the iteration after the events that are there."""
        self._closed = True
        self._changed.set()

    def __aiter__(self) -> EventStream:
        return self

    async def __anext__(self) -> GatewayEvent:
        while not self._events:
            if self._closed:
                raise StopAsyncIteration
            self._changed.clear()
            await self._changed.wait()
        event = self._events.popleft()
        if len(self._events) < HIGH_WATER // 2:
            self._room.set()
        return event


@immutable
class InferenceResult:
    """A whole answer."""

    output_text: str
    reasoning: str
    tool_calls: tuple[ToolCall, ...]
    usage: UsageStats | None
    finish_reason: FinishReason
    backend_metadata: JsonObject = field(default_factory=dict)
    annotations: tuple[Annotation, ...] = ()


async def collect(events: EventStream) -> InferenceResult:
    """Reads a stream to its end. Raises the `GatewayError` of a request that failed."""
    text: list[str] = []
    reasoning: list[str] = []
    calls: list[ToolCall] = []
    annotations: list[Annotation] = []
    usage = None
    async for event in events:
        match event:
            case OutputTextDelta(delta):
                text.append(delta)
            case ReasoningDelta(delta):
                reasoning.append(delta)
            case ToolCallReady(call):
                calls.append(call)
            case Annotation():
                annotations.append(event)
            case Usage(stats):
                usage = stats
            case Completed(finish_reason, metadata):
                return InferenceResult(
                    "".join(text),
                    "".join(reasoning),
                    tuple(calls),
                    usage,
                    finish_reason,
                    metadata,
                    tuple(annotations),
                )
            case Failed(error):
                raise error
    raise asyncio.CancelledError
