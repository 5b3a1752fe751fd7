"""An event loop whose time passes only while nothing is to be done: hours of waiting take no time."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Awaitable, Callable, Coroutine
from functools import wraps
from typing import Any, ParamSpec

P = ParamSpec("P")


class VirtualLoop(asyncio.SelectorEventLoop):
    """Where asyncio would sleep until the next timer, the clock is set to it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers_set = 0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now

    def call_at(  # type: ignore[override]  # the arguments' types are passed on unseen
        self, when: float, callback: Any, *args: Any, context: Any = None
    ) -> asyncio.TimerHandle:
        self.timers_set += 1
        return super().call_at(when, callback, *args, context=context)


class _Selector(selectors.SelectSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        ready = super().select(0)
        if timeout is None and not ready:
            raise AssertionError("everyone waits, and for nothing: no timer is set")
        # A turn of the loop takes a moment, or rounding could keep it for ever.
        self._loop.now += 1e-6 if ready or timeout is None else max(timeout, 1e-6)
        return ready


def virtual_time(test: Callable[P, Coroutine[Any, Any, None]]) -> Callable[P, None]:
    """Runs an asynchronous test in a `VirtualLoop`. It may leave no task behind."""

    async def checked(work: Awaitable[None]) -> None:
        await work
        await asyncio.sleep(0)
        assert asyncio.all_tasks() == {asyncio.current_task()}

    @wraps(test)
    def run(*arguments: P.args, **named: P.kwargs) -> None:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            runner.run(checked(test(*arguments, **named)))

    return run
