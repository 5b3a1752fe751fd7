"""Beluna core's own request, as its newest version writes it: every dialect takes it and sends what providers take."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.pipeline.capabilities import CapabilityGuard

from ..oracles import ORACLES
from ..recorded import canonical, dialect
from .provider_rules import RULES


def _part(text: str) -> dict[str, Any]:
    return {"text": {"text": text}}


CALL = {"id": "c1", "name": "expand-senses", "arguments_json": '{"q":1}'}
# Core's `turn_payload_json`: empty texts, `"tool_calls":[]` on every message, thinking off in every request.
REQUEST: dict[str, Any] = {
    "type": "infer",
    "request_id": "openai-gpt-1",
    "stream": False,
    "enable_thinking": False,
    "messages": [
        {"role": "system", "parts": [_part("Be brief.")], "tool_calls": []},
        {"role": "user", "parts": [_part("Emit an act.")], "tool_calls": []},
        {"role": "assistant", "parts": [_part("")], "tool_calls": []},
        {"role": "assistant", "parts": [_part("")], "tool_calls": [CALL]},
        {
            "role": "tool",
            "parts": [{"json": {"value": {"ok": True}}}],
            "tool_call_id": "c1",
            "tool_name": "expand-senses",
            "tool_calls": [],
        },
        {"role": "user", "parts": [_part("Continue.")], "tool_calls": []},
    ],
    "tools": [{"name": "expand-senses", "input_schema": {"type": "object"}}],
    "output_mode": "text",
    "limits": {"max_request_time_ms": 60000},
    "metadata": {"tick": "7", "cortex_stage": "primary"},
}

RESULT = '{"ok":true}'
FUNCTION = {"name": "expand-senses", "arguments": '{"q":1}'}
CHAT = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Emit an act."},
    {"role": "assistant", "content": ""},
    {"role": "assistant", "content": "", "tool_calls": [{"id": "c1", "type": "function", "function": FUNCTION}]},
    {"role": "tool", "tool_call_id": "c1", "content": RESULT},
    {"role": "user", "content": "Continue."},
]
SENT: dict[str, dict[str, Any]] = {
    "openai_compatible": {"messages": CHAT},
    "ollama": {
        "messages": [
            *CHAT[:3],
            {
                "role": "assistant",
                "content": "",
                "tool_calls": [{"id": "c1", "function": {"index": 0, "name": "expand-senses", "arguments": {"q": 1}}}],
            },
            {"role": "tool", "content": RESULT, "tool_name": "expand-senses", "tool_call_id": "c1"},
            CHAT[5],
        ],
        "think": False,
    },
    "openai_responses": {
        "input": [
            {"type": "message", "role": "system", "content": "Be brief."},
            {"type": "message", "role": "user", "content": "Emit an act."},
            {"type": "function_call", "call_id": "c1", **FUNCTION},
            {"type": "function_call_output", "call_id": "c1", "output": RESULT},
            {"type": "message", "role": "user", "content": "Continue."},
        ],
        "reasoning": {"effort": "none"},
    },
    "anthropic": {
        "system": [{"type": "text", "text": "Be brief."}],
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "Emit an act."}]},
            {
                "role": "assistant",
                "content": [{"type": "tool_use", "id": "c1", "name": "expand-senses", "input": {"q": 1}}],
            },
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "c1", "content": RESULT},
                    {"type": "text", "text": "Continue."},
                ],
            },
        ],
        "thinking": {"type": "disabled"},
    },
    "gemini": {
        "systemInstruction": {"parts": [{"text": "Be brief."}]},
        "contents": [
            {"role": "user", "parts": [{"text": "Emit an act."}]},
            {"role": "model", "parts": [{"functionCall": {"name": "expand-senses", "args": {"q": 1}, "id": "c1"}}]},
            {
                "role": "user",
                "parts": [
                    {"functionResponse": {"id": "c1", "name": "expand-senses", "response": {"ok": True}}},
                    {"text": "Continue."},
                ],
            },
        ],
        "generationConfig": {"thinkingConfig": {"thinkingBudget": 0}},
    },
}


@pytest.mark.parametrize("name", sorted(SENT))
def test_every_dialect_takes_cores_request(name: str) -> None:
    """The request is accepted, and what is sent is the conversation in the provider's form."""
    of = dialect(name)
    request = canonical(REQUEST)
    body = of.encode(CapabilityGuard().admit(request, of.capabilities, "b"), "m").body

    assert body.items() >= SENT[name].items()
    assert list(RULES[name](body)) == []
    ORACLES[name].request(json.loads(json.dumps(body)))


@pytest.mark.parametrize("name", sorted(SENT))
def test_thinking_off_is_true_of_a_model_that_cannot_think(name: str) -> None:
    """On a backend without the capability `reasoning`, core's `enable_thinking: false` adds nothing to the body."""
    of = dialect(name)
    capabilities = of.capabilities.model_copy(update={"reasoning": False})
    silent = {key: value for key, value in REQUEST.items() if key != "enable_thinking"}

    admitted = CapabilityGuard().admit(canonical(REQUEST), capabilities, "b")

    assert of.encode(admitted, "m").body == of.encode(canonical(silent), "m").body
