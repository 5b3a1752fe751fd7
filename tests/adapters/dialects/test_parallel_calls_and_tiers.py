"""`parallel_tool_calls` and `service_tier` in every dialect's words, and the tier that served."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.canonical import BackendRawEvent, Usage
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.capabilities import CapabilityGuard

from ..oracles import ORACLES
from ..recorded import ENDPOINTS, canonical, dialect

DIALECTS = sorted(ENDPOINTS)
TOOLS = [{"name": "get_time", "input_schema": {"type": "object"}}]
OPENAI = ("openai_compatible", "openai_responses")


def body_of(name: str, capability: bool | None = None, **fields: Any) -> dict[str, Any]:
    """The body, which the provider's own SDK takes. `capability`: what the configuration says of parallel calls."""
    of = dialect(name, **({} if capability is None else {"capabilities": {"parallel_tool_calls": capability}}))
    frame = {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}], **fields}
    capabilities = of.capabilities.model_copy(update={"parallel_tool_calls": capability is not False})
    body = of.encode(CapabilityGuard().admit(canonical(frame), capabilities, "b"), "m").body
    ORACLES[name].request(json.loads(json.dumps(body)))
    return body


def refusal(name: str, capability: bool | None = None, **fields: Any) -> str:
    with pytest.raises(GatewayError) as caught:
        body_of(name, capability, **fields)
    assert (caught.value.kind, caught.value.retryable) == ("unsupported_capability", False)
    return caught.value.message


# --- parallel_tool_calls -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OPENAI)
def test_openais_switch_stands_beside_the_tools(name: str) -> None:
    """True and false alike; without tools nothing is sent, for there is nothing to switch."""
    for value in (True, False):
        asked = body_of(name, tools=TOOLS, parallel_tool_calls=value)
        assert asked == body_of(name, tools=TOOLS) | {"parallel_tool_calls": value}
        assert body_of(name, parallel_tool_calls=value) == body_of(name)


@pytest.mark.parametrize("choice", ["auto", "required", {"specific": {"name": "get_time"}}])
def test_anthropics_switch_stands_in_its_tool_choice(choice: Any) -> None:
    """It says the opposite, and stands wherever the model may call at all."""
    plain = body_of("anthropic", tools=TOOLS, tool_choice=choice)
    for value in (True, False):
        asked = body_of("anthropic", tools=TOOLS, tool_choice=choice, parallel_tool_calls=value)
        assert asked["tool_choice"] == {**plain["tool_choice"], "disable_parallel_tool_use": not value}
        assert {**asked, "tool_choice": plain["tool_choice"]} == plain


def test_a_choice_of_no_tools_has_no_switch() -> None:
    """Anthropic's `none` takes none; nor does a request without tools."""
    assert body_of("anthropic", tools=TOOLS, tool_choice="none", parallel_tool_calls=False)["tool_choice"] == {
        "type": "none"
    }
    assert body_of("anthropic", parallel_tool_calls=False) == body_of("anthropic")


@pytest.mark.parametrize("name", ["gemini", "ollama"])
@pytest.mark.parametrize("tools", [[], TOOLS])
def test_without_a_switch_false_is_refused_and_true_is_how_it_is(name: str, tools: Any) -> None:
    """Nothing is claimed that the provider does not promise."""
    assert refusal(name, tools=tools, parallel_tool_calls=False).startswith("parallel_tool_calls: ")
    assert body_of(name, tools=tools, parallel_tool_calls=True) == body_of(name, tools=tools)


@pytest.mark.parametrize("name", DIALECTS)
def test_the_capability_counts_as_false_where_there_is_a_switch(name: str) -> None:
    """A model that the configuration says cannot is asked not to; where there is no switch nothing is sent."""
    switched = {} if name in ("gemini", "ollama") else {"parallel_tool_calls": False}

    assert body_of(name, False, tools=TOOLS) == body_of(name, tools=TOOLS, **switched)
    assert body_of(name, True, tools=TOOLS) == body_of(name, tools=TOOLS)
    assert body_of(name, False) == body_of(name)


