"""A backend's list of models, and whether one of them is meant by a name. No I/O.

Sources: OpenAI's "List models", Anthropic's "List Models", the Gemini API's models.list, Ollama's api.md ("List Local
Models"), and llama.cpp's tools/server/README.md (GET /v1/models).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from difflib import get_close_matches

from pydantic import JsonValue
from pydantic_core import from_json

MAX_LIST_BYTES = 16 * 1024 * 1024
"""The longest list that is read; the longest seen is OpenRouter's, with less than 1 MiB."""

_SHOWN = 5  # names in a sentence


@dataclass(frozen=True, slots=True)
class ModelAnswer:
    """Whether a backend has a model: true, false, or None where it does not say. `text` is for people."""

    known: bool | None
    text: str


class ModelList:
    """The answer to a request for the models.

    Args:
        body: What the backend answered, of any shape.
    """

    def __init__(self, body: bytes) -> None:
        try:
            answer = from_json(body)
        except ValueError:
            answer = None
        self._entries = list(_entries(answer))
        self._names = sorted({name for entry in self._entries for name in _names(entry)})

    def find(self, model: str) -> ModelAnswer:
        """Whether `model` is one of them, as far as this list can say."""
        if _known_as(model) in map(_known_as, self._names):
            return ModelAnswer(True, "listed")
        if not self._names:
            return ModelAnswer(None, "cannot tell: the backend lists no models")
        if any(entry.get("owned_by") == "llamacpp" for entry in self._entries):
            return ModelAnswer(None, f"cannot tell: llama.cpp takes any name, and lists {self._named()}")
        close = get_close_matches(model[:200], self._names, n=1)
        hint = f"; did you mean {close[0]!r}?" if close else f"; it lists {self._named()}"
        return ModelAnswer(False, f"not listed{hint}")

    def _named(self) -> str:
        more = len(self._names) - _SHOWN
        return ", ".join(map(repr, self._names[:_SHOWN])) + (f" and {more} more" if more > 0 else "")


def _entries(answer: JsonValue) -> Iterator[dict[str, JsonValue]]:
    """The objects of `data` (OpenAI, Anthropic), or of `models` (Gemini, Ollama)."""
    if isinstance(answer, dict):
        answer = answer.get("data") or answer.get("models")
    if isinstance(answer, list):
        yield from (entry for entry in answer if isinstance(entry, dict))


def _names(entry: dict[str, JsonValue]) -> Iterator[str]:
    aliases = entry.get("aliases")
    for name in (
        entry.get("id"),
        entry.get("name"),
        entry.get("model"),
        *(aliases if isinstance(aliases, list) else ()),
    ):
        if isinstance(name, str) and name:
            yield name


def _known_as(name: str) -> str:
    """Gemini's names begin with `models/`, which requests may leave out; Ollama's without a tag mean `latest`."""
    return name.removeprefix("models/").removesuffix(":latest")
