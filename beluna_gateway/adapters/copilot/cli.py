"""The Copilot CLI while it runs, and the only place that uses GitHub's `github-copilot-sdk`.

The SDK is an optional extra and is imported on first use, in a thread: it takes most of a second, in which no client's
stream may stand still.

What a session may do here. Nothing: it has no tools but those of the request, which nobody runs (a tool without a
handler waits for its result; the session is gone by then), no instructions, hooks, skills or servers from the file
system, and its files are in our memory. It ends with its request.
"""

from __future__ import annotations

import asyncio
import errno
import importlib
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from types import ModuleType
from typing import Any
from uuid import uuid4

from ...canonical import BackendRawEvent, CanonicalRequest
from ...errors import GatewayError
from ...processes.child_process import ChildProcess
from .json_rpc import RpcError, rpc_failure
from .turns import TurnDecoder, history, system_text

SESSION_FOLDER = "/session"  # in the memory of `MemoryFiles`

# --- the SDK ------------------------------------------------------------------------------------------


def import_sdk() -> ModuleType:
    """The package.

    Raises:
        GatewayError: `backend_permanent`: it is not installed.
    """
    try:
        sdk = importlib.import_module("copilot")
        importlib.import_module("copilot.generated.rpc")
    except ImportError as error:
        raise GatewayError(
            "backend_permanent",
            "copilot.protocol sdk needs the package github-copilot-sdk: pip install 'beluna-gateway[copilot]'",
        ) from error
    # The SDK logs each failure with a traceback, and raises it as well.
    logging.getLogger("copilot").setLevel(logging.CRITICAL)
    return sdk


@contextmanager
def renamed(doing: str) -> Iterator[None]:
    """Converts the SDK's exceptions. It documents none of them, so this catches all."""
    try:
        yield
    except GatewayError:
        raise
    except Exception as error:
        code = getattr(error, "code", None)
        if isinstance(code, int):
            raise rpc_failure(RpcError(code, str(getattr(error, "message", error)))) from error
        raise GatewayError(
            "backend_transient", f"the Copilot CLI failed while {doing}: {error}", retryable=True
        ) from error


class MemoryFiles:
    """The file system of one session: what its program would keep on disk. Has the methods of the SDK's
    `SessionFsProvider`, which is not imported for it.
    """

    def __init__(self, files: dict[str, str]) -> None:
        self._files = files
        self._folders = {SESSION_FOLDER}

    async def read_file(self, path: str) -> str:
        if path not in self._files:
            raise FileNotFoundError(errno.ENOENT, path)
        return self._files[path]

    async def write_file(self, path: str, content: str, mode: int | None = None) -> None:
        self._files[path] = content

    async def append_file(self, path: str, content: str, mode: int | None = None) -> None:
        """Discards: what is appended is the session's event log, which is never read."""

    async def exists(self, path: str) -> bool:
        return path in self._files or path in self._folders

    async def stat(self, path: str) -> Any:
        if not await self.exists(path):
            raise FileNotFoundError(errno.ENOENT, path)
        now = datetime.now(UTC)
        return _FileInfo(path in self._files, path in self._folders, len(self._files.get(path, "").encode()), now, now)

    async def mkdir(self, path: str, recursive: bool, mode: int | None = None) -> None:
        self._folders.add(path)

    async def readdir(self, path: str) -> list[str]:
        return []

    async def readdir_with_types(self, path: str) -> list[Any]:
        return []

    async def rm(self, path: str, recursive: bool, force: bool) -> None:
        self._files.pop(path, None)
        self._folders.discard(path)

    async def rename(self, src: str, dest: str) -> None:
        self._files[dest] = await self.read_file(src)
        del self._files[src]


@dataclass(slots=True)
class _FileInfo:
    is_file: bool
    is_directory: bool
    size: int
    mtime: datetime
    birthtime: datetime


# --- the running program -------------------------------------------------------------------------------------


