"""One answer over HTTP: a response's bytes → its dialect's events, streamed or whole.

The hot path is `Exchange.data_received` → `Answer._take`: one read of the backend → one batch of events → one write to
the client, all in the callback that brought the bytes.
"""

from __future__ import annotations

import asyncio

from ...canonical import BackendRawEvent
from ...errors import GatewayError, cut_off, protocol_violation
from ..base import Emit, ResponseDecoder, SilenceTimer, parse_object
from .connections import BrokenExchange
from .exchange import Exchange
from .ndjson import NdjsonParser
from .sse import SseParser

LATE_USAGE_SECONDS = 1.0
"""After the end mark: how long the backend has to report usage (protocol/README.md, "Order")."""


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

    async def read(self, exchange: Exchange, stream: bool) -> bool:
        """Reads the response to its answer's end.

        Returns:
            Whether the provider said that nothing more comes: at most HTTP's own end of the response is missing.

        Raises:
            GatewayError: The answer failed, or was cut off.
        """
        if not stream:
            await self._whole(exchange)
            return True
        decoder, emit, timer = self._decoder, self._emit, self._timer
        ended = await exchange.until(self._first)
        if self._body:
            await self._whole(exchange)
            return True
        while not (ended or decoder.done or decoder.ended):
            if emit.blocked:
                timer.suspended()  # we wait for the client: that is not the backend's silence
                await emit.drained()
                timer.progressed()
            ended = await exchange.until(self._take)
        if not (ended or decoder.done):
            await self._late_usage(exchange)
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

    async def _late_usage(self, exchange: Exchange) -> None:
        """After the end mark nothing can be lost but usage: a broken or silent connection ends the answer as well."""
        self._timer.suspended()
        try:
            async with asyncio.timeout(LATE_USAGE_SECONDS):
                while not self._decoder.done and not await exchange.until(self._take_late):
                    pass
        except (TimeoutError, BrokenExchange):
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

    async def _whole(self, exchange: Exchange) -> None:
        await exchange.until(self._collect)
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
