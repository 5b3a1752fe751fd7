"""One answer over HTTP: the body of a response, streamed or whole, as the dialect's events.

The hot path is `Exchange.data_received` → `Answer._take`: one read of the backend → one batch of events → one write to
the client, all within the transport's callback. No socket and no event loop is used here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Protocol

from ...canonical import BackendRawEvent, JsonObject
from ...errors import GatewayError, protocol_violation
from ...wire import json_pieces
from ..base import Aside, Emit, ResponseDecoder, SilenceTimer, parse_object
from ..decoding.gathering import gathered
from .connections import BrokenExchange
from .ndjson import NdjsonParser
from .payloads import (
    BYTE_ORDER_MARK,
    DONE_MARK,
    BrokenStream,
    SplitCharacters,
    may_be_cut,
    parses,
    payloads_of,
    values_of,
)
from .sse import SseParser

LATE_USAGE_SECONDS = 1.0
"""How long the backend has to report usage after the end mark (protocol/README.md, "Order")."""

EMPTY_SECONDS = 10.0
"""The same before any content. Some proxies send an end mark first, and then the model thinks before it answers."""

MAX_QUOTE = 300
"""The most characters of an answer that an error message quotes."""

LARGE_BYTES = 256 * 1024
"""A longer body that is not streamed is decoded off the event loop: a megabyte of vectors takes 20 ms."""

_QUOTE_BYTES = 4 * MAX_QUOTE


class Body(Protocol):
    """A response's body as it arrives; see `Exchange`."""

    async def until(self, take: Callable[[bytes], bool], within: float | None = None) -> bool:
        """Gives `take` each piece of the body, until it returns True or the response ends; returns whether it ended."""


