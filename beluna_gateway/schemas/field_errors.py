"""pydantic's errors in plain words: the path and what was expected; never the value found, which may be private."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

Loc = tuple[int | str, ...]

MAX_NAME_CHARACTERS = 100
"""Longer keys in a path are cut: a client's may have megabytes."""

# pydantic's error type → what was expected, with the error's context filled in
_EXPECTED = {
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "list_type": "an array",
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "none_required": "null",
    "literal_error": "{expected}",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "string_too_short": "at least {min_length} character",
    "string_too_long": "at most {max_length} characters",
    "string_pattern_mismatch": "a string that matches {pattern}",
    "too_short": "at least {min_length} item",
}


def expected(details: Mapping[str, Any]) -> str:
    """What was expected in the place of one of `ValidationError.errors()`."""
    template = _EXPECTED.get(details["type"])
    message: str = details["msg"]
    return message if template is None else template.format(**details.get("ctx", {}))


def locate(details: Mapping[str, Any], raw: Any, is_tag: Callable[[int | str, str], bool]) -> tuple[str, Any]:
    """The path as a person would write it (empty for the whole), and the value found there.

    Args:
        details: One of `ValidationError.errors()`.
        raw: What was validated.
        is_tag: Whether a step, given the one before it, is not a key but the name of a variant. Other names that
            pydantic gives to the members of a union are no keys of `raw`, and are skipped.
    """
    path, value = "", raw
    loc: Loc = details["loc"]
    for position, step in enumerate(loc):
        if isinstance(step, int):
            path += f"[{step}]"
            value = value[step] if isinstance(value, list) and step < len(value) else None
        elif position and is_tag(loc[position - 1], step):
            continue
        elif isinstance(value, dict) and step != "[key]":
            missing = details["type"] == "missing" and position == len(loc) - 1
            if step in value or missing:
                name = step[:MAX_NAME_CHARACTERS]
                path += f".{name}" if path else name
                value = value.get(step)
    return path, value
