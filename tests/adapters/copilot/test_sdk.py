"""`copilot.protocol` `sdk`: the real SDK against a scripted program, which can misbehave."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.adapters.copilot.turns import history
from beluna_gateway.canonical import (
    AssistantMessage,
    Cache,
    Completed,
    ImagePart,
    OtherFinishReason,
    OutputTextDelta,
    Reasoning,
    ResolvedCredential,
    Sampling,
    SpecificTool,
    SystemMessage,
    TextPart,
    Tool,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    ToolMessage,
    Usage,
    UserMessage,
)
from beluna_gateway.errors import GatewayError

from .helpers import Client, alive, failure_of, gone, peer, request

TEXT = (TextPart("x"),)
WEATHER = Tool("weather", "Tells the weather.", {"type": "object", "properties": {}})
SEND = "session.sendMessages"
PROVIDER = {"provider": {"base_url": "http://127.0.0.1:1/v1", "wire_api": "completions"}}


@pytest.fixture(scope="module", autouse=True)
def _imported() -> None:
    """The SDK's second or two of importing come before the first test, and not at all where no test of it runs."""
    pytest.importorskip("copilot", reason="needs the extra `copilot`")


def sdk(folder: Path, *behaviour: str, **options: Any):
    return peer(folder, *behaviour, protocol="sdk", **options)


# --- answers ---


async def test_text(tmp_path):
    """Deltas come as they are, then usage and the end; the session is ended afterwards."""
    async with sdk(tmp_path) as backend:
        client = await backend.ask()

        assert [type(event) for event in client.events] == [OutputTextDelta, OutputTextDelta, Usage, Completed]
        assert client.text == "hello world"
        await backend.until_sent("session.detach")
        assert backend.sent("session.abort")


async def test_sessions_leave_nothing(tmp_path):
    """However many requests there were, no session is kept, whether it was answered, failed or cancelled."""
    async with sdk(tmp_path) as backend:
        await asyncio.gather(*(backend.ask() for _ in range(5)))
        asking = asyncio.create_task(backend.ask())
        await backend.until_sent("session.resume", 6)
        asking.cancel()
        await backend.until_sent("session.detach", 6)
        run = backend.adapter._protocol.program._run
        async with asyncio.timeout(10):
            while run.users:
                await asyncio.sleep(0.01)

        assert run.peer.client._sessions == {}
        assert run.peer.turns == set()


async def test_unstreamed(tmp_path):
    """Without `stream` the text comes as one delta."""
    async with sdk(tmp_path) as backend:
        client = await backend.ask(request(stream=False))

    assert client.events[0] == OutputTextDelta("hello world")
    assert isinstance(client.events[-1], Completed)


async def test_what_the_session_is_told(tmp_path):
    """A session has the history of its request, our system text for the program's, and no tool of its own."""
    async with sdk(tmp_path, settings=PROVIDER) as backend:
        messages = (SystemMessage((TextPart("Be brief."),)), UserMessage((TextPart("Hé?"),)))
        await backend.ask(request(messages=messages, max_output_tokens=7), None, "sk-1")

        (session,) = backend.sent("session.resume")
        assert session["model"] == "copilot"
        assert session["systemMessage"] == {"mode": "replace", "content": "Be brief."}
        assert session["availableTools"] == []
        assert session["infiniteSessions"] == {"enabled": False}
        assert session["streaming"] is True
        assert session["provider"] == {
            "type": "openai",
            "baseUrl": "http://127.0.0.1:1/v1",
            "wireApi": "completions",
            "apiKey": "sk-1",
            "maxOutputTokens": 7,
        }
        assert [sent["messages"] for sent in backend.sent(SEND)] == [[]]
        (seen,) = (entry for entry in backend.log if "history" in entry)
        assert [json.loads(line)["type"] for line in seen["history"].splitlines()] == ["session.start", "user.message"]
        assert seen["missing"] == "ENOENT"


