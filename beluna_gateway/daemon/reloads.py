"""Reloads of the configuration, one after the other: what is asked for during one is done once, after it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import structlog

from ..telemetry.service import ServiceCounters
from .systemd import Notifier

MAX_ERROR_CHARACTERS = 2000
"""The longest `reloads.last_error` of a `status` frame."""


class ReloadError(Exception):
    """A configuration that cannot take effect; `mistakes` has each of them in a line. Nothing has changed."""

    def __init__(self, mistakes: Sequence[str]) -> None:
        super().__init__("; ".join(mistakes))
        self.mistakes = tuple(mistakes)


class Reloads:
    """Runs reloads, counts them, logs how they ended, and tells systemd of each (`Type=notify-reload`).

    Args:
        reload: Reads the configuration and puts it into effect, or raises `ReloadError` and changes nothing.
        counters: Count them.
        notifier: Gets `RELOADING=1` before each, and `READY=1` after it, also where it failed.
    """

    def __init__(self, reload: Callable[[], Awaitable[None]], counters: ServiceCounters, notifier: Notifier) -> None:
        self._counters = counters
        self._reload = reload
        self._notifier = notifier
        self._log = structlog.get_logger("beluna_gateway")
        self._task: asyncio.Task[None] | None = None
        self._again = False
        self.last_error: str | None = None
        """The mistakes of the last reload; None where it succeeded."""

    def begin(self) -> None:
        """Starts a reload, or has one more follow the one that is under way: the file may have changed since it was
        read.
        """
        if self._task is not None:
            self._again = True
            return
        self._task = asyncio.create_task(self._run(), name="reload")

    def status(self) -> dict[str, Any]:
        """The field `reloads` of a `status` frame."""
        counted = self._counters.reloads
        running = self._task is not None
        return {"ok": counted["ok"], "failed": counted["failed"], "running": running, "last_error": self.last_error}

    async def close(self) -> None:
        """Abandons the reload that is under way. systemd is told no more of it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])

    async def _run(self) -> None:
        try:
            while True:
                self._again = False
                self._notifier.reloading()
                await self._once()
                state = "serving" if self.last_error is None else "serving; the last reload failed, see the log"
                self._notifier.tell("READY=1", f"STATUS={state}")
                if not self._again:
                    break
        finally:
            self._task = None

    async def _once(self) -> None:
        try:
            await self._reload()
        except ReloadError as error:
            self._failed("; ".join(error.mistakes))
            for mistake in error.mistakes:
                self._log.error("mistake in the configuration", mistake=mistake)
            self._log.error(
                "reload failed: the configuration in effect is unchanged; correct the file and reload again",
                mistakes=len(error.mistakes),
            )
        except Exception as error:  # noqa: BLE001 - the daemon serves on as before
            self._failed(f"a bug in the gateway: {error!r}")
            self._log.exception("reload failed: bug")
        else:
            self._counters.reloaded(ok=True)
            self.last_error = None

    def _failed(self, why: str) -> None:
        self._counters.reloaded(ok=False)
        self.last_error = why[:MAX_ERROR_CHARACTERS]
