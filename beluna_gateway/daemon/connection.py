"""One client's connection: reads lines, starts and cancels requests, writes their frames in order.

Built on asyncio's transports rather than its streams: lines are cut in `data_received`, a batch of events is one
`write`, and a client that disconnects is noticed by `connection_lost`, whatever its requests are doing.

A small line is served where it is read. A large one (`is_large`) is decoded by the `Worker`; the lines after it wait.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Awaitable, Sequence
from typing import Any, Protocol, cast

from ..canonical import Completed, Embedding, Failed, GatewayEvent, OperationResult
from ..config.settings import Server
from ..errors import GatewayError
from ..gateway import AIGateway, cancel_begun, new_request_id
from ..pipeline.clients import Origin
from ..wire import ndjson
from ..wire.frames import Cancel, CountTokens, Embed, Exit, Infer, Models, RequestFrame, StatusQuery
from ..wire.lines import LineCutter
from ..wire.ndjson import FrameEncoder, RejectedLine
from ..worker import Large, Worker
from .sockets import HangupWatch, peer_uid
from .turns import Turns

EVENTS_HIGH_WATER = 64 * 1024
"""High-water mark of unsent bytes (the transport's write buffer); above it the backends are not read."""

INPUT_HIGH_WATER = 1024 * 1024
"""High-water mark of unsent bytes above which the client's own lines are not read. Higher than `EVENTS_HIGH_WATER`, so
that a client that has stopped reading can still cancel; finite, because each line may add an answer to the buffer."""

REFUSED_SECONDS = 0.1
"""How long a refused client may go on writing before the connection is closed; what it writes is discarded. Short,
because refused connections do not count against `server.max_connections`."""


LARGE_BYTES = 64 * 1024
"""A longer line is decoded and encoded off the event loop."""

LARGE_VALUES = 2000
"""So is a line with more arrays, objects and commas. 333 short messages have as many: 2 ms to decode and normalise."""

LARGE_NUMBERS = 10_000
"""Vectors with more numbers in all are encoded off the event loop: a million takes 0.1 s or more."""

REQUEST_COSTS = 3.0
"""Normalising and encoding a request takes about twice as long again as decoding it."""


def is_large(line: bytes) -> bool:
    """Whether serving `line` would hold up the event loop."""
    if len(line) <= 2 * LARGE_VALUES:
        return False
    return len(line) > LARGE_BYTES or line.count(b"{") + line.count(b"[") + line.count(b",") > LARGE_VALUES


class ConnectionHost(Protocol):
    """What a connection uses of the daemon."""

    @property
    def worker(self) -> Worker:
        """Decodes large frames and prepares their requests."""

    @property
    def turns(self) -> Turns:
        """How long small frames may be served at a stretch."""

    @property
    def gateway(self) -> AIGateway:
        """Serves the requests."""

    @property
    def settings(self) -> Server:
        """The configuration's `server` section; a reload replaces it."""

    @property
    def hangups(self) -> HangupWatch:
        """Reports peers that close while nothing is read from them."""

    @property
    def stopping(self) -> bool:
        """Whether the daemon shuts down and takes no new request."""

    def admit(self, connection: Connection, uid: int) -> GatewayError | None:
        """Registers the connection, or returns why it is refused."""

    def origin(self, uid: int) -> Origin:
        """Where a request of an admitted peer comes from. Raises `GatewayError`: a reload has taken its client away."""

    def rejected(self, line: RejectedLine, uid: int) -> None:
        """Counts and logs a line that was rejected."""

    def forget(self, connection: Connection) -> None:
        """The connection is closed."""

    def request_ended(self) -> None:
        """A request of a connection has ended."""

    def status(self) -> dict[str, Any]:
        """The fields of a `status` frame."""

    def stop(self, why: str) -> None:
        """Starts the shutdown."""


class Connection(asyncio.Protocol):
    """One client's connection and the requests in flight on it."""

    def __init__(self, daemon: ConnectionHost) -> None:
        self._daemon = daemon
        self._max_frame_bytes = daemon.settings.max_frame_bytes
        self._cutter = LineCutter(self._max_frame_bytes)
        self._lines: deque[bytes | None] = deque()
        """Received and not yet served: the client does not read the answers to earlier ones, a large one is being
        decoded, or others have their turn."""
        self._decoding: asyncio.Task[None] | None = None
        """Serves a large line."""
        self._waits = False
        """For the next turn."""
        self._requests: dict[str, Request] = {}
        self._half_closed = False
        self._readable = True
        self.blocked = False
        """Whether the write buffer is above `EVENTS_HIGH_WATER`."""
        self._drained = asyncio.Event()
        self.loop = asyncio.get_running_loop()
        self.closed = self.loop.create_future()
        """Done when the connection is closed."""

    # --- what asyncio calls ----------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admits the client, or writes why it is refused."""
        self.transport = cast(asyncio.Transport, transport)
        self.transport.set_write_buffer_limits(high=EVENTS_HIGH_WATER)
        self._descriptor: int = transport.get_extra_info("socket").fileno()
        self.uid = peer_uid(transport.get_extra_info("socket"))
        refusal = self._daemon.admit(self, self.uid)
        if refusal is not None:
            self.transport.write(ndjson.rejected(refusal, None))
            self._readable = False
            # Most clients write first. Closing at once would give them a broken pipe before they have read the refusal.
            self.transport.write_eof()
            self.loop.call_later(REFUSED_SECONDS, self.transport.close)

    def data_received(self, data: bytes) -> None:
        """Serves each complete line."""
        if self._readable:
            self._lines.extend(self._cutter.feed(data))
            self._serve_lines()

    def eof_received(self) -> bool:
        """The client closed its writing half; it may still read, so its requests go on."""
        self._half_closed = True
        self._daemon.hangups.watch(self._descriptor, self.hung_up)
        if self._readable:
            self._lines.extend(self._cutter.close())
            self._serve_lines()
        self._close_if_finished()
        return True

    def connection_lost(self, error: Exception | None) -> None:
        """The connection is closed: its requests are cancelled."""
        self._daemon.hangups.forget(self._descriptor, self.hung_up)
        self._daemon.forget(self)
        for request in list(self._requests.values()):
            request.abandon()
        self._requests.clear()
        self._lines.clear()
        if self._decoding is not None:
            self._decoding.cancel()
        self._unblock()
        if not self.closed.done():
            self.closed.set_result(None)

    def pause_writing(self) -> None:
        """The write buffer is above `EVENTS_HIGH_WATER`."""
        self.blocked = True
        self._drained.clear()

    def resume_writing(self) -> None:
        """The write buffer has drained."""
        self._unblock()
        self._go_on()

    def hung_up(self) -> None:
        """The client closed both halves while nothing was read from it."""
        self.transport.abort()
        for request in self._requests.values():
            request.abandon()

    # --- what requests use -----------------------------------------------------------------------------------

    async def drained(self) -> None:
        """Returns once the write buffer has drained, or the connection is closed."""
        if self.blocked:
            await self._drained.wait()

    def ended(self, request: Request) -> None:
        """Its terminal frame is written; its id may be used again."""
        if self._requests.get(request.request_id) is request:
            del self._requests[request.request_id]
            self._daemon.request_ended()
            self._close_if_finished()

    # --- what the daemon uses --------------------------------------------------------------------------------

    @property
    def worker(self) -> Worker:
        """For large frames, of either side."""
        return self._daemon.worker

    @property
    def in_flight(self) -> int:
        """Requests that have not ended."""
        return len(self._requests)

    def end_all(self, error: GatewayError) -> None:
        """Ends every request in flight with `error`."""
        for request in list(self._requests.values()):
            request.end(error)

    # --- lines -----------------------------------------------------------------------------------------------

    def _serve_lines(self) -> None:
        """Serves the received lines, in order, while the client reads the answers."""
        turns = self._daemon.turns
        while self._lines and self._decoding is None and self.transport.get_write_buffer_size() <= INPUT_HIGH_WATER:
            if turns.over:
                if not self._waits:
                    self._waits = True
                    turns.wait(self._next_turn)
                break
            began = time.monotonic()
            costs = self._serve(self._lines.popleft())
            turns.take((time.monotonic() - began) * costs)
        if self._lines and not self._half_closed:
            self._stop_reading()

    def _next_turn(self) -> None:
        self._waits = False
        self._go_on()

    def _go_on(self) -> None:
        """Serves the lines that had to wait, and reads on."""
        if self.transport.is_closing():
            return
        self._serve_lines()
        self._close_if_finished()
        if not (self._lines or self._half_closed or self.transport.is_reading()):
            self._daemon.hangups.forget(self._descriptor, self.hung_up)
            self.transport.resume_reading()

    def _serve(self, line: bytes | None) -> float:
        """Serves one line; returns what it will have cost when its first turn is over, as a multiple of its time."""
        try:
            if line is None:
                limit = self._max_frame_bytes
                raise RejectedLine(f"the line is longer than {limit} bytes (server.max_frame_bytes)")
            if not line or line.isspace():
                return 1.0
            if is_large(line):
                self._decoding = asyncio.create_task(self._serve_large(Large(self._daemon.worker, line)))
                return 1.0
            frame = ndjson.decode(line)
            if isinstance(frame, _REQUESTS):
                self._begin(frame)
                return REQUEST_COSTS
            self._obey(frame)
        except RejectedLine as rejected:
            self._reject(rejected)
        return 1.0

    async def _serve_large(self, large: Large) -> None:
        """As `_serve`, off the event loop. What it makes is freed by the request that it starts, or here."""
        started = False
        try:
            await large.step(ndjson.decode)
            if isinstance(large.value, _REQUESTS):
                self._begin(large.value, large)
                started = True
            else:
                self._obey(large.value)
        except RejectedLine as rejected:
            self._reject(rejected)
        except Exception as bug:  # noqa: BLE001 - the client waits for an answer
            self._reject(RejectedLine(f"a bug in the gateway: {type(bug).__name__}", None, "internal"))
        finally:
            self._decoding = None
            if not started:
                large.close()
        self._go_on()

    def _obey(self, order: Cancel | Exit | StatusQuery) -> None:
        match order:
            case Cancel(request_id=request_id):
                self._cancel(request_id)
            case Exit():
                self._exit()
            case _:
                self.transport.write(ndjson.status(self._daemon.status()))

    def _reject(self, rejected: RejectedLine) -> None:
        self._daemon.rejected(rejected, self.uid)
        self.transport.write(ndjson.rejected(rejected.error, rejected.request_id))

    def _begin(self, frame: RequestFrame, large: Large | None = None) -> None:
        request_id = frame.request_id or new_request_id()
        if self._daemon.stopping:
            raise RejectedLine.of(daemon_stopping(), request_id)
        if request_id in self._requests:
            raise RejectedLine(f"request_id {request_id!r} is in flight on this connection", request_id)
        most = self._daemon.settings.max_in_flight_per_connection
        if len(self._requests) >= most:
            raise RejectedLine(
                f"{most} requests are in flight on this connection (server.max_in_flight_per_connection)",
                request_id,
                "budget_exceeded",
            )
        try:
            origin = self._daemon.origin(self.uid)
        except GatewayError as error:
            raise RejectedLine.of(error, request_id) from None
        self._requests[request_id] = Request(self, frame, large, request_id, self._daemon.gateway, origin)

    def _cancel(self, request_id: str) -> None:
        request = self._requests.get(request_id)
        if request is None:
            raise RejectedLine(f"request_id {request_id!r} is not in flight on this connection", request_id)
        request.end(GatewayError("cancelled", "cancelled by the client"))

    def _exit(self) -> None:
        if not self._daemon.settings.allow_exit:
            raise RejectedLine("this daemon does not take `exit` (server.allow_exit)", None, "authorization")
        self._daemon.stop("a client's exit frame")

    def _unblock(self) -> None:
        self.blocked = False
        self._drained.set()

    def _stop_reading(self) -> None:
        """Pauses reading. The event loop no longer sees a hang-up then, so `hangups` watches for it."""
        self.transport.pause_reading()
        self._daemon.hangups.watch(self._descriptor, self.hung_up)

    def _close_if_finished(self) -> None:
        if self._half_closed and not self._requests and not self._lines and self._decoding is None:
            self.transport.close()


_REQUESTS = (Infer, Embed, CountTokens, Models)
"""The frames that begin a request, the usual one first."""

_ENDS = (Completed, Failed)


def _is_large_result(result: OperationResult) -> bool:
    """Whether encoding `result` would hold up the event loop."""
    return isinstance(result, Embedding) and sum(map(len, result.vectors)) > LARGE_NUMBERS


class Request:
    """One request in flight: its task, and the `EventSink` that writes its frames."""

    __slots__ = ("_connection", "_encoder", "_ended", "_error", "_large", "_origin", "_task", "request_id")

    def __init__(
        self,
        connection: Connection,
        frame: RequestFrame,
        large: Large | None,
        request_id: str,
        gateway: AIGateway,
        origin: Origin,
    ) -> None:
        self.request_id = request_id
        self._origin = origin
        self._connection = connection
        self._encoder = FrameEncoder(request_id)
        self._error: GatewayError | None = None
        """Why the request was ended from outside."""
        self._ended = False
        self._large = large
        serving = (
            gateway.infer(large or frame, request_id, self, origin)
            if isinstance(frame, Infer)
            else self._perform(gateway.perform(large or frame, request_id, origin))
        )
        self._task: asyncio.Task[None] | None = connection.loop.create_task(serving)
        self._task.add_done_callback(self._done)

    async def _perform(self, performed: Awaitable[OperationResult]) -> None:
        """Serves what is answered by one frame."""
        try:
            result = await performed
        except GatewayError as error:
            self.write([Failed(error)])
            return
        if not _is_large_result(result):
            self._write(self._encoder.result(result), last=True)
            return
        large = Large(self._connection.worker, result)
        del result  # it is freed in the thread, when it is encoded
        try:
            await large.step(self._encoder.result)
            self._write(large.value, last=True)
        finally:
            large.close()

    def write(self, events: Sequence[GatewayEvent]) -> None:
        """See `EventSink`."""
        self._write(self._encoder.events(events), last=type(events[-1]) in _ENDS)

    def _write(self, frames: bytes, *, last: bool) -> None:
        transport = self._connection.transport
        if transport.is_closing():
            return  # the client disconnected; `connection_lost` is about to cancel this request
        transport.write(frames)
        if last:
            self._ended = True
            self._connection.ended(self)

    @property
    def blocked(self) -> bool:
        """See `EventSink`."""
        return self._connection.blocked

    async def drained(self) -> None:
        """See `EventSink`."""
        await self._connection.drained()

    def end(self, error: GatewayError) -> None:
        """Cancels it; `failed` with `error` is written once the backend's call is closed. The first error counts."""
        if self._error is None:
            self._error = error
        self.abandon()

    def abandon(self) -> None:
        """Cancels it without a terminal frame: the client has disconnected."""
        if self._origin.cancelled_at is None:
            self._origin.cancelled_at = time.monotonic()
        if self._task is not None:
            cancel_begun(self._task)

    def _done(self, task: asyncio.Task[None]) -> None:
        # Drop the task: its exception's traceback keeps the request alive until the next garbage collection.
        self._task = None
        if self._large is not None:
            # Not here: a cancelled task's traceback holds the request, and the caller holds the task.
            self._connection.loop.call_soon(self._large.close)
        if not task.cancelled() and (bug := task.exception()) is not None and self._error is None:
            self._error = GatewayError("internal", f"a bug in the gateway: {type(bug).__name__}")
        if not self._ended and self._error is not None:
            self.write([Failed(self._error)])


def daemon_stopping() -> GatewayError:
    """What a shutdown answers to new requests and to those that it ends."""
    return GatewayError("internal", "the daemon is stopping", retryable=True)
