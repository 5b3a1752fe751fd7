"""`cache` of a request, of its messages and of a backend's configuration, in every dialect's words."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.errors import GatewayError

from ..oracles import ORACLES
from ..recorded import ENDPOINTS, canonical, dialect

DIALECTS = sorted(ENDPOINTS)
OPENAI = ("openai_compatible", "openai_responses")
AT_OPENAI = (
    "https://api.openai.com/v1",
    "https://mine.openai.azure.com/openai/v1",
    "https://x.services.ai.azure.com/v1",
)
ELSEWHERE = ("http://127.0.0.1:8080/v1", "unix:/run/llama.sock:/v1", "https://openrouter.ai/api/v1")
FIVE: dict[str, Any] = {"type": "ephemeral"}
HOUR: dict[str, Any] = {"type": "ephemeral", "ttl": "1h"}


def message(role: str, *texts: str, **fields: Any) -> dict[str, Any]:
    return {"role": role, "parts": [{"text": {"text": text}} for text in texts], **fields}


USER = message("user", "Hi")


def body_of(
    name: str, configured: Any = None, endpoint: str | None = None, *, model: str = "m", **fields: Any
) -> dict[str, Any]:
    """The body, which the provider's own SDK takes. `configured`: the backend's `cache`."""
    backend: dict[str, Any] = {"cache": configured} if endpoint is None else {"cache": configured, "endpoint": endpoint}
    frame = {"type": "infer", "messages": [USER], **fields}
    body = dialect(name, **backend).encode(canonical(frame), model).body
    ORACLES[name].request(json.loads(json.dumps(body)))
    return body


def refusal(name: str, configured: Any = None, **fields: Any) -> str:
    with pytest.raises(GatewayError) as caught:
        body_of(name, configured, **fields)
    assert (caught.value.kind, caught.value.retryable) == ("unsupported_capability", False)
    return caught.value.message


# --- what nobody asked for -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", DIALECTS)
def test_nothing_is_asked_for_by_default(name: str) -> None:
    """A base client's body is what it was; so it is with `off`, also from a backend that caches by default."""
    plain = body_of(name)

    assert not [key for key in plain if "cache" in key]
    assert body_of(name, cache={"mode": "off"}) == plain
    assert body_of(name, {"mode": "auto"}, cache={"mode": "off"}) == plain
    assert body_of(name, {"mode": "off"}, cache={"key": None}) == plain
    assert body_of(name, {"mode": "off"}, messages=[USER | {"cache": True}]) == plain
    assert body_of(name, messages=[USER | {"cache": False}]) == plain


@pytest.mark.parametrize("name", DIALECTS)
def test_off_asks_for_nothing_whatever_else_is_there(name: str) -> None:
    """Neither a key nor a lifetime nor a mark."""
    asked = {"mode": "off", "key": "k", "retention": "long"}

    assert body_of(name, cache=asked, messages=[USER | {"cache": True}]) == body_of(name)


@pytest.mark.parametrize("name", ["gemini", "ollama", "openai_compatible", "openai_responses"])
def test_auto_short_and_marks_are_satisfied_where_a_provider_caches_by_itself(name: str) -> None:
    """Nothing is sent for them."""
    asked = {"mode": "auto", "retention": "short"}

    assert body_of(name, cache=asked, messages=[USER | {"cache": True}]) == body_of(name)
    assert body_of(name, asked) == body_of(name)


# --- Anthropic -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("configured", "asked", "control"),
    [
        (None, {}, FIVE),
        (None, {"mode": "auto"}, FIVE),
        (None, {"retention": "short"}, FIVE),
        (None, {"retention": "long"}, HOUR),
        ({}, None, FIVE),
        ({"retention": "long"}, None, HOUR),
        ({"retention": "long"}, {"mode": "auto"}, HOUR),
        ({"retention": "long"}, {"retention": "short"}, FIVE),
        ({"mode": "off"}, {"mode": "auto"}, FIVE),
        ({"mode": "off", "retention": "long"}, {"mode": "auto"}, HOUR),
        ({"mode": "off"}, {"retention": "long"}, None),
    ],
)
def test_a_requests_fields_override_the_configured_ones(configured: Any, asked: Any, control: Any) -> None:
    """One by one: what the request leaves open is the backend's; where neither says, the mode is `auto`."""
    body = body_of("anthropic", configured, cache=asked)

    assert body.get("cache_control") == control
    assert {key: value for key, value in body.items() if key != "cache_control"} == body_of("anthropic")


CALL = {"id": "c", "name": "f", "arguments_json": "{}"}
HISTORY = [
    message("system", "A", "B"),
    message("user", "C", "D"),
    message("assistant", "E", tool_calls=[CALL]),
    message("tool", "F", tool_call_id="c", tool_name="f"),
    message("user", "G"),
]


def marked(*indexes: int) -> list[dict[str, Any]]:
    return [m | {"cache": True} if index in indexes else m for index, m in enumerate(HISTORY)]


def blocks(body: dict[str, Any]) -> list[dict[str, Any]]:
    return [*body["system"], *(block for turn in body["messages"] for block in turn["content"])]


@pytest.mark.parametrize(
    ("index", "kind", "value"),
    [(0, "text", "B"), (1, "text", "D"), (2, "tool_use", "c"), (3, "tool_result", "c"), (4, "text", "G")],
)
@pytest.mark.parametrize(("cache", "control"), [(None, FIVE), ({"retention": "long"}, HOUR)])
def test_a_mark_stands_on_the_last_block_of_its_message(
    index: int, kind: str, value: str, cache: Any, control: dict[str, Any]
) -> None:
    """On every role; the rest of the body stays as it is without the mark."""
    body = body_of("anthropic", messages=marked(index), cache=cache)
    (found,) = [block for block in blocks(body) if "cache_control" in block]

    assert found.pop("cache_control") == control
    assert (found["type"], found.get("text") or found.get("id") or found["tool_use_id"]) == (kind, value)
    assert body == body_of("anthropic", messages=HISTORY, cache=cache)


