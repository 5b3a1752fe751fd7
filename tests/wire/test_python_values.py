"""What a program passes in place of JSON: what a line could not say is named by its path."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.wire.frames import Infer
from beluna_gateway.wire.json_pieces import LARGEST_FLOAT, MAX_DEPTH
from beluna_gateway.wire.python_values import mistake

HOLDS_ITSELF: dict[str, Any] = {}
HOLDS_ITSELF["a"] = [HOLDS_ITSELF]
SHARED: dict[str, Any] = {"x": None}
NO_VALUE = "expected an object, an array, a string, a number, true, false or null"


def nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("value", "told"),
    [
        ({"a": float("inf")}, "a: found inf, expected a finite number"),
        ({"a": {"b": float("nan")}}, "a.b: found nan, expected a finite number"),
        ({"a": [0, {"b": (1, float("-inf"))}]}, "a[1].b[1]: found -inf, expected a finite number"),
        ({"a": 10**400}, "a: found a number that is too large for a 64-bit float"),
        ({"a": -(10**400)}, "a: found a number that is too large for a 64-bit float"),
        ({"a": {1: "x"}}, "a: found a key that is a Python value of the type 'int', expected a string"),
        ({"a": {"x"}}, f"a: found a Python value of the type 'set', {NO_VALUE}"),
        ({"a": b"x"}, f"a: found a Python value of the type 'bytes', {NO_VALUE}"),
        ({"a": "é\ud800"}, "a: found a lone surrogate, which no UTF-8 text has"),
        (nested(MAX_DEPTH + 1), "[0]" * 33 + "[…: nested deeper than 200, or in itself"),
        ({"x": "y", "a": float("nan"), "b": float("inf")}, "a: found nan, expected a finite number"),
    ],
)
def test_what_no_line_can_say_has_a_reason(value: Any, told: str) -> None:
    """The first mistake, by its path and without the value."""
    assert mistake(value) == told


def test_what_holds_itself_is_refused() -> None:
    """However it gets there."""
    told = mistake(HOLDS_ITSELF)

    assert told is not None
    assert told.startswith("a[0].a[0]")
    assert told.endswith("…: nested deeper than 200, or in itself")


@pytest.mark.parametrize(
    "value",
    [
        *(None, True, False, 0, -1, 2.5, "", "é", [], {}, (), 2**70, LARGEST_FLOAT, -LARGEST_FLOAT),
        {"a": (1, None, [True, {"b": "x"}]), "b": [SHARED, SHARED]},
        nested(MAX_DEPTH),
    ],
)
def test_what_a_line_can_say_has_none(value: Any) -> None:
    """Numbers of both kinds up to the largest, tuples for arrays, 200 levels."""
    assert mistake(value) is None


def test_a_frames_fields_are_named_as_on_the_wire() -> None:
    """By their keys there, whatever they are called in Python."""
    messages = [{"role": "user", "parts": [{"json": {"value": [float("nan")]}}]}]
    mode = {"json_schema": {"name": "s", "schema": {"const": float("nan")}}}

    assert mistake(Infer.model_validate({"type": "infer", "messages": messages})) == (
        "messages[0].parts[0].json.value[0]: found nan, expected a finite number"
    )
    assert mistake(Infer.model_validate({"type": "infer", "messages": [], "output_mode": mode})) == (
        "output_mode.json_schema.schema.const: found nan, expected a finite number"
    )
