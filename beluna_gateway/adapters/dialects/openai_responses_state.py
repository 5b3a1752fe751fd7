"""What of a Responses answer goes back to the provider with the next turn: reasoning, programs, and what marks items.

Source: the OpenAI API reference, "Create a model response", `input` and `include`.
"""

from __future__ import annotations

from pydantic import JsonValue

from ...canonical import JsonObject
from ..encoding.provider_state import TurnNotes
from .openai_responses_items import Item

CARRIED = ("id", "phase", "namespace", "caller", "async")
"""What an output item has besides its content and must have when it comes back as input."""

MAX_ID_CHARACTERS = 64
"""The API's own limit for ids in `input` (`string_above_max_length`)."""

_PROGRAMS = frozenset({"program", "program_output"})
"""Programs that call tools, and what came of them: they must be "round-tripped" (openai.types.responses.Program)."""


def may_go_back(value: JsonValue) -> bool:
    """Whether `value` is an id that `input` takes."""
    return isinstance(value, str) and 0 < len(value) <= MAX_ID_CHARACTERS


def without_id(item: JsonObject) -> JsonObject:
    """`item` as one that the provider does not look up by its id."""
    return {key: value for key, value in item.items() if key != "id"}


def keep(item: Item, value: JsonObject) -> None:
    """Keeps in the item what of the whole one goes back."""
    # With neither of them the provider could not find a reasoning again: nothing is stored there.
    reasoned = value.get("encrypted_content") or (item.kind == "reasoning" and value.get("content"))
    if reasoned or item.kind in _PROGRAMS:
        item.opaque = {key: part for key, part in value.items() if key != "id" or may_go_back(part)}
    elif item.kind in ("message", "function_call"):
        item.extra = {key: value[key] for key in CARRIED if may_go_back(value.get(key))}
        caller = value.get("caller")
        if isinstance(caller, dict) and caller.get("type") == "program":
            item.extra["caller"] = caller
        if value.get("async") is True:
            item.extra["async"] = True


def note_turn(notes: TurnNotes, items: list[Item], spoken: list[Item], *, interleaved: bool) -> None:
    """Notes the pieces of the turn.

    Args:
        notes: Takes them.
        items: All items, in their order.
        spoken: The messages, in the order of their texts.
        interleaved: A message went on after another one.
    """
    lossy = any(item.is_lost for item in items)
    in_order = not interleaved and [item for item in items if item.spoken] == spoken
    # An item that is sent with its id is refused without the reasoning that it came of, and reasoning with its id
    # without the item that came of it ("was provided without its required …").
    with_ids = False
    unsaid = sum(item.characters() for item in spoken)
    for item in items:
        opaque = item.opaque
        if opaque is not None:
            if lossy and item.kind not in _PROGRAMS:
                opaque = without_id(opaque)
            notes.opaque(opaque)
        if item.kind == "reasoning":
            with_ids = opaque is not None and "id" in opaque
        extra = item.extra if with_ids else without_id(item.extra)
        if item.kind == "function_call":
            notes.call(item.call_id, extra)
        elif item.spoken and in_order:
            notes.text(item.characters(), extra)
        elif item.spoken:
            # The client's text is in another order than the items: which piece of it is whose cannot be said.
            if unsaid:
                notes.text(unsaid, {})
            unsaid, extra = 0, {}
        if extra.keys() - {"id"}:
            notes.mark_required()
