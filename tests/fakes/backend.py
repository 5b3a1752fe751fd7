"""A backend that can misbehave: a real HTTP/1.1 server on loopback (TCP, TLS, Unix) which plays what a test scripts.

It records each request and when its connection was closed. What it plays is in `answers.py`.
"""

from __future__ import annotations

import asyncio
import json
import select
import socket
import ssl
import struct
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any, cast

PATIENCE = 10.0
"""Seconds until something that should happen at once counts as never. Shorter than every timer of `RELIABILITY`: where
a cancel does not happen, no timer closes the connection in time. Long enough for a machine whose cores are busy."""


class Exchange:
    """One request, and the verbs with which a script answers it."""

    def __init__(self, connection: _Connection, method: str, target: str, headers: list[tuple[str, str]]) -> None:
        self._connection = connection
        self._chunked = False
        self.method = method
        self.target = target
        self.header_list = headers
        self.headers = {name.lower(): value for name, value in headers}
        self.body = b""
        self.sent = 0
        """Bytes of the answer that the operating system or the transport has taken."""
        self.connection = connection.number
        """Which connection it came on, counted from 0."""
        self.arrived = connection.loop.time()

    @property
    def route(self) -> str:
        """The first folder of the path: the id of the backend that a test asked."""
        return self.target.split("/")[1]

    def json(self) -> Any:
        """The request's body."""
        return json.loads(self.body)

    # --- what the other side did ---

    async def closed(self, patience: float = PATIENCE) -> float:
        """Waits until the daemon has closed the connection; the loop's time at which it did."""
        async with asyncio.timeout(patience):
            return await asyncio.shield(self.closed_by_peer)

    @property
    def closed_by_peer(self) -> asyncio.Future[float]:
        """Done when the daemon has closed the connection."""
        return self._connection.closed_by_peer

    async def hung_up(self) -> None:
        """Waits until the connection is closed, as seen by one who does not read from it."""
        poll = select.poll()
        poll.register(self._connection.socket.fileno(), 0)
        async with asyncio.timeout(PATIENCE):
            while not poll.poll(0):
                await asyncio.sleep(0.005)

    @property
    def is_closed(self) -> bool:
        """Whether the daemon has closed the connection."""
        return self.closed_by_peer.done()

    # --- verbs ---

    async def head(
        self, status: int = 200, headers: Mapping[str, str] | None = None, *, framing: str = "chunked"
    ) -> None:
        """Status line and headers. `framing`: `chunked`, `close` (the body ends with the connection) or a length."""
        lines = {"Content-Type": "text/event-stream", **(headers or {})}
        self._chunked = framing == "chunked"
        if self._chunked:
            lines["Transfer-Encoding"] = "chunked"
        elif framing == "close":
            lines["Connection"] = "close"
        else:
            lines["Content-Length"] = framing
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        await self.raw(f"HTTP/1.1 {status} {_phrase(status)}\r\n{text}\r\n".encode())

    async def send(self, data: bytes) -> None:
        """A piece of the body; waits while the daemon does not read."""
        await self.raw(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    async def raw(self, data: bytes) -> None:
        """Bytes as they are."""
        if self._connection.transport.is_closing():
            await self.silence()
        self._connection.transport.write(data)
        await self._connection.writable.wait()
        self.sent += len(data)

    async def finish(self) -> None:
        """The proper end of a chunked body."""
        if self._chunked:
            await self.raw(b"0\r\n\r\n")

    def cut(self) -> None:
        """Closes the connection cleanly, wherever the answer is."""
        self._connection.ending = True
        self._connection.transport.close()

    def reset(self) -> None:
        """Closes the connection with RST."""
        self._connection.ending = True
        self._connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._connection.transport.abort()

    def drop(self) -> None:
        """Ends the TCP connection cleanly without a word of TLS's (`close_notify`)."""
        self._connection.ending = True
        self._connection.transport.abort()

    async def silence(self) -> None:
        """Nothing, until the daemon goes away."""
        await asyncio.get_running_loop().create_future()


Script = Callable[[Exchange], Awaitable[None]]


class _Connection(asyncio.Protocol):
    """One connection: reads requests, has them answered, notices its end at once in whatever state it is."""

    def __init__(self, backend: FakeBackend) -> None:
        self.loop = asyncio.get_running_loop()
        self.number = backend.connections_made
        backend.connections_made += 1
        self.closed_by_peer: asyncio.Future[float] = self.loop.create_future()
        self.writable = asyncio.Event()
        self.writable.set()
        self._backend = backend
        self._inbox = bytearray()
        self._arrival = asyncio.Event()
        self.ending = False
        """We are the ones who close."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.socket: socket.socket = transport.get_extra_info("socket")
        self._backend.connections.add(self)
        self.task = self.loop.create_task(self._serve())

    def data_received(self, data: bytes) -> None:
        self._inbox += data
        self._arrival.set()

    def eof_received(self) -> None:
        self._note_close()

    def connection_lost(self, error: Exception | None) -> None:
        self._note_close()
        self.writable.set()
        self._backend.connections.discard(self)
        self.task.cancel()

    def pause_writing(self) -> None:
        self.writable.clear()

    def resume_writing(self) -> None:
        self.writable.set()

    def _note_close(self) -> None:
        if not self.ending and not self.closed_by_peer.done():
            self.closed_by_peer.set_result(self.loop.time())

    async def _serve(self) -> None:
        while True:
            exchange = await self._head()
            script, read_body = self._backend.next_script(exchange)
            if read_body:
                await self.read_body(exchange)
                self._backend.note(exchange)
            else:
                self.transport.pause_reading()
                self._backend.note(exchange)
            await script(exchange)
            if self.transport.is_closing():
                return

    async def _head(self) -> Exchange:
        while b"\r\n\r\n" not in self._inbox:
            await self._more()
        head, _, rest = bytes(self._inbox).partition(b"\r\n\r\n")
        self._inbox[:] = rest
        first, *lines = head.decode("latin-1").split("\r\n")
        method, target, _ = first.split(" ")
        headers = [(name, value.strip()) for name, _, value in (line.partition(":") for line in lines)]
        return Exchange(self, method, target, headers)

    async def read_body(self, exchange: Exchange) -> None:
        if not self.transport.is_reading():
            self.transport.resume_reading()
        if exchange.headers.get("transfer-encoding") == "chunked":
            raise NotImplementedError("the gateway sends bodies with a length")
        length = int(exchange.headers.get("content-length", "0"))
        while len(self._inbox) < length:
            await self._more()
        exchange.body = bytes(self._inbox[:length])
        del self._inbox[:length]

    async def _more(self) -> None:
        self._arrival.clear()
        await self._arrival.wait()


class FakeBackend:
    """The server. A backend of the daemon's config points at `url(id)`; the test says `on(id, script, …)`."""

    def __init__(self) -> None:
        self.connections: set[_Connection] = set()
        self.connections_made = 0
        self._scripts: dict[str, tuple[list[Script], bool]] = {}
        self._exchanges: defaultdict[str, list[Exchange]] = defaultdict(list)
        self._noted = asyncio.Event()
        self.port = 0
        self.tls_port = 0
        self.unix_path: Path | None = None

    def url(self, route: str) -> str:
        """The endpoint of `route` over TCP."""
        return f"http://127.0.0.1:{self.port}/{route}"

    def tls_url(self, route: str) -> str:
        """The endpoint of `route` over TLS."""
        return f"https://localhost:{self.tls_port}/{route}"

    def unix_url(self, route: str) -> str:
        """The endpoint of `route` over a Unix socket."""
        return f"unix:{self.unix_path}:/{route}"

    @asynccontextmanager
    async def serving(self, listener: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[None]:
        """Serves a socket of the test's own, too, which it begins to accept from now on."""
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Connection(self), sock=listener, ssl=tls)
        try:
            yield
        finally:
            server.close()

    def on(self, route: str, *scripts: Script, read_body: bool = True) -> None:
        """What the next requests of `route` get, in turn; the last script is for all that follow.

        Args:
            route: A backend's id.
            scripts: See `answers.py`.
            read_body: False: nothing of the request is read after its headers.
        """
        self._scripts[route] = (list(scripts), read_body)

    def requests(self, route: str) -> list[Exchange]:
        """What came for `route` so far."""
        return self._exchanges[route]

    async def request(self, route: str, number: int = 0) -> Exchange:
        """Waits for the request of that number (from 0)."""
        async with asyncio.timeout(PATIENCE):
            while len(self._exchanges[route]) <= number:
                self._noted.clear()
                await self._noted.wait()
        return self._exchanges[route][number]

    def next_script(self, exchange: Exchange) -> tuple[Script, bool]:
        """For the connections."""
        scripts, read_body = self._scripts.get(exchange.route, ([_nothing_scripted], True))
        return (scripts.pop(0) if len(scripts) > 1 else scripts[0]), read_body

    def note(self, exchange: Exchange) -> None:
        """For the connections: a request has come."""
        self._exchanges[exchange.route].append(exchange)
        self._noted.set()

    async def reset(self) -> None:
        """As new: no script, no record, no connection."""
        self._scripts.clear()
        self._exchanges.clear()
        connections = list(self.connections)
        for connection in connections:
            connection.ending = True
            connection.transport.abort()
        if connections:
            await asyncio.wait([connection.task for connection in connections])


@asynccontextmanager
async def fake_backend(unix_path: Path | None = None, tls: ssl.SSLContext | None = None) -> AsyncIterator[FakeBackend]:
    """A running `FakeBackend`, on TCP and, where asked for, a Unix socket and TLS."""
    loop = asyncio.get_running_loop()
    backend = FakeBackend()
    servers = [await loop.create_server(lambda: _Connection(backend), "127.0.0.1", 0)]
    backend.port = servers[0].sockets[0].getsockname()[1]
    if unix_path is not None:
        backend.unix_path = unix_path
        servers.append(await loop.create_unix_server(lambda: _Connection(backend), unix_path))
    if tls is not None:
        servers.append(await loop.create_server(lambda: _Connection(backend), "127.0.0.1", 0, ssl=tls))
        backend.tls_port = servers[-1].sockets[0].getsockname()[1]
    try:
        yield backend
    finally:
        for server in servers:
            server.close()
        await backend.reset()
        await asyncio.sleep(0)  # the transports' own last callbacks


async def _nothing_scripted(exchange: Exchange) -> None:
    body = b'{"error":{"message":"the test has scripted nothing here"}}'
    await exchange.head(418, framing=str(len(body)))
    await exchange.send(body)


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Whatever"
