"""`CapabilityGuard`: what is asked for against what the backend can do."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.canonical import (
    AssistantMessage,
    CanonicalRequest,
    ImagePart,
    JsonSchemaOutput,
    Reasoning,
    TextPart,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from beluna_gateway.config.settings import Capabilities
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.capabilities import CapabilityGuard

TEXT = UserMessage((TextPart("hello"),))
IMAGE = UserMessage((TextPart("see"), ImagePart("https://h/i.png", None, None)))
CALL = ToolCall("c", "t", "{}", {})


def request(**fields: Any) -> CanonicalRequest:
    return CanonicalRequest("r1", **{"messages": (TEXT,), "stream": False, **fields})


def refusal(asked: CanonicalRequest, **can: bool) -> str:
    with pytest.raises(GatewayError) as caught:
        CapabilityGuard().admit(asked, Capabilities(**can), "b")
    assert (caught.value.kind, caught.value.retryable) == ("unsupported_capability", False)
    return caught.value.message


CASES: list[tuple[str, dict[str, Any], str]] = [
    ("streaming", {"stream": True}, "stream"),
    ("tool_calls", {"tools": (Tool("t", None, {}),)}, "tools"),
    ("json_mode", {"output_mode": "json_object"}, "output_mode json_object"),
    ("json_schema_mode", {"output_mode": JsonSchemaOutput("n", {}, strict=True)}, "output_mode"),
    ("reasoning", {"enable_thinking": True}, "enable_thinking"),
    ("reasoning", {"include_reasoning": True}, "include_reasoning"),
    ("reasoning", {"reasoning": Reasoning(effort="low")}, "reasoning"),
    ("reasoning", {"reasoning": Reasoning(budget_tokens=2048)}, "reasoning"),
    ("reasoning", {"reasoning": Reasoning(effort="off", summary="auto")}, "reasoning"),
    ("parallel_tool_calls", {"parallel_tool_calls": True}, "parallel_tool_calls"),
    ("vision", {"messages": (TEXT, IMAGE)}, "messages[1].parts[1].image_url"),
    ("tool_calls", {"messages": (ToolMessage("c", "t", (TextPart("3"),)),)}, "messages[0]"),
    ("tool_calls", {"messages": (TEXT, AssistantMessage((), (CALL,)))}, "messages[1].tool_calls"),
    ("parallel_tool_calls", {"messages": (AssistantMessage((), (CALL, CALL)),)}, "messages[0].tool_calls"),
]


@pytest.mark.parametrize(("capability", "fields", "named"), CASES, ids=lambda value: str(value)[:30])
def test_what_is_not_there_is_refused(capability: str, fields: dict[str, Any], named: str):
    """A request that needs a capability which the backend lacks is refused, naming the field and the capability."""
    message = refusal(request(**fields), **{capability: False})

    assert message == f"{named}: backend 'b' does not have the capability {capability}"


@pytest.mark.parametrize(("capability", "fields", "named"), CASES, ids=lambda value: str(value)[:30])
def test_only_what_is_asked_for_counts(capability: str, fields: dict[str, Any], named: str):
    """A capability that is there lets pass, and one that is missing hinders nobody who does not need it."""
    guard = CapabilityGuard()

    guard.admit(request(**fields), Capabilities(), "b")
    guard.admit(request(), Capabilities(**{capability: False}), "b")
    others: Any = {name: False for name in Capabilities.model_fields if name != capability}
    if capability == "parallel_tool_calls":
        others["tool_calls"] = True
    guard.admit(request(**fields), Capabilities(**others), "b")


@pytest.mark.parametrize(
    ("asked", "reasoning", "passed_on"),
    [(False, False, None), (False, True, False), (True, True, True), (None, False, None), (None, True, None)],
)
def test_switching_thinking_off_needs_no_reasoning(asked: bool | None, reasoning: bool, passed_on: bool | None):
    """A model that cannot think does not think: nothing is sent. One that can is told."""
    one = request(enable_thinking=asked, max_output_tokens=5)
    admitted = CapabilityGuard().admit(one, Capabilities(reasoning=reasoning), "b")

    assert admitted == request(enable_thinking=passed_on, max_output_tokens=5)


@pytest.mark.parametrize("reasoning", [True, False])
def test_the_effort_off_is_true_of_a_model_that_cannot_reason(reasoning: bool):
    """Nothing is sent there; a model that can is told."""
    off = Reasoning(effort="off")
    admitted = CapabilityGuard().admit(request(reasoning=off), Capabilities(reasoning=reasoning), "b")

    assert admitted == request(reasoning=off if reasoning else None)


def test_one_past_call_is_not_parallel():
    """A history of single calls passes where two at once would not."""
    history = (AssistantMessage((), (CALL,)), ToolMessage("c", "t", ()), AssistantMessage((), (CALL,)))

    CapabilityGuard().admit(request(messages=history), Capabilities(parallel_tool_calls=False), "b")
