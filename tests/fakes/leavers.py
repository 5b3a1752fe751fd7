"""The ways in which a client loses interest in its request: each sends lines, and then leaves in its own way."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from .client import Client, Frame, connected


class Leaver(ABC):
    """A client with one request, `r`."""

    @abstractmethod
    async def send(self, frame: Frame) -> None:
        """Starts the request. From now on nothing is read."""

    @abstractmethod
    async def leave(self) -> None:
        """Ends it. Returns without waiting for what the daemon does."""

    async def see_the_end(self) -> None:
        """What the client is told, if it is there to be told."""


class _Connected(Leaver):
    def __init__(self, client: Client) -> None:
        self.client = client

    async def send(self, frame: Frame) -> None:
        self.client.stop_reading()
        await self.client.send(frame)


class Canceller(_Connected):
    """Says `cancel`, without having read anything."""

    async def leave(self) -> None:
        await self.client.cancel()

    async def see_the_end(self) -> None:
        self.client.read_on()
        await self.client.expect_failed("cancelled")
        await self.client.expect_nothing(0.01)


class Closer(_Connected):
    """Closes the connection."""

    async def leave(self) -> None:
        self.client.close()


class HalfCloser(_Connected):
    """Shuts down its writing side at once, and closes the rest later."""

    async def send(self, frame: Frame) -> None:
        await super().send(frame)
        self.client.half_close()

    async def leave(self) -> None:
        self.client.close()


class Victim(Leaver):
    """Another process, which is killed."""

    SCRIPT = (
        "import socket, sys, time\n"
        "client = socket.socket(socket.AF_UNIX)\n"
        "client.connect(sys.argv[1])\n"
        "client.sendall(sys.stdin.buffer.read())\n"
        "time.sleep(600)\n"
    )

    def __init__(self, path: Path) -> None:
        self.process = subprocess.Popen([sys.executable, "-I", "-S", "-c", self.SCRIPT, path], stdin=subprocess.PIPE)

    async def send(self, frame: Frame) -> None:
        stdin = self.process.stdin
        assert stdin is not None
        with stdin:
            await asyncio.to_thread(stdin.write, json.dumps(frame).encode() + b"\n")

    async def leave(self) -> None:
        self.process.kill()


WAYS: dict[str, type[_Connected | Victim]] = {
    "cancel": Canceller,
    "close": Closer,
    "half-close": HalfCloser,
    "kill": Victim,
}


@asynccontextmanager
async def leaver(way: str, path: Path) -> AsyncIterator[Leaver]:
    """A client that will leave in that way."""
    kind = WAYS[way]
    if issubclass(kind, Victim):
        victim = kind(path)
        try:
            yield victim
        finally:
            victim.process.kill()
            victim.process.wait()
    else:
        async with connected(path) as client:
            yield kind(client)
