"""`rejected` or `failed`: what a line gets that cannot be served, and that no backend hears of it."""

from __future__ import annotations

import json

import pytest

from tests.fakes.answers import text
from tests.fakes.client import infer, user

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {
    "b": {},
    "no-secret": {"credential": {"type": "env", "var": "BELUNA_TEST_UNSET"}},
    "frugal": {"budget": {"max_usage_tokens_per_request": 10}},
    "plain": {"capabilities": {"tool_calls": False, "json_mode": False, "vision": False, "streaming": False}},
}

# --- rejected ---

TOOL = {"name": "look", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": 1},
        {"messages": None},
        {"messages": {}},
        {"messages": [{"role": "user", "parts": None}]},
        {"messages": [{"role": "User", "parts": []}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "parts": [], "extra": 1}]},
        {"messages": [{"role": "user", "parts": [{"text": "hello"}]}]},
        {"messages": [{"role": "user", "parts": [{"type": "text", "text": "hello"}]}]},
        {"messages": [{"role": "user", "parts": [{"text": {"text": "a"}, "json": {"value": 1}}]}]},
        {"messages": [{"role": "user", "parts": [{"text": {"text": "a", "extra": 1}}]}]},
        {"messages": [{"role": "user", "parts": [{"text": {"text": 1}}]}]},
        {"messages": [{"role": "user", "parts": [{"json": {}}]}]},
        {"messages": [{"role": "user", "parts": [{"audio": {}}]}]},
        {"messages": [{"role": "assistant", "parts": [], "tool_calls": [{"id": "1", "name": "n"}]}]},
        {"messages": [{"role": "assistant", "parts": [], "provider_state": []}]},
        {"tools": None},
        {"tools": [{"name": "x"}]},
        {"tools": [{**TOOL, "input_schema": []}]},
        {"tools": [{**TOOL, "cached": True}]},
        {"tool_choice": None},
        {"tool_choice": "any"},
        {"tool_choice": {"specific": "look"}},
        {"tool_choice": {"specific": {"name": "look"}, "other": 1}},
        {"output_mode": None},
        {"output_mode": "json"},
        {"output_mode": {"json_schema": {"name": "x"}}},
        {"limits": None},
        {"limits": {"max_output_tokens": 0}},
        {"limits": {"max_output_tokens": -1}},
        {"limits": {"max_output_tokens": 1.0}},
        {"limits": {"max_output_tokens": "1"}},
        {"limits": {"max_output_tokens": True}},
        {"limits": {"max_request_time_ms": 0}},
        {"limits": {"tokens": 1}},
        {"metadata": None},
        {"metadata": {"a": 1}},
        {"stream": None},
        {"stream": 1},
        {"stream": "true"},
        {"sampling": {"temperature": "hot"}},
        {"sampling": {"stop": "x"}},
        {"sampling": {"seed": 1.5}},
        {"sampling": {"top_k": 1}},
        {"enable_thinking": 1},
        {"include_reasoning": None},
        {"provider_options": []},
        {"backend_id": 1},
        {"model": 1},
    ],
    ids=json.dumps,
)
async def test_what_a_schema_can_say_is_rejected(stage, fields):
    """A frame of the wrong shape is no request: `rejected` alone, with its id, and nothing reaches a backend."""
    client = await stage.client()
    stage.backend.on("b", text("not to be seen"))
    await client.send({**infer("b"), **fields})

    frame = await client.expect("rejected", "r")

    assert tuple(frame["error"][k] for k in ("kind", "retryable", "backend_id")) == ("invalid_request", False, None)
    assert next(iter(fields)) in frame["error"]["message"]
    await client.expect_nothing(0.005)
    assert stage.backend.requests("b") == []


@pytest.mark.parametrize("request_id", ["", "x" * 129, 1, ["r"]], ids=repr)
async def test_an_id_that_is_none_is_rejected_without_one(stage, request_id):
    """An id that breaks its own rule cannot name the refusal."""
    client = await stage.client()
    await client.send({**infer("b"), "request_id": request_id})

    assert (await client.expect("rejected"))["request_id"] is None


