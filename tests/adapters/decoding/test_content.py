"""The shapes of `content`: texts and reasoning in their order, everything else counted."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.adapters.decoding.content import read_content
from beluna_gateway.adapters.decoding.not_carried import NotCarried
from beluna_gateway.errors import GatewayError

TEXT = {"type": "text", "text": "4"}


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (None, []),
        ("", []),
        ([], []),
        ("hi", [("text", "hi")]),
        ([TEXT, TEXT], [("text", "44")]),
        (TEXT, [("text", "4")]),
        ([{"text": "4"}, "2"], [("text", "42")]),
        ([{"type": "output_text", "text": "4"}], [("text", "4")]),
        # Mistral's reasoning models
        (
            [{"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]}, TEXT],
            [("reasoning", "2+2"), ("text", "4")],
        ),
        ([{"type": "thinking", "thinking": "2+2"}, TEXT], [("reasoning", "2+2"), ("text", "4")]),
        ([{"type": "reasoning", "reasoning": "r"}], [("reasoning", "r")]),
        ([{"type": "reasoning", "text": "r"}], [("reasoning", "r")]),
        ([{"type": "reasoning", "summary": [{"type": "summary_text", "text": "r"}]}], [("reasoning", "r")]),
        ([{"type": "refusal", "refusal": "no"}], [("refusal", "no")]),
        ([{"type": "text", "text": None}, {"type": "thinking"}], []),
    ],
)
def test_texts_come_in_their_order(content: Any, texts: Any) -> None:
    """Neighbours of one kind are one text; nothing is counted as not carried."""
    not_carried = NotCarried()

    assert read_content(content, not_carried) == texts
    assert not_carried.metadata() == {}


def test_other_parts_are_counted_by_their_type() -> None:
    """What no frame carries is not dropped in silence."""
    not_carried = NotCarried()
    parts: Any = [TEXT, {"type": "image_url", "image_url": {}}, {"type": "reference"}, {"type": "reference"}]

    assert read_content(parts, not_carried) == [("text", "4")]
    assert not_carried.metadata() == {"not_carried": {"image": 1, "reference": 2}}


@pytest.mark.parametrize("content", [5, True, [5], [{}], {"a": 1}, [{"type": "text", "text": 5}], [[[[["deep"]]]]]])
def test_what_is_no_content_is_a_protocol_violation(content: Any) -> None:
    """A number, an object that is no part, arrays without end."""
    with pytest.raises(GatewayError) as failure:
        read_content(content, NotCarried())

    assert failure.value.kind == "protocol_violation"


@pytest.mark.parametrize("kind", [{"error": {}}, ["text"], 5, None, "", "_url"])
def test_a_part_whose_type_is_no_word_is_counted(kind: Any) -> None:
    """As a part of a kind that nobody knows; the text beside it is read."""
    not_carried = NotCarried()

    assert read_content([{"type": kind}, {"type": "text", "text": "a"}], not_carried) == [("text", "a")]
    assert not_carried.metadata() == {"not_carried": {"part": 1}}
