"""JSON text → value, as strictly as the protocol wants it: UTF-8, no NaN or infinity in any spelling, bounded nesting.

`parse_arguments` is the one judge of a tool call's arguments, in a backend's answer and in a client's history.
`without_too_large` is the one rule for numbers that no 64-bit float holds, in what is passed on of a backend's answer.
`with_short_numbers` has the parser read those of thousands of digits.
"""

from __future__ import annotations

import re
from typing import Any, TypeVar, cast

from pydantic import JsonValue
from pydantic_core import to_json

from . import json_pieces
from .json_pieces import LARGEST_FLOAT, MAX_DEPTH

__all__ = [
    "LARGEST_FLOAT",
    "MAX_DEPTH",
    "parse",
    "parse_arguments",
    "rewritten",
    "with_short_numbers",
    "without_too_large",
]

J = TypeVar("J", bound=JsonValue)


def parse(text: bytes | str) -> Any:
    """The value of `text`. Of two equal keys the last counts.

    Raises:
        ValueError: It is not JSON in UTF-8, nested deeper than `MAX_DEPTH`, or has a number that no 64-bit float holds.
    """
    value, mistake = json_pieces.parse(text.encode() if isinstance(text, str) else text)
    if mistake is not None:
        raise ValueError(mistake)
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


# --- numbers that no 64-bit float holds ----------------------------------------------------------------------


def without_too_large(value: J) -> J:
    """`value` with null in place of each number beyond `LARGEST_FLOAT`; `value` itself where it has none.

    For what a backend sent and a client gets as it came (usage, annotations, metadata): one absurd number there must
    not cost an answer, and a line with `Infinity` or with 400 digits is unreadable for most clients.
    """
    level: list[Any] = [[value]]
    for container in level:  # it grows on the way
        for item in container.values() if type(container) is dict else container:
            kind = type(item)
            if kind is int:
                if not _LEAST <= item <= _MOST:
                    return cast("J", _replaced(value))
            elif kind is dict or kind is list:
                level.append(item)
            elif kind is float and not -LARGEST_FLOAT <= item <= LARGEST_FLOAT:
                return cast("J", _replaced(value))
    return value


_MOST = int(LARGEST_FLOAT)  # an integer compared with a float takes several times as long
_LEAST = -_MOST


def _replaced(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _replaced(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_replaced(item) for item in value]
    if isinstance(value, float | int) and not -LARGEST_FLOAT <= value <= LARGEST_FLOAT:
        return None
    return value


_STRING_OR_INFINITY = re.compile(rb'"(?:[^"\\]++|\\.)*+"|Infinity')


def rewritten(value: JsonValue) -> bytes:
    """JSON that reads as `value`, which was read of JSON: infinity, once a number like 1e400, becomes one again."""
    text = to_json(value)
    if b"Infinity" not in text:
        return text
    return _STRING_OR_INFINITY.sub(lambda found: b"1e999" if found[0] == b"Infinity" else found[0], text)


_STRING_OR_LONG_NUMBER = re.compile(
    rb'"(?:[^"\\]++|\\.)*+"?|(?<![\d.])\d{4301,}+(?:\.\d+)?(?:[eE][+-]?\d+)?', re.DOTALL
)


def with_short_numbers(text: bytes) -> bytes:
    """JSON of a backend with `1e999` for each number of more digits than the parser takes, which is 4,300.

    For a text that the parser refused: it reads such a number as infinity, which is no count, no code and no argument.
    """
    return _STRING_OR_LONG_NUMBER.sub(lambda found: found[0] if found[0].startswith(b'"') else b"1e999", text)