# --- failed ---


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "parts": []}]}, "messages[0].parts"),
        ({"messages": [{"role": "assistant", "parts": []}]}, "messages[0].parts"),
        ({"messages": [{"role": "tool", "parts": [{"text": {"text": "x"}}]}]}, "tool_call_id"),
        ({"messages": [{**user()[0], "tool_call_id": "1"}]}, "tool_call_id"),
        ({"messages": [{**user()[0], "tool_name": "x"}]}, "tool_name"),
        (
            {"messages": [{**user()[0], "tool_calls": [{"id": "1", "name": "look", "arguments_json": "{}"}]}]},
            "tool_calls",
        ),
        ({"messages": [{**user()[0], "provider_state": {"gemini": []}}]}, "provider_state"),
        ({"messages": [{"role": "user", "parts": [{"image_url": {"url": "file:///etc/passwd"}}]}]}, "url"),
        ({"messages": [{"role": "user", "parts": [{"image_url": {"url": "ftp://host/x"}}]}]}, "url"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "parts": [],
                        "tool_calls": [{"id": "1", "name": "look", "arguments_json": "[]"}],
                    }
                ]
            },
            "arguments_json",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "parts": [],
                        "tool_calls": [{"id": "1", "name": "look", "arguments_json": "{}"}],
                    },
                    {"role": "tool", "parts": [{"text": {"text": "x"}}], "tool_call_id": "2", "tool_name": "look"},
                ]
            },
            "messages[1].tool_call_id",
        ),
        (
            {
                "messages": [
                    {
                        "role": "tool",
                        "parts": [{"file": {"mime_type": "application/pdf"}}],
                        "tool_call_id": "1",
                        "tool_name": "look",
                    }
                ]
            },
            "file",
        ),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [{**TOOL, "input_schema": {"optional": []}}]}, "unsupported keyword"),
        ({"tools": [{**TOOL, "input_schema": {"type": "nothing"}}]}, "tools[0].input_schema"),
        ({"tool_choice": {"specific": {"name": "look"}}}, "tool_choice"),
        ({"output_mode": {"json_schema": {"name": "x", "schema": {"type": 1}}}}, "output_mode"),
        ({"backend_id": "nobody"}, "nobody"),
        ({"backend_id": ""}, "backend_id"),
        ({"provider_options": {"stream": False}}, "provider_options.stream"),
        ({"provider_options": {"messages": []}}, "provider_options.messages"),
        ({"provider_options": {"stream_options": {"include_usage": False}}}, "provider_options.stream_options"),
    ],
)
async def test_what_takes_understanding_fails(stage, fields, named):
    """`failed` alone, kind `invalid_request`, naming the place; nothing reaches a backend."""
    client = await stage.client()
    stage.backend.on("b", text("not to be seen"))
    await client.send({**infer("b"), **fields})

    frame = await client.expect("failed", "r")

    assert frame["error"]["kind"] == "invalid_request"
    assert named in frame["error"]["message"]
    assert stage.backend.requests("b") == []


@pytest.mark.parametrize(
    ("backend_id", "fields", "kind", "named"),
    [
        ("no-secret", {}, "authentication", "BELUNA_TEST_UNSET"),
        ("frugal", {"limits": {"max_output_tokens": 11}}, "budget_exceeded", "max_output_tokens"),
        ("plain", {"tools": [TOOL], "stream": False}, "unsupported_capability", "tool"),
        ("plain", {"output_mode": "json_object", "stream": False}, "unsupported_capability", "json"),
        ("plain", {}, "unsupported_capability", "stream"),
        ("b", {"enable_thinking": True}, "unsupported_capability", "enable_thinking"),
    ],
)
async def test_refused_before_dispatch_is_failed_alone(stage, backend_id, fields, kind, named):
    """Credential, budget and capability end in `failed` without `started`, and name the backend."""
    client = await stage.client()
    await client.infer(backend_id, **fields)

    error = (await client.expect("failed", "r"))["error"]

    assert (kind, False, backend_id) == (error["kind"], error["retryable"], error["backend_id"])
    assert named in error["message"]
    assert stage.backend.requests(backend_id) == []


async def test_provider_options_are_merged(stage):
    """Objects are merged at every depth, everything else is added as it is."""
    client = await stage.client()
    stage.backend.on("b", text("x"))
    await client.infer("b", provider_options={"top_k": 5, "stream_options": {"extra": [1]}, "deep": {"er": None}})
    await client.answer()

    body = stage.backend.requests("b")[0].json()
    assert body["stream_options"] == {"include_usage": True, "extra": [1]}
    assert (body["top_k"], body["deep"]) == (5, {"er": None})
