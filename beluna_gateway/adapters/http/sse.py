"""Server-sent events: bytes in, the `data` of each event out.

Source: the HTML standard, section 9.2.6 "Interpreting an event stream". Event names, ids and retry times are passed
over: every dialect here repeats the event's type inside its JSON.
"""

from __future__ import annotations

from ...errors import protocol_violation

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class SseParser:
    """An incremental parser; how the bytes were split makes no difference.

    Args:
        limit: The most bytes that one event may have; more is a `protocol_violation`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._at_start = True
        self._between = False  # at the border of two events, with nothing in hand
        self._after_cr = False
        self._line = bytearray()
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of each event that `chunk` completes. Those without data (comments, keep-alives) do not come out."""
        # What nearly every read looks like: whole events of one `data: ` line each, mostly a single one. The slow way
        # below gives the same answer (tests/adapters/http/test_sse.py compares the two).
        plain = chunk.startswith(b"data: ")
        if plain and self._at_start and not self._line:
            self._at_start, self._between = False, True
        if plain and self._between and len(chunk) <= self._limit and chunk.endswith(b"\n\n") and b"\r" not in chunk:
            events = chunk[6:-2].split(b"\n\ndata: ")
            if chunk.count(b"\n") == 2 * len(events) and b"" not in events:
                return events
        if self._at_start:
            chunk = self._without_mark(chunk)
        events = self._feed_lines(chunk)
        self._between = not (self._at_start or self._line or self._data or self._after_cr)
        return events

    def _without_mark(self, chunk: bytes) -> bytes:
        """The beginning of the stream without its byte order mark, which may come in pieces."""
        chunk = bytes(self._line) + chunk
        self._line.clear()
        if len(chunk) < len(_BYTE_ORDER_MARK) and _BYTE_ORDER_MARK.startswith(chunk):
            self._line += chunk  # it may still be one
            return b""
        self._at_start = False
        return chunk.removeprefix(_BYTE_ORDER_MARK)

    def close(self) -> list[bytes]:
        """Nothing: an event that was not ended by a blank line is incomplete and is discarded."""
        return []

    def _feed_lines(self, chunk: bytes) -> list[bytes]:
        if self._after_cr:
            self._after_cr = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._after_cr = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        *lines, rest = chunk.split(b"\n")
        events: list[bytes] = []
        if lines and self._line:
            lines[0] = bytes(self._line) + lines[0]
            self._line.clear()
        for line in lines:
            if line:
                self._take(line)
            elif self._data:
                if data := b"\n".join(self._data):
                    events.append(data)
                self._data.clear()
                self._size = 0
        self._line += rest
        if self._size + len(self._line) > self._limit:
            raise self._too_large()
        return events

    def _take(self, line: bytes) -> None:
        name, _, value = line.partition(b":")
        if name == b"data":
            self._data.append(value.removeprefix(b" "))
            self._size += len(value)
            if self._size > self._limit:
                raise self._too_large()

    def _too_large(self) -> Exception:
        return protocol_violation(
            f"the backend sent one event of more than {self._limit} bytes (reliability.max_event_bytes)"
        )
