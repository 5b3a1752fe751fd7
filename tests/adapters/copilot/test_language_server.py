"""`copilot.protocol` `language_server`: against a scripted program, which can misbehave."""

from __future__ import annotations

import asyncio
import os
import signal
import time

import pytest

from beluna_gateway.canonical import (
    AssistantMessage,
    Cache,
    Completed,
    ImagePart,
    JsonPart,
    OutputTextDelta,
    ResolvedCredential,
    Sampling,
    SystemMessage,
    TextPart,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from beluna_gateway.errors import GatewayError

from .helpers import Client, alive, failure_of, gone, peer, request

PANEL, INLINE = "textDocument/copilotPanelCompletion", "textDocument/inlineCompletion"
TEXT = (TextPart("x"),)


# --- answers ---


async def test_the_first_item_is_the_answer(tmp_path):
    """The first item that is streamed is the answer, whole; the others are not part of it."""
    async with peer(tmp_path) as backend:
        client = await backend.ask()

    assert client.events == [OutputTextDelta("first"), Completed("stop", {})]


async def test_an_item_is_passed_on_as_it_comes(tmp_path):
    """The first item reaches the client while the program is still at work, which is then told to stop."""
    async with peer(tmp_path, "panel=more-until-cancelled") as backend:
        client = await backend.ask()

        assert client.events == [OutputTextDelta("first"), Completed("stop", {})]
        assert backend.sent("$/cancelRequest")


async def test_an_answer_is_not_lost_to_a_deaf_program(tmp_path):
    """An answer that came whole is completed although the program never ends the request, and the program lives."""
    async with peer(tmp_path, "panel=deaf-after-item") as backend:
        client = await backend.ask()

        assert client.events == [OutputTextDelta("first"), Completed("stop", {})]
        assert alive(backend.pids[0])


async def test_unstreamed(tmp_path):
    """Without `stream` no partial results are asked for, and the reply's first item is the answer."""
    async with peer(tmp_path) as backend:
        client = await backend.ask(request(stream=False))

        assert client.events == [OutputTextDelta("first"), Completed("stop", {})]
        assert "partialResultToken" not in backend.sent(PANEL)[0]


async def test_empty_items_are_passed_over(tmp_path):
    """An item without text is not taken for the answer."""
    async with peer(tmp_path, "panel=empty-first") as backend:
        assert (await backend.ask()).text == "first"


async def test_no_item_is_an_empty_answer(tmp_path):
    """Where the program has nothing to say, nothing is made up."""
    async with peer(tmp_path, "items=") as backend:
        assert (await backend.ask()).events == [Completed("stop", {})]


async def test_inline_completion_where_there_is_no_panel(tmp_path):
    """A program without panel completion is asked for an inline one, and not for the panel again."""
    async with peer(tmp_path, "no-panel") as backend:
        assert (await backend.ask()).text == "first"
        assert (await backend.ask()).text == "first"

        assert len(backend.sent(PANEL)) == 1
        assert len(backend.sent(INLINE)) == 2


async def test_the_document_is_open_while_it_is_completed(tmp_path):
    """Each request has a document of its own, opened with its text before and closed after; characters are UTF-16."""
    async with peer(tmp_path) as backend:
        await backend.ask(request("one\ntwo 𝒳"))
        await backend.ask(request("other"))
        await backend.until_sent("textDocument/didClose", 2)

        first, second = (sent["textDocument"] for sent in backend.sent("textDocument/didOpen"))
        assert first["text"] == "one\ntwo 𝒳"
        assert first["uri"] != second["uri"]
        assert backend.sent(PANEL)[0]["position"] == {"line": 1, "character": 6}
        documents = [entry for entry in backend.log if entry.get("method", "").startswith("textDocument/")]
        assert [entry["method"].split("/")[1] for entry in documents] == [
            *("didOpen", "copilotPanelCompletion", "didClose"),
            *("didOpen", "copilotPanelCompletion", "didClose"),
        ]


async def test_the_handshake(tmp_path):
    """The program is told who speaks, gets the configuration it wants, and sends no telemetry for us."""
    async with peer(tmp_path) as backend:
        await backend.ask()

        methods = [entry["method"] for entry in backend.log if "method" in entry]
        assert methods[:4] == ["initialize", "initialized", "workspace/didChangeConfiguration", "checkStatus"]
        (initialize,) = backend.sent("initialize")
        assert initialize["processId"] == os.getpid()
        assert initialize["initializationOptions"]["editorInfo"]["name"] == "beluna-gateway"
        assert initialize["initializationOptions"]["editorPluginInfo"]["name"] == "beluna-gateway"
        assert backend.sent("workspace/didChangeConfiguration") == [
            {"settings": {"telemetry": {"telemetryLevel": "off"}}}
        ]


async def test_the_programs_own_requests_are_answered(tmp_path):
    """Questions of the program are answered, unknown ones refused; none of them holds an answer up."""
    async with peer(tmp_path, "panel=ask") as backend:
        assert (await backend.ask()).text == "first"

        answers = {entry["id"]: entry for entry in backend.log if isinstance(entry.get("id"), str)}
        assert answers["q1"]["result"] is None
        assert answers["q2"]["result"] == [None, None]
        assert answers["q3"]["error"]["code"] == -32601


async def test_a_client_that_does_not_read_stops_the_timers(tmp_path):
    """While the client does not read, the backend is not accused of silence."""
    async with peer(tmp_path, idle_timeout_ms=100) as backend:
        client = Client(slow=True)
        asking = asyncio.create_task(backend.ask(None, client))
        await client.came.wait()
        await asyncio.sleep(0.5)
        assert not asking.done()

        client.read()
        await asking

    assert client.completed


# --- the request ---


@pytest.mark.parametrize(
    ("messages", "document"),
    [
        ((UserMessage((TextPart("def f("),)),), "def f("),
        ((UserMessage((TextPart("a"), JsonPart({"b": 1}, '{"b":1}'))),), 'a\n{"b":1}'),
        ((SystemMessage(TEXT), UserMessage((TextPart("Hi"),))), "System: x\n\nUser: Hi\n\nAssistant:"),
        (
            (UserMessage((TextPart("Hi"),)), AssistantMessage((TextPart("Ho"),)), UserMessage(TEXT)),
            "User: Hi\n\nAssistant: Ho\n\nUser: x\n\nAssistant:",
        ),
        ((UserMessage((TextPart("Hi"),)), AssistantMessage((TextPart("I am"),))), "User: Hi\n\nAssistant: I am"),
    ],
)
async def test_documents(tmp_path, messages, document):
    """One user message is the document itself; more are a transcript that ends where the answer goes."""
    async with peer(tmp_path) as backend:
        await backend.ask(request(messages=messages))

        assert backend.sent("textDocument/didOpen")[0]["textDocument"]["text"] == document


NO_SECRET = ResolvedCredential(None)
CALL = ToolCall("1", "t", "{}", {})


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"model": "another"}, "model"),
        ({"tools": (Tool("t", None, {}),)}, "tools"),
        ({"output_mode": "json_object"}, "output_mode"),
        ({"max_output_tokens": 5}, "limits.max_output_tokens"),
        ({"sampling": Sampling(temperature=0.0)}, "sampling.temperature"),
        ({"sampling": Sampling(top_p=1.0)}, "sampling.top_p"),
        ({"sampling": Sampling(seed=0)}, "sampling.seed"),
        ({"sampling": Sampling(stop=("x",))}, "sampling.stop"),
        ({"enable_thinking": False}, "enable_thinking"),
        ({"parallel_tool_calls": False}, "parallel_tool_calls"),
        ({"service_tier": "flex"}, "service_tier"),
        ({"cache": Cache(key="k")}, "cache.key"),
        ({"cache": Cache(retention="long")}, "cache.retention"),
        ({"include_reasoning": True}, "include_reasoning"),
        ({"provider_options": {"a": 1}}, "provider_options"),
        (
            {"messages": (UserMessage((TextPart("x"), ImagePart("https://x/y", None, None))),)},
            "messages[0].parts[1].image_url",
        ),
        ({"messages": (UserMessage(TEXT), AssistantMessage((), (CALL,)), UserMessage(TEXT))}, "messages[1].tool_calls"),
        ({"messages": (UserMessage(TEXT), ToolMessage("1", "t", TEXT))}, "messages[1]"),
    ],
)
async def test_what_has_no_place_is_refused(tmp_path, fields, named):
    """What a completion has no place for is refused by name, before any program is started."""
    async with peer(tmp_path) as backend:
        failure = await failure_of(backend, request(**fields))

        assert failure.kind == "unsupported_capability"
        assert failure.message.startswith(f"{named}:")
        assert backend.log == []


