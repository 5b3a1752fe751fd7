"""A client with verbs. Speaks the wire protocol as bytes and JSON, and uses nothing of the package."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

from .backend import PATIENCE

Frame = dict[str, Any]
TERMINAL = ("completed", "failed", "rejected")


def user(text: str = "hello") -> list[Frame]:
    """The smallest `messages`."""
    return [{"role": "user", "parts": [{"text": {"text": text}}]}]


class Client:
    """One connection to the daemon."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    # --- saying ---

    async def send_bytes(self, data: bytes) -> None:
        """Bytes as they are; waits until the daemon has taken them."""
        self.writer.write(data)
        await self.writer.drain()

    async def send(self, *frames: Any) -> None:
        """Each frame as a line, all in one write."""
        await self.send_bytes(b"".join(json.dumps(frame).encode() + b"\n" for frame in frames))

    async def infer(self, backend_id: str | None = None, request_id: str = "r", **fields: Any) -> None:
        """Starts a request."""
        await self.send(infer(backend_id, request_id, **fields))

    async def cancel(self, request_id: str = "r") -> None:
        """Cancels a request."""
        await self.send({"type": "cancel", "request_id": request_id})

    def half_close(self) -> None:
        """Ends the writing side."""
        self.writer.write_eof()

    def close(self) -> None:
        """Closes both directions, at once."""
        self.writer.transport.abort()

    # --- hearing ---

    def stop_reading(self) -> None:
        """From now on takes nothing from the socket."""
        self._transport.pause_reading()

    def read_on(self) -> None:
        """Takes from the socket again."""
        self._transport.resume_reading()

    @property
    def _transport(self) -> asyncio.ReadTransport:
        transport = self.writer.transport
        assert isinstance(transport, asyncio.ReadTransport)
        return transport

    async def frame(self, patience: float = PATIENCE) -> Frame:
        """The next frame, whatever it is."""
        async with asyncio.timeout(patience):
            line = await self._reader.readuntil(b"\n")
        frame = json.loads(line)
        assert isinstance(frame, dict)
        return frame

    async def expect(self, kind: str, request_id: str | None = None, patience: float = PATIENCE) -> Frame:
        """The next frame, which must be of that type (and of that request)."""
        frame = await self.frame(patience)
        assert kind == frame["type"], frame
        if request_id is not None:
            assert request_id == frame["request_id"], frame
        return frame

    async def answer(self, request_id: str = "r", patience: float = PATIENCE) -> list[Frame]:
        """The frames up to the terminal one of `request_id`; all of them must be its own."""
        frames = []
        while True:
            frame = await self.frame(patience)
            assert request_id == frame["request_id"], frame
            frames.append(frame)
            if frame["type"] in TERMINAL:
                return frames

    async def expect_failed(self, kind: str, request_id: str = "r", patience: float = PATIENCE) -> Frame:
        """The answer's last frame must be `failed`, of that kind; its error."""
        frames = await self.answer(request_id, patience)
        assert frames[-1]["type"] == "failed", frames
        error: Frame = frames[-1]["error"]
        assert kind == error["kind"], error
        return error

    async def answers(self, count: int, patience: float = PATIENCE) -> dict[str | None, list[Frame]]:
        """The frames of `count` requests, sorted by request, in the order in which they came."""
        frames: dict[str | None, list[Frame]] = {}
        while count:
            frame = await self.frame(patience)
            frames.setdefault(frame["request_id"], []).append(frame)
            count -= frame["type"] in TERMINAL
        return frames

    async def expect_end(self, patience: float = PATIENCE) -> None:
        """The daemon closes the connection, and says nothing before."""
        async with asyncio.timeout(patience):
            try:
                rest = await self._reader.read()
            except ConnectionResetError:
                rest = b""
        assert rest == b""

    async def expect_nothing(self, seconds: float = 0.1) -> None:
        """The daemon says nothing for that long."""
        try:
            frame = await self.frame(seconds)
        except TimeoutError:
            return
        raise AssertionError(f"expected nothing, but there came {frame}")

    async def status(self) -> Frame:
        """Asks for a `status` frame, on a connection without other frames under way."""
        await self.send({"type": "status"})
        return await self.expect("status")


def infer(backend_id: str | None = None, request_id: str | None = "r", **fields: Any) -> Frame:
    """An `infer` frame."""
    frame = {"type": "infer", "request_id": request_id, "backend_id": backend_id, "messages": user(), **fields}
    return {key: value for key, value in frame.items() if value is not None}


def said(frames: list[Frame]) -> str:
    """The text of an answer."""
    return "".join(frame["delta"] for frame in frames if frame["type"] == "output_text_delta")


@asynccontextmanager
async def connected(path: Path) -> AsyncIterator[Client]:
    """A client on the daemon's socket, closed at the end."""
    reader, writer = await asyncio.open_unix_connection(path, limit=64 * 1024 * 1024)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()
        with suppress(ConnectionError):
            await writer.wait_closed()
