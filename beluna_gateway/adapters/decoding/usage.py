"""A provider's counts → `UsageStats`. What is common to all: a total that is missing is the sum of both."""

from __future__ import annotations

from math import isfinite

from pydantic import JsonValue

from ...canonical import JsonObject, UsageStats
from .scalars import LARGEST_NUMBER, whole_number, word

count = whole_number
"""A token count, or None where there is none; what is no whole number, or above 2^53-1, counts as not said."""

_MAX_KEYS = 200
"""Keys of one object of a usage report that are kept."""


def usage_stats(
    raw: JsonObject,
    *,
    input_tokens: int | None,
    output_tokens: int | None,
    total_tokens: int | None = None,
    cached_input_tokens: int | None = None,
    cache_write_input_tokens: int | None = None,
    cache_write_1h_input_tokens: int | None = None,
    reasoning_tokens: int | None = None,
    cost: float | None = None,
    service_tier: str | None = None,
) -> UsageStats:
    """Usage as the wire wants it; `raw` is the provider's own object, the counts are made of it."""
    if total_tokens is None and input_tokens is not None and output_tokens is not None:
        total_tokens = input_tokens + output_tokens
    # By position: ten names take three times as long.
    return UsageStats(
        input_tokens,
        output_tokens,
        total_tokens,
        cached_input_tokens,
        reasoning_tokens,
        cost,
        raw,
        cache_write_input_tokens,
        service_tier,
        cache_write_1h_input_tokens,
    )


def merged(earlier: JsonObject | None, later: JsonObject) -> JsonObject:
    """Two usage reports of one answer as one: the later word on each key holds.

    But it never lowers a number, and never replaces something by null, an empty string or an empty object.
    """
    if not earlier or _nothing_lowered(earlier, later):
        return later
    result = dict(earlier)
    for key, value in later.items():
        before = earlier.get(key)
        if before is None:
            if key in result or len(result) < _MAX_KEYS:
                result[key] = value
        elif isinstance(before, dict):
            if isinstance(value, dict):
                result[key] = merged(before, value)
        elif not _lowers(before, value):
            result[key] = value
    return result


def _nothing_lowered(earlier: JsonObject, later: JsonObject) -> bool:
    """Whether the later report has all of the earlier one, as it nearly always is: no need to merge key by key."""
    for key, before in earlier.items():
        value = later.get(key)
        if value != before and not (type(value) is int and type(before) is int and before < value <= LARGEST_NUMBER):
            return False
    return len(later) <= _MAX_KEYS


def _lowers(before: JsonValue, value: JsonValue) -> bool:
    if value is None or value in ("", {}, []):
        return True
    earlier, later = _number(before), _number(value)
    return earlier is not None and (later is None or later < earlier)


def _number(value: JsonValue) -> float | None:
    """A count, or an amount of money."""
    whole = whole_number(value)
    return value if whole is None and isinstance(value, float) and isfinite(value) else whole