async def test_capabilities(tmp_path):
    """It streams, and that is all it can."""
    async with peer(tmp_path) as backend:
        can = backend.adapter.capabilities.model_dump()

    assert {name for name, value in can.items() if value} == {"streaming"}


# --- sign-in ---


@pytest.mark.parametrize(
    ("status", "kind"),
    [("NotSignedIn", "authentication"), ("SomethingNew", "authentication"), ("NotAuthorized", "authorization")],
)
async def test_not_signed_in(tmp_path, status, kind):
    """A program that nobody is signed in to fails for good, with words on what to do; the next request asks again."""
    async with peer(tmp_path, f"status={status}") as backend:
        failure = await failure_of(backend)
        again = await failure_of(backend)

        assert (failure.kind, failure.retryable, failure.provider_code) == (kind, False, status)
        assert "sign in" in failure.message or "github.com/settings/copilot" in failure.message
        assert again.kind == kind
        assert len(backend.sent("checkStatus")) == 2
        assert len(backend.pids) == 1
        assert backend.sent(PANEL) == []


async def test_sign_in_that_is_lost_later(tmp_path):
    """A request that is answered with 1000 is `authentication`, and does not fall back to an inline completion."""
    async with peer(tmp_path, "panel=error", "code=1000") as backend:
        first, second = await failure_of(backend), await failure_of(backend)

        assert (first.kind, first.retryable, first.provider_code) == ("authentication", False, "1000")
        assert second.kind == "authentication"
        assert len(backend.sent("checkStatus")) == 2
        assert backend.sent(INLINE) == []


