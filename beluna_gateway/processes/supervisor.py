"""One supervised program: started on first use, shared by requests, watched, restarted with backoff, stopped.

    not running ──use()──► starting ──ready──► running ──crash, kill──► (backoff) ──use()──► starting …
                              │                   └── idle, or another secret and no user ──► stopped
                              └── failed ──► (backoff)

How a program is started, and when it counts as ready, is its owner's: a `Launch`. Model servers and GitHub Copilot's
programs are both run by this.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from dataclasses import dataclass
from functools import partial
from traceback import format_exception
from typing import Generic, Protocol, TypeVar

import structlog

from ..errors import GatewayError, cut_off
from ..telemetry.redaction import Redactor
from ..telemetry.service import ProgramState, ProgramStatus
from .child_process import ChildProcess

MAX_WAIT_SECONDS = 2.0
"""A longer backoff is reported to the client (`retry_after_ms`) instead of being waited for."""

CANCEL_GRACE_SECONDS = 2.0
"""How long a program has to confirm that it has stopped working on a request. After that it is killed."""

_EXIT_SECONDS = 1.0  # between the end of a program's output and its exit
_TAIL_CHARACTERS = 1200  # of its standard error in an error message, which has 2,000

_log = structlog.get_logger(__name__)


class Peer(Protocol):
    """A running program, as its owner talks to it."""

    async def ended(self) -> GatewayError:
        """Returns the reason once the program has ended or cannot be talked to any more."""

    def fail(self, failure: GatewayError) -> None:
        """Ends every request in the program with `failure`."""


P = TypeVar("P", bound=Peer)

Launch = Callable[[str | None], AbstractAsyncContextManager[P]]
"""Starts the program with a secret, or none, and enters its block when the program is ready; leaving stops it.

