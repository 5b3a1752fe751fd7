"""NDJSON answers: bytes in, the JSON text of each line out."""

from __future__ import annotations

from ...errors import protocol_violation
from ...wire.lines import LineCutter


class NdjsonParser:
    """The counterpart of `SseParser` for backends that write one JSON object a line.

    Args:
        limit: The most bytes that one line may have; more is a `protocol_violation`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines = LineCutter(limit)

    def feed(self, chunk: bytes) -> list[bytes]:
        """The lines that `chunk` completes; blank ones do not come out."""
        return self._whole(self._lines.feed(chunk))

    def close(self) -> list[bytes]:
        """The last line, where the answer ended without a line end. It may be cut off."""
        return self._whole(self._lines.close())

    def _whole(self, lines: list[bytes | None]) -> list[bytes]:
        if None in lines:
            raise protocol_violation(
                f"the backend sent one line of more than {self._limit} bytes (reliability.max_event_bytes)"
            )
        return [line for line in lines if line]
