"""Cuts a byte stream into lines, and keeps no more of it than one line up to a limit."""

from __future__ import annotations


class LineCutter:
    r"""Cuts a byte stream into lines that end in ``\n`` or ``\r\n``, wherever the reads happened to split it.

    Args:
        limit: The longest line in bytes, its end not counted. A longer one comes out as None, as soon as it is known
            to be too long; the rest of it is discarded without being kept.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._partial = bytearray()
        self._discarding = False

    def feed(self, data: bytes) -> list[bytes | None]:
        """The lines that `data` completes, without their ends."""
        if not self._partial and not self._discarding and 0 <= data.find(b"\n") == len(data) - 1 <= self._limit:
            return [data[:-1].removesuffix(b"\r")]  # what nearly every read is: one whole line
        first, *others = data.split(b"\n")
        lines: list[bytes | None] = []
        if others:
            rest = others.pop()
            self._keep(first, lines)
            if not self._discarding:
                lines.append(self._checked(bytes(self._partial)))
            self._partial.clear()
            self._discarding = False
            lines.extend(self._checked(line) for line in others)
        else:
            rest = first
        self._keep(rest, lines)
        return lines

    def close(self) -> list[bytes | None]:
        """The last line, where the input ended without a line end."""
        last = bytes(self._partial)
        self._partial.clear()
        return [self._checked(last)] if last else []

    def _keep(self, data: bytes, lines: list[bytes | None]) -> None:
        if self._discarding:
            return
        self._partial += data
        # One byte of grace: it may be the \r of an end whose \n has not come yet.
        if len(self._partial) > self._limit + 1:
            self._partial.clear()
            self._discarding = True
            lines.append(None)

    def _checked(self, line: bytes) -> bytes | None:
        line = line.removesuffix(b"\r")
        return line if len(line) <= self._limit else None
