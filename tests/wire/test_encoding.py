"""What the daemon says: one line of JSON for each event, whatever a backend put into it."""

from __future__ import annotations

import json
from typing import Any, get_args

from hypothesis import given, settings
from hypothesis import strategies as st

from beluna_gateway.canonical import (
    Completed,
    Failed,
    OtherFinishReason,
    OutputTextDelta,
    ReasoningDelta,
    Started,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    Usage,
    UsageStats,
)
from beluna_gateway.errors import ErrorKind, GatewayError
from beluna_gateway.wire.ndjson import FrameEncoder, RejectedLine, rejected, status

from .samples import json_values, valid_line

_text = st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(
    ["\u2028\u2029\u0085", '"\\\n\r\t\x00\x1f', "\x7f"]
)
_count = st.none() | st.integers(0, 2**70)
_objects = st.dictionaries(_text, json_values, max_size=3)
_events: Any = st.one_of(
    st.builds(Started, _text, _text),
    st.builds(OutputTextDelta, _text.filter(bool)),
    st.builds(ReasoningDelta, _text.filter(bool)),
    st.builds(ToolCallDelta, _text, st.none() | _text, _text),
    st.builds(ToolCallReady, st.builds(ToolCall, _text, _text, _text, st.just({}))),
    st.builds(
        Usage,
        st.builds(
            UsageStats,
            *(_count, _count, _count, _count, _count),
            cost=st.none() | st.floats(0, 1e6),
            provider_usage_raw=st.none() | _objects,
        ),
    ),
    st.builds(
        Completed,
        st.sampled_from(["stop", "length", "tool_calls"]) | st.builds(OtherFinishReason, _text),
        _objects,
    ),
    st.builds(
        Failed,
        st.builds(
            GatewayError,
            st.sampled_from(get_args(ErrorKind)),
            _text,
            retryable=st.booleans(),
            backend_id=st.none() | _text,
            provider_code=st.none() | _text,
            provider_http_status=st.none() | st.integers(100, 599),
            retry_after_ms=st.none() | st.integers(0, 2**40),
        ),
    ),
)


@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=128), st.lists(_events, max_size=5))
@settings(max_examples=200)
def test_everything_that_is_said_is_a_frame(request_id: str, events: list[Any]):
    """Whatever the events hold, each is one line that the models and the schema take, and its text comes back."""
    lines = FrameEncoder(request_id).events(events).split(b"\n")
    frames = [valid_line(line + b"\n") for line in lines[:-1]]

    assert lines[-1] == b""
    assert [frame["request_id"] for frame in frames] == [request_id] * len(events)
    for frame, event in zip(frames, events, strict=True):
        if isinstance(event, OutputTextDelta | ReasoningDelta):
            assert frame["delta"] == event.delta


def test_each_event_has_its_frame():
    """The shapes are the contract's, to the letter."""
    call = ToolCall("c", "t", '{"a":1}', {"a": 1})
    error = GatewayError("rate_limited", "slow down", retryable=True, backend_id="b", retry_after_ms=7)
    lines = FrameEncoder("r1").events(
        [
            Started("b", "m"),
            OutputTextDelta("é\n"),
            ReasoningDelta("hm"),
            ToolCallDelta("c", None, "{"),
            ToolCallReady(call),
            Usage(UsageStats(1, None, 2, provider_usage_raw={"n": 1})),
            Usage(UsageStats(0, 0, 0, 0, 0, 0.0)),
            Completed("stop", {}),
            Completed(OtherFinishReason("content_filter"), {"model": "m-1"}),
            Failed(error),
        ]
    )

    assert [json.loads(line) for line in lines.splitlines()] == [
        {"type": "started", "request_id": "r1", "backend_id": "b", "model": "m"},
        {"type": "output_text_delta", "request_id": "r1", "delta": "é\n"},
        {"type": "reasoning_delta", "request_id": "r1", "delta": "hm"},
        {"type": "tool_call_delta", "request_id": "r1", "call_id": "c", "name": None, "arguments_delta": "{"},
        {"type": "tool_call_ready", "request_id": "r1"}
        | {"call": {"id": "c", "name": "t", "arguments_json": '{"a":1}', "status": "ready"}},
        {"type": "usage", "request_id": "r1"}
        | {"usage": {"input_tokens": 1, "output_tokens": None, "total_tokens": 2, "provider_usage_raw": {"n": 1}}},
        {"type": "usage", "request_id": "r1"}
        | {
            "usage": {
                "input_tokens": 0,
                "output_tokens": 0,
                "total_tokens": 0,
                "provider_usage_raw": None,
                "cached_input_tokens": 0,
                "reasoning_tokens": 0,
                "cost": 0.0,
            }
        },
        {"type": "completed", "request_id": "r1", "finish_reason": "stop", "backend_metadata": {}},
        {"type": "completed", "request_id": "r1"}
        | {"finish_reason": {"other": "content_filter"}, "backend_metadata": {"model": "m-1"}},
        {"type": "failed", "request_id": "r1"}
        | {
            "error": {
                "kind": "rate_limited",
                "message": "slow down",
                "retryable": True,
                "backend_id": "b",
                "provider_code": None,
                "provider_http_status": None,
                "retry_after_ms": 7,
            }
        },
    ]


def test_what_a_backend_made_infinite_is_null():
    """A backend's own object may hold numbers that no float can; the frame is still JSON."""
    line = FrameEncoder("r1").events([Usage(UsageStats(provider_usage_raw={"n": float("inf"), "m": [float("nan")]}))])

    assert valid_line(line)["usage"]["provider_usage_raw"] == {"n": None, "m": [None]}


def test_rejections_and_status():
    """The two frames that belong to no request."""
    error = RejectedLine("no").error
    fields = {
        "protocol": 1,
        "version": "0",
        "pid": 1,
        "uptime_ms": 2,
        "connections": 3,
        "in_flight": 4,
        "reloads": {"ok": 1, "failed": 2, "running": True, "last_error": "no"},
        "backends": [
            {
                "id": "b",
                "dialect": "ollama",
                "default_model": "m",
                "in_flight": 0,
                "queued": 0,
                "breaker": "half_open",
                "requests": 1,
                "used_tokens": 8,
                "failures": 0,
            }
        ],
    }

    assert valid_line(rejected(error, None))["request_id"] is None
    assert valid_line(rejected(error, "r1"))["error"]["kind"] == "invalid_request"
    known = GatewayError("budget_exceeded", "too many", retry_after_ms=7)
    line = RejectedLine.of(known, "r1")
    assert (line.error, line.request_id, str(line)) == (known, "r1", "too many")
    assert "retry_after_ms" not in valid_line(rejected(error, "r1"))["error"]
    assert valid_line(status(fields)) == {"type": "status", **fields}
