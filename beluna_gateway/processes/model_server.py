"""A local model server that the daemon starts for a backend (`launch`): one program at most, watched, never doubled.

    not running ──ready()──► starting ──answers──► running ──crash──► backing off ──► starting …
         ▲                      │                     │
         └──── failed, close ───┴──── idle, close ────┘

If something answers on the endpoint before we start anything (a server that somebody runs by hand), it is used.
Whether it is still there is asked again when a second has passed, and when it is gone, ours starts.

There is no HTTP in here: whether the server answers is told by a `probe`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import structlog

from ..config.settings import Launch
from ..errors import ErrorKind, GatewayError
from ..telemetry.redaction import Redactor
from .child_process import ChildProcess, clean_environment, find_program

_PROBE_SECONDS = 5.0  # a server that takes longer to say that it is well is not well
_POLL_FIRST, _POLL_MOST = 0.05, 0.25  # between two probes of a server that is starting
_FOREIGN_SECONDS = 1.0  # how long we take it for granted that somebody else's server is still there
_SHORT_WAIT = 2.0  # a back-off that is longer is told to the client (`retry_after_ms`) instead of being waited for
_TAIL_SHOWN = 1200  # characters of its last words in an error message, which has 2,000

_log = structlog.get_logger(__name__)


class ModelServer:
    """The server of one backend.

    Args:
        launch: How to start it.
        endpoint: The backend's endpoint, for messages.
        probe: Whether the server answers on `launch.ready_path`. May raise `GatewayError` or `OSError` for "no".
        backend_id: For messages.
        folder: The config file's folder: the program's working directory, and where a relative path is looked up.
        backoff_base: Seconds before it is started again after a crash; doubled for each further one.
        backoff_max: The longest such wait.
        healthy_after: A server that ran for so many seconds was well: its crash is counted as the first.
    """

    def __init__(
        self,
        launch: Launch,
        endpoint: str,
        probe: Callable[[], Awaitable[bool]],
        *,
        backend_id: str,
        folder: Path,
        backoff_base: float = 0.5,
        backoff_max: float = 30.0,
        healthy_after: float = 60.0,
    ) -> None:
        self._launch = launch
        self._endpoint = endpoint
        self._probe = probe
        self._backend_id = backend_id
        self._folder = folder.absolute()
        self._backoff_base, self._backoff_max, self._healthy_after = backoff_base, backoff_max, healthy_after
        self._log = _log.bind(backend_id=backend_id, command=launch.command)
        self._redactor = Redactor()
        for value in launch.env.values():
            if len(value) >= 8:  # shorter ones are switches, and would be found inside of words
                self._redactor.learn(value)

        self._started: asyncio.Future[None] | None = None
        """The start that callers wait for: done while the server runs, with an exception after a failed start, None
        where nothing runs."""
        self._run: asyncio.Task[None] | None = None
        self._runs: set[asyncio.Task[None]] = set()  # one that is being stopped may overlap with the next
        self._foreign_seen_at: float | None = None
        self._failures = 0
        self._last_failure = ""
        self._not_before = 0.0
        self._users = 0
        self._idle: asyncio.TimerHandle | None = None
        self._closed = False

    # --- for the adapter ---

    async def start(self) -> None:
        """At the daemon's start: begins to start the server, unless it is one that stops when idle. Does not wait; a
        failure is logged, and told to those who call `ready`.
        """
        if self._launch.idle_stop_ms is None:
            self._begin()

    async def ready(self) -> None:
        """Returns once the server answers, and starts it if need be. All who wait share one start, which goes on where
        one of them is cancelled.

        Raises:
            GatewayError: `backend_transient`: it ended before it was ready, did not become ready in time, or crashed
                so often that it is not started again yet (`retry_after_ms`). `backend_permanent`: no such program.
        """
        if self._foreign_seen_at is not None and await self._foreign_still_there():
            return
        started = self._begin()
        if started.done() and started.exception() is None:
            return
        wait = self._not_before - asyncio.get_running_loop().time()
        if wait > _SHORT_WAIT:
            raise GatewayError(
                "backend_transient",
                f"started again in {wait:.0f} s, after failure {self._failures} in a row: {self._last_failure}",
                retryable=True,
                backend_id=self._backend_id,
                retry_after_ms=int(wait * 1000) + 1,
            )
        # Shielded, because a task that is cancelled cancels what it waits for, and others wait for it too.
        await asyncio.shield(started)

    @asynccontextmanager
    async def in_use(self) -> AsyncIterator[None]:
        """Around each request: the server does not stop for idleness while one is under way."""
        self._users += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None
        try:
            yield
        finally:
            self._users -= 1
            if self._users == 0 and self._launch.idle_stop_ms is not None and not self._closed:
                delay = self._launch.idle_stop_ms / 1000
                self._idle = asyncio.get_running_loop().call_later(delay, self._stop_idle)

    async def close(self) -> None:
        """Stops the server. Whoever still waits for it gets an error."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        for run in self._runs:
            run.cancel()
        if self._runs:
            await asyncio.wait(self._runs)

    # --- inside ---

    def _begin(self) -> asyncio.Future[None]:
        """The start that is under way or done, or a new one."""
        if self._closed:
            raise self._error("internal", "the daemon is stopping")
        if self._started is None or (self._started.done() and self._started.exception() is not None):
            self._started = asyncio.get_running_loop().create_future()
            self._started.add_done_callback(asyncio.Future.exception)  # seen, also where nobody waits for it
            self._run = asyncio.create_task(
                self._one_run(self._started, after=self._run), name=f"model server of {self._backend_id}"
            )
            self._runs.add(self._run)
            self._run.add_done_callback(self._runs.discard)
        return self._started

    async def _one_run(self, started: asyncio.Future[None], after: asyncio.Task[None] | None) -> None:
        """From one start to the end of the program. Cancelling it stops the program."""
        loop = asyncio.get_running_loop()
        failed = True
        try:
            if after is not None:
                # The one before may still be stopping; its dying server would look like somebody else's.
                await asyncio.wait([after])
            await asyncio.sleep(self._not_before - loop.time())
            if await self._answers():
                self._log.info("model_server_already_running", endpoint=self._endpoint)
                self._foreign_seen_at = loop.time()
                if self._started is started:
                    self._started = None
                started.set_result(None)
                failed = False
                return
            async with self._program() as child:
                ended = asyncio.ensure_future(child.wait())
                try:
                    await self._until_ready(child, ended)
                    ready_at = loop.time()
                    started.set_result(None)
                    await ended
                finally:
                    ended.cancel()
                if self._started is started:
                    self._started = (
                        None  # before the block is left, which takes time: from now on nobody is let through
                    )
                if loop.time() - ready_at >= self._healthy_after:
                    self._failures = 0
                self._failed(self._last_words(child, "crashed"))
        except GatewayError as error:
            if error.kind == "backend_permanent":
                failed = False
                self._log.error("model_server_failed", error=error.message)
            else:
                self._failed(error.message)
            started.set_exception(error)
        finally:
            if not started.done():  # stopped, or a mistake of ours, which the loop reports
                started.set_exception(self._error("backend_transient", "the model server was stopped while it started"))
        if failed and self._launch.idle_stop_ms is None and not self._closed:
            self._begin()  # one that is to be kept is started again without being asked

    def _program(self) -> ChildProcess:
        launch = self._launch
        command = launch.command
        try:
            program = find_program(str(self._folder / command) if "/" in command else command)
        except GatewayError as error:
            raise self._error("backend_permanent", f"launch.command: {error.message}") from error
        self._log.info("model_server_starting", program=program)
        return ChildProcess(program, launch.args, env=clean_environment(launch.env), cwd=self._folder)

    async def _until_ready(self, child: ChildProcess, ended: asyncio.Future[int]) -> None:
        loop = asyncio.get_running_loop()
        begun, pause = loop.time(), _POLL_FIRST
        deadline = begun + self._launch.ready_timeout_ms / 1000
        while True:
            await asyncio.wait([ended], timeout=min(pause, max(deadline - loop.time(), 0)))
            pause = min(pause * 1.5, _POLL_MOST)
            if ended.done():
                what = self._last_words(child, "ended before it was ready")
                break
            if await self._answers(deadline):
                self._log.info("model_server_ready", pid=child.pid, seconds=round(loop.time() - begun, 3))
                return
            if loop.time() >= deadline:
                limit = f"{self._launch.ready_timeout_ms} ms (launch.ready_timeout_ms)"
                what = self._last_words(child, f"did not answer on {self._launch.ready_path} within {limit}")
                break
        raise self._error("backend_transient", what)

    async def _answers(self, deadline: float | None = None) -> bool:
        latest = asyncio.get_running_loop().time() + _PROBE_SECONDS
        try:
            async with asyncio.timeout_at(latest if deadline is None else min(latest, deadline)):
                return await self._probe()
        except (GatewayError, OSError):  # of which TimeoutError is one
            return False

    async def _foreign_still_there(self) -> bool:
        loop = asyncio.get_running_loop()
        if self._foreign_seen_at is not None and loop.time() - self._foreign_seen_at < _FOREIGN_SECONDS:
            return True
        if await self._answers():
            self._foreign_seen_at = loop.time()
            return True
        self._foreign_seen_at = None
        return False

    def _failed(self, what: str) -> None:
        """Counts a crash or a failed start: the next one waits longer."""
        wait = min(self._backoff_base * 2**self._failures, self._backoff_max)
        self._not_before = asyncio.get_running_loop().time() + wait
        self._failures += 1
        self._last_failure = what
        self._log.error("model_server_failed", error=what, failures=self._failures, next_start_in=wait)

    def _last_words(self, child: ChildProcess, what: str) -> str:
        said = self._redactor.redact(child.stderr_tail)[-_TAIL_SHOWN:].strip()
        how = "" if child.returncode is None else f" ({child.ending})"
        return f"the model server {self._launch.command!r} {what}{how}" + (f"; it said: {said}" if said else "")

    def _error(self, kind: ErrorKind, message: str) -> GatewayError:
        return GatewayError(kind, message, retryable=kind == "backend_transient", backend_id=self._backend_id)

    def _stop_idle(self) -> None:
        self._idle = None
        self._foreign_seen_at = None
        if self._run is not None and not self._run.done():
            self._log.info("model_server_stopped_idle", idle_ms=self._launch.idle_stop_ms)
            self._started = None
            self._run.cancel()
