"""JSON text → value, as strictly as the protocol wants it: UTF-8, no NaN or infinity in any spelling, bounded nesting.

`parse_arguments` is the one judge of a tool call's arguments, in a backend's answer and in a client's history.
"""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

from pydantic_core import from_json

MAX_DEPTH = 200
"""Levels of objects and arrays inside each other. The parser's own limit is the same but for an empty one inside."""


def parse(text: bytes | str) -> Any:
    """The value of `text`. Of two equal keys the last counts.

    Raises:
        ValueError: It is not JSON in UTF-8, nested deeper than `MAX_DEPTH`, or has a number that no 64-bit float holds.
    """
    value = parse_loosely(text)
    check(text.encode() if isinstance(text, str) else text, value)
    return value


def parse_arguments(text: str) -> dict[str, Any]:
    """The arguments of a tool call: a JSON object, by the rules of `parse`, with white space around it or not.

    What is accepted from a backend is so accepted when it comes back in a history, and the other way round.

    Raises:
        ValueError: It is no such object; the message completes "the arguments are …".
    """
    try:
        value = parse(text)
    except ValueError as error:
        raise ValueError(f"not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ValueError("JSON, but not an object")  # noqa: TRY004 - one exception for every reason
    return value


def parse_loosely(text: bytes | str) -> Any:
    """As `parse`, without what `check` looks for. Bytes are UTF-8, never guessed to be something else."""
    return from_json(text, allow_inf_nan=False, cache_strings="keys")


# The parser reads a number above 1.8e308 as infinity. Such a number has an exponent of three digits, or at least 200
# digits (one that is digits only stays an integer). A run of digits is counted from its start only: linear time.
_MAY_OVERFLOW = re.compile(rb"[0-9](?:[eE]\+?[0-9]{3}|(?<![0-9][0-9])[0-9]{199})")


def check(text: bytes, value: Any) -> None:
    """Refuses what the parser lets through and the protocol does not. Walks `value` only where `text` gives reason to.

    Raises:
        ValueError: As for `parse`.
    """
    may_be_deep = text.count(b"{") + text.count(b"[") > MAX_DEPTH
    if not may_be_deep and not _MAY_OVERFLOW.search(text):
        return
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float) and not isfinite(item):
                raise ValueError("it has a number that is too large for a 64-bit float")
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        level = below