async def test_tool_calls(tmp_path):
    """The request's tools are the session's only ones; a call of one is handed back and not answered."""
    async with sdk(tmp_path, "turn=tools") as backend:
        client = await backend.ask(request(tools=(WEATHER,)))

        assert [event.call.name for event in client.events if isinstance(event, ToolCallReady)] == ["weather"]
        assert client.completed is not None
        assert client.completed.finish_reason == "tool_calls"
        (session,) = backend.sent("session.resume")
        assert session["availableTools"] == ["custom:weather"]
        (tool,) = session["tools"]
        assert (tool["name"], tool["overridesBuiltInTool"], tool["skipPermission"]) == ("weather", True, True)
        await backend.until_sent("session.detach")
        assert backend.sent("session.tools.handlePendingToolCall") == []


async def test_a_call_that_was_cut(tmp_path):
    """A content filter that cuts a call ends the answer as `content_filter`: the call never becomes ready."""
    async with sdk(tmp_path, "turn=cut-call") as backend:
        client = await backend.ask(request(tools=(WEATHER,)))

    assert [type(event) for event in client.events[2:]] == [ToolCallDelta, Usage, Completed]
    assert client.completed is not None
    assert client.completed.finish_reason == OtherFinishReason("content_filter")


def test_a_history_is_one_of_the_sdks_own_types():
    """Each event that a session is to be resumed with is one that the SDK reads, with nothing that it does not know."""
    from copilot.generated.session_events import SessionEvent

    asked = request(
        messages=(
            UserMessage(TEXT),
            AssistantMessage(TEXT, (ToolCall("c", "weather", '{"a":1}', {"a": 1}),)),
            ToolMessage("c", "weather", TEXT),
        )
    )
    for line in history(asked, "00000000-0000-4000-8000-000000000000", "m").splitlines():
        event = json.loads(line)
        read = SessionEvent.from_dict(event).to_dict()

        assert (read["type"], set(read["data"])) == (event["type"], set(event["data"]))


async def test_tool_choice_none(tmp_path):
    """`none` has no word here: the tools are left out."""
    async with sdk(tmp_path) as backend:
        await backend.ask(request(tools=(WEATHER,), tool_choice="none"))

        assert backend.sent("session.resume")[0]["availableTools"] == []


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"tools": (WEATHER,), "tool_choice": "required"}, "tool_choice"),
        ({"tools": (WEATHER,), "tool_choice": SpecificTool("weather")}, "tool_choice"),
        ({"output_mode": "json_object"}, "output_mode"),
        ({"max_output_tokens": 5}, "limits.max_output_tokens"),
        ({"sampling": Sampling(temperature=0.0)}, "sampling.temperature"),
        ({"sampling": Sampling(top_p=1.0)}, "sampling.top_p"),
        ({"sampling": Sampling(seed=0)}, "sampling.seed"),
        ({"sampling": Sampling(stop=("x",))}, "sampling.stop"),
        ({"enable_thinking": True}, "enable_thinking"),
        ({"reasoning": Reasoning(effort="low")}, "reasoning"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"cache": Cache(key="k")}, "cache.key"),
        ({"cache": Cache(retention="long")}, "cache.retention"),
        ({"provider_options": {"a": 1}}, "provider_options"),
        ({"messages": (UserMessage((ImagePart("https://x/y", None, None),)),)}, "messages[0].parts[0].image_url"),
        ({"messages": (UserMessage(TEXT), SystemMessage(TEXT))}, "messages[1]"),
    ],
)
async def test_what_has_no_place_is_refused(tmp_path, fields, named):
    """What a session has no place for is refused by name, before any program is started."""
    async with sdk(tmp_path) as backend:
        failure = await failure_of(backend, request(**fields))

        assert failure.kind == "unsupported_capability"
        assert failure.message.startswith(f"{named}:")
        assert backend.log == []


