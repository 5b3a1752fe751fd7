"""The connections to one backend: aiohttp's pool, which resolves names, connects, speaks TLS and keeps connections.

This is the package's one door to aiohttp's client. What is used of it (`tests/adapters/http/test_aiohttp.py` fails
when that changes): `BaseConnector.connect(request, traces, timeout)`, which is documented, and of the connection that
it returns `transport`, `protocol`, `release()` and `close()`. aiohttp's protocol gets the transport's callbacks while
a connection is idle; where bytes or an end come then, its `should_close` turns true. Between two requests that follow
each other closely a connection does not go back to aiohttp (`AT_HAND_SECONDS`). aiohttp's own HTTP, its parsers,
timeouts, redirects and cookies, is not used: `exchange.py` speaks on the connections.
"""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - the codec of host names, which the first connection would load otherwise
import os
import select
import ssl
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple, Protocol

import aiohttp
from yarl import URL

from ...config.settings import BackendProfile
from ...config.tls_files import system_context, tls_context
from ...errors import GatewayError
from .request_writer import RequestWriter

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler
    from aiohttp.connector import Connection


AT_HAND_SECONDS = 1.0
"""How often the connections that are not used go back to aiohttp, which closes them after 15 s. Until then they are at
hand for the next request: to give one back and to ask for it again takes 3 % of an unstreamed request."""


class BrokenExchange(GatewayError):
    """A response that did not come to its end, or is none."""


class Receiver(Protocol):
    """What a connection's bytes and end are passed to; see `Exchange`."""

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the response."""

    def disconnected(self, error: Exception | None, rest: bytes = b"") -> None:
        """Takes the end of the connection, or of its readable half, and the last bytes of the response."""


class PooledProtocol(asyncio.Protocol):
    """The protocol of a pooled connection's transport: passes everything to the exchange under way, or to aiohttp's.

    It stays for all exchanges of a connection, because to change a transport's protocol costs system calls: the event
    loop stops reading and starts again.

    Over TLS an orderly end is one with close_notify: without it anybody on the way may have ended the connection, and
    a body with it (RFC 8446, section 6.1).

    Where a connection breaks, the event loop neither reads what the kernel has received nor passes on what its TLS
    layer has not deciphered yet. A response may be in there, see `RequestWriter`.

    Args:
        idle: aiohttp's protocol, for the time between two exchanges.
        transport: The connection's.
        transports: Those of all connections to the backend that are not lost; this one is added.
    """

    __slots__ = ("_idle", "_poll", "_records", "_tls", "_transport", "_transports", "exchange", "writer")

    def __init__(self, idle: ResponseHandler, transport: asyncio.Transport, transports: set[asyncio.Transport]) -> None:
        self._idle = idle
        self._transport = transport
        self._transports = transports
        transports.add(transport)
        self._tls: ssl.SSLObject | None = transport.get_extra_info("ssl_object")
        # The event loop's TLS layer, which takes records: uvloop has a name for it, asyncio an attribute.
        self._records: asyncio.BufferedProtocol | None = transport.get_extra_info("uvloop.sslproto") or getattr(
            transport, "_ssl_protocol", None
        )
        self._poll: select.poll | None = None
        raw = transport.get_extra_info("socket")
        if raw is not None and raw.fileno() >= 0:
            self._poll = select.poll()
            self._poll.register(raw.fileno(), select.POLLIN | select.POLLRDHUP)
        self.exchange: Receiver | None = None
        self.writer = RequestWriter(transport)
        """Sends the requests."""

    def is_usable(self) -> bool:
        """Whether nothing has come on an open connection on which nothing was asked, neither bytes nor an end.

        What waits in the kernel and the event loop has not read yet counts: it would be taken for the next response.
        Over TLS a record that waits counts likewise: what a server sends after its handshake (session tickets) has been
        read with the response before.
        """
        if self._transport.is_closing() or self._idle.should_close:
            return False
        return self._poll is not None and not self._poll.poll(0)

    def data_received(self, data: bytes) -> None:
        (self.exchange or self._idle).data_received(data)

    def eof_received(self) -> None:
        if self.exchange is not None:
            # asyncio calls this without close_notify too, uvloop does not.
            rest, orderly = (b"", True) if self._tls is None else _deciphered(self._tls)
            self.exchange.disconnected(None if orderly else _no_close_notify(), rest)
        else:
            self._idle.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._transports.discard(self._transport)
        self._idle.connection_lost(error)
        if self.exchange is not None:
            rest = self.writer.unread()
            if self._tls is not None:
                if self._records is not None:
                    _add_records(self._records, rest)
                rest, orderly = _deciphered(self._tls)
                error = None if orderly else error or _no_close_notify()
            self.exchange.disconnected(error, rest)

    def pause_writing(self) -> None:
        self.writer.pause()

    def resume_writing(self) -> None:
        self.writer.resume()


class PooledConnection(NamedTuple):
    """A connection that one exchange uses."""

    connection: Connection
    """aiohttp's."""
    transport: asyncio.Transport
    protocol: PooledProtocol


