"""Writes requests to a transport, one after another, and reads the answer of a peer that stopped reading one."""

from __future__ import annotations

import asyncio
import fcntl
import os
import socket
import struct
import termios
from contextlib import suppress

PIECE_BYTES = 256 * 1024
"""A larger body is written in pieces of this size, so that other connections have their turn in between."""

_AT_ONCE_BYTES = 64 * 1024
"""A request up to this size is taken by the kernel as a whole."""

_EARLY_ANSWER_BYTES = 256 * 1024

_NOTHING = memoryview(b"")


class RequestWriter:
    """Sends the requests of a connection: `start` begins one, `close` drops what is unsent of it.

    A backend may answer a large request, with 413 say, and close the connection without reading the rest. Then writing
    fails (EPIPE, ECONNRESET), and the event loop closes its descriptor without reading what the kernel has received:
    so until the kernel has taken such a request the writer holds a second descriptor of the socket, for `unread`.
    """

    __slots__ = ("_body", "_descriptor", "_tells_when_sent", "_transport", "_writable")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._body = _NOTHING
        self._writable = True
        self._descriptor: int | None = None
        # A TLS transport does not count what the TCP transport below it has not written yet.
        self._tells_when_sent = transport.get_extra_info("sslcontext") is None

    @property
    def sent(self) -> bool:
        """Whether the transport has passed on the whole request: to the kernel, or over TLS as records."""
        transport = self._transport
        return not (self._body or transport.get_write_buffer_size() or transport.is_closing())

    def start(self, head: bytes, body: bytes) -> None:
        """Writes the head and, as far as the transport takes it, the body."""
        if len(body) <= _AT_ONCE_BYTES:
            self._transport.write(head + body)
            return
        self._descriptor = _duplicate(self._transport)
        if self._descriptor is not None and self._tells_when_sent:
            # Now `resume` is called when the kernel has taken everything.
            self._transport.set_write_buffer_limits(high=0)
        if len(body) <= PIECE_BYTES:
            self._transport.write(head + body)
        else:
            self._body = memoryview(body)
            self._transport.write(head)
            self._write_more()
        self._close_descriptor_if_sent()

    def pause(self) -> None:
        """The transport's buffer is full."""
        self._writable = False

    def resume(self) -> None:
        """The transport's buffer has room again."""
        self._writable = True
        self._write_more()
        self._close_descriptor_if_sent()

    def accepted(self) -> None:
        """The backend answers with success: it will read the request to its end."""
        if not self._tells_when_sent:
            self._close_descriptor()

    def unread(self) -> bytes:
        """What the kernel had received when the connection broke while the request was being sent; over TLS records."""
        if self._descriptor is None:
            return b""
        answer = bytearray()
        with suppress(OSError):
            while len(answer) < _EARLY_ANSWER_BYTES and (data := os.read(self._descriptor, 64 * 1024)):
                answer += data
        return bytes(answer)

    def reset_if_unsent(self) -> None:
        """Has the connection end with RST where the kernel holds unsent bytes: a FIN would wait behind them for ever
        where the backend does not read.
        """
        raw = self._transport.get_extra_info("socket")
        if raw is None or raw.fileno() < 0:
            return  # it is closed
        unsent = bytearray(4)
        with suppress(OSError):
            fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, unsent)
            if any(unsent):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def close(self) -> None:
        """Drops what is unsent."""
        self._body = _NOTHING
        if self._descriptor is not None:
            self._close_descriptor()

    def _close_descriptor_if_sent(self) -> None:
        if self._tells_when_sent and self.sent:
            self._close_descriptor()

    def _close_descriptor(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _write_more(self) -> None:
        while self._body and self._writable and not self._transport.is_closing():
            piece, self._body = self._body[:PIECE_BYTES], self._body[PIECE_BYTES:]
            self._transport.write(piece)


def _duplicate(transport: asyncio.Transport) -> int | None:
    """A second descriptor of the transport's socket. None where there is none to be had."""
    raw = transport.get_extra_info("socket")
    if raw is None or raw.fileno() < 0:
        return None
    try:
        return os.dup(raw.fileno())
    except OSError:
        return None  # too many open files: an early answer may be lost, no more
