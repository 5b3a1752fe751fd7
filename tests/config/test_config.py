"""`beluna.jsonc` → `Config`: what is taken, and what it means where nothing is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.adapters import ADAPTERS
from beluna_gateway.config.loading import load_config
from beluna_gateway.config.settings import (
    CORE_SECTIONS,
    DIALECTS,
    BackendSettings,
    Budget,
    Config,
    Reliability,
    Server,
    Shared,
    Target,
    Telemetry,
    aliases,
    profiles,
)

from ..fakes.config import backend, config, load

UPSTREAM = Path(__file__).parent / "upstream.jsonc"


def test_upstreams_own_configuration_loads_unchanged():
    """The file that Beluna core ships today, comments and all, is a configuration here and means the same."""
    loaded = load_config(UPSTREAM)

    assert [(one.id, one.dialect) for one in loaded.ai_gateway.backends] == [
        ("openai-default", "openai_compatible"),
        ("ollama-local", "ollama"),
        ("copilot", "github_copilot_sdk"),
    ]
    assert loaded.ai_gateway.budget.max_usage_tokens_per_request == 16000
    assert loaded.ai_gateway.backends[2].copilot is not None
    assert loaded.ai_gateway.backends[2].copilot.args == ["--stdio"]


def test_cores_configuration_of_today_loads_unchanged(tmp_path: Path):
    """`models` with aliases, `resilience`, no `default_backend`, and every section that means nothing here."""
    content = {
        "ai_gateway": {
            "chat": {"default_route": {"kind": "alias", "capability": "chat", "alias": "default"}},
            "resilience": {"max_request_time_ms": 20_000, "max_retries": 1, "rate_smoothing_per_second": None},
            "backends": [
                backend(default_model=..., models=[{"id": "small", "aliases": [" low-cost "]}, {"id": "big"}]),
                backend(id="c", default_model="other", models=[{"id": "large", "aliases": ["default", "low cost"]}]),
            ],
        },
        "cortex": {"helper_routes": {"primary": None}},
        "spine": {"adapters": []},
        **{name: {} for name in ("logging", "observability", "continuity", "loop", "body")},
    }
    loaded = load(tmp_path, content)
    found = profiles(loaded, tmp_path)

    assert (found["b"].default_model, found["c"].default_model) == ("small", "other")
    assert (found["b"].reliability.max_retries, found["b"].budget.max_request_time_ms) == (1, 20_000)
    assert aliases(loaded) == {
        "low-cost": Target("b", "small"),
        "default": Target("c", "large"),
        "low cost": Target("c", "large"),
    }
    assert loaded.without_effect == (*CORE_SECTIONS, "ai_gateway.chat")
    assert Config.model_validate(config(cortex={})).without_effect == ("cortex",)
    assert Config.model_validate(config()).without_effect == ()


def test_resilience_beside_the_two_sections(tmp_path: Path):
    """Each key counts wherever it stands, and a backend's own stands above all of them."""
    shared = {"reliability": {"max_retries": 9}, "budget": {"max_request_time_ms": 8}}
    shared["resilience"] = {"backoff_base_ms": 7, "max_concurrency_per_backend": 6, "idle_timeout_ms": 5}
    one = backend(reliability={"backoff_base_ms": 4}, budget={"max_concurrency_per_backend": 3})
    found = profiles(load(tmp_path, config(one, gateway=shared)), tmp_path)["b"]

    assert (found.reliability.max_retries, found.budget.max_request_time_ms) == (9, 8)
    assert (found.reliability.backoff_base_ms, found.budget.max_concurrency_per_backend) == (4, 3)
    assert found.reliability.idle_timeout_ms == 5


def test_json5_is_read(tmp_path: Path):
    """Comments, trailing commas, unquoted keys, single quotes and hexadecimal numbers, as core reads them."""
    text = """
    // a comment
    {
      socket_path: 'here.sock', /* another */
      ai_gateway: {
        default_backend: "b",
        backends: [
          {id: "b", dialect: "ollama", endpoint: "http://h", credential: {type: 'none'}, default_model: "m",},
        ],
        reliability: {max_retries: 0x2,},
      },
    }
    """
    loaded = load(tmp_path, text)

    assert (loaded.socket_path, loaded.ai_gateway.reliability.max_retries) == ("here.sock", 2)


