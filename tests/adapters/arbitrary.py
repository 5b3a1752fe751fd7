"""Hypothesis strategies: answers as a confused or hostile backend may send them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from hypothesis import strategies as st

from beluna_gateway.adapters.base import ResponseDecoder
from beluna_gateway.canonical import BackendRawEvent
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
