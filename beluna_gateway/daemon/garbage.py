"""When the garbage collector runs: rarely, and while no request is under way.

Reference counts free everything that a request leaves, however it ends (`make cycles` shows it), so the collector
has nothing to find. Left as it is, Python would let it look through all requests in flight whenever 700 more objects
are alive than before. Here it looks when nobody waits, and only where objects have become more since it did; and where
requests never pause, each `ALLOCATIONS` objects, which bounds what a mistake of ours could leave.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterator
from contextlib import contextmanager

ALLOCATIONS = 50_000
"""So many more objects make the collector run under load, too: 250 streams more than before."""

OLDER = 5
"""After so many runs it looks at the objects that survived them, too, and after as many of those at all objects."""

WORTHWHILE = 5_000
"""Fewer more objects are not looked through where nobody waits either."""

IDLE_SECONDS = 1.0
"""So long after a request it is looked whether one is under way."""


class RareCollection:
    """Runs the garbage collector.

    Args:
        busy: Whether a request is under way.
    """

    def __init__(self, busy: Callable[[], bool]) -> None:
        self._busy = busy
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None

    @contextmanager
    def running(self) -> Iterator[None]:
        """Surrounds the time in which requests are served. All that is loaded when it begins is never looked at: it
        stays, and to look through it takes 20 ms.
        """
        before = gc.get_threshold()
        gc.freeze()
        gc.set_threshold(ALLOCATIONS, OLDER, OLDER)
        try:
            yield
        finally:
            if self._timer is not None:
                self._timer.cancel()
            gc.set_threshold(*before)

    def request_ended(self) -> None:
        """Has the collector run soon, where it is worthwhile."""
        if self._timer is None and gc.get_count()[0] > WORTHWHILE:
            self._timer = self._loop.call_later(IDLE_SECONDS, self._collect_if_idle)

    def _collect_if_idle(self) -> None:
        if self._busy():
            self._timer = self._loop.call_later(IDLE_SECONDS, self._collect_if_idle)
        else:
            self._timer = None
            gc.collect()