async def test_the_secret_reaches_the_program_and_nothing_else_does(tmp_path, monkeypatch):
    """The credential is in the program's environment under the names it reads; no other secret of ours is."""
    monkeypatch.setenv("OPENAI_API_KEY", "canary")
    monkeypatch.setenv("GITHUB_TOKEN", "canary")
    async with peer(tmp_path) as backend:
        await backend.ask(None, None, "ghu_1")

        environment = backend.log[0]["environment"]
        assert (environment["GH_COPILOT_TOKEN"], environment["GITHUB_COPILOT_TOKEN"]) == ("ghu_1", "ghu_1")
        assert "canary" not in environment.values()


async def test_a_changed_secret_changes_the_program(tmp_path):
    """A request with a new secret gets a program started with it; the old one ends with its last request."""
    async with peer(tmp_path, "panel=more-until-cancelled") as backend:
        await backend.ask(None, None, "ghu_1")
        client = Client(slow=True)
        asking = asyncio.create_task(backend.ask(None, client, "ghu_1"))
        await client.came.wait()

        await backend.ask(None, None, "ghu_2")
        old, new = backend.pids
        assert alive(old)

        client.read()
        await asking
        assert await gone(old)
        assert alive(new)
        started = [entry["environment"]["GH_COPILOT_TOKEN"] for entry in backend.log if "started" in entry]
        assert started == ["ghu_1", "ghu_2"]


async def test_check(tmp_path):
    """A probe tells who is signed in, and fails as a request does."""
    async with peer(tmp_path) as backend:
        assert "octocat" in await backend.adapter.probe(NO_SECRET)
    async with peer(tmp_path, "status=NotSignedIn") as backend:
        with pytest.raises(GatewayError, match="not signed in"):
            await backend.adapter.probe(NO_SECRET)


# --- the program's life ---


async def test_one_program_for_many_requests(tmp_path):
    """Requests at the same time and after each other share one program."""
    async with peer(tmp_path) as backend:
        clients = await asyncio.gather(*(backend.ask() for _ in range(20)))
        await backend.ask()

        assert [client.text for client in clients] == ["first"] * 20
        assert len(backend.pids) == 1


