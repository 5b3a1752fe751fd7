"""What the tests of GitHub Copilot's programs share: a client's end, and a backend by a few words."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.adapters.copilot.adapter import GitHubCopilotAdapter
from beluna_gateway.canonical import (
    CanonicalRequest,
    Completed,
    OutputTextDelta,
    ResolvedCredential,
    TextPart,
    UserMessage,
)
from beluna_gateway.config.settings import BackendProfile, BackendSettings, Budget, Reliability
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.timers import AttemptTimer, Deadlines

FAKES = Path(__file__).parents[2] / "fakes"


class Client:
    """Takes what an attempt emits. With `slow`, it does not read until `read()`."""

    def __init__(self, *, slow: bool = False) -> None:
        self.events: list[Any] = []
        self.blocked = slow
        self.came = asyncio.Event()
        self._reads = asyncio.Event()

    def __call__(self, events) -> None:
        self.events += events
        self.came.set()

    async def drained(self) -> None:
        await self._reads.wait()

    def read(self) -> None:
        self.blocked = False
        self._reads.set()

    @property
    def text(self) -> str:
        return "".join(event.delta for event in self.events if isinstance(event, OutputTextDelta))

    @property
    def completed(self) -> Completed | None:
        return next((event for event in self.events if isinstance(event, Completed)), None)


def request(text: str = "Say something", **fields: Any) -> CanonicalRequest:
    fields.setdefault("messages", (UserMessage((TextPart(text),)),))
    return CanonicalRequest(request_id="r", **fields)


def profile(folder: Path, copilot: dict[str, Any], **reliability: int) -> BackendProfile:
    backend = BackendSettings.model_validate(
        {
            "id": "copilot",
            "dialect": "github_copilot_sdk",
            "credential": {"type": "none"},
            "default_model": "copilot",
            "copilot": copilot,
        }
    )
    return BackendProfile(backend, Reliability.model_validate(reliability), Budget(), folder)


class Peer:
    """An adapter whose program is a scripted one of ours."""

    def __init__(self, log: Path, backend: BackendProfile) -> None:
        self._log = log
        self.profile = backend
        self.adapter = GitHubCopilotAdapter(self.profile)

    async def ask(
        self, asked: CanonicalRequest | None = None, client: Client | None = None, secret: str | None = None
    ) -> Client:
        client = client or Client()
        call = self.adapter.prepare(asked or request(), "copilot", ResolvedCredential(secret))
        with AttemptTimer(Deadlines(), self.profile.reliability) as timer:
            await call.attempt(client, timer)
        return client

    @property
    def log(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()] if self._log.exists() else []

    @property
    def pids(self) -> list[int]:
        """Of each program that was started, in order."""
        return [entry["started"] for entry in self.log if "started" in entry]

    def sent(self, method: str) -> list[Any]:
        """The parameters of each message of that method that the program got."""
        return [entry.get("params") for entry in self.log if entry.get("method") == method]

    async def until_sent(self, method: str, times: int = 1) -> None:
        async with asyncio.timeout(20):
            while len(self.sent(method)) < times:
                await asyncio.sleep(0.01)


@asynccontextmanager
async def peer(
    folder: Path,
    *behaviour: str,
    command: str = sys.executable,
    protocol: str = "language_server",
    settings: dict[str, Any] | None = None,
    **reliability: int,
) -> AsyncIterator[Peer]:
    """A backend with that behaviour; afterwards its program is gone and no task is left."""
    before = asyncio.all_tasks()
    log = folder / "peer.log"
    script = FAKES / ("lsp_peer.py" if protocol == "language_server" else "copilot_cli_peer.py")
    copilot = {"command": command, "args": [str(script), str(log), *behaviour], "protocol": protocol}
    backend = Peer(log, profile(folder, copilot | (settings or {}), **reliability))
    try:
        yield backend
    finally:
        await backend.adapter.close()
    assert not any(alive(pid) for pid in backend.pids)
    assert asyncio.all_tasks() <= before


async def failure_of(backend: Peer, *args: Any) -> GatewayError:
    """The error of a request that must fail."""
    with pytest.raises(GatewayError) as failure:
        await backend.ask(*args)
    return failure.value


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


async def gone(pid: int) -> bool:
    """Whether that process ends, rather than stays for good."""
    try:
        async with asyncio.timeout(20):
            while alive(pid):
                await asyncio.sleep(0.01)
    except TimeoutError:
        return False
    return True
