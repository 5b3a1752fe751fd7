"""Writes log lines from a thread of its own, so that a log that fails or blocks never reaches the event loop.

`write` puts a line into a bounded queue; the thread writes it to a file descriptor. A pipe without a reader, a full
disk or a reader that has stopped costs log lines and nothing else. Lines that could not be kept or written are
counted, and their number is logged with the next write that succeeds.
"""

from __future__ import annotations

import os
import select
import threading
from collections import deque
from collections.abc import Callable

MAX_QUEUED_BYTES = 1024 * 1024
"""Lines that wait to be written; further ones are dropped and counted."""

GATHER_SECONDS = 0.005
"""After the first line of a batch the thread waits this long for more: one write and one thread switch for all."""


class LogWriter:
    """A bounded queue of lines and the thread that writes them. `write` may be called from any thread.

    Args:
        descriptor: Written to, never closed.
        lost_line: Makes the line that reports a number of lost lines.
    """

    def __init__(self, descriptor: int, lost_line: Callable[[int], str]) -> None:
        self._descriptor = descriptor
        self._lost_line = lost_line
        self._changed = threading.Condition()
        self._lines: deque[bytes] = deque()
        self._queued_bytes = 0
        self._lost = 0
        self._closing = threading.Event()
        self._line_is_cut = False
        """The last write failed within a line."""
        self._thread = threading.Thread(target=self._run, name="log writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queues a line (its end is added), or counts it as lost. Never blocks on the descriptor, never raises."""
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        with self._changed:
            if self._queued_bytes + len(data) > MAX_QUEUED_BYTES:
                self._lost += 1
                return
            self._lines.append(data)
            self._queued_bytes += len(data)
            self._changed.notify()

    def close(self, seconds: float) -> None:
        """Writes what is queued, for at most `seconds`, and ends the thread; one that is stuck is left behind."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        self._thread.join(seconds)

    def _run(self) -> None:
        lost_meanwhile = False
        while True:
            with self._changed:
                while not self._lines and not lost_meanwhile:
                    if self._closing.is_set():
                        return
                    self._changed.wait()
            self._closing.wait(GATHER_SECONDS)
            with self._changed:
                batch, lost = b"".join(self._lines), self._lost
                self._lines.clear()
                # Counted until it is written: a descriptor that is stuck must not let twice as much be kept.
                self._lost = 0
            untold = self._report(batch, lost)
            with self._changed:
                self._queued_bytes -= len(batch)
                # Lines lost during this write are told at once where it succeeded: another line may never come.
                lost_meanwhile = self._lost > 0 and untold == 0
                self._lost += untold

    def _report(self, batch: bytes, lost: int) -> int:
        """Writes a batch, and after it, where lines were lost, their number. Returns how many are still to be told."""
        lost += self._write_all(batch)
        if lost and self._write_all(self._lost_line(lost).encode() + b"\n") == 0:
            return 0
        return lost

    def _write_all(self, data: bytes) -> int:
        """Returns how many lines were not written completely."""
        if self._line_is_cut and self._write(b"\n"):
            return data.count(b"\n")
        rest = self._write(data)
        self._line_is_cut = 0 < len(rest) < len(data) and data[-len(rest) - 1 : -len(rest)] != b"\n"
        return bytes(rest).count(b"\n")

    def _write(self, data: bytes) -> memoryview:
        """Returns what could not be written."""
        rest = memoryview(data)
        while rest:
            try:
                rest = rest[os.write(self._descriptor, rest) :]
            except BlockingIOError:  # another process made the open file non-blocking
                poll = select.poll()
                poll.register(self._descriptor, select.POLLOUT)
                poll.poll()
            except OSError:
                break
        return rest
