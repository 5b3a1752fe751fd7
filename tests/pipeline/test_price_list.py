"""The offline list of prices: what it knows, what it does not, and when it is loaded."""

from __future__ import annotations

import builtins
import subprocess
import sys
from typing import Any

import pytest

from beluna_gateway.canonical import UsageStats
from beluna_gateway.pipeline.price_list import PriceList, listed_cost, may_be_listed

ANTHROPIC = "https://api.anthropic.com"
OPENAI = "https://api.openai.com/v1"
MILLION = UsageStats(input_tokens=1_000, output_tokens=1_000)


def listed(usage: UsageStats, endpoint: str, model: str) -> float | None:
    import genai_prices

    return listed_cost(genai_prices, usage, endpoint, model)


def test_a_listed_model_has_a_cost():
    """By the provider behind the endpoint: Claude Sonnet 4.5 is 3 dollars in, 15 out."""
    assert listed(MILLION, ANTHROPIC, "claude-sonnet-4-5") == pytest.approx(0.018)


def test_reads_and_writes_of_the_cache_have_their_own_prices():
    """Anthropic's 0.30 for reading, 3.75 for writing, 6 for writing for an hour."""
    usage = UsageStats(
        input_tokens=10_000,
        output_tokens=100,
        cached_input_tokens=2_000,
        cache_write_input_tokens=3_000,
        cache_write_1h_input_tokens=1_000,
    )
    spent = 5_000 * 3 + 2_000 * 0.3 + 2_000 * 3.75 + 1_000 * 6 + 100 * 15

    assert listed(usage, ANTHROPIC, "claude-sonnet-4-5") == pytest.approx(spent / 1e6)


@pytest.mark.parametrize(
    ("endpoint", "model"),
    [
        (OPENAI, "gpt-of-tomorrow"),
        ("https://llm.example.com/v1", "gpt-5.4-mini"),
        (OPENAI, ""),
        (OPENAI, "é\u2028"),
    ],
)
def test_what_the_list_does_not_know_has_no_cost(endpoint: str, model: str):
    """Neither a guess by the name of a model nor zero."""
    assert listed(MILLION, endpoint, model) is None


@pytest.mark.parametrize("usage", [UsageStats(), UsageStats(input_tokens=5), UsageStats(output_tokens=5)])
def test_unknown_usage_has_no_cost(usage: UsageStats):
    """What the backend did not say is not guessed."""
    assert listed(usage, OPENAI, "gpt-5.4-mini") is None


def test_counts_that_contradict_each_other_are_priced_as_the_input():
    """More cached than went in is what some backend reports some day; it is no error of the request."""
    usage = UsageStats(input_tokens=1_000, output_tokens=0, cached_input_tokens=5_000, cache_write_input_tokens=9)

    assert listed(usage, ANTHROPIC, "claude-sonnet-4-5") == pytest.approx(0.0003)


@pytest.mark.parametrize(("tier", "known"), [(None, True), ("default", True), ("standard", True), ("moonlight", False)])
def test_a_tier_without_a_listed_price_has_no_cost(tier: str | None, known: bool):
    """The standard price would be wrong for it."""
    usage = UsageStats(input_tokens=1_000, output_tokens=1_000, service_tier=tier)

    assert (listed(usage, OPENAI, "gpt-5.4-mini") is not None) == known


def test_a_tier_with_a_listed_price_has_that_one():
    """Where the list has prices by tier, the one that served counts."""
    flex, standard, priority = (
        listed(UsageStats(input_tokens=1_000, output_tokens=1_000, service_tier=tier), OPENAI, "gpt-5.4-mini")
        for tier in ("flex", "default", "priority")
    )

    assert flex is not None
    assert standard is not None
    assert priority is not None
    assert flex < standard < priority


def test_anthropics_fast_mode_is_not_priced_as_the_standard_one():
    """It stands beside the tier, in the provider's own usage."""
    slow, fast = (
        listed(
            UsageStats(1_000, 1_000, provider_usage_raw={"speed": speed}, service_tier="standard"),
            ANTHROPIC,
            "claude-sonnet-4-5",
        )
        for speed in ("standard", "fast")
    )

    assert slow == pytest.approx(0.018)
    assert fast is None


async def test_the_list_is_there_for_providers_on_the_network_only():
    """A model on this machine costs nothing that a list knows; a backend without an endpoint has none either."""
    for endpoint in (
        None,
        "unix:/run/llama.sock:/v1",
        "http://127.0.0.1:8080/v1",
        "http://localhost",
        "http://[::1]:1",
    ):
        assert not may_be_listed(endpoint)
    assert may_be_listed(ANTHROPIC)

    of_model = await PriceList().of_model(ANTHROPIC, "claude-sonnet-4-5")
    assert of_model is not None
    assert of_model(MILLION) == pytest.approx(0.018)


async def test_without_the_extra_there_is_no_list(monkeypatch: pytest.MonkeyPatch):
    """The import is tried once."""
    tried: list[str] = []
    real = builtins.__import__

    def refusing(name: str, *rest: Any) -> Any:
        if name == "genai_prices":
            tried.append(name)
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", refusing)
    prices = PriceList()

    assert [await prices.of_model(OPENAI, "gpt-5.4-mini") for _ in range(3)] == [None] * 3
    assert tried == ["genai_prices"]


def test_the_list_is_not_imported_before_it_is_needed():
    """Whoever has a price for every model, or models of their own, does not pay for it."""
    asked = "import sys, beluna_gateway.gateway as _; print('genai_prices' in sys.modules)"
    run = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=True, timeout=60)

    assert run.stdout == "False\n"
