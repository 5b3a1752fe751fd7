"""JSON text → value, and what no parser should let through."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.wire.strict_json import MAX_DEPTH, parse

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


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