async def test_a_model_that_the_provider_fixes(tmp_path):
    """Where the configuration fixes the provider's model, a request for another one is refused."""
    settings = {"provider": {"base_url": "http://127.0.0.1:1/v1", "model_id": "m1"}}
    async with sdk(tmp_path, settings=settings) as backend:
        await backend.ask(request(model="m1"))
        failure = await failure_of(backend, request(model="m2"))

        assert failure.kind == "unsupported_capability"
        assert failure.message.startswith("model:")


async def test_capabilities(tmp_path):
    """It streams and calls tools."""
    async with sdk(tmp_path) as backend:
        can = backend.adapter.capabilities.model_dump()

    assert {name for name, value in can.items() if value} == {"streaming", "tool_calls", "parallel_tool_calls"}


# --- sign-in ---


async def test_not_signed_in(tmp_path):
    """Nobody signed in, no token and no provider: it fails for good, with words on what to do, and asks no model."""
    async with sdk(tmp_path, "signed-out") as backend:
        failure = await failure_of(backend)

        assert (failure.kind, failure.retryable) == ("authentication", False)
        assert "copilot login" in failure.message
        assert backend.sent(SEND) == []
        with pytest.raises(GatewayError, match="not signed in"):
            await backend.adapter.probe(ResolvedCredential(None))
        assert len(backend.pids) == 1


async def test_a_token_that_is_not_taken(tmp_path):
    """A session that cannot be opened while nobody is signed in is `authentication`, in the program's words."""
    async with sdk(tmp_path, "signed-out", "error-to=session.resume") as backend:
        failure = await failure_of(backend, None, None, "ghu_1")

        assert (failure.kind, failure.retryable) == ("authentication", False)
        assert "as you wish" in failure.message
        assert alive(backend.pids[0])


async def test_the_token_reaches_the_program(tmp_path, monkeypatch):
    """A GitHub token is in the program's environment, with a home of its own; no other secret of ours is."""
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("GITHUB_TOKEN", "canary")
    async with sdk(tmp_path) as backend:
        await backend.ask(None, None, "ghu_1")

        environment = backend.log[0]["environment"]
        assert environment["COPILOT_GITHUB_TOKEN"] == "ghu_1"
        assert "canary" not in environment.values()
        assert Path(environment["COPILOT_HOME"]).is_dir()
        assert "ghu_1" not in str(backend.log[0]["args"])

    assert not Path(environment["COPILOT_HOME"]).exists()


async def test_a_providers_key_is_not_in_the_environment(tmp_path):
    """With a provider the credential is the provider's, and a new one needs no new program."""
    async with sdk(tmp_path, settings=PROVIDER) as backend:
        await backend.ask(None, None, "sk-1")
        await backend.ask(None, None, "sk-2")

        assert [session["provider"]["apiKey"] for session in backend.sent("session.resume")] == ["sk-1", "sk-2"]
        assert len(backend.pids) == 1
        assert not any(value.startswith("sk-") for value in backend.log[0]["environment"].values())


async def test_a_changed_token_changes_the_program(tmp_path):
    """A request with a new token gets a program started with it."""
    async with sdk(tmp_path) as backend:
        await backend.ask(None, None, "ghu_1")
        await backend.ask(None, None, "ghu_2")

        started = [entry["environment"]["COPILOT_GITHUB_TOKEN"] for entry in backend.log if "started" in entry]
        assert started == ["ghu_1", "ghu_2"]
        assert await gone(backend.pids[0])


async def test_check(tmp_path):
    """A probe tells who is signed in, or whose model it is."""
    async with sdk(tmp_path) as backend:
        assert "octocat" in await backend.adapter.probe(ResolvedCredential(None))
    async with sdk(tmp_path, settings=PROVIDER) as backend:
        assert "127.0.0.1:1" in await backend.adapter.probe(ResolvedCredential("sk"))


async def test_without_the_sdk(tmp_path, monkeypatch):
    """Without the package it is permanent, and the message has the command that installs it."""
    monkeypatch.setitem(sys.modules, "copilot", None)
    async with sdk(tmp_path) as backend:
        failure = await failure_of(backend)

    assert (failure.kind, failure.retryable) == ("backend_permanent", False)
    assert "pip install 'beluna-gateway[copilot]'" in failure.message


