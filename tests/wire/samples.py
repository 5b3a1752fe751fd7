"""Frames that are right, one with everything in it, and ways to change them."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from pydantic import TypeAdapter

from beluna_gateway.wire.frame_schemas import server_frame_schema
from beluna_gateway.wire.server_frames import ServerFrame

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}}

FULL_INFER: dict[str, Any] = {
    "type": "infer",
    "request_id": "r1",
    "backend_id": "b",
    "model": "m",
    "route": {"kind": "alias", "capability": "chat", "alias": "low-cost"},
    "messages": [
        {"role": "system", "parts": [{"text": {"text": "be brief"}}], "cache": True},
        {
            "role": "user",
            "parts": [
                {"text": {"text": "é\u2028"}},
                {"image_url": {"url": "https://h/i.png", "mime_type": "image/png"}},
                {"image_url": {"url": "https://h/i.png", "mime_type": None}},
                {"json": {"value": None}},
                {"file": {"data": "aGk=", "url": None, "mime_type": "application/pdf", "name": "a.pdf"}},
            ],
        },
        {
            "role": "assistant",
            "parts": [],
            "tool_calls": [{"id": "c", "name": "t", "arguments_json": "{}"}],
            "provider_state": {"anthropic": [1, {"a": None}]},
        },
        {
            "role": "tool",
            "tool_call_id": "c",
            "tool_name": "t",
            "parts": [{"json": {"value": {"deep": [1.5]}}}],
            "is_error": True,
        },
    ],
    "tools": [
        {"name": "t", "description": "d", "input_schema": SCHEMA},
        {"name": "u", "description": None, "input_schema": {}},
    ],
    "tool_choice": {"specific": {"name": "t"}},
    "output_mode": {"json_schema": {"name": "n", "schema": SCHEMA, "strict": False}},
    "limits": {"max_output_tokens": 1, "max_request_time_ms": 2},
    "metadata": {"k": "v"},
    "stream": False,
    "sampling": {"temperature": 0.5, "top_p": 1, "seed": -1, "stop": ["x"]},
    "enable_thinking": True,
    "reasoning": {"effort": "low", "budget_tokens": 1, "summary": "auto"},
    "include_reasoning": True,
    "cache": {"mode": "auto", "key": "k", "retention": "long"},
    "parallel_tool_calls": False,
    "service_tier": "flex",
    "include_annotations": True,
    "provider_options": {"free": [{"form": None}]},
}

FRAMES: tuple[dict[str, Any], ...] = (
    FULL_INFER,
    {"type": "infer", "messages": []},
    {"type": "infer", "messages": [], "route": {"kind": "key", "capability": "chat", "binding_id": "low-cost"}},
    {"type": "embed", "request_id": "r1", "backend_id": "b", "model": "m", "inputs": ["a", ""], "dimensions": 8},
    {"type": "count_tokens", **{key: FULL_INFER[key] for key in FULL_INFER.keys() - {"type", "limits"}}},
    {"type": "models", "request_id": "r1", "backend_id": "b"},
    {"type": "cancel", "request_id": "r1"},
    {"type": "exit"},
    {"type": "status"},
)

Place = tuple[Any, ...]

FREE_FORM = {"value", "input_schema", "schema", "provider_state", "provider_options"}


def places(value: Any, path: Place = ()) -> list[Place]:
    """The path of everything that stands in `value`, without what is inside of free-form JSON."""
    if path and path[-1] in FREE_FORM:
        return [path]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


def changed(frame: dict[str, Any], place: Place, value: Any) -> dict[str, Any]:
    """`frame` with `value` at `place`; `...` takes away what stands there."""
    frame = copy.deepcopy(frame)
    parent: Any = frame
    for step in place[:-1]:
        parent = parent[step]
    if value is ...:
        del parent[place[-1]]
    elif isinstance(parent, list) and place[-1] == len(parent):
        parent.append(value)
    else:
        parent[place[-1]] = value
    return frame


def around(frame: dict[str, Any], place: Place) -> tuple[dict[str, Any], Place]:
    """The smallest frame that has the same thing at the same place, and where that is now.

    What is beside the way there is left out: the other fields of the frame that are not required, and the other
    elements of lists. A validator walks all of a frame for each change, most of it in vain.
    """
    first, *way = place
    small: dict[str, Any] = {"type": frame["type"], "messages": [], first: copy.deepcopy(frame[first])}
    within: Any = small[first]
    moved: list[Any] = [first]
    for step in way:
        alone = isinstance(within, list)
        if alone:
            within[:] = [within[step]]
        moved.append(0 if alone else step)
        within = within[moved[-1]]
    return small, tuple(moved)


VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, 1, -1, 2**63, 2**64 - 1, 2**64, 10**40, 0.5, 1.0, -0.0, 1e300),
    *("", "1", "true", "auto", "text", "user", "x" * 128, "x" * 129, "é" * 128, "\u0000", "\u2028"),
    *([], [None], ["a"], [{}], {}, {"a": 1}, {"a": "b"}, {"text": {"text": "t"}}, {"specific": {"name": "t"}}),
    *({"text": {"text": "t"}, "json": {"value": 1}}, {"json_object": None}, {"auto": None}),
)

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)

SERVER_FRAME: TypeAdapter[Any] = TypeAdapter(ServerFrame)
SERVER_SCHEMA = Draft202012Validator(server_frame_schema())


def valid_line(line: bytes) -> dict[str, Any]:
    """The frame of one line, checked by the models and by the schema."""
    assert line.count(b"\n") == 1
    assert line.endswith(b"\n")
    frame: dict[str, Any] = json.loads(line.decode("utf-8"), parse_constant=pytest.fail)
    SERVER_FRAME.validate_json(line)
    SERVER_SCHEMA.validate(frame)
    return frame
