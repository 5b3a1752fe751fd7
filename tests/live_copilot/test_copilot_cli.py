"""The real Copilot CLI, its sessions answered by a real model on this machine: no GitHub account, no network."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.adapters.copilot.adapter import GitHubCopilotAdapter
from beluna_gateway.adapters.decoding.finish_reasons import finish_reason
from beluna_gateway.canonical import (
    AssistantMessage,
    CanonicalRequest,
    Completed,
    JsonObject,
    OutputTextDelta,
    ResolvedCredential,
    SystemMessage,
    TextPart,
    Tool,
    ToolCall,
    ToolCallReady,
    ToolMessage,
    Usage,
    UserMessage,
)
from beluna_gateway.client import connect
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.timers import AttemptTimer, Deadlines

from ..adapters.copilot.helpers import Client, gone, profile, request
from ..fakes.answers import DONE, event, finish, plays, usage
from ..fakes.backend import fake_backend
from ..live.conftest import running_daemon
from .conftest import KEY, MODEL, LocalModel

pytestmark = [pytest.mark.live, pytest.mark.timeout(120)]

CITY: JsonObject = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = Tool("get_weather", "Current weather of a city", CITY)
FRANCE = request("What is the capital of France?")
STORY = request("Write a long story about a dragon.")


def user(text: str) -> UserMessage:
    return UserMessage((TextPart(text),))


class Live:
    def __init__(self, folder: Path, program: str, provider: dict[str, Any] | None, key: str | None) -> None:
        copilot = {"command": program, "protocol": "sdk", "provider": provider}
        # The first start unpacks the program.
        self.profile = profile(folder, copilot, connect_timeout_ms=30_000)
        self.adapter = GitHubCopilotAdapter(self.profile)
        self.key = key

    async def ask(self, asked: CanonicalRequest, client: Client | None = None) -> Client:
        client = client or Client()
        call = self.adapter.prepare(asked, MODEL, ResolvedCredential(self.key))
        with AttemptTimer(Deadlines(), self.profile.reliability) as timer:
            await call.attempt(client, timer)
        return client

    @property
    def pid(self) -> int:
        run = self.adapter._protocol.program._run
        assert run is not None
        return int(run.peer._child.pid)


@asynccontextmanager
async def started(
    folder: Path, program: str, provider: dict[str, Any] | None, key: str | None = KEY
) -> AsyncIterator[Live]:
    live = Live(folder, program, provider, key)
    try:
        yield live
    finally:
        await live.adapter.close()


def completions(model: LocalModel) -> dict[str, Any]:
    return {"base_url": f"{model.url}/v1", "wire_api": "completions"}


async def test_text(tmp_path, copilot_cli, local_model):
    """An answer streams in pieces, with usage and the model's name."""
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        client = await live.ask(FRANCE)

    assert "Paris" in client.text
    deltas = [event for event in client.events if isinstance(event, OutputTextDelta)]
    assert len(deltas) > 1
    *_, used, completed = client.events
    assert isinstance(used, Usage)
    assert used.usage.input_tokens
    assert used.usage.output_tokens
    assert isinstance(completed, Completed)
    assert completed.finish_reason == "stop"
    assert completed.backend_metadata["model"] == MODEL


@pytest.mark.parametrize(
    "provider",
    [
        {"wire_api": "responses", "path": "/v1"},
        {"type": "anthropic", "path": ""},
    ],
    ids=["responses", "anthropic"],
)
async def test_the_providers_other_languages(tmp_path, copilot_cli, local_model, provider):
    """`copilot.provider` passes through: the program speaks the provider's language, and we see the same events."""
    provider = {**provider, "base_url": local_model.url + provider["path"]}
    del provider["path"]
    async with started(tmp_path, copilot_cli, provider) as live:
        client = await live.ask(request("What is the capital of France?", max_output_tokens=30))

    assert client.text.strip()  # without a temperature of 0, as the program leaves it here, it may say anything
    assert client.completed is not None
    assert client.completed.finish_reason in ("stop", "length")
    (usage,) = (event.usage for event in client.events if isinstance(event, Usage))
    assert (usage.input_tokens or 0) > 5
    assert (usage.output_tokens or 0) > 1


