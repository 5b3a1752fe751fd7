"""An answer that breaks its dialect is refused by name: which field, and what was expected of it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.canonical import BackendRawEvent
from beluna_gateway.errors import GatewayError

from ..recorded import canonical, dialect

REQUEST = canonical({"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]})


BAD_ID = "a tool call's id that is neither a string nor an integer"


def violation(name: str, *payloads: Any, whole: bool = False) -> str:
    """The message with which the last of these payloads is refused."""
    decoder = dialect(name).decoder(REQUEST, "m")
    events: list[BackendRawEvent] = []
    for payload in payloads[:-1]:
        decoder.feed(json.dumps(payload).encode(), events)
    last = payloads[-1] if whole else json.dumps(payloads[-1]).encode()
    feed: Any = decoder.feed_whole if whole else decoder.feed
    with pytest.raises(GatewayError) as caught:
        feed(last, events)
    assert (caught.value.kind, caught.value.retryable) == ("protocol_violation", False)
    return caught.value.message.removeprefix("the backend sent ")


# --- Chat Completions ---


def delta(fields: Any) -> Any:
    return {"choices": [{"index": 0, "delta": fields}]}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"choices": {"a": 1}}, "`choices` that is not an array"),
        ({"choices": [1]}, "a choice that is not an object"),
        (delta(1), "a delta that is not an object"),
        ({"choices": [{"message": 1}]}, "a message that is not an object"),
        ({"choices": [{"text": 1}]}, "a text that is not a string"),
        (delta({"refusal": 1}), "a refusal that is not a string"),
        (delta({"tool_calls": "a"}), "`tool_calls` that is not an array"),
        (delta({"tool_calls": [1]}), "a tool call that is not an object"),
        (delta({"tool_calls": [{"function": 1}]}), "a tool call's function that is not an object"),
        (
            delta({"tool_calls": [{"id": 1.5, "function": {}}]}),
            BAD_ID,
        ),
        (delta({"tool_calls": [{"function": {"name": 1}}]}), "a tool call's name that is not a string"),
        (delta({"function_call": 1}), "a function_call that is not an object"),
    ],
)
def test_chat_completions(payload: Any, message: str) -> None:
    assert violation("openai_compatible", payload) == message


# --- Gemini ---


def part(fields: Any) -> Any:
    return {"candidates": [{"content": {"parts": [fields]}}]}


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"candidates": {"a": 1}}, "`candidates` that is not an array"),
        ({"candidates": [1]}, "a candidate that is not an object"),
        ({"promptFeedback": 1}, "promptFeedback that is not an object"),
        ({"candidates": [{"content": 1}]}, "a candidate's content that is not an object"),
        ({"candidates": [{"content": {"parts": {"a": 1}}}]}, "`parts` that is not an array"),
        (part(1), "a part that is not an object"),
        (part({"text": 1}), "a part's text that is not a string"),
        (part({"functionCall": 1}), "a functionCall that is not an object"),
        (part({"functionCall": {"id": [], "name": "f"}}), BAD_ID),
        (part({"functionCall": {"name": 1}}), "a functionCall's name that is not a string"),
        (
            part({"functionCall": {"name": "f", "willContinue": True}}),
            "a functionCall in pieces, which the Gemini API does not",
        ),
        (
            part({"functionCall": {"name": "f", "partialArgs": [{}]}}),
            "a functionCall in pieces, which the Gemini API does not",
        ),
    ],
)
def test_gemini(payload: Any, message: str) -> None:
    assert violation("gemini", payload) == message


# --- Ollama ---


@pytest.mark.parametrize(
    ("payload", "message"),
    [
        ({"model": "m"}, "a line with neither `message` nor `done`"),
        ({"message": {}, "done": "yes"}, "`done` that is not a boolean"),
        ({"message": 1, "done": False}, "a message that is not an object"),
        ({"message": {"tool_calls": 1}, "done": False}, "`tool_calls` that is not an array"),
        ({"message": {"tool_calls": [1]}, "done": False}, "a tool call that is not an object"),
        ({"message": {"tool_calls": [{"function": 1}]}, "done": False}, "a tool call's function that is not an object"),
        (
            {"message": {"tool_calls": [{"id": True, "function": {"name": "f"}}]}},
            BAD_ID,
        ),
        ({"message": {"tool_calls": [{"function": {"name": 1}}]}}, "a tool call's name that is not a string"),
    ],
)
def test_ollama(payload: Any, message: str) -> None:
    assert violation("ollama", payload) == message


# --- Messages API ---

BEGUN: Any = {"type": "message_start", "message": {"id": "m", "content": [], "model": "m"}}


def begin(block: Any) -> Any:
    return {"type": "content_block_start", "index": 0, "content_block": block}


def block_delta(fields: Any) -> Any:
    return {"type": "content_block_delta", "index": 0, "delta": fields}


@pytest.mark.parametrize(
    ("payloads", "message"),
    [
        ([{"a": 1}], "an event without a `type`"),
        ([{"type": "message_start", "message": 1}], "a message that is not an object"),
        ([BEGUN, begin(1)], "a content_block that is not an object"),
        ([BEGUN, begin({"type": 1})], "a content block's type that is not a string"),
        ([BEGUN, begin({"type": "text", "text": 1})], "a block's text that is not a string"),
        ([BEGUN, begin({"type": "thinking", "thinking": 1})], "a block's thinking that is not a string"),
        ([BEGUN, begin({"type": "thinking", "thinking": "", "signature": 1})], "a signature that is not a string"),
        (
            [BEGUN, begin({"type": "tool_use", "id": 2**64, "name": "f"})],
            BAD_ID,
        ),
        ([BEGUN, begin({"type": "tool_use", "id": "a", "name": 1})], "a tool_use's name that is not a string"),
        ([BEGUN, block_delta(1)], "a content_block_delta's delta that is not an object"),
        ([BEGUN, block_delta({"type": "text_delta", "text": 1})], "a text_delta's text that is not a string"),
        (
            [
                BEGUN,
                begin({"type": "tool_use", "id": "a", "name": "f"}),
                block_delta({"type": "input_json_delta", "partial_json": 1}),
            ],
            "an input_json_delta's JSON that is not a string",
        ),
        (
            [BEGUN, block_delta({"type": "thinking_delta", "thinking": 1})],
            "a thinking_delta's thinking that is not a string",
        ),
        (
            [BEGUN, block_delta({"type": "signature_delta", "signature": 1})],
            "a signature_delta's signature that is not a string",
        ),
        ([BEGUN, {"type": "message_delta", "delta": 1}], "a message_delta's delta that is not an object"),
        ([BEGUN, {"type": "content_block_stop"}], "a content block event without an index"),
        (
            [BEGUN, {"type": "content_block_stop", "index": 4}],
            "the backend ended content block 4, which is not open",
        ),
        (
            [BEGUN, begin({"type": "tool_use", "id": "a", "name": "f"}), begin({"type": "text", "text": ""})],
            "the backend began another content block at index 0, whose tool call is not complete",
        ),
        (
            [BEGUN, block_delta({"type": "input_json_delta", "partial_json": "{"})],
            "an input_json_delta for a block that is not open",
        ),
        (
            [BEGUN, {"type": "message_start", "message": {"id": "another"}}],
            "the backend began a second message inside one answer",
        ),
    ],
)
def test_messages(payloads: Any, message: str) -> None:
    assert violation("anthropic", *payloads) == message


# --- Responses API ---


def item_event(kind: str, item: Any) -> Any:
    return {"type": f"response.output_item.{kind}", "output_index": 0, "item": item}


def part_event(kind: str, value: Any) -> Any:
    return {"type": f"response.{kind}_part.done", "output_index": 0, "part": value}


def content(*parts: Any) -> Any:
    return item_event("done", {"type": "message", "content": list(parts)})


def output(*items: Any) -> Any:
    return {"type": "response.completed", "response": {"status": "completed", "output": list(items)}}


A_CALL: Any = {"type": "function_call", "call_id": "a", "name": "f", "arguments": ""}


@pytest.mark.parametrize(
    ("payloads", "message"),
    [
        ([{"a": 1}], "an event without `type`"),
        ([{"type": "response.output_text.delta"}], "response.output_text.delta without a `delta` that is a string"),
        ([{"type": "response.output_text.done", "text": 1}], "a text that is not a string"),
        ([{"type": "response.refusal.done", "refusal": 1}], "a text that is not a string"),
        ([part_event("content", 1)], "a part of an output item that is not an object"),
        ([part_event("content", {"type": "output_text", "text": 1})], "a text that is not a string"),
        ([part_event("content", {"type": "refusal", "refusal": 1})], "a refusal that is not a string"),
        ([part_event("reasoning_summary", 1)], "a part of a summary that is not an object"),
        ([part_event("reasoning_summary", {"text": 1})], "a text that is not a string"),
        (
            [{"type": "response.function_call_arguments.delta", "output_index": 0, "delta": "{"}],
            "arguments of a tool call that it had not begun",
        ),
        ([item_event("added", 1)], "an output item that is not an object"),
        ([item_event("added", {"type": 1})], "an output item's type that is not a string"),
        ([item_event("done", 1)], "an output item that is not an object"),
        ([item_event("done", {"type": 1})], "an output item's type that is not a string"),
        ([item_event("done", {"type": "message", "content": 1})], "an output item's content that is not an array"),
        ([content(1)], "a part of an output item that is not an object"),
        ([content({"type": "output_text", "text": 1})], "a text that is not a string"),
        ([content({"type": "refusal", "refusal": 1})], "a refusal that is not a string"),
        ([item_event("added", A_CALL | {"call_id": {}})], BAD_ID),
        ([item_event("added", A_CALL | {"name": 1})], "a tool call's name that is not a string"),
        (
            [item_event("added", A_CALL), item_event("done", A_CALL | {"name": "g"})],
            "the backend named one tool call twice: 'f', 'g'",
        ),
        (
            [item_event("added", A_CALL), item_event("done", A_CALL), item_event("done", A_CALL)],
            "the backend ended one output item twice",
        ),
        ([{"type": "response.completed", "response": 1}], "a response that is not an object"),
        ([{"type": "response.completed", "response": {"output": {"a": 1}}}], "`output` that is not an array"),
        ([output(1)], "an output item that is not an object"),
        ([output({"type": 1})], "an output item's type that is not a string"),
        ([output(A_CALL | {"name": 1})], "a tool call's name that is not a string"),
        (
            [{"type": "response.created", "response": {"id": one}} for one in ("a", "b")],
            "the backend began a second response inside one answer",
        ),
    ],
)
def test_responses(payloads: Any, message: str) -> None:
    assert violation("openai_responses", *payloads) == message


# --- unstreamed answers ---


@pytest.mark.parametrize(
    ("name", "body", "message"),
    [
        ("openai_compatible", {"choices": []}, "an unstreamed answer with neither content nor a finish_reason"),
        ("openai_responses", {"status": "queued"}, "an unstreamed answer that it has not completed"),
        ("openai_responses", {"output": []}, "an unstreamed answer that it has not completed"),
        ("gemini", {"candidates": []}, "an unstreamed answer without a finishReason"),
        ("anthropic", {"type": "message", "content": []}, "an unstreamed answer without a stop_reason"),
        ("anthropic", {"type": "message", "content": {"a": 1}}, "a message whose `content` is not an array"),
        ("anthropic", {"type": "message", "content": [1]}, "a content block that is not an object"),
    ],
)
def test_an_unstreamed_answer_that_is_none(name: str, body: Any, message: str) -> None:
    """HTTP proves that it is whole, not that it is an answer."""
    assert violation(name, body, whole=True) == message
