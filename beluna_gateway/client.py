"""An asyncio client for the daemon's socket: many requests on one connection, each an async iterator of its frames."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import aclosing, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

Frame = dict[str, Any]

_TERMINAL = frozenset({"completed", "embedding", "token_count", "model_list", "failed", "rejected"})
_LONGEST_LINE = 256 * 1024 * 1024  # an unstreamed answer is one line


class DaemonGone(ConnectionError):
    """The daemon closed the connection before the answer was complete."""


class GatewayClient:
    """One connection. Use ``async with connect(path) as client:``."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._answers: dict[str, asyncio.Queue[Frame | None]] = {}
        self._statuses: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._next_id = 0
        # Unique beyond this connection: the id is what names a request in the daemon's log.
        self._name = f"client-{secrets.token_hex(6)}"
        self._ended = False
        self._refusal: Frame | None = None
        """Why the daemon did not take the connection."""

    async def infer(self, **fields: Any) -> AsyncGenerator[Frame, None]:
        """The frames of one inference, the terminal one last.

        Args:
            fields: Of the `infer` frame: `messages` and what else is wanted.

        Raises:
            DaemonGone: The connection ended first.
        """
        async with aclosing(self._request("infer", fields)) as frames:
            async for frame in frames:
                yield frame

    async def embed(self, **fields: Any) -> Frame:
        """The frame that answers `embed`: `embedding`, `failed` or `rejected`.

        Args:
            fields: Of the `embed` frame: `inputs` and what else is wanted.

        Raises:
            DaemonGone: The connection ended first.
        """
        return await self._operation("embed", fields)

    async def count_tokens(self, **fields: Any) -> Frame:
        """The frame that answers `count_tokens`: `token_count`, `failed` or `rejected`; see `embed`."""
        return await self._operation("count_tokens", fields)

    async def models(self, **fields: Any) -> Frame:
        """The frame that answers `models`: `model_list`, `failed` or `rejected`; see `embed`."""
        return await self._operation("models", fields)

    async def _operation(self, kind: str, fields: dict[str, Any]) -> Frame:
        async with aclosing(self._request(kind, fields)) as frames:
            return await anext(frames)

    async def _request(self, kind: str, fields: dict[str, Any]) -> AsyncGenerator[Frame, None]:
        self._next_id += 1
        request_id = fields.setdefault("request_id", f"{self._name}-{self._next_id}")
        frames: asyncio.Queue[Frame | None] = asyncio.Queue()
        self._answers[request_id] = frames
        if self._refusal is not None:
            frames.put_nowait(self._refusal)
        if self._ended:
            frames.put_nowait(None)
        ended = False
        try:
            await self.send({"type": kind, **fields})
            while not ended:
                frame = await frames.get()
                if frame is None:
                    raise DaemonGone("the daemon closed the connection before the answer was complete")
                ended = frame["type"] in _TERMINAL
                yield frame
        finally:
            del self._answers[request_id]
            if not ended and not self._writer.is_closing():
                with suppress(DaemonGone):
                    await self.send({"type": "cancel", "request_id": request_id})

    async def status(self) -> Frame:
        """One `status` frame.

        Raises:
            DaemonGone: The connection ended first.
        """
        if not self._ended:
            await self.send({"type": "status"})
        frame = None if self._ended else await self._statuses.get()
        if frame is None:
            refusal = "" if self._refusal is None else f": {self._refusal['error']['message']}"
            raise DaemonGone(f"the daemon closed the connection instead of answering{refusal}")
        return frame

    async def send(self, frame: Mapping[str, Any]) -> None:
        """Writes one frame.

        Raises:
            DaemonGone: The connection has ended.
        """
        self._writer.write(json.dumps(frame, ensure_ascii=False).encode() + b"\n")
        try:
            await self._writer.drain()
        except ConnectionError as error:
            raise DaemonGone("the daemon closed the connection") from error

    async def dispatch(self) -> None:
        """Reads frames and hands each to whom it belongs, until the connection ends."""
        try:
            while line := await self._reader.readline():
                frame = json.loads(line)
                if frame["type"] == "status":
                    self._statuses.put_nowait(frame)
                elif (frames := self._answers.get(frame["request_id"])) is not None:
                    frames.put_nowait(frame)
                elif frame["request_id"] is None:
                    self._refusal = frame
                    for frames in self._answers.values():  # a refused connection: it concerns everyone
                        frames.put_nowait(frame)
        except ConnectionError:
            pass
        finally:
            self._ended = True
            self._statuses.put_nowait(None)
            for frames in self._answers.values():
                frames.put_nowait(None)


@asynccontextmanager
async def connect(path: Path) -> AsyncIterator[GatewayClient]:
    """A client on the daemon's socket. Leaving the block closes the connection, which cancels what is in flight.

    Raises:
        OSError: Nobody answers at `path`.
    """
    reader, writer = await asyncio.open_unix_connection(path, limit=_LONGEST_LINE)
    client = GatewayClient(reader, writer)
    dispatcher = asyncio.create_task(client.dispatch())
    try:
        yield client
    finally:
        dispatcher.cancel()
        await asyncio.wait([dispatcher])
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()
