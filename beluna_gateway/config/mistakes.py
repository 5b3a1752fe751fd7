"""What is wrong with a configuration, in sentences: each with its path, what was found and what was expected.

Works on the raw data beside what pydantic found, so that all mistakes are told at once. A value that is a secret, or
may be one that stands in the wrong place, is never repeated.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from typing import Any
from urllib.parse import urlsplit

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
    return f"{path}: found {_shown(found)}, expected {expected(details)}"


def _is_tag(before: int | str, step: str) -> bool:
    return before == "credential" and step in _CREDENTIAL_TYPES


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
            yield from _header_mistakes(f"{at}.headers", backend.get("headers"))
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


def _header_mistakes(path: str, headers: Any) -> Iterable[str]:
    for name in headers if isinstance(headers, dict) else ():
        if name.lower() in ("content-length", "transfer-encoding"):
            yield f"{path}.{name}: frames the request's body, which the gateway does itself"


def _is_endpoint(text: str) -> bool:
    if not re.match("https?://|unix:/", text) or re.search(r"[\s\x00-\x1f\x7f]", text):
        return False
    try:
        url = urlsplit(text)
        return text.startswith("unix:/") or (bool(url.hostname) and url.port != 0)
    except ValueError:  # a port that is no number, a bracket that is not closed
        return False
