"""Usage: counts in every spelling and place that servers use, and several reports of one answer as one."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.usage import merged, openai_usage, usage_stats
from beluna_gateway.canonical import UsageStats


def chat(**raw: Any) -> UsageStats:
    return openai_usage(raw, "prompt_tokens", "completion_tokens")


def counts(stats: UsageStats) -> tuple[int | None, int | None, int | None]:
    return stats.input_tokens, stats.output_tokens, stats.total_tokens


@pytest.mark.parametrize("count", [12, 12.0, "12"])
def test_counts_may_be_integral_floats_or_digit_strings(count: Any) -> None:
    """Proxies in other languages write them so."""
    assert counts(chat(prompt_tokens=count, completion_tokens=count)) == (12, 12, 24)


@pytest.mark.parametrize("count", [True, False, 1.5, -1, "many", None, [1], 2**53, "9" * 5000, 1e400])
def test_what_is_no_count_is_not_said(count: Any) -> None:
    """Booleans, fractions, negative numbers and numbers above 2^53-1; and no total is made of them."""
    stats = chat(prompt_tokens=count, completion_tokens=2, prompt_tokens_details={"cached_tokens": count})

    assert counts(stats) == (None, 2, None)
    assert stats.cached_input_tokens is None


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt_tokens_details": {"cached_tokens": 5}},
        {"cached_tokens": 5},
        {"num_cached_tokens": 5},
        {"cache_read_input_tokens": 5},
        {"prompt_cache_hit_tokens": 5, "prompt_cache_miss_tokens": 7},
        {"prompt_tokens_details": {"cached_tokens": 0}, "cached_tokens": 5},
    ],
)
def test_cached_tokens_have_several_names(raw: Any) -> None:
    """OpenAI's, Kimi's and DeepSeek's among them."""
    assert chat(prompt_tokens=12, completion_tokens=1, **raw).cached_input_tokens == 5


@pytest.mark.parametrize(
    "raw",
    [
        {"prompt_tokens_details": {"cache_write_tokens": 100}},
        {"prompt_tokens_details": {"cached_tokens": 1, "cache_creation_tokens": 100}},
        {"cache_creation_input_tokens": 100},
        {"prompt_tokens_details": {"cached_tokens": 1, "cache_creation_input_tokens": 100}},
    ],
)
def test_written_cache_tokens_are_known_where_the_provider_says_so(raw: Any) -> None:
    """OpenRouter's, LiteLLM's and DashScope's names."""
    assert chat(**raw).cache_write_input_tokens == 100
    assert chat(prompt_tokens=1).cache_write_input_tokens is None


@pytest.mark.parametrize(
    ("raw", "output_tokens"),
    [
        # total = prompt + completion + reasoning
        ({"completion_tokens": 1, "total_tokens": 399, "completion_tokens_details": {"reasoning_tokens": 386}}, 387),
        ({"completion_tokens": 1, "total_tokens": 399, "reasoning_tokens": 386}, 387),
        ({"completion_tokens": 1, "total_tokens": 20, "completion_tokens_details": {"audio_tokens": 7}}, 8),
        (
            {
                "completion_tokens": 1,
                "total_tokens": 22,
                "completion_tokens_details": {"audio_tokens": 7, "reasoning_tokens": 2},
            },
            10,
        ),
        # reasoning is in the completion already, or the rest of the total is something else
        ({"completion_tokens": 387, "total_tokens": 399, "completion_tokens_details": {"reasoning_tokens": 386}}, 387),
        ({"completion_tokens": 1, "total_tokens": 20, "completion_tokens_details": {"reasoning_tokens": 3}}, 1),
        ({"completion_tokens": 1, "total_tokens": 20}, 1),
        ({"completion_tokens": 1, "total_tokens": 14}, 1),
        ({"completion_tokens": 1, "total_tokens": 21, "completion_tokens_details": {"audio_tokens": 7}}, 1),
        ({"completion_tokens": 1, "total_tokens": 21, "reasoning_tokens": 7}, 1),
        ({"completion_tokens": 1, "completion_tokens_details": {"reasoning_tokens": 386}}, 1),
    ],
)
def test_what_the_total_shows_to_be_left_out_is_added(raw: Any, output_tokens: int) -> None:
    """Output is all that came out, reasoning and audio too, where the total proves that they were left out."""
    stats = chat(prompt_tokens=12, **raw)

    assert stats.output_tokens == output_tokens
    assert stats.total_tokens == raw.get("total_tokens", 12 + output_tokens)


