"""`copilot.protocol` `language_server`: GitHub's Copilot language server, driven as an editor drives it.

Source: the README of `@github/copilot-language-server` and the server itself (1.539.0).

What several items become. A panel completion gives up to ten items; each is a whole answer, an alternative to the
others. An answer is one text, so the first item that comes is it; the server is then told to stop looking for more.
The end mark is the server's reply to the request, whether it is a result or says that it was cancelled.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import ClassVar

from pydantic import JsonValue

from ...canonical import CanonicalRequest, Completed, OutputTextDelta
from ...config.settings import BackendProfile, Capabilities, Copilot
from ...errors import GatewayError
from ...processes.child_process import ChildProcess, clean_environment, configured_program
from ...processes.supervisor import CANCEL_GRACE_SECONDS, Run, Supervisor
from ..base import Call, Emit, SilenceTimer
from .documents import SyntheticDocument, document_text, item_list, reject_unsupported
from .json_rpc import METHOD_NOT_FOUND, RpcError, RpcRequest, rpc_failure
from .lsp_session import LanguageServer

_PANEL, _INLINE = "textDocument/copilotPanelCompletion", "textDocument/inlineCompletion"


class LanguageServerProtocol:
    """What the adapter needs of `copilot.protocol` `language_server`, for one backend."""

    capabilities: ClassVar[Capabilities] = Capabilities(
        tool_calls=False,
        json_mode=False,
        vision=False,
        parallel_tool_calls=False,
        json_schema_mode=False,
        reasoning=False,
    )

    def __init__(self, profile: BackendProfile, settings: Copilot) -> None:
        self._profile = profile
        self._settings = settings
        self.program = Supervisor(
            self._launch, name=f"the language server {settings.command!r}", idle_stop_ms=settings.idle_stop_ms
        )

    def prepare(self, request: CanonicalRequest, model: str, secret: str | None) -> Call:
        reject_unsupported(request, self._profile.default_model)
        self.program.take_secret(secret)
        return _Completion(self.program, document_text(request), stream=request.stream)

    async def probe(self, secret: str | None) -> str:
        self.program.take_secret(secret)
        async with self.program.use() as run:
            try:
                user = await run.peer.check_status()
            except RpcError as error:
                raise rpc_failure(error) from error
        return f"the language server runs and is signed in ({user})"

    @asynccontextmanager
    async def _launch(self, secret: str | None) -> AsyncIterator[LanguageServer]:
        token = {} if secret is None else {"GH_COPILOT_TOKEN": secret, "GITHUB_COPILOT_TOKEN": secret}
        child = ChildProcess(
            configured_program(self._settings.command, self._profile.folder, "copilot.command"),
            self._settings.args,
            env=clean_environment(token),
            cwd=self._profile.folder.absolute(),
            stdin=True,
            stdout=True,
        )
        async with child:
            server = LanguageServer(child, self._profile.reliability.max_event_bytes, self.program.output_ended)
            try:
                await server.initialize()
                yield server
                await server.leave()
            finally:
                await server.stop_reading()


class _Completion:
    """One request."""

    def __init__(self, program: Supervisor[LanguageServer], text: str, *, stream: bool) -> None:
        self._program = program
        self._text = text
        self._stream = stream

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        timer.connecting()
        async with self._program.use() as run:
            server = run.peer
            timer.connected()
            try:
                await server.signed_in()
                async with server.opened(self._text) as document:
                    if not server.panel_unavailable and await self._panel(run, document, emit, timer):
                        return
                    async with server.inline_turn:
                        await self._inline(run, document, emit, timer)
            except RpcError as error:
                failure = rpc_failure(error)
                if failure.kind == "authentication":
                    server.refused()
                raise failure from error

    async def _panel(
        self, run: Run[LanguageServer], document: SyntheticDocument, emit: Emit, timer: SilenceTimer
    ) -> bool:
        """Whether the server knows panel completions; then the answer is complete."""
        rpc = run.peer.rpc
        first: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        params: dict[str, JsonValue] = {
            "textDocument": {"uri": document.uri, "version": 0},
            "position": document.cursor,
        }
        if self._stream:
            params["partialResultToken"] = document.uri
            rpc.on_progress(document.uri, lambda value: _take_first(document, value, first))
        request = rpc.request(_PANEL, params)
        whole = False
        try:
            await asyncio.wait((request.future, first), return_when=asyncio.FIRST_COMPLETED)
            if first.done():
                await _say(first.result(), emit, timer)
                request.cancel()  # the other items are alternative answers
                with suppress(TimeoutError, RpcError):
                    async with asyncio.timeout(CANCEL_GRACE_SECONDS):
                        await request.answer()
                # The answer is complete: a server that does not confirm the cancellation in time does not make it a
                # failure, and is not killed for it.
                whole = True
            else:
                await _say(_first_text(document, await request.answer()), emit, timer)
        except RpcError as error:
            if error.code != METHOD_NOT_FOUND:
                raise
            run.peer.panel_unavailable = True
            return False
        finally:
            rpc.on_progress(document.uri, None)
            first.cancel()
            if not whole:
                self._give_up(run, request)
        self._complete(emit)
        return True

    async def _inline(
        self, run: Run[LanguageServer], document: SyntheticDocument, emit: Emit, timer: SilenceTimer
    ) -> None:
        request = run.peer.rpc.request(
            _INLINE,
            {
                "textDocument": {"uri": document.uri, "version": 0},
                "position": document.cursor,
                "context": {"triggerKind": 1},  # invoked explicitly, not while typing
            },
        )
        try:
            await _say(_first_text(document, await request.answer()), emit, timer)
        finally:
            self._give_up(run, request)
        self._complete(emit)

    def _give_up(self, run: Run[LanguageServer], request: RpcRequest) -> None:
        """Cancels a request that is still running, and lets the server confirm it in the background."""
        if not request.future.done():
            request.cancel()
            self._program.confirm(run, request.settled())

    def _complete(self, emit: Emit) -> None:
        self._program.served()
        emit([Completed("stop", {})])


def _first_text(document: SyntheticDocument, result: JsonValue) -> str:
    """The first item with text; none is an empty answer."""
    return next((text for item in item_list(result) if (text := document.continuation(item))), "")


def _take_first(document: SyntheticDocument, value: JsonValue, first: asyncio.Future[str]) -> None:
    if first.done():
        return
    try:
        if text := _first_text(document, value):
            first.set_result(text)
    except GatewayError as error:
        first.set_exception(error)


async def _say(text: str, emit: Emit, timer: SilenceTimer) -> None:
    if not text:
        return
    timer.progressed()
    emit([OutputTextDelta(text)])
    if emit.blocked:
        timer.suspended()
        await emit.drained()
        timer.progressed()