@pytest.mark.parametrize("marks", [0, 1, 2, 3, 4])
def test_the_automatic_mark_takes_one_of_four_places(marks: int) -> None:
    """Anthropic refuses a fifth; without a `cache` the marks are all."""
    messages = marked(*range(marks))

    assert ("cache_control" in body_of("anthropic", messages=messages, cache={})) == (marks < 4)
    assert "cache_control" not in body_of("anthropic", messages=messages)
    assert sum("cache_control" in block for block in blocks(body_of("anthropic", messages=messages))) == marks


def test_a_message_of_which_nothing_is_sent_has_no_mark() -> None:
    """A neighbour's block is never marked in its stead: it would differ from turn to turn."""
    messages = [*HISTORY, message("user", " ", cache=True)]

    assert body_of("anthropic", messages=messages) == body_of("anthropic", messages=HISTORY)


def test_a_marked_piece_of_state_stays_the_clients() -> None:
    """What only the provider can read gets its mark in the body, and is not changed where it came from."""
    compaction = {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}}
    state = {"anthropic": {"backend": "recorded", "model": "m", "pieces": [{"text": 1}, {"opaque": compaction}]}}
    request = canonical(
        {"type": "infer", "messages": [USER, message("assistant", "E", provider_state=state, cache=True), USER]}
    )

    bodies = [dialect("anthropic").encode(request, "m").body for _ in range(2)]

    assert bodies[0] == bodies[1]
    assert json.dumps(bodies[0]).count("cache_control") == 1
    assert "cache_control" not in compaction


# --- OpenAI --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPENAI)
@pytest.mark.parametrize("endpoint", AT_OPENAI)
@pytest.mark.parametrize(
    ("configured", "asked", "sent"),
    [
        (None, {"key": "k"}, {"prompt_cache_key": "k"}),
        (None, {"retention": "long"}, {"prompt_cache_retention": "24h"}),
        (None, {"retention": "short"}, {}),
        ({"key": "ours", "retention": "long"}, None, {"prompt_cache_key": "ours", "prompt_cache_retention": "24h"}),
        ({"key": "ours", "retention": "long"}, {"key": "k", "retention": "short"}, {"prompt_cache_key": "k"}),
    ],
)
def test_openais_words(name: str, endpoint: str, configured: Any, asked: Any, sent: dict[str, Any]) -> None:
    """Both dialects, at OpenAI and Azure."""
    plain = body_of(name, endpoint=endpoint)

    assert body_of(name, configured, endpoint, cache=asked) == plain | sent


@pytest.mark.parametrize(
    ("model", "long"),
    [
        ("gpt-5.6", {"prompt_cache_options": {"ttl": "12h"}}),
        ("gpt-5.6-terra", {"prompt_cache_options": {"ttl": "12h"}}),
        ("gpt-5.10-mini", {"prompt_cache_options": {"ttl": "12h"}}),
        ("gpt-6", {"prompt_cache_options": {"ttl": "12h"}}),
        ("ft:gpt-5.6-luna:us::1", {"prompt_cache_options": {"ttl": "12h"}}),
        ("gpt-5.5-pro", {"prompt_cache_retention": "24h"}),
        ("gpt-5", {"prompt_cache_retention": "24h"}),
        ("gpt-4.1-mini", {"prompt_cache_retention": "24h"}),
        ("gpt-4-0613", {"prompt_cache_retention": "24h"}),
        ("o3", {"prompt_cache_retention": "24h"}),
        ("my-deployment", {"prompt_cache_retention": "24h"}),
    ],
)
def test_newer_models_have_a_lifetime_in_place_of_a_retention(model: str, long: dict[str, Any]) -> None:
    """From GPT-5.6 on the Responses API knows `prompt_cache_options`; Chat Completions has no long lifetime there."""
    asked = {"key": "k", "retention": "long"}

    assert {"prompt_cache_key": "k", **long}.items() <= body_of("openai_responses", model=model, cache=asked).items()
    assert body_of("openai_responses", model=model, cache={"retention": "short"}) == body_of(
        "openai_responses", model=model
    )
    chat = body_of("openai_compatible", endpoint=AT_OPENAI[0], model=model, cache=asked)
    assert "prompt_cache_options" not in chat
    assert chat["prompt_cache_retention"] == "24h"


@pytest.mark.parametrize(
    ("name", "endpoint"),
    [*[(name, url) for name in OPENAI for url in ELSEWHERE], ("anthropic", None), ("gemini", None), ("ollama", None)],
)
def test_a_key_and_a_long_retention_are_refused_where_they_have_no_place(name: str, endpoint: str | None) -> None:
    """By name, whether the request or the configuration asks; an hour is what Anthropic has for `long`."""
    owner = name if endpoint is None else f"this backend ({name}, neither OpenAI nor Azure)"
    for asked, message in (
        ({"key": "k"}, f"cache.key: {owner} has no place for it"),
        ({"retention": "long"}, f"cache.retention: {owner} has no place for 'long'"),
    ):
        if (name, asked) != ("anthropic", {"retention": "long"}):
            assert refusal(name, endpoint=endpoint, cache=asked) == message
            assert refusal(name, asked, endpoint=endpoint) == message
