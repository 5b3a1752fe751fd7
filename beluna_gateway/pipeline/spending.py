"""What a request has spent: by what the backend reported, or by an estimate where its answer ended without that."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

from ..canonical import (
    AssistantMessage,
    BackendRawEvent,
    CanonicalRequest,
    EmbeddingRequest,
    MediaPart,
    Operation,
    OutputTextDelta,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallReady,
    UsageStats,
)
from ..config.settings import Pricing
from .pricing import ListedCost, spent

CHARACTERS_PER_TOKEN = 4
MEDIA_TOKENS = 1000
"""Of an image or file, whose bytes say little about its tokens."""
MICROS = 1_000_000


class Charge(NamedTuple):
    """What is counted for one request."""

    micros: int = 0
    """Micro-dollars, estimated ones included."""
    estimated: int = 0
    """How many of them are estimated."""
    tokens: int = 0


class Emit(Protocol):
    """What receives an attempt's events; see `adapters.base.Emit`."""

    def __call__(self, events: Sequence[BackendRawEvent]) -> None: ...
    @property
    def blocked(self) -> bool: ...
    async def drained(self) -> None: ...


class Call(Protocol):
    """See `adapters.base.Call`."""

    async def attempt(self, emit: Any, timer: Any) -> None: ...


class SpendingMeter:
    """Counts what an estimate needs: the characters that went to the backend, and those that came back.

    Args:
        request: What the backend is asked.
    """

    def __init__(self, request: CanonicalRequest | Operation) -> None:
        self._request = request
        self.characters = 0
        """Of text, reasoning and arguments, of all attempts."""
        self.attempts = 0

    def watched(self, call: Call) -> Call:
        """`call`, with its answer counted."""
        return _WatchedCall(call, self)

    def charge(
        self, usage: UsageStats | None, outcome: str, price: Pricing | None, listed: ListedCost | None
    ) -> Charge:
        """What the request is charged.

        Without reported usage it is an estimate, where the backend is likely to have done some work: it answered in
        part, or it was hung up on. A refusal costs nothing.

        Args:
            usage: As the backend reported it, with its cost.
            outcome: `completed`, `cancelled` or the kind of the error.
            price: The configured price of the model.
            listed: Gives the cost where there is no such price.
        """
        reported = usage or UsageStats()
        known = reported.input_tokens is not None and reported.output_tokens is not None
        if usage is not None and (usage.cost is not None or known):
            return Charge(round((usage.cost or 0) * MICROS), 0, _total(usage))
        worked = self.attempts and (self.characters or outcome in ("completed", "cancelled", "timeout"))
        asked = _tokens_in(self._request) if worked else None
        if asked is None:
            return Charge(0, 0, _total(reported))
        estimate = replace(
            reported,
            input_tokens=asked if reported.input_tokens is None else reported.input_tokens,
            output_tokens=(
                -(-self.characters // CHARACTERS_PER_TOKEN)
                if reported.output_tokens is None
                else reported.output_tokens
            ),
        )
        micros = round((spent(estimate, price, listed) or 0) * MICROS)
        return Charge(micros, micros, _total(estimate))


class _WatchedCall:
    def __init__(self, call: Call, meter: SpendingMeter) -> None:
        self._call = call
        self._meter = meter

    async def attempt(self, emit: Emit, timer: Any) -> None:
        self._meter.attempts += 1
        await self._call.attempt(_WatchedEmit(emit, self._meter), timer)


class _WatchedEmit:
    def __init__(self, emit: Emit, meter: SpendingMeter) -> None:
        self._emit = emit
        self._meter = meter

    @property
    def blocked(self) -> bool:
        return self._emit.blocked

    async def drained(self) -> None:
        await self._emit.drained()

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        for event in events:
            if isinstance(event, OutputTextDelta | ReasoningDelta):
                self._meter.characters += len(event.delta)
            elif isinstance(event, ToolCallDelta):
                self._meter.characters += len(event.arguments_delta)
            elif isinstance(event, ToolCallReady):
                self._meter.characters += len(event.call.name)
        self._emit(events)


def _total(usage: UsageStats) -> int:
    if usage.total_tokens is not None:
        return usage.total_tokens
    return (usage.input_tokens or 0) + (usage.output_tokens or 0)


def _tokens_in(request: CanonicalRequest | Operation) -> int | None:
    """An estimate of what goes in; None where nothing is paid for."""
    if isinstance(request, EmbeddingRequest):
        return -(-sum(map(len, request.inputs)) // CHARACTERS_PER_TOKEN)
    if not isinstance(request, CanonicalRequest):
        return None
    characters = media = 0
    for message in request.messages:
        for part in message.parts:
            if isinstance(part, MediaPart):
                media += 1
            else:
                characters += len(part.text)
        if isinstance(message, AssistantMessage):
            characters += sum(len(call.name) + len(call.arguments_json) for call in message.tool_calls)
    for tool in request.tools:
        characters += len(tool.name) + len(tool.description or "") + len(json.dumps(tool.input_schema))
    return -(-characters // CHARACTERS_PER_TOKEN) + media * MEDIA_TOKENS
