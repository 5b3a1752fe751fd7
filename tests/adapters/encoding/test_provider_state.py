"""`encoding/provider_state.py`: the client's text and calls, laid into the provider's order."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.encoding.provider_state import (
    CallPiece,
    OpaquePiece,
    Origin,
    Piece,
    TextPiece,
    TurnNotes,
    part_path,
    pieces,
)
from beluna_gateway.canonical import AssistantMessage, ImagePart, JsonPart, TextPart, ToolCall
from beluna_gateway.errors import GatewayError

from ..arbitrary import json_values

HERE = Origin("some_dialect", "main", "small")


def call(call_id: str) -> ToolCall:
    return ToolCall(call_id, "look", "{}", {})


def turn(text: str, *calls: str, state: Any = None) -> AssistantMessage:
    parts = (TextPart(text),) if text else ()
    return AssistantMessage(parts, tuple(map(call, calls)), {} if state is None else {"some_dialect": state})


def laid_out(message: AssistantMessage) -> list[Piece]:
    return list(pieces(message, HERE, "messages[1]"))


NOTES = [{"opaque": {"x": 1}}, {"text": 2, "extra": {"id": "a"}}, {"call": "c1"}, {"opaque": {"x": 2}}, {"text": 3}]


def test_the_notes_give_the_order() -> None:
    """Text and calls come back where they stood, with what the provider had attached to them."""
    assert laid_out(turn("Hi there"[:5], "c1", state=NOTES)) == [
        OpaquePiece({"x": 1}),
        TextPiece("Hi", {"id": "a"}),
        CallPiece(call("c1"), 0, {}, noted=True),
        OpaquePiece({"x": 2}),
        TextPiece(" th"),
    ]


def test_without_notes_text_comes_before_calls() -> None:
    """A turn of a client that carries no state is its parts, then its calls."""
    assert laid_out(turn("Hi", "c1", "c2")) == [TextPiece("Hi"), CallPiece(call("c1"), 0), CallPiece(call("c2"), 1)]


def test_notes_of_another_dialect_are_passed_over() -> None:
    """What another provider gave is not this one's business."""
    message = AssistantMessage((TextPart("Hi"),), (), {"another": [{"opaque": {}}]})

    assert laid_out(message) == [TextPiece("Hi")]


@pytest.mark.parametrize(("backend", "model"), [("other", "small"), ("main", "large")])
def test_notes_of_another_backend_or_model_are_passed_over(backend: str, model: str) -> None:
    """Signatures are valid for the backend and the model that made them: elsewhere the turn is text and calls."""
    state = {"backend": backend, "model": model, "pieces": NOTES}

    assert laid_out(turn("Hi th", "c1", state=state)) == [TextPiece("Hi th"), CallPiece(call("c1"), 0)]


def test_notes_without_an_origin_are_taken() -> None:
    """Version 0.1 wrote the bare array; a conversation that began with it goes on with all of its notes."""
    named = {"backend": "main", "model": "small", "pieces": NOTES}

    assert laid_out(turn("Hi th", "c1", state=NOTES)) == laid_out(turn("Hi th", "c1", state=named))


def test_an_empty_text_may_be_noted() -> None:
    """What was attached to it goes back in its place."""
    state = [{"text": 0, "extra": {"id": "a"}}, {"opaque": {"x": 1}}, {"text": 2}]

    assert laid_out(turn("Hi", state=state)) == [TextPiece("", {"id": "a"}), OpaquePiece({"x": 1}), TextPiece("Hi")]


def test_a_changed_text_is_the_clients() -> None:
    """Where the text is another one than noted, the client's stands, once, without what belonged to the old one."""
    assert laid_out(turn("Something else", "c1", state=NOTES)) == [
        OpaquePiece({"x": 1}),
        TextPiece("Something else"),
        CallPiece(call("c1"), 0, {}, noted=True),
        OpaquePiece({"x": 2}),
    ]


def test_calls_are_the_clients() -> None:
    """A call that the client dropped is left out, one that it added comes last."""
    assert laid_out(turn("Hi th", "c9", state=NOTES))[-3:] == [
        OpaquePiece({"x": 2}),
        TextPiece(" th"),
        CallPiece(call("c9"), 0),
    ]


