"""When a provider says to come back: waits and times, of headers and of errors. No I/O, time as an argument."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from math import ceil

from pydantic import JsonValue

from ...errors import GatewayError
from .provider_errors import ProviderError
from .scalars import LARGEST_NUMBER, whole_number


def wait_ms(
    error: ProviderError,
    now: float,
    *,
    retry_after: str | None = None,
    milliseconds: Iterable[str | None] = (),
) -> int | None:
    """The longest of the waits that an HTTP answer asks for, in milliseconds; None where it asks for none.

    Args:
        error: Its body, which may hold Google's `RetryInfo` or OpenRouter's `metadata.headers`.
        now: Unix time.
        retry_after: The header `Retry-After`.
        milliseconds: The headers `retry-after-ms` and `x-ms-retry-after-ms`.
    """
    return longest(
        [
            retry_after_ms(retry_after, now),
            *(_milliseconds(value) for value in milliseconds),
            delay_ms(error),
            _until(reset_at_ms(error), now),
        ]
    )


def with_wait(error: GatewayError, now: float) -> GatewayError:
    """`error`, with the longer of its wait and the one from `now` (Unix time) until its `retry_at_ms`."""
    wait = longest([error.retry_after_ms, _until(error.retry_at_ms, now)])
    return error.replace(retry_after_ms=wait, retry_at_ms=None)


def _until(at_ms: int | None, now: float) -> int | None:
    return None if at_ms is None else max(0, ceil(at_ms - now * 1000))


def retry_after_ms(value: str | None, now: float) -> int | None:
    """A `Retry-After` header, seconds or HTTP date, as milliseconds from `now` (Unix time). None where unreadable."""
    if value is None:
        return None
    value = value.strip()
    if _NUMBER.fullmatch(value):
        return _seconds(value)
    try:
        return max(0, ceil((parsedate_to_datetime(value).timestamp() - now) * 1000))
    except (ValueError, OverflowError):
        return None


_NUMBER = re.compile(r"[0-9]{1,16}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}")
_DURATION = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)s")


def _milliseconds(value: JsonValue) -> int | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return _bounded(float(value))
    return whole_number(value)


def _seconds(value: JsonValue) -> int | None:
    """A number of seconds, or the digits of one, as milliseconds."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_NUMBER:
        return None
    return _bounded(value * 1000)


def _bounded(milliseconds: float) -> int | None:
    number = ceil(round(milliseconds, 6))
    return number if number <= LARGEST_NUMBER else None


def longest(waits: list[int | None]) -> int | None:
    return max((wait for wait in waits if wait is not None), default=None)


def delay_ms(error: ProviderError) -> int | None:
    """The waits in the error itself: google.rpc.RetryInfo's `retryDelay`, a protobuf duration in JSON (``"3.5s"``),
    OpenRouter's `metadata.retry_after_seconds` and `metadata.headers`, and Codex' `resets_in_seconds`.
    """
    details = error.detail.get("details")
    delays = (
        [entry.get("retryDelay") for entry in details if isinstance(entry, dict)] if isinstance(details, list) else []
    )
    matches = [_DURATION.fullmatch(delay) for delay in delays if isinstance(delay, str)]
    metadata, headers = _openrouter(error)
    seconds = [metadata.get("retry_after_seconds"), headers.get("retry-after"), error.detail.get("resets_in_seconds")]
    reset = _milliseconds(headers.get("x-ratelimit-reset"))
    return longest(
        [
            *(_bounded(float(match[1]) * 1000) for match in matches if match is not None),
            *map(_seconds, seconds),
            reset * 1000 if reset is not None and reset < _FIRST_TIME else None,
        ]
    )


def reset_at_ms(error: ProviderError) -> int | None:
    """The `X-RateLimit-Reset` that OpenRouter puts into `error.metadata.headers`, as Unix time in milliseconds.

    OpenRouter's own has milliseconds, those of providers behind it may have seconds, or say seconds from now.
    """
    reset = _milliseconds(_openrouter(error)[1].get("x-ratelimit-reset"))
    if reset is None or reset < _FIRST_TIME:
        return None
    return reset * 1000 if reset < 1000 * _FIRST_TIME else reset


_FIRST_TIME = 1_000_000_000
"""2001-09-09 in Unix seconds; what is below is no time but a wait."""


def _openrouter(error: ProviderError) -> tuple[Mapping[str, JsonValue], Mapping[str, JsonValue]]:
    """`error.metadata` and its `headers`, whose names are made lower case."""
    metadata = error.detail.get("metadata")
    if not isinstance(metadata, dict):
        return {}, {}
    headers = metadata.get("headers")
    return metadata, {name.lower(): value for name, value in headers.items()} if isinstance(headers, dict) else {}
