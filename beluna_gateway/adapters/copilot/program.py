"""The life of a backend's program: started on first use, shared by requests, watched, stopped.

    not running ──use()──► starting ──handshake──► running ──crash, kill──► (backoff) ──use()──► starting …
                              │                       └── idle_stop_ms, a new secret and nobody in it ──► stopped
                              └── failed ──► (backoff)

One program runs per backend. Only while a secret has changed there may be two: the old one ends with its last request,
the new one takes the requests that come.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import structlog

from ...errors import GatewayError, cut_off
from ...processes.child_process import ChildProcess, find_program
from ...telemetry.redaction import Redactor
from .json_rpc import again

# A program that has not come up by then is stuck. Requests stop waiting earlier (`connect_timeout_ms`); the start goes
# on, since the retry of a request that a slow start was too slow for wants just this program.
_START_SECONDS = 30.0
_BACKOFF_FIRST, _BACKOFF_MOST = 0.5, 30.0
_SHORT_WAIT = 2.0  # a longer back-off is told to the client (`retry_after_ms`) instead of being waited for

_LAST_WORDS_SECONDS = 1.0  # between the end of its output and its own
_TAIL_SHOWN = 1200  # characters of its last words in an error message, which has 2,000

CANCEL_GRACE_SECONDS = 2.0
"""How long a program may take to confirm that it has stopped working on a request. Then it is deaf, and is killed."""

_log = structlog.get_logger(__name__)


class Peer(Protocol):
    """What a running program offers."""

    async def ended(self) -> GatewayError:
        """Returns, with the reason, once the program has ended or cannot be talked to any more."""

    def fail(self, failure: GatewayError) -> None:
        """Ends every request under way with `failure`."""


P = TypeVar("P", bound=Peer)

Launch = Callable[[str | None], AbstractAsyncContextManager[P]]
"""Starts the program with a secret, or none, and does the handshake; stops it on leaving."""


class Run(Generic[P]):
    """One run of the program."""

    def __init__(self, secret: str | None) -> None:
        loop = asyncio.get_running_loop()
        self.secret = secret
        self.users = 0  # requests in it, and those whose end it has still to confirm
        self.stopping: asyncio.Future[GatewayError | None] = loop.create_future()
        self.started: asyncio.Future[P] = loop.create_future()
        # Seen, also where nobody waits any more.
        self.started.add_done_callback(lambda future: future.cancelled() or future.exception())

    @property
    def peer(self) -> P:
        """What the program offers; only once it has started."""
        return self.started.result()

    def stop(self, failure: GatewayError | None) -> None:
        """Ends this run; requests in it, if there are any, fail with `failure`."""
        if not self.stopping.done():
            self.stopping.set_result(failure)


class CopilotProgram(Generic[P]):
    """The program of one backend.

    Args:
        launch: How to start it.
        name: For messages.
        idle_stop_ms: Stop it after so long without a request; None keeps it.
    """

    def __init__(self, launch: Launch[P], *, name: str, idle_stop_ms: int | None) -> None:
        self._launch = launch
        self._name = name
        self._idle_stop_ms = idle_stop_ms
        self._redactor = Redactor()
        self._secret: str | None = None
        self._run: Run[P] | None = None
        self._alive: dict[Run[P], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # those, and the ends of requests
        self._idle: asyncio.TimerHandle | None = None
        self._failures = 0
        self._last_failure: GatewayError | None = None
        self._not_before = 0.0
        self._closed = False

    # --- for requests ---

    def take_secret(self, secret: str | None) -> None:
        """The newest secret for the program's environment. One that was started with another gets no new requests."""
        self._secret = secret
        self.keep_quiet_about(secret)

    def keep_quiet_about(self, secret: str | None) -> None:
        """`secret` is taken out of what the program says in errors and logs."""
        if secret is not None:
            self._redactor.learn(secret)

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Run[P]]:
        """A running program, for as long as the block lasts.

        Raises:
            GatewayError: `backend_transient`: it could not be started, or crashed so often that it is not started
                again yet (`retry_after_ms`). `backend_permanent`: there is no such program.
        """
        run = self._current()
        self.hold(run)
        try:
            # Shielded: a task that is cancelled cancels what it waits for, and others wait for it too.
            try:
                await asyncio.shield(run.started)
            except GatewayError as error:
                raise again(error) from error
            yield run
        finally:
            self.release(run)

    def hold(self, run: Run[P]) -> None:
        """Counts one more user, so that the program is not stopped for idleness."""
        run.users += 1
        if self._idle is not None:
            self._idle.cancel()
            self._idle = None

    def release(self, run: Run[P]) -> None:
        """The counterpart of `hold`."""
        run.users -= 1
        if run.users > 0 or run.stopping.done() or self._closed:
            return
        if run is not self._run or run.secret != self._secret:
            run.stop(None)
        elif self._idle_stop_ms is not None and run.started.done():
            self._idle = asyncio.get_running_loop().call_later(self._idle_stop_ms / 1000, run.stop, None)

    def served(self) -> None:
        """A request was answered: the program is well, and its next crash is counted as the first."""
        self._failures = 0

    def confirm(self, run: Run[P], confirmed: Coroutine[None, None, None]) -> None:
        """Lets the program confirm, in its own time, that it has stopped working on a request; kills a deaf one.

        Leaving an attempt does not wait for this: the client and the next request are not held up by it.
        """
        self.hold(run)
        task = self._spawn(self._confirm(run, confirmed), f"{self._name}: end of a request")
        # Here and not inside: a task that is cancelled before its first step never enters its body.
        task.add_done_callback(lambda _: confirmed.close())
        task.add_done_callback(lambda _: self.release(run))

    async def last_words(self, child: ChildProcess) -> GatewayError:
        """The failure of a program that has closed its output: how it ended, and the last that it had to say."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_LAST_WORDS_SECONDS):
                await child.wait()
        how = child.ending if child.returncode is not None else "it closed its output"
        said = self._redactor.redact(child.stderr_tail)[-_TAIL_SHOWN:].strip()
        return cut_off(f"{self._name} ended ({how})" + (f"; it said: {said}" if said else ""))

    async def close(self) -> None:
        """Stops the program and waits for its end."""
        self._closed = True
        if self._idle is not None:
            self._idle.cancel()
        for run, task in self._alive.items():
            run.stop(_stopping())
            if not run.started.done():
                task.cancel()
        while self._tasks:
            await asyncio.wait(self._tasks)

    # --- inside ---

    def _current(self) -> Run[P]:
        if self._closed:
            raise _stopping()
        run = self._run
        if run is not None and run.secret != self._secret and not run.stopping.done():
            _log.info("copilot_program_replaced", program=self._name, reason="its credential has changed")
            if run.users == 0:
                run.stop(None)
            run = None
        if run is None or run.stopping.done():
            wait = self._not_before - asyncio.get_running_loop().time()
            if wait > _SHORT_WAIT:
                reason = self._last_failure.message if self._last_failure is not None else ""
                raise GatewayError(
                    "backend_transient",
                    f"started again in {wait:.0f} s, after failure {self._failures} in a row: {reason}",
                    retryable=True,
                    retry_after_ms=int(wait * 1000) + 1,
                )
            run = self._run = Run(self._secret)
            self._alive[run] = self._spawn(self._live(run), f"{self._name}: program")
            self._alive[run].add_done_callback(partial(self._dead, run))
        return run

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _live(self, run: Run[P]) -> None:
        """From one start to the end of the program, in one task that owns it."""
        try:
            await asyncio.sleep(self._not_before - asyncio.get_running_loop().time())
            async with asyncio.timeout(_START_SECONDS) as limit, self._launch(run.secret) as peer:
                limit.reschedule(None)
                run.started.set_result(peer)
                failure = await self._watch(run, peer)
        except GatewayError as error:
            failure = error
        except TimeoutError:
            failure = GatewayError(
                "backend_transient", f"{self._name} did not come up in {_START_SECONDS:.0f} s", retryable=True
            )
        run.stop(None)  # before whoever waits looks for a new one
        if failure is not None and not self._closed:
            self._failed(failure)
        if not run.started.done():
            run.started.set_exception(failure or _stopping())

    def _dead(self, run: Run[P], _: asyncio.Task[None]) -> None:
        # Also for a task of `close` that was cancelled before its first step, or a mistake of ours in it.
        run.stop(None)
        if not run.started.done():
            run.started.set_exception(_stopping())
        del self._alive[run]

    async def _watch(self, run: Run[P], peer: P) -> GatewayError | None:
        """Why the program ended; None where we wanted it to."""
        ended = asyncio.create_task(peer.ended(), name=f"{self._name}: watch")
        try:
            await asyncio.wait((ended, run.stopping), return_when=asyncio.FIRST_COMPLETED)
            failure = run.stopping.result() if run.stopping.done() else ended.result()
            run.stop(None)  # first: a request that fails may be tried again at once, and not in here
            if failure is not None:
                peer.fail(failure)
            return failure
        finally:
            ended.cancel()
            with suppress(asyncio.CancelledError):
                await ended

    async def _confirm(self, run: Run[P], confirmed: Coroutine[None, None, None]) -> None:
        try:
            async with asyncio.timeout(CANCEL_GRACE_SECONDS):
                await confirmed
        except TimeoutError:
            _log.warning("copilot_program_deaf", program=self._name, seconds=CANCEL_GRACE_SECONDS)
            run.stop(
                GatewayError(
                    "backend_transient",
                    f"{self._name} was killed: it did not react to a cancellation for {CANCEL_GRACE_SECONDS:.0f} s",
                    retryable=True,
                )
            )

    def _failed(self, failure: GatewayError) -> None:
        """Counts a crash, a kill or a failed start. The first is forgiven, each further one doubles the wait."""
        self._last_failure = failure
        wait = min(_BACKOFF_FIRST * 2 ** (self._failures - 1), _BACKOFF_MOST) if self._failures else 0.0
        self._failures += 1
        self._not_before = asyncio.get_running_loop().time() + wait
        _log.warning(
            "copilot_program_failed", program=self._name, error=failure.message, failures=self._failures, wait=wait
        )


def program_path(command: str, folder: Path) -> str:
    """`copilot.command` as a path: relative ones are looked up in the config file's folder.

    Raises:
        GatewayError: `backend_permanent`: there is no such program.
    """
    try:
        return find_program(str(folder.absolute() / command) if "/" in command else command)
    except GatewayError as error:
        raise GatewayError(error.kind, f"copilot.command: {error.message}") from error


def _stopping() -> GatewayError:
    return GatewayError("internal", "the daemon is stopping")
