"""A provider's counts → `UsageStats`. What is common to all: a total that was not said is the sum of both."""

from __future__ import annotations

from pydantic import JsonValue

from ...canonical import JsonObject, UsageStats


def count(value: JsonValue) -> int | None:
    """A token count, or None where there is none; anything that is no whole number counts as not said."""
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def usage_stats(
    raw: JsonObject,
    *,
    input_tokens: int | None,
    output_tokens: int | None,
    total_tokens: int | None = None,
    cached_input_tokens: int | None = None,
    reasoning_tokens: int | None = None,
) -> UsageStats:
    """Usage as the wire wants it; `raw` is the provider's own object, the counts are made of it."""
    if total_tokens is None and input_tokens is not None and output_tokens is not None:
        total_tokens = input_tokens + output_tokens
    return UsageStats(
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=total_tokens,
        cached_input_tokens=cached_input_tokens,
        reasoning_tokens=reasoning_tokens,
        provider_usage_raw=raw,
    )


def openai_usage(raw: JsonObject, went_in: str, came_out: str) -> UsageStats:
    """OpenAI's usage, whose two interfaces differ in names only.

    Args:
        raw: The usage object.
        went_in: ``prompt_tokens`` (Chat Completions) or ``input_tokens`` (Responses).
        came_out: ``completion_tokens`` or ``output_tokens``.
    """
    return usage_stats(
        raw,
        input_tokens=count(raw.get(went_in)),
        output_tokens=count(raw.get(came_out)),
        total_tokens=count(raw.get("total_tokens")),
        cached_input_tokens=_detail(raw, f"{went_in}_details", "cached_tokens"),
        reasoning_tokens=_detail(raw, f"{came_out}_details", "reasoning_tokens"),
    )


def _detail(raw: JsonObject, group: str, key: str) -> int | None:
    details = raw.get(group)
    return count(details.get(key)) if isinstance(details, dict) else None
