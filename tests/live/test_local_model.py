"""A real model server, asked through the real daemon over its socket, in each dialect that the server speaks."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from typing import Any

import jsonschema
import pytest

from beluna_gateway.client import connect
from beluna_gateway.wire.frame_schemas import server_frame_schema

from .conftest import DIALECTS, KEY, Live

pytestmark = pytest.mark.live

each_dialect = pytest.mark.parametrize("dialect", DIALECTS)

FRAME = jsonschema.Draft202012Validator(server_frame_schema())

GREEDY = {"temperature": 0.0}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = {"name": "get_weather", "description": "Current weather of a city", "input_schema": CITY}
ZONE = {"type": "object", "properties": {"timezone": {"type": "string"}}, "required": ["timezone"]}
TIME = {"name": "get_time", "description": "The time in a time zone", "input_schema": ZONE}


def says(role: str, text: str, **more: Any) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": {"text": text}}], **more}


LONG = [says("user", "Write a long story about a dragon.")]
WHOLE_LONG_ANSWER = 600  # tokens, at least


async def ask(live: Live, **fields: Any) -> list[dict[str, Any]]:
    """All frames of one request, each checked against the protocol's schema, and their order with them."""
    fields.setdefault("sampling", GREEDY)
    async with connect(live.socket) as client:
        frames = [frame async for frame in client.infer(**fields)]
    for frame in frames:
        FRAME.validate(frame)
    types = [frame["type"] for frame in frames]
    assert types[0] == "started" or types == ["failed"], types
    assert types[-1] in ("completed", "failed")
    assert types.count("usage") <= 1
    return frames