def openai_usage(raw: JsonObject, input_key: str, output_key: str, *, service_tier: JsonValue = None) -> UsageStats:
    """OpenAI's usage, whose two interfaces differ in names only, and what other servers add to it.

    Args:
        raw: The usage object.
        input_key: ``prompt_tokens`` (Chat Completions) or ``input_tokens`` (Responses).
        output_key: ``completion_tokens`` or ``output_tokens``.
        service_tier: The tier that the answer names.
    """
    input_tokens, output_tokens = _count_of(raw, input_key), _count_of(raw, output_key)
    total_tokens = count(raw.get("total_tokens")) or None
    output_details: JsonObject = {}
    reasoning = cached = cache_write = cost = None
    tier = word(service_tier)
    if not _MORE.isdisjoint(raw):
        input_details, output_details = _details_of(raw, input_key), _details_of(raw, output_key)
        reasoning = _largest(output_details, _REASONING)
        cached = _largest(input_details, ("cached_tokens",))
        cache_write = _largest(input_details, _CACHE_WRITE_DETAILS)
        if not _BESIDE.isdisjoint(raw):
            reasoning = _largest(raw, _REASONING, reasoning)
            cached = _largest(raw, _CACHED, cached)
            cache_write = _largest(raw, _CACHE_WRITE, cache_write)
            cost = provider_cost(raw)
            tier = tier or word(raw.get("service_tier"))
    if input_tokens is not None and output_tokens is not None and total_tokens is not None:
        # Some servers (xAI, Gemini's OpenAI endpoint) leave reasoning out of the completion, but not out of the total.
        left_out = total_tokens - input_tokens - output_tokens
        if left_out > 0:
            audio = count(output_details.get("audio_tokens"))
            if left_out in (reasoning, audio, (reasoning or 0) + (audio or 0)):
                output_tokens += left_out
    return usage_stats(
        raw,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=total_tokens,
        cached_input_tokens=cached,
        cache_write_input_tokens=cache_write,
        reasoning_tokens=reasoning,
        cost=cost,
        service_tier=tier,
    )


_OTHER_NAME = {"prompt_tokens": "input_tokens", "completion_tokens": "output_tokens"}
_OTHER_NAME |= {theirs: ours for ours, theirs in _OTHER_NAME.items()}
"""The name in the other interface, which some servers use in this one: mlx-vlm, and new-api beside zeros."""

_DETAILS = {key: f"{key}_details" for key in _OTHER_NAME}


def _count_of(raw: JsonObject, key: str) -> int | None:
    number = count(raw.get(key))
    return number or count(raw.get(_OTHER_NAME[key])) or number


def _details_of(raw: JsonObject, key: str) -> JsonObject:
    details = raw.get(_DETAILS[key])
    if not details or not isinstance(details, dict):
        details = raw.get(_DETAILS[_OTHER_NAME[key]])
    return details if isinstance(details, dict) else {}


_REASONING = ("reasoning_tokens",)

_CACHED = ("cached_tokens", "num_cached_tokens", "prompt_cache_hit_tokens", "cache_read_input_tokens")
"""Kimi's name, one of several servers, DeepSeek's, and that of LiteLLM and Databricks."""

_CACHE_WRITE = ("cache_creation_input_tokens",)
"""LiteLLM's, and Anthropic's behind a proxy."""

_CACHE_WRITE_DETAILS = ("cache_write_tokens", "cache_creation_tokens", "cache_creation_input_tokens")
"""OpenRouter's name, LiteLLM's, and DashScope's."""


def provider_cost(raw: JsonObject) -> float | None:
    """What the provider itself charges, where it says so in US dollars.

    ``cost`` is OpenRouter's (a credit is a dollar), ``cost.total_cost`` Perplexity's, ``estimated_cost`` DeepInfra's,
    ``cost_in_usd_ticks`` xAI's (10,000,000,000 to the dollar).
    """
    if _COSTS.isdisjoint(raw):
        return None
    named, ticks = raw.get("cost"), whole_number(raw.get("cost_in_usd_ticks"))
    for value in (named.get("total_cost") if isinstance(named, dict) else named, raw.get("estimated_cost")):
        if isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= LARGEST_NUMBER:
            return float(value)
    return None if ticks is None else ticks / 10_000_000_000


_COSTS = frozenset({"cost", "estimated_cost", "cost_in_usd_ticks"})

_BESIDE = frozenset(("service_tier", *_REASONING, *_CACHED, *_CACHE_WRITE, *_COSTS))
"""What some servers write beside OpenAI's own keys."""

_MORE = _BESIDE.union(_DETAILS.values())
"""The keys of what a plain usage object does not have."""


def _largest(fields: JsonObject, keys: tuple[str, ...], largest: int | None = None) -> int | None:
    """The largest count under some keys, and of `largest`; None where there is none."""
    for key in keys:
        if key in fields and (number := count(fields[key])) is not None and (largest is None or number > largest):
            largest = number
    return largest
