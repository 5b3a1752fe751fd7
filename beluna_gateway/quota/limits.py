"""Limits that several daemons share, and whose they are."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Literal

from ..config.settings import Budget

MICROS = 1_000_000
"""Micro-dollars of a dollar, and microseconds of a second."""

Reason = Literal["places", "rate", "tokens", "day", "month", "settling"]
"""Which limit refuses. `settling`: the store was emptied, and daemons are telling it what they hold."""

SETTINGS: dict[Reason, str] = {
    "places": "max_concurrency",
    "rate": "rate_per_second",
    "tokens": "tokens_per_minute",
    "day": "spend_usd_per_day",
    "month": "spend_usd_per_month",
}
"""Limit → its setting, after `shared_`."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of one scope; None: there is no such limit. Money is in micro-dollars."""

    places: int | None = None
    rate: int | None = None
    """Starts per second."""
    tokens: int | None = None
    """Per minute."""
    day: int | None = None
    month: int | None = None

    def __bool__(self) -> bool:
        return any(getattr(self, field.name) is not None for field in fields(self))


@dataclass(frozen=True, slots=True)
class Scope:
    """What is limited: a backend, or one client at it."""

    backend_id: str
    client: str | None
    limits: Limits

    @property
    def setting(self) -> str:
        """Where its limits stand in the configuration."""
        return "budget" if self.client is None else "server.clients[].budget"


def shared_limits(budget: Budget) -> Limits:
    """The `shared_…` limits of a budget."""
    return Limits(
        budget.shared_max_concurrency,
        budget.shared_rate_per_second,
        budget.shared_tokens_per_minute,
        micro_dollars(budget.shared_spend_usd_per_day),
        micro_dollars(budget.shared_spend_usd_per_month),
    )


def micro_dollars(dollars: float | None) -> int | None:
    """To the nearest one."""
    return None if dollars is None else round(dollars * MICROS)