@pytest.mark.parametrize(
    ("fault", "kind"),
    [
        ("exit", "backend_transient"),
        ("close", "backend_transient"),
        ("exit-in-answer", "backend_transient"),
        ("garbage", "protocol_violation"),
        ("bad-length", "protocol_violation"),
        ("no-length", "protocol_violation"),
        ("bad-json", "protocol_violation"),
        ("not-an-object", "protocol_violation"),
        ("neither", "protocol_violation"),
        ("huge", "protocol_violation"),
    ],
)
async def test_faults(tmp_path, fault, kind):
    """A program that ends or talks nonsense in an answer fails the request, is replaced, and is never a `Completed`."""
    async with peer(tmp_path, f"panel={fault}") as backend:
        client = Client()
        failure = await failure_of(backend, None, client)

        assert failure.kind == kind
        assert failure.retryable is (kind == "backend_transient")
        assert client.completed is None
        assert await gone(backend.pids[0])
        await failure_of(backend)
        assert len(backend.pids) == 2


async def test_a_crash_fails_every_request_in_flight(tmp_path):
    """When the program is killed from outside, each request in it fails as transient, and the next one is served."""
    async with peer(tmp_path, "panel=silent") as backend:
        asking = [asyncio.create_task(failure_of(backend)) for _ in range(3)]
        await backend.until_sent(PANEL, 3)
        os.kill(backend.pids[0], signal.SIGKILL)

        failures = await asyncio.gather(*asking)
        assert [(f.kind, f.retryable) for f in failures] == [("backend_transient", True)] * 3
        assert all("SIGKILL" in f.message for f in failures)
        assert len({id(f) for f in failures}) == 3
        await backend.adapter.probe(NO_SECRET)
        assert len(backend.pids) == 2


async def test_an_item_without_text_is_a_violation(tmp_path):
    """An item that has no text is not what the dialect says."""
    async with peer(tmp_path, "panel=item-without-text") as backend:
        assert (await failure_of(backend, request(stream=False))).kind == "protocol_violation"


async def test_a_start_that_fails_shows_what_the_program_said(tmp_path):
    """A program that ends in its start is transient, and the message has its exit status and its last words."""
    async with peer(tmp_path, "start=exit") as backend:
        failure = await failure_of(backend)

    assert (failure.kind, failure.retryable) == ("backend_transient", True)
    assert "exit status 3" in failure.message
    assert "cannot find libsecret" in failure.message


async def test_last_words_are_bounded_and_hold_no_secret(tmp_path):
    """However much the program writes to stderr, the message stays short, and the credential is not in it."""
    async with peer(tmp_path, "start=flood") as backend:
        failure = await failure_of(backend, None, None, "ghu_canary")

    assert "<redacted> is no good" in failure.message
    assert "canary" not in failure.message
    assert len(failure.message) < 2000


async def test_a_flood_on_stderr_blocks_nothing(tmp_path):
    """A program that writes megabytes to stderr before its answer is answered by."""
    async with peer(tmp_path, "panel=flood") as backend:
        assert (await backend.ask()).text == "first"


async def test_garbage_at_the_start(tmp_path):
    """A line that is no header, before anything else, is a violation and not a hang."""
    async with peer(tmp_path, "start=garbage") as backend:
        failure = await failure_of(backend)

    assert failure.kind == "protocol_violation"
    assert "Debugger" in failure.message


async def test_a_slow_start_is_not_begun_anew(tmp_path):
    """A start that outlasts the connect timeout fails the attempt and serves the next one."""
    async with peer(tmp_path, "slow=1", connect_timeout_ms=200) as backend:
        failure = await failure_of(backend)
        assert (failure.kind, failure.retryable) == ("timeout", True)
        assert "connect_timeout_ms" in failure.message

        await asyncio.sleep(1.5)
        assert (await backend.ask()).text == "first"
        assert len(backend.pids) == 1


async def test_repeated_failures_are_waited_for(tmp_path):
    """The first crash is forgiven, then the next start waits, and a long wait is told instead of being waited for."""
    async with peer(tmp_path, "start=exit") as backend:
        began = time.monotonic()
        for _ in range(4):  # at 0, 0, 0.5 and 1.5 seconds
            await failure_of(backend)
        await failure_of(backend)
        assert time.monotonic() - began > 1.0
        failure = await failure_of(backend)

        assert failure.retryable
        assert failure.retry_after_ms is not None
        assert "libsecret" in failure.message
        assert len(backend.pids) < 6


async def test_idle_stop(tmp_path):
    """A program without requests is asked to end after `idle_stop_ms`, and started again for the next one."""
    async with peer(tmp_path, settings={"idle_stop_ms": 200}) as backend:
        await backend.ask()
        assert await gone(backend.pids[0])
        assert backend.sent("shutdown") == [None]
        assert backend.sent("exit") == [None]

        assert (await backend.ask()).text == "first"
        assert len(backend.pids) == 2


