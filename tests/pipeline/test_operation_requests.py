"""What is asked besides inference, on its way to a backend: the request, what the backend can do, its budget."""

from __future__ import annotations

import json
from typing import Any, cast

import pytest

from beluna_gateway.canonical import (
    CanonicalRequest,
    EmbeddingRequest,
    JsonSchemaOutput,
    ModelListRequest,
    Operation,
    Reasoning,
    TokenCountRequest,
)
from beluna_gateway.config.settings import Budget, Capabilities
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.budget import BudgetEnforcer, NarrowedBudget
from beluna_gateway.pipeline.capabilities import CapabilityGuard
from beluna_gateway.pipeline.request_normalizer import RequestNormalizer
from beluna_gateway.wire.frames import Infer, OperationFrame
from beluna_gateway.wire.ndjson import decode

INFERENCE: Any = {
    "messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}]}],
    "tools": [{"name": "t", "input_schema": {}}],
    "backend_id": "b",
    "model": "m",
    "reasoning": {"effort": "off"},
}


def normalize(kind: str, **fields: Any) -> Operation:
    frame = decode(json.dumps({"type": kind, **fields}).encode())
    return RequestNormalizer().normalize_operation(cast(OperationFrame, frame), "r1")


def inference(**fields: Any) -> CanonicalRequest:
    frame = decode(json.dumps({"type": "infer", **INFERENCE, **fields}).encode())
    assert isinstance(frame, Infer)
    return RequestNormalizer().normalize(frame, "r1")


# --- the request ---


def test_tokens_are_counted_of_the_request_that_an_inference_would_be():
    """Everything that has tokens is in it; it has no limits, for nothing is generated."""
    assert normalize("count_tokens", **INFERENCE) == TokenCountRequest(inference())


def test_models_are_listed_of_a_backend():
    """The named one, or the default one."""
    assert normalize("models", backend_id="b") == ModelListRequest("r1", "b")
    assert normalize("models") == ModelListRequest("r1", None)


def test_texts_are_embedded_in_their_order():
    """With the model and the length that the client asks for."""
    asked = normalize("embed", inputs=["x", ""], backend_id="b", model="m", dimensions=3)

    assert asked == EmbeddingRequest("r1", ("x", ""), "b", "m", 3)
    assert normalize("embed", inputs=["x"]) == EmbeddingRequest("r1", ("x",))


def test_nothing_is_not_embedded():
    """A backend would refuse it, each in other words."""
    with pytest.raises(GatewayError) as caught:
        normalize("embed", inputs=[])

    assert (caught.value.kind, caught.value.message) == (
        "invalid_request",
        "inputs: empty; at least one text is needed",
    )


@pytest.mark.parametrize("verify", [True, False])
def test_what_is_to_be_verified_is_marked(verify: bool):
    """A tool's whole schema, keywords that are not sent included; an output's by its own mark."""
    schema: Any = {"type": "object", "$id": "https://x"}
    tool = {"name": "t", "input_schema": schema, "verify": verify}
    output = {"json_schema": {"name": "n", "schema": schema, "strict": True, "verify": verify}}
    request = inference(tools=[tool], output_mode=output)

    assert request.tools[0].input_schema == {"type": "object"}
    assert request.tools[0].verify == (schema if verify else None)
    assert request.output_mode == JsonSchemaOutput("n", schema, True, verify)


# --- what the backend can do ---


def admit(request: Any, **can: bool) -> Any:
    return CapabilityGuard().admit(request, Capabilities(**can), "b")


def test_tokens_are_counted_of_what_would_be_admitted():
    """What is true of the model anyway is not asked of it; what it cannot do is refused as for an inference."""
    request = TokenCountRequest(inference())

    assert request.inference.reasoning == Reasoning(effort="off")
    assert admit(request, reasoning=True) == request
    assert admit(request, reasoning=False).inference.reasoning is None
    assert admit(request, reasoning=False).inference.tools == request.inference.tools
    with pytest.raises(GatewayError, match=r"^tools: backend 'b' does not have the capability tool_calls$"):
        admit(request, tool_calls=False)


@pytest.mark.parametrize("request_", [EmbeddingRequest("r1", ("x",)), ModelListRequest("r1")], ids=repr)
def test_other_operations_ask_for_no_capability(request_: Operation):
    """They are no inference."""
    assert admit(request_, tool_calls=False, streaming=False, reasoning=False) is request_


# --- budgets ---


@pytest.mark.parametrize("own", [10, 100])
async def test_a_clients_cap_and_the_backends_both_hold(own: int):
    """The message names the limit that was met."""
    backend = BudgetEnforcer(Budget(max_usage_tokens_per_request=50), "b")
    both = NarrowedBudget(BudgetEnforcer(Budget(max_usage_tokens_per_request=own), "b", "core"), backend)
    whose, setting = ("a request of client 'core'", "server.clients[].budget") if own < 50 else ("a request", "budget")

    both.check(inference(limits={"max_output_tokens": min(own, 50)}))
    with pytest.raises(GatewayError) as caught:
        both.check(inference(limits={"max_output_tokens": min(own, 50) + 1}))
    assert caught.value.message == (
        f"limits.max_output_tokens: {min(own, 50) + 1} is more than the {min(own, 50)} that {whose} to backend 'b' may "
        f"use ({setting}.max_usage_tokens_per_request)"
    )


async def test_operations_have_no_cap_of_output_tokens():
    """They have no output tokens."""
    BudgetEnforcer(Budget(max_usage_tokens_per_request=1), "b").check(EmbeddingRequest("r1", ("x",)))
