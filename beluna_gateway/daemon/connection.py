"""One client: lines in, requests started and cancelled, frames out in order.

Written on asyncio's transports rather than its streams: bytes are cut where they arrive, a batch of events is one
`write`, and a client that goes away is seen by `connection_lost`, in whatever state its requests are.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from ..canonical import Completed, Failed, GatewayEvent
from ..errors import GatewayError
from ..gateway import new_request_id
from ..wire import ndjson
from ..wire.frames import Cancel, Exit, Infer
from ..wire.lines import LineCutter
from ..wire.ndjson import FrameEncoder, RejectedLine
from .sockets import peer_uid

if TYPE_CHECKING:
    from .server import Daemon

EVENTS_WATER = 64 * 1024
"""Bytes that wait for the client before its backends are no longer read."""

INPUT_WATER = 1024 * 1024
"""Bytes that wait for the client before its own lines are no longer read. Higher than `EVENTS_WATER`, so that a client
that has stopped reading can still cancel; finite, so that one that only writes cannot fill the memory with answers."""

REFUSED_SECONDS = 0.1
"""How long a client that was refused may go on writing, for nothing. Short: refused clients are not counted."""


class Connection(asyncio.Protocol):
    """One client's connection, and the requests in flight on it."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._settings = daemon.config.server
        self._cutter = LineCutter(self._settings.max_frame_bytes)
        self._lines: deque[bytes | None] = deque()
        """What has come and is not yet served, because the client does not take the answers."""
        self._requests: dict[str, Request] = {}
        self._half_closed = False
        self._readable = True
        self.blocked = False
        """Enough is waiting for the client."""
        self._drained = asyncio.Event()
        self.closed = asyncio.get_running_loop().create_future()
        """Done when the connection is gone."""

    # --- what asyncio calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admits the client, or tells it why not."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=EVENTS_WATER)
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        refusal = self._daemon.admit(self, peer_uid(transport.get_extra_info("socket")))
        if refusal is not None:
            self.transport.write(ndjson.rejected(refusal, None))
            self._readable = False
            # Most clients write first. Closing now would answer that with a broken pipe, before they have read why.
            self.transport.write_eof()
            asyncio.get_running_loop().call_later(REFUSED_SECONDS, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Serves each line that is complete."""
        if self._readable:
            self._lines.extend(self._cutter.feed(data))
            self._serve_lines()

    def eof_received(self) -> bool:
        """The client has said all it will say, and may still read: its requests go on."""
        self._half_closed = True
        self._daemon.hangups.watch(self._descriptor, self.hung_up)
        if self._readable:
            self._lines.extend(self._cutter.close())
            self._serve_lines()
        self._close_if_finished()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The client is gone: nobody wants the answers any more."""
        self._daemon.hangups.forget(self._descriptor, self.hung_up)
        self._daemon.forget(self)
        for request in list(self._requests.values()):
            request.abandon()
        self._requests.clear()
        self._lines.clear()
        self._unblock()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """Enough is waiting for the client."""
        self.blocked = True
        self._drained.clear()

    def resume_writing(self) -> None:
        """The client has read enough."""
        self._unblock()
        if self.transport.is_closing():
            return
        self._serve_lines()
        self._close_if_finished()
        if not (self._lines or self._half_closed or self.transport.is_reading()):
            self._daemon.hangups.forget(self._descriptor, self.hung_up)
            self.transport.resume_reading()

    def hung_up(self) -> None:
        """The client closed while we were not reading from it."""
        self.transport.abort()
        for request in self._requests.values():
            request.abandon()

    # --- what requests use -----------------------------------------------------------------------------------

    async def drained(self) -> None:
        """Returns once the client has read enough, or is gone."""
        if self.blocked:
            await self._drained.wait()

    def ended(self, request: Request) -> None:
        """Its terminal frame is written: its id is free again."""
        if self._requests.get(request.request_id) is request:
            del self._requests[request.request_id]
            self._daemon.request_ended()
            self._close_if_finished()

    # --- what the daemon uses --------------------------------------------------------------------------------

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    def cancel_all(self, why: str) -> None:
        """Ends every request in flight with `failed`, kind `cancelled`."""
        for request in list(self._requests.values()):
            request.cancel(why)

    # --- lines -----------------------------------------------------------------------------------------------

    def _serve_lines(self) -> None:
        """Serves the lines that are there, while the client takes the answers."""
        while self._lines and self.transport.get_write_buffer_size() <= INPUT_WATER:
            self._serve(self._lines.popleft())
        if self._lines and not self._half_closed:
            self._stop_reading()

    def _serve(self, line: bytes | None) -> None:
        try:
            if line is None:
                limit = self._settings.max_frame_bytes
                raise RejectedLine(f"the line is longer than {limit} bytes (server.max_frame_bytes)")
            if not line or line.isspace():
                return
            match ndjson.decode(line):
                case Infer() as frame:
                    self._infer(frame)
                case Cancel(request_id=request_id):
                    self._cancel(request_id)
                case Exit():
                    self._exit()
                case _:
                    self.transport.write(ndjson.status(self._daemon.status()))
        except RejectedLine as rejected:
            self.transport.write(ndjson.rejected(rejected.error, rejected.request_id))

    def _infer(self, frame: Infer) -> None:
        request_id = frame.request_id or new_request_id()
        if self._daemon.stopping:
            raise RejectedLine("the daemon is stopping", request_id, "internal")
        if request_id in self._requests:
            raise RejectedLine(f"request_id {request_id!r} is in flight on this connection", request_id)
        most = self._settings.max_in_flight_per_connection
        if len(self._requests) >= most:
            raise RejectedLine(
                f"{most} requests are in flight on this connection (server.max_in_flight_per_connection)",
                request_id,
                "budget_exceeded",
            )
        self._requests[request_id] = Request(self, frame, request_id, self._daemon)

    def _cancel(self, request_id: str) -> None:
        request = self._requests.get(request_id)
        if request is None:
            raise RejectedLine(f"request_id {request_id!r} is not in flight on this connection", request_id)
        request.cancel("cancelled by the client")

    def _exit(self) -> None:
        if not self._settings.allow_exit:
            raise RejectedLine("this daemon does not take `exit` (server.allow_exit)", None, "authorization")
        self._daemon.stop("a client's exit frame")

    def _unblock(self) -> None:
        self.blocked = False
        self._drained.set()

    def _stop_reading(self) -> None:
        """The client sends and does not read. Nobody looks at its side of the socket: hang-ups are watched for."""
        self.transport.pause_reading()
        self._daemon.hangups.watch(self._descriptor, self.hung_up)

    def _close_if_finished(self) -> None:
        if self._half_closed and not self._requests and not self._lines:
            self.transport.close()


_ENDS = (Completed, Failed)


class Request:
    """One request in flight: its task, and the `EventSink` that writes its frames."""

    __slots__ = ("_cancelled", "_connection", "_encoder", "_ended", "_task", "request_id")

    def __init__(self, connection: Connection, frame: Infer, request_id: str, daemon: Daemon) -> None:
        self.request_id = request_id
        self._connection = connection
        self._encoder = FrameEncoder(request_id)
        self._cancelled: GatewayError | None = None
        self._ended = False
        self._task: asyncio.Task[None] | None = asyncio.create_task(daemon.gateway.infer(frame, request_id, self))
        self._task.add_done_callback(self._done)

    def write(self, events: Sequence[GatewayEvent]) -> None:
        """See `EventSink`."""
        transport = self._connection.transport
        if transport.is_closing():
            return  # the client is gone, and what cancels us is on its way
        transport.write(self._encoder.events(events))
        if isinstance(events[-1], _ENDS):
            self._ended = True
            self._connection.ended(self)

    @property
    def blocked(self) -> bool:
        """See `EventSink`."""
        return self._connection.blocked

    async def drained(self) -> None:
        """See `EventSink`."""
        await self._connection.drained()

    def cancel(self, why: str) -> None:
        """Ends it with `failed`, kind `cancelled`, once the backend's call is gone."""
        self._cancelled = GatewayError("cancelled", why)
        self.abandon()

    def abandon(self) -> None:
        """Ends it without a word: nobody is there to hear it."""
        if self._task is not None:
            self._task.cancel()

    def _done(self, task: asyncio.Task[None]) -> None:
        # A cancelled task keeps its exception, whose traceback keeps us and the whole request: not until the garbage
        # collector finds the time.
        self._task = None
        if not task.cancelled() and (bug := task.exception()) is not None and self._cancelled is None:
            self._cancelled = GatewayError("internal", f"a bug in the gateway: {bug!r}")
        if not self._ended and self._cancelled is not None:
            self.write([Failed(self._cancelled)])
