"""Words and numbers as servers write them: what says something, and what does not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.scalars import LARGEST_NUMBER, whole_number, word


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (0, 0),
        (12, 12),
        (12.0, 12),
        ("12", 12),
        ("007", 7),
        (LARGEST_NUMBER, LARGEST_NUMBER),
        (LARGEST_NUMBER + 1, None),
        (str(LARGEST_NUMBER), LARGEST_NUMBER),
        (str(LARGEST_NUMBER + 1), None),
        ("0" * 16 + "7", None),  # nobody writes so many digits
        (1e300, None),
        (float("inf"), None),
        (float("nan"), None),
        (1.5, None),
        (-1, None),
        ("-1", None),
        ("1.0", None),
        ("", None),
        ("²", None),
        ("٣", None),
        ("9" * 5000, None),
        (10**400, None),
        (True, None),
        (False, None),
        (None, None),
        ([1], None),
    ],
)
def test_a_number_is_an_integer_however_it_is_written(value: Any, number: int | None) -> None:
    """Integral floats and strings of digits are numbers; booleans, fractions and what is above 2^53-1 are none."""
    found = whole_number(value)

    assert found == number
    assert type(found) is not bool


@given(st.text(max_size=20) | st.integers() | st.floats() | st.text("0123456789", max_size=30))
def test_any_value_is_a_number_in_range_or_none(value: Any) -> None:
    """No spelling of a number raises or comes out of range."""
    number = whole_number(value)

    assert number is None or 0 <= number <= LARGEST_NUMBER


@pytest.mark.parametrize(("value", "said"), [("x", "x"), ("", None), ("null", None), ("None", None), (None, None)])
def test_some_words_say_nothing(value: Any, said: str | None) -> None:
    """`""`, `"null"` and `"None"` are what servers in Python and JavaScript write for nothing."""
    assert word(value) == said
