"""One HTTP/1.1 exchange: a request's bytes out, a response's bytes in, on a connection of the pool.

llhttp reads the framing of responses (httptools). What is ours is the way of the bytes, without a task, a queue or a
stream reader: they are taken in the callback that brings them, and leaving the block aborts what has not ended.
"""

from __future__ import annotations

import asyncio
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Self

import httptools

from .connections import BrokenExchange, ConnectionPool

if TYPE_CHECKING:
    from aiohttp.connector import Connection

PIECE_BYTES = 256 * 1024
"""A larger request body goes in pieces of this, so that others have their turn in between."""

HELD_BYTES = 128 * 1024
"""So much of a response may wait to be taken; then the backend is no longer read."""

BURST_TURNS = 8
BURST_BYTES = 64 * 1024
"""How long and how much of a burst is gathered: several pieces in one read, and more in each turn of the loop."""

FRAMING_BYTES = 64 * 1024
"""The most that a response may spend on its head, and on anything else between two pieces of its body."""

LATE_END_SECONDS = 1.0
"""How long a response has for its own end, once the answer in it is complete, so that its connection can be used
again. Nobody waits for that."""


class Wire(asyncio.Protocol):
    """What a connection's transport speaks to, from its first exchange on: the exchange under way, in between aiohttp.

    It stays, because to change a transport's protocol costs system calls: the loop stops reading and starts again.
    """

    def __init__(self, idle: asyncio.Protocol) -> None:
        self._idle = idle
        self.exchange: Exchange | None = None

    def data_received(self, data: bytes) -> None:
        (self.exchange or self._idle).data_received(data)

    def eof_received(self) -> None:
        if self.exchange is not None:
            self.exchange.disconnected(None)
        else:
            self._idle.eof_received()

    def connection_lost(self, error: Exception | None) -> None:
        self._idle.connection_lost(error)
        if self.exchange is not None:
            self.exchange.disconnected(error)

    def pause_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.pause_writing()

    def resume_writing(self) -> None:
        if self.exchange is not None:
            self.exchange.resume_writing()


