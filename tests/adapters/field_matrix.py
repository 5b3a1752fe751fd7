"""Every field of a request at every kind of backend: what it becomes there, or how it is refused.

A `Row` is one field with one value, beside a request that is the same but for it; its cells say, for each column of
`COLUMNS`, how the two bodies differ: places in the body → what stands there. `GONE` stands for what is no longer there,
an empty cell for two equal bodies, a string for a refusal, by the field that it names.
"""

from __future__ import annotations

import json
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel

from beluna_gateway.adapters.base import BackendAdapter
from beluna_gateway.adapters.copilot.adapter import GitHubCopilotAdapter
from beluna_gateway.adapters.copilot.cli import CopilotCli, Turn
from beluna_gateway.adapters.copilot.sdk import _Question
from beluna_gateway.adapters.http.adapter import HttpAdapter, HttpCall
from beluna_gateway.canonical import CanonicalRequest, ResolvedCredential
from beluna_gateway.config.settings import BackendProfile, BackendSettings, Budget, Reliability
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.capabilities import CapabilityGuard

from .oracles import ORACLES
from .recorded import canonical, dialect

GONE = "(gone)"
Cell = Mapping[str, Any] | str
NOTHING: Cell = {}

# --- the columns ---------------------------------------------------------------------------------------------

COPILOT_CLI = {"command": "/bin/true", "protocol": "sdk"}


@dataclass(frozen=True)
class Column:
    dialect: str
    model: str = "m"
    backend: Mapping[str, Any] = field(default_factory=dict)
    like: str | None = None
    """The column whose cells it has where a row names none for it."""


COLUMNS = {
    "chat": Column("openai_compatible"),
    "chat_openai": Column(
        "openai_compatible",
        backend={"endpoint": "https://api.openai.com/v1", "openai_compatible": {"thinking": "reasoning_effort"}},
        like="chat",
    ),
    "responses": Column("openai_responses"),
    "claude": Column("anthropic", "claude-opus-4-6"),
    "claude_45": Column("anthropic", "claude-sonnet-4-5", {"anthropic": {"default_max_tokens": 64_000}}, like="claude"),
    "gemini": Column("gemini", "gemini-3-pro"),
    "gemini_25": Column("gemini", "gemini-2.5-pro", like="gemini"),
    "ollama": Column("ollama"),
    "cli": Column("github_copilot_sdk", backend={"copilot": COPILOT_CLI}),
    "cli_provider": Column(
        "github_copilot_sdk",
        backend={"copilot": {**COPILOT_CLI, "provider": {"base_url": "http://h/v1"}}},
        like="cli",
    ),
    "language_server": Column(
        "github_copilot_sdk", backend={"copilot": {"command": "/bin/true", "protocol": "language_server"}}
    ),
}


@cache
def adapter(column: str) -> BackendAdapter:
    of = COLUMNS[column]
    if of.dialect != "github_copilot_sdk":
        return HttpAdapter(dialect(of.dialect, **of.backend))
    backend = BackendSettings.model_validate(
        {"id": "b", "dialect": of.dialect, "credential": {"type": "none"}, "default_model": "m", **of.backend}
    )
    return GitHubCopilotAdapter(BackendProfile(backend, Reliability(), Budget(), Path()))


# --- what is sent --------------------------------------------------------------------------------------------


def body_of(column: str, frame: Mapping[str, Any]) -> dict[str, Any]:
    """What the backend gets of an `infer` frame, and, as `POST`, where; HTTP bodies are checked by the provider's SDK.

    Raises:
        GatewayError: The request is refused before anything is sent.
    """
    to = adapter(column)
    request = CapabilityGuard().admit(canonical({"type": "infer", **frame}), to.capabilities, "b")
    call = to.prepare(request, request.model or COLUMNS[column].model, ResolvedCredential(None))
    if isinstance(call, HttpCall):
        body = json.loads(call._body)
        ORACLES[COLUMNS[column].dialect].request(json.loads(call._body))
        return {"POST": call._head.split(b" ")[1].decode(), **body}
    if isinstance(call, _Question):
        return _session(call._request, call._model, call._provider)
    return {"document": call._text}  # type: ignore[attr-defined]  # the language server's


