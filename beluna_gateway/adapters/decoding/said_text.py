"""A text that comes in pieces, and then perhaps once more as a whole: what does the whole add to the pieces?"""

from __future__ import annotations

from zlib import crc32

MAX_PIECES = 256
"""Pieces that may wait in `SaidText.pieces` before they are folded."""


class SaidText:
    """The text that has been delivered so far: its length and checksum, not the text itself."""

    __slots__ = ("_checksum", "_length", "pieces")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        """The newest pieces. A caller in a hurry appends to it, and calls `fold` above `MAX_PIECES`."""
        self._length = 0
        self._checksum = 0

    def __bool__(self) -> bool:
        return bool(self.pieces or self._length)

    @property
    def length(self) -> int:
        """Characters so far."""
        self.fold()
        return self._length

    def add(self, text: str) -> None:
        """Takes the next piece."""
        self.pieces.append(text)
        if len(self.pieces) > MAX_PIECES:
            self.fold()

    def rest(self, whole: str) -> str | None:
        """What `whole` has beyond the pieces; None where it does not begin with them."""
        self.fold()
        if len(whole) < self._length or crc32(whole[: self._length].encode()) != self._checksum:
            return None
        return whole[self._length :]

    def fold(self) -> None:
        """Replaces the newest pieces by their length and checksum."""
        text = "".join(self.pieces)
        self._length += len(text)
        self._checksum = crc32(text.encode(), self._checksum)
        self.pieces.clear()
