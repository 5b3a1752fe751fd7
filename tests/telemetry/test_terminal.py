"""`printable`: what comes from outside cannot steer a terminal."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.telemetry.terminal import counted, printable, printable_json


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 漢 🎉", "plain é 漢 🎉"),
        ("\x1b[31mred\x1b]0;title\x07", r"\x1b[31mred\x1b]0;title\x07"),
        ("a\nb\tc\rd\x00\x7f\x9b", r"a\nb\tc\rd\x00\x7f\x9b"),
        ("\u202eevil\u2028", r"\u202eevil\u2028"),
        ("\ud800", r"\ud800"),
        ("", ""),
    ],
)
def test_control_characters_are_escapes(text: str, shown: str):
    """ESC, C0, C1, DEL, marks that reorder text, line separators and lone surrogates."""
    assert printable(text) == shown


def test_kept_characters_stay():
    """An answer keeps its lines and tabs, and nothing else."""
    assert printable("a\n\tb\r\x1b", keep="\n\t") == "a\n\tb\\r\\x1b"


@given(st.text(st.characters()))
def test_no_control_character_is_left(text: str):
    """Whatever the text is, the result can be encoded and has no character of the category Cc."""
    shown = printable(text)

    shown.encode()
    assert not any(unicodedata.category(character) == "Cc" for character in shown)


@given(st.text(st.characters()))
def test_json_keeps_its_value(text: str):
    """The text that is printed is the same JSON, without control characters."""
    shown = printable_json(json.dumps([text], ensure_ascii=False))

    assert json.loads(shown) == [text]
    assert printable(shown) == shown


def test_counts_have_their_plural():
    """One of a thing is told in the singular."""
    assert [counted(count, "request") for count in (0, 1, 2)] == ["0 requests", "1 request", "2 requests"]
