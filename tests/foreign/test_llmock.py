"""llmock (PyPI): a server that breaks on demand, and judges how its client takes it.

Its journal has each request with its times; its verdict is an opinion that is not ours on how a client must try again:
`Retry-After` kept, longer and longer waits otherwise, nothing hopeless tried again, no storms.

What it is not faithful in (version 0.2.2):

- A retry is told by its body alone, so each question here is asked once between two verdicts.
- It cannot know what a client tells its own user. An answer that broke off after some of it had come is never asked
  for again here, for it would be said twice; `gave_up`, `truncated_stream_accepted` and `malformed_chunk_ignored`
  are what it says of that, so those tests look at the journal and at the client's `failed` instead.
- `Retry-After` is rounded up to whole seconds beside an exact `retry-after-ms`; it judges by the latter, and the
  gateway waits for the longer one. HTTP 429, 503, 504 and 529 always have it; Gemini's `RetryInfo` never comes.
- Text is made up from the model's name and the question; a limit of tokens is not kept. Of `seed`, `temperature`,
  `top_p` and `stop` nothing is read.
- Calls come one at a time unless scripted; arguments that are cut in half come with a proper end. Gemini's and
  Messages' arguments are objects when they come whole, so those cannot be broken (they come empty).
- Of Anthropic's `output_config` nothing is read. Credentials are not looked at. There is no Ollama.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from ..fakes.client import connected, user
from .asking import TIME, WEATHER, ask, says
from .conftest import Server, daemon_before

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]

PATHS = {
    "openai_compatible": "/v1",
    "openai_responses": "/v1",
    "anthropic": "/anthropic",
    "gemini": "/gemini",
}
# Who else speaks Chat Completions, each with errors in a form of its own.
RELATIVES = {
    "ai21": "/ai21/v1",
    "groq": "/groq/openai/v1",
    "mistral": "/mistral/v1",
    "perplexity": "/perplexity/v1",
    "together": "/together/v1",
    "xai": "/xai/v1",
}
RETRIES = 3
IDLE_MS = 400

each_dialect = pytest.mark.parametrize("dialect", PATHS)
each_server = pytest.mark.parametrize("server", [*PATHS, *RELATIVES])
each_way = pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])


@pytest.fixture(scope="module")
def daemon(llmock: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The daemon's socket; a backend for each dialect, and for each provider that llmock knows by name."""
    backends = {
        name: {
            "dialect": name if name in PATHS else "openai_compatible",
            "endpoint": llmock.url + path,
            "credential": {"type": "inline_token", "token": "any"},
            "default_model": "some-model",
        }
        for name, path in (PATHS | RELATIVES).items()
    }
    timing = {"max_retries": RETRIES, "backoff_base_ms": 100, "backoff_max_ms": 10_000, "idle_timeout_ms": IDLE_MS}
    with daemon_before(tmp_path_factory.mktemp("daemon"), backends, **timing) as socket:
        yield socket


