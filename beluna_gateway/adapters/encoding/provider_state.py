"""Opaque provider items of an earlier turn, carried in `provider_state`, and their place in that turn.

Some providers sign or encrypt their reasoning and want it back in the next request, in the order they gave it. A client
keeps text and calls of a turn apart from each other and does not see the rest. So a decoder notes the turn's pieces
in order (`TurnNotes`), the client carries the notes as `provider_state`, and `pieces` puts its text and its calls into
that order again. The notes hold no text and no arguments: those are the client's.

The state is `{dialect: {"backend": id, "model": name, "pieces": [...]}}`. Signatures and encrypted items are only valid
where they were made: state of another backend or another model is passed over, as another dialect's is. Version 0.1
wrote the bare array of pieces, without its origin; it is taken as this backend's and this model's.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import field
from typing import NamedTuple

from pydantic import JsonValue

from ...canonical import AssistantMessage, JsonObject, MediaPart, Part, ToolCall, immutable
from ...errors import invalid_request


class Origin(NamedTuple):
    """Where a turn's state was made. `model` is the model that was asked for, not the name in the answer."""

    dialect: str
    backend_id: str
    model: str


@immutable
class TextPiece:
    """Text of the turn. `extra`: what the provider had attached to it, under the keys that its decoder chose."""

    text: str
    extra: JsonObject = field(default_factory=dict)


@immutable
class CallPiece:
    """A call of the turn, and its position among the turn's calls.

    `noted`: it stands in the notes, so `extra` is all that the provider had attached to it.
    """

    call: ToolCall
    position: int
    extra: JsonObject = field(default_factory=dict)
    noted: bool = False


@immutable
class OpaquePiece:
    """Something that only its provider can read, exactly as it came."""

    value: JsonObject


Piece = TextPiece | MediaPart | CallPiece | OpaquePiece


class TurnNotes:
    """Notes on the answer that is coming in, piece by piece, in the provider's order.

    The dialect creates them for each answer and hands them to its decoder.
    """

    def __init__(self, dialect: str, backend_id: str, model: str) -> None:
        self._origin = (dialect, backend_id, model)
        self._entries: list[JsonValue] = []
        self._required = False

    def text(self, characters: int, extra: JsonObject) -> None:
        """The next piece is text of this length."""
        self._entries.append({"text": characters, "extra": extra} if extra else {"text": characters})

    def call(self, call_id: str, extra: JsonObject) -> None:
        """The next piece is a call. `extra`: what must stand beside it when it goes back."""
        self._entries.append({"call": call_id, "extra": extra} if extra else {"call": call_id})

    def opaque(self, value: JsonObject) -> None:
        """The next piece goes back to the provider as it is."""
        self._entries.append({"opaque": value})
        self._required = True

    def mark_required(self) -> None:
        """Some `extra` must go back. Without this, and without opaque pieces, `state` is empty."""
        self._required = True

    def state(self) -> JsonObject:
        """The `provider_state` for the client; empty where the provider needs nothing back."""
        if not self._required:
            return {}
        dialect, backend_id, model = self._origin
        return {dialect: {"backend": backend_id, "model": model, "pieces": self._entries}}


def pieces(message: AssistantMessage, origin: Origin, path: str) -> Iterator[Piece]:
    """The pieces of an earlier turn in the order the provider gave them; text before calls where there are no notes.

    The client's text and calls decide, the notes only order them: where a client has changed the text, what was
    attached to the old one is left out; calls that it dropped are left out, calls that it added come last.

    Raises:
        GatewayError: `invalid_request`, where the state of this dialect has not the form that `TurnNotes` gives it.
    """
    parts = list(message.parts)
    positions: dict[str, deque[int]] = {}
    for position, call in enumerate(message.tool_calls):
        positions.setdefault(call.id, deque()).append(position)
    entries = _entries(message.provider_state.get(origin.dialect), origin, f"{path}.provider_state.{origin.dialect}")
    text = "".join(part.text for part in parts if not isinstance(part, MediaPart))
    noted = sum(entry.text for entry in entries if entry.text is not None)
    unchanged = noted == len(text) and not any(isinstance(part, MediaPart) for part in parts)
    begin = 0
    for entry in entries:
        if entry.opaque is not None:
            yield OpaquePiece(entry.opaque)
        elif entry.call is not None:
            if of_this_id := positions.get(entry.call):
                position = of_this_id.popleft()
                yield CallPiece(message.tool_calls[position], position, entry.extra, noted=True)
        elif entry.text is not None and unchanged:
            yield TextPiece(text[begin : begin + entry.text], entry.extra)
            begin += entry.text
            parts.clear()
        else:
            yield from _plain(parts)
            parts.clear()
    yield from _plain(parts)
    for position in sorted(position for left in positions.values() for position in left):
        yield CallPiece(message.tool_calls[position], position)


def part_path(message: AssistantMessage, part: MediaPart, path: str) -> str:
    """The path of a part that `pieces` gave of the message at `path`, for refusals."""
    position = next(position for position, own in enumerate(message.parts) if own is part)
    return f"{path}.parts[{position}]"


def _plain(parts: list[Part]) -> Iterator[Piece]:
    for part in parts:
        yield part if isinstance(part, MediaPart) else TextPiece(part.text)


@immutable
class _Entry:
    """One note: exactly one of `text`, `call` and `opaque` is set."""

    extra: JsonObject
    text: int | None = None
    call: str | None = None
    opaque: JsonObject | None = None


def _entries(state: JsonValue, origin: Origin, path: str) -> list[_Entry]:
    values = state
    if isinstance(state, dict):
        match state:
            case {"backend": str(backend_id), "model": str(model), "pieces": list(values)} if len(state) == 3:
                if (backend_id, model) != (origin.backend_id, origin.model):
                    return []
                path = f"{path}.pieces"
            case _:
                raise invalid_request(f"{path}: not what `completed` gave for this turn")
    if values is None:
        return []
    if not isinstance(values, list):
        raise invalid_request(f"{path}: not what `completed` gave for this turn: expected an object")
    return [_entry(value, f"{path}[{index}]") for index, value in enumerate(values)]


def _entry(value: JsonValue, path: str) -> _Entry:
    if isinstance(value, dict):
        extra = value.get("extra", {})
        kinds = value.keys() - {"extra"}
        match value:
            case {"opaque": dict(opaque)} if len(value) == 1:
                return _Entry({}, opaque=opaque)
            case {"call": str(call_id)} if kinds == {"call"} and isinstance(extra, dict):
                return _Entry(extra, call=call_id)
            case {"text": int(characters)} if kinds == {"text"} and isinstance(extra, dict):
                if characters >= 0 and not isinstance(characters, bool):
                    return _Entry(extra, text=characters)
    raise invalid_request(f"{path}: not what `completed` gave for this turn")
