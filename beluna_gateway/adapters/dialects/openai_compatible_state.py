"""What servers of Chat Completions must see again of a turn; sources: see `openai_compatible.py`."""

from __future__ import annotations

from dataclasses import dataclass

from pydantic_core import to_json

from ...canonical import JsonObject
from ..encoding.provider_state import TurnNotes

RETURNED_TEXTS = ("reasoning_content", "reasoning_text")
"""The keys of reasoning that goes back as it came."""


@dataclass(slots=True)
class _Detail:
    """One entry of `reasoning_details`; `pieces` are those of its text, which stands under `key`."""

    fields: JsonObject
    key: str
    pieces: list[str]

    def whole(self) -> JsonObject:
        return {**self.fields, self.key: "".join(self.pieces)} if self.pieces else self.fields


class TurnState:
    """What servers must see again of a turn: `reasoning_content`, `reasoning_details`, `extra_content` of calls, and
    Copilot's `reasoning_text` with its `reasoning_opaque`.

    Kept up to a number of bytes.
    """

    def __init__(self, notes: TurnNotes, max_bytes: int) -> None:
        self._notes = notes
        self._left = max_bytes
        self._reasoning: dict[str, list[str]] = {}  # by its key
        self._opaque = ""
        self._extras: dict[str, JsonObject] = {}
        self._details: list[_Detail] = []

    @property
    def incomplete(self) -> bool:
        """There was more than may be kept: nothing goes back."""
        return self._left < 0

    @property
    def has_details(self) -> bool:
        return bool(self._details)

    def reasoning(self, key: str, text: str) -> None:
        """The next piece of what stands under `key`, one of `RETURNED_TEXTS`."""
        if text and self._fits(len(text)):
            self._reasoning.setdefault(key, []).append(text)

    def has_reasoning(self, key: str) -> bool:
        """Whether any of what stands under `key` has been kept."""
        return key in self._reasoning

    def opaque(self, opaque: str) -> None:
        """Copilot's `reasoning_opaque`, which is whole wherever it stands."""
        if self._fits(len(opaque)):
            self._opaque = opaque

    def detail(self, detail: JsonObject, *, may_continue: bool) -> None:
        """An entry of `reasoning_details`, which in a stream may be the next piece of the entry before."""
        key = _TEXT_OF_DETAIL.get(str(detail.get("type")), "")
        text = detail.get(key)
        if not self._fits(len(to_json(detail))):
            return
        pieces = [text] if isinstance(text, str) else []
        last = self._details[-1] if self._details else None
        if (
            may_continue
            and key
            and last is not None
            and all(detail.get(name) == last.fields.get(name) for name in ("type", "index"))
        ):
            last.pieces += pieces
            last.fields |= {name: value for name, value in detail.items() if value is not None and name != key}
        else:
            self._details.append(_Detail(dict(detail), key, pieces))

    def grown(self, details: list[JsonObject]) -> bool:
        """Takes the entries of `reasoning_details` as they all are by now, in place of those before, which they go on.

        Returns:
            Whether they do; otherwise nothing is taken.
        """
        if len(details) < len(self._details) or not all(map(_goes_on, self._details, details)):
            return False
        for kept, detail in zip(self._details, details, strict=False):
            more = {name: value for name, value in detail.items() if value is not None and name != kept.key}
            pieces = [str(detail[kept.key])] if kept.pieces else []
            if self._fits(max(0, len(to_json(detail)) - len(to_json(kept.whole())))):
                kept.fields, kept.pieces = {**kept.fields, **more}, pieces
        for detail in details[len(self._details) :]:
            self.detail(detail, may_continue=False)
        return True

    def call(self, call_id: str, extra: JsonObject) -> None:
        """The `extra_content` of a call."""
        if self._fits(len(to_json(extra))):
            self._extras[call_id] = extra

    def finished(self, *, with_reasoning: bool) -> JsonObject:
        """The `provider_state` of the turn; empty where nothing needs to go back."""
        if self._left < 0 or not (self._reasoning or self._opaque or self._details or self._extras):
            return {}
        turn: JsonObject = {}
        if with_reasoning and (content := self._reasoning.get("reasoning_content")):
            turn["reasoning_content"] = "".join(content)
        if self._opaque:  # without it nobody wants the text back
            turn |= {"reasoning_text": "".join(self._reasoning.get("reasoning_text", ()))}
            turn["reasoning_opaque"] = self._opaque
        if self._details:
            turn["reasoning_details"] = [detail.whole() for detail in self._details]
        if turn:
            self._notes.opaque(turn)
        for call_id, extra in self._extras.items():
            self._notes.call(call_id, {"extra_content": extra})
            self._notes.mark_required()
        return self._notes.state()

    def _fits(self, size: int) -> bool:
        self._left -= size
        return self._left >= 0


_TEXT_OF_DETAIL = {"reasoning.text": "text", "reasoning.summary": "summary"}


def _goes_on(kept: _Detail, detail: JsonObject) -> bool:
    """Whether `detail` is `kept` once more, perhaps with more text."""
    if detail.get("type") != kept.fields.get("type"):
        return False
    text = detail.get(kept.key)
    if kept.pieces:
        return isinstance(text, str) and text.startswith("".join(kept.pieces))
    return detail.get("data") == kept.fields.get("data")
