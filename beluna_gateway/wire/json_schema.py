"""Is a value a valid JSON Schema? A walk over one table, as fast as the schema is long.

A keyword may have its form of draft 2020-12 or of any draft from 4 on: `items` as an array, `exclusiveMinimum` as a
boolean, `$recursiveAnchor` as a boolean, `$id` with a fragment.

A general validator that is given the meta-schema answers the same, some hundred times slower: a client's frame of a few
megabytes would stand still everyone else's streams, and a deep one ends in a `RecursionError`.
References are not followed, and patterns are not compiled: theirs is another language than Python's.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

_TYPES = frozenset({"array", "boolean", "integer", "null", "number", "object", "string"})


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    # draft 2020-12 takes 3.0 for the integer 3
    return _is_number(value) and value >= 0 and (isinstance(value, int) or value.is_integer())


def _is_text_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value) and len(set(value)) == len(value)


def _is_type(value: Any) -> bool:
    if isinstance(value, str):
        return value in _TYPES
    return _is_text_list(value) and bool(value) and _TYPES.issuperset(value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_anchor(value: Any) -> bool:
    return isinstance(value, str) and re.fullmatch(r"[A-Za-z_][-A-Za-z0-9._]*", value) is not None


# What the value of a keyword must be, in words and as a check.
_SIMPLE: dict[str, tuple[str, Callable[[Any], bool]]] = {
    "type": ("one of the seven types, or a list of different ones", _is_type),
    "enum": ("an array", lambda value: isinstance(value, list)),
    "examples": ("an array", lambda value: isinstance(value, list)),
    "multipleOf": ("a number above 0", lambda value: _is_number(value) and value > 0),
    "required": ("an array of different strings", _is_text_list),
    "dependentRequired": (
        "an object of arrays of different strings",
        lambda value: isinstance(value, dict) and all(map(_is_text_list, value.values())),
    ),
    "$vocabulary": (
        "an object of booleans",
        lambda value: isinstance(value, dict) and all(map(_is_flag, value.values())),
    ),
    **dict.fromkeys(("$anchor", "$dynamicAnchor"), ("an anchor's name", _is_anchor)),
    "$recursiveAnchor": ("true or false", lambda value: _is_flag(value) or _is_anchor(value)),
    **dict.fromkeys(("minimum", "maximum"), ("a number", _is_number)),
    **dict.fromkeys(
        ("exclusiveMinimum", "exclusiveMaximum"), ("a number", lambda value: _is_number(value) or _is_flag(value))
    ),
    **dict.fromkeys(
        (
            *("minLength", "maxLength", "minItems", "maxItems", "minProperties", "maxProperties"),
            *("minContains", "maxContains"),
        ),
        ("a whole number from 0", _is_count),
    ),
    **dict.fromkeys(("uniqueItems", "deprecated", "readOnly", "writeOnly"), ("true or false", _is_flag)),
    **dict.fromkeys(
        (
            *("title", "description", "format", "pattern", "contentEncoding", "contentMediaType"),
            *("$schema", "$id", "$ref", "$dynamicRef", "$recursiveRef", "$comment"),
        ),
        ("a string", _is_text),
    ),
}

# Where the schemas inside a schema are.
_ONE = frozenset(
    {
        *("additionalProperties", "items", "contains", "propertyNames", "not", "if", "then", "else"),
        *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
    }
)
_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions", "dependencies"})


def schema_mistake(schema: Any) -> str | None:
    """The first thing that is wrong with `schema`, with its place; None for a valid one."""
    waiting = [("$", schema)]
    while waiting:
        at, value = waiting.pop()
        if isinstance(value, bool):
            continue
        if not isinstance(value, dict):
            return f"{at}: expected a schema: an object, true or false"
        for keyword, argument in value.items():
            place = f"{at}.{keyword}"
            if (simple := _SIMPLE.get(keyword)) is not None:
                words, is_right = simple
                if not is_right(argument):
                    return f"{place}: expected {words}"
            elif keyword in _ONE and not (keyword == "items" and isinstance(argument, list)):
                waiting.append((place, argument))
            elif keyword in _LIST or keyword == "items":
                if not isinstance(argument, list) or not argument:
                    return f"{place}: expected an array of schemas, at least one"
                waiting.extend((f"{place}[{index}]", inner) for index, inner in enumerate(argument))
            elif keyword in _BY_NAME:
                if not isinstance(argument, dict):
                    return f"{place}: expected an object of schemas"
                waiting.extend(
                    (f"{place}.{name}", inner)
                    for name, inner in argument.items()
                    if not (keyword == "dependencies" and _is_text_list(inner))  # an older draft's second form
                )
    return None
