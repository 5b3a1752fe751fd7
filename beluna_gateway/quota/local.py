"""Limits of what one daemon spends in a UTC day or month, counted in memory since its start."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any, Literal

from ..config.settings import Budget
from . import decision
from .decision import ScopeState
from .limits import Limits, Scope, micro_dollars
from .reports import listed, over_limit


class LocalSpend:
    """What the requests of one backend, or of one client at it, have cost.

    Args:
        budget: Its `spend_usd_per_day` and `spend_usd_per_month`.
        backend_id: The backend.
        client: The client whose own limits these are; None: they are everyone's.
        now: Seconds since 1970.
    """

    def __init__(
        self, budget: Budget, backend_id: str, client: str | None, now: Callable[[], float] = time.time
    ) -> None:
        limits = Limits(day=micro_dollars(budget.spend_usd_per_day), month=micro_dollars(budget.spend_usd_per_month))
        self._scope = Scope(backend_id, client, limits)
        self._state = ScopeState()
        self._now = now

    def check(self) -> None:
        """Refuses a request where the money of this day or month is spent.

        Raises:
            GatewayError: `budget_exceeded`, with the time to the end of the day or month.
        """
        now = self._microseconds()
        answer = decision.take([self._state], [self._scope.limits], (), now, 0, known=False)
        reason: Literal["day", "month"]
        if answer.reason == "day" or answer.reason == "month":  # noqa: PLR1714 - narrows the type
            reason = answer.reason
            raise over_limit(self._scope, "", reason, answer.uses[0], -(-answer.wait // 1000))

    def settle(self, micros: int, estimated: int) -> None:
        """Counts a request that has ended."""
        decision.end(
            [self._state],
            [self._scope.limits],
            (),
            self._microseconds(),
            micros=micros,
            estimated=estimated,
            tokens=0,
        )

    def status(self) -> Iterator[dict[str, Any]]:
        """Its limits in a `status` frame."""
        now = self._microseconds()
        self._state.roll(now)
        return listed(self._scope, decision.used(self._state, self._scope.limits, now), "")

    def _microseconds(self) -> int:
        return int(self._now() * 1_000_000)
