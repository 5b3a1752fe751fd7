"""Computes the cost of a request from its usage and a configured price."""

from __future__ import annotations

from ..canonical import UsageStats
from ..config.settings import Pricing


def cost(usage: UsageStats, price: Pricing) -> float | None:
    """The cost in US dollars; None where the backend did not report both token counts."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    cached = min(usage.cached_input_tokens or 0, usage.input_tokens)
    cached_price = price.input_per_mtok if price.cached_input_per_mtok is None else price.cached_input_per_mtok
    spent = (
        (usage.input_tokens - cached) * price.input_per_mtok
        + cached * cached_price
        + usage.output_tokens * price.output_per_mtok
    )
    return spent / 1_000_000
