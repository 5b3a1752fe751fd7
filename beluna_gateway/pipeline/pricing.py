"""Usage and a configured price → US dollars."""

from __future__ import annotations

from ..canonical import UsageStats
from ..config.settings import Pricing


def cost(usage: UsageStats, price: Pricing) -> float | None:
    """US dollars, or None where the backend did not say how many tokens it was."""
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