class Exchange:
    """``async with Exchange(pool, head, body) as exchange:``. Entering the block connects and sends; leaving it before
    the response has ended aborts the connection: that is the cancel. A response that has ended leaves its connection to
    the next one.
    """

    def __init__(self, pool: ConnectionPool, head: bytes, body: bytes) -> None:
        self._pool = pool
        self._loop = pool.loop
        self._head = head
        self._body = body
        self.status = 0
        """Of the response; 0 before its head is there."""
        self.complete = False
        """Set by whoever reads: the answer is all there, at most HTTP's own end of the response is missing."""
        self._headers: dict[bytes, bytes] = {}
        self._pieces: list[bytes] = []
        """Of the body, not taken yet."""
        self.on_body = self._pieces.append
        self._held = 0
        self._paused = False
        self._flowing = False
        """The first piece has been handed over."""
        self._gathering = False
        self._framing_bytes = 0
        self._until_close = False
        self._ended = False
        self._reusable = False
        self._failure: BrokenExchange | None = None
        self._take: Callable[[bytes], bool] | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._connection: Connection | None = None
        self._left = False
        self._late: asyncio.TimerHandle | None = None
        self._unsent = memoryview(b"")
        self._writable = True

    async def __aenter__(self) -> Self:
        connection = await self._pool.connect()
        transport, idle = connection.transport, connection.protocol
        assert transport is not None and idle is not None  # noqa: S101, PT018 - it is connected
        self._connection, self._transport = connection, transport
        wire = transport.get_protocol()
        if not isinstance(wire, Wire):
            wire = Wire(idle)
            transport.set_protocol(wire)
        wire.exchange = self
        self._wire = wire
        self._parser = httptools.HttpResponseParser(self)
        if len(self._body) <= PIECE_BYTES:
            transport.write(self._head + self._body)
        else:
            self._unsent = memoryview(self._body)
            transport.write(self._head)
            self._send_more()
        return self

    async def __aexit__(self, *_: object) -> None:
        self._left = True
        if self._ended:
            self._give_back()
        elif self.complete and self._failure is None:
            self._pool.on_close.add(self.abort)
            self._late = self._loop.call_later(LATE_END_SECONDS, self.abort)
        else:
            self.abort()
        self._failure = None  # whose traceback knows us

    async def head(self) -> None:
        """Returns when `status` and the headers are there.

        Raises:
            BrokenExchange: There is no response.
        """
        if not self.status and self._failure is None:
            await self._wait()
        if not self.status and self._failure is not None:
            raise self._failure

    def header(self, name: bytes) -> str | None:
        """The header's value. `name` in lower case."""
        value = self._headers.get(name)
        return None if value is None else value.decode("latin-1")

    async def until(self, take: Callable[[bytes], bool], within: float | None = None) -> bool:
        """Gives `take` each piece of the body as it arrives, until it returns True or the response ends.

        Pieces that arrive when nobody takes them wait here; when they are too many the backend is not read.

        Args:
            take: Gets each piece; True ends the call.
            within: The most seconds that the call may last.

        Returns:
            Whether the response has ended.

        Raises:
            TimeoutError: `within` is over.
            Exception: What `take` raised, or `BrokenExchange`.
        """
        if (ended := self._deliver(take)) is not None:
            return ended
        self._take = take
        timer = None if within is None else self._loop.call_later(within, self._expire)
        try:
            return await self._wait()
        finally:
            self._take = None
            if timer is not None:
                timer.cancel()

    def abort(self) -> None:
        """Ends the connection, now."""
        if self._connection is None:
            return
        _reset_if_unsent(self._transport)
        self._unsent = memoryview(b"")
        self._transport.abort()
        self._part().close()

    async def _wait(self) -> bool:
        self._waiter = self._loop.create_future()
        try:
            return await self._waiter
        finally:
            self._waiter = None

    def _expire(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def _deliver(self, take: Callable[[bytes], bool]) -> bool | None:
        """Hands over what is there; None: more is to come, and wanted. What came before a failure is said first."""
        if self._pieces:
            chunk = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
            self._pieces.clear()
            self._held = 0
            self._flowing = True
            if self._paused:
                self._paused = False
                self._transport.resume_reading()
            if take(chunk):
                return False
        if self._failure is not None:
            raise self._failure
        return True if self._ended else None

    def _arrived(self, size: int) -> None:
        """Something has come, or nothing will any more."""
        waiter = self._waiter
        self._held += size
        if self._left:
            self._pieces.clear()
            if self._ended:
                self._give_back()
            elif self._failure is not None:
                self.abort()
        elif waiter is None or waiter.done():
            if self._held > HELD_BYTES and not (self._paused or self._ended or self._failure):
                self._paused = True
                self._transport.pause_reading()
        elif self._take is None:
            if self.status or self._failure is not None:
                waiter.set_result(self._ended)
        elif (
            self._flowing and len(self._pieces) > 1 and self._held <= BURST_BYTES and not (self._ended or self._failure)
        ):
            if not self._gathering:
                self._gathering = True
                self._loop.call_soon(self._gather, BURST_TURNS, 0)
        else:
            self._hand_over()

    def _gather(self, turns: int, seen: int) -> None:
        """The backend writes faster than we read: what each turn of the loop brings goes on in one write to the client,
        which costs more than the reading.
        """
        if turns and len(self._pieces) > seen:
            self._loop.call_soon(self._gather, turns - 1, len(self._pieces))
        else:
            self._gathering = False
            self._hand_over()

    def _hand_over(self) -> None:
        take, waiter = self._take, self._waiter
        if take is None or waiter is None or waiter.done():
            return
        try:
            ended = self._deliver(take)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            waiter.set_exception(error)
        else:
            if ended is not None:
                waiter.set_result(ended)

    def _give_back(self) -> None:
        sent = not self._unsent and not self._transport.get_write_buffer_size()
        if self._reusable and sent:
            self._part().release()
        else:
            self.abort()

    def _part(self) -> Connection:
        """Lets go of the connection, which happens once."""
        connection = self._connection
        assert connection is not None  # noqa: S101
        self._connection = self._wire.exchange = None
        del self._parser  # which knows us
        self._pool.on_close.discard(self.abort)
        if self._late is not None:
            self._late.cancel()
        return connection

    def _send_more(self) -> None:
        while self._unsent and self._writable:
            piece, self._unsent = self._unsent[:PIECE_BYTES], self._unsent[PIECE_BYTES:]
            self._transport.write(piece)

    # --- what the wire calls ---------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Bytes of the response have come."""
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reusable = False
            if not self._ended and self._failure is None:
                self._failure = (
                    self._pool.cut(f"its body is broken: {error}") if self.status else self._pool.no_http(error)
                )
        if self._pieces:
            self._framing_bytes = 0
        else:
            self._framing_bytes += len(data)
            if self._framing_bytes > FRAMING_BYTES and self._failure is None:
                self._failure = self._pool.no_http(f"more than {FRAMING_BYTES} bytes that are no body")
        self._arrived(len(data))

    def disconnected(self, error: Exception | None) -> None:
        """Nothing more will come."""
        self._reusable = False
        if not self._ended and self._failure is None:
            if self._until_close and error is None:
                self._ended = True
            else:
                self._failure = self._pool.cut(error or ("inside its response" if self.status else "no response came"))
        self._arrived(0)

    def pause_writing(self) -> None:
        """Enough waits to be sent."""
        self._writable = False

    def resume_writing(self) -> None:
        """It has been sent."""
        self._writable = True
        self._send_more()

    # --- what llhttp calls; `on_body` is above ---------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._ended:
            raise ValueError("there is more after the end of the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.lower()] = value

    def on_headers_complete(self) -> None:
        status = self._parser.get_status_code()
        if status < 200:  # "100 Continue" and the like: the response is still to come
            self._headers.clear()
            return
        self.status = status
        self._reusable = self._parser.should_keep_alive()
        chunked = b"chunked" in self._headers.get(b"transfer-encoding", b"").lower()
        self._until_close = not chunked and b"content-length" not in self._headers

    def on_message_complete(self) -> None:
        self._ended = self.status > 0


def _reset_if_unsent(transport: asyncio.Transport) -> None:
    """Has the connection end with RST where the kernel still holds bytes of ours: a FIN would come after them, which is
    never, where the backend does not read.
    """
    raw = transport.get_extra_info("socket")
    if raw is None or raw.fileno() < 0:
        return  # it is closed
    unsent = bytearray(4)
    with suppress(OSError):
        fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, unsent)
        if any(unsent):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
