"""Sending a request, to a transport of the test's own."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest

from beluna_gateway.adapters.http.request_writer import PIECE_BYTES, RequestWriter


class Transport(asyncio.Transport):
    """Holds what it is given beyond `room`, and tells its writer as asyncio's transports do."""

    def __init__(self, raw: socket.socket, room: int, *, tls: bool = False) -> None:
        super().__init__({"socket": raw, "sslcontext": object() if tls else None})
        self.room = room
        self.high = 64 * 1024
        self.written: list[int] = []
        self.paused = False
        self.broken = False
        self.closing = False
        """The next write meets a connection that is no more: it drops everything, as asyncio's transports do."""
        self.writer: RequestWriter

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        assert high is not None
        self.high = high

    def write(self, data: Any) -> None:
        assert not self.paused
        self.written.append(len(data))
        self.closing = self.broken
        self.room = 0 if self.broken else self.room - len(data)
        if self.get_write_buffer_size() > self.high:
            self.paused = True
            self.writer.pause()

    def get_write_buffer_size(self) -> int:
        return max(0, -self.room)

    def is_closing(self) -> bool:
        return self.closing

    def drain(self, size: int) -> None:
        """The kernel takes so much more."""
        self.room += size
        if self.paused and self.get_write_buffer_size() <= self.high // 4:
            self.paused = False
            self.writer.resume()


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def writer_on(transport: Transport) -> RequestWriter:
    transport.writer = RequestWriter(transport)
    return transport.writer


def test_a_small_request_is_one_write(pair):
    """Head and body together."""
    transport = Transport(pair[0], 1 << 20)
    writer = writer_on(transport)
    writer.start(b"head", b"body")

    assert transport.written == [8]
    assert writer.sent


def test_a_large_request_waits_for_room(pair):
    """It goes in pieces, and no piece is given to a transport whose buffer is full."""
    transport = Transport(pair[0], PIECE_BYTES)
    writer = writer_on(transport)
    writer.start(b"head", b"x" * (3 * PIECE_BYTES))

    assert transport.written == [4, PIECE_BYTES]
    assert not writer.sent
    transport.drain(4)
    assert transport.written == [4, PIECE_BYTES, PIECE_BYTES]
    transport.drain(10 * PIECE_BYTES)
    assert transport.written == [4, *[PIECE_BYTES] * 3]
    assert writer.sent


@pytest.mark.parametrize("rest", [1, 10_000, PIECE_BYTES])
def test_an_early_answer_is_read_until_the_request_is_sent(pair, rest: int):
    """However little of it the kernel has not taken yet; afterwards the answer comes the usual way."""
    transport = Transport(pair[0], PIECE_BYTES - rest)
    writer = writer_on(transport)
    writer.start(b"", b"x" * PIECE_BYTES)
    pair[1].sendall(b"early")

    assert writer.unread() == b"early"
    pair[1].sendall(b"late")
    transport.drain(rest)
    assert writer.unread() == b""
    writer.close()


@pytest.mark.parametrize("pieces", [2, 3, 5])
def test_where_a_write_fails_the_early_answer_is_kept(pair, pieces: int):
    """Also where it was the last piece; no more is written."""
    transport = Transport(pair[0], PIECE_BYTES // 2)
    writer = writer_on(transport)
    writer.start(b"", b"x" * (pieces * PIECE_BYTES))
    pair[1].sendall(b"early")
    transport.broken = True
    transport.drain(PIECE_BYTES // 2)

    assert transport.written == [0, PIECE_BYTES, PIECE_BYTES]
    assert not writer.sent
    assert writer.unread() == b"early"
    writer.close()


def test_over_tls_an_early_answer_is_kept_until_the_backend_accepts(pair):
    """As records; a TLS transport does not tell when the kernel has taken the request."""
    writer = writer_on(Transport(pair[0], 1 << 20, tls=True))
    writer.start(b"", b"x" * PIECE_BYTES)
    pair[1].sendall(b"\x17\x03\x03")

    assert writer.sent
    assert writer.unread() == b"\x17\x03\x03"
    writer.accepted()
    pair[1].sendall(b"\x17\x03\x03")
    assert writer.unread() == b""


def test_an_accepted_request_that_is_still_being_sent_keeps_its_early_answer(pair):
    """A success that breaks off is read as far as it came."""
    writer = writer_on(Transport(pair[0], 0))
    writer.start(b"", b"x" * PIECE_BYTES)
    writer.accepted()
    pair[1].sendall(b"early")

    assert writer.unread() == b"early"
    writer.close()


def test_an_early_answer_has_a_limit(pair):
    """A backend that floods is not read without end."""
    writer = writer_on(Transport(pair[0], 0))
    writer.start(b"", b"x" * PIECE_BYTES)
    pair[1].setblocking(False)
    sent = 0
    for _ in range(100):
        try:
            sent += pair[1].send(b"x" * 100_000)
        except BlockingIOError:
            break

    assert 0 < len(writer.unread()) <= sent
    writer.close()
    assert writer.unread() == b""
