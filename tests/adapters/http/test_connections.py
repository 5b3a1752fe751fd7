"""The pool: which connection is used again, and which is closed."""

from __future__ import annotations

import asyncio
import errno
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from yarl import URL

from beluna_gateway.adapters.http import connections
from beluna_gateway.adapters.http.connecting import UnusableHost
from beluna_gateway.adapters.http.connections import BrokenExchange, ConnectionPool
from beluna_gateway.config.settings import BackendProfile, BackendSettings, Budget, Reliability
from beluna_gateway.config.tls_files import system_context
from tests.fakes.backend import PATIENCE


def profile_of(url: str) -> BackendProfile:
    rest = {"id": "b", "dialect": "ollama", "credential": {"type": "none"}, "default_model": "m"}
    return BackendProfile(BackendSettings.model_validate({"endpoint": url, **rest}), Reliability(), Budget(), Path())


@asynccontextmanager
async def pool() -> AsyncIterator[tuple[ConnectionPool, Callable[[], Awaitable[asyncio.StreamWriter]]]]:
    """A pool, and what gives the server's side of its next connection."""
    accepted: asyncio.Queue[asyncio.StreamWriter] = asyncio.Queue()
    server = await asyncio.start_server(lambda _, writer: accepted.put_nowait(writer), "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    made = ConnectionPool(URL(url), None, profile_of(url))
    async with server:
        try:
            yield made, accepted.get
        finally:
            await made.close()
            while not accepted.empty():
                accepted.get_nowait().close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)


async def test_the_connection_that_was_used_last_is_used_next():
    """The others may expire."""
    async with pool() as (connections_, _):
        one, other = await connections_.connect(), await connections_.connect()
        connections_.release(other)
        connections_.release(one)

        assert await connections_.connect() is one
        assert await connections_.connect() is other


async def test_an_idle_connection_expires(monkeypatch):
    """Each on its own time; one in use does not."""
    monkeypatch.setattr(connections, "IDLE_SECONDS", 0.05)
    async with pool() as (connections_, _):
        used, first, second = [await connections_.connect() for _ in range(3)]
        connections_.release(first)
        await asyncio.sleep(0.03)
        connections_.release(second)
        await until(first.transport.is_closing)
        assert not second.transport.is_closing()
        await until(second.transport.is_closing)

        assert not used.transport.is_closing()
        assert await connections_.connect() not in (first, second)


@pytest.mark.parametrize("what", ["bytes", "end", "reset"])
async def test_what_comes_while_idle_closes_a_connection(what: str):
    """Nothing was asked: it is no answer."""
    async with pool() as (connections_, accepted):
        connection, peer = await connections_.connect(), await accepted()
        connections_.release(connection)
        if what == "bytes":
            peer.write(b"HTTP/1.1 408 Request Timeout\r\n\r\n")
        elif what == "end":
            peer.write_eof()
        else:
            peer.transport.abort()
        await until(connection.transport.is_closing)
        peer.close()

        assert await connections_.connect() is not connection


async def test_a_closed_pool_has_no_connections():
    """Neither idle ones, nor those in use, nor one that comes back or is made meanwhile."""
    async with pool() as (connections_, _):
        idle, used, late = [await connections_.connect() for _ in range(3)]
        making = asyncio.create_task(connections_.connect())
        await asyncio.sleep(0)
        connections_.release(idle)
        await connections_.close()
        connections_.release(late)

        assert all(one.transport.is_closing() for one in (idle, used, late))
        with pytest.raises(BrokenExchange):
            await making


@pytest.mark.parametrize(
    ("error", "kind", "retryable", "text"),
    [
        (TimeoutError(), "timeout", True, "no connection to http://h within 5000 ms (reliability.connect_timeout_ms)"),
        (
            TimeoutError(errno.ETIMEDOUT, "Connect call failed ('192.0.2.1', 80)"),
            "backend_transient",
            True,
            "no connection to http://h: Connection timed out",
        ),
        (
            ConnectionRefusedError(errno.ECONNREFUSED, "Connect call failed ('192.0.2.1', 80)"),
            "backend_transient",
            True,
            "no connection to http://h: Connection refused",
        ),
        (
            socket.gaierror(socket.EAI_NONAME, "Name or service not known"),
            "backend_transient",
            True,
            "no connection to http://h: [Errno -2] Name or service not known",
        ),
        (
            UnicodeError("label too long"),
            "backend_transient",
            True,
            "no connection to http://h: no host has such a name",
        ),
        (
            ssl.SSLCertVerificationError(1, "certificate verify failed"),
            "backend_permanent",
            False,
            "the TLS certificate of http://h is not accepted: ",
        ),
        (UnusableHost("127.1 is none"), "backend_permanent", False, "no connection to http://h: 127.1 is none"),
    ],
)
async def test_why_there_is_no_connection(error: Exception, kind: str, retryable: bool, text: str):
    """Each failure has its kind, and says what it means."""
    told = connections._failure_to_connect(error, profile_of("http://h"))

    assert (told.kind, told.retryable) == (kind, retryable)
    assert told.message.startswith(text)


def test_the_systems_authorities_are_read_once():
    """Certificates and host names are checked."""
    context = system_context()

    assert context is system_context()
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