class Judge:
    """What llmock is told to do, and what it says of its client."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def script(self, *behaviors: dict[str, Any]) -> None:
        """What the next requests meet."""
        self._server.ask("POST", "/_llmock/scenario", {"behaviors": list(behaviors)})

    def requests(self) -> list[dict[str, Any]]:
        """All requests so far, the oldest first."""
        requests: list[dict[str, Any]] = self._server.ask("GET", "/_llmock/requests")["requests"]
        return requests

    def findings(self) -> list[str]:
        """What it has against the client, warnings included."""
        return [finding["code"] for finding in self._server.ask("GET", "/_llmock/verdict")["findings"]]


@pytest.fixture
def judge(llmock: Server) -> Judge:
    """A judge that has forgotten everything."""
    llmock.ask("POST", "/_llmock/reset")
    return Judge(llmock)


def fails(status: int, times: int | None = 1, **more: Any) -> dict[str, Any]:
    return {"type": "fail", "status": status, "times": times, **more}


def breaks(kind: str, after: int, **more: Any) -> dict[str, Any]:
    return {"type": "stream_fault", "kind": kind, "after_chunks": after, **more}


SAID = "one two three four five six seven eight"


# --- answers ---


@each_way
@each_server
async def test_text(daemon, judge, server, stream):
    """Text, usage and a proper end, whichever provider it is."""
    judge.script({"type": "reply", "text": SAID})
    answer = await ask(daemon, server, "hello", stream=stream)

    assert answer.text == SAID
    # Together has a word of its own, which is not changed.
    assert answer.finish_reason == ({"other": "eos"} if server == "together" and not stream else "stop")
    assert (len(answer.of("output_text_delta")) > 3) is stream
    usage = answer.usage
    assert usage["total_tokens"] == usage["input_tokens"] + usage["output_tokens"] > 2
    assert judge.findings() == []


@each_way
@each_dialect
async def test_length(daemon, judge, dialect, stream):
    """An answer that a limit has cut is not taken for a whole one."""
    judge.script({"type": "reply", "text": SAID, "finish_reason": "length"})
    answer = await ask(daemon, dialect, "hello", stream=stream)

    assert (answer.text, answer.finish_reason) == (SAID, "length")


@each_way
@each_dialect
async def test_a_conversation_with_a_tool(daemon, judge, dialect, stream):
    """The call that the server makes fits the tool's schema, and its result is understood as such."""
    first = await ask(daemon, dialect, "What is the weather?", tools=[TIME, WEATHER], stream=stream)
    ((name, arguments),) = first.called
    assert name == "get_weather"
    jsonschema.validate(arguments, WEATHER["input_schema"])
    assert first.finish_reason == "tool_calls"

    call = {key: first.calls[0][key] for key in ("id", "name", "arguments_json")}
    turn = {"role": "assistant", "parts": [], "tool_calls": [call]}
    result = says("tool", "rain", tool_call_id=call["id"], tool_name=name)
    second = await ask(daemon, dialect, "What is the weather?", turn, result, tools=[TIME, WEATHER], stream=stream)
    assert second.calls == []
    assert second.text
    assert judge.findings() == []


@each_way
@each_dialect
async def test_two_calls(daemon, judge, dialect, stream):
    """Two calls beside text, whose arguments come in fragments: whole, and with two ids."""
    arguments: list[Any] = [{"city": "Köln", "deep": [1, {"a": None}]}, {}]
    calls = [{"name": "get_weather", "arguments": arguments[0]}, {"name": "get_time", "arguments": arguments[1]}]
    judge.script({"type": "reply", "text": "One moment.", "tool_calls": calls})
    answer = await ask(daemon, dialect, "hello", tools=[WEATHER, TIME], stream=stream)

    assert answer.text == "One moment."
    assert answer.called == [("get_weather", arguments[0]), ("get_time", arguments[1])]
    assert len({call["id"] for call in answer.calls}) == 2


@each_dialect
async def test_no_tool_where_none_is_wanted(daemon, judge, dialect):
    """`tool_choice` is understood: a named tool is called, and with `none` none is."""
    named = await ask(
        daemon, dialect, "weather?", tools=[WEATHER, TIME], tool_choice={"specific": {"name": "get_time"}}
    )
    none = await ask(daemon, dialect, "weather?", tools=[WEATHER, TIME], tool_choice="none")

    assert [name for name, _ in named.called] == ["get_time"]
    assert none.calls == []
    assert none.text


@each_way
@pytest.mark.parametrize("dialect", ["openai_compatible", "openai_responses", "gemini"])
async def test_json_of_a_schema(daemon, judge, dialect, stream):
    """The schema arrives: the answer satisfies it."""
    schema = {
        "type": "object",
        "properties": {"total": {"type": "number"}, "lines": {"type": "array", "items": {"type": "string"}}},
        "required": ["total", "lines"],
        "additionalProperties": False,
    }
    mode = {"json_schema": {"name": "invoice", "schema": schema}}
    answer = await ask(daemon, dialect, "hello", output_mode=mode, stream=stream)

    jsonschema.validate(answer.json, schema)


