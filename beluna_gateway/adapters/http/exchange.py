"""One HTTP/1.1 exchange on a pooled connection: a request out, a response in; leaving it early aborts the connection.

`data_received` parses and delivers body bytes synchronously; there is no task or queue per response. What decides is in
`response_parser.py`, what waits in `body_buffer.py`, what is sent in `request_writer.py`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TYPE_CHECKING, Literal, Self

from .body_buffer import LARGE_READ_BYTES, BodyBuffer
from .connections import BrokenExchange, ConnectionPool, PooledConnection, PooledProtocol
from .response_parser import ResponseParser

if TYPE_CHECKING:
    from .request_writer import RequestWriter

LATE_END_SECONDS = 1.0
"""How long a response has for its own end, once the answer in it is complete, so that its connection can be used
again. Nobody waits for that."""


State = Literal["new", "open", "lingering", "closed"]
"""Where an exchange stands with its connection. `open`: inside the block. `lingering`: the block was left with the
answer complete; only HTTP's own end of the response is missing. `closed`: the connection was given back to the pool, or
aborted.
"""


class Exchange:
    """``async with Exchange(pool, head, body) as exchange:``. Entering the block connects and sends.

    Leaving the block before the response has ended aborts the connection: that is the cancel. A response that has ended
    leaves its connection for the next exchange.
    """

    __slots__ = (
        "_buffer",
        "_connection",
        "_late",
        "_parser",
        "_pool",
        "_protocol",
        "_request",
        "_state",
        "_take",
        "_transport",
        "_waiter",
        "_writer",
        "complete",
    )

    def __init__(self, pool: ConnectionPool, head: bytes, body: bytes) -> None:
        self.complete = False
        """Set by the reader of the body: the answer is all there, at most HTTP's own end of the response is missing."""
        self._pool = pool
        self._request = (head, body)
        self._state: State = "new"
        self._take: Callable[[bytes], bool] | None = None
        self._waiter: asyncio.Future[bool] | None = None
        self._late: asyncio.TimerHandle | None = None
        # Set when the block is entered:
        self._connection: PooledConnection
        self._transport: asyncio.Transport
        self._protocol: PooledProtocol
        self._buffer: BodyBuffer
        self._parser: ResponseParser
        self._writer: RequestWriter

    async def __aenter__(self) -> Self:
        self._connection = pooled = await self._pool.connect()
        _, transport, protocol = pooled
        self._transport, self._protocol = transport, protocol
        self._buffer = BodyBuffer(transport, self._pool.loop)
        self._parser = ResponseParser(self._buffer.pieces)
        self._writer = protocol.writer
        self._state = "open"
        protocol.exchange = self
        self._writer.start(*self._request)
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._state == "closed":
            return
        phase = self._parser.phase
        if phase == "ended":
            self._give_back()
        elif self.complete and phase != "failed":
            self._state = "lingering"
            self._buffer.discard()
            self._pool.on_close.add(self.abort)
            self._late = self._pool.loop.call_later(LATE_END_SECONDS, self.abort)
        else:
            self.abort()

    @property
    def status(self) -> int:
        """The response's; 0 before its head is there."""
        return self._parser.status

    async def head(self) -> None:
        """Returns when `status` and the headers are there.

        Raises:
            BrokenExchange: There is no response.
        """
        if self._parser.phase == "head":
            try:
                await self._new_waiter()
            finally:
                self._waiter = None
        if not self._parser.status:
            raise self._broken()
        if 200 <= self._parser.status < 300:
            self._writer.accepted()

    def header(self, name: bytes) -> str | None:
        """The header's value, the last one where it is repeated. `name` in lower case."""
        return self._parser.header(name)

    def content_codings(self) -> list[str]:
        """How the body is compressed, in the order in which it was; without `identity` and the charset that some
        servers write there, which mean that it is not.
        """
        codings = self._parser.codings(b"content-encoding")
        return [coding for coding in codings if coding not in ("identity", "utf-8", "utf8")] if codings else codings

    async def until(self, take: Callable[[bytes], bool], within: float | None = None) -> bool:
        """Gives `take` each piece of the body as it arrives, until it returns True or the response ends.

        Pieces that arrive between two calls are buffered; above a high-water mark the backend is not read.

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
        timer = None if within is None else self._pool.loop.call_later(within, self._expire)
        try:
            return await self._new_waiter()
        finally:
            self._take = self._waiter = None
            if timer is not None:
                timer.cancel()

    def abort(self) -> None:
        """Ends the connection, now."""
        if self._state in ("open", "lingering"):
            self._writer.reset_if_unsent()
            self._transport.abort()
            self._detach()
            self._connection.connection.close()

    def _new_waiter(self) -> asyncio.Future[bool]:
        self._waiter = self._pool.loop.create_future()
        return self._waiter

    def _expire(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(TimeoutError())

    def _broken(self) -> BrokenExchange:
        failure = self._parser.failure
        assert failure is not None  # noqa: S101 - only asked for in the phase `failed`
        return (self._pool.cut if failure.kind == "cut" else self._pool.no_http)(failure.reason)

    def _deliver(self, take: Callable[[bytes], bool]) -> bool | None:
        """Delivers what is buffered, also what came before a failure. Returns None where more is to come and wanted."""
        if self._buffer.pieces and take(self._buffer.take()):
            return False
        phase = self._parser.phase
        if phase == "body":
            return None
        if phase == "failed":
            raise self._broken()
        return True

    def _hand_over(self, take: Callable[[bytes], bool], waiter: asyncio.Future[bool]) -> None:
        """Delivers to the reader that waits, and wakes it where it must decide something."""
        try:
            ended = self._deliver(take)
        except Exception as error:  # noqa: BLE001 - the reader gets it
            waiter.set_exception(error)
        else:
            if ended is not None:
                waiter.set_result(ended)

    def _hand_over_gathered(self) -> None:
        if self._take is not None and self._waiter is not None and not self._waiter.done():
            self._hand_over(self._take, self._waiter)

    def _linger(self) -> None:
        """Drops what comes after a complete answer, until the response ends."""
        self._buffer.discard()
        if self._parser.phase == "ended":
            self._give_back()
        elif self._parser.phase == "failed":
            self.abort()

    def _give_back(self) -> None:
        if self._parser.reusable and self._writer.sent:
            self._detach()
            self._pool.give_back(self._connection)
        else:
            self.abort()

    def _detach(self) -> None:
        """Separates the exchange from its connection, which happens once."""
        self._state = "closed"
        self._protocol.exchange = None
        self._parser.close()
        self._writer.close()
        if self._late is not None:
            self._late.cancel()
            self._pool.on_close.discard(self.abort)

    # --- called by the connection's protocol ---------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Takes bytes of the response."""
        parser = self._parser
        parser.feed(data)
        waiter = self._waiter
        if waiter is None or waiter.done():
            if self._state != "open":
                self._linger()
            elif parser.phase == "body":
                self._buffer.hold(len(data))
        elif self._take is None:
            if parser.phase != "head":
                waiter.set_result(False)
        elif (
            len(self._buffer.pieces) < 2
            or parser.phase != "body"
            or not self._buffer.gather(len(data), self._hand_over_gathered)
        ):
            self._hand_over(self._take, waiter)
        if len(data) >= LARGE_READ_BYTES and self._state == "open" and parser.phase == "body":
            self._buffer.end_turn()

    def disconnected(self, error: Exception | None, rest: bytes = b"") -> None:
        """Takes the end of the connection, or of its readable half.

        Args:
            error: Why it ended; None where the end was orderly.
            rest: The last bytes of the response.
        """
        self._parser.feed(rest)
        self._parser.feed_eof(error)
        self.data_received(b"")  # delivers the end
