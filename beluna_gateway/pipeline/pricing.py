"""Computes the cost of a request from its usage and a configured price."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from ..canonical import UsageStats
from ..config.settings import Pricing

ListedCost = Callable[[UsageStats], float | None]
"""Gives the cost of a model's usage by a price list."""


def spent(usage: UsageStats, price: Pricing | None, listed: ListedCost | None) -> float | None:
    """The cost in US dollars: by the configured price, else what the provider itself names, else by the list."""
    if price is not None:
        return cost(usage, price)
    return listed(usage) if usage.cost is None and listed is not None else usage.cost


class InputShares(NamedTuple):
    """The tokens that went in, by price: neither from nor into the cache, read from it, and written to it for its short
    lifetime or for an hour.
    """

    plain: int
    cached: int
    written: int
    written_1h: int


def input_shares(usage: UsageStats, input_tokens: int) -> InputShares:
    """Splits `input_tokens`. No share is below zero, and their sum is the whole, whatever the backend reported."""
    cached = min(usage.cached_input_tokens or 0, input_tokens)
    written = min(usage.cache_write_input_tokens or 0, input_tokens - cached)
    written_1h = min(usage.cache_write_1h_input_tokens or 0, written)
    return InputShares(input_tokens - cached - written, cached, written - written_1h, written_1h)


def cost(usage: UsageStats, price: Pricing) -> float | None:
    """The cost in US dollars; None where the backend did not report both token counts."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    shares = input_shares(usage, usage.input_tokens)
    spent = (
        shares.plain * price.input_per_mtok
        + shares.cached * _or_input(price.cached_input_per_mtok, price)
        + shares.written * _or_input(price.cache_write_per_mtok, price)
        + shares.written_1h * _or_input(price.cache_write_1h_per_mtok, price)
        + usage.output_tokens * price.output_per_mtok
    )
    return spent / 1_000_000


def _or_input(own: float | None, price: Pricing) -> float:
    return price.input_per_mtok if own is None else own
