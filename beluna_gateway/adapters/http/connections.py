"""The connections to one backend: kept while they are idle, and made where there is none.

`exchange.py` speaks HTTP on them. A connection on which bytes or an end come while nothing was asked is closed: they
are no answer to what will be asked next.
"""

from __future__ import annotations

import asyncio
import os
import select
import ssl
from collections.abc import Callable
from functools import partial
from typing import Protocol, cast

from yarl import URL

from ...config.settings import BackendProfile
from ...config.tls_files import system_context, tls_context
from ...errors import GatewayError
from .connecting import Connector, TcpConnector, UnixConnector, UnusableHost

IDLE_SECONDS = 15.0
"""A connection that has been idle for longer is closed: servers close theirs, too, and a request must not meet that."""


class BrokenExchange(GatewayError):
    """A response that did not come to its end, or is none."""


class Receiver(Protocol):
    """What a connection's bytes and end are passed to; see `Exchange`."""

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the response."""

    def unread(self) -> bytes:
        """What was received on a broken connection and the event loop did not read; over TLS records."""

    def disconnected(self, error: Exception | None, rest: bytes = b"") -> None:
        """Takes the end of the connection, or of its readable half, and the last bytes of the response."""

    def pause_writing(self) -> None:
        """The transport's buffer is full."""

    def resume_writing(self) -> None:
        """The transport's buffer has room again."""


class PooledProtocol(asyncio.Protocol):
    """The protocol of a pooled connection's transport: passes everything to the exchange under way.

    It stays for all exchanges of a connection, because to change a transport's protocol costs system calls: the event
    loop stops reading and starts again.

    Over TLS an orderly end is one with close_notify: without it anybody on the way may have ended the connection, and
    a body with it (RFC 8446, section 6.1).

    Where a connection breaks, the event loop neither reads what the kernel has received nor passes on what its TLS
    layer has not deciphered yet. A response may be in there, see `RequestWriter`.

    Args:
        pool: Told when the connection is made and when it is lost.
    """

    __slots__ = ("_poll", "_pool", "_records", "_tls", "exchange", "transport")

    def __init__(self, pool: ConnectionPool) -> None:
        self._pool = pool
        self._tls: ssl.SSLObject | None = None
        self._records: asyncio.BufferedProtocol | None = None
        self._poll: select.poll | None = None
        self.transport: asyncio.Transport
        self.exchange: Receiver | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)  # uvloop's own class is no subclass of it
        self._tls = transport.get_extra_info("ssl_object")
        # The event loop's TLS layer, which takes records: uvloop has a name for it, asyncio an attribute.
        self._records = transport.get_extra_info("uvloop.sslproto") or getattr(transport, "_ssl_protocol", None)
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            self._poll = select.poll()
            self._poll.register(raw.fileno(), select.POLLIN | select.POLLRDHUP)
        self._pool.opened(self)

    def is_quiet(self) -> bool:
        """Whether nothing waits on an open connection on which nothing was asked: bytes or an end in the kernel that
        the event loop has not read yet would be taken for the next response. Over TLS a record that waits counts
        likewise: what a server sends after its handshake (session tickets) has been read with the response before.
        """
        return not self.transport.is_closing() and self._poll is not None and not self._poll.poll(0)

    def data_received(self, data: bytes) -> None:
        if self.exchange is None:
            self.transport.abort()
        else:
            self.exchange.data_received(data)

    def eof_received(self) -> None:
        if self.exchange is not None:
            # asyncio calls this without close_notify too, uvloop does not.
            rest, orderly = (b"", True) if self._tls is None else _deciphered(self._tls)
            self.exchange.disconnected(None if orderly else _no_close_notify(), rest)

    def connection_lost(self, error: Exception | None) -> None:
        self._pool.lost(self)
        if self.exchange is not None:
            rest = self.exchange.unread()
            if self._tls is not None:
                if self._records is not None:
                    _add_records(self._records, rest)
                rest, orderly = _deciphered(self._tls)
                error = None if orderly else error or _no_close_notify()
            self.exchange.disconnected(error, rest)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.pause_writing()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.resume_writing()


