"""pydantic's errors about a configuration, in sentences: each with its path, what was found and what was expected.

A value that is a secret, or may be one that stands in the wrong place, is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..schemas.field_errors import expected, locate
from .keys import CREDENTIAL_TYPES, known_words, similar_key

# Where a value is, or may be by mistake, a secret: never shown.
_CREDENTIALS = frozenset({"credential", "proxy_credential"})
_SECRET_KEYS = _CREDENTIALS | {"token", "headers", "env", "endpoint", "proxy", "provider", "args", "otlp", "url"}

_COMMAND_LINES = re.compile(r"\.(?:launch|copilot)$")
"""Where an object is expected, and somebody may have written a whole command line, with a key in it."""


def shape_mistake(details: Mapping[str, Any], raw: Any) -> str:
    """One error of pydantic as a sentence. `raw` is the whole configuration, as it was read."""
    kind = details["type"]
    path, found = locate(details, raw, _is_tag)
    path = path or "the file"
    if kind == "missing":
        return f"{path}: missing, but required"
    if kind == "extra_forbidden":
        return f"{path}: unknown key{_meant(details['loc'])}"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        what = "no `type`" if kind == "union_tag_not_found" else "unknown `type`"
        return f"{path}: {what}; expected one of {', '.join(map(repr, CREDENTIAL_TYPES))}"
    if not _SECRET_KEYS.isdisjoint(re.findall(r"\w+", path)) or _COMMAND_LINES.search(path):
        return f"{path}: expected {expected(details)}"
    return f"{path}: found {shown(found)}, expected {expected(details)}"


# --- syntax errors -------------------------------------------------------------------------------------------

_EXCERPT_CHARACTERS = 100


def excerpt(line: str, column: int) -> str:
    """A line of the file, and below it a caret at `column` (from 1).

    The file may hold secrets, and where its syntax is broken nobody knows which text is one: letters and digits are
    shown in words that are keys of the configuration; all others, and unusual punctuation, are dots.
    """
    column = min(column, len(line) + 1)
    begin = max(0, column - 1 - _EXCERPT_CHARACTERS // 2)
    line = line.replace("\t", " ")
    shown_words = _WORD.sub(lambda found: found[0] if found[0] in known_words() else "·" * len(found[0]), line)
    part = _NOT_STRUCTURE.sub("·", shown_words)[begin : begin + _EXCERPT_CHARACTERS].rstrip()
    return f"  {part}\n  {' ' * (column - 1 - begin)}^"


_WORD = re.compile(r"[\w$]+")
_NOT_STRUCTURE = re.compile(r"""[^\w$ {}\[\]:,"'/*·]""")


# --- values --------------------------------------------------------------------------------------------------


def _meant(loc: tuple[int | str, ...]) -> str:
    *way, wrong = loc
    meant = similar_key(way, wrong) if isinstance(wrong, str) else None
    return "" if meant is None else f"; did you mean {meant!r}?"


def _is_tag(before: int | str, step: str) -> bool:
    return before in _CREDENTIALS and step in CREDENTIAL_TYPES


def shown(value: Any) -> str:
    """`value` in a few characters."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        return str(value) if abs(value) < 10**30 else "a very large number"
    if isinstance(value, float):
        return str(value)
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:40] + "…")
    return "an object" if isinstance(value, dict) else "an array"
