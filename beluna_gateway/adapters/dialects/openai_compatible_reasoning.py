"""The reasoning in messages of Chat Completions, under the key of each server: what is shown, and what goes back."""

from __future__ import annotations

from pydantic import JsonValue

from ...canonical import BackendRawEvent, JsonObject, Progress, ReasoningDelta
from ..decoding.not_carried import NotCarried
from ..decoding.said_text import SaidText
from .openai_compatible_choices import Form, unsaid
from .openai_compatible_state import RETURNED_TEXTS, TurnState

_TEXTS = ("reasoning_content", "reasoning", "reasoning_text", "thinking", "cot_summary")

REASONING = frozenset((*_TEXTS, "reasoning_details", "reasoning_opaque"))
"""The keys of a message that are read here."""


class Reasoning:
    """The reasoning of one answer.

    Args:
        said: The reasoning that was delivered so far, also what stood elsewhere.
        state: Takes what goes back.
        not_carried: Counts what cannot be read.
    """

    def __init__(self, said: SaidText, state: TurnState, not_carried: NotCarried) -> None:
        self._said = said
        self._state = state
        self._not_carried = not_carried
        self._is_text = False  # it came under a key of `_TEXTS`: `reasoning_details` only repeat it
        self._item: JsonValue = None  # the entry of `reasoning_details` that spoke last

    def read(self, message: JsonObject, form: Form, events: list[BackendRawEvent], *, streamed: bool) -> None:
        """Delivers the reasoning of a message, and keeps what of it goes back."""
        self._texts(message, form, events)
        if isinstance(opaque := message.get("reasoning_opaque"), str) and opaque:
            self._state.opaque(opaque)
            events.append(Progress())
        details = message.get("reasoning_details")
        if not isinstance(details, list):
            if details:
                self._not_carried.at_least("reasoning_details")
        elif form == "piece" or not self._state.has_details:
            for position, value in enumerate(details):
                if isinstance(value, dict):
                    self._detail(value, None if streamed else position, events)
        else:
            self._details_once_more([value for value in details if isinstance(value, dict)], form, events)

    def _texts(self, message: JsonObject, form: Form, events: list[BackendRawEvent]) -> None:
        """llama.cpp, DeepSeek and Kimi say `reasoning_content`, OpenRouter and vLLM `reasoning`; some say both. The
        others are GitHub Copilot's, by the model behind it.
        """
        found = False
        for key in _TEXTS:
            value = message.get(key)
            if not value:
                continue
            if not isinstance(value, str):
                count = self._not_carried.add if form == "piece" else self._not_carried.at_least
                count(key)
            elif not found:
                found = self._is_text = True
                said = self._say(value, form, events)
                if key in RETURNED_TEXTS:
                    # What was said before under another name has not been kept.
                    whole = form != "piece" and not self._state.has_reasoning(key)
                    self._state.reasoning(key, value if whole else said)

    def _say(self, text: str, form: Form, events: list[BackendRawEvent]) -> str:
        """Delivers what of a text was not said; returns it."""
        if form != "piece":
            text = unsaid(self._said, text, whole=form == "whole")
        if text:
            self._said.add(text)
            events.append(ReasoningDelta(text))
        return text

    def _detail(self, detail: JsonObject, position: int | None, events: list[BackendRawEvent]) -> None:
        """One entry of OpenRouter's `reasoning_details`: a piece of reasoning, a summary, or something encrypted."""
        self._state.detail(detail, may_continue=position is None)
        text = _text_of(detail)
        if self._is_text or not text:
            if detail.get("data"):
                events.append(Progress())
            return
        item = _item_of(detail, position)
        if self._said and item != self._item:
            text = f"\n\n{text}"
        self._item = item
        self._say(text, "piece", events)

    def _details_once_more(self, details: list[JsonObject], form: Form, events: list[BackendRawEvent]) -> None:
        """The `reasoning_details` of a message that is the answer so far, as MiniMax ends a stream; or else pieces."""
        if self._state.grown(details):
            if not self._is_text:
                texts: list[str] = []
                item: JsonValue = None
                for detail in details:
                    if text := _text_of(detail):
                        if texts and _item_of(detail, None) != item:
                            texts.append("\n\n")
                        texts.append(text)
                        item = _item_of(detail, None)
                self._item = item
                self._say("".join(texts), "whole", events)
        elif form == "either":
            for detail in details:
                self._detail(detail, None, events)


def _text_of(detail: JsonObject) -> str:
    return next((value for key in ("text", "summary") if isinstance(value := detail.get(key), str) and value), "")


def _item_of(detail: JsonObject, position: int | None) -> JsonValue:
    """What tells an entry of `reasoning_details` from others: its index, else its id, else its place."""
    return next((detail[key] for key in ("index", "id") if detail.get(key) is not None), position)
