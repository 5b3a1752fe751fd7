"""llm-rosetta's gateway (PyPI): a real model behind Gemini's API, the Responses API, Messages and Chat Completions.

It translates each of them into Chat Completions, and asks the local model, or AIMock where an answer has to be known
before. So the words are a model's, and the events are written by somebody else's idea of each API.
What it is not faithful in (version 0.13.0):

- Gemini: a tool's `parametersJsonSchema` and an answer's `responseJsonSchema` are dropped, so the model calls without
  arguments; no thought signatures; calls have ids, and come when the whole answer is there.
- Messages: `input_tokens` counts what came from the cache a second time; of `output_config` nothing is read. Of two
  calls after text the second begins in the first one's block, which nothing has ended.
- Responses and Gemini: ids are those of the Chat Completion. Responses: `text.format` is dropped.
- Chat Completions: where the model's connection breaks, the answer ends with `[DONE]` as if it were at its end. Nobody
  can tell that from a server that never says why it ends, so it is not asked for here. The other three leave the end
  out, and that is seen.
- Errors keep the model's status and message; their code is the model's too, or one of OpenAI's words.
- Keys of its own clients are off here.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ..fakes.client import connected, user
from .asking import TIME, WEATHER, Answer, ask, says
from .conftest import LOCAL_MODEL, SCRIPTED_MODEL, Server, Translated, daemon_before

pytestmark = [pytest.mark.live, pytest.mark.timeout(240)]

PATHS = {"openai_compatible": "/v1", "openai_responses": "/v1", "anthropic": "", "gemini": ""}

each_dialect = pytest.mark.parametrize("dialect", PATHS)
each_way = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])

GREEDY = {"temperature": 0.0}
FRANCE = "What is the capital of France?"
STORY = "Write a long story about a dragon."


@pytest.fixture(scope="module")
def daemon(rosetta: Translated, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The daemon's socket; a backend for each dialect."""
    backends = {
        dialect: {
            "dialect": dialect,
            "endpoint": rosetta.url + path,
            "credential": {"type": "inline_token", "token": "any"},
            "default_model": LOCAL_MODEL,
            "budget": {"max_request_time_ms": 100_000},
        }
        for dialect, path in PATHS.items()
    }
    # The first answer of a cold model may take its time.
    with daemon_before(tmp_path_factory.mktemp("daemon"), backends, request_timeout_ms=60_000) as socket:
        yield socket


@pytest.fixture
def scripted(aimock: Server) -> Server:
    """AIMock, which has forgotten everything."""
    aimock.ask("POST", "/__aimock/reset")
    return aimock


def script(server: Server, response: dict[str, Any], **entry: Any) -> None:
    """From now on AIMock answers everything with `response`."""
    server.ask("POST", "/__aimock/fixtures", {"fixtures": [{"match": {}, "response": response, **entry}]})


# --- the model's own words ---


@each_way
@each_dialect
async def test_text(daemon, rosetta, dialect, stream):
    """The same question gets the same words as from the model itself, in pieces or as one."""
    question = {"model": LOCAL_MODEL, "messages": [{"role": "user", "content": FRANCE}], "temperature": 0}
    itself = await asyncio.to_thread(rosetta.model.ask, "POST", "/v1/chat/completions", question)
    answer = await ask(daemon, dialect, FRANCE, stream=stream, sampling=GREEDY)

    assert "Paris" in answer.text
    assert answer.text == itself["choices"][0]["message"]["content"]
    assert (len(answer.of("output_text_delta")) > 3) is stream
    assert answer.finish_reason == "stop"
    assert answer.completed["backend_metadata"]["model"] == LOCAL_MODEL
    assert answer.completed["backend_metadata"]["response_id"]


