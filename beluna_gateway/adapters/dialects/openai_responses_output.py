"""The output of a Responses answer: which of its items an event means, or an entry of the whole output.

A server may name an item by its index, by an id, or by neither, and some give several items one name; the sources stand
beside the rules, and in `openai_responses_decoder.py`.
"""

from __future__ import annotations

from pydantic import JsonValue

from ...canonical import JsonObject
from ..base import expect_text
from ..decoding.kept import KeptBytes
from ..decoding.tool_calls import call_id_text
from .openai_responses_items import Item, texts_of

_ITEM_COST = 500
"""Bytes of memory, about, that an item takes whatever is in it."""

_CANDIDATES = 8
"""Items whose texts are compared with a whole one, at most."""


class Output:
    """The items of one answer.

    Args:
        kept: Counts what is kept of them.
    """

    __slots__ = ("_ambiguous", "_kept", "_named", "items")

    def __init__(self, kept: KeptBytes) -> None:
        self.items: list[Item] = []
        """In the order of their begin."""
        self._kept = kept
        self._named: dict[int | str, Item] = {}  # by index and by id: a server may name an item by either
        self._ambiguous: set[int | str] = set()  # names that several items have had

    def begin(self, index: JsonValue, value: JsonObject) -> Item:
        """A new item."""
        item = Item(len(self.items), expect_text(value.get("type"), "an output item's type"), index_of(index))
        self._kept.add(_ITEM_COST + len(item.kind))
        self.items.append(item)
        if item.index is not None:
            self._name(item, item.index)
        for name in (value.get("id"), value.get("call_id")):
            self.name(item, name)
        return item

    def name(self, item: Item, name: JsonValue) -> None:
        """Notes an id of an item, where it is one."""
        if isinstance(name, str):
            self._kept.add(len(name))
            self._name(item, name)

    def _name(self, item: Item, name: int | str) -> None:
        if self._named.get(name, item) is not item:
            self._ambiguous.add(name)
        self._named[name] = item

    def find(self, event: JsonObject, kind: str, *ids: JsonValue) -> Item | None:
        """The item that an event belongs to: by its index, or by an id where a server sends none (llama.cpp), or the
        same for several items (LiteLLM).
        """
        index = index_of(event.get("output_index"))
        item = self._named.get(index) if index is not None else None
        item = item if item is not None and item.kind == kind else None
        if item is not None and index not in self._ambiguous:
            return item
        found = (self._named.get(name) for name in ids if isinstance(name, str))
        # An id at another index is an id used again.
        known = (i for i in found if i is not None and i.kind == kind)
        return next((i for i in known if index is None or i.index in (None, index)), item)

    def last_open(self, event: JsonObject, kind: str) -> Item | None:
        """The item under way, for an event without an index or a known id. Never a call: those must not be mixed up."""
        if not self.items or index_of(event.get("output_index")) is not None or kind == "function_call":
            return None
        last = self.items[-1]
        return last if not last.ended and last.kind == kind else None

    def announced(self, value: JsonObject) -> Item | None:
        """The item that has been announced as this one and has not ended: by its id, and of a call by the call's id."""
        call = value.get("type") == "function_call"
        name = call_id_text(value.get("call_id")) if call else value.get("id")
        item = self._named.get(name) if name and isinstance(name, str) else None
        if item is None or item.ended or item.kind != value.get("type") or name in self._ambiguous:
            return None
        return item if not call or value.get("name") in ("", None, item.name) else None

    def is_another(self, item: Item, value: JsonObject) -> bool:
        """Whether a whole item is not the one that has ended at its index: some servers say 0 for every item."""
        if item.kind == "function_call":
            return item.backend_id != call_id_text(value.get("call_id"))
        name = value.get("id")
        return isinstance(name, str) and name not in self._named

    def matches(self, values: list[JsonObject]) -> list[Item | None]:
        """Which of the items that were streamed each of the whole output is: by an id, its index, its text, or else its
        turn.
        """
        matches: list[Item | None] = []
        taken: set[int] = set()
        for index, value in enumerate(values):
            ids = (value.get("call_id"), value.get("id"))
            names: list[int | str] = [name for name in ids if isinstance(name, str)]
            found = (self._named.get(name) for name in [*names, index] if name not in self._ambiguous)
            item = next((i for i in found if i and i.kind == value.get("type") and i.key not in taken), None)
            matches.append(item)
            if item is not None:
                taken.add(item.key)
        self._match_texts(values, matches, taken)
        # Only items without an index of their own: any other would have been found by it.
        left: dict[tuple[JsonValue, JsonValue], list[Item]] = {}
        for item in reversed(self.items):
            if (item.index is None or item.index in self._ambiguous) and item.key not in taken:
                left.setdefault((item.kind, item.name), []).append(item)
        for position, value in enumerate(values):
            kind = expect_text(value.get("type"), "an output item's type")
            name = expect_text(value.get("name"), "a tool call's name") if kind == "function_call" else ""
            if matches[position] is None and left.get((kind, name)):
                matches[position] = left[kind, name].pop()
        return matches

    def _match_texts(self, values: list[JsonObject], matches: list[Item | None], taken: set[int]) -> None:
        """Matches by their texts what neither id nor index tells: LiteLLM streams with others than the output has."""
        spoken: dict[str, list[Item]] = {}
        for item in self.items:
            if item.key not in taken and item.said():
                spoken.setdefault(item.kind, []).append(item)
        for position, value in enumerate(values):
            kind = expect_text(value.get("type"), "an output item's type")
            if matches[position] is not None or not (candidates := spoken.get(kind)):
                continue
            texts = [text for text in texts_of(value) if text]
            found = next((item for item in candidates[:_CANDIDATES] if item.rest(texts) is not None), None)
            if found is not None:
                matches[position] = found
                taken.add(found.key)
                candidates.remove(found)


def index_of(value: JsonValue) -> int | None:
    """An index, where `value` is one."""
    return value if type(value) is int else None
