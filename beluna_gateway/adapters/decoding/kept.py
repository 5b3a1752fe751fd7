"""The bound on what a decoder keeps of one answer until its end: signatures, encrypted items, blocks under way."""

from __future__ import annotations

from pydantic import JsonValue
from pydantic_core import to_json

from ...errors import protocol_violation


class KeptBytes:
    """Counts the bytes that are kept of one answer.

    Args:
        limit: The most bytes, `reliability.max_event_bytes`.
    """

    __slots__ = ("_left", "_limit")

    def __init__(self, limit: int) -> None:
        self._limit = self._left = limit

    def add(self, size: int) -> None:
        """Counts `size` bytes (or characters, which take one byte or more).

        Raises:
            GatewayError: `protocol_violation`, where that is more than the limit.
        """
        self._left -= size
        if self._left < 0:
            raise protocol_violation(
                f"the backend sent more than {self._limit} bytes to be kept until the answer's end "
                "(reliability.max_event_bytes)"
            )

    def add_value(self, value: JsonValue) -> None:
        """As `add`, of a JSON value. Costs as much as writing it."""
        self.add(len(to_json(value)))
