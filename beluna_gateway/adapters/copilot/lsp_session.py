"""GitHub's Copilot language server while it runs: the conversation that a client of the Language Server Protocol has.

Source: the README of `@github/copilot-language-server` and the server itself (1.539.0).
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from pydantic import JsonValue

from ...errors import GatewayError, protocol_violation
from ...processes.child_process import ChildProcess
from ...version import __version__
from .documents import SyntheticDocument, sign_in_failure
from .json_rpc import RpcConnection, RpcError, rpc_failure

# How long the program has for `shutdown` and `exit` before it is sent SIGTERM.
_SHUTDOWN_SECONDS = 1.0

_CLIENT_INFO: JsonValue = {"name": "beluna-gateway", "version": __version__}


class LanguageServer:
    """A started and initialised language server."""

    def __init__(
        self, child: ChildProcess, limit: int, last_words: Callable[[ChildProcess], Awaitable[GatewayError]]
    ) -> None:
        self._child = child
        self._last_words = last_words
        self._initialized = False
        self._documents = 0
        self._signed_in = False
        self.panel_unavailable = False
        # A new inline completion cancels the one before it (README, "Cancellation"), so they take turns.
        self.inline_turn = asyncio.Lock()
        self.rpc = RpcConnection(
            child.stdout,
            child.stdin,
            limit=limit,
            on_request={
                "window/showMessageRequest": lambda _: None,  # dismissed: there is no user
                "window/showDocument": lambda _: {"success": False},
                "window/workDoneProgress/create": lambda _: None,
                "client/registerCapability": lambda _: None,
                "client/unregisterCapability": lambda _: None,
                "workspace/workspaceFolders": lambda _: None,
                "workspace/configuration": _no_configuration,
            },
        )
        self._reading = asyncio.create_task(self._read(), name="language server: output")

    async def _read(self) -> GatewayError:
        try:
            await self.rpc.run()
        except GatewayError as error:
            failure = error
        else:
            failure = await self._last_words(self._child)
        if not self._initialized:
            self.rpc.fail(failure)
        return failure

    async def ended(self) -> GatewayError:
        return await asyncio.shield(self._reading)

    def fail(self, failure: GatewayError) -> None:
        self.rpc.fail(failure)

    async def initialize(self) -> None:
        """The handshake."""
        try:
            await self.rpc.call(
                "initialize",
                {
                    "processId": os.getpid(),
                    "rootUri": None,
                    "workspaceFolders": None,
                    "capabilities": {},
                    "initializationOptions": {"editorInfo": _CLIENT_INFO, "editorPluginInfo": _CLIENT_INFO},
                },
            )
        except RpcError as error:
            raise rpc_failure(error) from error
        self._initialized = True
        self.rpc.notify("initialized", {})
        self.rpc.notify("workspace/didChangeConfiguration", {"settings": {"telemetry": {"telemetryLevel": "off"}}})

    async def check_status(self) -> str:
        """Who is signed in.

        Raises:
            GatewayError: `authentication` or `authorization`: nobody, or somebody without Copilot.
        """
        result = await self.rpc.call("checkStatus", {})
        status, user = (result.get("status"), result.get("user")) if isinstance(result, dict) else (None, None)
        if not isinstance(status, str):
            raise protocol_violation("the language server answered checkStatus without a status")
        if (failure := sign_in_failure(status)) is not None:
            raise failure
        self._signed_in = True
        return user if isinstance(user, str) else status

    async def signed_in(self) -> None:
        """Returns where a user is signed in; remembers a positive answer. Raises as `check_status`."""
        if not self._signed_in:
            await self.check_status()

    def refused(self) -> None:
        """A request was answered with "not authenticated": ask again before the next one."""
        self._signed_in = False

    @asynccontextmanager
    async def opened(self, text: str) -> AsyncIterator[SyntheticDocument]:
        """A document of its own for one request."""
        self._documents += 1
        document = SyntheticDocument(f"file:///beluna-gateway/{self._documents}.md", text)
        self.rpc.notify(
            "textDocument/didOpen",
            {"textDocument": {"uri": document.uri, "languageId": "markdown", "version": 0, "text": text}},
        )
        try:
            yield document
        finally:
            self.rpc.notify("textDocument/didClose", {"textDocument": {"uri": document.uri}})

    async def leave(self) -> None:
        """Sends `shutdown` and `exit`, where the connection still works."""
        with suppress(TimeoutError, RpcError, GatewayError):
            async with asyncio.timeout(_SHUTDOWN_SECONDS):
                await self.rpc.call("shutdown", None)
                self.rpc.notify("exit", None)
                await self._child.wait()

    async def stop_reading(self) -> None:
        self._reading.cancel()
        await asyncio.wait([self._reading])


def _no_configuration(params: JsonValue) -> JsonValue:
    items = params.get("items") if isinstance(params, dict) else None
    return [None] * len(items) if isinstance(items, list) else []
