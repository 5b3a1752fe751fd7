"""Shares the event loop's time among the connections whose clients have sent many lines at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

TURN_SECONDS = 0.005
"""So long the lines of all connections may be served before everything else has its turn."""

FREE_SECONDS = 0.001
"""Less is not worth an extra turn of the loop."""


class Turns:
    """What the connections have used of the turn under way, and who waits for the next one."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._used = 0.0
        self._waiting: deque[Callable[[], None]] = deque()
        self._scheduled = False

    @property
    def over(self) -> bool:
        """Whether nobody is to begin another line in this turn."""
        return self._used >= TURN_SECONDS

    def take(self, seconds: float) -> None:
        """Counts the time that serving a line has taken, or will take in the same turn."""
        self._used += seconds
        if self._used >= FREE_SECONDS and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._begin)

    def wait(self, go_on: Callable[[], None]) -> None:
        """Has `go_on` called in the next turn, in order of arrival. Only where this one is over."""
        self._waiting.append(go_on)

    def _begin(self) -> None:
        self._scheduled = False
        self._used = 0.0
        for _ in range(len(self._waiting)):
            self._waiting.popleft()()