class ConnectionPool:
    """The connections to one backend.

    Args:
        url: The backend's URL.
        unix_path: The Unix socket that it is reached by, None for TCP.
        profile: The backend's: its `connect_timeout_ms`, and its endpoint for error messages.

    Raises:
        GatewayError: `backend_permanent`: a file of its `tls` is not of use any more.
    """

    def __init__(self, url: URL, unix_path: str | None, profile: BackendProfile) -> None:
        self.loop = asyncio.get_running_loop()
        self._profile = profile
        tls = profile.backend.tls
        context: ssl.SSLContext | None = None
        if tls is not None:
            try:
                context = tls_context(tls, profile.folder)
            except ValueError as error:  # the files were of use when the configuration was read
                raise GatewayError("backend_permanent", f"tls.{error}", backend_id=profile.id) from error
        elif url.scheme == "https":
            context = system_context()
        self.proxy_credential: str | None = None
        """`user:password` for the proxy; the latest one counts for new connections."""
        self._connector: aiohttp.BaseConnector
        if unix_path is not None:
            self._connector = aiohttp.UnixConnector(unix_path, limit=0)
        elif profile.backend.proxy is not None:
            from .proxy import ProxyConnector  # only configurations with a proxy pay for the import

            self._connector = ProxyConnector(profile, context, lambda: self.proxy_credential)
        else:
            self._connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60, ssl=context or True)
        # Tells aiohttp where to connect to; it is never sent.
        self._request = aiohttp.ClientRequest("GET", url)
        # ceil_threshold: aiohttp rounds timeouts above it up to whole seconds; they must hold as configured.
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=profile.reliability.connect_timeout_ms / 1000, ceil_threshold=1e9
        )
        self._transports: set[asyncio.Transport] = set()
        self._at_hand: deque[PooledConnection] = deque()
        self._giving_back: asyncio.TimerHandle | None = None
        self.on_close: set[Callable[[], None]] = set()
        """Called when the pool is closed, by exchanges that linger after their request has ended."""

    async def connect(self) -> PooledConnection:
        """A connection that nobody else uses.

        Raises:
            GatewayError: There is none to be had.
        """
        while self._at_hand:
            pooled = self._at_hand.popleft()  # in turns, as aiohttp does: they may lead to different servers
            if pooled.protocol.is_usable():
                return pooled
            pooled.connection.close()
        while True:
            try:
                connection = await self._connector.connect(self._request, [], self._timeout)
            except (aiohttp.ClientError, OSError, UnicodeError) as error:
                raise _failure_to_connect(error, self._profile) from error
            transport, idle = connection.transport, connection.protocol
            if transport is None or idle is None or idle.should_close:
                connection.close()  # the peer wrote or closed while the connection was idle
                continue
            protocol = transport.get_protocol()
            if not isinstance(protocol, PooledProtocol):
                protocol = PooledProtocol(idle, transport, self._transports)
                transport.set_protocol(protocol)
            elif not protocol.is_usable():
                connection.close()
                continue
            return PooledConnection(connection, transport, protocol)

    def give_back(self, pooled: PooledConnection) -> None:
        """Keeps a connection, whose response has ended, for another exchange."""
        if self._giving_back is None:
            self._giving_back = self.loop.call_later(AT_HAND_SECONDS, self._give_back)
        self._at_hand.append(pooled)

    def _give_back(self) -> None:
        """To aiohttp, which closes what is of no use any more."""
        self._giving_back = None
        while self._at_hand:
            self._at_hand.popleft().connection.release()

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
        if self._giving_back is not None:
            self._giving_back.cancel()
            self._give_back()
        await self._connector.close()
        # aiohttp has closed the rest before: over TLS such a connection waits up to 30 s for the peer's close_notify.
        for transport in list(self._transports):
            transport.abort()


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
    """The exceptions of aiohttp and of the system as a `GatewayError`."""
    endpoint = profile.backend.endpoint
    if isinstance(error, TimeoutError):
        limit = profile.reliability.connect_timeout_ms
        return GatewayError(
            "timeout", f"no connection to {endpoint} within {limit} ms (reliability.connect_timeout_ms)", retryable=True
        )
    if isinstance(error, UnicodeError):  # from the codec for international host names
        return GatewayError(
            "backend_transient", f"no connection to {endpoint}: no host has such a name", retryable=True
        )
    cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
    if isinstance(error, aiohttp.ClientConnectorCertificateError) or isinstance(cause, ssl.SSLCertVerificationError):
        return GatewayError("backend_permanent", f"the TLS certificate of {endpoint} is not accepted: {cause}")
    if isinstance(cause, OSError):
        # asyncio's own text has the number of the error and repeats the address, but not what the number means.
        named = (cause.strerror or "").startswith("Connect call failed")
        why = os.strerror(cause.errno) if named and cause.errno is not None else cause
        return GatewayError("backend_transient", f"no connection to {endpoint}: {why}", retryable=True)
    return GatewayError("backend_permanent", f"no connection to {endpoint}: {type(error).__name__}: {error}")
