"""The frames: strict at every depth, and the same by their JSON Schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend

from beluna_gateway.wire.frame_schemas import client_frame_schema
from beluna_gateway.wire.frames import CLIENT_FRAMES, Infer
from beluna_gateway.wire.ndjson import RejectedLine, decode

from .samples import FRAMES, FREE_FORM, FULL_INFER, VALUES, around, changed, json_values, places

# 1.0 is no integer on this wire, though draft 2020-12 takes it for one.
_STRICT = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _checker, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)
SCHEMA = _STRICT(client_frame_schema())

PLACES = [place for place in places(FULL_INFER) if place]


def accepted(frame: Any) -> bool:
    try:
        decode(json.dumps(frame).encode())
    except RejectedLine:
        return False
    return True


def refused(frame: dict[str, Any], place: tuple[Any, ...], value: Any) -> bool:
    return not accepted(changed(frame, place, value))


def test_the_samples_are_frames():
    """What the changes start from is right, and the full frame has every field that there is."""
    assert all(accepted(frame) and SCHEMA.is_valid(frame) for frame in FRAMES)
    assert set(FULL_INFER) == set(Infer.model_fields)
    assert {frame["type"] for frame in FRAMES} == set(CLIENT_FRAMES)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_models_and_schema_agree_on_each_field(place: tuple[Any, ...]):
    """A client that checks its frames by the schema is never rejected, and the schema takes nothing that is."""
    frame, place = around(FULL_INFER, place)
    assert accepted(frame)
    for value in (*VALUES, ...):
        other = changed(frame, place, value)

        assert accepted(other) == SCHEMA.is_valid(other), value


@given(st.sampled_from(PLACES), json_values)
@settings(max_examples=200)
def test_models_and_schema_agree_on_any_value(place: tuple[Any, ...], value: Any):
    """The same with any JSON in the place."""
    frame = changed(*around(FULL_INFER, place), value)

    assert accepted(frame) == SCHEMA.is_valid(frame)


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: frame["type"])
def test_unknown_fields_are_refused_at_every_depth(frame: dict[str, Any]):
    """A field that no frame knows is refused wherever it stands, but inside of free-form JSON and metadata."""
    for place in places(frame):
        parent: Any = frame
        for step in place:
            parent = parent[step]
        if isinstance(parent, dict) and not (place and place[-1] in FREE_FORM | {"metadata"}):
            assert refused(frame, (*place, "typo"), 1), place


OPTIONAL = {
    *("request_id", "backend_id", "model", "route", "sampling", "enable_thinking", "provider_options"),
    *("messages.tool_call_id", "messages.tool_name", "messages.tool_calls", "messages.provider_state"),
    *("messages.parts.image_url.mime_type", "messages.parts.json.value", "tools.description"),
    *("limits.max_output_tokens", "limits.max_request_time_ms"),
    *("sampling.temperature", "sampling.top_p", "sampling.seed", "sampling.stop"),
    *("parallel_tool_calls", "service_tier", "messages.is_error"),
    *(f"messages.parts.file.{name}" for name in ("url", "data", "name")),
    *("cache", "cache.mode", "cache.key", "cache.retention", "messages.cache"),
    *("reasoning", "reasoning.effort", "reasoning.budget_tokens", "reasoning.summary"),
}


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_null_is_taken_only_where_an_option_is(place: tuple[Any, ...]):
    """null stands for an absent `Option`, and for nothing else; not for a field with a default either."""
    name = ".".join(step for step in place if isinstance(step, str))
    optional = name in OPTIONAL and isinstance(place[-1], str)

    assert accepted(changed(FULL_INFER, place, None)) == optional


@pytest.mark.parametrize(
    ("place", "wrong"),
    [
        (("limits", "max_output_tokens"), [1.0, "1", True, 0, -1, 2**64]),
        (("limits", "max_request_time_ms"), [1.0, "1", True, 0, -1, 2**64]),
        (("sampling", "seed"), [1.0, "1", True, 2**64, -(2**63) - 1]),
        (("sampling", "temperature"), ["0.5", True]),
        (("sampling", "stop"), ["x", [1], [None]]),
        (("messages", 1, "parts", 4, "file"), ["x", {}, {"data": "aGk="}, {"mime_type": 1}, None]),
        (("messages", 3, "is_error"), [1, "true"]),
        (("parallel_tool_calls",), [0, "false", {}]),
        (("service_tier",), ["", 1, True]),
        (("cache",), ["auto", True, []]),
        (("cache", "mode"), ["on", "", True]),
        (("cache", "key"), ["", 1]),
        (("cache", "retention"), ["24h", 1]),
        (("messages", 0, "cache"), [1, "true", {}]),
        (("reasoning",), ["high", True, [], 1]),
        (("reasoning", "effort"), ["none", "High", "", 1, True]),
        (("reasoning", "budget_tokens"), [1.0, "1", True, -1, 2**64]),
        (("reasoning", "summary"), ["full", True]),
        (("stream",), [1, 0, "true", None]),
        (("include_annotations",), [1, "true", None]),
        (("include_reasoning",), [1, "false", None]),
        (("request_id",), ["", "x" * 129, 5]),
        (("messages", 0, "role"), ["System", "developer", "", 1, {"system": None}]),
        (("tool_choice",), ["any", "Auto", {"auto": None}, {"specific": "t"}, {"specific": {"name": "t"}, "x": 1}, {}]),
        (("output_mode",), ["json", {"text": None}, {"json_object": {}}, {"json_schema": "n"}]),
        (("output_mode", "json_schema", "schema"), [True, [], "x"]),
        (("output_mode", "json_schema", "strict"), [1, "true", None]),
        (("metadata", "k"), [1, None, True, [], {}]),
        (("messages", 0, "parts", 0), ["x", {}, {"text": "x"}, {"text": {}}, {"txt": {"text": "x"}}, [{"text": {}}]]),
        (
            ("messages", 0, "parts", 0),
            [{"text": {"text": "x"}, "json": {"value": 1}}, {"json": {}}, {"json_": {"value": 1}}],
        ),
        (("messages", 2, "tool_calls", 0, "arguments_json"), [{}, None]),
        (("tools", 0, "input_schema"), [None, True, [], "{}"]),
        (("provider_options",), [[], "x", 1]),
    ],
    ids=str,
)
def test_wrong_types_are_refused(place: tuple[Any, ...], wrong: list[Any]):
    """No value is bent into the type that is wanted, and no variant into another."""
    assert [value for value in wrong if not refused(FULL_INFER, place, value)] == []


def test_bounds_are_taken():
    """The largest and smallest values are inside."""
    for place, value in [
        (("limits", "max_output_tokens"), 2**64 - 1),
        (("limits", "max_request_time_ms"), 1),
        (("sampling", "seed"), 2**64 - 1),
        (("sampling", "seed"), -(2**63)),
        (("sampling", "temperature"), 2),
        (("request_id",), "é" * 128),
        (("request_id",), "x"),
    ]:
        assert accepted(changed(FULL_INFER, place, value)), (place, value)


@pytest.mark.parametrize(
    "route",
    [
        {},
        "low-cost",
        {"kind": "alias"},
        {"kind": "alias", "capability": "chat"},
        {"kind": "alias", "capability": "embed", "alias": "a"},
        {"kind": "alias", "capability": "chat", "binding_id": "a"},
        {"kind": "alias", "capability": "chat", "alias": "a", "binding_id": "a"},
        {"kind": "key", "capability": "chat", "alias": "a"},
        {"kind": "Key", "capability": "chat", "binding_id": "a"},
        {"kind": ["key"], "capability": "chat", "binding_id": "a"},
        {"kind": "key", "capability": "chat", "binding_id": None},
        {"key": {"capability": "chat", "binding_id": "a"}},
    ],
    ids=str,
)
def test_a_route_has_exactly_one_of_two_shapes(route: Any):
    """By models and by schema: the capability is chat, and nothing is missing or beside."""
    frame = {"type": "infer", "messages": [], "route": route}

    assert not accepted(frame)
    assert not SCHEMA.is_valid(frame)


@pytest.mark.parametrize(
    ("route", "said"),
    [
        ({"kind": "x" * 500}, "route: expected an object whose kind is alias or key"),
        ({"kind": "alias", "capability": "chat"}, "route.alias: missing, but required"),
        ({"kind": "key", "capability": "chat", "binding_id": 1}, "route.binding_id: expected a string"),
    ],
    ids=["kind", "missing", "type"],
)
def test_a_wrong_route_is_told_with_its_place(route: Any, said: str):
    """The variant's name is no step of the path, and what the client sent is not repeated."""
    with pytest.raises(RejectedLine) as caught:
        decode(json.dumps({"type": "infer", "messages": [], "route": route}).encode())

    assert str(caught.value) == said
