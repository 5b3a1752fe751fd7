"""`beluna.schema.json` says the same as the models, and each setting is read by somebody."""

from __future__ import annotations

import ast
import copy
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from jsonschema.validators import extend
from pydantic import BaseModel, ValidationError

import beluna_gateway
from beluna_gateway.config import settings as models
from beluna_gateway.config.settings import Config, json_schema

FULL: dict[str, Any] = {
    "$schema": "./beluna.schema.json",
    "socket_path": "a.sock",
    "ai_gateway": {
        "default_backend": "a",
        "backends": [
            {
                "id": "a",
                "dialect": "openai_compatible",
                "endpoint": "http://h",
                "credential": {"type": "inline_token", "token": "t"},
                "default_model": "m",
                "models": [{"id": "m", "aliases": ["low-cost"]}],
                "capabilities": dict.fromkeys(models.Capabilities.model_fields, False),
                "openai_compatible": {
                    "max_tokens_field": "max_tokens",
                    "stream_usage": False,
                    "thinking": None,
                    "text_parts": "array",
                },
                "anthropic": {"default_max_tokens": 1},
                "cache": {"mode": "off", "key": None, "retention": "short"},
                "headers": {"X-A": "1"},
                "reliability": {"max_retries": 0},
                "budget": {"max_usage_tokens_per_request": None},
                "pricing": {
                    "m": {"input_per_mtok": 0.5, "output_per_mtok": 1, "cached_input_per_mtok": None}
                    | {"cache_write_per_mtok": None, "cache_write_1h_per_mtok": 2}
                },
                "launch": {"command": "c", "args": ["x"], "env": {"A": ""}, "ready_path": "/", "idle_stop_ms": None}
                | {"ready_timeout_ms": 1},
                "copilot": None,
                "proxy": "http://p:1",
                "proxy_credential": {"type": "env", "var": "V"},
                "tls": {"ca_file": "a", "cert_file": "c", "key_file": "k"},
            },
            {
                "id": "b",
                "dialect": "github_copilot_sdk",
                "credential": {"type": "env", "var": "V"},
                "default_model": "m",
                "copilot": {
                    "command": "c",
                    "args": [],
                    "protocol": "sdk",
                    "provider": {"type": "azure", "base_url": "u", "wire_api": None, "model_id": "x"},
                    "idle_stop_ms": 5,
                },
            },
            {"id": "c", "dialect": "ollama", "credential": {"type": "file", "path": "p"}, "default_model": "m"},
            {
                "id": "d",
                "dialect": "ollama",
                "credential": {"type": "command", "command": ["c", "a"], "ttl_ms": None, "timeout_ms": 1},
                "default_model": "m",
            },
        ],
        "reliability": models.Reliability().model_dump(),
        "budget": models.Budget().model_dump(),
        "resilience": models.Resilience().model_dump(),
        "shared": {
            "url": "rediss://u@h:1/2",
            "sqlite": None,
            "credential": {"type": "none"},
            "tls": {"ca_file": "a"},
            "namespace": "n",
            "lease_ms": 1,
            "timeout_ms": 1,
            "on_failure": "local",
        },
        "chat": {"default_max_tool_rounds": 6},
    },
    **{name: {"of": "core"} for name in models.CORE_SECTIONS},
    "server": {
        **models.Server().model_dump(),
        "allowed_uids": [0, 1000],
        "clients": [
            {
                "name": "core",
                "uids": [1000],
                "backends": ["b"],
                "budget": {
                    "max_request_time_ms": 1,
                    "max_usage_tokens_per_request": 2,
                    "max_concurrency_per_backend": 3,
                    "rate_smoothing_per_second": 4,
                },
            }
        ],
    },
    "telemetry": {
        "log_level": "debug",
        "log_format": "console",
        "metrics": {"listen": "./m.sock", "socket_mode": "0660"},
        "otlp": {"endpoint": "http://h"},
        "propagate_trace": True,
    },
}