class Turn:
    """Receives the events of one session, decodes them at once, and keeps them until the request's task takes them."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._decoder = TurnDecoder()
        self._events: list[BackendRawEvent] = []
        self._size = 0
        self._failure: GatewayError | None = None
        self._news = asyncio.Event()

    @property
    def done(self) -> bool:
        return self._decoder.done

    def on_event(self, event: Any) -> None:
        """For the SDK: called in the event loop, for each event of the session."""
        kind = event.type.value
        if kind not in TurnDecoder.WANTED or event.agent_id or self._failure is not None:
            return
        data = event.data.to_dict()
        self._size += len(str(data.get("deltaContent") or data.get("inputDelta") or ""))
        try:
            self._decoder.feed(kind, data, self._events)
            if self._size > self._limit:
                # All sessions share a connection, so one client that does not read cannot slow its session down.
                raise GatewayError("budget_exceeded", f"more than {self._limit} unread characters of this answer")
        except GatewayError as failure:
            self.fail(failure)
        self._news.set()

    def fail(self, failure: GatewayError) -> None:
        """Ends the answer, after what has come of it."""
        if self._failure is None and not self.done:
            self._failure = failure
        self._news.set()

    async def news(self) -> list[BackendRawEvent]:
        """The events that have come since; empty where they were events without content.

        Raises:
            GatewayError: The answer has failed, and everything before that was taken.
        """
        await self._news.wait()
        self._news.clear()
        events, self._events, self._size = self._events, [], 0
        if not events and self._failure is not None:
            raise self._failure.replace()
        if self._failure is not None:
            self._news.set()
        return events


class CopilotCli:
    """A started program, and the SDK's client for it."""

    def __init__(
        self,
        child: ChildProcess,
        client: Any,
        sdk: ModuleType,
        last_words: Callable[[ChildProcess], Awaitable[GatewayError]],
    ) -> None:
        self._child = child
        self._sdk = sdk
        self._last_words = last_words
        self.client = client
        self.turns: set[Turn] = set()

    async def ended(self) -> GatewayError:
        # Keep reading: a program whose output is not read blocks when the pipe is full.
        while await self._child.stdout.read(64 * 1024):
            pass
        return await self._last_words(self._child)

    def fail(self, failure: GatewayError) -> None:
        for turn in self.turns:
            turn.fail(failure)

    async def login(self) -> str | None:
        """Who is signed in at GitHub, in a few words; None for nobody."""
        with renamed("asking who is signed in"):
            status = await self.client.get_auth_status()
        return str(status.login or status.authType or "signed in") if status.isAuthenticated else None

    async def open(self, turn: Turn, request: CanonicalRequest, model: str, provider: dict[str, Any] | None) -> Any:
        """A session with the history of `request`."""
        session_id = str(uuid4())
        files = MemoryFiles({f"{SESSION_FOLDER}/events.jsonl": history(request, session_id, model)})
        tools = () if request.tool_choice == "none" else request.tools
        with renamed("opening a session"):
            return await self.client.resume_session(
                session_id,
                model=model,
                provider=provider,
                on_event=turn.on_event,
                create_session_fs_handler=lambda _: files,
                suppress_resume_event=True,
                streaming=True,
                system_message={"mode": "replace", "content": system_text(request)},
                tools=[
                    self._sdk.Tool(
                        name=tool.name,
                        description=tool.description or "",
                        parameters=tool.input_schema,
                        handler=None,
                        skip_permission=True,  # asking would fail, and tell the model so
                        overrides_built_in_tool=True,  # a request may have a tool with the name of a built-in one
                        defer="never",
                    )
                    for tool in tools
                ],
                available_tools=[f"custom:{tool.name}" for tool in tools],
                infinite_sessions={"enabled": False},  # they summarise long histories by further calls of the model
                working_directory=SESSION_FOLDER,
                **_NOTHING_ELSE,
            )

    async def ask(self, session: Any) -> None:
        """Asks the model for its answer."""
        with renamed("asking the model"):
            await session.rpc.send_messages(self._sdk.generated.rpc.SendMessagesRequest(messages=[]))

    async def end(self, session: Any) -> None:
        """Stops the model's answer, if there is one in progress, and drops the session."""
        try:
            with renamed("ending a session"):
                await session.abort()
                await session.disconnect()
        finally:
            # The SDK forgets a session only when it deletes its files, and refuses to delete where there are none. Ours
            # has none on disk, so the list would grow with each request. (tests/live_copilot looks whether it still is
            # this one.)
            getattr(self.client, "_sessions", {}).pop(session.session_id, None)


# What an agent would load from its surroundings.
_NOTHING_ELSE: dict[str, Any] = {
    "enable_config_discovery": False,
    "skip_custom_instructions": True,
    "enable_on_demand_instruction_discovery": False,
    "enable_file_hooks": False,
    "enable_host_git_operations": False,
    "enable_session_store": False,
    "enable_skills": False,
    "enable_session_telemetry": False,
    "skip_embedding_retrieval": True,
    "custom_agents_local_only": True,
    "memory": {"enabled": False},
}
