"""The events of an unstreamed answer: whether they are one, and their order."""

from __future__ import annotations

from ...canonical import BackendRawEvent, OutputTextDelta, ReasoningDelta, ToolCallDelta


def gathered(events: list[BackendRawEvent]) -> list[BackendRawEvent]:
    """`events` with the reasoning as one delta first, then the text as one delta, then the rest."""
    if len(events) < 2:
        return events
    reasoning = "".join(event.delta for event in events if isinstance(event, ReasoningDelta))
    text = "".join(event.delta for event in events if isinstance(event, OutputTextDelta))
    joined: list[BackendRawEvent] = []
    if reasoning:
        joined.append(ReasoningDelta(reasoning))
    if text:
        joined.append(OutputTextDelta(text))
    return joined + [event for event in events if not isinstance(event, OutputTextDelta | ReasoningDelta)]


def is_answer(events: list[BackendRawEvent]) -> bool:
    """Whether a body that HTTP proves whole is an answer although it has no finish reason: it has text or calls."""
    return any(isinstance(event, OutputTextDelta | ToolCallDelta) for event in events)
