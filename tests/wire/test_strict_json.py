"""JSON text → value, and what no parser should let through."""

from __future__ import annotations

import json
import time
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic_core import from_json, to_json

from beluna_gateway.wire.strict_json import (
    LARGEST_FLOAT,
    MAX_DEPTH,
    parse,
    parse_arguments,
    rewritten,
    with_short_numbers,
    without_too_large,
)

texts = st.text(max_size=8)
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(texts, inner, max_size=4),
    max_leaves=12,
)
objects = st.dictionaries(texts, values, max_size=4)


@given(values, st.booleans())
def test_what_is_written_is_read(value: Any, ascii_only: bool):
    """Any JSON value comes back, from bytes and from text."""
    text = json.dumps(value, ensure_ascii=ascii_only)

    assert parse(text) == value
    assert parse(text.encode()) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "NaN",
        "-Infinity",
        "Infinity",
        '"\\ud800"',
        "[1,]",
        "1e400",
        "[" + "9" * 250 + "e99]",
        "1 2",
        "\ufeff1",
        "'a'",
    ],
    ids=lambda text: text[:12],
)
def test_what_is_not_strict_is_refused(text: str):
    """NaN, infinity in any spelling, lone surrogates, and what is no JSON at all."""
    for form in (text, text.encode()):
        with pytest.raises(ValueError, match=r"."):
            parse(form)


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-32", "latin-1"])
def test_bytes_are_utf_8(encoding: str):
    """No other encoding is guessed."""
    with pytest.raises(ValueError, match=r"."):
        parse('{"é":1}'.encode(encoding))


@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
def test_depth(opening: str, closing: str):
    """`MAX_DEPTH` levels are taken and one more is not, for arrays and objects alike."""

    def nested(depth: int) -> str:
        return opening * depth + "1" + closing * depth if opening != "[" else "[" * depth + "]" * depth

    parse(nested(MAX_DEPTH))
    for depth in (MAX_DEPTH + 1, 10 * MAX_DEPTH, 100_000):
        with pytest.raises(ValueError, match=r"."):
            parse(nested(depth))


def test_of_two_equal_keys_the_last_counts():
    """As in every common JSON parser, and as the provider will read the same text again."""
    assert parse_arguments('{"x":1,"x":2}') == {"x": 2}


@given(objects, st.sampled_from(["", " ", "\n\t"]))
def test_arguments_are_any_object(value: dict[str, Any], space: str):
    """Any JSON object is a call's arguments, with white space around it or not."""
    assert parse_arguments(space + json.dumps(value) + space) == value


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"x":1e999}', "too large"),
        ('{"x":[-1e999]}', "too large"),
        ('{"x":1E+0400}', "too large"),
        ('{"x":' + "9" * 250 + "e99}", "too large"),
        ('{"x":' + "9" * 309 + "}", "too large"),
        ('{"x":NaN}', "not JSON"),
        ('{"x":1}}', "not JSON"),
        ('{"x":1', "not JSON"),
        ("", "not JSON"),
        ('{"x":"\\ud800"}', "not JSON"),
        ('{"a":' * (MAX_DEPTH + 1) + "1" + "}" * (MAX_DEPTH + 1), "not JSON: recursion limit"),
        ("[1]", "not an object"),
        ('"{}"', "not an object"),
        ("null", "not an object"),
    ],
    ids=lambda text: text[:20],
)
def test_what_is_no_object_is_no_arguments(text: str, why: str):
    """Each reason is told: no JSON, JSON of another type, a number that no float can hold, endless nesting."""
    with pytest.raises(ValueError, match=why):
        parse_arguments(text)


@pytest.mark.parametrize("text", ['{"x":1e307}', '{"x":"1e999"}', '{"x":0.1e308}', '{"x":' + "9" * 250 + "}"])
def test_what_only_looks_too_large_is_taken(text: str):
    """Digits in a string, large finite numbers, and integers of any common length."""
    assert parse_arguments(text) == json.loads(text)


@pytest.mark.parametrize("piece", ["1" * 199 + ",", "1e99,", '"12",', "1.5e100,"], ids=lambda piece: piece[:8])
def test_cost_is_linear(piece: str):
    """Eight times the text takes about eight times as long, whatever looks like a large number in it."""

    def seconds(size: int) -> float:
        text = '{"x":[' + piece * (size // len(piece)) + "0]}"
        best = inf
        for _ in range(3):
            began = time.thread_time()
            parse_arguments(text)
            best = min(best, time.thread_time() - began)
        return best

    assert seconds(800_000) < 30 * seconds(100_000) + 0.05


LARGEST = [LARGEST_FLOAT, -LARGEST_FLOAT]


@pytest.mark.parametrize("number", [b"1e400", b"-1e400", b"9" * 309, b"-" + b"9" * 4000])
def test_a_number_that_no_float_holds_is_passed_on_as_null(number: bytes):
    """Wherever it stands, and nothing else is changed; the backend's own value is left as it is."""
    text = b'{"a":[1,{"b":%b}],"c":"Infinity","d":[%b,%b,true,null]}' % (number, number, to_json(LARGEST)[1:-1])
    read, before = from_json(text), from_json(text)

    assert without_too_large(read) == {"a": [1, {"b": None}], "c": "Infinity", "d": [None, *LARGEST, True, None]}
    assert without_too_large(read["d"][0]) is None
    assert read == before


@given(objects)
def test_what_every_float_holds_is_passed_on_as_it_is(value: dict[str, Any]):
    """The same object, not a copy."""
    assert without_too_large(value) is value


@pytest.mark.parametrize(
    "text", [b'{"a":1e999}', b'{"Infinity":[-1e999,1e999,"Infinity","\\"Infinity"]}', b"1e999", b'["-Infinity",1]']
)
def test_what_was_read_is_written_so_that_it_reads_the_same(text: bytes):
    """JSON has no word for infinity, and what is one in a string stays a word."""
    assert rewritten(from_json(text)) == text
    assert from_json(rewritten(from_json(text)), allow_inf_nan=False) == from_json(text)


@pytest.mark.parametrize("number", [b"9" * 4301, b"-" + b"9" * 5000, b"1" * 5000 + b".5e3"], ids=len)
def test_a_number_of_thousands_of_digits_is_read_as_infinity(number: bytes):
    """The parser refuses it; what else the text holds is read, and digits in a string stay."""
    digits = b"1" * 5000
    text = b'{"a":[%b,1.5],"b":"\\"%b","c":%b}' % (number, digits, number)
    with pytest.raises(ValueError, match="out of range"):
        from_json(text)

    assert from_json(with_short_numbers(text)) == {
        "a": [-inf if number.startswith(b"-") else inf, 1.5],
        "b": '"' + digits.decode(),
        "c": -inf if number.startswith(b"-") else inf,
    }


@pytest.mark.parametrize("text", [b'{"a":"%b"}' % (b"1" * 5000), b'{"a":12,"b":"1', b'{"a":%b' % (b"1" * 4300)])
def test_what_the_parser_takes_is_not_shortened(text: bytes):
    assert with_short_numbers(text) == text
