"""What connections.py relies on in aiohttp: fails when a new version changes it."""

from __future__ import annotations

import asyncio
import inspect
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiohttp
import pytest
from aiohttp.connector import Connection
from yarl import URL

TIMEOUT = aiohttp.ClientTimeout(total=None, connect=5, ceil_threshold=1e9)


@asynccontextmanager
async def pool() -> AsyncIterator[tuple[aiohttp.TCPConnector, aiohttp.ClientRequest, socket.socket]]:
    """A pool, the request that asks it for a connection, and the socket that listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        host, port = server.getsockname()
        connector = aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
        try:
            yield connector, aiohttp.ClientRequest("GET", URL(f"http://{host}:{port}/")), server
        finally:
            await connector.close()


def protocol_of(connection: Connection) -> asyncio.Protocol:
    protocol = connection.protocol
    assert protocol is not None
    return protocol


def transport_of(connection: Connection) -> asyncio.Transport:
    transport = connection.transport
    assert isinstance(transport, asyncio.Transport)
    return transport


async def test_the_names_and_signatures():
    """`connect` takes a request, traces and a timeout; a request needs a method and a URL."""
    assert list(inspect.signature(aiohttp.BaseConnector.connect).parameters) == ["self", "req", "traces", "timeout"]
    aiohttp.ClientRequest("GET", URL("http://h/"))
    assert {"limit", "ttl_dns_cache"} <= set(inspect.signature(aiohttp.TCPConnector).parameters)
    assert {"path", "limit"} <= set(inspect.signature(aiohttp.UnixConnector).parameters)
    assert {"total", "connect", "ceil_threshold"} <= {field.name for field in aiohttp.ClientTimeout.__attrs_attrs__}
    for name in ("transport", "protocol", "release", "close"):
        assert hasattr(Connection, name)


async def test_a_connection_is_usable_and_comes_back_after_its_release():
    """A fresh one has a transport, whose protocol may be replaced, and is not to be closed; released, it is reused."""
    async with pool() as (connector, request, server):
        first = await connector.connect(request, [], TIMEOUT)
        peer, _ = server.accept()
        with peer:
            transport, protocol = transport_of(first), protocol_of(first)
            assert transport.get_protocol() is protocol
            assert isinstance(protocol, asyncio.Protocol)
            assert protocol.should_close is False  # type: ignore[attr-defined] # aiohttp's ResponseHandler has it
            transport.write(b"ours")
            assert peer.recv(10) == b"ours"
            first.release()

            second = await connector.connect(request, [], TIMEOUT)
            assert transport_of(second) is transport
            assert protocol_of(second) is protocol
            second.close()
            assert transport.is_closing()


async def test_a_closed_connection_does_not_come_back():
    """After `close` the next one is another."""
    async with pool() as (connector, request, _):
        first = await connector.connect(request, [], TIMEOUT)
        transport = transport_of(first)
        transport.abort()
        first.close()
        second = await connector.connect(request, [], TIMEOUT)

        assert transport_of(second) is not transport
        second.close()


@pytest.mark.parametrize("what", ["bytes", "end", "loss"])
async def test_what_comes_while_idle_condemns_a_connection(what: str):
    """aiohttp's protocol, which gets the callbacks of an idle transport, turns `should_close` to true."""
    async with pool() as (connector, request, _):
        first = await connector.connect(request, [], TIMEOUT)
        transport, protocol = transport_of(first), protocol_of(first)
        first.release()
        if what == "bytes":
            protocol.data_received(b"HTTP/1.1 200 OK\r\n\r\n")
        elif what == "end":
            protocol.eof_received()
            transport.close()
            protocol.connection_lost(None)
        else:
            protocol.connection_lost(ConnectionResetError())
        second = await connector.connect(request, [], TIMEOUT)

        assert transport_of(second) is not transport or protocol_of(second).should_close  # type: ignore[attr-defined]
        second.close()


async def test_a_connection_lost_in_use_can_be_given_up():
    """`connection_lost` passed to aiohttp's protocol, then `close`: nothing raises, nothing is left."""
    async with pool() as (connector, request, _):
        connection = await connector.connect(request, [], TIMEOUT)
        transport = transport_of(connection)
        protocol_of(connection).connection_lost(ConnectionResetError())
        transport.abort()
        connection.close()


async def test_there_may_be_more_than_a_hundred_connections():
    """With `limit=0`; aiohttp's default is 100, and the 101st would wait."""
    async with pool() as (connector, request, server):
        server.listen(200)
        async with asyncio.timeout(5):
            connections = [await connector.connect(request, [], TIMEOUT) for _ in range(101)]
        for connection in connections:
            connection.close()


async def test_errors_are_of_the_kinds_that_are_told_apart():
    """A refused connection is an `OSError` with the system's own inside; a timeout is a `TimeoutError`."""
    async with pool() as (connector, _, server):
        host, port = server.getsockname()
        server.close()
        with pytest.raises(aiohttp.ClientConnectorError) as refused:
            await connector.connect(aiohttp.ClientRequest("GET", URL(f"http://{host}:{port}/")), [], TIMEOUT)

    assert isinstance(refused.value, aiohttp.ClientError)
    assert isinstance(refused.value.os_error, ConnectionRefusedError)
    assert issubclass(aiohttp.ServerTimeoutError, TimeoutError)
    assert issubclass(aiohttp.ClientConnectorCertificateError, aiohttp.ClientError)
