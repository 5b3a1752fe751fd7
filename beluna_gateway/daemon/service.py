"""The parts of the daemon, put together from a configuration, and what a reload exchanges of them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import AsyncExitStack, suppress
from dataclasses import asdict
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar

import structlog

from ..canonical import immutable
from ..config.loading import ConfigError, ConfigUnreadable, load_config
from ..config.settings import Config, Metrics, Otlp, Shared, Telemetry
from ..gateway import AIGateway
from ..telemetry.logging import LogSettings, LogSink
from ..telemetry.redaction import Redactor
from .reloads import ReloadError
from .server import Daemon
from .sockets import SocketError

if TYPE_CHECKING:
    from ..telemetry.metrics import MetricsSink
    from ..telemetry.otlp import OtlpSink

T = TypeVar("T")

READ_SECONDS = 10.0
"""How long a reload may take to read the file: a network drive may not answer."""


class MissingExtra(Exception):
    """The configuration needs packages that are not installed."""


class Service:
    """The daemon of a configuration file, with its gateway and telemetry.

    Use as ``async with Service(…) as service: await service.daemon.serve()``; signals are handled inside the block.

    Args:
        path: The configuration's file, read again at a reload.
        config: What was read from it.
        redactor: Shared by the log and the gateway.
        log: Level and format of the log.

    Raises:
        MissingExtra: Also on entering.
        SocketError: On entering: the metrics cannot be served.
    """

    def __init__(self, path: Path, config: Config, redactor: Redactor, log: LogSettings) -> None:
        self._path = path.absolute()
        self._folder = self._path.parent
        self._log_settings = log
        self._log = structlog.get_logger("beluna_gateway")
        self._config = config
        if config.ai_gateway.shared is not None:
            import_store(config.ai_gateway.shared)
        self._log_sink = LogSink(log)
        self.gateway = AIGateway(config, self._folder, telemetry=[self._log_sink], redactor=redactor)
        self.daemon = Daemon(config, self._folder, self.gateway, self.reload)
        self._telemetry = Telemetry()
        self._otlp: OtlpSink | None = None
        self._metrics: MetricsSink | None = None
        self._endpoint = AsyncExitStack()
        self._parts = AsyncExitStack()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as parts:
            parts.enter_context(self.daemon.signals())
            parts.push_async_callback(self._close_telemetry)
            await parts.enter_async_context(self.gateway)
            async with AsyncExitStack() as undo:
                self._take(await self._prepare(self._config.telemetry, undo))
                undo.pop_all()
            self._parts = parts.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self._parts.aclose()

    async def reload(self) -> None:
        """Reads the file again and puts all of it into effect that needs no restart, or nothing.

        Raises:
            ReloadError: The file cannot be read, is wrong, or asks for what is not to be had. Nothing has changed.
        """
        config = await self._read()
        async with AsyncExitStack() as undo:
            try:
                if config.ai_gateway.shared is not None:
                    await _in_thread(partial(import_store, config.ai_gateway.shared))
                prepared = await self._prepare(config.telemetry, undo)
            except (MissingExtra, SocketError) as error:
                raise ReloadError([str(error)]) from error
            backends = self.gateway.reload(config)
            before = self._take(prepared)
            undo.pop_all()
        self._set_socket_mode(before.settings)
        self.daemon.apply(config)
        self._log.info("reloaded", path=str(self._path), backends=asdict(backends))
        await self._close(before)

    async def _read(self) -> Config:
        """The file's content, read in a thread: a file on a network drive may block."""
        try:
            async with asyncio.timeout(READ_SECONDS):
                return await _in_thread(partial(load_config, self._path))
        except TimeoutError:
            raise ReloadError([f"cannot read {self._path}: no answer within {READ_SECONDS:.0f} s"]) from None
        except ConfigUnreadable as error:
            raise ReloadError([str(error)]) from error
        except ConfigError as error:
            raise ReloadError(error.mistakes) from error

    # --- telemetry -------------------------------------------------------------------------------------------

    async def _prepare(self, settings: Telemetry, undo: AsyncExitStack) -> _Prepared:
        """What `settings` ask for, what is there already included; `undo` closes what is new.

        Raises:
            MissingExtra: The packages for it are not installed.
            SocketError: The metrics cannot be served.
        """
        otlp, metrics, endpoint = self._otlp, self._metrics, self._endpoint
        if settings.otlp != self._telemetry.otlp:
            otlp = None
            if settings.otlp is not None:
                otlp = undo.enter_context(await _in_thread(partial(otlp_sink, settings.otlp)))
        wanted = _metrics(settings)
        if _listen(wanted) != _listen(_metrics(self._telemetry)):
            endpoint = await undo.enter_async_context(AsyncExitStack())
            if wanted is None:
                metrics = None
            else:
                from ..telemetry.metrics import MetricsSink
                from .metrics_endpoint import metrics_endpoint

                metrics = metrics or MetricsSink(self.daemon.status, self.daemon.models, self.daemon.counters)
                mode = int(wanted.socket_mode, 8)
                await endpoint.enter_async_context(metrics_endpoint(wanted.listen, self._folder, metrics.scrape, mode))
        return _Prepared(settings, otlp, metrics, endpoint)

    def _take(self, prepared: _Prepared) -> _Prepared:
        """Puts it in the place of what was there, which is returned."""
        before = _Prepared(self._telemetry, self._otlp, self._metrics, self._endpoint)
        self._telemetry, self._otlp = prepared.settings, prepared.otlp
        self._metrics, self._endpoint = prepared.metrics, prepared.endpoint
        self._log_settings.change(prepared.settings)
        sinks = (self._log_sink, prepared.otlp, prepared.metrics)
        self.gateway.telemetry = [sink for sink in sinks if sink is not None]
        return before

    def _set_socket_mode(self, before: Telemetry) -> None:
        """Gives the metrics' socket another mode where a reload has changed nothing else of it."""
        new, old = _metrics(self._telemetry), _metrics(before)
        if new is None or old is None or new.listen != old.listen or new.socket_mode == old.socket_mode:
            return
        from .metrics_endpoint import metrics_socket

        try:
            metrics_socket(new.listen, self._folder).chmod(int(new.socket_mode, 8))
        except OSError as error:
            self._log.warning("cannot change the mode of the metrics' socket", path=new.listen, error=str(error))

    async def _close(self, before: _Prepared) -> None:
        """Closes what a reload has replaced."""
        if before.otlp is not None and before.otlp is not self._otlp:
            _in_thread(partial(before.otlp.__exit__, None, None, None))  # it sends what is queued
        if before.endpoint is not self._endpoint:
            await before.endpoint.aclose()

    async def _close_telemetry(self) -> None:
        async with AsyncExitStack() as stack:
            if self._otlp is not None:
                stack.enter_context(self._otlp)
            await self._endpoint.aclose()