async def test_a_program_at_work_is_not_idle(tmp_path):
    """The idle time counts from the end of the last request."""
    async with peer(tmp_path, "panel=silent", settings={"idle_stop_ms": 100}) as backend:
        asking = asyncio.create_task(backend.ask())
        await backend.until_sent(PANEL)
        await asyncio.sleep(0.5)

        assert alive(backend.pids[0])
        asking.cancel()
        await asyncio.wait([asking])
        assert await gone(backend.pids[0])


async def test_no_such_program(tmp_path):
    """A command that does not exist is permanent, and is named."""
    async with peer(tmp_path, command="no-such-program") as backend:
        failure = await failure_of(backend)

    assert (failure.kind, failure.retryable) == ("backend_permanent", False)
    assert "copilot.command" in failure.message
    assert "no-such-program" in failure.message


async def test_requests_after_the_end(tmp_path):
    """A backend that is closed refuses, and starts nothing."""
    async with peer(tmp_path) as backend:
        await backend.adapter.close()

        assert (await failure_of(backend)).kind == "internal"
        assert backend.pids == []


async def test_close_in_mid_request(tmp_path):
    """Closing the backend ends its program and fails the requests in it."""
    async with peer(tmp_path, "panel=silent") as backend:
        asking = asyncio.create_task(failure_of(backend))
        await backend.until_sent(PANEL)
        await backend.adapter.close()

        assert (await asking).kind == "internal"


@pytest.mark.parametrize("behaviour", ["slow=2", "start=never"])
async def test_close_in_mid_start(tmp_path, behaviour):
    """Closing the backend while its program starts waits for neither the start nor a timeout."""
    async with peer(tmp_path, behaviour) as backend:
        asking = asyncio.create_task(failure_of(backend))
        async with asyncio.timeout(20):
            while not backend.pids:
                await asyncio.sleep(0.01)
        await backend.adapter.close()

        assert (await asking).kind == "internal"


# --- cancellation ---


@pytest.mark.parametrize("behaviour", [("panel=silent",), ("no-panel", "inline=silent")])
async def test_a_cancel_reaches_the_program(tmp_path, behaviour):
    """Leaving an attempt waits for nothing, the program is told, and it goes on serving."""
    async with peer(tmp_path, *behaviour) as backend:
        asking = asyncio.create_task(backend.ask())
        await backend.until_sent(PANEL if len(behaviour) == 1 else INLINE)
        await asyncio.sleep(0.05)
        asking.cancel()
        began = time.monotonic()
        await asyncio.wait([asking])
        assert time.monotonic() - began < 0.5
        assert asking.cancelled()

        await backend.until_sent("$/cancelRequest")
        await backend.until_sent("textDocument/didClose")
        await asyncio.sleep(2.5)
        assert alive(backend.pids[0])


async def test_a_timer_reaches_the_program(tmp_path):
    """An attempt that a timer ends tells the program as a cancel does."""
    async with peer(tmp_path, "panel=silent", request_timeout_ms=1000) as backend:
        failure = await failure_of(backend)

        assert failure.kind == "timeout"
        assert "request_timeout_ms" in failure.message
        await backend.until_sent("$/cancelRequest")


async def test_a_deaf_program_is_killed(tmp_path):
    """A program that does not react to a cancel within two seconds is killed, and the next request is served."""
    async with peer(tmp_path, "panel=deaf") as backend:
        asking = asyncio.create_task(backend.ask())
        await backend.until_sent(PANEL)
        asking.cancel()
        await asyncio.wait([asking])

        assert await gone(backend.pids[0])
        await backend.adapter.probe(NO_SECRET)
        assert len(backend.pids) == 2


async def test_a_cancel_while_the_program_starts(tmp_path):
    """A cancel in mid-start leaves at once; the start goes on and serves the next request."""
    async with peer(tmp_path, "slow=1") as backend:
        asking = asyncio.create_task(backend.ask())
        await asyncio.sleep(0.3)
        asking.cancel()
        await asyncio.wait([asking])

        assert asking.cancelled()
        assert (await backend.ask()).text == "first"
        assert len(backend.pids) == 1
