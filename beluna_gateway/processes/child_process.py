"""Child processes of the daemon: started, watched and stopped with all their descendants.

    async with ChildProcess(find_program("llama-server"), ["--port", "8080"], env=clean_environment({})) as child:
        status = await child.wait()

What is covered. Between the daemon and the program stands `child_guard.py`, a small process which adopts the
program's orphans. When the block is left, and when the daemon dies however it dies (kill -9, a crash, out of memory),
the program and every descendant of it are killed, also those that moved to a process group or session of their own.
The guard costs 15 ms at the start and 4 MB.

What is not covered. If somebody kills the guard itself with SIGKILL, only the program dies with it, and its children
stay. A kernel without /proc/PID/children leaves descendants that left the program's process group. What the program
asked others to run (systemd, Docker, cron) is not its descendant. The kernel takes the end of the *thread* that
started the program for the daemon's end: start programs from a loop that runs as long as they are needed.

Why not `preexec_fn`: it runs Python between fork and exec of a process that has threads, which can deadlock, and
PR_SET_PDEATHSIG alone reaches the program but not its children.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from asyncio.subprocess import SubprocessStreamProtocol
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, cast

import structlog

from ..errors import GatewayError

_GUARD = str(Path(__file__).with_name("child_guard.py"))

# How long to wait after SIGKILL. A program can hang in the kernel (a dead network disk); the daemon goes on.
_KILL_WAIT_SECONDS = 5.0

_log = structlog.get_logger(__name__)


# --- before the start ----------------------------------------------------------------------------------------

# Variables that programs need and that hold no secret. Not *_PROXY, whose URL may hold a password.
_HARMLESS = frozenset(
    {
        *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "TZ", "LANG", "LANGUAGE", "TMPDIR", "LD_LIBRARY_PATH"),
        *("XDG_RUNTIME_DIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME", "XDG_DATA_HOME", "XDG_STATE_HOME"),
        *("SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS", "CUDA_VISIBLE_DEVICES", "VIRTUAL_ENV"),
    }
)


def clean_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """The part of the daemon's environment that holds no secret, and `extra` over it. Other variables may hold keys of
    other backends: a program gets only those that its configuration names.
    """
    ours = {name: value for name, value in os.environ.items() if name in _HARMLESS or name.startswith("LC_")}
    return ours | dict(extra)


def find_program(command: str) -> str:
    """The path of `command`: itself where it has a slash, else a program beside this Python (installed by pip with
    the gateway), else one in PATH.

    Raises:
        GatewayError: `backend_permanent`, naming the command: there is no such program, or it may not be run.
    """
    if "/" in command:
        if os.access(command, os.X_OK) and not Path(command).is_dir():
            return command
        what = "is not executable" if Path(command).exists() else "does not exist"
        raise GatewayError("backend_permanent", f"the program {command} {what}")
    # Not resolved: in a venv the Python is a link, and its neighbours are the venv's.
    beside = str(Path(sys.executable).parent)
    found = shutil.which(command, path=beside) or shutil.which(command)
    if found is None:
        raise GatewayError(
            "backend_permanent",
            f"the program {command!r} is not installed: it is neither in {beside} nor in PATH. Install it, or give its "
            "path",
        )
    return found


def configured_program(command: str, folder: Path, setting: str) -> str:
    """The path of a `command` of the configuration: a relative path is looked up in the config file's folder.

    Raises:
        GatewayError: As `find_program`, naming the setting.
    """
    try:
        return find_program(str(folder.absolute() / command) if "/" in command else command)
    except GatewayError as error:
        hint = "; it holds a space: if what follows are arguments, they belong into `args`" if " " in command else ""
        raise error.replace(message=f"{setting}: {error.message}{hint}") from error


# --- running -------------------------------------------------------------------------------------------------


class _Protocol(SubprocessStreamProtocol):
    """Events for the exit of the program and for the end of all its pipes."""

    def __init__(self, limit: int, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=limit, loop=loop)
        self.exited = asyncio.Event()
        self.closed = asyncio.Event()

    def process_exited(self) -> None:
        super().process_exited()
        self.exited.set()

    def connection_lost(self, exc: Exception | None) -> None:
        super().connection_lost(exc)
        self.closed.set()


@dataclass(frozen=True, slots=True)
class _Run:
    transport: asyncio.SubprocessTransport
    protocol: _Protocol
    draining: asyncio.Task[None]
    """Reads standard error to its end."""


class ChildProcess:
    """One run of a program: started on entry, stopped on exit of the `async with` block.

    Args:
        program: Its path, as `find_program` gives it.
        args: Its arguments, without the program itself.
        env: The whole environment; see `clean_environment`.
        cwd: Its working directory; ours if None.
        stdin: Whether to open a pipe to its standard input, which is empty otherwise.
        stdout: Whether to open a pipe from its standard output, which is discarded otherwise.
        limit: The buffer of `stdout`: the program waits while twice as much is unread.
        stop_after: Seconds between SIGTERM and SIGKILL.
        stderr_tail: How many bytes of its standard error are kept. It is always read, so it never blocks the program.
    """

    def __init__(
        self,
        program: str,
        args: Sequence[str] = (),
        *,
        env: Mapping[str, str],
        cwd: Path | None = None,
        stdin: bool = False,
        stdout: bool = False,
        limit: int = 64 * 1024,
        stop_after: float = 2.0,
        stderr_tail: int = 8 * 1024,
    ) -> None:
        self._program = program
        self._args = tuple(args)
        self._env = dict(env)
        self._cwd = cwd
        self._pipes = (stdin, stdout)
        self._limit = limit
        self._stop_after = stop_after
        self._tail = bytearray()
        self._tail_limit = stderr_tail
        self._run: _Run | None = None

    async def __aenter__(self) -> Self:
        """Starts the program.

        Raises:
            GatewayError: `backend_transient`: the system has no process or memory left for it.
        """
        starting = asyncio.ensure_future(self._start())
        try:
            await asyncio.shield(starting)
        except asyncio.CancelledError:
            # Cancelled, perhaps between the fork and the event loop's record of it: wait for the start, then stop.
            await asyncio.wait([starting])
            if not starting.cancelled() and starting.exception() is None:
                await self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    # --- while it runs ---

    @property
    def pid(self) -> int:
        """The process to name in logs: the guard's, whose child is the program."""
        return self._running().transport.get_pid()

    @property
    def stdin(self) -> asyncio.StreamWriter:
        """The pipe to the program; only with `stdin=True`."""
        return cast("asyncio.StreamWriter", self._running().protocol.stdin)

    @property
    def stdout(self) -> asyncio.StreamReader:
        """The pipe from the program; only with `stdout=True`."""
        return cast("asyncio.StreamReader", self._running().protocol.stdout)

    @property
    def returncode(self) -> int | None:
        """None while it runs; then its exit status, or the negative number of the signal that ended it."""
        return self._running().transport.get_returncode()

    @property
    def ending(self) -> str:
        """How it ended, in words: `exit status 1`, `killed by SIGSEGV`; `still running` before."""
        code = self.returncode
        if code is None:
            return "still running"
        return f"exit status {code}" if code >= 0 else f"killed by {_signal_name(-code)}"

    @property
    def stderr_tail(self) -> str:
        """The last of what it wrote to its standard error."""
        return self._tail.decode("utf-8", "replace").strip()

    async def wait(self) -> int:
        """Its `returncode`, once it has ended and its standard error has been read. Any number of tasks may wait."""
        run = self._running()
        await run.protocol.exited.wait()
        await asyncio.wait([run.draining], timeout=1.0)
        return cast("int", self.returncode)

    async def stop(self) -> None:
        """SIGTERM to the program's process group, SIGKILL after `stop_after` seconds, and everything closed.

        May be called again, also at the same time. A task that is cancelled in here kills at once, sees the end, and is
        cancelled then: it leaves nothing behind.
        """
        run = self._running()
        cancelled: asyncio.CancelledError | None = None
        for order, patience in (
            (signal.SIGTERM, self._stop_after),
            (signal.SIGUSR1, _KILL_WAIT_SECONDS),  # the guard kills all
            (signal.SIGKILL, _KILL_WAIT_SECONDS),  # the guard does not react
        ):
            if run.protocol.exited.is_set():
                break
            with suppress(ProcessLookupError):
                # Not by asyncio's transport: it would look first whether the process has ended, and so take its exit
                # status from the thread that waits for it.
                os.kill(self.pid, order)
            try:
                async with asyncio.timeout(patience):
                    await run.protocol.exited.wait()
            except TimeoutError:
                continue
            except asyncio.CancelledError as error:
                cancelled = error
        run.transport.close()  # also where unread output keeps a pipe open
        if run.protocol.exited.is_set():
            # All its descendants are gone and so are the other ends of the pipes: this takes a few turns of the loop.
            while not (run.protocol.closed.is_set() and run.draining.done()):
                try:
                    await run.protocol.closed.wait()
                    await asyncio.wait([run.draining])
                except asyncio.CancelledError as error:
                    cancelled = error
        else:
            _log.error("child_process_hangs", program=self._program, pid=self.pid)
        if cancelled is not None:
            raise cancelled

    # --- inside ---

    async def _start(self) -> None:
        loop = asyncio.get_running_loop()
        stdin, stdout = (subprocess.PIPE if pipe else subprocess.DEVNULL for pipe in self._pipes)
        try:
            transport, protocol = await loop.subprocess_exec(
                lambda: _Protocol(self._limit, loop),
                sys.executable,
                *("-I", "-S", _GUARD, str(os.getpid()), self._program),
                *self._args,
                stdin=stdin,
                stdout=stdout,
                stderr=subprocess.PIPE,
                env=self._env,
                cwd=self._cwd,
                start_new_session=True,  # Ctrl-C in the terminal goes to the daemon only, which stops programs in order
            )
        except OSError as error:
            raise GatewayError(
                "backend_transient", f"cannot start {self._program}: {error.strerror}", retryable=True
            ) from error
        draining = asyncio.create_task(self._drain(protocol.stderr), name=f"stderr of {self._program}")
        self._run = _Run(transport, protocol, draining)

    async def _drain(self, stderr: asyncio.StreamReader | None) -> None:
        while stderr is not None and (chunk := await stderr.read(64 * 1024)):
            self._tail += chunk
            del self._tail[: -self._tail_limit]

    def _running(self) -> _Run:
        if self._run is None:
            raise RuntimeError("a ChildProcess runs only inside its `async with` block")
        return self._run


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"  # a real-time signal
