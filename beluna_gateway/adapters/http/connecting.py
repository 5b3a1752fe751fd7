"""Makes the connections of a pool: on a Unix socket, or by TCP to the addresses of a host; `proxy.py` makes others."""

from __future__ import annotations

import asyncio
import encodings.idna  # noqa: F401 - otherwise the first connection loads it
import ssl
from collections.abc import Callable
from ipaddress import IPv4Address
from socket import AF_INET, AF_INET6, AI_ADDRCONFIG, IPPROTO_TCP, SOCK_STREAM
from typing import Protocol, TypeVar

from aiohappyeyeballs import AddrInfoType, start_connection
from yarl import URL

P = TypeVar("P", bound=asyncio.Protocol)

ADDRESS_SECONDS = 60.0
"""How long the addresses of a name are used before it is looked up again."""

HEAD_START_SECONDS = 0.25
"""How long an address is tried before the next one is tried beside it (RFC 8305, "Connection Attempt Delay")."""


class UnusableHost(Exception):
    """The endpoint's host is a number that is no address."""


class Connector(Protocol):
    """Makes connections to one backend."""

    async def connect(self, make_protocol: Callable[[], P], context: ssl.SSLContext | None) -> P:
        """A connection with a protocol of `make_protocol`.

        Args:
            make_protocol: As of `loop.create_connection`.
            context: What TLS is spoken with; None: none is spoken.

        Raises:
            OSError: There is no connection, or no TLS on it.
            UnicodeError: No host can have such a name.
        """

    async def close(self) -> None:
        """Ends what is under way."""


class UnixConnector:
    """Connects to a Unix socket.

    Args:
        path: The socket's.
    """

    def __init__(self, path: str) -> None:
        self._path = path

    async def connect(self, make_protocol: Callable[[], P], context: ssl.SSLContext | None) -> P:
        """See `Connector`; nobody speaks TLS on a Unix socket."""
        _, protocol = await asyncio.get_running_loop().create_unix_connection(make_protocol, self._path)
        return protocol

    async def close(self) -> None:
        """See `Connector`."""


class TcpConnector:
    """Connects to a host by name or address.

    Args:
        url: Has the host and the port.
    """

    def __init__(self, url: URL) -> None:
        host = url.raw_host or ""
        # One trailing dot says that a name is complete; more of them are none.
        self._host = host.rstrip(".") + "." if host.endswith("..") else host
        self._addresses = Addresses(self._host, url.port or 0)

    async def connect(self, make_protocol: Callable[[], P], context: ssl.SSLContext | None) -> P:
        """See `Connector`. Where TLS fails with one address the others are tried.

        Raises:
            UnusableHost: No connection can ever be made.
        """
        loop = asyncio.get_running_loop()
        addresses = await self._addresses.get()
        while True:
            connected = await start_connection(addresses, happy_eyeballs_delay=HEAD_START_SECONDS)
            peer: object = None
            try:
                peer = connected.getpeername()[:2]
                # Certificates have names without a trailing dot.
                name = None if context is None else self._host.rstrip(".")
                _, protocol = await loop.create_connection(
                    make_protocol, sock=connected, ssl=context, server_hostname=name
                )
            except OSError:
                connected.close()
                others = [address for address in addresses if address[4][:2] != peer]
                if not others or len(others) == len(addresses):
                    raise
                addresses = others
            else:
                return protocol

    async def close(self) -> None:
        """See `Connector`."""
        await self._addresses.close()


class Addresses:
    """The addresses of a host: of a name looked up once for all who wait, and used for `ADDRESS_SECONDS`.

    Args:
        host: A name or an address.
        port: Of each of the addresses.
    """

    def __init__(self, host: str, port: int) -> None:
        self._host = host
        self._port = port
        self._loop = asyncio.get_running_loop()
        self._known: list[AddrInfoType] = []
        self._until = 0.0
        self._lookup: asyncio.Task[list[AddrInfoType]] | None = None

    async def get(self) -> list[AddrInfoType]:
        """The addresses, each time beginning with another one, so that connections are spread over them.

        Raises:
            OSError: There are none.
            UnicodeError: No host can have such a name.
            UnusableHost: See there.
        """
        if (address := self._as_number()) is not None:
            return [address]
        if self._loop.time() >= self._until:
            if self._lookup is None:
                self._lookup = self._loop.create_task(self._look_up())
                self._lookup.add_done_callback(lambda done: done.cancelled() or done.exception())  # perhaps all give up
            lookup = self._lookup
            # Not awaited itself: who gives up cancels only this.
            await asyncio.wait([lookup])
            self._known, self._until = lookup.result(), self._loop.time() + ADDRESS_SECONDS
        else:
            self._known = self._known[1:] + self._known[:1]
        return self._known

    def _as_number(self) -> AddrInfoType | None:
        """The host where it is an address."""
        if ":" in self._host:
            return (AF_INET6, SOCK_STREAM, IPPROTO_TCP, "", (self._host, self._port, 0, 0))
        if not self._host.replace(".", "").isdigit():
            return None
        try:
            IPv4Address(self._host)
        except ValueError:  # `127.1` and `2130706433`, which the system would take for 127.0.0.1
            raise UnusableHost(f"{self._host} is no IPv4 address of four decimal numbers") from None
        return (AF_INET, SOCK_STREAM, IPPROTO_TCP, "", (self._host, self._port))

    async def _look_up(self) -> list[AddrInfoType]:
        try:
            return [*await self._loop.getaddrinfo(self._host, self._port, type=SOCK_STREAM, flags=AI_ADDRCONFIG)]
        finally:
            self._lookup = None

    async def close(self) -> None:
        """Ends a look-up."""
        if self._lookup is not None:
            self._lookup.cancel()
            await asyncio.wait([self._lookup])
