"""A completion item at a cursor, as text of an answer."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters.copilot.documents import SyntheticDocument, item_list, sign_in_failure
from beluna_gateway.errors import GatewayError


def item(text, begin: int | None = None, line: int = 1):
    end = {"line": line, "character": 99}
    return {
        "insertText": text,
        "range": begin is not None and {"start": {"line": line, "character": begin}, "end": end},
    }


@pytest.mark.parametrize(
    ("completion", "continuation"),
    [
        (item(" world"), " world"),
        (item(" world", 7), " world"),
        (item("𝒳 hello world", 0), " world"),
        (item("hello world", 3), " world"),
        (item("hello", 3), ""),
        (item("Something else", 0), "Something else"),
        (item("𝒳 hello world", 0, line=0), "𝒳 hello world"),
        (item("llo world", 1), "llo world"),  # in the middle of 𝒳: no such place
        (item({"kind": "snippet", "value": " world"}, 7), " world"),
        ({"insertText": " world"}, " world"),
    ],
)
def test_continuation(completion, continuation):
    """An item that repeats the line it replaces is the text after the cursor; places are counted in UTF-16."""
    document = SyntheticDocument("file:///1.md", "first\n𝒳 hello")

    assert document.cursor == {"line": 1, "character": 8}
    assert document.continuation(completion) == continuation


@pytest.mark.parametrize(
    ("text", "cursor"),
    [
        ("", {"line": 0, "character": 0}),
        ("a\r\nb\rc\n", {"line": 3, "character": 0}),
        ("a\u2028b\x0cc\x85", {"line": 0, "character": 6}),
    ],
)
def test_lines_are_those_of_the_protocol(text, cursor):
    """Lines end at LF, CRLF and CR, and nowhere else."""
    assert SyntheticDocument("u", text).cursor == cursor


@pytest.mark.parametrize("completion", [None, "text", {}, {"insertText": 1}, {"insertText": {"value": None}}])
def test_items_without_text(completion):
    """What is no item with a text is a `protocol_violation`."""
    with pytest.raises(GatewayError, match="completion item") as failure:
        SyntheticDocument("u", "x").continuation(completion)

    assert failure.value.kind == "protocol_violation"


@pytest.mark.parametrize(
    ("result", "items"), [(None, []), ({}, []), ({"items": None}, []), ([1], [1]), ({"items": [1, 2]}, [1, 2])]
)
def test_item_lists(result, items):
    """Items come in an object, bare, or not at all."""
    assert item_list(result) == items


def test_items_that_are_no_array():
    """Items that are no array are a `protocol_violation`."""
    with pytest.raises(GatewayError, match="not an array"):
        item_list({"items": {}})


@pytest.mark.parametrize("status", ["OK", "MaybeOK", "AlreadySignedIn"])
def test_signed_in(status):
    """These statuses let requests through."""
    assert sign_in_failure(status) is None
