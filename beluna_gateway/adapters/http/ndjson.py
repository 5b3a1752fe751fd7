"""NDJSON answers: bytes in, the payload of each line out."""

from __future__ import annotations

from ...errors import GatewayError, protocol_violation
from ...wire.lines import LineCutter
from .payloads import BYTE_ORDER_MARK, BareJson, BrokenStream, payloads_of
from .sse import SseParser


class NdjsonParser:
    """An incremental parser for backends that write one JSON object per line; the counterpart of `SseParser`.

    A line that is a field of a server-sent event makes the answer one of these from there on: proxies keep a connection
    alive with them, or write nothing else.

    Args:
        limit: The most bytes that one line may have; more is a `protocol_violation`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines = LineCutter(limit)
        self._bare = BareJson(limit)
        self._events: SseParser | None = None
        self._at_start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """The payloads of the lines that `chunk` completes; see `payloads.py` for what does not come out.

        Raises:
            BrokenStream: `protocol_violation`, where a line is too large.
        """
        payloads: list[bytes] = []
        try:
            self._take(self._lines.feed(chunk), payloads)
        except GatewayError as error:
            raise BrokenStream(error, payloads) from error
        return payloads

    def close(self) -> list[bytes]:
        """The last line, where it has no line end. It may be cut off. Raises as `feed`."""
        payloads: list[bytes] = []
        try:
            self._take(self._lines.close(), payloads)
            payloads += self._bare.close() if self._events is None else self._events.close()
        except GatewayError as error:
            raise BrokenStream(error, payloads) from error
        return payloads

    def _take(self, lines: list[bytes | None], payloads: list[bytes]) -> None:
        for line in lines:
            if line is None:
                raise protocol_violation(
                    f"the backend sent one line of more than {self._limit} bytes (reliability.max_event_bytes)"
                )
            if self._at_start:
                self._at_start = False
                line = line.removeprefix(BYTE_ORDER_MARK)  # noqa: PLW2901 - still the same line
            if self._events is None and line.startswith(_FIELDS) and not self._bare.open:
                self._events = SseParser(self._limit)
            if self._events is not None:
                payloads += self._events.feed(line + b"\n")
            elif self._bare.open or line.strip() in _PRETTY_PRINTED:
                payloads += self._bare.feed(line)
            else:
                payloads += payloads_of(line)


_FIELDS = (b"data:", b"event:", b"error:", b"id:", b"retry:")
"""Of a server-sent event; see `SseParser`."""
_PRETTY_PRINTED = (b"{", b"[", b"[{")
"""The first line of a value that is written over several lines, as proxies write their errors."""