def test_the_defaults_are_the_contracts():
    """What a file does not say is what docs/configuration.md says; core's keys have core's values."""
    loaded = Config.model_validate(config())

    assert loaded.socket_path == "beluna.sock"
    assert Reliability().model_dump() == {
        "request_timeout_ms": 30_000,
        "idle_timeout_ms": 30_000,
        "max_event_bytes": 33_554_432,
        "connect_timeout_ms": 5_000,
        "max_retries": 2,
        "backoff_base_ms": 200,
        "backoff_max_ms": 2_000,
        "retry_policy": "before_first_event_only",
        "breaker_failure_threshold": 5,
        "breaker_open_ms": 15_000,
    }
    assert Budget().model_dump() == {
        "max_request_time_ms": 45_000,
        "max_usage_tokens_per_request": None,
        "max_concurrency_per_backend": 8,
        "rate_smoothing_per_second": None,
        "spend_usd_per_day": None,
        "spend_usd_per_month": None,
        "shared_max_concurrency": None,
        "shared_rate_per_second": None,
        "shared_tokens_per_minute": None,
        "shared_spend_usd_per_day": None,
        "shared_spend_usd_per_month": None,
    }
    assert Shared(sqlite="q.db").model_dump(exclude={"credential", "sqlite"}) == {
        "url": None,
        "tls": None,
        "namespace": "beluna",
        "lease_ms": 15_000,
        "timeout_ms": 50,
        "on_failure": "refuse",
    }
    assert Server().model_dump() == {
        "max_frame_bytes": 8 * 1024 * 1024,
        "max_in_flight_per_connection": 256,
        "max_connections": 256,
        "socket_mode": "0600",
        "allowed_uids": None,
        "clients": None,
        "shutdown_grace_ms": 5_000,
        "allow_exit": True,
    }
    assert Telemetry().model_dump() == {
        "log_level": "info",
        "log_format": "json",
        "metrics": None,
        "otlp": None,
        "propagate_trace": False,
    }
    assert (loaded.ai_gateway.reliability, loaded.ai_gateway.budget) == (Reliability(), Budget())
    assert (loaded.server, loaded.telemetry) == (Server(), Telemetry())


def test_a_backends_defaults_are_the_contracts():
    """A backend says nothing but what it must: nothing else is switched on."""
    one = Config.model_validate(config()).ai_gateway.backends[0]

    chat = {"max_tokens_field": None, "stream_usage": True, "thinking": None, "text_parts": None}
    assert one.openai_compatible.model_dump() == chat
    assert one.anthropic.default_max_tokens == 4096
    launch = BackendSettings.model_validate(backend(launch={"command": "x"})).launch
    assert launch is not None
    assert launch.model_dump(exclude={"command"}) == {
        "args": [],
        "env": {},
        "ready_path": "/health",
        "ready_timeout_ms": 60_000,
        "idle_stop_ms": None,
    }
    assert (one.capabilities, one.copilot, one.launch, one.headers, one.pricing) == (None, None, None, {}, {})


def test_the_dialects_are_those_that_have_an_adapter():
    """The table of adapters and the configuration name the same dialects."""
    assert set(DIALECTS) == set(ADAPTERS)


@pytest.mark.parametrize("keys", [{"capabilities": None}, {"copilot": None}, {"launch": None}], ids=str)
def test_null_is_taken_where_an_option_is(tmp_path: Path, keys: dict[str, Any]):
    """An absent option may be written as null."""
    assert load(tmp_path, config(backend(**keys))) == load(tmp_path, config())
    copilot = load(tmp_path, config(backend(dialect="github_copilot_sdk", endpoint=None)))
    assert copilot.ai_gateway.backends[0].endpoint is None


def test_a_backends_own_keys_are_laid_over_the_shared_ones(tmp_path: Path):
    """Each key of a backend's `reliability` and `budget` stands for itself; the others are the shared ones."""
    own = backend(id="own", reliability={"max_retries": 0}, budget={"max_request_time_ms": 7})
    shared = {"reliability": {"max_retries": 9, "backoff_base_ms": 8}, "budget": {"rate_smoothing_per_second": 6}}
    found = profiles(load(tmp_path, config(backend(), own, gateway=shared)), tmp_path)

    assert (found["b"].reliability.max_retries, found["own"].reliability.max_retries) == (9, 0)
    assert found["own"].reliability.backoff_base_ms == 8
    assert (found["own"].budget.max_request_time_ms, found["own"].budget.rate_smoothing_per_second) == (7, 6)
    assert found["b"].budget.max_request_time_ms == 45_000


@pytest.mark.parametrize(
    "endpoint",
    ["http://h", "https://h:1/v1?api-version=2", "unix:/run/a.sock", "unix:/run/a.sock:/v1", "http://[::1]:8"],
)
def test_endpoints(tmp_path: Path, endpoint: str):
    """A base URL, or a server on a Unix socket."""
    assert load(tmp_path, config(backend(endpoint=endpoint))).ai_gateway.backends[0].endpoint == endpoint
