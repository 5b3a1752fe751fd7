"""The real language server, asked through the adapter. What it answers is set by its own test hooks."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from pydantic import JsonValue

from beluna_gateway.adapters.copilot.adapter import GitHubCopilotAdapter
from beluna_gateway.adapters.copilot.lsp_session import LanguageServer
from beluna_gateway.canonical import CanonicalRequest, Completed, OutputTextDelta, ResolvedCredential
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.timers import AttemptTimer, Deadlines
from beluna_gateway.processes.supervisor import Run

from ..adapters.copilot.helpers import Client, gone, profile, request

pytestmark = pytest.mark.live

QUESTION = "The capital of France is"
NO_SECRET = ResolvedCredential(None)


class Live:
    def __init__(self, folder: Path, program: str, args: list[str], idle_stop_ms: int | None) -> None:
        copilot = {"command": program, "args": args, "idle_stop_ms": idle_stop_ms}
        # A cold start reads 150 MB.
        self.profile = profile(folder, copilot, connect_timeout_ms=20_000)
        self.adapter = GitHubCopilotAdapter(self.profile)

    @property
    def run(self) -> Run[LanguageServer]:
        run = self.adapter._protocol.program._run
        assert run is not None
        return run

    @property
    def server(self) -> LanguageServer:
        return self.run.peer

    async def sign_in(self) -> None:
        """Has the server think that somebody is signed in."""
        with pytest.raises(GatewayError):
            await self.adapter.probe(NO_SECRET)  # which starts it
        await self.server.rpc.call("testing/setAlwaysAuthed", {})

    async def teach(self, *answers: str, question: str = QUESTION) -> None:
        """From now on these are the server's panel items, and the first its inline completion."""
        documents: list[JsonValue] = [question + answer for answer in answers]
        await self.server.rpc.call(
            "testing/setPanelCompletionDocuments", {"documents": [{"text": text, "score": 0.5} for text in documents]}
        )
        await self.server.rpc.call("testing/setCompletionDocuments", {"documents": documents})

    async def ask(self, asked: CanonicalRequest | None = None) -> Client:
        client = Client()
        call = self.adapter.prepare(asked or request(QUESTION), "copilot", NO_SECRET)
        with AttemptTimer(Deadlines(), self.profile.reliability) as timer:
            await call.attempt(client, timer)
        return client


@asynccontextmanager
async def started(folder: Path, program: str, *args: str, idle_stop_ms: int | None = None) -> AsyncIterator[Live]:
    live = Live(folder, program, list(args) or ["--stdio"], idle_stop_ms)
    try:
        yield live
    finally:
        await live.adapter.close()


async def test_panel_completion(tmp_path, language_server):
    """The first streamed item of a panel completion is the answer; the server streams it before its reply."""
    async with started(tmp_path, language_server) as live:
        await live.sign_in()
        await live.teach(" Paris, é 𝒳.", " Lyon.")

        assert (await live.ask()).events == [OutputTextDelta(" Paris, é 𝒳."), Completed("stop", {})]
        assert not live.server.panel_unavailable


async def test_unstreamed(tmp_path, language_server):
    """Without partial results the reply has the items."""
    async with started(tmp_path, language_server) as live:
        await live.sign_in()
        await live.teach(" Paris.", " Lyon.")

        assert (await live.ask(request(QUESTION, stream=False))).text == " Paris."


async def test_inline_completion(tmp_path, language_server):
    """The fallback works against the same server."""
    async with started(tmp_path, language_server) as live:
        await live.sign_in()
        await live.teach(" Paris.")
        live.server.panel_unavailable = True

        assert (await live.ask()).text == " Paris."


async def test_characters_are_counted_as_the_server_counts(tmp_path, language_server):
    """A document with lines and characters outside the first plane is completed at its very end."""
    question = "Eins é\nZwei 𝒳𝒳 drei"
    async with started(tmp_path, language_server) as live:
        await live.sign_in()
        await live.teach(" vier\nfünf", question=question)

        assert (await live.ask(request(question))).text == " vier\nfünf"


async def test_many_at_once(tmp_path, language_server):
    """Requests at the same time share one server and do not cancel each other, inline completions included."""
    async with started(tmp_path, language_server) as live:
        await live.sign_in()
        await live.teach(" Paris.")
        assert {(await client).text for client in [live.ask() for _ in range(3)]} == {" Paris."}
        clients = await asyncio.gather(*(live.ask() for _ in range(8)))
        assert [client.text for client in clients] == [" Paris."] * 8

        live.server.panel_unavailable = True
        clients = await asyncio.gather(*(live.ask() for _ in range(8)))
        assert [client.text for client in clients] == [" Paris."] * 8


async def test_not_signed_in(tmp_path, language_server):
    """Without a sign-in it is `authentication`, for good, and says what to do."""
    async with started(tmp_path, language_server) as live:
        with pytest.raises(GatewayError, match="sign in") as failure:
            await live.ask()

    assert (failure.value.kind, failure.value.retryable) == ("authentication", False)
    assert failure.value.provider_code == "NotSignedIn"


async def test_a_completion_without_sign_in(tmp_path, language_server):
    """The server's own refusal of a completion is `authentication`, and no reason to try the other method."""
    async with started(tmp_path, language_server) as live:
        with pytest.raises(GatewayError):
            await live.adapter.probe(NO_SECRET)
        live.server._signed_in = True
        with pytest.raises(GatewayError) as failure:
            await live.ask()

        assert (failure.value.kind, failure.value.provider_code) == ("authentication", "1000")
        assert not live.server.panel_unavailable


async def test_cancel(tmp_path, language_server):
    """A cancelled request leaves at once, and the server goes on serving."""
    async with started(tmp_path, language_server) as live:
        await live.sign_in()
        await live.teach(" Paris.")
        for turns in range(5):
            asking = asyncio.create_task(live.ask())
            for _ in range(turns):
                await asyncio.sleep(0)
            asking.cancel()
            await asyncio.wait([asking])

        assert (await live.ask()).text == " Paris."


async def test_a_killed_server_is_replaced(tmp_path, language_server):
    """After kill -9 the next request starts another server."""
    async with started(tmp_path, language_server) as live:
        await live.sign_in()
        run, guard = live.run, live.server._child.pid
        os.kill(int(Path(f"/proc/{guard}/task/{guard}/children").read_text()), signal.SIGKILL)
        await asyncio.wait([run.stopping])

        await live.sign_in()
        await live.teach(" Paris.")
        assert live.run is not run
        assert await gone(guard)
        assert (await live.ask()).text == " Paris."


async def test_idle_stop(tmp_path, language_server):
    """The server ends by itself when it is told goodbye."""
    async with started(tmp_path, language_server, idle_stop_ms=100) as live:
        await live.sign_in()
        child = live.server._child

        assert await child.wait() == 0


async def test_a_wrong_command_line(tmp_path, language_server):
    """A server that does not understand its arguments ends, and we show how and with which words."""
    async with started(tmp_path, language_server, "--no-such-flag") as live:
        with pytest.raises(GatewayError, match="it said: ") as failure:
            await live.ask()

    assert failure.value.kind == "backend_transient"
    assert "exit status 1" in failure.value.message