# --- retries, judged ---


@each_way
@each_server
async def test_too_many_requests(daemon, judge, server, stream):
    """After 429 with `Retry-After` the next attempt comes when it may, and succeeds."""
    judge.script(fails(429, retry_after=0.4), {"type": "reply", "text": SAID})
    answer = await ask(daemon, server, "hello", stream=stream)

    assert answer.text == SAID
    first, second = judge.requests()
    assert second["started_at"] - first["ended_at"] >= 0.4
    assert judge.findings() == []


@each_way
@each_dialect
async def test_waits_grow(daemon, judge, dialect, stream):
    """Without `Retry-After` each wait is longer than the one before, and the last attempt may succeed."""
    judge.script(fails(500, times=RETRIES), {"type": "reply", "text": SAID})
    answer = await ask(daemon, dialect, "hello", stream=stream)

    assert answer.text == SAID
    requests = judge.requests()
    assert len(requests) == 1 + RETRIES
    waits = [after["started_at"] - before["ended_at"] for before, after in pairwise(requests)]
    assert waits == sorted(waits)
    assert judge.findings() == []


@each_dialect
async def test_an_outage(daemon, judge, dialect):
    """A server that stays down is asked a few times, and then left."""
    judge.script(fails(502, times=None))
    error = (await ask(daemon, dialect, "hello")).error

    assert (error["kind"], error["retryable"], error["provider_http_status"]) == ("backend_transient", True, 502)
    assert len(judge.requests()) == 1 + RETRIES
    assert judge.findings() == []


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, "invalid_request"),
        (401, "authentication"),
        (402, "backend_permanent"),
        (403, "authorization"),
        (404, "invalid_request"),
        (413, "invalid_request"),
        (422, "invalid_request"),
    ],
)
@each_server
async def test_what_is_hopeless(daemon, judge, server, status, kind):
    """A request that was refused is not sent again, and the provider's words reach the client."""
    judge.script(fails(status, message="these are the words"))
    error = (await ask(daemon, server, "hello")).error

    assert (error["kind"], error["retryable"], error["provider_http_status"]) == (kind, False, status)
    assert "these are the words" in error["message"]
    assert len(judge.requests()) == 1
    assert judge.findings() == []


@each_server
async def test_a_slow_beginning(daemon, judge, server):
    """A first token that takes longer than a pause may is waited for, and nothing is asked twice."""
    judge.script({"type": "slow_first_token", "seconds": 1.5 * IDLE_MS / 1000}, {"type": "reply", "text": SAID})
    answer = await ask(daemon, server, "hello")

    assert answer.text == SAID
    assert len(judge.requests()) == 1


@each_dialect
async def test_a_connection_that_drops_before_any_text(daemon, judge, dialect):
    """It is asked again, and the client sees one answer."""
    before_text = 0 if dialect == "gemini" else 1
    judge.script(breaks("disconnect", after=before_text), {"type": "reply", "text": SAID, "times": 2})
    answer = await ask(daemon, dialect, "hello")

    assert answer.text == SAID
    assert len(answer.of("started")) == 1
    assert len(judge.requests()) == 2
    assert judge.findings() == []


# --- streams that break ---


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
@each_server
async def test_a_stream_that_ends_early(daemon, judge, server, kind):
    """With a clean end of the connection or without one: it fails as transient, once, and what came stands."""
    judge.script(breaks(kind, after=5), {"type": "reply", "text": SAID, "times": 2})
    answer = await ask(daemon, server, "hello")

    assert (answer.error["kind"], answer.error["retryable"]) == ("backend_transient", True)
    assert SAID.startswith(answer.text)
    assert 0 < len(answer.text) < len(SAID)
    assert [request["fault"] for request in judge.requests()] == [f"stream:{kind}@5"]