# --- the program's life ---


async def test_one_program_for_many_requests(tmp_path):
    """Requests share one program, each with a session of its own."""
    async with sdk(tmp_path) as backend:
        clients = await asyncio.gather(*(backend.ask() for _ in range(10)))

        assert [client.text for client in clients] == ["hello world"] * 10
        assert len({session["sessionId"] for session in backend.sent("session.resume")}) == 10
        assert len(backend.pids) == 1


@pytest.mark.parametrize("fault", ["exit", "close"])
async def test_an_end_in_mid_answer(tmp_path, fault):
    """A program that ends, or hangs up, in an answer is transient and never a `Completed`; the next one is new."""
    async with sdk(tmp_path, f"turn={fault}") as backend:
        client = Client()
        failure = await failure_of(backend, None, client)

        assert (failure.kind, failure.retryable) == ("backend_transient", True)
        assert ("out of memory" in failure.message) is (fault == "exit")
        assert client.text in ("", "hello")
        assert client.completed is None
        assert await gone(backend.pids[0])
        await backend.adapter.probe(ResolvedCredential(None))
        assert len(backend.pids) == 2


async def test_a_crash_fails_every_request_in_flight(tmp_path):
    """When the program is killed from outside, each request in it fails as transient."""
    async with sdk(tmp_path, "turn=silent") as backend:
        asking = [asyncio.create_task(failure_of(backend)) for _ in range(3)]
        await backend.until_sent(SEND, 3)
        os.kill(backend.pids[0], signal.SIGKILL)

        failures = await asyncio.gather(*asking)
        assert [(f.kind, f.retryable) for f in failures] == [("backend_transient", True)] * 3


async def test_a_failed_call_is_not_tried_again_by_the_program(tmp_path):
    """The first failed call of the model ends the answer and the session; trying again is the gateway's."""
    async with sdk(tmp_path, "turn=fail") as backend:
        failure = await failure_of(backend)

        assert (failure.kind, failure.provider_http_status) == ("backend_transient", 503)
        assert "busy" in failure.message
        await backend.until_sent("session.abort")
        assert alive(backend.pids[0])


async def test_a_session_that_cannot_be_opened(tmp_path):
    """The program's refusal is the request's failure."""
    async with sdk(tmp_path, "error-to=session.resume") as backend:
        failure = await failure_of(backend)

        assert (failure.kind, failure.retryable, failure.provider_code) == ("backend_transient", True, "-32603")
        assert alive(backend.pids[0])


async def test_a_start_that_fails_shows_what_the_program_said(tmp_path):
    """A program that ends in its start is transient, with its exit status and its last words."""
    async with sdk(tmp_path, "start=exit") as backend:
        failure = await failure_of(backend)

    assert (failure.kind, failure.retryable) == ("backend_transient", True)
    assert "exit status 3" in failure.message
    assert "cannot unpack" in failure.message


async def test_a_start_that_hangs(tmp_path):
    """A program that never says where it listens is a timeout that names its timer, and ends with the daemon."""
    async with sdk(tmp_path, "start=silent", connect_timeout_ms=1000) as backend:
        failure = await failure_of(backend)

        assert failure.kind == "timeout"
        assert "connect_timeout_ms" in failure.message


def script(folder: Path, text: str) -> dict[str, Any]:
    """The settings of a program that is this shell script."""
    (folder / "peer.log").touch()
    return {"command": "/bin/sh", "args": ["-c", text]}


@pytest.mark.parametrize("port", ["0", "99999999999"])
async def test_a_port_that_is_none(tmp_path, port):
    """Is the program's failure, and no bug of ours."""
    settings = script(tmp_path, f"echo listening on port {port}; exec sleep 100")
    async with sdk(tmp_path, settings=settings) as backend:
        failure = await failure_of(backend)

    assert (failure.kind, failure.retryable) == ("backend_transient", True)
    assert "the Copilot CLI failed while connecting to it" in failure.message


