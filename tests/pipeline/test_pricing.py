"""Usage and a price → dollars."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.canonical import UsageStats
from beluna_gateway.config.settings import Pricing
from beluna_gateway.pipeline.pricing import cost, input_shares, spent

tokens = st.integers(0, 10**9)
CONFIGURATION = (Path(__file__).parents[2] / "docs" / "configuration.md").read_text("utf-8")


def test_input_output_and_cached_tokens_have_their_own_price():
    """Cached tokens are a part of the input, not something beside it."""
    usage = UsageStats(input_tokens=1_000_000, output_tokens=100_000, cached_input_tokens=400_000)
    price = Pricing(input_per_mtok=2.0, output_per_mtok=10.0, cached_input_per_mtok=0.5)

    assert cost(usage, price) == pytest.approx(0.6 * 2 + 0.4 * 0.5 + 0.1 * 10)


def test_the_configured_price_stands_above_the_providers_word_and_that_above_the_list():
    """What a person has written down is what is meant; a list is for where nobody says anything."""
    told = UsageStats(input_tokens=1_000_000, output_tokens=0, cost=5.0)
    untold = UsageStats(input_tokens=1_000_000, output_tokens=0)
    price = Pricing(input_per_mtok=2.0, output_per_mtok=9.0)
    by_list = lambda usage: 7.0 if usage is told else 8.0  # noqa: E731

    assert [spent(told, price, by_list), spent(untold, price, by_list), spent(untold, price, None)] == [2.0] * 3
    assert [spent(told, None, by_list), spent(told, None, None)] == [5.0] * 2
    assert (spent(untold, None, by_list), spent(untold, None, None)) == (8.0, None)


def test_without_a_price_of_their_own_cached_tokens_cost_as_much_as_others():
    """A configuration without `cached_input_per_mtok` says that there is no discount; a price of 0 is one."""
    usage = UsageStats(input_tokens=1_000_000, output_tokens=0, cached_input_tokens=1_000_000)

    assert cost(usage, Pricing(input_per_mtok=2.0, output_per_mtok=9.0)) == 2.0
    unsaid = UsageStats(input_tokens=1_000_000, output_tokens=0)
    assert cost(unsaid, Pricing(input_per_mtok=2.0, output_per_mtok=9.0, cached_input_per_mtok=0.0)) == 2.0
    assert cost(usage, Pricing(input_per_mtok=2.0, output_per_mtok=9.0, cached_input_per_mtok=0.0)) == 0.0


@pytest.mark.parametrize("usage", [UsageStats(), UsageStats(input_tokens=5), UsageStats(output_tokens=5)])
def test_unknown_usage_has_no_cost(usage: UsageStats):
    """What the backend did not say is not guessed."""
    assert cost(usage, Pricing(input_per_mtok=1.0, output_per_mtok=1.0)) is None


def test_an_explicit_zero_costs_zero():
    """Zero tokens are known to cost nothing."""
    assert cost(UsageStats(input_tokens=0, output_tokens=0), Pricing(input_per_mtok=1.0, output_per_mtok=1.0)) == 0.0


def test_the_worked_examples_are_right_to_the_cent():
    """Each row of docs/configuration.md, by its counts and by the sum that stands there."""
    section = CONFIGURATION[CONFIGURATION.index("\n## Pricing\n") :].split("\n## ")[1]
    found = re.search(r"```json\n(.*?)\n```", section, re.DOTALL)
    assert found is not None
    price = Pricing.model_validate(json.loads(found[1]))
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in section.splitlines()
        if re.match(r"\| [0-9]", line)
    ]

    assert len(rows) == 5
    for row in rows:
        read, cached, short, hour, written = (int(cell.replace(",", "")) for cell in row[:5])
        usage = UsageStats(
            input_tokens=read,
            output_tokens=written,
            cached_input_tokens=cached,
            cache_write_input_tokens=short + hour,
            cache_write_1h_input_tokens=hour,
        )
        terms = [term.replace(",", "").split(" × ") for term in row[5].split(" + ")]
        assert sum(int(count) * float(each) for count, each in terms) / 1e6 == pytest.approx(float(row[6]), abs=1e-9)
        assert cost(usage, price) == pytest.approx(float(row[6]), abs=1e-9)


def test_cache_writes_without_a_price_of_their_own_cost_as_much_as_input():
    """So it is for each of the two lifetimes."""
    usage = UsageStats(
        input_tokens=3_000_000,
        output_tokens=0,
        cache_write_input_tokens=3_000_000,
        cache_write_1h_input_tokens=1_000_000,
    )

    assert cost(usage, Pricing(input_per_mtok=2, output_per_mtok=9)) == 6
    assert cost(usage, Pricing(input_per_mtok=2, output_per_mtok=9, cache_write_per_mtok=3)) == 2 * 3 + 2
    assert cost(usage, Pricing(input_per_mtok=2, output_per_mtok=9, cache_write_1h_per_mtok=4)) == 2 * 2 + 4


@given(tokens, *[st.none() | tokens] * 3)
def test_the_input_is_split_without_rest(read: int, cached: int | None, written: int | None, hour: int | None):
    """Whatever a backend reports, no token is counted twice and none is left out."""
    usage = UsageStats(cached_input_tokens=cached, cache_write_input_tokens=written, cache_write_1h_input_tokens=hour)
    shares = input_shares(usage, read)

    assert sum(shares) == read
    assert min(shares) >= 0


@given(tokens, tokens, tokens)
def test_a_cost_is_never_below_zero(read: int, written: int, cached: int):
    """Also where a backend says that more was cached than went in."""
    usage = UsageStats(input_tokens=read, output_tokens=written, cached_input_tokens=cached)
    price = Pricing(input_per_mtok=3.0, output_per_mtok=15.0, cached_input_per_mtok=0.3)
    dollars = cost(usage, price)

    assert dollars is not None
    assert 0 <= dollars <= (read * 3.0 + written * 15.0) / 1_000_000 + 1e-9
