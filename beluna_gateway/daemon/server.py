"""The daemon: listens, admits clients, reloads, shuts down."""

from __future__ import annotations

import asyncio
import os
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import structlog

from ..config.settings import Config
from ..errors import GatewayError
from ..gateway import AIGateway
from ..pipeline.clients import Origin
from ..telemetry.service import LimitedLog, Refusal, ServiceCounters
from ..version import __version__
from ..wire.frames import PROTOCOL_VERSION
from ..wire.ndjson import RejectedLine
from ..worker import Worker
from .connection import Connection, daemon_stopping
from .garbage import RareCollection
from .loading import load_adapters
from .reloads import Reloads
from .sockets import BACKLOG, KEEP_SOCKET_FILE, HangupWatch, handed_over, listening_socket
from .systemd import Notifier
from .turns import Turns

FLUSH_SECONDS = 1.0
"""At the end of a shutdown: how long clients may take to read their last frames."""

NO_RELOADS = {"ok": 0, "failed": 0, "running": False, "last_error": None}
"""The field `reloads` of a `status` frame where there is no file to reload."""


class Daemon:
    """Serves a gateway on a Unix socket until it is stopped.

    Args:
        config: Where and whom to serve.
        folder: What `socket_path` is relative to.
        gateway: Serves the requests.
        reload: Puts the configuration's file into effect, for SIGHUP; see `Reloads`.
    """

    def __init__(
        self, config: Config, folder: Path, gateway: AIGateway, reload: Callable[[], Awaitable[None]] | None = None
    ) -> None:
        self.settings = config.server
        self._config = config
        self._handed_over = False
        self.gateway = gateway
        self.stopping = False
        self.hangups = HangupWatch()
        self.worker = gateway.worker = Worker()
        self.turns = Turns()
        self._folder = folder
        self._connections: set[Connection] = set()
        self._notifier = Notifier()
        self._log = structlog.get_logger("beluna_gateway")
        self._loop = asyncio.get_running_loop()
        self.counters = ServiceCounters()
        self.reloads = None if reload is None else Reloads(reload, self.counters, self._notifier)
        self._refusals = LimitedLog("connection refused", self._loop.call_later)
        self._rejections: dict[str, LimitedLog] = {}  # by client: a noisy one does not hide another
        self._started_at = self._loop.time()
        self._stop = asyncio.Event()
        self._stop_now = asyncio.Event()
        self._idle = asyncio.Event()
        self._garbage = RareCollection(lambda: self._in_flight > 0)

    async def serve(self) -> None:
        """Returns after `stop`, when every request has ended and every connection is closed.

        Raises:
            SocketError: The socket cannot be made.
        """
        with ExitStack() as stack:
            stack.callback(self.worker.close)
            stack.callback(self.hangups.close)
            self._loop.add_reader(self.hangups.fileno(), self.hangups.dispatch)
            stack.callback(self._loop.remove_reader, self.hangups.fileno())
            listeners = handed_over()
            self._handed_over = bool(listeners)
            path = self._folder / self._config.socket_path
            if not listeners:
                mode = int(self.settings.socket_mode, 8)
                listeners = [stack.enter_context(listening_socket(path, mode))]
            paths = ", ".join(str(listener.getsockname()) for listener in listeners)
            servers = [
                # The event loop calls listen() once more, by default with a shorter queue.
                await self._loop.create_unix_server(
                    lambda: Connection(self), sock=listener, backlog=BACKLOG, **KEEP_SOCKET_FILE
                )
                for listener in listeners
            ]
            self._notifier.tell("READY=1", f"STATUS=serving on {paths}")
            self._notifier.keep_alive()
            self._log.info("serving", socket_path=paths, version=__version__, pid=os.getpid())
            load_adapters(self._config)
            await self.gateway.start()
            stack.enter_context(self._garbage.running())
            await self._stop.wait()
            if self.reloads is not None:
                await self.reloads.close()
            self._notifier.tell("STOPPING=1", "STATUS=finishing requests in flight")
            for server in servers:
                server.close()
            await self._finish_requests()
            await self._close_connections()
            for log in (self._refusals, *self._rejections.values()):
                log.end_window()

    def stop(self, why: str) -> None:
        """Refuses new requests and lets those in flight finish for `shutdown_grace_ms`. A second call ends the wait."""
        if self.stopping:
            self._stop_now.set()
            return
        self.stopping = True
        self._stop.set()
        self.request_ended()
        self._log.info("stopping", why=why, in_flight=self._in_flight)

    @contextmanager
    def signals(self) -> Iterator[None]:
        """Handles signals while the block runs: SIGTERM and SIGINT call `stop`, SIGHUP calls `reload`.

        Enter it before anything is made that must be removed at the end, such as a socket file. Afterwards the handlers
        of before count again, with no moment between: a loop's own handlers would leave the default ones behind.
        """
        handlers: dict[int, Callable[[], None]] = {
            number: partial(self.stop, signal.Signals(number).name) for number in (signal.SIGTERM, signal.SIGINT)
        }
        handlers[signal.SIGHUP] = self.reload
        before = {number: signal.signal(number, self._in_the_loop(handler)) for number, handler in handlers.items()}
        try:
            yield
        finally:
            for number, handler_before in before.items():
                signal.signal(number, handler_before)

    def _in_the_loop(self, handler: Callable[[], None]) -> Callable[[int, FrameType | None], None]:
        """For `signal.signal`: has `handler` called in the event loop's next turn, which it begins at once."""

        def handle(_number: int, _frame: FrameType | None) -> None:
            self._loop.call_soon_threadsafe(handler)

        return handle

    def reload(self) -> None:
        """Begins to put the configuration's file into effect; the log, systemd and `status` tell how that ended."""
        if self.reloads is None or self.stopping:
            self._log.warning("no reload: the daemon is stopping" if self.stopping else "no reload: there is no file")
        else:
            self.reloads.begin()

    def apply(self, config: Config) -> None:
        """Takes the `server` section of a new configuration, and logs what of it needs a restart."""
        self.settings = config.server
        fixed = {
            "socket_path": (self._config.socket_path, config.socket_path),
            "server.socket_mode": (self._config.server.socket_mode, config.server.socket_mode),
        }
        for name, (in_effect, wanted) in fixed.items():
            if in_effect == wanted:
                continue
            if self._handed_over:
                self._log.warning("without effect: systemd made the socket; see its .socket unit", setting=name)
            else:
                self._log.warning("needs a restart", setting=name, in_effect=in_effect, configured=wanted)

    # --- `ConnectionHost` --------------------------------------------------------------------------------

    def admit(self, connection: Connection, uid: int) -> GatewayError | None:
        """See `ConnectionHost`."""
        most = self.settings.max_connections
        try:
            client = self.gateway.clients.of(uid)
        except GatewayError as error:
            return self._refused(error, uid, "uid")
        if len(self._connections) >= most:
            full = GatewayError("budget_exceeded", f"{most} connections are open (server.max_connections)")
            return self._refused(full, uid, "limit")
        self._connections.add(connection)
        self.counters.connections[client.name] += 1
        return None

    def _refused(self, error: GatewayError, uid: int, reason: Refusal) -> GatewayError:
        self.counters.refused[reason] += 1
        self._refusals.warning(uid=uid, error=error.message)
        return error

    def origin(self, uid: int) -> Origin:
        """See `ConnectionHost`."""
        return Origin(self.gateway.clients.of(uid), uid)

    def rejected(self, line: RejectedLine, uid: int) -> None:
        """See `ConnectionHost`."""
        name = self._client_name(uid)
        self.counters.rejected[name, line.error.kind] += 1
        log = self._rejections.get(name)
        if log is None:
            log = self._rejections[name] = LimitedLog("line rejected", self._loop.call_later)
        log.warning(
            client=name, uid=uid, request_id=line.request_id, kind=line.error.kind, error=line.error.message[:300]
        )

    def _client_name(self, uid: int) -> str:
        """Of a connected peer; its uid where a reload has taken its client away."""
        try:
            return self.gateway.clients.of(uid).name
        except GatewayError:
            return str(uid)

    def forget(self, connection: Connection) -> None:
        """See `ConnectionHost`."""
        self._connections.discard(connection)
        self.request_ended()

    def request_ended(self) -> None:
        """See `ConnectionHost`. A shutdown waits for the last one."""
        self._garbage.request_ended()
        if self.stopping and self._in_flight == 0:
            self._idle.set()

    def status(self) -> dict[str, Any]:
        """See `ConnectionHost`."""
        return {
            "protocol": PROTOCOL_VERSION,
            "version": __version__,
            "pid": os.getpid(),
            "uptime_ms": int((self._loop.time() - self._started_at) * 1000),
            "connections": len(self._connections),
            "in_flight": self._in_flight,
            "reloads": NO_RELOADS if self.reloads is None else self.reloads.status(),
            **({} if (shared := self.gateway.shared_status()) is None else {"shared": shared}),
            "backends": self.gateway.status(),
            "clients": self._client_status(),
        }

    def models(self) -> dict[str, tuple[str, ...]]:
        """The models that the configuration names, by backend."""
        return self.gateway.configured_models()

    def _client_status(self) -> list[dict[str, Any]]:
        connections, in_flight = Counter[str](), Counter[str]()
        for connection in self._connections:
            name = self._client_name(connection.uid)
            connections[name] += 1
            in_flight[name] += connection.in_flight
        return [
            {
                "name": client.name,
                "connections": connections[client.name],
                "in_flight": in_flight[client.name],
                "queued": client.queued,
                "requests": client.requests,
                "failures": client.failures,
                **client.used.status(),
            }
            for client in self.gateway.clients
        ]

    # --- the end ---------------------------------------------------------------------------------------------

    @property
    def _in_flight(self) -> int:
        return sum(connection.in_flight for connection in self._connections)

    async def _finish_requests(self) -> None:
        """Waits for the requests in flight, at most for the grace time, then ends the rest."""
        waits = [asyncio.create_task(self._idle.wait()), asyncio.create_task(self._stop_now.wait())]
        grace = self.settings.shutdown_grace_ms / 1000
        await asyncio.wait(waits, timeout=grace, return_when=asyncio.FIRST_COMPLETED)
        for connection in list(self._connections):
            connection.end_all(daemon_stopping())
        if self._in_flight:
            await asyncio.wait(waits[:1], timeout=FLUSH_SECONDS)
        for wait in waits:
            wait.cancel()

    async def _close_connections(self) -> None:
        """Flushes to the clients that read, for `FLUSH_SECONDS`, and aborts the other connections."""
        connections = list(self._connections)
        for connection in connections:
            connection.transport.close()
        if connections:
            await asyncio.wait([connection.closed for connection in connections], timeout=FLUSH_SECONDS)
        for connection in connections:
            connection.transport.abort()
