"""A text that comes in pieces, and then perhaps once more as a whole: what does the whole add to the pieces?"""

from __future__ import annotations

from zlib import crc32

_PIECES = 64
"""Pieces that are gathered before they are folded into the checksum."""


class SaidText:
    """The text that has been delivered so far: its length and checksum, not the text itself."""

    __slots__ = ("_checksum", "_length", "_pieces")

    def __init__(self) -> None:
        self._pieces: list[str] = []
        self._length = 0
        self._checksum = 0

    def __bool__(self) -> bool:
        return bool(self._pieces or self._length)

    def add(self, text: str) -> None:
        """Takes the next piece."""
        self._pieces.append(text)
        if len(self._pieces) >= _PIECES:
            self._fold()

    def rest(self, whole: str) -> str | None:
        """What `whole` has beyond the pieces; None where it does not begin with them."""
        self._fold()
        if len(whole) < self._length or crc32(whole[: self._length].encode()) != self._checksum:
            return None
        return whole[self._length :]

    def _fold(self) -> None:
        text = "".join(self._pieces)
        self._length += len(text)
        self._checksum = crc32(text.encode(), self._checksum)
        self._pieces.clear()
