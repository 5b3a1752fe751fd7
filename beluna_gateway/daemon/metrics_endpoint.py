"""`GET /metrics` on a TCP address or a Unix socket: a small HTTP/1.1 server of its own, with its own limits.

It shares the file descriptors of the process with the clients' socket, so what connects here is limited: at most
`MAX_CONNECTIONS`, of which the oldest is closed for a new one, each for at most `CONNECTION_SECONDS` and one request.
Sources: RFC 9112 (framing), prometheus.io/docs/instrumenting/exposition_formats.
"""

from __future__ import annotations

import asyncio
import re
import select
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import cast

import structlog

from .sockets import KEEP_SOCKET_FILE, SocketError, check_address, check_path, listening_socket

MAX_CONNECTIONS = 16
CONNECTION_SECONDS = 5.0
"""From a connection to its end: request, answer and what the peer takes to read it."""
MAX_HEAD_BYTES = 8 * 1024
"""Request line and headers."""


@asynccontextmanager
async def metrics_endpoint(
    listen: str, folder: Path, scrape: Callable[[], Awaitable[bytes]], mode: int = 0o600
) -> AsyncIterator[None]:
    """Serves `scrape` while the block runs.

    Args:
        listen: ``127.0.0.1:9464``, ``[::1]:9464``, or the path of a Unix socket, relative to `folder`.
        folder: The config file's folder.
        scrape: Returns the text of one scrape.
        mode: Of the Unix socket.

    Raises:
        SocketError: It cannot listen there.
    """
    loop = asyncio.get_running_loop()
    connections: dict[_Scrape, None] = {}  # in the order in which they came

    def connection() -> _Scrape:
        return _Scrape(connections, scrape)

    async with AsyncExitStack() as stack:
        address = _tcp_address(listen)
        try:
            if address is not None:
                server = await loop.create_server(connection, address[0] or None, address[1])
            else:
                listener = stack.enter_context(listening_socket(metrics_socket(listen, folder), mode))
                server = await loop.create_unix_server(connection, sock=listener, **KEEP_SOCKET_FILE)
        except (OSError, OverflowError) as error:
            why = getattr(error, "strerror", None) or error
            raise SocketError(f"cannot serve metrics on {listen}: {why}") from error
        try:
            yield
        finally:
            server.close()
            await asyncio.sleep(0)  # those that have just been accepted get their protocol in the next turn
            if connections:
                for open_one in connections:
                    open_one.transport.abort()
                await asyncio.wait([open_one.closed for open_one in connections])


def check_listen(listen: str, folder: Path) -> None:
    """Looks whether `metrics_endpoint` could listen there, without doing so.

    Raises:
        SocketError: It could not.
    """
    address = _tcp_address(listen)
    if address is None:
        check_path(metrics_socket(listen, folder))
    else:
        check_address(*address)


def metrics_socket(listen: str, folder: Path) -> Path:
    """The path of the Unix socket, which may be written as that of an endpoint is."""
    return folder / listen.removeprefix("unix:")


def _tcp_address(listen: str) -> tuple[str, int] | None:
    """Host and port; None for the path of a Unix socket."""
    host, colon, port = listen.rpartition(":")
    return (host.strip("[]"), int(port)) if colon and port.isdecimal() and "/" not in listen else None


class _Scrape(asyncio.Protocol):
    """One connection: reads the head of one request, answers it and half-closes."""

    def __init__(self, connections: dict[_Scrape, None], scrape: Callable[[], Awaitable[bytes]]) -> None:
        self._connections = connections
        self._scrape = scrape
        self._head = bytearray()
        self._complete = False
        self._answered = False
        self._half_closed = False
        self._task: asyncio.Task[None] | None = None
        self.closed: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        if len(self._connections) >= MAX_CONNECTIONS:
            next(iter(self._connections)).transport.abort()
        self._connections[self] = None
        self._deadline = asyncio.get_running_loop().call_later(CONNECTION_SECONDS, self.transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._complete:
            return
        self._head += data[: MAX_HEAD_BYTES + 1]
        if b"\r\n\r\n" in self._head or b"\n\n" in self._head:
            self._respond(bytes(self._head))
        elif len(self._head) > MAX_HEAD_BYTES:
            self._answer("431 Request Header Fields Too Large", b"")

    def eof_received(self) -> bool:
        """A peer that half-closes after its request still reads, as socat does."""
        self._half_closed = True
        # Whether to keep the connection open: one that a peer has closed altogether looks the same at first.
        return self._complete and not self._answered and not _is_hung_up(self.transport)

    def connection_lost(self, error: Exception | None) -> None:
        self._connections.pop(self, None)
        self._deadline.cancel()
        if self._task is not None:
            self._task.cancel()
        self.closed.set_result(None)

    def _respond(self, head: bytes) -> None:
        self._complete = True
        refusal = _refusal(head)
        if refusal is None:
            self._task = asyncio.get_running_loop().create_task(self._answer_metrics())
        else:
            self._answer(*refusal)

    async def _answer_metrics(self) -> None:
        try:
            body = await self._scrape()
        except Exception:  # noqa: BLE001 - a scrape that fails is the scraper's trouble only
            structlog.get_logger("beluna_gateway").exception("bug in the metrics")
            self._answer("500 Internal Server Error", b"")
        else:
            self._answer("200 OK", body)

    def _answer(self, status: str, body: bytes) -> None:
        self._complete = True
        if self.transport.is_closing():
            return
        head = (
            f"HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
        )
        self._answered = True
        self.transport.write(head.encode() + body)
        if self._half_closed:
            self.transport.close()  # once that is written
            return
        # The peer closes first, or runs into the deadline: closing with input unread would reset the connection, and
        # the answer with it.
        self.transport.write_eof()


def _is_hung_up(transport: asyncio.Transport) -> bool:
    """Whether the peer has closed both directions, as far as a socket tells: a Unix one does."""
    poll = select.poll()
    poll.register(transport.get_extra_info("socket").fileno(), 0)
    return bool(poll.poll(0))


def _refusal(head: bytes) -> tuple[str, bytes] | None:
    """Status and body for a request that does not ask for the metrics."""
    method, _, rest = head.partition(b"\n")[0].strip().partition(b" ")
    target, _, version = rest.partition(b" ")
    if not version.startswith(b"HTTP/1."):
        return "400 Bad Request", b""
    if re.sub(b"^https?://[^/?]*", b"", target).partition(b"?")[0] != b"/metrics":  # RFC 9112, section 3.2.2
        return "404 Not Found", b"the metrics are at /metrics\n"
    if method != b"GET":
        return "405 Method Not Allowed\r\nAllow: GET", b""
    return None