@pytest.mark.parametrize("name", DIALECTS)
def test_parallel_calls_are_refused_where_the_capability_is_missing(name: str) -> None:
    """Asking for them is asking for what the configuration denies."""
    assert refusal(name, False, tools=TOOLS, parallel_tool_calls=True) == (
        "parallel_tool_calls: backend 'b' does not have the capability parallel_tool_calls"
    )


# --- service_tier --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "key", "tier"),
    [
        ("openai_compatible", "service_tier", "flex"),
        ("openai_responses", "service_tier", "priority"),
        ("anthropic", "service_tier", "standard_only"),
        ("gemini", "serviceTier", "flex"),
    ],
)
def test_the_tier_is_the_providers_own_word(name: str, key: str, tier: str) -> None:
    """In its own place, unchanged; nothing is sent where nobody asks."""
    assert body_of(name, service_tier=tier) == body_of(name) | {key: tier}


def test_a_tier_is_refused_where_there_is_none() -> None:
    """By name."""
    assert refusal("ollama", service_tier="auto").startswith("service_tier: ")


CHAT = {
    "service_tier": "flex",
    "choices": [{"index": 0, "message": {"role": "assistant", "content": "Hi"}, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 1, "completion_tokens": 1},
}
MESSAGE = {"type": "message", "id": "i", "role": "assistant", "status": "completed"}
RESPONSE = {
    "status": "completed",
    "service_tier": "flex",
    "output": [{**MESSAGE, "content": [{"type": "output_text", "text": "Hi", "annotations": []}]}],
    "usage": {"input_tokens": 1, "output_tokens": 1},
}
CLAUDE = {
    "content": [{"type": "text", "text": "Hi"}],
    "stop_reason": "end_turn",
    "usage": {"input_tokens": 1, "output_tokens": 1, "service_tier": "flex"},
}
GEMINI = {
    "candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}],
    "usageMetadata": {"promptTokenCount": 1, "candidatesTokenCount": 1, "serviceTier": "flex"},
}


@pytest.mark.parametrize(
    ("name", "answer"),
    [("openai_compatible", CHAT), ("openai_responses", RESPONSE), ("anthropic", CLAUDE), ("gemini", GEMINI)],
)
def test_the_tier_that_served_is_reported(name: str, answer: Any) -> None:
    """In `usage.service_tier`, whether or not the request named one."""
    request = canonical({"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]})
    decoder, events = dialect(name).decoder(request, "m"), list[BackendRawEvent]()
    decoder.feed_whole(answer, events)
    decoder.finish(events)
    (usage,) = [event.usage for event in events if isinstance(event, Usage)]

    assert usage.service_tier == "flex"


@pytest.mark.parametrize(
    ("header", "usage", "tier"),
    [
        ("standard", {"serviceTier": "flex"}, "standard"),
        (None, {"serviceTier": "flex", "trafficType": "ON_DEMAND_FLEX"}, "flex"),
        ("", {"trafficType": "ON_DEMAND_FLEX"}, "ON_DEMAND_FLEX"),
        (None, {}, None),
    ],
)
def test_gemini_says_the_tier_in_one_of_three_places(header: str | None, usage: Any, tier: str | None) -> None:
    """In a header of the Developer API, in its usage, or as Vertex's kind of traffic."""
    request = canonical({"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]})
    decoder, events = dialect("gemini").decoder(request, "m"), list[BackendRawEvent]()
    decoder.head({b"x-gemini-service-tier": header}.get)
    body: Any = GEMINI | {"usageMetadata": {"promptTokenCount": 1, **usage}}
    decoder.feed_whole(body, events)
    decoder.finish(events)
    (found,) = [event.usage for event in events if isinstance(event, Usage)]

    assert found.service_tier == tier
