"""JSON text → value, as strictly as the protocol wants it: no NaN or infinity in any spelling, no endless nesting."""

from __future__ import annotations

import re
from math import isfinite
from typing import Any

from pydantic_core import from_json

MAX_DEPTH = 200  # objects and arrays inside each other


def parse(text: bytes | str) -> Any:
    """The value of `text`. Of two equal keys the last counts.

    Raises:
        ValueError: It is not JSON in UTF-8, nested too deeply, or has a number that no 64-bit float can hold.
    """
    value = parse_loosely(text)
    check(text.encode() if isinstance(text, str) else text, value)
    return value


def parse_loosely(text: bytes | str) -> Any:
    """As `parse`, without what `check` looks for. Bytes are UTF-8, never guessed to be something else."""
    return from_json(text, allow_inf_nan=False, cache_strings="keys")


# A number of which the parser made infinity has an exponent of three digits, or one of two and 200 digits before it,
# or is all digits, which it keeps as an integer.
_MAY_OVERFLOW = re.compile(rb"[0-9](?:[eE]\+?[0-9]{3}|[0-9]{199})")


def check(text: bytes, value: Any) -> None:
    """What the parser lets through and the protocol does not. Walks the value only where the text gives reason to.

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
                raise ValueError("it holds a number that is too large for a 64-bit float")
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested deeper than {MAX_DEPTH}")
        level = below
