"""The `content` of a message: a text, or an array of parts of which some are text and some are reasoning."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from ...errors import protocol_violation
from .not_carried import NotCarried

Kind = Literal["text", "reasoning", "refusal"]

_REASONING = frozenset({"thinking", "reasoning", "reasoning_text", "reasoning.text", "reasoning.summary"})
_DEPTH = 4
"""Arrays of parts inside each other that are read: Mistral's `thinking` part holds one."""


def read_content(value: JsonValue, not_carried: NotCarried) -> list[tuple[Kind, str]]:
    """The texts of a `content`, in their order, none of them empty; neighbours of one kind are one text.

    Parts that are neither text nor reasoning (images, audio, references) are counted in `not_carried` by their type.

    Raises:
        GatewayError: `protocol_violation`, where it is neither null, a string, an array of parts nor one part.
    """
    texts: list[tuple[Kind, str]] = []
    _read(value, "text", texts, not_carried, _DEPTH)
    return texts


def _read(value: JsonValue, kind: Kind, texts: list[tuple[Kind, str]], not_carried: NotCarried, depth: int) -> None:
    if value is None or value == "":
        return
    if isinstance(value, str):
        if texts and texts[-1][0] == kind:
            texts[-1] = (kind, texts[-1][1] + value)
        else:
            texts.append((kind, value))
    elif depth == 0 or not isinstance(value, list | dict):
        raise protocol_violation("the backend sent `content` that is neither a string nor an array of parts")
    elif isinstance(value, list):
        for part in value:
            _read(part, kind, texts, not_carried, depth - 1)
    else:
        _part(value, kind, texts, not_carried, depth)


def _part(
    part: dict[str, JsonValue], kind: Kind, texts: list[tuple[Kind, str]], not_carried: NotCarried, depth: int
) -> None:
    if "type" not in part and "text" not in part:
        raise protocol_violation("the backend sent a part of `content` with neither `type` nor `text`")
    said = part.get("type", "text")
    if not isinstance(said, str):
        said = ""  # counted, whatever it is
    if said in ("text", "output_text", "summary_text"):
        _read(part["text"] if part.get("text") else part.get("content"), kind, texts, not_carried, depth)
    elif said == "refusal":
        _read(part.get("refusal"), "refusal", texts, not_carried, depth)
    elif said in _REASONING:
        inner = next(
            (part[key] for key in ("thinking", "reasoning", "text", "summary", "content") if part.get(key)), None
        )
        _read(inner, "reasoning", texts, not_carried, depth)
    else:
        not_carried.add(said.removesuffix("_url") or "part")
