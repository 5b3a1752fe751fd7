"""A proxy that knows CONNECT only, and can misbehave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress


class FakeProxy:
    """Where it listens, and what it was asked."""

    def __init__(self, answer: bytes | None) -> None:
        self.answer = answer
        """What it says in place of connecting; None: it connects."""
        self.port = 0
        self.heads: list[str] = []
        self._tunnels: set[asyncio.Task[None]] = set()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection of a client."""
        task = asyncio.current_task()
        assert task is not None
        self._tunnels.add(task)
        try:
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            if self.answer is not None:
                writer.write(self.answer)
                await writer.drain()
                return
            host, _, port = head.split(" ")[1].rpartition(":")
            upstream_reader, upstream = await asyncio.open_connection(host, int(port))
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
            await asyncio.gather(_pump(reader, upstream), _pump(upstream_reader, writer))
        except (ConnectionError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()
            self._tunnels.discard(task)

    async def close(self) -> None:
        for tunnel in list(self._tunnels):
            tunnel.cancel()
        if self._tunnels:
            await asyncio.wait(self._tunnels)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    finally:
        with suppress(ConnectionError):
            writer.close()


@asynccontextmanager
async def fake_proxy(answer: bytes | None = None) -> AsyncIterator[FakeProxy]:
    """A running `FakeProxy`."""
    proxy = FakeProxy(answer)
    server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0)
    proxy.port = server.sockets[0].getsockname()[1]
    try:
        yield proxy
    finally:
        server.close()
        await proxy.close()