@pytest.mark.parametrize("kind", ["disconnect", "truncate"])
@pytest.mark.parametrize("dialect", ["openai_compatible", "openai_responses", "anthropic"])
async def test_a_call_that_ends_early(daemon, judge, dialect, kind):
    """Whatever of its arguments has come, it never becomes ready."""
    call = {"name": "get_weather", "arguments": {"city": "a city with a rather long name"}}
    judge.script(breaks(kind, after=4), {"type": "reply", "tool_calls": [call], "times": 2})
    answer = await ask(daemon, dialect, "hello", tools=[WEATHER])

    assert answer.of("tool_call_delta")
    assert answer.calls == []
    assert answer.error["kind"] == "backend_transient"
    assert len(judge.requests()) == 1


@each_server
async def test_an_event_that_is_broken(daemon, judge, server):
    """Half an event fails the request; the text does not go on as if nothing were missing."""
    judge.script(breaks("malformed", after=5), {"type": "reply", "text": SAID})
    answer = await ask(daemon, server, "hello")

    assert (answer.error["kind"], answer.error["retryable"]) == ("protocol_violation", False)
    assert SAID.startswith(answer.text)
    assert len(judge.requests()) == 1


@each_dialect
async def test_a_stream_that_stalls(daemon, judge, dialect):
    """It is left after the idle time: the server sees its client go, and does not go on."""
    judge.script(breaks("stall", after=5, stall_seconds=50), {"type": "reply", "text": SAID})
    answer = await ask(daemon, dialect, "hello")

    assert answer.error["kind"] == "timeout"
    assert "idle_timeout_ms" in answer.error["message"]
    (request,) = judge.requests()
    assert not request["completed"]
    assert IDLE_MS / 1000 * 0.5 < request["stall_waited"] < 10
    assert judge.findings() == []


@each_dialect
async def test_cancel(daemon, judge, dialect):
    """A client that cancels in mid-answer ends the server's work at once."""
    judge.script(breaks("stall", after=5, stall_seconds=50), {"type": "reply", "text": SAID})
    async with connected(daemon) as client:
        await client.infer(dialect, messages=user("hello"))
        await client.expect("started")
        await client.expect("output_text_delta")
        await client.cancel()
        while (frame := await client.frame())["type"] == "output_text_delta":
            pass
    assert frame["error"]["kind"] == "cancelled"

    (request,) = judge.requests()
    assert not request["completed"]
    assert request["stall_waited"] is None or request["stall_waited"] < IDLE_MS / 1000


@pytest.mark.parametrize(
    ("dialect", "stream"),
    [
        ("openai_compatible", True),
        ("openai_compatible", False),
        ("openai_responses", True),
        ("openai_responses", False),
        ("anthropic", True),
    ],
)
async def test_arguments_that_are_no_json(daemon, judge, dialect, stream):
    """A call that the server says is complete and that is not: `protocol_violation`, and never ready."""
    judge.script({"type": "tool_fault", "kind": "malformed_arguments"})
    answer = await ask(daemon, dialect, "What is the weather?", tools=[WEATHER], stream=stream)

    assert answer.calls == []
    assert answer.error["kind"] == "protocol_violation"
    assert len(judge.requests()) == 1


async def test_many_at_once(daemon, judge):
    """Forty requests, of which every second meets an error first: all are answered, and none is asked too often."""
    judge.script(*[fails(500, match={"path": "*"}) for _ in range(20)])
    answers = await asyncio.gather(
        *(ask(daemon, dialect, f"question {number} for {dialect}") for dialect in PATHS for number in range(10))
    )

    assert all(answer.finish_reason == "stop" for answer in answers)
    assert len(judge.requests()) == 60
    assert judge.findings() == []
