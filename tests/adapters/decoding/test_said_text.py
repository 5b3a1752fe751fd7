"""`SaidText`: what a whole text adds to its pieces, without keeping the text."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.said_text import SaidText


@given(st.lists(st.text(min_size=1, max_size=4), max_size=20), st.text(max_size=5), st.integers(0, 40))
def test_the_rest_of_a_whole_is_what_the_pieces_left_out(pieces: list[str], rest: str, times: int) -> None:
    """However the text was cut, and however many pieces it came in."""
    said, pieces = SaidText(), pieces * times
    for piece in pieces:
        said.add(piece)

    assert said.rest("".join(pieces) + rest) == rest
    assert bool(said) == bool(pieces)


@pytest.mark.parametrize("whole", ["Hello", "Hello world", "hello.", "", "Hellö. "])
def test_a_whole_that_does_not_continue_the_pieces_has_no_rest(whole: str) -> None:
    """Shorter, or different anywhere."""
    said = SaidText()
    said.add("Hello.")

    assert said.rest(whole) is None


def test_a_rest_is_asked_for_any_number_of_times() -> None:
    """Each rest is taken as the next piece, and the whole may grow."""
    said = SaidText()
    for whole, rest in (("a", "a"), ("ab", "b"), ("ab", ""), ("abc", "c")):
        assert said.rest(whole) == rest
        if rest:
            said.add(rest)


@given(st.lists(st.text(max_size=3), max_size=200))
def test_the_length_counts_all_pieces(pieces: list[str]) -> None:
    """In characters, whenever it is asked for."""
    said = SaidText()
    for number, piece in enumerate(pieces, 1):
        said.add(piece)
        if number % 7 == 0:
            assert said.length == sum(map(len, pieces[:number]))

    assert said.length == sum(map(len, pieces))