@pytest.mark.parametrize(
    ("raw", "cost"),
    [
        ({"cost": 0.95}, 0.95),
        ({"cost": 0}, 0.0),
        ({"cost": {"total_cost": 0.006, "input_tokens_cost": 0.001}}, 0.006),
        ({"estimated_cost": 0.0002}, 0.0002),
        ({"cost_in_usd_ticks": 318_319_000}, 0.0318319),
        ({"cost_in_usd_ticks": 0}, 0.0),
        ({"cost_in_usd_ticks": True}, None),
        ({"cost": 2**53 - 1}, 2.0**53 - 1),
        ({"cost": 2**53}, None),
        ({"cost": None, "estimated_cost": 0.25}, 0.25),
        ({"cost": 0.5, "estimated_cost": 0.25, "cost_in_usd_ticks": 1}, 0.5),
        ({"cost": "0.95"}, None),
        ({"cost": True}, None),
        ({"cost": -1}, None),
        ({"cost": float("inf")}, None),
        ({"cost": float("nan")}, None),
        ({"cost": 10**400}, None),
        ({}, None),
    ],
)
def test_the_provider_may_name_its_own_price(raw: Any, cost: float | None) -> None:
    """OpenRouter, Perplexity, DeepInfra and xAI say in dollars what they charge."""
    assert chat(**raw).cost == cost


@pytest.mark.parametrize("zeros", [{}, {"prompt_tokens": 0, "completion_tokens": 0, "prompt_tokens_details": {}}])
def test_the_other_interfaces_names_are_read(zeros: dict[str, Any]) -> None:
    """Some servers write them in this one, alone or beside zeros; and so in the other."""
    others: dict[str, Any] = {
        "input_tokens": 10,
        "output_tokens": 20,
        "input_tokens_details": {"cached_tokens": 3},
        "output_tokens_details": {"reasoning_tokens": 4},
    }
    own = {key.replace("input", "prompt").replace("output", "completion"): value for key, value in others.items()}

    for stats in (
        chat(**zeros, **others),
        chat(**own),
        openai_usage(own, "input_tokens", "output_tokens"),
        openai_usage(others, "input_tokens", "output_tokens"),
    ):
        assert (*counts(stats), stats.cached_input_tokens, stats.reasoning_tokens) == (10, 20, 30, 3, 4)


def test_a_count_of_zero_is_said_where_no_other_is() -> None:
    """It is not the same as none."""
    assert counts(chat(prompt_tokens=0, completion_tokens=0)) == (0, 0, 0)
    assert counts(chat(prompt_tokens=0, input_tokens=None)) == (0, None, None)
    assert counts(chat(prompt_tokens=7, input_tokens=9, completion_tokens=1)) == (7, 1, 8)


def test_all_of_a_usage_arrives() -> None:
    """Each count in its own place, beside the provider's object as it came."""
    details: Any = {"prompt_tokens_details": {"cached_tokens": 3, "cache_write_tokens": 4}}
    raw = {"prompt_tokens": 10, "completion_tokens": 20, "total_tokens": 31, "reasoning_tokens": 1, "cost": 0.5}

    assert chat(**raw, **details) == UsageStats(
        input_tokens=10,
        output_tokens=21,
        total_tokens=31,
        cached_input_tokens=3,
        cache_write_input_tokens=4,
        reasoning_tokens=1,
        cost=0.5,
        provider_usage_raw={**raw, **details},
    )
    assert usage_stats({}, input_tokens=1, output_tokens=None, cache_write_1h_input_tokens=2) == UsageStats(
        input_tokens=1, cache_write_1h_input_tokens=2, provider_usage_raw={}
    )


