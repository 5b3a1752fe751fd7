"""Words and numbers of an answer, as servers really write them: `"null"` for nothing, `"12"` or `12.0` for 12."""

from __future__ import annotations

from pydantic import JsonValue

LARGEST_NUMBER = 2**53 - 1
"""The largest integer that every JSON library reads exactly. A larger count or time is treated as absent."""

_NO_WORDS = frozenset({"", "null", "None"})


def word(value: JsonValue) -> str | None:
    """`value` where it is a string that says something; the words `""`, `"null"` and `"None"` do not."""
    return value if isinstance(value, str) and value not in _NO_WORDS else None


def whole_number(value: JsonValue) -> int | None:
    """A count, code or time that may be an integer, an integral float or a string of digits.

    None for booleans, negative numbers, fractions, other strings, and what is above `LARGEST_NUMBER`.
    """
    if type(value) is not int:  # a boolean is another type
        if isinstance(value, str):
            # The length first: int() refuses thousands of digits.
            value = int(value) if len(value) <= 16 and value.isascii() and value.isdecimal() else None
        else:
            value = int(value) if isinstance(value, float) and value.is_integer() else None
    return value if value is not None and 0 <= value <= LARGEST_NUMBER else None
