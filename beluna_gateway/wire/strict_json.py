"""JSON text → value, as strictly as the protocol wants it: UTF-8, no NaN or infinity in any spelling, bounded nesting.

`parse_arguments` is the one judge of a tool call's arguments, in a backend's answer and in a client's history.
"""

from __future__ import annotations

from typing import Any

from . import json_pieces
from .json_pieces import MAX_DEPTH

__all__ = ["MAX_DEPTH", "parse", "parse_arguments"]


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
