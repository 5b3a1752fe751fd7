"""Checks whether a value is a valid JSON Schema: one walk along a table, linear in the schema's size.

A keyword may have its form of draft 2020-12 or of any draft from 4 on: `items` as an array, `exclusiveMinimum` as a
boolean, `$recursiveAnchor` as a boolean, `$id` with a fragment.

A validator in Rust (`jsonschema-rs`), given the meta-schema, is as fast, but costs 15 MB of memory in every daemon for
this one check. The pure Python `jsonschema` is some hundred times slower, so that a large frame of one client would
stall the streams of all others, and a deep schema ends it with a `RecursionError`; it is the oracle of the tests.
References are not followed. Patterns are not compiled: ECMA-262's regular expressions are not Python's.
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
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        return False
    different: set[str] = set()
    for start in range(0, len(value), 4096):  # one call for a million would hold up the other threads
        different.update(value[start : start + 4096])
    return len(different) == len(value)


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


# Keyword → what its value must be, in words and as a check.
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

# Keywords whose value is a schema, an array of schemas, or an object of schemas.
_ONE = frozenset(
    {
        *("additionalProperties", "items", "contains", "propertyNames", "not", "if", "then", "else"),
        *("unevaluatedItems", "unevaluatedProperties", "contentSchema"),
    }
)
_LIST = frozenset({"allOf", "anyOf", "oneOf", "prefixItems"})
_BY_NAME = frozenset({"properties", "patternProperties", "dependentSchemas", "$defs", "definitions", "dependencies"})


def schema_mistake(schema: Any) -> str | None:
    """The first mistake in `schema`, with its path; None for a valid schema."""
    waiting: list[tuple[_Path, Any]] = [(None, schema)]
    while waiting:
        parent, value = waiting.pop()
        if isinstance(value, bool):
            continue
        if not isinstance(value, dict):
            return f"{_written(parent)}: expected a schema: an object, true or false"
        for keyword, argument in value.items():
            path = (parent, keyword)
            if (simple := _SIMPLE.get(keyword)) is not None:
                words, is_right = simple
                if not is_right(argument):
                    return f"{_written(path)}: expected {words}"
            elif keyword in _ONE and not (keyword == "items" and isinstance(argument, list)):
                waiting.append((path, argument))
            elif keyword in _LIST or keyword == "items":
                if not isinstance(argument, list) or not argument:
                    return f"{_written(path)}: expected an array of schemas, at least one"
                waiting.extend(((path, index), inner) for index, inner in enumerate(argument))
            elif keyword in _BY_NAME:
                if not isinstance(argument, dict):
                    return f"{_written(path)}: expected an object of schemas"
                waiting.extend(
                    ((path, name), inner)
                    for name, inner in argument.items()
                    if not (keyword == "dependencies" and _is_text_list(inner))  # the second form of older drafts
                )
    return None


# A path in the schema: its parent's path and the last step. It is written out for a mistake only, because the names in
# it may be megabytes long, with thousands of keywords below.
_Path = tuple["_Path", str | int] | None


def _written(path: _Path) -> str:
    steps: list[str] = []
    while path is not None:
        path, step = path
        steps.append(f"[{step}]" if isinstance(step, int) else f".{step[:100]}")
    return "$" + "".join(reversed(steps))
