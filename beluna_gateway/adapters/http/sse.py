"""Server-sent events: bytes in, the payload of each event out.

Source: the HTML standard, section 9.2.6 "Interpreting an event stream". Ids, retry times and event names other than
`error` are ignored: every dialect here repeats the event's type inside its JSON, but for some servers of the Responses
API and of the Messages API, where the name takes its place. Three things that real servers send are not in the
standard: errors in a field `error:` (llama.cpp), JSON without `data:` (Gemini's errors in mid-stream), and events
without their blank line.
"""

from __future__ import annotations

from ...errors import GatewayError, protocol_violation
from .payloads import (
    BYTE_ORDER_MARK,
    DONE_MARK,
    NOTHING,
    BareJson,
    BrokenStream,
    error_payload,
    named_error,
    parses,
    payloads_of,
    with_type,
)

_DONE_EVENT = b"data: %b\n\n" % DONE_MARK

_RETURN, _NEWLINE = b"\r\n"
"""As numbers: of a byte string Python first finds out, by an exception, that it is none, which takes six times as
long."""

_MESSAGES = frozenset(
    (
        b"message_start",
        b"message_delta",
        b"message_stop",
        b"ping",
        b"content_block_start",
        b"content_block_delta",
        b"content_block_stop",
    )
)
"""Names of events of the Messages API."""

_PINGS = frozenset((b"ping", b"heartbeat", b"keepalive", b"keep-alive"))
"""Names of events whose data says nothing, such as the time."""


class SseParser:
    """An incremental parser. How the bytes are divided into reads makes no difference.

    Args:
        limit: The most bytes of one event; more is a `protocol_violation`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._at_start = True
        self._between = False  # between two events, with nothing buffered
        self._after_cr = False
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._is_error = False  # the event's name is `error`
        self._kind = b""  # the event's name, where it is one of the Responses API or of the Messages API
        self._bare = BareJson(limit)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads that `chunk` completes; see `payloads.py` for what does not come out.

        Raises:
            BrokenStream: `protocol_violation`, where an event is too large.
        """
        # The fast path for nearly every read: complete events, mostly one, each of one `data: ` line with an object, at
        # the end of the answer `[DONE]`. The general path below gives the same events
        # (tests/adapters/http/test_sse.py compares the two).
        plain = chunk.startswith(b"data: {")
        if plain and self._at_start and not self._line:
            self._at_start, self._between = False, True
        if plain and self._between and len(chunk) <= self._limit and _RETURN not in chunk:
            if chunk.find(b"\n") == len(chunk) - 2 and chunk[-1] == _NEWLINE:
                return [chunk[6:-2]]
            if chunk.endswith(b"\n\n"):
                events = chunk[6:-2].split(b"\n\ndata: ")
                count = len(events)
                if chunk.count(b"\n") == 2 * count:
                    others = count - 1 - chunk.count(b"\n\ndata: {") if count > 1 else 0
                    if others == 1 and events[-1] == DONE_MARK:
                        events[-1] = DONE_MARK
                        return events
                    if others == 0:
                        return events
        elif self._between and chunk == _DONE_EVENT:
            return [DONE_MARK]
        if self._at_start:
            chunk = self._without_mark(chunk)
        events = []
        try:
            self._feed_lines(chunk, events)
        except GatewayError as error:
            raise BrokenStream(error, events) from error
        self._between = not (
            self._at_start
            or self._line
            or self._data
            or self._after_cr
            or self._bare.open
            or self._is_error
            or self._kind
        )
        return events

    def close(self) -> list[bytes]:
        """The last event, where it has no blank line after it. It may be cut off. Raises as `feed`."""
        events: list[bytes] = []
        try:
            if self._line:
                line = bytes(self._line)
                self._line.clear()
                self._take(line, events)
            events += filter(parses, self._bare.close())
            self._dispatch(events)
        except GatewayError as error:
            raise BrokenStream(error, events) from error
        return events

    def _without_mark(self, chunk: bytes) -> bytes:
        """The beginning of the stream without its byte order mark, which may be divided between reads."""
        chunk = bytes(self._line) + chunk
        self._line.clear()
        if len(chunk) < len(BYTE_ORDER_MARK) and BYTE_ORDER_MARK.startswith(chunk):
            self._line += chunk  # it may still become one
            return b""
        self._at_start = False
        return chunk.removeprefix(BYTE_ORDER_MARK)

    def _feed_lines(self, chunk: bytes, events: list[bytes]) -> None:
        if self._after_cr:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        for line in lines:
            if line or self._bare.open:
                self._take(line, events)
            elif self._data or self._is_error or self._kind:
                self._dispatch(events)
        self._line += rest
        if self._size + len(self._line) > self._limit:
            raise self._too_large()

    def _take(self, line: bytes, events: list[bytes]) -> None:
        if self._size + len(line) > self._limit:  # of any line, as of one that is not complete
            raise self._too_large()
        name, _, value = line.partition(b":")
        if name == b"data":
            if self._data and self._is_whole(value):
                self._dispatch(events)
            events += filter(parses, self._bare.close())
            self._data.append(value.removeprefix(b" "))
            self._size += len(line)
        elif self._bare.open or self._bare.begins(line):
            self._dispatch(events)
            events += filter(parses, self._bare.feed(line))  # a line that is not JSON is an unknown field
        elif name == b"error":
            events.append(error_payload(value))
        elif line.strip() == DONE_MARK:  # as lines of JSON have it that have no `data:` either
            self._dispatch(events)
            events.append(DONE_MARK)
        elif name == b"event":
            kind = value.strip()
            self._is_error = kind == b"error"
            known = kind in _MESSAGES or kind in _PINGS or kind.startswith(b"response.")
            self._kind = kind if known else b""

    def _is_whole(self, following: bytes) -> bool:
        """Whether the event that is being read is a whole object, and `following` the next one without a blank line."""
        begins = following.strip()
        if not (begins.startswith(b"{") or begins in (DONE_MARK, NOTHING)) or len(self._data) > 1:
            return False
        data = self._data[0].strip()
        return data == NOTHING or (data.startswith(b"{") and parses(data))

    def _dispatch(self, events: list[bytes]) -> None:
        """Ends the event that is being read."""
        is_error, self._is_error = self._is_error, False
        kind, self._kind = self._kind, b""
        if not self._data:
            return
        data = b"\n".join(self._data)
        self._data.clear()
        self._size = 0
        payloads = payloads_of(with_type(data, kind) if kind else data)
        if kind in _PINGS:
            payloads = [p for p in payloads if p is DONE_MARK or (p.lstrip().startswith(b"{") and parses(p))]
        if is_error and payloads == [data]:
            payloads = [named_error(data)]
        events += payloads

    def _too_large(self) -> GatewayError:
        return protocol_violation(
            f"the backend sent one event of more than {self._limit} bytes (reliability.max_event_bytes)"
        )