def only(frames: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    found = [frame for frame in frames if frame["type"] == kind]
    assert len(found) == 1, frames
    return found[0]


def text_of(frames: list[dict[str, Any]]) -> str:
    return "".join(frame["delta"] for frame in frames if frame["type"] == "output_text_delta")


async def until(condition: Any, seconds: float = 30.0) -> None:
    deadline = time.monotonic() + seconds
    while not await asyncio.to_thread(condition):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


# --- answers ---


@each_dialect
async def test_plain_stream(live, dialect):
    """A question is answered in pieces, with usage and a proper end."""
    frames = await ask(live, backend_id=dialect, messages=[says("user", "What is the capital of France?")])

    assert "Paris" in text_of(frames)
    assert len([frame for frame in frames if frame["type"] == "output_text_delta"]) > 1
    usage = only(frames, "usage")["usage"]
    assert usage["input_tokens"] > 0
    assert usage["output_tokens"] > 0
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"]
    assert only(frames, "completed")["finish_reason"] == "stop"
    assert only(frames, "started")["model"] == "smollm2-135m-instruct"


@each_dialect
async def test_usage_counts_cached_tokens(live, dialect):
    """Asked twice, the input is as many tokens as before, although the server has most of them in its cache."""
    messages = [says("system", "You are a poet."), says("user", "What is the capital of France?")]
    limits = {"max_output_tokens": 4}
    first, second = [
        only(await ask(live, backend_id=dialect, messages=messages, limits=limits), "usage")["usage"] for _ in range(2)
    ]

    assert first["input_tokens"] == second["input_tokens"] > 10
    assert second["cached_input_tokens"] > 0


@each_dialect
async def test_unstreamed(live, dialect):
    """Unstreamed, the same answer comes as one piece."""
    request = {"backend_id": dialect, "messages": [says("user", "What is the capital of France?")]}
    streamed = await ask(live, **request)
    whole = await ask(live, **request, stream=False)

    assert [frame["type"] for frame in whole] == ["started", "output_text_delta", "usage", "completed"]
    assert text_of(whole) == text_of(streamed)


@each_dialect
async def test_cut_by_length(live, dialect):
    """An answer that reaches `max_output_tokens` has no more than those."""
    frames = await ask(live, backend_id=dialect, messages=LONG, limits={"max_output_tokens": 5})

    assert only(frames, "usage")["usage"]["output_tokens"] == 5
    # llama.cpp's /v1/responses calls a cut answer `completed`.
    assert only(frames, "completed")["finish_reason"] == ("stop" if dialect == "openai_responses" else "length")


@pytest.mark.parametrize("stream", [True, False])
@each_dialect
async def test_required_tool(live, dialect, stream):
    """With `tool_choice` required the model calls a tool, with arguments of its schema."""
    messages = [says("user", "What is the weather in Paris?")]
    frames = await ask(
        live, backend_id=dialect, messages=messages, tools=[WEATHER, TIME], tool_choice="required", stream=stream
    )

    call = only(frames, "tool_call_ready")["call"]
    assert (call["name"], json.loads(call["arguments_json"]), call["status"]) == (
        "get_weather",
        {"city": "Paris"},
        "ready",
    )
    deltas = [frame for frame in frames if frame["type"] == "tool_call_delta"]
    assert "".join(delta["arguments_delta"] for delta in deltas) == call["arguments_json"]
    assert {delta["call_id"] for delta in deltas} == {call["id"]}
    assert deltas[0]["name"] == "get_weather"
    assert only(frames, "completed")["finish_reason"] == "tool_calls"


@each_dialect
async def test_tool_result(live, dialect):
    """A conversation with a tool's result in it is taken, and answered in words."""
    call = {"id": "call_1", "name": "get_weather", "arguments_json": '{"city":"Paris"}'}
    messages = [
        says("user", "What is the weather in Paris?"),
        {"role": "assistant", "parts": [], "tool_calls": [call]},
        says("tool", '{"temperature": 12, "sky": "cloudy"}', tool_call_id="call_1", tool_name="get_weather"),
    ]
    frames = await ask(live, backend_id=dialect, messages=messages, tools=[WEATHER], limits={"max_output_tokens": 30})

    assert "cloudy" in text_of(frames)


CAPITAL = {
    "type": "object",
    "properties": {"city": {"enum": ["Rome", "Paris"]}, "inhabitants": {"type": "integer"}},
    "required": ["city", "inhabitants"],
    "additionalProperties": False,
}


# These two in Chat Completions only: llama.cpp's other two APIs pass over the field that asks for it.
async def test_json_object(live):
    """`json_object` gives a JSON object."""
    messages = [says("user", "Give me the name and the age of a person as JSON.")]
    frames = await ask(
        live,
        backend_id="openai_compatible",
        messages=messages,
        output_mode="json_object",
        limits={"max_output_tokens": 60},
    )

    assert isinstance(json.loads(text_of(frames)), dict)


async def test_json_schema(live):
    """`json_schema` gives a value of the schema."""
    frames = await ask(
        live,
        backend_id="openai_compatible",
        messages=[says("user", "What is the capital of France, and how many people live there?")],
        output_mode={"json_schema": {"name": "capital", "schema": CAPITAL, "strict": True}},
        limits={"max_output_tokens": 60},
    )

    jsonschema.validate(json.loads(text_of(frames)), CAPITAL)


async def test_no_json_object_with_anthropic(live):
    """Anthropic's API has no `json_object`, which is said, and nothing is sent."""
    frames = await ask(live, backend_id="anthropic", messages=[says("user", "Hello")], output_mode="json_object")

    assert only(frames, "failed")["error"]["kind"] == "unsupported_capability"


async def test_provider_options(live):
    """`provider_options` reach the server: here a field of llama.cpp's that the Responses API does not have."""
    frames = await ask(
        live,
        backend_id="openai_responses",
        messages=[says("user", "What is the capital of France, and how many people live there?")],
        provider_options={"json_schema": CAPITAL},
        limits={"max_output_tokens": 60},
    )

    jsonschema.validate(json.loads(text_of(frames)), CAPITAL)


@each_dialect
async def test_two_at_once(live, dialect):
    """Two requests on one connection are answered at the same time, each with its own frames."""

    async def answer(client: Any, question: str) -> list[Any]:
        fields = {"backend_id": dialect, "messages": [says("user", question)], "sampling": GREEDY}
        return [(time.monotonic(), frame) async for frame in client.infer(**fields, limits={"max_output_tokens": 30})]

    async with connect(live.socket) as client:
        first, second = await asyncio.gather(
            answer(client, "Count from 1 to 100."), answer(client, "Count from 200 to 300.")
        )

    for frames in (first, second):
        assert frames[-1][1]["type"] == "completed"
    assert first[1][0] < second[-1][0]
    assert second[1][0] < first[-1][0]


# --- stopping ---


@each_dialect
async def test_cancel(live, dialect):
    """After `cancel` the request fails as cancelled, and the model server stops generating."""
    before = live.generated()
    async with connect(live.socket) as client:
        kinds = []
        async for frame in client.infer(backend_id=dialect, messages=LONG, sampling=GREEDY, request_id="long"):
            kinds.append(frame["type"])
            if frame["type"] == "output_text_delta" and kinds.count("output_text_delta") == 3:
                assert live.computing()
                await client.send({"type": "cancel", "request_id": "long"})
        assert frame["error"]["kind"] == "cancelled"
        assert (await client.status())["in_flight"] == 0
    await until(lambda: not live.computing())

    assert live.generated() - before < WHOLE_LONG_ANSWER / 4


@each_dialect
async def test_disconnect(live, dialect):
    """A client that goes away in mid-stream stops the model server as well."""
    before = live.generated()
    async with connect(live.socket) as client:
        async for frame in client.infer(backend_id=dialect, messages=LONG, sampling=GREEDY):
            if frame["type"] == "output_text_delta":
                assert live.computing()
                break
    await until(lambda: not live.computing())

    assert live.generated() - before < WHOLE_LONG_ANSWER / 4


@each_dialect
async def test_cancel_before_the_first_token(live, dialect):
    """A request that is cancelled while its prompt is being read is over at once; the server generates nothing more."""
    # llama.cpp looks for a client that has gone when it has read the prompt: this one takes a second or two.
    prompt = [says("user", f"{dialect} " + " ".join(str(number) for number in range(100)))]
    before = live.generated()
    async with connect(live.socket) as client:
        async for frame in client.infer(backend_id=dialect, messages=prompt, sampling=GREEDY, request_id="early"):
            if frame["type"] == "started":
                await until(live.computing)
                await client.send({"type": "cancel", "request_id": "early"})
        assert frame["error"]["kind"] == "cancelled"
    await until(lambda: not live.computing())

    assert live.generated() - before < 10


# --- what is no inference ---


async def perform(live: Live, kind: str, **fields: Any) -> dict[str, Any]:
    """The one frame that answers an operation, checked against the protocol's schema."""
    async with connect(live.socket) as client:
        frame = await getattr(client, kind)(**fields)
    FRAME.validate(frame)
    assert isinstance(frame, dict)
    return frame


@each_dialect
async def test_tokens_are_counted_as_the_answer_counts_them(live, dialect):
    """A count, with tools and a system message, is the `input_tokens` of the same request's usage."""
    messages = [says("system", "You are a poet."), says("user", "What is the weather in Paris?")]
    request = {"backend_id": dialect, "messages": messages, "tools": [WEATHER]}
    counted = await perform(live, "count_tokens", **request)
    short = await perform(live, "count_tokens", backend_id=dialect, messages=messages)
    usage = only(await ask(live, **request, limits={"max_output_tokens": 2}), "usage")["usage"]

    assert counted["input_tokens"] == usage["input_tokens"]
    assert 10 < short["input_tokens"] < counted["input_tokens"]


def likeness(one: list[float], other: list[float]) -> float:
    return sum(a * b for a, b in zip(one, other, strict=True))


@pytest.mark.parametrize("dialect", ["openai_compatible", "openai_responses"])
async def test_texts_are_embedded(live, dialect):
    """One vector for each text, in their order, with usage. (llama.cpp's depend a little on what else it computes.)"""
    texts = ["A cat sat on the mat.", "Interest rates were raised."]
    both = await perform(live, "embed", backend_id=dialect, inputs=texts)
    cat, rates = [(await perform(live, "embed", backend_id=dialect, inputs=[text]))["vectors"][0] for text in texts]

    first, second = both["vectors"]
    assert len(first) == len(second) == 576
    assert likeness(first, cat) > likeness(first, rates)
    assert likeness(second, rates) > likeness(second, cat)
    assert both["usage"]["input_tokens"] > 10


@each_dialect
async def test_its_models_are_listed(live, dialect):
    """By the name that a request takes."""
    frame = await perform(live, "models", backend_id=dialect)

    assert [model["id"] for model in frame["models"]] == ["smollm2-135m-instruct"]


@pytest.mark.parametrize("kind", ["embed", "count_tokens", "models"])
async def test_a_wrong_key_ends_them_too(live, kind):
    """With the same error as an inference."""
    fields: dict[str, dict[str, Any]] = {
        "embed": {"inputs": ["a"]},
        "count_tokens": {"messages": [says("user", "Hello")]},
        "models": {},
    }
    frame = await perform(live, kind, backend_id="openai_compatible-wrong-key", **fields[kind])

    assert (frame["type"], frame["error"]["kind"]) == ("failed", "authentication")


# --- failures ---


@each_dialect
async def test_wrong_key(live, dialect):
    """A key that the server does not accept is an authentication failure, not tried again, and nobody sees a key."""
    frames = await ask(live, backend_id=f"{dialect}-wrong-key", messages=[says("user", "Hello")])

    error = only(frames, "failed")["error"]
    assert (error["kind"], error["retryable"], error["provider_http_status"]) == ("authentication", False, 401)
    assert "wrong-key" not in error["message"].replace(f"{dialect}-wrong-key", "")
    assert KEY not in error["message"]


@each_dialect
async def test_context_overflow(live, dialect):
    """A prompt that is longer than the model's context is an invalid request with the server's own words."""
    words = " ".join(str(number) for number in range(2000))
    frames = await ask(live, backend_id=dialect, messages=[says("user", words)])

    error = only(frames, "failed")["error"]
    assert (error["kind"], error["provider_http_status"]) == ("invalid_request", 400)
    assert "context" in error["message"]


async def test_server_killed(live):
    """A model server that dies in mid-stream fails that request as transient; a new one answers the next request."""
    killed = 0
    async with connect(live.socket) as client:
        async for frame in client.infer(messages=LONG, sampling=GREEDY):
            if frame["type"] == "output_text_delta" and not killed:
                killed = live.server_pid()
                os.kill(killed, signal.SIGKILL)
        assert (frame["type"], frame["error"]["kind"]) == ("failed", "backend_transient")
    frames = await ask(live, messages=[says("user", "What is the capital of France?")])

    assert "Paris" in text_of(frames)
    assert live.server_pid() != killed