class ConnectionPool:
    """The connections to one backend.

    Args:
        url: The backend's URL.
        unix_path: The Unix socket that it is reached by, None for TCP.
        profile: The backend's: its `connect_timeout_ms`, and its endpoint for error messages.
    """

    def __init__(self, url: URL, unix_path: str | None, profile: BackendProfile) -> None:
        self.loop = asyncio.get_running_loop()
        self._profile = profile
        self._encrypted = url.scheme == "https"
        tls = profile.backend.tls
        self._context = None if tls is None else tls_context(tls, profile.folder)
        self._seconds = profile.reliability.connect_timeout_ms / 1000
        self.proxy_credential: str | None = None
        """`user:password` for the proxy; the latest one counts for new connections."""
        if unix_path is not None:
            connector: Connector = UnixConnector(unix_path)
        elif profile.backend.proxy is not None:
            from .proxy import ProxyConnector  # only configurations with a proxy pay for the import

            connector = ProxyConnector(profile.backend.proxy, url, self._seconds, lambda: self.proxy_credential)
        else:
            connector = TcpConnector(url)
        self._connector = connector
        self._open: set[PooledProtocol] = set()
        self._idle: dict[PooledProtocol, float] = {}
        """With the time from which on each is idle, the latest one last."""
        self._expiry: asyncio.TimerHandle | None = None
        self._all_closed: asyncio.Future[None] | None = None
        """Exists from `close` on."""
        self.on_close: set[Callable[[], None]] = set()
        """Called when the pool is closed, by exchanges that linger after their request has ended."""

    async def connect(self) -> PooledProtocol:
        """A connection that nobody else uses.

        Raises:
            GatewayError: There is none to be had.
        """
        while self._idle:
            # The latest one: it is the least likely to be closed by the server, and those that are too many expire.
            protocol, _ = self._idle.popitem()
            if protocol.is_quiet():
                return protocol
            protocol.transport.abort()
        try:
            async with asyncio.timeout(self._seconds):
                protocol = await self._connector.connect(partial(PooledProtocol, self), await self._tls_context())
        except (OSError, UnicodeError, UnusableHost) as error:
            raise _failure_to_connect(error, self._profile) from error
        if self._all_closed is not None:
            protocol.transport.abort()
            raise self.cut("the daemon closes it")
        return protocol

    def release(self, protocol: PooledProtocol) -> None:
        """Takes back a connection whose response has ended."""
        if self._all_closed is not None:
            protocol.transport.abort()
        elif not protocol.transport.is_closing():
            self._idle[protocol] = self.loop.time()
            if self._expiry is None:
                self._expiry = self.loop.call_later(IDLE_SECONDS, self._expire)

    def _expire(self) -> None:
        """Closes what has been idle for too long."""
        self._expiry = None
        oldest = self.loop.time() - IDLE_SECONDS
        for protocol, since in list(self._idle.items()):
            if since > oldest:
                self._expiry = self.loop.call_at(since + IDLE_SECONDS, self._expire)
                break
            del self._idle[protocol]
            protocol.transport.close()

    def opened(self, protocol: PooledProtocol) -> None:
        """A connection has been made."""
        self._open.add(protocol)

    def lost(self, protocol: PooledProtocol) -> None:
        """A connection is no more."""
        self._open.discard(protocol)
        self._idle.pop(protocol, None)
        if self._all_closed is not None and not self._open and not self._all_closed.done():
            self._all_closed.set_result(None)

    async def _tls_context(self) -> ssl.SSLContext | None:
        if self._encrypted and self._context is None:
            self._context = await asyncio.to_thread(system_context)  # at once where it is there, else 50 ms
        return self._context if self._encrypted else None

    def cut(self, why: object) -> BrokenExchange:
        """The error for a response that did not come to its end."""
        return BrokenExchange(
            "backend_transient", f"the connection to {self._profile.backend.endpoint} was cut: {why}", retryable=True
        )

    def no_http(self, why: object) -> BrokenExchange:
        """The error for what is no response."""
        return BrokenExchange(
            "protocol_violation", f"{self._profile.backend.endpoint} does not speak HTTP as it should: {why}"
        )

    async def close(self) -> None:
        """Closes all connections."""
        for end in list(self.on_close):
            end()
        if self._expiry is not None:
            self._expiry.cancel()
        self._all_closed = self.loop.create_future()
        for protocol in self._open:
            protocol.transport.abort()
        await self._connector.close()
        if self._open:
            await self._all_closed


def _add_records(layer: asyncio.BufferedProtocol, records: bytes) -> None:
    """Gives records to the TLS layer of a lost connection, which then only keeps them for its `ssl.SSLObject`."""
    while records:
        buffer = memoryview(layer.get_buffer(len(records)))
        size = min(len(buffer), len(records))
        buffer[:size] = records[:size]
        layer.buffer_updated(size)
        records = records[size:]


def _deciphered(tls: ssl.SSLObject) -> tuple[bytes, bool]:
    """What the records say that the TLS layer still has, and whether they end with close_notify."""
    text = bytearray()
    try:
        while piece := tls.read(64 * 1024):
            text += piece
    except ssl.SSLZeroReturnError:
        pass
    except ssl.SSLError:  # the rest of a record is missing, or is none
        return bytes(text), False
    return bytes(text), True


def _no_close_notify() -> Exception:
    return ConnectionAbortedError("TLS ended without close_notify")


def _failure_to_connect(error: Exception, profile: BackendProfile) -> GatewayError:
    """Why there is no connection, as a `GatewayError`."""
    endpoint = profile.backend.endpoint
    if isinstance(error, TimeoutError) and error.errno is None:  # not the system's ETIMEDOUT
        limit = profile.reliability.connect_timeout_ms
        return GatewayError(
            "timeout", f"no connection to {endpoint} within {limit} ms (reliability.connect_timeout_ms)", retryable=True
        )
    if isinstance(error, UnicodeError):  # from the codec for international host names
        return GatewayError(
            "backend_transient", f"no connection to {endpoint}: no host has such a name", retryable=True
        )
    if isinstance(error, ssl.SSLCertVerificationError):
        return GatewayError("backend_permanent", f"the TLS certificate of {endpoint} is not accepted: {error}")
    if isinstance(error, OSError):
        # asyncio's own text has the number of the error and repeats the address, but not what the number means.
        named = (error.strerror or "").startswith("Connect call failed")
        why = os.strerror(error.errno) if named and error.errno is not None else error
        return GatewayError("backend_transient", f"no connection to {endpoint}: {why}", retryable=True)
    return GatewayError("backend_permanent", f"no connection to {endpoint}: {error}")