@each_way
@each_dialect
async def test_the_whole_history_is_seen(daemon, rosetta, dialect, stream):
    """Every turn reaches the model as what it is: it costs the tokens that it costs there."""
    turns = [
        ("system", "Be short."),
        ("user", "One."),
        ("assistant", "Two. " * 20),
        ("user", "Three?"),
        ("assistant", "Four."),
        ("user", FRANCE),
    ]
    messages = [{"role": role, "content": text} for role, text in turns]
    question = {"model": LOCAL_MODEL, "messages": messages, "max_tokens": 2, "temperature": 0}
    itself = await asyncio.to_thread(rosetta.model.ask, "POST", "/v1/chat/completions", question)
    limits = {"max_output_tokens": 2}
    said = [says(role, text) for role, text in turns]
    answer = await ask(daemon, dialect, *said, stream=stream, sampling=GREEDY, limits=limits)

    usage = answer.usage
    went_in = usage["provider_usage_raw"]["input_tokens"] if dialect == "anthropic" else usage["input_tokens"]
    assert went_in == itself["usage"]["prompt_tokens"]
    assert usage["output_tokens"] == 2
    assert usage["total_tokens"] == usage["input_tokens"] + 2
    assert usage["cached_input_tokens"] > 0  # the model has just read it
    assert answer.finish_reason == "length"
    assert answer.text == itself["choices"][0]["message"]["content"]


@each_way
@each_dialect
async def test_a_call_and_its_result(daemon, dialect, stream):
    """The model calls a tool, and answers in words what came of it."""
    question = [says("system", "You are helpful."), says("user", "What is the weather in Paris?")]
    fields = {"stream": stream, "sampling": GREEDY, "tools": [WEATHER]}
    first = await ask(daemon, dialect, *question, **fields)
    ((name, arguments),) = first.called
    assert name == "get_weather"
    assert arguments == ({} if dialect == "gemini" else {"city": "Paris"})
    assert first.finish_reason == "tool_calls"

    call = {"id": first.calls[0]["id"], "name": name, "arguments_json": '{"city":"Paris"}'}
    turn = {"role": "assistant", "parts": [], "tool_calls": [call]}
    result = says("tool", '{"temperature": "22 degrees"}', tool_call_id=call["id"], tool_name=name)
    second = await ask(daemon, dialect, *question, turn, result, **fields)
    assert "22" in second.text
    assert second.calls == []
    assert second.finish_reason == "stop"


async def test_at_the_same_time(daemon):
    """Answers of requests that run at the same time do not mix, in any dialect."""
    sums = {"What is the capital of France?": "Paris", "What is the capital of Italy?": "Rome"}
    asked = [(dialect, question) for dialect in PATHS for question in sums]
    limits = {"max_output_tokens": 30}
    answers = await asyncio.gather(
        *(ask(daemon, dialect, question, sampling=GREEDY, limits=limits) for dialect, question in asked)
    )

    for (_, question), answer in zip(asked, answers, strict=True):
        assert sums[question] in answer.text


@each_dialect
async def test_cancel(daemon, rosetta, dialect):
    """A cancel in mid-answer ends the model's work behind the other gateway, too."""
    async with connected(daemon) as client:
        await client.infer(dialect, messages=user(STORY))
        await client.expect("started", patience=60)
        await client.expect("output_text_delta", patience=60)
        assert await asyncio.to_thread(rosetta.computing)
        await client.cancel()
        while (frame := await client.frame())["type"] == "output_text_delta":
            pass
    assert frame["error"]["kind"] == "cancelled"
    deadline = time.monotonic() + 5  # the whole story takes longer
    while await asyncio.to_thread(rosetta.computing):
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


@each_way
@each_dialect
async def test_too_long(daemon, dialect, stream):
    """What does not fit into the model's context is refused, with the model's words."""
    error = (await ask(daemon, dialect, "word " * 6000, stream=stream)).error

    assert (error["kind"], error["provider_http_status"], error["retryable"]) == ("invalid_request", 400, False)
    assert "exceeds the available context size" in error["message"]


@each_way
@each_dialect
async def test_an_unknown_model(daemon, dialect, stream):
    """It is refused, with the gateway's words."""
    error = (await ask(daemon, dialect, "hello", stream=stream, model="nobody")).error

    assert (error["kind"], error["provider_http_status"]) == ("invalid_request", 404)
    assert "Unknown model: 'nobody'" in error["message"]


