"""What each example client does, whatever language it is written in: asked through a daemon of this repository, and
through a peer that plays a daemon of another version.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from ..fakes.answers import delta, fails, finish
from ..fakes.backend import PATIENCE, Exchange, fake_backend
from ..fakes.daemon import clean_environment, local_daemon, make_config

QUESTION = 'Where is "Paris"?\nAnd é \U0001f600?'


class Example:
    """A running example client."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    async def prints(self, text: str) -> None:
        """Waits until it has printed exactly this more."""
        assert self._process.stdout is not None
        async with asyncio.timeout(PATIENCE):
            assert (await self._process.stdout.readexactly(len(text.encode()))).decode() == text

    def interrupt(self) -> None:
        """Ctrl-C: a signal for each process of the terminal's foreground group."""
        os.killpg(self._process.pid, signal.SIGINT)

    async def ends(self) -> tuple[int | None, str, str]:
        """Waits for its end: exit status, and what else it has printed and complained."""
        async with asyncio.timeout(PATIENCE):
            printed, complained = await self._process.communicate()
        return self._process.returncode, printed.decode(), complained.decode()

    async def kill(self) -> None:
        """Whatever happened, it is gone afterwards."""
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
        await self._process.communicate()


@asynccontextmanager
async def running(command: Sequence[str], socket_path: Path) -> AsyncIterator[Example]:
    """The example, which asks `QUESTION` at `socket_path`."""
    pipes: dict[str, Any] = {"stdin": asyncio.subprocess.DEVNULL} | dict.fromkeys(
        ("stdout", "stderr"), asyncio.subprocess.PIPE
    )
    process = await asyncio.create_subprocess_exec(
        *command, str(socket_path), QUESTION, env=clean_environment(), start_new_session=True, **pipes
    )
    example = Example(process)
    try:
        yield example
    finally:
        await example.kill()


async def prints_text_as_it_comes(command: Sequence[str], folder: Path) -> None:
    """The first word is on the screen before the backend has said the second."""
    goes_on = asyncio.Event()

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(delta("Sur la "))
        await goes_on.wait()
        await exchange.send(delta("Seïne") + finish())
        await exchange.finish()

    async with fake_backend() as backend, local_daemon(folder, make_config({"main": {}}, backend)) as daemon:
        backend.on("main", script)
        async with running(command, daemon.socket_path) as example:
            await example.prints("Sur la ")
            goes_on.set()

            assert await example.ends() == (0, "Seïne\n", "")
        assert backend.requests("main")[0].json()["messages"] == [{"role": "user", "content": QUESTION}]


async def tells_a_failure(command: Sequence[str], folder: Path) -> None:
    """With its kind, the provider's words, and whether to try again."""
    async with fake_backend() as backend, local_daemon(folder, make_config({"main": {}}, backend)) as daemon:
        backend.on("main", fails(429, message="slow down"), fails(400, message="not like this"))
        async with running(command, daemon.socket_path) as example:
            status, printed, complained = await example.ends()
        async with running(command, daemon.socket_path) as example:
            _, _, final = await example.ends()

    assert (status, printed) == (1, "")
    assert complained.startswith("rate_limited: ")
    assert "slow down" in complained
    assert "again" in complained
    assert final.startswith("invalid_request: ")
    assert "not like this" in final
    assert "again" not in final


async def tells_a_rejection(command: Sequence[str], folder: Path) -> None:
    """Also one that bears no id, before the daemon closes the connection."""
    config = make_config({"main": {}}, None, server={"allowed_uids": [os.getuid() + 1]})
    async with local_daemon(folder, config) as daemon, running(command, daemon.socket_path) as example:
        status, printed, complained = await example.ends()

    assert (status, printed) == (1, "")
    assert complained.startswith("authorization: ")


async def cancels_on_interrupt(command: Sequence[str], folder: Path) -> None:
    """Ctrl-C stops the backend, and the client says how the request ended."""

    async def script(exchange: Exchange) -> None:
        await exchange.head()
        await exchange.send(delta("Sur"))
        await exchange.silence()

    async with fake_backend() as backend, local_daemon(folder, make_config({"main": {}}, backend)) as daemon:
        backend.on("main", script)
        async with running(command, daemon.socket_path) as example:
            await example.prints("Sur")
            example.interrupt()
            await (await backend.request("main")).closed()
            status, _, complained = await example.ends()

    assert status == 1
    assert complained.strip().startswith("cancelled: ")


async def passes_over_what_it_does_not_know(command: Sequence[str], folder: Path) -> None:
    """Frames of unknown types, before the answer and within it, and unknown keys in those that it knows."""
    said: list[Any] = []

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(line(type="hello", protocol=1, models=[{"id": "m"}]))
        said.append(json.loads(await reader.readline()))
        writer.write(line(type="started", request_id="q1", backend_id="main", model="m", region={"name": "eu"}))
        writer.write(line(type="output_text_delta", request_id="q1", delta="Sur la ", tokens=[1, 2]))
        writer.write(line(type="weather", request_id="q1", sky="rain", delta="!"))
        writer.write(line(type="output_text_delta", request_id="q1", delta="Seine"))
        writer.write(line(type="completed", request_id="q1", finish_reason={"other": "new"}, backend_metadata={}, x=1))

    async with peer_at(folder / "peer.sock", peer) as path, running(command, path) as example:
        assert await example.ends() == (0, "Sur la Seine\n", "")
    assert said[0]["messages"] == [{"role": "user", "parts": [{"text": {"text": QUESTION}}]}]


async def tells_that_the_daemon_is_gone(command: Sequence[str], folder: Path) -> None:
    """A connection that ends without a terminal frame is no answer."""

    async def peer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(line(type="output_text_delta", request_id="q1", delta="Sur la "))

    async with peer_at(folder / "peer.sock", peer) as path, running(command, path) as example:
        status, printed, complained = await example.ends()

    assert (status, printed) == (1, "Sur la ")
    assert "closed the connection" in complained


CONVERSATIONS = [
    prints_text_as_it_comes,
    tells_a_failure,
    tells_a_rejection,
    cancels_on_interrupt,
    passes_over_what_it_does_not_know,
    tells_that_the_daemon_is_gone,
]


def line(**frame: Any) -> bytes:
    """A frame as it is written."""
    return json.dumps(frame).encode() + b"\n"


@asynccontextmanager
async def peer_at(
    path: Path, peer: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
) -> AsyncIterator[Path]:
    """Something at the path that plays `peer` for each client and closes."""

    async def play(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await peer(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_unix_server(play, path)
    try:
        yield path
    finally:
        server.close()
        await server.wait_closed()
