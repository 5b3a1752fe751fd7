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
        ([[[["deep"]]]], [("text", "deep")]),
        (TEXT, [("text", "4")]),
        ([{"text": "4"}, "2"], [("text", "42")]),
        ([{"type": "output_text", "text": "4"}], [("text", "4")]),
        ([{"type": "text", "content": "4"}], [("text", "4")]),
        ([{"type": "reasoning", "content": [{"type": "reasoning_text", "text": "r"}]}], [("reasoning", "r")]),
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
    """What no frame carries is not dropped in silence, wherever it stands."""
    not_carried = NotCarried()
    reference = {"type": "reference"}
    parts: Any = [TEXT, {"type": "image_url", "image_url": {}}, reference, reference]
    parts += [{"type": kind, kind: [reference]} for kind in ("text", "refusal", "thinking")]

    assert read_content(parts, not_carried) == [("text", "4")]
    assert not_carried.metadata() == {"not_carried": {"image": 1, "reference": 5}}


NO_CONTENT = "`content` that is neither a string nor an array of parts"
NO_PART = "a part of `content` with neither `type` nor `text`"


@pytest.mark.parametrize(
    ("content", "mistake"),
    [
        (5, NO_CONTENT),
        (True, NO_CONTENT),
        ([5], NO_CONTENT),
        ([{}], NO_PART),
        ({"a": 1}, NO_PART),
        ([{"type": "text", "text": 5}], NO_CONTENT),
        ([[[[["deep"]]]]], NO_CONTENT),
        *(([{"type": kind, kind: [[[["deep"]]]]}], NO_CONTENT) for kind in ("text", "refusal", "thinking")),
    ],
)
def test_what_is_no_content_is_a_protocol_violation(content: Any, mistake: str) -> None:
    """A number, an object that is no part, arrays without end."""
    with pytest.raises(GatewayError) as failure:
        read_content(content, NotCarried())

    assert failure.value.kind == "protocol_violation"
    assert failure.value.message.endswith(f"the backend sent {mistake}")


@pytest.mark.parametrize("kind", [{"error": {}}, ["text"], 5, None, "", "_url"])
def test_a_part_whose_type_is_no_word_is_counted(kind: Any) -> None:
    """As a part of a kind that nobody knows; the text beside it is read."""
    not_carried = NotCarried()

    assert read_content([{"type": kind}, {"type": "text", "text": "a"}], not_carried) == [("text", "a")]
    assert not_carried.metadata() == {"not_carried": {"part": 1}}
