"""The body bytes of a response between the parser that appends them and the reader that takes them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

HIGH_WATER_BYTES = 128 * 1024
"""High-water mark of undelivered bytes: above it reading from the backend is paused."""

LARGE_READ_BYTES = 128 * 1024
"""A read of so much ends the socket's turn. uvloop reads 256,000 bytes at a time, and one socket up to 32 times in one
turn of the loop while it has as much: nobody else is served in the half second that decoding 8 MB may take."""

BURST_TURNS = 8
"""How many turns of the event loop a burst is gathered at most."""

BURST_BYTES = 64 * 1024
"""How many undelivered bytes end the gathering of a burst."""


class BodyBuffer:
    """Undelivered pieces of a body, with flow control: a high-water mark, and bursts that are gathered.

    Args:
        transport: Paused above the high-water mark, resumed when the bytes are taken.
        loop: Gathers bursts, turn by turn.
    """

    __slots__ = ("_gathering", "_loop", "_paused", "_size", "_taken_before", "_transport", "pieces")

    def __init__(self, transport: asyncio.ReadTransport, loop: asyncio.AbstractEventLoop) -> None:
        self.pieces: list[bytes] = []
        """Filled by the parser."""
        self._size = 0
        self._transport = transport
        self._loop = loop
        self._paused = False
        self._taken_before = False
        self._gathering = False

    def take(self) -> bytes:
        """Empties the buffer, and has the transport read on."""
        pieces = self.pieces
        data = pieces[0] if len(pieces) == 1 else b"".join(pieces)
        pieces.clear()
        self._taken_before = True
        self._size = 0
        if self._paused:
            self._resume()
        return data

    def discard(self) -> None:
        """As `take`, for bytes that nobody needs."""
        self.pieces.clear()
        self._size = 0
        if self._paused:
            self._resume()

    def hold(self, size: int) -> None:
        """Notes that a read of `size` bytes, framing included, is not taken at once: pauses above the mark."""
        self._size += size
        if self._size > HIGH_WATER_BYTES and not self._paused:
            self._paused = True
            self._transport.pause_reading()

    def end_turn(self) -> None:
        """Pauses reading until the next turn of the event loop, so that others have theirs after a large read."""
        if not self._paused:
            self._paused = True
            self._transport.pause_reading()
            self._loop.call_soon(self._next_turn)

    def gather(self, size: int, deliver: Callable[[], None]) -> bool:
        """Whether the pieces are part of a burst, and delivered later: the backend writes faster than it is read, and
        one write to the client, which costs more than a read, can carry what several turns of the event loop bring.

        Asked where there are at least two pieces: one that comes alone is not delayed, nor are the first of a body.

        Args:
            size: How many bytes the last read had.
            deliver: Called once the burst pauses, or after `BURST_TURNS`.
        """
        if not self._taken_before or self._size + size > BURST_BYTES:
            return False
        self._size += size
        if not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._gather, deliver, BURST_TURNS, 0)
        return True

    def _next_turn(self) -> None:
        if self._paused and self._size <= HIGH_WATER_BYTES and not self._transport.is_closing():
            self._resume()

    def _resume(self) -> None:
        self._paused = False
        self._transport.resume_reading()

    def _gather(self, deliver: Callable[[], None], turns: int, seen: int) -> None:
        if turns and len(self.pieces) > seen:
            self._loop.call_soon(self._gather, deliver, turns - 1, len(self.pieces))
        else:
            self._gathering = False
            deliver()