# --- known answers ---


@each_way
@each_dialect
async def test_reasoning(daemon, scripted, dialect, stream):
    """Reasoning is told apart from text."""
    script(scripted, {"content": "It is Paris.", "reasoning": "France has one capital."})
    fields = {"stream": stream, "model": SCRIPTED_MODEL, "include_reasoning": True}
    answer = await ask(daemon, dialect, FRANCE, **fields)

    assert (answer.reasoning, answer.text) == ("France has one capital.", "It is Paris.")
    assert answer.finish_reason == "stop"


@each_way
@each_dialect
async def test_two_calls(daemon, scripted, dialect, stream):
    """Both come whole, in order, each with an id of its own, beside the text; or none where that cannot be told."""
    calls = [
        {"name": "get_weather", "arguments": {"city": "Köln", "deep": [1, {"a": None}]}},
        {"name": "get_time", "arguments": {"timezone": "Europe/Berlin"}},
    ]
    script(scripted, {"content": "One moment.", "toolCalls": calls})
    answer = await ask(daemon, dialect, "hello", stream=stream, model=SCRIPTED_MODEL, tools=[WEATHER, TIME])

    assert answer.text == "One moment."
    if dialect == "anthropic" and stream and answer.calls == []:  # the second call began in the first one's block
        assert answer.error["kind"] == "protocol_violation"
        return
    assert answer.called == [(call["name"], call["arguments"]) for call in calls]
    assert len({call["id"] for call in answer.calls}) == 2
    assert answer.finish_reason == "tool_calls"


@pytest.mark.parametrize(("status", "kind"), [(429, "rate_limited"), (503, "backend_transient")])
@each_way
@each_dialect
async def test_errors(daemon, scripted, dialect, stream, status, kind):
    """An error of the model keeps its status and its words through the other gateway."""
    script(scripted, {"error": {"message": "not today", "type": "some_error"}, "status": status})
    error = (await ask(daemon, dialect, "hello", stream=stream, model=SCRIPTED_MODEL)).error

    assert (error["kind"], error["provider_http_status"], error["retryable"]) == (kind, status, True)
    assert "not today" in error["message"]


def cut_kind(answer: Answer, dialect: str) -> str:
    """How an answer fails that ends too early: as one that says nothing at all, where nothing had come (in Gemini)."""
    return "protocol_violation" if dialect == "gemini" and not answer.text else "backend_transient"


@pytest.mark.parametrize("pieces", [2, 4, 6])
@pytest.mark.parametrize("dialect", [name for name in PATHS if name != "openai_compatible"])
async def test_cut(daemon, scripted, dialect, pieces):
    """Where the model is gone in mid-answer the request fails, although the other gateway ends its response well."""
    text = "one two three four five six seven eight"
    script(scripted, {"content": text}, truncateAfterChunks=pieces, latency=20)
    answer = await ask(daemon, dialect, "hello", model=SCRIPTED_MODEL)

    assert answer.error["kind"] == cut_kind(answer, dialect)
    assert text.startswith(answer.text)


@pytest.mark.parametrize("dialect", [name for name in PATHS if name != "openai_compatible"])
async def test_a_call_that_is_cut(daemon, scripted, dialect):
    """It never becomes ready."""
    script(
        scripted,
        {"toolCalls": [{"name": "get_weather", "arguments": {"city": "Paris"}}]},
        truncateAfterChunks=4,
        latency=20,
    )
    answer = await ask(daemon, dialect, "hello", model=SCRIPTED_MODEL, tools=[WEATHER])

    assert answer.calls == []
    assert answer.error["kind"] == cut_kind(answer, dialect)


@each_dialect
async def test_half_a_character(daemon, scripted, dialect):
    """Half of a character, which breaks the other gateway's response, fails the request as transient."""
    script(scripted, {"content": "12345🙂67890"})
    answer = await ask(daemon, dialect, "hello", model=SCRIPTED_MODEL)

    assert answer.error["kind"] == "backend_transient"