async def test_an_end_while_it_is_connected_to(tmp_path):
    """A program that ends before it has answered is told at once, though somebody holds its port."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        port = silent.getsockname()[1]
        settings = script(tmp_path, f"echo listening on port {port}; sleep 0.1; echo last words >&2; exit 7")
        async with sdk(tmp_path, settings=settings) as backend:
            failure = await failure_of(backend)

    assert (failure.kind, failure.retryable) == ("backend_transient", True)
    assert "exit status 7" in failure.message
    assert "last words" in failure.message


async def test_idle_stop(tmp_path):
    """A program without requests ends after `idle_stop_ms`."""
    async with sdk(tmp_path, settings={"idle_stop_ms": 200}) as backend:
        await backend.ask()
        assert await gone(backend.pids[0])

        assert (await backend.ask()).text == "hello world"


async def test_unread_answers_are_bounded(tmp_path):
    """What a client leaves unread is bounded by `max_event_bytes`; more ends its session, and only that."""
    async with sdk(tmp_path, "turn=flood", max_event_bytes=20_000) as backend:
        client = Client(slow=True)
        asking = asyncio.create_task(failure_of(backend, None, client))
        await backend.until_sent("flooded")
        client.read()
        failure = await asking

        assert failure.kind == "budget_exceeded"
        await backend.until_sent("session.detach")
        assert alive(backend.pids[0])


# --- cancellation ---


@pytest.mark.parametrize("turn", ["silent", "hang"])
async def test_a_cancel_reaches_the_program(tmp_path, turn):
    """Leaving an attempt waits for nothing, the session is aborted and ended, and the program lives."""
    async with sdk(tmp_path, f"turn={turn}") as backend:
        asking = asyncio.create_task(backend.ask())
        await backend.until_sent(SEND)
        await asyncio.sleep(0.1)
        asking.cancel()
        began = time.monotonic()
        await asyncio.wait([asking])
        assert time.monotonic() - began < 0.5
        assert asking.cancelled()

        await backend.until_sent("session.abort")
        await backend.until_sent("session.detach")
        await asyncio.sleep(2.5)
        assert alive(backend.pids[0])


@pytest.mark.parametrize("deaf_to", ["session.abort", "session.resume", SEND])
async def test_a_deaf_program_is_killed(tmp_path, deaf_to):
    """A program that does not react within two seconds of a cancel is killed, whatever it hangs in."""
    async with sdk(tmp_path, "turn=silent", f"deaf-to={deaf_to}") as backend:
        asking = asyncio.create_task(backend.ask())
        await backend.until_sent("session.resume" if deaf_to == "session.resume" else SEND)
        asking.cancel()
        await asyncio.wait([asking])

        assert await gone(backend.pids[0])
        await backend.adapter.probe(ResolvedCredential(None))
        assert len(backend.pids) == 2


async def test_a_timer_reaches_the_program(tmp_path):
    """A session that says nothing is ended by our timer, and aborted."""
    async with sdk(tmp_path, "turn=hang", idle_timeout_ms=500) as backend:
        client = Client()
        failure = await failure_of(backend, None, client)

        assert failure.kind == "timeout"
        assert "idle_timeout_ms" in failure.message
        assert client.text == "hello"
        await backend.until_sent("session.abort")


async def test_close_in_mid_request(tmp_path):
    """Closing the backend ends its program and fails the requests in it."""
    async with sdk(tmp_path, "turn=silent") as backend:
        asking = asyncio.create_task(failure_of(backend))
        await backend.until_sent(SEND)
        await backend.adapter.close()

        assert (await asking).kind == "internal"


async def test_a_client_that_does_not_read_stops_the_timers(tmp_path):
    """While the client does not read, the backend is not accused of silence."""
    async with sdk(tmp_path, idle_timeout_ms=200) as backend:
        client = Client(slow=True)
        asking = asyncio.create_task(backend.ask(None, client))
        await client.came.wait()
        await asyncio.sleep(0.6)

        client.read()
        await asking

    assert client.text == "hello world"
