"""Answers as a confused or hostile backend may send them, and what must hold whatever it sends."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from beluna_gateway.adapters.base import ResponseDecoder
from beluna_gateway.canonical import (
    BackendRawEvent,
    Completed,
    OutputTextDelta,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallReady,
    Usage,
)
from beluna_gateway.errors import GatewayError

scalars = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 3), st.floats(allow_nan=False, allow_infinity=False), st.text(max_size=6)
)
json_values: st.SearchStrategy[Any] = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3)
)


def shaken(fields: dict[str, st.SearchStrategy[Any]]) -> st.SearchStrategy[dict[str, Any]]:
    """Objects with these fields, each of which may be missing or anything at all."""
    loose = {name: st.one_of(value, value, value, json_values) for name, value in fields.items()}
    return st.fixed_dictionaries({}, optional=loose)


def survives(decoder: ResponseDecoder, payloads: Iterable[Any]) -> list[BackendRawEvent]:
    """Feeds the payloads and ends the answer; fails where anything but a `GatewayError` is raised."""
    events: list[BackendRawEvent] = []
    try:
        for payload in payloads:
            decoder.feed(json.dumps(payload).encode(), events)
            if decoder.done:
                break
        decoder.finish(events)
    except GatewayError:
        pass
    return events


def flooded(decoder: ResponseDecoder, payloads: Iterable[Any]) -> GatewayError | None:
    """The error in which so many payloads end, None where the decoder takes them all."""
    try:
        for payload in payloads:
            decoder.feed(json.dumps(payload).encode(), [])
    except GatewayError as error:
        return error
    return None


def assert_in_order(events: list[BackendRawEvent], error: GatewayError | None) -> None:
    """What the response normaliser and every client rely on."""
    named: set[str] = set()
    ready: set[str] = set()
    for position, event in enumerate(events):
        if isinstance(event, OutputTextDelta | ReasoningDelta):
            assert isinstance(event.delta, str)
            assert event.delta
        elif isinstance(event, ToolCallDelta):
            assert event.call_id not in ready
            assert event.name is not None or event.call_id in named
            named.add(event.call_id)
        elif isinstance(event, ToolCallReady):
            assert event.call.id in named - ready
            ready.add(event.call.id)
            assert isinstance(json.loads(event.call.arguments_json), dict)
        elif isinstance(event, Completed):
            assert error is None
            assert position == len(events) - 1
    assert sum(isinstance(event, Usage) for event in events) <= 1
    assert error is not None or isinstance(events[-1], Completed)