May raise `GatewayError`: `backend_permanent` where another start cannot help, which is not counted as a failure.
"""


@dataclass(frozen=True, slots=True)
class RestartPolicy:
    """When a program that failed is started again.

    The first failure in a row is not waited for; after each further one the wait doubles.

    Args:
        first_seconds: The wait after the second failure in a row.
        max_seconds: The longest wait.
        healthy_seconds: A program that ran for so long was healthy: its next failure is counted as the first.
        keep: It is started again without being asked.
        one_at_a_time: A start waits for the end of the run before it.
    """

    first_seconds: float = 0.5
    max_seconds: float = 30.0
    healthy_seconds: float = 60.0
    keep: bool = False
    one_at_a_time: bool = False

    def wait_seconds(self, failures: int) -> float:
        """The wait after so many failures in a row."""
        if failures < 2:
            return 0.0
        # The exponent is bounded: a float ends at 2 to the power of 1024.
        return min(self.first_seconds * 2.0 ** min(failures - 2, 64), self.max_seconds)


class Run(Generic[P]):
    """One run of the program."""

    def __init__(self, secret: str | None, previous: asyncio.Task[None] | None) -> None:
        loop = asyncio.get_running_loop()
        self.secret = secret
        self.previous = previous
        """The task of the run before, until it has ended."""
        self.users = 0
        """Requests in it, and those whose cancellation it has still to confirm."""
        self.stopping: asyncio.Future[GatewayError | None] = loop.create_future()
        self.started: asyncio.Future[P] = loop.create_future()
        # Marks the exception as retrieved, also where nobody waits any more.
        self.started.add_done_callback(lambda future: future.cancelled() or future.exception())

    @property
    def peer(self) -> P:
        """The running program; only once it has started."""
        return self.started.result()

    def stop(self, failure: GatewayError | None) -> None:
        """Ends this run; requests in it fail with `failure`, where it is one."""
        if not self.stopping.done():
            self.stopping.set_result(failure)


class Supervisor(Generic[P]):
    """The program of one backend.

    One program runs per backend. Only while a secret has changed there may be two: the old one ends with its last
    request, the new one takes the requests that come.

    Args:
        launch: How to start it.
        name: For messages, for example ``the model server 'llama-server'``.
        idle_stop_ms: Stop it after so long without a request; None keeps it.
        start_seconds: The longest start; None where `launch` has a limit of its own. Requests may stop waiting earlier
            (`connect_timeout_ms`); the start goes on, for the retry of such a request needs just this program.
        policy: When it is started again.
    """

    def __init__(
        self,
        launch: Launch[P],
        *,
        name: str,
        idle_stop_ms: int | None,
        start_seconds: float | None = 30.0,
        policy: RestartPolicy | None = None,
    ) -> None:
        self._launch = launch
        self._name = name
        self._idle_stop_ms = idle_stop_ms
        self._start_seconds = start_seconds
        self._policy = policy or RestartPolicy()
        self._redactor = Redactor()
        self._secret: str | None = None
        self._run: Run[P] | None = None
        self._alive: dict[Run[P], asyncio.Task[None]] = {}
        self._tasks: set[asyncio.Task[None]] = set()  # those, and the confirmations of cancelled requests
        self._idle: asyncio.TimerHandle | None = None
        self._failures = 0
        self._starts = 0
        self._last_failure = ""
        self._not_before = 0.0
        self._closed = False

    @property
    def status(self) -> ProgramStatus:
        """The current run's state, and how often the program was started."""
        return ProgramStatus(self._state(), self._starts)

    # --- for requests ---

    def take_secret(self, secret: str | None) -> None:
        """The newest secret for the program's environment. A run with another one gets no new requests."""
        self._secret = secret
        self.keep_quiet_about(secret)

    def keep_quiet_about(self, secret: str | None) -> None:
        """`secret` is removed from the program's output where errors and logs quote it."""
        if secret is not None:
            self._redactor.learn(secret)

    def begin(self) -> Run[P]:
        """The current run, or a new one that starts in the background.

        Raises:
            GatewayError: `internal` after `close`; `backend_transient` with `retry_after_ms` where the program failed
                so often that it is not started again yet.
        """
        if self._closed:
            raise _stopping()
        run = self._run
        if run is not None and run.secret != self._secret and not run.stopping.done():
            _log.info("program_replaced", program=self._name, reason="its credential has changed")
            if run.users == 0:
                run.stop(None)
            run = None
        if run is None or not run.started.done() or run.stopping.done():
            self._refuse_during_backoff()
        if run is None or run.stopping.done():
            run = self._start()
        return run

    @asynccontextmanager
    async def use(self) -> AsyncIterator[Run[P]]:
        """A running program, for as long as the block lasts. All who wait share one start, which goes on where one of
        them is cancelled.

        Raises:
            GatewayError: As `begin`, or why the start failed.
        """
        run = self.begin()
        self.hold(run)
        try:
            try:
                # Shielded: a task that is cancelled cancels what it waits for, and others wait for it too.
                await asyncio.shield(run.started)
            except GatewayError as error:
                raise error.replace() from error  # a copy for each request
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
        self._unused(run)

    def served(self) -> None:
        """A request was answered: the program is healthy, and its next failure is counted as the first."""
        self._failures = 0

    def stop_run(self) -> None:
        """Ends the current run, whoever uses it; the next request gets another one."""
        if self._run is not None:
            self._run.stop(None)

    def confirm(self, run: Run[P], confirmed: Coroutine[None, None, None]) -> None:
        """Lets the program confirm, in the background, that it has stopped working on a request; kills it where it does
        not react.

        Leaving an attempt does not wait for this: the client and the next request are not held up by it.
        """
        self.hold(run)
        task = self._spawn(self._confirm(run, confirmed), f"{self._name}: end of a request")
        # Here and not inside: a task that is cancelled before its first step never enters its body.
        task.add_done_callback(lambda _: confirmed.close())
        task.add_done_callback(lambda _: self.release(run))

    async def output_ended(self, child: ChildProcess) -> GatewayError:
        """The failure of a program that has closed its output; waits up to a second for its exit status."""
        with suppress(TimeoutError):
            async with asyncio.timeout(_EXIT_SECONDS):
                await child.wait()
        return self.failure(child, "ended" if child.returncode is not None else "ended (it closed its output)")

    def failure(self, child: ChildProcess, what: str) -> GatewayError:
        """The failure of a program: `what` happened, how it exited, and the end of its standard error, redacted."""
        how = f" ({child.ending})" if child.returncode is not None else ""
        said = self._redactor.redact(child.stderr_tail)[-_TAIL_CHARACTERS:].strip()
        return cut_off(f"{self._name} {what}{how}" + (f"; it said: {said}" if said else ""))

    async def close(self) -> None:
        """Stops the program and waits for its end. Requests in it, and those that wait for it, fail."""
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

    def _state(self) -> ProgramState:
        run = self._run
        over = run is None or run.stopping.done()
        if run is not None and not over and run.started.done():
            return "running"
        if not self._closed and self._not_before > asyncio.get_running_loop().time():
            return "waiting"
        return "stopped" if over else "starting"

    def _refuse_during_backoff(self) -> None:
        wait = self._not_before - asyncio.get_running_loop().time()
        if wait > MAX_WAIT_SECONDS:
            raise GatewayError(
                "backend_transient",
                f"started again in {wait:.0f} s, after failure {self._failures} in a row: {self._last_failure}",
                retryable=True,
                retry_after_ms=int(wait * 1000) + 1,
            )

    def _start(self) -> Run[P]:
        previous = None if self._run is None else self._alive.get(self._run)
        run = self._run = Run(self._secret, previous if self._policy.one_at_a_time else None)
        self._alive[run] = self._spawn(self._live(run), f"{self._name}: program")
        self._alive[run].add_done_callback(partial(self._ended, run))
        return run

    def _unused(self, run: Run[P]) -> None:
        """Stops a run that nobody uses and nobody will, and starts the idle timer of another."""
        if run.users > 0 or run.stopping.done() or self._closed:
            return
        if run is not self._run or run.secret != self._secret:
            run.stop(None)
        elif self._idle_stop_ms is not None and run.started.done():
            self._idle = asyncio.get_running_loop().call_later(self._idle_stop_ms / 1000, self._stop_idle, run)

    def _stop_idle(self, run: Run[P]) -> None:
        self._idle = None
        _log.info("program_stopped_idle", program=self._name, idle_ms=self._idle_stop_ms)
        run.stop(None)

    def _spawn(self, coroutine: Coroutine[None, None, None], name: str) -> asyncio.Task[None]:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _live(self, run: Run[P]) -> None:
        """From one start to the end of the program, in one task that owns it."""
        loop = asyncio.get_running_loop()
        try:
            if run.previous is not None:
                await asyncio.wait([run.previous])
            run.previous = None
            await asyncio.sleep(self._not_before - loop.time())
            self._starts += 1
            async with asyncio.timeout(self._start_seconds) as limit, self._launch(run.secret) as peer:
                limit.reschedule(None)
                run.started.set_result(peer)
                self._unused(run)
                started_at = loop.time()
                failure = await self._watch(run, peer)
                if loop.time() - started_at >= self._policy.healthy_seconds:
                    self._failures = 0
        except GatewayError as error:
            failure = error
        except TimeoutError:
            failure = GatewayError(
                "backend_transient", f"{self._name} did not start within {self._start_seconds:.0f} s", retryable=True
            )
        except Exception as error:  # noqa: BLE001 - whoever waits is told of a bug, too
            told = self._redactor.redact("".join(format_exception(error)))  # without local variables: secrets are there
            _log.error("bug in a program's supervision", program=self._name, exception=told)
            failure = GatewayError("internal", f"a bug in the gateway: {error!r}")
        run.stop(None)  # before whoever waits looks for a new one
        if failure is not None and not self._closed:
            self._failed(failure)
            if self._policy.keep and self._run is run and failure.kind != "backend_permanent":
                self._start()
        if not run.started.done():
            run.started.set_exception(failure or _stopping())

    def _ended(self, run: Run[P], _: asyncio.Task[None]) -> None:
        # Also for a task of `close` that was cancelled before its first step, or a bug in it.
        run.stop(None)
        if not run.started.done():
            run.started.set_exception(_stopping())
        del self._alive[run]

    async def _watch(self, run: Run[P], peer: P) -> GatewayError | None:
        """Why the program ended; None where it was stopped on purpose."""
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
            _log.warning("program_unresponsive", program=self._name, seconds=CANCEL_GRACE_SECONDS)
            run.stop(
                GatewayError(
                    "backend_transient",
                    f"{self._name} was killed: it did not react to a cancellation for {CANCEL_GRACE_SECONDS:.0f} s",
                    retryable=True,
                )
            )

    def _failed(self, failure: GatewayError) -> None:
        """Counts a crash, a kill or a failed start: the next start may have to wait."""
        if failure.kind == "backend_permanent":
            _log.error("program_failed", program=self._name, error=failure.message)
            return
        self._failures += 1
        self._last_failure = failure.message
        wait = self._policy.wait_seconds(self._failures)
        self._not_before = asyncio.get_running_loop().time() + wait
        _log.warning(
            "program_failed", program=self._name, error=failure.message, failures=self._failures, next_start_in=wait
        )


def _stopping() -> GatewayError:
    return GatewayError("internal", "the daemon is stopping", retryable=True)