def test_the_tier_that_served_is_the_answers_or_the_usages() -> None:
    """A word that says nothing is none."""
    tiers: list[tuple[Any, str | None]] = [("flex", "flex"), ("null", None), (5, None)]
    for said, tier in tiers:
        assert openai_usage({}, "prompt_tokens", "completion_tokens", service_tier=said).service_tier == tier
    assert chat(service_tier="priority").service_tier == "priority"


def test_a_total_that_was_not_said_is_the_sum() -> None:
    """One that was said stays, whatever it is."""
    assert usage_stats({}, input_tokens=1, output_tokens=2).total_tokens == 3
    assert usage_stats({}, input_tokens=1, output_tokens=2, total_tokens=7).total_tokens == 7
    assert usage_stats({}, input_tokens=1, output_tokens=None).total_tokens is None


@pytest.mark.parametrize(
    ("earlier", "later", "result"),
    [
        (None, {"a": 1}, {"a": 1}),
        ({"a": 25}, {"a": 0, "b": 3}, {"a": 25, "b": 3}),
        ({"a": 25}, {"a": 30}, {"a": 30}),
        ({"a": 25}, {"a": None}, {"a": 25}),
        ({"a": 25}, {"a": "20"}, {"a": 25}),
        ({"a": 25}, {"a": "no number"}, {"a": 25}),
        ({"a": None}, {"a": 0}, {"a": 0}),
        ({"a": 25}, {"a": -30}, {"a": 25}),
        ({"a": 25}, {"a": 2**53 - 1}, {"a": 2**53 - 1}),
        ({"a": 25}, {"a": 2**53}, {"a": 25}),
        ({"a": 25, "b": {"c": 1}}, {"a": 25, "b": {"c": 2**60}}, {"a": 25, "b": {"c": 1}}),
        ({"a": 25}, {"a": True}, {"a": 25}),
        ({"a": 0.5}, {"a": 0.25}, {"a": 0.5}),
        ({"a": 0.5}, {"a": 0.75}, {"a": 0.75}),
        ({"a": 0.5}, {"a": 0}, {"a": 0.5}),
        ({"a": 0.5}, {"a": "n/a"}, {"a": 0.5}),
        ({"a": 0.5}, {"a": float("nan")}, {"a": 0.5}),
        ({"a": 1}, {"a": 1.5}, {"a": 1.5}),
        ({"a": 1.0}, {"a": 1.5}, {"a": 1.5}),
        ({"a": 1.5}, {"a": 1}, {"a": 1.5}),
        ({"a": "standard"}, {"a": 5}, {"a": 5}),
        ({"a": "standard"}, {"a": "priority"}, {"a": "priority"}),
        ({"a": "standard"}, {"a": ""}, {"a": "standard"}),
        ({"a": {"b": 5, "c": 1}}, {"a": {"b": 0, "c": 2}}, {"a": {"b": 5, "c": 2}}),
        ({"a": {"b": 5}}, {"a": None}, {"a": {"b": 5}}),
        ({"a": {"b": 5}}, {}, {"a": {"b": 5}}),
    ],
)
def test_a_later_report_never_takes_anything_back(earlier: Any, later: Any, result: Any) -> None:
    """It never lowers a count, nor replaces one by zero or nothing."""
    assert merged(earlier, later) == result


_REPORTS = st.lists(
    st.dictionaries(st.sampled_from("abc"), st.integers(0, 9) | st.none() | st.sampled_from(["7", 3.0])), max_size=5
)


def _number(value: Any) -> int:
    return int(value)


@given(_REPORTS)
def test_merged_counts_only_grow(reports: list[dict[str, Any]]) -> None:
    """However many reports come, in whatever order."""
    total: dict[str, Any] | None = None
    for report in reports:
        before = total
        total = merged(total, report)
        for key, value in (before or {}).items():
            assert value is None or _number(total[key]) >= _number(value)


def test_reports_with_ever_new_keys_are_bounded() -> None:
    """A server that makes up a key in each event does not fill the memory."""
    total: dict[str, Any] | None = None
    for number in range(10_000):
        total = merged(total, {f"key{number}": 1})

    assert total is not None
    assert len(total) <= 200