class Answer:
    """Decodes one response.

    Where a streamed answer ends (amendments B3, B4): an end mark of the dialect ends it, once usage has come or
    `LATE_USAGE_SECONDS` are over (before any content: `EMPTY_SECONDS`); whatever cannot be read after it is ignored.
    Content after an end mark reopens the answer: from then on only HTTP's own end of the body or `[DONE]` ends it. How
    the bytes are divided into reads makes no difference.

    Args:
        decoder: A new decoder of the dialect.
        framing: The dialect's framing, `sse` or `ndjson`.
        limit: The most bytes of one event, or of an unstreamed body.
        emit: Receives the events.
        timer: The attempt's timer.
        aside: For large bodies; without it they are decoded in one go.
    """

    __slots__ = (
        "_aside",
        "_beginning",
        "_body",
        "_decoder",
        "_emit",
        "_framing",
        "_limit",
        "_over",
        "_parser",
        "_reopened",
        "_said",
        "_silent",
        "_split",
        "_timer",
        "_undecided",
    )

    def __init__(
        self,
        decoder: ResponseDecoder,
        framing: str,
        limit: int,
        emit: Emit,
        timer: SilenceTimer,
        aside: Aside | None = None,
    ) -> None:
        self._decoder = decoder
        self._aside = aside
        self._limit = limit
        self._emit = emit
        self._timer = timer
        self._framing = framing
        self._body = bytearray()  # of an answer that is not streamed
        self._undecided = framing == "sse"  # not known yet whether it is streamed
        self._beginning = bytearray()  # quoted in error messages
        self._over = False  # nothing more is read of the answer
        self._reopened = False  # content has come after an end mark
        self._split: SplitCharacters | None = None  # made for the first payload that is no JSON
        self._silent = True  # no payload yet but end marks
        self._said = False  # events have been passed on
        self._parser: SseParser | NdjsonParser  # of an answer that may be streamed; set by `read`

    async def read(self, body: Body, stream: bool) -> bool:
        """Reads the response until the answer has ended.

        Returns:
            Whether the provider said that nothing more comes, so that at most HTTP's end of the response is missing.

        Raises:
            GatewayError: The answer failed, or was cut off.
        """
        if not stream:
            await body.until(self._collect)
            await self._decode_collected()
            return True
        self._parser = self._new_parser()
        emit, timer = self._emit, self._timer
        ended = await body.until(self._take)
        if self._body:
            if not ended:
                await body.until(self._collect)
            await self._decode_collected()
            return True
        while not (ended or self._over):
            if emit.blocked:
                timer.suspended()  # waiting for the client is not the backend's silence
                await emit.drained()
                timer.progressed()
            if self._reopened:
                ended = await body.until(self._take_reopened)
            elif not self._decoder.ended:
                ended = await body.until(self._take)
            else:
                timer.suspended()
                try:
                    within = LATE_USAGE_SECONDS if self._said else EMPTY_SECONDS
                    ended = await body.until(self._take_late, within)
                except (TimeoutError, BrokenExchange):
                    break  # nothing can be lost but usage
        if not self._over:
            self._close(whole=ended)
        return self._over

    def _new_parser(self) -> SseParser | NdjsonParser:
        return SseParser(self._limit) if self._framing == "sse" else NdjsonParser(self._limit)

    # --- called for each piece of the body; True: `read` must decide something before the next one ---

    def _take(self, chunk: bytes) -> bool:
        """One read before any end mark."""
        if self._said:
            self._decode_read(chunk)
        else:
            self._decode_beginning(chunk)
            if self._body:
                return not self._undecided
        return self._over or self._decoder.ended or self._emit.blocked

    def _take_late(self, chunk: bytes) -> bool:
        """One read after the end mark: usage, or content all the same."""
        self._decode_read(chunk)
        return self._over or self._reopened

    def _take_reopened(self, chunk: bytes) -> bool:
        """One read of an answer that has gone on after an end mark."""
        self._decode_read(chunk)
        return self._over or self._emit.blocked

    def _collect(self, chunk: bytes) -> bool:
        self._body += chunk
        self._check_body()
        return False

    def _check_body(self) -> None:
        if len(self._body) > self._limit:
            raise protocol_violation(
                f"the backend sent a body of more than {self._limit} bytes (reliability.max_event_bytes)"
            )

    # --- payloads → events ---

    def _decode_beginning(self, chunk: bytes) -> None:
        """One read before the first events: keeps the beginning, and tells a stream from a body without framing, which
        it leaves in `_body`.
        """
        if len(self._beginning) < _QUOTE_BYTES:
            self._beginning += chunk[:_QUOTE_BYTES]
        if self._undecided and not self._body and chunk.startswith(b"data:"):  # as nearly every stream
            self._undecided = False
        if self._undecided:
            self._body += chunk
            start = self._body.removeprefix(BYTE_ORDER_MARK).lstrip()
            before = len(self._body) - len(start)
            if BYTE_ORDER_MARK.startswith(self._body) or (not start and before < _QUOTE_BYTES):
                return
            self._undecided = False
            if start.startswith(b"{") and before < _QUOTE_BYTES:
                # No event stream begins with a brace: the server does not stream, or reports an error with status 200.
                self._check_body()
                return
            chunk = bytes(self._body)
            self._body.clear()
        try:
            self._decode_read(chunk)
        except GatewayError as error:
            # `_finish` has quoted already; an error that the provider reported has its own text; and of an answer that
            # the client has begun to get nothing is quoted, wherever the reads divide it.
            if self._over or self._said or error.kind != "protocol_violation":
                raise
            raise self._quoting(error) from error

    def _decode_read(self, chunk: bytes) -> None:
        """One read of a streamed answer, whatever has come before."""
        events: list[BackendRawEvent] = []
        try:
            try:
                payloads = self._parser.feed(chunk)
            except BrokenStream as broken:
                self._decode_before(broken, events)
            else:
                self._decode(payloads, events)
            if self._over:
                self._finish(events)
        finally:
            # In `finally`: the events before a broken one are passed on, and then the failure.
            if events:
                self._timer.progressed()
                self._said = True
                self._emit(events)

    def _decode_before(self, broken: BrokenStream, events: list[BackendRawEvent]) -> None:
        """Decodes what came before a place from which on nothing can be read.

        Raises:
            BrokenStream: The answer had not ended before.
        """
        self._decode(broken.payloads, events)
        if not self._over:
            if self._reopened or not self._decoder.ended:
                raise broken
            self._over = True

    def _decode(self, payloads: list[bytes], events: list[BackendRawEvent]) -> None:
        rest = iter(payloads)
        if self._decoder.ended:
            self._decode_after_end_mark(rest, events)
            return
        decoder = self._decoder
        for payload in rest:
            if payload is DONE_MARK:
                decoder.done_mark()
            else:
                self._silent = False
                try:
                    decoder.feed(payload, events)
                except GatewayError as error:
                    self._feed_joined(payload, events, error)
            if decoder.ended:
                self._decode_after_end_mark(rest, events)
                return

    def _feed_joined(self, payload: bytes, events: list[BackendRawEvent], error: GatewayError) -> None:
        """Feeds a payload that was refused once more, where it had halves of characters.

        Such a payload is no JSON, so that the decoder has taken nothing of it yet.

        Raises:
            GatewayError: `error`, where it had none.
        """
        joined = self._whole_characters(payload)
        if joined == payload:
            raise error
        self._decoder.feed(joined, events)

    def _whole_characters(self, payload: bytes, *, last: bool = False) -> bytes:
        """See `SplitCharacters.joined`."""
        if self._split is None:
            self._split = SplitCharacters()
        return self._split.joined(payload, last=last)

    def _decode_after_end_mark(self, payloads: Iterator[bytes], events: list[BackendRawEvent]) -> None:
        """Decodes what follows an end mark, which was the end only if none of it is content.

        After a real end an error or an unreadable payload is ignored, because the answer is complete. In an answer that
        has gone on it is not.
        """
        decoder = self._decoder
        if decoder.done and not self._reopened:
            self._over = True
            return
        for payload in payloads:
            before = len(events)
            if payload is DONE_MARK:
                decoder.done_mark()
                self._over = True
                return
            try:
                try:
                    decoder.feed(payload, events)
                except GatewayError as error:
                    self._feed_joined(payload, events, error)
            except GatewayError:
                if self._reopened or len(events) > before:
                    raise
            if len(events) > before:
                self._reopened = True
            elif decoder.done and not self._reopened:
                self._over = True
                return

    async def _decode_collected(self) -> None:
        """Decodes an answer that is not streamed, a large one beside everything else."""
        events: list[BackendRawEvent] = []
        try:
            if self._aside is None or len(self._body) <= LARGE_BYTES:
                self._decode_whole(events)
            else:
                self._timer.suspended()  # it is not the backend that is waited for
                await self._aside(partial(self._decode_whole, events))
        except GatewayError:
            if events:
                self._emit(events)
            raise
        self._emit(events)

    def _decode_whole(self, events: list[BackendRawEvent]) -> None:
        """Appends the events of an answer that is not streamed: one JSON object, or an array of chunks.

        Or those of a stream that nobody asked for: some proxies always send one, or its `[DONE]` after the object.
        """
        decoder = self._decoder
        body = bytes(self._body).removeprefix(BYTE_ORDER_MARK).strip()
        self._beginning = self._body[:_QUOTE_BYTES]
        elements = payloads_of(body) if body.startswith(b"[") else [body] * bool(body)
        self._silent = not elements
        whole: list[JsonObject] = []
        try:
            if len(elements) == 1:
                try:
                    whole = [parse_object(elements[0])]
                except GatewayError:
                    elements, single = self._payloads_of_stream(body)
                    if not elements:
                        raise
                    whole = [parse_object(single)] if single is not None else []
            if whole:
                try:
                    decoder.feed_whole(whole[0], events)
                finally:
                    json_pieces.free(whole)
            else:
                pieces: list[BackendRawEvent] = []
                try:
                    self._decode(elements, pieces)
                    if body.startswith(b"["):
                        decoder.end_of_body(pieces)
                finally:
                    events += gathered(pieces)
        except GatewayError as error:
            if events or error.kind != "protocol_violation":
                raise
            raise self._quoting(error) from error
        self._finish(events)

    def _payloads_of_stream(self, body: bytes) -> tuple[list[bytes], bytes | None]:
        """The payloads of a whole stream, and the one that is a whole answer with comments or `[DONE]` around it.

        No payloads where `body` is nothing of the kind.
        """
        if (joined := self._whole_characters(body, last=True)) != body and parses(joined):
            return [joined], joined
        if values := values_of(body, self._limit):  # lines, or an error that was written twice
            return values, None
        parser = self._new_parser()
        try:
            payloads = self._without_cut([*parser.feed(body), *parser.close()])
        except BrokenStream:
            return [], None
        objects = [payload for payload in payloads if payload is not DONE_MARK]
        beginning = b"\n" + body[:_QUOTE_BYTES]
        framed = isinstance(parser, NdjsonParser) or b"\ndata:" in beginning or b"\nerror:" in beginning
        commented = not framed and (body.startswith(b":") or b"\n:" in body)
        single = len(objects) == 1 and (DONE_MARK in payloads or commented)
        framed = framed or DONE_MARK in payloads
        return payloads if single or (framed and objects) else [], objects[0] if single else None

    @staticmethod
    def _without_cut(payloads: list[bytes]) -> list[bytes]:
        """`payloads` without a last one that was cut."""
        return [p for p in payloads if p is DONE_MARK or parses(p) or not may_be_cut(p)]

    def _close(self, *, whole: bool) -> None:
        """Ends a response that ended without the provider saying so: the decoder knows whether the answer is complete.

        Args:
            whole: HTTP says that the body is complete, so that a last event without its line end counts. One that was
                cut is left out; what cannot be the beginning of JSON is fed to the decoder, which refuses it.
        """
        events: list[BackendRawEvent] = []
        try:
            if whole:
                self._decode_last(events)
            self._finish(events)
        finally:
            if events:
                self._emit(events)

    def _decode_last(self, events: list[BackendRawEvent]) -> None:
        try:
            try:
                payloads = self._parser.close()
            except BrokenStream as broken:
                self._decode_before(broken, events)
                return
            self._silent = self._silent and all(payload is DONE_MARK for payload in payloads)
            self._decode(self._without_cut(payloads), events)
        except GatewayError as error:
            if self._said or events or error.kind != "protocol_violation":
                raise
            raise self._quoting(error) from error

    def _finish(self, events: list[BackendRawEvent]) -> None:
        """Ends the answer.

        Raises:
            GatewayError: The answer was not complete, or has no content.
        """
        if self._silent:
            raise self._quoting(protocol_violation("the backend's answer has no content"))
        try:
            self._decoder.finish(events)
        except GatewayError as error:
            if self._said or events:
                raise
            raise self._quoting(error) from error

    def _quoting(self, error: GatewayError) -> GatewayError:
        """`error`, quoting the beginning of an answer that has nothing that the dialect knows."""
        beginning = self._beginning.decode("utf-8", "replace").strip()[:MAX_QUOTE]
        said = f": it begins with: {beginning}" if beginning else ": it is empty"
        return error.replace(message=f"{error.message}{said}")
