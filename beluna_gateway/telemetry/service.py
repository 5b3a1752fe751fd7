"""What the daemon knows of itself, beside its requests: connections, refusals, rejected lines, reloads, programs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

import structlog

from ..canonical import immutable

Refusal = Literal["uid", "limit"]
"""Why a connection was refused: the peer's uid, or `server.max_connections`."""


@dataclass(slots=True)
class ServiceCounters:
    """Numbers since the daemon's start, read by `/metrics`."""

    connections: Counter[str] = field(default_factory=Counter)
    """Accepted connections by client."""
    refused: Counter[Refusal] = field(default_factory=Counter)
    """Refused connections by reason."""
    rejected: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Rejected lines by client and kind of error."""
    reloads: Counter[Literal["ok", "failed"]] = field(default_factory=Counter)
    """Reloads of the configuration by result."""
    config_is_current: bool = True
    """False where the last reload failed, so that the configuration before it is in use."""

    def reloaded(self, *, ok: bool) -> None:
        """Counts a reload of the configuration."""
        self.reloads["ok" if ok else "failed"] += 1
        self.config_is_current = ok


ProgramState = Literal["stopped", "starting", "running", "waiting", "foreign"]


@immutable
class ProgramStatus:
    """A model server or Copilot program that the daemon runs for a backend."""

    state: ProgramState
    """`waiting`: it failed, and is not started again yet. `foreign`: somebody else's server answers and is used."""
    starts: int
    """How often it was started."""


class LimitedLog:
    """Writes one kind of warning at most `MAX_LINES` times in `WINDOW_SECONDS`.

    At the end of such a window one more line says how many were left out.

    Args:
        event: The text of the line.
        later: Runs a function after so many seconds, as `loop.call_later` does.
    """

    MAX_LINES = 10
    WINDOW_SECONDS = 10.0

    def __init__(self, event: str, later: Callable[[float, Callable[[], None]], object]) -> None:
        self._event = event
        self._later = later
        self._log = structlog.get_logger("beluna_gateway")
        self._written = 0
        self._suppressed = 0

    def warning(self, **fields: Any) -> None:
        """Logs it, or counts it as suppressed."""
        if self._written == 0:
            self._later(self.WINDOW_SECONDS, self.end_window)
        if self._written < self.MAX_LINES:
            self._written += 1
            self._log.warning(self._event, **fields)
        else:
            self._suppressed += 1

    def end_window(self) -> None:
        """Says how many lines were suppressed, and begins anew. Also for the end of the daemon."""
        suppressed, self._suppressed, self._written = self._suppressed, 0, 0
        if suppressed:
            self._log.warning(self._event, suppressed=suppressed, seconds=self.WINDOW_SECONDS)
