"""A local model server that the daemon starts for a backend (`launch`).

If something answers on the endpoint before the program is started (a server that somebody runs by hand), it is used.
Whether it still answers is checked at most once a second; when it is gone, the program is started.

There is no HTTP in here: a `probe` reports whether the server answers.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import structlog

from ..config.settings import Launch
from ..errors import GatewayError
from ..telemetry.service import ProgramStatus
from .child_process import ChildProcess, clean_environment, configured_program
from .supervisor import RestartPolicy, Supervisor

_PROBE_SECONDS = 5.0  # a probe that takes longer has failed
_POLL_FIRST, _POLL_MAX = 0.05, 0.25  # seconds between two probes of a server that is starting
_FOREIGN_SECONDS = 1.0  # between two checks of a server that somebody else runs
_SECRET_CHARACTERS = 8  # shorter values of `launch.env` are switches, and would be found inside of words

_log = structlog.get_logger(__name__)


class _ForeignServer:
    """A server that somebody else runs; it ends when its run is stopped."""

    def __init__(self, now: float) -> None:
        self.seen_at = now

    async def ended(self) -> GatewayError:
        """See `Peer`: never, by itself."""
        never: asyncio.Future[GatewayError] = asyncio.get_running_loop().create_future()
        return await never

    def fail(self, failure: GatewayError) -> None:
        """See `Peer`: requests see their connections end."""


class _OwnServer:
    """The program that the daemon has started."""

    def __init__(self, child: ChildProcess, failure: Callable[[ChildProcess, str], GatewayError]) -> None:
        self._child = child
        self._failure = failure

    async def ended(self) -> GatewayError:
        """See `Peer`."""
        await self._child.wait()
        return self._failure(self._child, "crashed")

    def fail(self, failure: GatewayError) -> None:
        """See `Peer`: requests see their connections end."""


class ModelServer:
    """The server of one backend.

    Args:
        launch: How to start it.
        endpoint: The backend's endpoint, for messages.
        probe: Whether the server answers on `launch.ready_path`. May raise `GatewayError` or `OSError` for "no".
        folder: The config file's folder: the program's working directory, and where a relative path is looked up.
        policy: When it is started again after a failure; by default at once after the first one, then with backoff.
    """

    def __init__(
        self,
        launch: Launch,
        endpoint: str,
        probe: Callable[[], Awaitable[bool]],
        *,
        folder: Path,
        policy: RestartPolicy | None = None,
    ) -> None:
        self._launch = launch
        self._endpoint = endpoint
        self._probe = probe
        self._folder = folder.absolute()
        self._foreign: _ForeignServer | None = None
        self._found = 0  # starts that found somebody else's server
        keep = launch.idle_stop_ms is None
        self._supervisor: Supervisor[_ForeignServer | _OwnServer] = Supervisor(
            self._started,
            name=f"the model server {launch.command!r}",
            idle_stop_ms=launch.idle_stop_ms,
            start_seconds=None,  # `launch.ready_timeout_ms`
            # One at a time: a server that is still stopping would look like somebody else's.
            policy=replace(policy or RestartPolicy(), keep=keep, one_at_a_time=True),
        )
        for value in launch.env.values():
            if len(value) >= _SECRET_CHARACTERS:
                self._supervisor.keep_quiet_about(value)

    @property
    def status(self) -> ProgramStatus:
        """Its state, and how often its program was started."""
        status = self._supervisor.status
        foreign = self._foreign is not None and status.state == "running"
        return ProgramStatus("foreign" if foreign else status.state, status.starts - self._found)

    async def start(self) -> None:
        """At the daemon's start: begins to start the server, unless it is one that stops when idle. Does not wait; a
        failure is logged, and reported to the requests that use the server.
        """
        if self._launch.idle_stop_ms is None:
            self._supervisor.begin()

    @asynccontextmanager
    async def use(self) -> AsyncIterator[None]:
        """Around each request: enters its block once the server answers, and starts it if need be. The server does not
        stop for idleness inside the block.

        Raises:
            GatewayError: `backend_transient`: it exited before it was ready, did not become ready in time, or failed so
                often that it is not started again yet (`retry_after_ms`). `backend_permanent`: no such program.
        """
        if self._foreign is not None and not await self._still_answers(self._foreign):
            self._supervisor.stop_run()
        async with self._supervisor.use():
            yield

    async def close(self) -> None:
        """Stops the server. Requests that still wait for it fail."""
        await self._supervisor.close()

    @asynccontextmanager
    async def _started(self, _: str | None) -> AsyncIterator[_ForeignServer | _OwnServer]:
        """A `Launch`: the server that already answers, or the program."""
        if await self._answers():
            _log.info("model_server_already_running", endpoint=self._endpoint)
            self._found += 1
            self._foreign = _ForeignServer(asyncio.get_running_loop().time())
            try:
                yield self._foreign
            finally:
                self._foreign = None
            return
        async with self._program() as child:
            await self._until_ready(child)
            yield _OwnServer(child, self._supervisor.failure)

    def _program(self) -> ChildProcess:
        program = configured_program(self._launch.command, self._folder, "launch.command")
        _log.info("model_server_starting", program=program)
        return ChildProcess(program, self._launch.args, env=clean_environment(self._launch.env), cwd=self._folder)

    async def _until_ready(self, child: ChildProcess) -> None:
        loop = asyncio.get_running_loop()
        begun, pause = loop.time(), _POLL_FIRST
        deadline = begun + self._launch.ready_timeout_ms / 1000
        exited = asyncio.ensure_future(child.wait())
        try:
            while True:
                await asyncio.wait([exited], timeout=min(pause, max(deadline - loop.time(), 0)))
                pause = min(pause * 1.5, _POLL_MAX)
                if exited.done():
                    raise self._supervisor.failure(child, "exited before it was ready")
                if await self._answers(deadline):
                    _log.info("model_server_ready", pid=child.pid, seconds=round(loop.time() - begun, 3))
                    return
                if loop.time() >= deadline:
                    limit = f"{self._launch.ready_timeout_ms} ms (launch.ready_timeout_ms)"
                    raise self._supervisor.failure(child, f"did not answer on {self._launch.ready_path} within {limit}")
        finally:
            exited.cancel()

    async def _answers(self, deadline: float | None = None) -> bool:
        latest = asyncio.get_running_loop().time() + _PROBE_SECONDS
        try:
            async with asyncio.timeout_at(latest if deadline is None else min(latest, deadline)):
                return await self._probe()
        except (GatewayError, OSError):  # OSError includes TimeoutError
            return False

    async def _still_answers(self, foreign: _ForeignServer) -> bool:
        loop = asyncio.get_running_loop()
        if loop.time() - foreign.seen_at < _FOREIGN_SECONDS:
            return True
        if await self._answers():
            foreign.seen_at = loop.time()
            return True
        return self._foreign is not foreign  # another request may have seen it first