def _session(request: CanonicalRequest, model: str, provider: dict[str, Any] | None) -> dict[str, Any]:
    """What the Copilot CLI gets: the session's arguments, and its history without ids and times."""
    asked: dict[str, Any] = {}

    async def resume_session(_: str, **arguments: Any) -> None:
        asked.update(arguments)

    cli = CopilotCli(None, SimpleNamespace(resume_session=resume_session), SimpleNamespace(Tool=dict), None)  # type: ignore[arg-type]
    opening = cli.open(Turn(1), request, model, provider)
    try:
        opening.send(None)
    except StopIteration:
        pass
    else:
        raise AssertionError("the fake answers at once")
    (history,) = asked["create_session_fs_handler"](None)._files.values()
    events = [json.loads(line) for line in history.splitlines()]
    return {
        "model": asked["model"],
        "provider": asked["provider"] or {},
        "system": asked["system_message"]["content"],
        "tools": asked["tools"],
        "events": [
            {"type": event["type"], **{key: value for key, value in event["data"].items() if key != "messageId"}}
            for event in events[1:]
        ],
    }


def difference(plain: Any, asked: Any, at: str = "") -> dict[str, Any]:
    """The places where `asked` differs from `plain`, and what stands there."""
    if isinstance(plain, dict) and isinstance(asked, dict):
        found: dict[str, Any] = {}
        for key in {**plain, **asked}:
            found |= difference(plain.get(key, GONE), asked.get(key, GONE), f"{at}.{key}" if at else key)
        return found
    if isinstance(plain, list) and isinstance(asked, list) and len(plain) == len(asked):
        found = {}
        for position, (one, other) in enumerate(zip(plain, asked, strict=True)):
            found |= difference(one, other, f"{at}.{position}")
        return found
    return {} if plain == asked and type(plain) is type(asked) else {at: asked}


# --- the fields ----------------------------------------------------------------------------------------------


def leaves(of: Any, path: str = "") -> Iterator[str]:
    """The fields of a frame at every depth, each word of a closed list by itself: `reasoning.effort=low`."""
    if get_origin(of) is Annotated:
        yield from leaves(get_args(of)[0], path)
    elif isinstance(of, type) and issubclass(of, BaseModel):
        for name, inner in of.model_fields.items():
            if name != "type":
                key = inner.alias or name
                yield from leaves(inner.annotation, f"{path}.{key}" if path else key)
    elif get_origin(of) in (types.UnionType, Union):
        for option in get_args(of):
            if option is not type(None):
                yield from leaves(option, path)
    elif get_origin(of) is list:
        yield from leaves(get_args(of)[0], path)
    elif get_origin(of) is Literal:
        yield from (f"{path}={word}" for word in get_args(of))
    elif of is bool:
        yield from (f"{path}=true", f"{path}=false")
    else:
        yield path


@dataclass(frozen=True)
class Row:
    leaf: str
    """The field, and its value where it is one of a closed list."""
    asked: Mapping[str, Any]
    """What the `infer` frame has, beside or in place of `PLAIN`."""
    cells: Mapping[str, Cell]
    """Column → what comes of it."""
    page: str | None = None
    """The row of docs/providers.md that tells of it, by its first cell; None where it is a detail of another row."""
    plain: Mapping[str, Any] = field(default_factory=dict)
    """What both requests have."""
    kind: str = "unsupported_capability"
    """Of the refusals."""


def cells_of(row: Row) -> Iterator[tuple[str, Cell]]:
    """Each column that the row says something about."""
    for name, column in COLUMNS.items():
        if name in row.cells:
            yield name, row.cells[name]
        elif column.like in row.cells:
            yield name, row.cells[str(column.like)]


def outcome(column: str, row: Row) -> Cell:
    """What really comes of a row: a cell as it should stand there."""
    plain = {**PLAIN, **row.plain}
    try:
        asked = body_of(column, {**plain, **row.asked})
    except GatewayError as error:
        return f"{error.kind} {error.message}"
    return difference(body_of(column, plain), asked)


def text(value: str) -> dict[str, Any]:
    return {"text": {"text": value}}


def says(role: str, *parts: Any, **fields: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts), **fields}


USER = says("user", text("Hi"))
PLAIN: Mapping[str, Any] = {"messages": [USER]}