def test_parts_are_joined_and_images_kept() -> None:
    """Several texts count as one; a picture in the turn means that it is not the turn that was noted."""
    json_part = JsonPart([1], "[1]")
    image = ImagePart("https://example.org/a.png", None, None)
    joined = AssistantMessage((TextPart("Hi"), json_part), (), {"some_dialect": [{"text": 5}]})
    pictured = AssistantMessage((TextPart("Hi"), image), (), {"some_dialect": [{"text": 2}]})

    assert laid_out(joined) == [TextPiece("Hi[1]")]
    assert laid_out(pictured) == [TextPiece("Hi"), image]


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"backend": "main", "model": "small"},
        {"backend": "main", "model": "small", "pieces": {}},
        {"backend": "main", "model": None, "pieces": []},
        {"backend": "main", "model": "small", "pieces": [], "more": 1},
        {"backend": "main", "model": "small", "pieces": [{"text": -1}]},
        "x",
        1,
        [1],
        [{}],
        [{"text": -1}],
        [{"text": "2"}],
        [{"call": 1}],
        [{"opaque": []}],
        [{"text": 1, "call": "a"}],
        [{"text": 1, "extra": 1}],
        [{"opaque": {}, "extra": {"a": 1}}],
        [{"text": True}],
    ],
    ids=json.dumps,
)
def test_foreign_notes_are_refused(state: Any) -> None:
    """What no decoder made is `invalid_request`, naming where it stands."""
    with pytest.raises(GatewayError, match=r"messages\[1\]\.provider_state\.some_dialect") as failure:
        laid_out(turn("Hi", state=state))
    assert failure.value.kind == "invalid_request"


@given(json_values)
def test_any_notes_are_taken_or_refused(state: Any) -> None:
    """Whatever a client sends as state, it is refused or the turn is whole."""
    with suppress(GatewayError):
        assert CallPiece(call("c1"), 0) in laid_out(turn("Hi", "c1", state=state))


_pieces = st.one_of(
    st.tuples(st.just("text"), st.text(min_size=1, max_size=5)),
    st.tuples(st.just("call"), st.just("")),
    st.tuples(st.just("opaque"), json_values),
)


@given(st.lists(_pieces, max_size=6))
def test_what_was_noted_comes_back(answer: list[tuple[str, Any]]) -> None:
    """An answer's pieces, noted and laid out again, are the same pieces; opaque ones unchanged."""
    notes, expected, text, calls = TurnNotes(*HERE), [], "", []
    for index, (kind, value) in enumerate(answer):
        if kind == "text":
            notes.text(len(value), {"n": index})
            text += value
            expected.append(("text", value, {"n": index}))
        elif kind == "call":
            notes.call(f"c{index}", {"n": index})
            calls.append(f"c{index}")
            expected.append(("call", f"c{index}", {"n": index}))
        else:
            notes.opaque({"value": value})
            expected.append(("opaque", {"value": value}, {}))
    notes.mark_required()
    sent = json.loads(json.dumps(notes.state()))
    message = AssistantMessage((TextPart(text),) if text else (), tuple(map(call, calls)), sent)

    assert expected == [_flat(piece) for piece in laid_out(message)]


def _flat(piece: Piece) -> tuple[str, Any, Any]:
    match piece:
        case TextPiece(text, extra):
            return "text", text, extra
        case CallPiece(made, _, extra):
            return "call", made.id, extra
        case OpaquePiece(value):
            return "opaque", value, {}
    raise AssertionError(piece)


def test_no_state_where_none_is_needed() -> None:
    """An answer that the provider need not see again leaves no state with the client."""
    notes = TurnNotes(*HERE)
    notes.text(3, {})
    notes.call("c1", {"id": "x"})

    assert notes.state() == {}


def test_the_state_is_what_the_protocol_shows() -> None:
    """Its origin, then a note for each piece; what the provider attached stands there only where it attached something.

    A client may keep a state for longer than one version of the gateway lives.
    """
    notes = TurnNotes(*HERE)
    notes.text(3, {})
    notes.text(2, {"id": "a"})
    notes.call("c1", {})
    notes.call("c2", {"id": "b"})
    notes.opaque({"x": 1})

    assert notes.state() == {
        "some_dialect": {
            "backend": "main",
            "model": "small",
            "pieces": [
                {"text": 3},
                {"text": 2, "extra": {"id": "a"}},
                {"call": "c1"},
                {"call": "c2", "extra": {"id": "b"}},
                {"opaque": {"x": 1}},
            ],
        }
    }


def test_a_media_part_is_named_by_its_own_place() -> None:
    """Of two equal pictures, too."""
    first, second = (ImagePart("https://example.org/a.png", None, None) for _ in range(2))
    message = AssistantMessage((TextPart("a"), first, TextPart("b"), second))

    assert [part_path(message, part, "messages[1]") for part in (first, second)] == [
        "messages[1].parts[1]",
        "messages[1].parts[3]",
    ]
