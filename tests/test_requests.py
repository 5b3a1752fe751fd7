"""Typed requests: the dictionaries are the frames, and mistakes are told as on the wire."""

from __future__ import annotations

from typing import Any, get_args, get_type_hints

import pytest
from pydantic import BaseModel

from beluna_gateway import requests
from beluna_gateway.canonical import ToolCall, ToolCallReady
from beluna_gateway.errors import GatewayError
from beluna_gateway.wire import frames

from .fakes.adapter import END, stage, text

MESSAGES: list[requests.Message] = [{"role": "user", "parts": [{"text": {"text": "hello"}}]}]
PAIRS = [
    (requests.InferRequest, frames.Infer),
    (requests.CountTokensRequest, frames.CountTokens),
    (requests.EmbedRequest, frames.Embed),
    (requests.ModelsRequest, frames.Models),
]


def _inside(hint: Any, kind: type) -> list[Any]:
    """The classes of one kind in a type hint, at any depth of unions and lists, in their order."""
    if isinstance(hint, type) and (issubclass(hint, kind) if kind is BaseModel else hasattr(hint, "__total__")):
        return [hint]
    return [found for argument in get_args(hint) for found in _inside(argument, kind)]


def _assert_same(typed: Any, model: type[BaseModel], seen: set[Any]) -> None:
    if typed in seen:
        return
    seen.add(typed)
    fields = {field.alias or name: field for name, field in model.model_fields.items() if name != "type"}
    hints = get_type_hints(typed)
    assert hints.keys() == fields.keys(), typed
    assert set(typed.__required_keys__) == {name for name, field in fields.items() if field.is_required()}, typed
    model_hints = get_type_hints(model, include_extras=False)
    for name, hint in hints.items():
        attribute = next(key for key, field in model.model_fields.items() if (field.alias or key) == name)
        below = _inside(hint, dict)
        models = _inside(model_hints[attribute], BaseModel)
        assert len(below) == len(models), (typed, name)
        for inner, frame in zip(below, models, strict=True):
            _assert_same(inner, frame, seen)


@pytest.mark.parametrize(("typed", "model"), PAIRS, ids=lambda kind: kind.__name__)
def test_the_typed_requests_are_the_frames(typed: Any, model: type[BaseModel]):
    """The same fields at every depth, and the same ones required."""
    _assert_same(typed, model, set())


async def test_a_request_may_be_given_by_keywords():
    """As a whole, or field by field."""
    async with stage(text("ok")) as played:
        by_keywords = await played.gateway.infer_once(messages=MESSAGES, stream=False)
        assert by_keywords == await played.gateway.infer_once({"messages": MESSAGES, "stream": False})
        async with played.gateway.infer_stream(messages=MESSAGES) as events:
            assert [event async for event in events][-1] == END


async def test_a_call_is_put_back_as_it_came():
    """`ToolCallReady.call` is an entry of `tool_calls`."""
    call = ToolCall("c", "f", '{"a":1}', {"a": 1})
    async with stage([ToolCallReady(call), END], text("ok")) as played:
        result = await played.gateway.infer_once(messages=MESSAGES)
        history: list[requests.Message] = [
            *MESSAGES,
            {"role": "assistant", "parts": [], "tool_calls": [*result.tool_calls]},
            {"role": "tool", "tool_call_id": "c", "tool_name": "f", "parts": [{"json": {"value": 1}}]},
        ]
        await played.gateway.infer_once(messages=history)

        past = played.adapter.prepared[1][0].messages[1]
        assert past.tool_calls == (call,)  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"messages": "secret"}, "messages: expected an array"),
        ({}, "messages: missing, but required"),
        ({"messages": [], "steam": True}, "steam: unknown field"),
        (
            {"messages": [{"role": "user", "parts": [{"text": {"text": 1}}]}]},
            "messages[0].parts[0].text.text: expected",
        ),
    ],
)
async def test_mistakes_are_told_as_on_the_wire(fields: dict[str, Any], told: str):
    """Each by its path, without the values and without pydantic's own report."""
    async with stage() as played:
        with pytest.raises(GatewayError) as caught:
            await played.gateway.infer_once(fields)

    assert caught.value.kind == "invalid_request"
    assert told in caught.value.message
    assert "secret" not in caught.value.message
    assert "validation error" not in caught.value.message


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        (
            {"messages": [{"role": "user", "parts": [{"json": {"value": [float("nan")]}}]}]},
            "messages[0].parts[0].json.value[0]",
        ),
        (
            {"messages": [{"role": "assistant", "parts": [], "provider_state": {"a": float("nan")}}]},
            "messages[0].provider_state.a",
        ),
        ({"tools": [{"name": "f", "input_schema": {"const": float("nan")}}]}, "tools[0].input_schema.const"),
        (
            {"output_mode": {"json_schema": {"name": "s", "schema": {"const": float("nan")}}}},
            "output_mode.json_schema.schema.const",
        ),
    ],
)
async def test_wherever_json_may_stand_it_has_to_be_json(fields: dict[str, Any], path: str):
    """In every field of any shape, in a frame as well as by keywords."""
    whole = {"messages": MESSAGES, **fields}
    async with stage() as played:
        for request in (whole, frames.Infer.model_validate({"type": "infer", **whole})):
            with pytest.raises(GatewayError) as caught:
                await played.gateway.infer_once(request)

            assert caught.value.message == f"{path}: found nan, expected a finite number"
