"""pydantic's errors about a configuration, in sentences: each with its path, what was found and what was expected.

A value that is a secret, or may be one that stands in the wrong place, is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from ..schemas.field_errors import expected, locate

# Where a value is, or may be by mistake, a secret: never shown.
_SECRET_KEYS = frozenset({"credential", "token", "headers", "env", "endpoint", "provider", "args", "otlp"})

_CREDENTIAL_TYPES = ("none", "env", "inline_token", "file")


def shape_mistake(details: Mapping[str, Any], raw: Any) -> str:
    """One error of pydantic as a sentence. `raw` is the whole configuration, as it was read."""
    kind = details["type"]
    path, found = locate(details, raw, _is_tag)
    path = path or "the file"
    if kind == "missing":
        return f"{path}: missing, but required"
    if kind == "extra_forbidden":
        return f"{path}: unknown key"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        what = "no `type`" if kind == "union_tag_not_found" else "unknown `type`"
        return f"{path}: {what}; expected one of {', '.join(map(repr, _CREDENTIAL_TYPES))}"
    if not _SECRET_KEYS.isdisjoint(re.findall(r"\w+", path)):
        return f"{path}: expected {expected(details)}"
    return f"{path}: found {shown(found)}, expected {expected(details)}"


def _is_tag(before: int | str, step: str) -> bool:
    return before == "credential" and step in _CREDENTIAL_TYPES


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
