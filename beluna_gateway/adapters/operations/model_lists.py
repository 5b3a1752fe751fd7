"""The models of a backend, page by page, in each provider's form, and whether a name means one of them.

Sources: OpenAI, `GET /models` (one page); Anthropic, `GET /v1/models` (`has_more`, `last_id`, `after_id`); Gemini,
`models.list` (`nextPageToken`, `pageToken`); Ollama, `GET /api/tags` (one page); llama.cpp, tools/server/README.md
(`GET /v1/models`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from difflib import get_close_matches
from urllib.parse import quote

from pydantic import JsonValue

from ...canonical import JsonObject, ModelList
from ...errors import protocol_violation
from ..base import ModelAnswer

MAX_PAGES = 20
"""The most pages of one list: 20,000 models where the provider takes our page size."""


@dataclass(frozen=True, slots=True)
class _Form:
    """Where a dialect's list has what."""

    models: str = "data"
    id: str = "id"
    prefix: str = ""
    """What stands before each id and is none of a model's name in a request."""
    page_size: str = ""
    page: str = ""
    """The query parameter that names the next page."""


_FORMS = {
    "openai_compatible": _Form(),
    "openai_responses": _Form(),
    "anthropic": _Form(page_size="limit=1000", page="after_id"),
    "gemini": _Form(models="models", id="name", prefix="models/", page_size="pageSize=1000", page="pageToken"),
    "ollama": _Form(models="models", id="model"),
}


@dataclass(slots=True)
class ModelPages:
    """Reads a list page by page: ask for `path`, give the answer to `read`, until `path` is None.

    Args:
        dialect: Its name.
        endpoint: The path of the list, below the backend's endpoint.
    """

    dialect: str
    endpoint: str
    path: str | None = None
    _models: list[JsonObject] = field(default_factory=list)
    _pages: set[str] = field(default_factory=set)

    def __post_init__(self) -> None:
        size = _FORMS[self.dialect].page_size
        self.path = f"{self.endpoint}?{size}" if size else self.endpoint

    def read(self, answer: JsonObject) -> ModelList:
        """Takes one page; what has been read so far.

        Raises:
            GatewayError: `protocol_violation`, where it is no page, or its next page has been there before.
        """
        form = _FORMS[self.dialect]
        entries = answer.get(form.models)
        if entries is None and (form.models in answer or self._pages or "nextPageToken" in answer):
            entries = []  # Go writes null for an empty list (Ollama's `/v1/models`), and Google leaves it out
        if not isinstance(entries, list):
            raise protocol_violation(f"the backend answered without a list of models ({form.models})")
        for position, entry in enumerate(entries):
            self._models.append(_model(entry, form, position))
        following = _next_page(self.dialect, answer)
        if following is None:
            self.path = None
        elif following in self._pages or len(self._pages) + 1 >= MAX_PAGES:
            raise protocol_violation(f"the backend's list of models has no end: page {following[:100]!r} after itself")
        else:
            self._pages.add(following)
            self.path = f"{self.endpoint}?{form.page_size}&{form.page}={quote(following, safe='')}"
        return ModelList(self._models)


def _model(entry: JsonValue, form: _Form, position: int) -> JsonObject:
    fields = entry if isinstance(entry, dict) else {}
    name = fields.get(form.id) or fields.get("name")
    if not isinstance(name, str):
        raise protocol_violation(f"the backend sent a model without a name ({form.models}[{position}].{form.id})")
    return {**fields, "id": name.removeprefix(form.prefix)}


def _next_page(dialect: str, answer: JsonObject) -> str | None:
    if dialect == "anthropic":
        following = answer.get("last_id") if answer.get("has_more") is True else None
    elif dialect == "gemini":
        following = answer.get("nextPageToken")
    else:
        following = None
    return following if isinstance(following, str) and following else None


# --- whether a model is in a list ----------------------------------------------------------------------------

_MOST_SHOWN = 5  # names in a sentence
_LONGEST_NAME = 200  # comparing takes time that is quadratic in this


def find_model(model: str, listed: ModelList) -> ModelAnswer:
    """Whether a backend with this list has `model`, as far as the list can say."""
    names = sorted({name for entry in listed.models for name in _names(entry)})
    if _without_tag(model) in map(_without_tag, names):
        return ModelAnswer(True, "listed")
    if not names:
        return ModelAnswer(None, "cannot tell: the backend lists no models")
    more = len(names) - _MOST_SHOWN
    shown = ", ".join(map(repr, names[:_MOST_SHOWN])) + (f" and {more} more" if more > 0 else "")
    if any(entry.get("owned_by") == "llamacpp" for entry in listed.models):
        return ModelAnswer(None, f"cannot tell: llama.cpp takes any name, and lists {shown}")
    close = get_close_matches(model[:_LONGEST_NAME], [name for name in names if len(name) <= _LONGEST_NAME], n=1)
    return ModelAnswer(False, f"not listed; did you mean {close[0]!r}?" if close else f"not listed; it lists {shown}")


def _names(entry: JsonObject) -> Iterator[str]:
    aliases = entry.get("aliases")
    for name in (entry.get("id"), entry.get("model"), *(aliases if isinstance(aliases, list) else ())):
        if isinstance(name, str) and name:
            yield name


def _without_tag(name: str) -> str:
    """Gemini's names may begin with `models/` in a request; Ollama's without a tag mean `latest`."""
    return name.removeprefix("models/").removesuffix(":latest")
