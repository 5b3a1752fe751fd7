"""How connections are made: which addresses, in which order, with which name in TLS."""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from beluna_gateway.adapters.http import connecting
from beluna_gateway.adapters.http.connecting import Addresses, TcpConnector, UnixConnector, UnusableHost
from tests.fakes.certificate import write_certificate


class Names:
    """The system's resolver, which answers when it is told to."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *hosts: str) -> None:
        self.hosts: Sequence[str] = hosts
        self.asked: list[tuple[Any, ...]] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", self._look_up)

    async def _look_up(self, host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
        self.asked.append((host, port, options))
        await self.may_answer.wait()
        if not self.hosts:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (host, port)) for host in self.hosts]


async def hosts_of(addresses: Addresses) -> list[str]:
    return [info[4][0] for info in await addresses.get()]


async def test_a_name_is_looked_up_once_and_its_addresses_take_turns(monkeypatch):
    """For all who ask at the same time, and for those who come later; each begins with another address."""
    names = Names(monkeypatch, "10.0.0.1", "10.0.0.2")
    addresses = Addresses("backend.example", 443)

    first = await asyncio.gather(*(hosts_of(addresses) for _ in range(3)))
    later = [await hosts_of(addresses) for _ in range(2)]

    assert names.asked == [("backend.example", 443, {"type": socket.SOCK_STREAM, "flags": socket.AI_ADDRCONFIG})]
    assert first == [["10.0.0.1", "10.0.0.2"]] * 3
    assert later == [["10.0.0.2", "10.0.0.1"], ["10.0.0.1", "10.0.0.2"]]


async def test_addresses_expire(monkeypatch):
    """After `ADDRESS_SECONDS` the name is looked up again."""
    monkeypatch.setattr(connecting, "ADDRESS_SECONDS", -1.0)
    names = Names(monkeypatch, "10.0.0.1")
    addresses = Addresses("backend.example", 443)
    await addresses.get()
    names.hosts = ["10.0.0.2"]

    assert await hosts_of(addresses) == ["10.0.0.2"]


async def test_who_gives_up_ends_no_look_up_of_others(monkeypatch):
    """The others get the addresses."""
    names = Names(monkeypatch, "10.0.0.1")
    names.may_answer.clear()
    addresses = Addresses("backend.example", 443)
    one, other = asyncio.create_task(hosts_of(addresses)), asyncio.create_task(hosts_of(addresses))
    await asyncio.sleep(0)
    one.cancel()
    await asyncio.sleep(0)
    names.may_answer.set()

    assert await other == ["10.0.0.1"]
    assert one.cancelled()


async def test_a_failure_is_not_kept(monkeypatch):
    """All who wait are told; who comes later asks anew."""
    names = Names(monkeypatch)
    addresses = Addresses("backend.example", 443)
    failed = await asyncio.gather(addresses.get(), addresses.get(), return_exceptions=True)
    names.hosts = ["10.0.0.1"]

    assert [type(failure) for failure in failed] == [socket.gaierror] * 2
    assert await hosts_of(addresses) == ["10.0.0.1"]


async def test_closing_ends_a_look_up(monkeypatch):
    """Nothing is left that waits for a name."""
    names = Names(monkeypatch, "10.0.0.1")
    names.may_answer.clear()
    connector = TcpConnector(URL("https://backend.example"))
    waiting = asyncio.create_task(connector.connect(asyncio.Protocol, None))
    await asyncio.sleep(0.01)

    await connector.close()

    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert len(asyncio.all_tasks()) == 1


@pytest.mark.parametrize(
    ("host", "family", "address"),
    [
        ("192.0.2.1", socket.AF_INET, ("192.0.2.1", 80)),
        ("2001:db8::1", socket.AF_INET6, ("2001:db8::1", 80, 0, 0)),
    ],
)
async def test_an_address_is_not_looked_up(host: str, family: int, address: tuple[Any, ...], monkeypatch):
    """It is what is connected to."""
    names = Names(monkeypatch)

    [info] = await Addresses(host, 80).get()

    assert (info[0], info[4]) == (family, address)
    assert not names.asked


@pytest.mark.parametrize("host", ["127.1", "2130706433", "127.0.0.256", "010.0.0.1", "1.2.3.4.5"])
async def test_a_number_that_is_no_usual_address_is_refused(host: str, monkeypatch):
    """The system would take it for one that the configuration does not show."""
    names = Names(monkeypatch, "127.0.0.1")

    with pytest.raises(UnusableHost, match="no IPv4 address of four decimal numbers"):
        await Addresses(host, 80).get()
    assert not names.asked


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        ("http://backend.example", ("backend.example", 80)),
        ("https://backend.example./v1", ("backend.example.", 443)),
        ("http://backend.example..:8080", ("backend.example.", 8080)),
        ("http://b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", ("xn--bcher-kva.example", 80)),
    ],
)
async def test_the_name_that_is_looked_up(url: str, asked: tuple[str, int], monkeypatch):
    """The endpoint's, as DNS has it; of several trailing dots one is left."""
    names = Names(monkeypatch)
    with pytest.raises(socket.gaierror):
        await TcpConnector(URL(url)).connect(asyncio.Protocol, None)

    assert [names.asked[0][:2]] == [asked]


@asynccontextmanager
async def server(host: str, port: int = 0, tls: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """A server that closes each connection; its port."""
    listener = await asyncio.start_server(lambda _, writer: writer.close(), host, port, ssl=tls)
    async with listener:
        yield listener.sockets[0].getsockname()[1]


async def peer_of(connector: TcpConnector, context: ssl.SSLContext | None = None) -> str:
    """The address that a new connection leads to."""
    made: list[asyncio.BaseTransport] = []

    class Recorded(asyncio.Protocol):
        def connection_made(self, transport: asyncio.BaseTransport) -> None:
            made.append(transport)

    await connector.connect(Recorded, context)
    [transport] = made
    host: str = transport.get_extra_info("peername")[0]
    transport.close()
    await asyncio.sleep(0.01)
    return host


async def test_an_address_that_refuses_is_passed_over(monkeypatch):
    """The next one of the same name is used."""
    Names(monkeypatch, "127.0.0.2", "127.0.0.1")
    async with server("127.0.0.1") as port:
        assert await peer_of(TcpConnector(URL(f"http://backend.example:{port}"))) == "127.0.0.1"


@pytest.mark.parametrize("hosts", [["127.0.0.2", "127.0.0.1"], ["127.0.0.2"]])
async def test_an_address_without_tls_is_passed_over(tmp_path: Path, monkeypatch, hosts: list[str]):
    """As long as there is another one."""
    context, trusted = contexts(tmp_path)
    Names(monkeypatch, *hosts)
    async with server("127.0.0.1", tls=context) as port, server("127.0.0.2", port):
        connector = TcpConnector(URL(f"https://localhost.:{port}"))  # the certificate's name has no dot
        if len(hosts) == 1:
            with pytest.raises((ConnectionError, ssl.SSLError)):
                await peer_of(connector, trusted)
        else:
            assert await peer_of(connector, trusted) == "127.0.0.1"


def contexts(folder: Path) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Of a server named localhost, and of a client that trusts it."""
    path = write_certificate(folder / "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context, ssl.create_default_context(cafile=path)


async def test_a_unix_socket_that_is_not_there(tmp_path: Path):
    """Is an `OSError`, as everywhere."""
    with pytest.raises(FileNotFoundError):
        await UnixConnector(str(tmp_path / "none.sock")).connect(asyncio.Protocol, None)