@immutable
class _Prepared:
    """The telemetry of a configuration, running and not yet in use."""

    settings: Telemetry
    otlp: OtlpSink | None
    metrics: MetricsSink | None
    endpoint: AsyncExitStack
    """Closing it ends the metrics endpoint."""


def _metrics(settings: Telemetry) -> Metrics | None:
    return Metrics(listen=settings.metrics) if isinstance(settings.metrics, str) else settings.metrics


def _listen(metrics: Metrics | None) -> str | None:
    return None if metrics is None else metrics.listen


def otlp_sink(settings: Otlp) -> OtlpSink:
    """The sink that sends spans to a collector.

    Raises:
        MissingExtra: The packages of the extra `otlp` are not installed.
    """
    return import_otlp()(settings.endpoint)


def import_extras(config: Config) -> None:
    """Imports what a configuration needs beyond the package's own dependencies.

    Raises:
        MissingExtra: Something is not installed.
    """
    if config.telemetry.otlp is not None:
        import_otlp()
    if config.ai_gateway.shared is not None:
        import_store(config.ai_gateway.shared)


def import_store(settings: Shared) -> None:
    """Imports what the store of shared limits needs.

    Raises:
        MissingExtra: The package of the extra `shared` is not installed.
    """
    if settings.url is None:
        return
    try:
        from ..quota import redis_store  # noqa: F401 - only whether it can be
    except ImportError as error:
        raise MissingExtra(
            f"ai_gateway.shared.url: {error}; install it with pip install 'beluna-gateway[shared]'"
        ) from error


def import_otlp() -> type[OtlpSink]:
    """See `otlp_sink`."""
    try:
        from ..telemetry.otlp import OtlpSink
    except ImportError as error:
        raise MissingExtra(f"telemetry.otlp: {error}; install it with pip install 'beluna-gateway[otlp]'") from error
    return OtlpSink


def _in_thread(function: Callable[[], T]) -> asyncio.Future[T]:
    """What `function` returns or raises. Its thread does not hold up the end of the process, unlike those of
    `asyncio.to_thread`.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(set_outcome: Callable[[Any], None], outcome: object) -> None:
        if not future.done():  # cancelled
            set_outcome(outcome)

    def run() -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            try:
                result = function()
            except Exception as error:  # noqa: BLE001 - raised where the outcome is awaited
                loop.call_soon_threadsafe(settle, future.set_exception, error)
            else:
                loop.call_soon_threadsafe(settle, future.set_result, result)

    threading.Thread(target=run, daemon=True).start()
    return future