async def test_unstreamed(tmp_path, copilot_cli, local_model):
    """Without `stream` the text comes as one delta."""
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        client = await live.ask(request("What is the capital of France?", stream=False))

    assert isinstance(client.events[0], OutputTextDelta)
    assert "Paris" in client.text
    assert not any(isinstance(event, OutputTextDelta) for event in client.events[1:])


async def test_a_tool_call_and_its_result(tmp_path, copilot_cli, local_model):
    """A call is handed back and not run; its result in the next request's history is answered in words."""
    question = (SystemMessage((TextPart("You are helpful."),)), user("What is the weather in Paris?"))
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        client = await live.ask(request(messages=question, tools=(WEATHER,)))
        (ready,) = (event for event in client.events if isinstance(event, ToolCallReady))
        assert ready.call.name == "get_weather"
        assert set(ready.call.arguments) == {"city"}
        assert client.completed is not None
        assert client.completed.finish_reason == "tool_calls"

        history = (
            *question,
            AssistantMessage((), (ready.call,)),
            ToolMessage(ready.call.id, "get_weather", (TextPart('{"temperature": "22 degrees"}'),)),
        )
        client = await live.ask(request(messages=history, tools=(WEATHER,)))
        assert "22" in client.text
        assert client.completed is not None
        assert client.completed.finish_reason == "stop"


async def test_the_whole_history_is_seen(tmp_path, copilot_cli, local_model):
    """The model is asked with every turn as what it is: it costs the tokens that all of them have."""
    turns = (user("One."), AssistantMessage((TextPart("Two. " * 50),)), user("Three?"))
    calls = (
        user("Weather?"),
        AssistantMessage((), (ToolCall("c1", "get_weather", '{"city":"Paris"}', {"city": "Paris"}),)),
        ToolMessage("c1", "get_weather", (TextPart("22 degrees. " * 50),)),
        AssistantMessage((TextPart("Warm."),)),
        user("Thanks."),
    )
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        tokens = []
        for messages in ((user("Three?"),), turns, calls):
            client = await live.ask(request(messages=messages, max_output_tokens=5))
            (usage,) = (event.usage for event in client.events if isinstance(event, Usage))
            tokens.append(usage.input_tokens or 0)

    assert tokens[0] < 50
    assert tokens[1] > 100
    assert tokens[2] > 150


async def test_length(tmp_path, copilot_cli, local_model):
    """An answer that the limit cuts ends as `length`; the program does not go on with it."""
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        client = await live.ask(request("Write a long story about a dragon.", max_output_tokens=8))

    assert client.completed is not None
    assert client.completed.finish_reason == "length"
    (usage,) = (event.usage for event in client.events if isinstance(event, Usage))
    assert usage.output_tokens == 8


async def test_a_call_that_was_cut(tmp_path, copilot_cli):
    """A call that the provider cuts never becomes ready, and the answer ends with the provider's word for it.

    The program itself shows such a call as a whole one, with `{}` for the arguments that it could not read.
    """
    calls = [tool_chunk(0, "c1", '{"city":"Paris"}'), tool_chunk(1, "c2", '{"city":')]
    async with fake_backend() as provider:
        settings = {"base_url": provider.url("p"), "wire_api": "completions"}
        async with started(tmp_path, copilot_cli, settings) as live:
            for word in ("content_filter", "length"):
                provider.on("p", plays(*calls, finish(word), usage(), DONE))
                client = await live.ask(request("What is the weather?", tools=(WEATHER,)))

                assert [event.call.id for event in client.events if isinstance(event, ToolCallReady)] == ["c1"]
                assert client.completed is not None
                assert client.completed.finish_reason == finish_reason(word)


def tool_chunk(index: int, call_id: str, arguments: str) -> bytes:
    """A tool call as OpenAI streams it: the program wants the `type`, too."""
    function = {"name": "get_weather", "arguments": arguments}
    call = {"index": index, "id": call_id, "type": "function", "function": function}
    return event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})


