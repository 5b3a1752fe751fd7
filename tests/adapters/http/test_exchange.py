"""An exchange on a real socket, on both event loops: what is in the kernel counts, and nothing is left there."""

from __future__ import annotations

import asyncio
import os
import select
import socket
import ssl
import struct
import threading
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, nullcontext, suppress
from pathlib import Path

import aiohttp
import pytest
import uvloop
from yarl import URL

from beluna_gateway.adapters.http import connections
from beluna_gateway.adapters.http import exchange as exchange_module
from beluna_gateway.adapters.http.connections import BrokenExchange, ConnectionPool
from beluna_gateway.adapters.http.exchange import Exchange
from beluna_gateway.adapters.http.request_writer import RequestWriter
from beluna_gateway.config.settings import BackendProfile, BackendSettings, Budget, Reliability
from tests.fakes.backend import PATIENCE
from tests.fakes.certificate import write_certificate

HEAD = b"POST / HTTP/1.1\r\nHost: h\r\n\r\n"
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"
TOO_LARGE = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: 5\r\n\r\nsmall"

Main = Callable[[], Coroutine[None, None, None]]


@pytest.fixture(params=[asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def run(request: pytest.FixtureRequest) -> Iterator[Callable[[Main], None]]:
    """Runs a test's coroutine, not for ever."""

    async def patient(main: Main) -> None:
        async with asyncio.timeout(PATIENCE):
            await main()

    with asyncio.Runner(loop_factory=request.param) as runner:
        yield lambda main: runner.run(patient(main))


@contextmanager
def listening(receive_buffer: int | None = None) -> Iterator[socket.socket]:
    with socket.socket() as server:
        if receive_buffer is not None:
            server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        server.bind(("127.0.0.1", 0))
        server.listen(200)
        yield server


def tls_of_server(folder: Path) -> tuple[Path, ssl.SSLContext]:
    """A new certificate, and the context of a server that has it."""
    path = write_certificate(folder / "certificate.pem")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return path, context


@asynccontextmanager
async def pool_of(server: socket.socket, tls: ssl.SSLContext | None = None) -> AsyncIterator[ConnectionPool]:
    port = server.getsockname()[1]
    url = f"http://127.0.0.1:{port}" if tls is None else f"https://localhost:{port}"
    backend = BackendSettings.model_validate(
        {
            "id": "b",
            "dialect": "ollama",
            "endpoint": url,
            "credential": {"type": "none"},
            "default_model": "m",
        }
    )
    pool = ConnectionPool(URL(url), None, BackendProfile(backend, Reliability(), Budget(), Path()))
    if tls is not None:
        await pool._connector.close()
        pool._connector = aiohttp.TCPConnector(limit=0, ssl=tls)
    try:
        yield pool
    finally:
        await pool.close()
        await asyncio.sleep(0.01)  # TLS transports take some turns to close


async def body_of(exchange: Exchange) -> bytes:
    pieces: list[bytes] = []

    def take(piece: bytes) -> bool:
        pieces.append(piece)
        return False

    await exchange.head()
    await exchange.until(take)
    return b"".join(pieces)


async def in_thread(function: Callable[[], object]) -> None:
    """Runs what blocks, while the loop goes on."""
    await asyncio.get_running_loop().run_in_executor(None, function)


def kernel_has_input(exchange: Exchange) -> None:
    """Waits, without the event loop, until the exchange's last connection is readable."""
    descriptor = exchange._transport.get_extra_info("socket").fileno()
    assert select.select([descriptor], [], [], PATIENCE)[0]


async def peer_of_a_kept_connection(pool: ConnectionPool, server: socket.socket) -> socket.socket:
    """The backend's end of a connection on which one request has been answered."""
    async with Exchange(pool, HEAD, b"") as exchange:
        peer, _ = server.accept()
        peer.sendall(ANSWER)
        assert await body_of(exchange) == b"hello"
    return peer


@pytest.mark.parametrize("what", ["answer", "end", "reset"])
def test_what_waits_in_the_kernel_condemns_a_kept_connection(run, what: str):
    """A second answer or an end that the event loop has not read is seen before the connection is used again."""

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool:
                async with Exchange(pool, HEAD, b"") as first:
                    peer, _ = server.accept()
                    peer.sendall(ANSWER)
                    assert await body_of(first) == b"hello"
                with peer:
                    if what == "answer":
                        peer.sendall(ANSWER.replace(b"hello", b"wrong"))
                    elif what == "end":
                        peer.shutdown(socket.SHUT_WR)
                    else:
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        peer.close()
                    kernel_has_input(first)
                    async with Exchange(pool, HEAD, b"") as second:  # nothing here lets the loop look at its sockets
                        other, _ = server.accept()
                        with other:
                            other.sendall(ANSWER)
                            assert await body_of(second) == b"hello"

    run(main)


def test_a_quiet_connection_is_used_again(run):
    """However often."""

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool:
                peer = None
                for _ in range(3):
                    async with Exchange(pool, HEAD, b"{}") as exchange:
                        peer = peer or server.accept()[0]
                        assert peer.recv(1000) == HEAD + b"{}"
                        peer.sendall(ANSWER)
                        assert await body_of(exchange) == b"hello"
                assert peer is not None
                peer.close()

    run(main)


@pytest.mark.parametrize("what", ["answer", "end", "nothing"])
def test_a_connection_that_nobody_needs_goes_back_to_aiohttp(run, monkeypatch, what: str):
    """Which closes what came to an end, and gives the other ones out again."""
    monkeypatch.setattr(connections, "AT_HAND_SECONDS", 0.01)

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool:
                with await peer_of_a_kept_connection(pool, server) as peer:
                    if what == "answer":
                        peer.sendall(ANSWER.replace(b"hello", b"wrong"))
                    elif what == "end":
                        peer.shutdown(socket.SHUT_WR)
                    while pool._at_hand:
                        await asyncio.sleep(0.01)
                    async with Exchange(pool, HEAD, b"") as second:
                        other = peer
                        if what != "nothing":
                            other, _ = server.accept()
                        with other:
                            other.sendall(ANSWER)
                            assert await body_of(second) == b"hello"

    run(main)


def test_over_tls_too(run, tmp_path):
    """A connection is used again, though session tickets came on it; a second answer condemns it."""

    async def main() -> None:
        path, context = tls_of_server(tmp_path)
        with listening() as server:
            async with pool_of(server, ssl.create_default_context(cafile=path)) as pool:
                accepted: list[ssl.SSLSocket] = []

                def accept() -> None:
                    accepted.append(context.wrap_socket(server.accept()[0], server_side=True))

                def answer() -> None:
                    assert accepted[-1].recv(1000)
                    accepted[-1].sendall(ANSWER)

                task = asyncio.create_task(in_thread(accept))
                for _ in range(3):
                    async with Exchange(pool, HEAD, b"") as exchange:
                        await task
                        await in_thread(answer)
                        assert await body_of(exchange) == b"hello"
                assert len(accepted) == 1
                accepted[0].sendall(ANSWER.replace(b"hello", b"wrong"))
                kernel_has_input(exchange)
                task = asyncio.create_task(in_thread(accept))
                async with Exchange(pool, HEAD, b"") as exchange:
                    await task
                    await in_thread(answer)
                    assert await body_of(exchange) == b"hello"
                for peer in accepted:
                    peer.close()

    run(main)


def test_closing_the_pool_waits_for_no_close_notify(run, tmp_path):
    """A TLS connection that was given up before, and whose peer does not answer that, ends with the pool."""

    async def main() -> None:
        path, context = tls_of_server(tmp_path)
        with listening() as server:
            async with pool_of(server, ssl.create_default_context(cafile=path)) as pool:
                accepted: list[ssl.SSLSocket] = []
                accepting = asyncio.create_task(
                    in_thread(lambda: accepted.append(context.wrap_socket(server.accept()[0], server_side=True)))
                )
                connection, _, _ = await pool.connect()
                await accepting
                connection.close()
                end = select.poll()
                end.register(accepted[0].fileno(), select.POLLRDHUP)
                assert not end.poll(10)

                await pool.close()

                assert await asyncio.to_thread(end.poll, PATIENCE * 1000)
                accepted[0].close()

    run(main)


def test_a_large_request_arrives_whole_over_tls(run, tmp_path):
    """And the connection is used again for a small one, and another large one."""

    async def main() -> None:
        path, context = tls_of_server(tmp_path)
        bodies = [os.urandom(5_000_000), b"small", os.urandom(100_000)]
        arrived: list[bytes] = []
        with listening() as server:

            def answer() -> None:
                with context.wrap_socket(server.accept()[0], server_side=True) as peer:
                    for body in bodies:
                        request = b""
                        while len(request) < len(HEAD) + len(body):
                            request += peer.recv(1 << 20)
                        arrived.append(request.removeprefix(HEAD))
                        peer.sendall(ANSWER)

            async with pool_of(server, ssl.create_default_context(cafile=path)) as pool:
                task = asyncio.create_task(in_thread(answer))
                for body in bodies:
                    async with Exchange(pool, HEAD, body) as exchange:
                        assert await body_of(exchange) == b"hello"
                await task
        assert arrived == bodies

    run(main)


@pytest.mark.parametrize("orderly", [True, False], ids=["close_notify", "fin"])
@pytest.mark.parametrize("body", [b"hello", b""])
def test_over_tls_a_body_without_a_length_ends_with_close_notify_only(run, tmp_path, orderly: bool, body: bytes):
    """The end of the TCP connection proves nothing: anybody on the way can make one."""

    async def main() -> None:
        path, context = tls_of_server(tmp_path)
        with listening() as server:

            def answer() -> None:
                with context.wrap_socket(server.accept()[0], server_side=True) as peer:
                    assert peer.recv(1000)
                    peer.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + body)
                    if orderly:
                        with suppress(OSError):
                            peer.unwrap()

            async with pool_of(server, ssl.create_default_context(cafile=path)) as pool:
                task = asyncio.create_task(in_thread(answer))
                async with Exchange(pool, HEAD, b"") as exchange:
                    if orderly:
                        assert await body_of(exchange) == body
                    else:
                        with pytest.raises(BrokenExchange, match="close_notify") as failure:
                            await body_of(exchange)
                        assert failure.value.retryable
                await task

    run(main)


@pytest.mark.parametrize("ending", ["close", "reset", "TLS, close", "TLS, reset", "TLS, close_notify"])
@pytest.mark.parametrize("has_length", [True, False], ids=["with a length", "without"])
def test_an_answer_to_a_request_that_is_no_longer_read_counts(
    run, tmp_path, monkeypatch, ending: str, has_length: bool
):
    """The backend answers 413 in the middle of the request and breaks the connection; the next write fails.

    A body without a length is then whole only where close_notify says so.
    """
    path, context = tls_of_server(tmp_path)
    tls = ending.startswith("TLS")

    async def main() -> None:
        accepted: list[socket.socket] = []

        def accept() -> None:
            peer, _ = server.accept()
            peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            accepted.append(context.wrap_socket(peer, server_side=True) if tls else peer)

        def resume(writer: RequestWriter) -> None:
            """The backend answers just before the next piece is written, which then meets a broken connection."""
            if accepted[0].fileno() >= 0:
                answer_and_close(accepted[0])
            go_on(writer)

        go_on = RequestWriter.resume
        monkeypatch.setattr(RequestWriter, "resume", resume)

        def answer_and_close(peer: socket.socket) -> None:
            peer.setblocking(True)
            peer.sendall(TOO_LARGE if has_length else TOO_LARGE.replace(b"Content-Length: 5", b"Connection: close"))
            if isinstance(peer, ssl.SSLSocket) and ending.endswith("notify"):
                peer.setblocking(False)
                with suppress(ssl.SSLError):  # no answer is waited for
                    peer.unwrap()
            elif ending.endswith("reset"):
                peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            peer.close()

        with listening(receive_buffer=64 * 1024) as server:
            async with pool_of(server, ssl.create_default_context(cafile=path) if tls else None) as pool:
                accepting = asyncio.create_task(in_thread(accept))
                async with Exchange(pool, HEAD, b"x" * 16_000_000) as exchange:
                    await accepting
                    peer = accepted[0]
                    peer.setblocking(False)
                    while peer.fileno() >= 0:
                        with suppress(BlockingIOError, ssl.SSLWantReadError):
                            peer.recv(64 * 1024)
                        await asyncio.sleep(0)

                    await exchange.head()
                    assert exchange.status == 413
                    body = bytearray()

                    def take(piece: bytes) -> bool:
                        body.extend(piece)
                        return False

                    is_whole = has_length or ending.endswith("notify")
                    # Whether TCP ended in order depends on what the kernels still had to send.
                    with nullcontext() if is_whole else suppress(BrokenExchange):
                        await exchange.until(take)
                        assert is_whole or not tls
                    assert body == b"small"

    run(main)


def test_a_broken_connection_without_an_answer_is_a_cut(run):
    """Nothing is made up where the backend broke off without a word."""

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool, Exchange(pool, HEAD, b"x" * 16_000_000) as exchange:
                peer, _ = server.accept()
                peer.close()
                with pytest.raises(BrokenExchange, match="was cut") as failure:
                    await exchange.head()
                assert failure.value.retryable

    run(main)


@pytest.mark.parametrize("size", [100_000, 1_000_000, 16_000_000])
def test_a_large_request_keeps_no_second_descriptor(run, size: int):
    """Once the kernel has taken it there is one descriptor, as for every request; while it is sent there are two."""

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool, Exchange(pool, HEAD, b"x" * size) as exchange:
                peer, _ = server.accept()
                left = len(HEAD) + size

                def read() -> None:
                    nonlocal left
                    while left:
                        left -= len(peer.recv(1 << 20))

                with peer:
                    await in_thread(read)
                    while not exchange._writer.sent:
                        await asyncio.sleep(0)
                    await asyncio.sleep(0)
                    assert exchange._writer._descriptor is None
                    peer.sendall(ANSWER)
                    assert await body_of(exchange) == b"hello"

    run(main)


def test_a_cancel_while_a_request_is_sent_reaches_the_backend(run):
    """The connection is reset although the backend reads nothing and most of the request is unsent."""

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool:
                async with Exchange(pool, HEAD, b"x" * 16_000_000):
                    peer, _ = server.accept()
                with peer:
                    await asyncio.sleep(0)
                    poll = select.poll()
                    poll.register(peer, 0)
                    assert poll.poll(PATIENCE * 1000)

    run(main)


def test_a_complete_answer_may_end_later(run):
    """Left with `complete`, an exchange waits for HTTP's end in the background; then its connection is used again."""

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool:
                async with Exchange(pool, HEAD, b"") as first:
                    peer, _ = server.accept()
                    peer.recv(1000)
                    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                    await first.head()
                    assert not await first.until(lambda piece: piece == b"hello")
                    first.complete = True
                with peer:
                    peer.sendall(b"1\r\nx\r\n0\r\n\r\n")
                    while first._state != "closed":
                        await asyncio.sleep(0)
                    async with Exchange(pool, HEAD, b"") as second:
                        assert peer.recv(1000) == HEAD
                        peer.sendall(ANSWER)
                        assert await body_of(second) == b"hello"

    run(main)


@pytest.mark.parametrize("broken", [b"this is no chunk\r\n", None], ids=["broken", "reset"])
def test_a_complete_answer_that_breaks_later_ends_its_connection(run, broken: bytes | None):
    """Nobody is told, for the answer is there."""

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool:
                async with Exchange(pool, HEAD, b"") as exchange:
                    peer, _ = server.accept()
                    peer.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n")
                    await exchange.head()
                    assert not await exchange.until(lambda piece: True)
                    exchange.complete = True
                with peer:
                    if broken is None:
                        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                        peer.close()
                    else:
                        peer.sendall(broken)
                    while exchange._state != "closed":
                        await asyncio.sleep(0)
                    assert exchange._transport.is_closing()

    run(main)


def test_a_closed_pool_ends_what_lingers(run, monkeypatch):
    """No connection outlives its pool, though its request is not all sent yet."""
    monkeypatch.setattr(exchange_module, "LATE_END_SECONDS", 60.0)

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool:
                async with Exchange(pool, HEAD, b"x" * 16_000_000) as exchange:
                    peer, _ = server.accept()
                    peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhello")
                    await exchange.head()
                    assert not await exchange.until(lambda piece: True)
                    exchange.complete = True
                assert not exchange._transport.is_closing()
                await pool.close()
            with peer:
                poll = select.poll()
                poll.register(peer, 0)
                assert poll.poll(PATIENCE * 1000)

    run(main)


def test_more_than_a_hundred_exchanges_at_once(run):
    """The number of connections has no limit of its own: `max_concurrent_requests` is the one that counts."""

    async def main() -> None:
        with listening() as server:
            async with pool_of(server) as pool:
                exchanges = [Exchange(pool, HEAD, b"") for _ in range(120)]
                for exchange in exchanges:
                    await exchange.__aenter__()
                for exchange in exchanges:
                    await exchange.__aexit__()

    run(main)


def test_a_fast_backend_leaves_the_loop_its_turns(run):
    """However much waits in the kernel, one turn brings no more than one read of it."""
    size = 6_000_000

    async def main() -> None:
        loop = asyncio.get_running_loop()
        turns: list[int] = [0]
        over = False

        def next_turn() -> None:
            turns.append(0)
            if not over:
                loop.call_soon(next_turn)

        def take(piece: bytes) -> bool:
            turns[-1] += len(piece)
            return False

        loop.call_soon(next_turn)
        with listening(receive_buffer=size) as server:
            async with pool_of(server) as pool, Exchange(pool, HEAD, b"") as exchange:
                peer, _ = server.accept()
                with peer:
                    exchange._transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, size)
                    writing = loop.run_in_executor(
                        None, peer.sendall, ANSWER.replace(b"5", b"%d" % size).replace(b"hello", b"x" * size)
                    )
                    await exchange.head()
                    await exchange.until(take)
                    await writing
        over = True
        assert sum(turns) == size
        assert max(turns) <= 2 * 256 * 1024

    run(main)


def test_a_reader_that_comes_late_gets_everything(run):
    """What arrives while nobody reads waits; above the high-water mark it waits in the kernel."""

    async def main() -> None:
        body = os.urandom(8_000_000)
        with listening() as server:
            async with pool_of(server) as pool, Exchange(pool, HEAD, b"") as exchange:
                peer, _ = server.accept()
                answer = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
                sender = threading.Thread(target=peer.sendall, args=(answer,))
                sender.start()
                await exchange.head()
                while not exchange._buffer._paused:
                    await asyncio.sleep(0)
                held = sum(map(len, exchange._buffer.pieces))
                assert held < 1_000_000
                assert await body_of(exchange) == body
                await in_thread(sender.join)
                peer.close()

    run(main)