_VALUES = st.sampled_from(
    [
        None,
        True,
        False,
        0,
        1,
        -1,
        2,
        2**64 - 1,
        2**64,
        0.5,
        1.0,
        -0.5,
        "",
        "a",
        "b c",
        "0600",
        "0800",
        "é",
        "a\x00",
        "none",
        "env",
        "file",
        "sdk",
        "openai",
        "max_tokens",
        "debug",
        [],
        ["a"],
        [0],
        [None],
        {},
        {"a": 1},
        {"a": "b"},
        {"type": "none"},
        {"type": "env", "var": "V"},
        {"type": "env"},
        {"command": "c"},
        {"listen": "a"},
        {"é": "x"},
    ]
)
_KEYS = st.sampled_from(["", "typo", "type", "a b", "é", "env", "id", "max_retries"])


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """The path of everything that stands in `value`."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


PLACES = [place for place in places(FULL) if place]


def around(place: tuple[Any, ...]) -> tuple[dict[str, Any], tuple[Any, ...]]:
    """The full configuration with nothing beside the way to `place`, and where that is now.

    What is left out is what need not be there: other sections, and other backends. A validator walks all that there is
    for each change, most of it in vain.
    """
    gateway: dict[str, Any] = FULL["ai_gateway"]
    content = {"ai_gateway": gateway, place[0]: FULL[place[0]]}
    if place[0] != "ai_gateway" or len(place) == 1:
        return content | {"ai_gateway": {"default_backend": "a", "backends": gateway["backends"][:1]}}, place
    if place[1] == "backends" and len(place) > 2:
        backend = gateway["backends"][place[2]]
        content["ai_gateway"] = {"default_backend": backend["id"], "backends": [backend]}
        return content, ("ai_gateway", "backends", 0, *place[3:])
    needed = {"default_backend", "backends", place[1]}
    content["ai_gateway"] = {name: gateway[name] for name in gateway if name in needed}
    return content, place


@st.composite
def mutated(draw: st.DrawFn) -> dict[str, Any]:
    """The full configuration with up to three things replaced, taken away or put in."""
    changed = copy.deepcopy(FULL)
    for _ in range(draw(st.integers(1, 3))):
        *way, last = draw(st.sampled_from(PLACES))
        parent: Any = changed
        try:
            for step in way:
                parent = parent[step]
            action = draw(st.sampled_from(["replace", "remove", "add"]))
            if action == "remove":
                del parent[last]
            elif action == "add" and isinstance(parent, dict):
                parent[draw(_KEYS)] = draw(_VALUES)
            else:
                parent[last] = draw(_VALUES)
        except (KeyError, IndexError, TypeError):
            continue  # an earlier change took the place away
    return changed


# The schema is read as our protocol reads JSON: 1.0 is no integer. (Draft 2020-12 would take it for one.)
_STRICT = extend(
    Draft202012Validator,
    type_checker=Draft202012Validator.TYPE_CHECKER.redefine(
        "integer", lambda _checker, value: isinstance(value, int) and not isinstance(value, bool)
    ),
)
SCHEMA = _STRICT(json_schema())


def accepted(content: Any) -> bool:
    try:
        Config.model_validate(content)
    except ValidationError:
        return False
    return True


def test_the_full_configuration_is_one():
    """What the mutations start from is right, and has every key that there is."""
    assert accepted(FULL)
    assert SCHEMA.is_valid(FULL)
    names = {step for place in PLACES for step in place}
    for section in sections():
        missing = {field.alias or name for name, field in section.model_fields.items()} - names
        assert not missing, section


@given(mutated())
@settings(max_examples=300)
def test_models_and_schema_agree(content: dict[str, Any]):
    """A configuration that an editor calls right by the schema is right for the daemon, and the other way round."""
    assert accepted(content) == SCHEMA.is_valid(content)


@pytest.mark.parametrize("place", PLACES, ids=lambda place: ".".join(map(str, place)))
def test_they_agree_on_each_key(place: tuple[Any, ...]):
    """The same, key by key, with each of these values in its place."""
    values: tuple[Any, ...] = (None, True, 0, 1, -1, 1.0, 0.5, 2**64, "", "x", [], {}, ...)
    section, place = around(place)
    assert accepted(section)
    for value in values:
        content = copy.deepcopy(section)
        parent: Any = content
        for step in place[:-1]:
            parent = parent[step]
        if value is ...:
            del parent[place[-1]]
        else:
            parent[place[-1]] = value

        assert accepted(content) == SCHEMA.is_valid(content), value


def test_the_schema_is_one():
    """It is a valid JSON Schema, and closes every object of ours."""
    Draft202012Validator.check_schema(json_schema())
    for name, definition in json_schema()["$defs"].items():
        assert definition["additionalProperties"] is False, name


def sections() -> list[type[BaseModel]]:
    return [model for model in vars(models).values() if isinstance(model, type) and issubclass(model, models._Section)]


def _attributes_read(path: Path) -> set[str]:
    nodes = list(ast.walk(ast.parse(path.read_text())))
    return {node.attr for node in nodes if isinstance(node, ast.Attribute)} | {
        name for node in nodes if isinstance(node, ast.MatchClass) for name in node.kwd_attrs
    }


# The editor's; told apart by matching on the class; a provider is handed to the Copilot CLI as a whole; and Beluna
# core's sections are only named in the log.
_READ_OTHERWISE = {"schema_url", "type", "wire_api", "chat", *models.CORE_SECTIONS}


def test_each_setting_is_read_somewhere():
    """No setting stands in the schema and is read by nobody."""
    package = Path(beluna_gateway.__file__).parent
    read = set().union(*(_attributes_read(path) for path in package.rglob("*.py") if path.name != "settings.py"))
    merged = {"ai_gateway", "reliability", "budget", "resilience", "pricing", "models", "aliases"}
    read |= merged & _attributes_read(package / "config" / "settings.py")
    unread = {
        f"{section.__name__}.{name}"
        for section in sections()
        for name in section.model_fields
        if name not in read and name not in _READ_OTHERWISE
    }

    assert unread == set()