async def test_at_the_same_time(tmp_path, copilot_cli, local_model):
    """Sessions of one program do not mix."""
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        clients = await asyncio.gather(*(live.ask(FRANCE) for _ in range(3)))

    assert all("Paris" in client.text for client in clients)


async def test_cancel(tmp_path, copilot_cli, local_model):
    """A cancel in mid-answer leaves at once, ends the model's work, and the program serves the next request."""
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        client = Client()
        asking = asyncio.create_task(live.ask(STORY, client))
        await client.came.wait()
        pid = live.pid
        asking.cancel()
        await asyncio.wait([asking])
        async with asyncio.timeout(10):
            while await asyncio.to_thread(local_model.computing):
                await asyncio.sleep(0.05)

        assert "Paris" in (await live.ask(FRANCE)).text
        assert live.pid == pid
        run = live.adapter._protocol.program._run
        assert run is not None
        async with asyncio.timeout(10):
            while run.users:
                await asyncio.sleep(0.05)
        assert run.peer.client._sessions == {}
        assert await run.peer.client.list_sessions() == []


async def test_a_wrong_key(tmp_path, copilot_cli, local_model):
    """The provider's refusal is `authentication`, at once, and its key is nowhere in it."""
    async with started(tmp_path, copilot_cli, completions(local_model), "wrong-key") as live:
        with pytest.raises(GatewayError) as failure:
            await live.ask(FRANCE)

    assert (failure.value.kind, failure.value.retryable) == ("authentication", False)
    assert failure.value.provider_http_status == 401
    assert "wrong-key" not in failure.value.message


async def test_too_long(tmp_path, copilot_cli, local_model):
    """A prompt that does not fit into the model is the request's own mistake."""
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        with pytest.raises(GatewayError) as failure:
            await live.ask(request("word " * 8000))

    assert (failure.value.kind, failure.value.retryable) == ("invalid_request", False)


async def test_not_signed_in(tmp_path, copilot_cli):
    """Without a provider and a sign-in it is `authentication`, and says what to do."""
    async with started(tmp_path, copilot_cli, None, None) as live:
        with pytest.raises(GatewayError, match="copilot login") as failure:
            await live.ask(FRANCE)

    assert (failure.value.kind, failure.value.retryable) == ("authentication", False)


async def test_a_killed_program_is_replaced(tmp_path, copilot_cli, local_model):
    """kill -9 fails the request in flight as transient, and the next one starts another program."""
    async with started(tmp_path, copilot_cli, completions(local_model)) as live:
        client = Client()
        asking = asyncio.create_task(live.ask(STORY, client))
        await client.came.wait()
        guard = live.pid
        os.kill(int(Path(f"/proc/{guard}/task/{guard}/children").read_text()), signal.SIGKILL)
        with pytest.raises(GatewayError) as failure:
            await asking

        assert (failure.value.kind, failure.value.retryable) == ("backend_transient", True)
        assert await gone(guard)
        assert "Paris" in (await live.ask(FRANCE)).text


async def test_through_the_daemon(tmp_path, copilot_cli, local_model):
    """The daemon serves it over its socket, and the program does not outlive the daemon."""
    backend = {
        "id": "copilot",
        "dialect": "github_copilot_sdk",
        "credential": {"type": "inline_token", "token": KEY},
        "default_model": MODEL,
        "copilot": {"command": copilot_cli, "protocol": "sdk", "provider": completions(local_model)},
        "reliability": {"connect_timeout_ms": 30_000},
    }
    config = {"ai_gateway": {"default_backend": "copilot", "backends": [backend]}}
    with running_daemon(tmp_path, config) as log:
        async with connect(tmp_path / "beluna.sock") as client:
            messages = [{"role": "user", "parts": [{"text": {"text": "What is the capital of France?"}}]}]
            frames = [frame async for frame in client.infer(messages=messages)]
        guard = _only_child(int((tmp_path / "pid").read_text()))

    assert [frames[0]["type"], frames[-1]["type"]] == ["started", "completed"]
    assert "Paris" in "".join(frame.get("delta", "") for frame in frames)
    assert await gone(guard)
    assert KEY not in log.read_text()
    assert KEY not in json.dumps(frames)


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
