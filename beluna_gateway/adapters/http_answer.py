"""One answer over HTTP: a response's bytes → its dialect's events, streamed or whole.

The hot path is `ResponseTap.data_received` → `Answer._take`: one read of the backend → one batch of events → one write
to the client, all in the callback that brought the bytes. aiohttp still frames the response, before us; what is left
out is waking a task for every read.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Self

import aiohttp

from ..canonical import BackendRawEvent
from ..errors import GatewayError, cut_off, protocol_violation
from .base import Emit, ResponseDecoder, SilenceTimer, parse_object
from .ndjson import NdjsonParser
from .sse import SseParser

LATE_USAGE_SECONDS = 1.0
"""After the end mark: how long the backend has to report usage, and to end its response so that its connection can be
used again (protocol/README.md, "Order")."""

HELD_BACK_BYTES = 4096
"""aiohttp stops reading at 128 KiB or 4,096 pieces; taking that much brings more, without a word from the transport. Of
less there is no more."""


class ResponseTap(asyncio.Protocol):
    """Stands between a response's transport and aiohttp's protocol, and hands the body over where it arrives.

    Use as ``with ResponseTap(response) as tap:``; leaving the block takes it out again.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response
        self._content = response.content
        self._take: Callable[[bytes], bool] | None = None
        self._waiter: asyncio.Future[bool] | None = None
        connection = response.connection
        # None: the whole response came with its head, and its connection is in the pool already.
        self._transport = None if connection is None else connection.transport
        self._behind = None if connection is None else connection.protocol

    def __enter__(self) -> Self:
        if self._transport is not None:
            self._transport.set_protocol(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._take_out()

    async def until(self, take: Callable[[bytes], bool]) -> bool:
        """Gives `take` each piece of the body as it arrives, until it returns True or the response ends.

        Pieces that arrive when nobody takes them wait in aiohttp's buffer; when that is full the backend is not read.

        Returns:
            Whether the response has ended.

        Raises:
            Exception: What `take` raised, or aiohttp's for a connection that broke.
        """
        if (ended := self._advance(take)) is not None:
            return ended
        self._take = take
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            return await self._waiter
        finally:
            self._take = self._waiter = None

    def _advance(self, take: Callable[[bytes], bool]) -> bool | None:
        """Takes what is there. None: more is to come, and wanted."""
        while chunk := self._left():
            if take(chunk):
                return False
            if len(chunk) < HELD_BACK_BYTES:
                break
        if (broken := self._content.exception()) is not None:
            raise broken
        return True if self._content.at_eof() else None

    def _left(self) -> bytes:
        """What is there; also what came before the connection broke, which aiohttp would not hand out any more."""
        content = self._content
        if content.exception() is None:
            return content.read_nowait()
        return content._read_nowait(-1) if content._buffer else b""  # noqa: SLF001

    def _arrived(self) -> None:
        if self._waiter is None or self._waiter.done() or self._take is None:
            return
        try:
            ended = self._advance(self._take)
        except Exception as error:  # noqa: BLE001 - whoever waits gets it
            self._waiter.set_exception(error)
        else:
            if ended is not None:
                self._waiter.set_result(ended)

    def _take_out(self) -> None:
        if self._transport is not None and self._behind is not None:
            self._transport.set_protocol(self._behind)
            self._transport = None

    # --- what the transport calls: everything goes on to aiohttp's protocol ----------------------------------

    def data_received(self, data: bytes) -> None:
        assert self._behind is not None  # noqa: S101 - there is a transport
        self._behind.data_received(data)
        if self._response.closed:
            self._take_out()  # the response has ended, so its connection is in the pool: it is not ours any more
        elif (broken := self._behind.exception()) is not None and self._content.exception() is None:
            # aiohttp tells only those who wait for a status line that the framing of a body is broken.
            self._content.set_exception(aiohttp.ClientPayloadError(f"its body is broken: {broken}"))
        self._arrived()

    def eof_received(self) -> bool | None:
        assert self._behind is not None  # noqa: S101
        self._behind.eof_received()
        return None

    def connection_lost(self, error: Exception | None) -> None:
        assert self._behind is not None  # noqa: S101
        self._transport = None
        self._behind.connection_lost(error)
        self._arrived()

    def pause_writing(self) -> None:
        assert self._behind is not None  # noqa: S101
        self._behind.pause_writing()

    def resume_writing(self) -> None:
        assert self._behind is not None  # noqa: S101
        self._behind.resume_writing()


class Answer:
    """What becomes of one response's bytes.

    Args:
        decoder: The dialect's, fresh.
        framing: The dialect's.
        limit: The most bytes of one event, or of an unstreamed body.
        emit: Where the events go.
        timer: Of the attempt.
    """

    __slots__ = ("_body", "_decoder", "_emit", "_framing", "_limit", "_parser", "_timer")

    def __init__(self, decoder: ResponseDecoder, framing: str, limit: int, emit: Emit, timer: SilenceTimer) -> None:
        self._decoder = decoder
        self._framing = framing
        self._limit = limit
        self._emit = emit
        self._timer = timer
        self._parser: SseParser | NdjsonParser = SseParser(limit) if framing == "sse" else NdjsonParser(limit)
        self._body = bytearray()

    async def read(self, tap: ResponseTap, stream: bool) -> bool:
        """Reads the response to its answer's end.

        Returns:
            Whether the provider said that nothing more comes: at most HTTP's own end of the response is missing.

        Raises:
            GatewayError: The answer failed, or was cut off.
        """
        if not stream:
            await self._whole(tap)
            return True
        decoder, emit, timer = self._decoder, self._emit, self._timer
        ended = await tap.until(self._first)
        if self._body:
            await self._whole(tap)
            return True
        while not (ended or decoder.done or decoder.ended):
            if emit.blocked:
                timer.suspended()  # we wait for the client: that is not the backend's silence
                await emit.drained()
                timer.progressed()
            ended = await tap.until(self._take)
        if not (ended or decoder.done):
            await self._late_usage(tap)
        if not decoder.done:
            self._close()
        return decoder.done

    def _first(self, chunk: bytes) -> bool:
        if self._framing == "sse" and chunk.lstrip()[:1] == b"{":
            # No event stream begins with a brace: a server that does not stream, or an error with status 200.
            self._body += chunk
            return True
        return self._take(chunk) or True

    def _take(self, chunk: bytes) -> bool:
        """One batch. True: something must be decided before the next one."""
        decoder = self._decoder
        events: list[BackendRawEvent] = []
        try:
            for payload in self._parser.feed(chunk):
                decoder.feed(payload, events)
                if decoder.done:
                    decoder.finish(events)
                    break
        finally:
            # In `finally`: what came before a broken event was said, and is passed on before the failure.
            if events:
                self._timer.progressed()
                self._emit(events)
        return decoder.done or decoder.ended or self._emit.blocked

    async def _late_usage(self, tap: ResponseTap) -> None:
        """After the end mark nothing can be lost but usage: a broken or silent connection ends the answer as well."""
        self._timer.suspended()
        try:
            async with asyncio.timeout(LATE_USAGE_SECONDS):
                while not self._decoder.done and not await tap.until(self._take_late):
                    pass
        except (TimeoutError, aiohttp.ClientError, OSError):
            pass

    def _take_late(self, chunk: bytes) -> bool:
        self._take(chunk)
        self._timer.suspended()
        return self._decoder.done

    def _close(self) -> None:
        """The response is over and the provider has not said so: its decoder knows whether that was the end."""
        events: list[BackendRawEvent] = []
        try:
            for payload in self._parser.close():
                try:
                    self._decoder.feed(payload, events)
                except GatewayError as error:
                    if error.kind != "protocol_violation":
                        raise
                    # A last line that does not parse is a line that was cut: `finish` says so.
            self._decoder.finish(events)
        finally:
            if events:
                self._emit(events)

    async def _whole(self, tap: ResponseTap) -> None:
        await tap.until(self._collect)
        if not self._body:
            raise cut_off("the backend sent an empty answer")
        events: list[BackendRawEvent] = []
        try:
            self._decoder.feed_whole(parse_object(bytes(self._body)), events)
            self._decoder.finish(events)
        finally:
            if events:
                self._emit(events)

    def _collect(self, chunk: bytes) -> bool:
        self._body += chunk
        if len(self._body) > self._limit:
            raise protocol_violation(
                f"the backend sent a body of more than {self._limit} bytes (reliability.max_event_bytes)"
            )
        return False
