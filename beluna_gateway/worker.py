"""A thread for large frames and answers: decoding one, checking it and encoding it would hold up the event loop.

Python code in a thread gives others their turn every half millisecond (`SWITCH_SECONDS`), C code does not: what it does
with large values is done in pieces (`wire.json_pieces`), and the garbage collector, whose full run over the values of
8 MB takes 0.2 s, does not run and never looks at them.

Measured with 8 MB of the worst frames: the figures are in docs/reliability.md. A process of its own would free the
daemon of all this, but takes 53 MB, 0.4 s to start, and a copy of the configuration, of the dialects and of every
reload; pieces in the event loop's own thread would need each dialect's encoder to be written as a generator.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from .errors import GatewayError, forget_frames
from .wire import json_pieces

SWITCH_SECONDS = 0.0005
"""How long the thread may run while the event loop waits for its turn; 5 ms is Python's own."""

IDLE_SECONDS = 1.0
"""So long after the last large frame a full collection looks for what was set aside with it. It takes 20 ms."""

THAW_SECONDS = 60.0
"""So often it does at the latest, also while large frames keep coming: it takes up to 0.2 s then, but what failed
requests leave in reference cycles, with their bodies, would add up for as long as they do."""

_Result = TypeVar("_Result")


class Worker:
    """One thread, started by the first large value; those of all clients are served in order of arrival."""

    def __init__(self) -> None:
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._thawed_at = time.monotonic()
        self._frozen = False
        self.alive = 0
        """Large values that are not freed yet."""

    def close(self) -> None:
        """Ends the thread after the job that it has; does not wait for it."""
        if self._thread is not None:
            self._jobs.put(None)

    async def run(self, function: Callable[[], _Result]) -> _Result:
        """What `function` gives, in the thread. Cancelling ends the work at the next piece."""
        job = _Job(function)
        self.submit(job)
        try:
            result: _Result = await job.done
        except asyncio.CancelledError:
            job.abandoned = True
            raise
        return result

    def submit(self, job: _Job) -> None:
        """Has `job` done after those before it."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="large frames", daemon=True)
            self._thread.start()
        self._jobs.put(job)

    def _run(self) -> None:
        while (job := self._next_job()) is not None:
            before, collecting = sys.getswitchinterval(), gc.isenabled()
            sys.setswitchinterval(SWITCH_SECONDS)
            gc.disable()
            try:
                with json_pieces.in_pieces(job.pause):
                    job.run()
            finally:
                del job
                # What has been made would be looked at by the next collection; so it is set aside, for as long as it
                # lives. It is freed by its reference counts; `_thaw` finds cycles that were set aside with it.
                if time.monotonic() - self._thawed_at > THAW_SECONDS:
                    self._thaw()
                gc.freeze()
                self._frozen = True
                if collecting:
                    gc.enable()
                sys.setswitchinterval(before)

    def _next_job(self) -> _Job | None:
        while self._frozen and self.alive == 0:
            try:
                return self._jobs.get(timeout=IDLE_SECONDS)
            except Empty:
                self._thaw()
        return self._jobs.get()

    def _thaw(self) -> None:
        self._thawed_at = time.monotonic()
        self._frozen = False
        gc.unfreeze()
        gc.collect()
        gc.freeze()  # what was set aside at the daemon's start: modules, which stay


class _Abandoned(BaseException):
    """Nobody waits for the job any more."""


class _Job:
    """A function for the thread. Its exceptions keep none of the values that it worked on."""

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._loop = asyncio.get_running_loop()
        self.done = self._loop.create_future()
        self.abandoned = False

    def pause(self) -> None:
        if self.abandoned:
            raise _Abandoned

    def run(self) -> None:
        function, result, error = self._function, None, None
        del self._function
        try:
            self.pause()
            result = function()
        except BaseException as raised:  # noqa: BLE001 - it is raised again where the result is waited for
            error = raised
            if isinstance(error, GatewayError):
                forget_frames(error)
                error.__context__ = error.__cause__ = None
        with suppress(RuntimeError):  # the loop is closed
            self._loop.call_soon_threadsafe(self._deliver, result, error)

    def _deliver(self, result: Any, error: BaseException | None) -> None:
        if self.done.cancelled():
            return
        if error is not None:
            self.done.set_exception(error)
        else:
            self.done.set_result(result)


def value_of(frame: Any) -> Any:
    """The frame itself, also of a large one."""
    return frame.value if type(frame) is Large else frame


class Large:
    """A large value on its way: each `step` makes another one of it, in the thread, and frees the one before there."""

    def __init__(self, worker: Worker, value: Any) -> None:
        self._worker = worker
        self._closed = False
        self.value: Any = value
        worker.alive += 1

    async def step(self, function: Callable[[Any], Any]) -> None:
        """Replaces the value by what `function` makes of it. After an exception there is no value.

        Cancelling ends the work at the next piece, and frees the value.
        """

        def work() -> None:
            before = [self.value]
            self.value = None
            try:
                self.value = function(before[0])
            finally:
                json_pieces.free(before)

        await self._worker.run(work)

    async def use(self, function: Callable[[], _Result]) -> _Result:
        """What `function` returns, called in the thread. The value, or what it is made of, stays."""
        return await self._worker.run(function)

    def close(self) -> None:
        """Frees the value, in the thread. Whoever else holds it has to have let go of it before."""
        if not self._closed:
            self._closed = True
            self._worker.submit(_Job(self._free))

    def _free(self) -> None:
        values, self.value = [self.value], None
        json_pieces.free(values)
        self._worker.alive -= 1
