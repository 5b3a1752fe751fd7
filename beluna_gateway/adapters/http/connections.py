"""The connections to one backend: aiohttp's, which knows names, addresses, TLS and reuse.

`BaseConnector.connect` is aiohttp's documented door to them; what is said on a connection is `exchange.py`'s.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING

import aiohttp
from yarl import URL

from ...config.settings import BackendProfile
from ...errors import GatewayError

if TYPE_CHECKING:
    from aiohttp.connector import Connection


class BrokenExchange(GatewayError):
    """A response that did not come to its end, or is none."""


class ConnectionPool:
    """The connections to one backend.

    Args:
        url: Whom to connect to.
        unix_path: The socket to reach it by, where it is one.
        profile: The backend's: its `connect_timeout_ms`, and its endpoint for errors.
    """

    def __init__(self, url: URL, unix_path: str | None, profile: BackendProfile) -> None:
        self.loop = asyncio.get_running_loop()
        self._profile = profile
        self._connector: aiohttp.BaseConnector = (
            aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
            if unix_path is None
            else aiohttp.UnixConnector(unix_path, limit=0)
        )
        # What aiohttp asks whom to connect to; it is never sent.
        self._request = aiohttp.ClientRequest("GET", url)
        # ceil_threshold: aiohttp rounds timeouts above it up to whole seconds; we want them as configured.
        self._timeout = aiohttp.ClientTimeout(
            total=None, connect=profile.reliability.connect_timeout_ms / 1000, ceil_threshold=1e9
        )
        self.on_close: set[Callable[[], None]] = set()
        """Called when the pool is closed: what goes on after its request has ended."""

    async def connect(self) -> Connection:
        """A connection that nobody else uses.

        Raises:
            GatewayError: There is none to be had.
        """
        while True:
            try:
                connection = await self._connector.connect(self._request, [], self._timeout)
            except (aiohttp.ClientError, OSError, UnicodeError) as error:
                raise _failure_to_connect(error, self._profile) from error
            protocol = connection.protocol
            if protocol is not None and not protocol.should_close:
                return connection
            connection.close()  # the backend has said something that was no answer to anything

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
        """Ends all connections."""
        for end in list(self.on_close):
            end()
        await self._connector.close()


def _failure_to_connect(error: Exception, profile: BackendProfile) -> GatewayError:
    """Aiohttp's and the system's exceptions → ours."""
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
        return GatewayError("backend_transient", f"no connection to {endpoint}: {cause}", retryable=True)
    return GatewayError("backend_permanent", f"no connection to {endpoint}: {type(error).__name__}: {error}")
