"""The events of an unstreamed answer: its reasoning as one delta, then its text as one delta, then the rest."""

from __future__ import annotations

from ...canonical import BackendRawEvent, OutputTextDelta, ReasoningDelta


def gathered(events: list[BackendRawEvent]) -> list[BackendRawEvent]:
    """`events` in that order. Deltas of each kind are joined as they follow each other."""
    reasoning = "".join(event.delta for event in events if isinstance(event, ReasoningDelta))
    text = "".join(event.delta for event in events if isinstance(event, OutputTextDelta))
    joined: list[BackendRawEvent] = []
    if reasoning:
        joined.append(ReasoningDelta(reasoning))
    if text:
        joined.append(OutputTextDelta(text))
    return joined + [event for event in events if not isinstance(event, OutputTextDelta | ReasoningDelta)]
