"""The offline list of the package `genai-prices` (the extra `prices`), for models without a configured price.

It is imported, in a thread, when the first request needs it: one that goes to a provider on the network, for a model
that the configuration has no price for. Nothing is fetched; a newer list comes with a newer version of the package.
"""

from __future__ import annotations

import asyncio
from types import ModuleType
from urllib.parse import urlsplit

from ..canonical import UsageStats
from .pricing import ListedCost, input_shares

STANDARD_TIERS = frozenset({"default", "standard", "on_demand", "auto", "unspecified"})
"""What providers call the tier that their plain prices are for."""


class PriceList:
    """The list, loaded once; empty where the extra is not installed."""

    def __init__(self) -> None:
        self._module: ModuleType | None = None
        self._loaded = False
        self._loading = asyncio.Lock()

    async def of_model(self, endpoint: str, model: str) -> ListedCost | None:
        """What gives the cost of usage of `model` at the provider behind `endpoint`; None where there is no list."""
        if not self._loaded:
            await self._load()
        module = self._module
        return None if module is None else lambda usage: listed_cost(module, usage, endpoint, model)

    async def _load(self) -> None:
        async with self._loading:
            if not self._loaded:
                self._module = await asyncio.to_thread(_import_list)
                self._loaded = True


def _import_list() -> ModuleType | None:
    try:
        import genai_prices
    except ImportError:
        return None
    return genai_prices


def listed_cost(module: ModuleType, usage: UsageStats, endpoint: str, model: str) -> float | None:
    """The cost in US dollars by the list; None where it does not know the provider, the model or the tier."""
    if usage.input_tokens is None or usage.output_tokens is None:
        return None
    shares = input_shares(usage, usage.input_tokens)
    counts = module.Usage(
        input_tokens=usage.input_tokens,
        output_tokens=usage.output_tokens,
        cache_read_tokens=shares.cached,
        cache_write_tokens=shares.written + shares.written_1h,
        cache_write_1h_tokens=shares.written_1h,
    )
    speed = (usage.provider_usage_raw or {}).get("speed")  # Anthropic's, beside its tier
    special = {
        name: word
        for name, word in (("service_tier", usage.service_tier), ("speed", speed))
        if isinstance(word, str) and word not in STANDARD_TIERS
    }

    def price(context: dict[str, str] | None) -> float:
        found = module.calc_price(counts, model_ref=model, provider_api_url=endpoint, price_context=context)
        return float(found.total_price)

    try:
        standard = price(None)
        tiered = price(special) if special else None
    except (LookupError, ValueError):
        return None
    # For a tier without a price of its own in the list the standard one would be wrong.
    return standard if tiered is None else None if tiered == standard else tiered


def may_be_listed(endpoint: str | None) -> bool:
    """Whether a provider on the network is behind `endpoint`."""
    if endpoint is None or endpoint.startswith("unix:"):
        return False
    host = urlsplit(endpoint).hostname or ""
    return host not in ("localhost", "::1") and not host.startswith("127.")
