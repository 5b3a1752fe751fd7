"""What is wrong with a configuration, in sentences: each with its path, what was found and what was expected.

Works on the raw data beside what pydantic found, so that all mistakes are told at once. A value that is a secret, or
may be one that stands in the wrong place, is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

# Where a value is, or may be by mistake, a secret: never shown.
_SECRET_KEYS = frozenset({"credential", "token", "headers", "env", "endpoint", "provider", "args", "otlp"})

_CREDENTIAL_TYPES = ("none", "env", "inline_token", "file")

# pydantic's error type → what was expected, with the error's context filled in
_EXPECTED = {
    "model_type": "an object",
    "model_attributes_type": "an object",
    "dict_type": "an object",
    "list_type": "an array",
    "string_type": "a string",
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "literal_error": "{expected}",
    "none_required": "null",
    "greater_than_equal": "at least {ge}",
    "less_than_equal": "at most {le}",
    "string_too_short": "at least {min_length} character",
    "string_pattern_mismatch": "a string that matches {pattern}",
    "too_short": "at least {min_length} item",
}


def shape_mistake(details: Mapping[str, Any], raw: Any) -> str:
    """One error of pydantic as a sentence. `raw` is the whole configuration, as it was read."""
    kind, context = details["type"], details.get("ctx", {})
    path, found = _locate(details["loc"], raw, missing=kind == "missing")
    if kind == "missing":
        return f"{path}: missing, but required"
    if kind == "extra_forbidden":
        return f"{path}: unknown key"
    if kind in ("union_tag_not_found", "union_tag_invalid"):
        what = "no `type`" if kind == "union_tag_not_found" else "unknown `type`"
        return f"{path}: {what}; expected one of {', '.join(map(repr, _CREDENTIAL_TYPES))}"
    template = _EXPECTED.get(kind)
    expected = details["msg"] if template is None else template.format(**context)
    if not _SECRET_KEYS.isdisjoint(re.findall(r"\w+", path)):
        return f"{path}: expected {expected}"
    return f"{path}: found {_shown(found)}, expected {expected}"


def _locate(loc: tuple[int | str, ...], raw: Any, *, missing: bool) -> tuple[str, Any]:
    """The path as a person would write it, and what stands there. pydantic's names for the members of a union, which
    stand in `loc` too, are passed over.
    """
    path, value = "", raw
    for position, step in enumerate(loc):
        last = position == len(loc) - 1
        if isinstance(step, int):
            path += f"[{step}]"
            value = value[step] if isinstance(value, list) and step < len(value) else None
        elif position and loc[position - 1] == "credential" and step in _CREDENTIAL_TYPES:
            continue
        elif isinstance(value, dict) and step != "[key]" and (step in value or (last and missing)):
            path += f".{step}" if path else step
            value = value.get(step)
    return path or "the file", value


def _shown(value: Any) -> str:
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


def mistakes_between_keys(raw: Any, http_dialects: Collection[str]) -> Iterable[str]:
    """What a schema cannot say."""
    gateway = raw.get("ai_gateway") if isinstance(raw, dict) else None
    backends = gateway.get("backends") if isinstance(gateway, dict) else None
    if not isinstance(gateway, dict) or not isinstance(backends, list):
        return
    seen: dict[str, int] = {}
    for index, backend in enumerate(backends):
        if not isinstance(backend, dict):
            continue
        at = f"ai_gateway.backends[{index}]"
        name, dialect = backend.get("id"), backend.get("dialect")
        if isinstance(name, str):
            if name in seen:
                yield f"{at}.id: found {_shown(name)} again, first at ai_gateway.backends[{seen[name]}]; ids are unique"
            seen.setdefault(name, index)
        if not isinstance(dialect, str):
            continue
        if dialect in http_dialects:
            yield from _endpoint_mistakes(f"{at}.endpoint", backend.get("endpoint"), dialect)
        elif backend.get("launch") is not None:
            yield f"{at}.launch: only for HTTP dialects; {_shown(dialect)} starts its own program"
    default = gateway.get("default_backend")
    if isinstance(default, str) and seen and default not in seen:
        known = ", ".join(map(repr, seen))
        yield f"ai_gateway.default_backend: found {_shown(default)}, expected the id of a backend: {known}"


def _endpoint_mistakes(path: str, endpoint: Any, dialect: str) -> Iterable[str]:
    if endpoint is None:
        yield f"{path}: missing, but required by {dialect}"
    elif isinstance(endpoint, str):
        if re.match(r"https?://[^/?#]*@", endpoint):
            yield f"{path}: holds a user name or password; use `credential`"
        elif not _is_endpoint(endpoint):
            yield f"{path}: expected http://…, https://… or unix:/path"


def _is_endpoint(text: str) -> bool:
    if not re.match("https?://|unix:/", text) or re.search(r"[\s\x00-\x1f\x7f]", text):
        return False
    try:
        url = urlsplit(text)
        return text.startswith("unix:/") or (bool(url.hostname) and url.port != 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False
