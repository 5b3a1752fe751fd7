"""Answers as real servers sent them, one of each kind from public reports, each through the whole daemon.

The dialects' own tests hold many more of each kind; here every kind passes the socket, the retry rule and the breaker.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, NamedTuple

import pytest

from tests.fakes.answers import CUT, DONE, RESET, Fault, answers, delta, event, finish, plays
from tests.fakes.client import Frame

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS: dict[str, Any] = {
    "chat": {},
    "responses": {"dialect": "openai_responses"},
    "anthropic": {"dialect": "anthropic"},
    "gemini": {"dialect": "gemini"},
    "ollama": {"dialect": "ollama"},
}

SCHEMA = {"type": "object"}
TOOLS = [{"name": name, "input_schema": SCHEMA} for name in ("get_weather", "f")]
PARIS = {"city": "Paris"}


class Report(NamedTuple):
    """What a server sends, and what the client is to get: see `_summary` for the words of `right`."""

    name: str
    backend: str
    steps: tuple[bytes | float | Fault, ...]
    right: dict[str, Any]
    stream: bool = True
    status: int = 200
    headers: Mapping[str, str] = MappingProxyType({"Content-Type": "text/event-stream"})
    framing: str = "chunked"


def _summary(frames: list[Frame]) -> dict[str, Any]:
    """An answer's frames in short: what was said, which calls are ready, how it ended."""
    said: dict[str, Any] = {"text": "", "thinking": "", "calls": [], "text_deltas": 0}
    for frame in frames:
        kind = frame["type"]
        if kind == "output_text_delta":
            said["text"] += frame["delta"]
            said["text_deltas"] += 1
        elif kind == "reasoning_delta":
            said["thinking"] += frame["delta"]
        elif kind == "tool_call_ready":
            said["calls"].append((frame["call"]["name"], json.loads(frame["call"]["arguments_json"])))
        elif kind == "usage":
            said["usage"] = frame["usage"]
        elif kind == "completed":
            said |= {"end": frame["finish_reason"], "state": frame["backend_metadata"].get("provider_state")}
        elif kind == "failed":
            error = frame["error"]
            said |= {"end": error["kind"], "message": error["message"], "error": error}
    return said


def _whole(value: Any, **fields: Any) -> dict[str, Any]:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return {
        "steps": (data,), "stream": False, "framing": str(len(data)), "headers": {"Content-Type": "application/json"}
    } | fields  # fmt: skip


def _choice(**fields: Any) -> bytes:
    return event({"choices": [{"index": 0, **fields}]})


def _calls(*calls: dict[str, Any], **fields: Any) -> bytes:
    return _choice(delta={"tool_calls": [{"type": "function", **call} for call in calls]}, **fields)


def _call(index: int, arguments: str, **fields: Any) -> dict[str, Any]:
    name = fields.pop("name", None)
    return {"index": index, **fields, "function": {"arguments": arguments} | ({"name": name} if name else {})}


def _failed(kind: str, *words: str, **error: Any) -> dict[str, Any]:
    return {"end": kind, "words": words, "error": error}


CHAT = [
    Report(
        "a second id at the index without a name continues the call",
        "chat",
        (
            _calls(_call(0, "", id="a", name="get_weather")),
            _calls(_call(0, json.dumps(PARIS), id="b")),
            _choice(delta={}, finish_reason="tool_calls"),
            DONE,
        ),
        {"calls": [("get_weather", PARIS)], "end": "tool_calls"},
    ),
    Report(
        "arguments at an index that no call has begun",
        "chat",
        (
            _calls(_call(0, "", id="a", name="f")),
            _calls(_call(1, json.dumps(PARIS))),
            _choice(delta={}, finish_reason="tool_calls"),
            DONE,
        ),
        {"calls": [], **_failed("protocol_violation")},
    ),
    Report(
        "pieces of one call under an id each",
        "chat",
        (
            _calls(_call(0, '{"ci', id="t1", name="f")),
            _calls(_call(0, 'ty":', id="t2")),
            _calls(_call(0, '"Paris"}', id="t3")),
            _choice(delta={}, finish_reason="tool_calls"),
            DONE,
        ),
        {"calls": [("f", PARIS)], "end": "tool_calls"},
    ),
    Report(
        "the word null as finish reason in every chunk",
        "chat",
        (
            *(_choice(delta={"content": text}, finish_reason="null") for text in "abc"),
            1.2,
            _choice(delta={"content": "d"}, finish_reason="null"),
            finish("length"),
            DONE,
        ),
        {"text": "abcd", "end": "length"},
    ),
    Report(
        "stop in an empty first chunk, and the connection lost later",
        "chat",
        (finish("stop"), delta("a"), RESET),
        {"text": "a", **_failed("backend_transient")},
    ),
    Report(
        "a last event without its blank line",
        "chat",
        (delta("a"), finish("stop").rstrip(b"\n")),
        {"text": "a", "end": "stop"},
    ),
    Report(
        "a comment inside of data, and white space after [DONE]",
        "chat",
        (b"data: : keepalive\n\n", delta("a"), b"data: : keepalive\n\n", finish("stop"), b"data: [DONE] \n\n"),
        {"text": "a", "end": "stop"},
    ),
    Report(
        "an error inside of the choice",
        "chat",
        (_choice(delta={}, finish_reason="error", error={"code": 502, "message": "m"}), DONE),
        _failed("backend_transient", "m", provider_code="502"),
    ),
    Report(
        "an error in an SSE field of its own",
        "chat",
        (b'error: {"code":503,"message":"Loading model"}\n\n',),
        _failed("backend_transient", "Loading model"),
    ),
    Report(
        "a failed use of tools in the stream",
        "chat",
        (event({"error": {"type": "invalid_request_error", "code": "tool_use_failed", "message": "m"}}),),
        _failed("invalid_request", "m", retryable=False),
    ),
    Report(
        "a validation error in the stream",
        "chat",
        (event({"error": "Input validation error: too long", "error_type": "validation"}),),
        _failed("invalid_request", "too long", retryable=False),
    ),
    Report(
        "a quota that is used up",
        "chat",
        right=_failed("rate_limited", "gone", retryable=False),
        **_whole({"error": {"type": "exceeded_current_quota_error", "message": "gone"}}, status=429),
    ),
    Report(
        "a list of details",
        "chat",
        right=_failed("invalid_request", "Field required"),
        **_whole({"detail": [{"loc": ["body", "x"], "msg": "Field required"}]}, status=422),
    ),
    Report(
        "a list of errors",
        "chat",
        right=_failed("invalid_request", "there is none"),
        **_whole({"errors": [{"code": 7003, "message": "there is none"}]}, status=404),
    ),
    Report(
        "no choices, and a base_resp",
        "chat",
        right=_failed("backend_transient", "insufficient balance"),
        **_whole({"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}}),
    ),
    Report(
        "a page of HTML instead of a stream",
        "chat",
        (b"<html><body>Please sign in</body></html>",),
        _failed("protocol_violation", "Please sign in"),
        headers={"Content-Type": "text/html"},
    ),
    Report("an empty body", "chat", right=_failed("protocol_violation"), **_whole(b"")),
    Report(
        "content as an array of thinking and text",
        "chat",
        right={"thinking": "2+2", "text": "4", "end": "stop"},
        **_whole(
            {
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "stop",
                        "message": {
                            "content": [
                                {"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]},
                                {"type": "text", "text": "4"},
                            ]
                        },
                    }
                ]
            }
        ),
    ),
    Report(
        "the old function_call",
        "chat",
        (
            _choice(delta={"function_call": {"name": "f", "arguments": ""}}),
            _choice(delta={"function_call": {"arguments": "{}"}}),
            _choice(delta={}, finish_reason="function_call"),
            DONE,
        ),
        {"calls": [("f", {})], "end": "tool_calls"},
    ),
    Report(
        "arguments as an object",
        "chat",
        right={"calls": [("f", PARIS)], "end": "tool_calls"},
        **_whole(
            {
                "choices": [
                    {
                        "index": 0,
                        "finish_reason": "tool_calls",
                        "message": {"tool_calls": [{"id": "c", "function": {"name": "f", "arguments": PARIS}}]},
                    }
                ]
            }
        ),
    ),
    Report(
        "reasoning_details alone",
        "chat",
        (_choice(delta={"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}), delta("a"), finish(), DONE),
        {"thinking": "hm", "text": "a", "end": "stop"},
    ),
    Report(
        "an empty finish reason in a whole answer",
        "chat",
        right={"text": "a", "end": "stop"},
        **_whole({"choices": [{"index": 0, "message": {"content": "a"}, "finish_reason": ""}]}),
    ),
    Report(
        "reasoning that only the total counts",
        "chat",
        (
            delta("a"),
            finish(),
            event(
                {
                    "choices": [],
                    "usage": {
                        "prompt_tokens": 12,
                        "completion_tokens": 1,
                        "total_tokens": 399,
                        "completion_tokens_details": {"reasoning_tokens": 386},
                    },
                }
            ),
            DONE,
        ),
        {"end": "stop", "usage": {"input_tokens": 12, "output_tokens": 387, "reasoning_tokens": 386}},
    ),
    Report(
        "usage inside of the choice",
        "chat",
        (
            _choice(delta={"content": "a"}),
            _choice(delta={}, finish_reason="stop", usage={"prompt_tokens": 3, "completion_tokens": 5}),
            DONE,
        ),
        {"end": "stop", "usage": {"input_tokens": 3, "output_tokens": 5}},
    ),
    Report(
        "reasoning beside a call comes back",
        "chat",
        (
            _choice(delta={"reasoning_content": "hm"}),
            _calls(_call(0, "{}", id="a", name="f") | {"extra_content": {"google": {"thought_signature": "S"}}}),
            _choice(delta={}, finish_reason="tool_calls"),
            DONE,
        ),
        {"thinking": "hm", "calls": [("f", {})], "state_words": ("hm", "thought_signature")},
    ),
    Report(
        "two waits, the longer one counts",
        "chat",
        right=_failed("rate_limited", "slow", retry_after_ms=1000),
        **_whole(
            {"error": {"message": "slow"}},
            status=429,
            headers={"Content-Type": "application/json", "retry-after-ms": "0", "Retry-After": "1"},
        ),
    ),
    Report(
        "a wait of 5,000 digits is none",
        "chat",
        right=_failed("rate_limited", "slow"),
        **_whole(
            {"error": {"message": "slow", "code": int("9" * 4000)}},
            status=429,
            headers={"Content-Type": "application/json", "retry-after-ms": "9" * 5000},
        ),
    ),
    Report(
        "an error that is compressed all the same",
        "chat",
        right=_failed("invalid_request", "as you asked"),
        **_whole(
            gzip.compress(b'{"error":{"message":"as you asked"}}'),
            status=400,
            headers={"Content-Type": "application/json", "Content-Encoding": "gzip"},
        ),
    ),
    Report("an answer cut before HTTP's end", "chat", (delta("a"), CUT), {"text": "a", **_failed("backend_transient")}),
]


def _event_of(value: dict[str, Any]) -> bytes:
    return b"event: %b\n" % value["type"].encode() + event(value)


def _function_call(arguments: str, status: str = "completed") -> dict[str, Any]:
    return {"type": "function_call", "id": "fc", "call_id": "c", "name": "f", "arguments": arguments, "status": status}


def _message(text: str) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": []}] if text else []
    return {"type": "message", "id": "m", "role": "assistant", "status": "completed", "content": content}


def _item(verb: str, item: dict[str, Any]) -> bytes:
    return _event_of({"type": f"response.output_item.{verb}", "output_index": 0, "item": item})


def _completed(*output: dict[str, Any], **fields: Any) -> bytes:
    response = {"id": "r", "status": "completed", "output": list(output), **fields}
    return _event_of({"type": "response.completed", "response": response})


def _text_delta(text: str) -> bytes:
    return _event_of(
        {"type": "response.output_text.delta", "output_index": 0, "content_index": 0, "item_id": "m", "delta": text}
    )


RESPONSES = [
    Report(
        "arguments only in their own last event",
        "responses",
        (
            _item("added", _function_call("", "in_progress")),
            _event_of(
                {
                    "type": "response.function_call_arguments.done",
                    "output_index": 0,
                    "item_id": "fc",
                    "arguments": json.dumps(PARIS),
                }
            ),
            _item("done", _function_call("")),
            _completed(),
        ),
        {"calls": [("f", PARIS)], "end": "tool_calls"},
    ),
    Report(
        "text only in the whole output",
        "responses",
        (_item("added", _message("")), _completed(_message("Hello"))),
        {"text": "Hello", "end": "stop"},
    ),
    Report(
        "a whole text that contradicts the deltas",
        "responses",
        (
            _item("added", _message("")),
            _text_delta("Hello."),
            _item("done", _message("Hello world")),
            _completed(_message("Hello world")),
        ),
        {"text": "Hello.", "end": "stop"},
    ),
    Report(
        "two parts of a summary",
        "responses",
        (
            *(
                _event_of(
                    {
                        "type": "response.reasoning_summary_text.delta",
                        "output_index": 0,
                        "summary_index": number,
                        "item_id": "rs",
                        "delta": text,
                    }
                )
                for number, text in enumerate(("**One**", "**Two**"))
            ),
            _completed(_message("a")),
        ),
        {"thinking": "**One**\n\n**Two**", "text": "a"},
    ),
    Report(
        "a call of a kind that no frame carries",
        "responses",
        (
            _item("added", {"type": "custom_tool_call", "id": "x", "call_id": "c", "name": "f", "input": ""}),
            _item("done", {"type": "custom_tool_call", "id": "x", "call_id": "c", "name": "f", "input": "ls"}),
            _completed({"type": "custom_tool_call", "id": "x", "call_id": "c", "name": "f", "input": "ls"}),
        ),
        _failed("unsupported_capability", "custom_tool_call"),
    ),
]


def _start(message_id: str = "a", **usage: int) -> bytes:
    message: dict[str, Any] = {
        "id": message_id,
        "type": "message",
        "role": "assistant",
        "content": [],
        "model": "claude",
        "stop_reason": None,
        "stop_sequence": None,
        "usage": {"input_tokens": 25, "output_tokens": 1, **usage},
    }
    return _event_of({"type": "message_start", "message": message})


def _block(index: int, block: dict[str, Any], *deltas: dict[str, Any]) -> bytes:
    return (
        _event_of({"type": "content_block_start", "index": index, "content_block": block})
        + b"".join(_event_of({"type": "content_block_delta", "index": index, "delta": delta}) for delta in deltas)
        + _event_of({"type": "content_block_stop", "index": index})
    )


def _text_block(index: int, text: str) -> bytes:
    return _block(index, {"type": "text", "text": ""}, {"type": "text_delta", "text": text})


def _stop(reason: str, **usage: int) -> bytes:
    return _event_of(
        {
            "type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": None},
            "usage": {"output_tokens": 5, **usage},
        }
    ) + _event_of({"type": "message_stop"})


ANTHROPIC = [
    Report(
        "Bedrock's metrics before the stop",
        "anthropic",
        (
            _start(),
            _text_block(0, "a"),
            _stop("end_turn").replace(
                b"event: message_stop", event({"amazon-bedrock-invocationMetrics": {"a": 1}}) + b"event: message_stop"
            ),
        ),
        {"text": "a", "end": "stop"},
    ),
    Report(
        "a second message in one answer",
        "anthropic",
        (_start("a"), _text_block(0, "a"), _start("b"), _text_block(0, "b"), _stop("end_turn")),
        _failed("protocol_violation"),
    ),
    Report(
        "thinking without a signature beside a call",
        "anthropic",
        (
            _start(),
            _block(0, {"type": "thinking", "thinking": ""}, {"type": "thinking_delta", "thinking": "hm"}),
            _block(
                1,
                {"type": "tool_use", "id": "t", "name": "f", "input": {}},
                {"type": "input_json_delta", "partial_json": "{}"},
            ),
            _stop("tool_use"),
        ),
        {"thinking": "hm", "calls": [("f", {})], "state_words": ("hm",)},
    ),
    Report(
        "a tool of the server's own between two thoughts",
        "anthropic",
        (
            _start(),
            _block(
                0,
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": "one"},
                {"type": "signature_delta", "signature": "S1"},
            ),
            _block(
                1,
                {"type": "server_tool_use", "id": "srv", "name": "web_search", "input": {}},
                {"type": "input_json_delta", "partial_json": '{"query":"q"}'},
            ),
            _block(2, {"type": "web_search_tool_result", "tool_use_id": "srv", "content": []}),
            _block(
                3,
                {"type": "thinking", "thinking": "", "signature": ""},
                {"type": "thinking_delta", "thinking": "two"},
                {"type": "signature_delta", "signature": "S2"},
            ),
            _text_block(4, "a"),
            _stop("pause_turn"),
        ),
        {"text": "a", "state_words": ("S1", "server_tool_use", "web_search_tool_result", "S2")},
    ),
    Report(
        "a later report of zero input tokens",
        "anthropic",
        (_start(), _text_block(0, "a"), _stop("end_turn", input_tokens=0)),
        {"end": "stop", "usage": {"input_tokens": 25, "output_tokens": 5}},
    ),
]


def _chunk(*parts: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
    candidate: dict[str, Any] = {"content": {"role": "model", "parts": list(parts)}}
    return {"candidates": [candidate | ({"finishReason": reason} if reason else {})]}


EXHAUSTED = {
    "code": 429,
    "status": "RESOURCE_EXHAUSTED",
    "message": "too many",
    "details": [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "17s"}],
}

GEMINI = [
    Report(
        "STOP in every chunk",
        "gemini",
        tuple(step for text in "abcdef" for step in (event(_chunk({"text": text}, reason="STOP")), 0.4)),
        {"text": "abcdef", "end": "stop"},
    ),
    Report(
        "a bare error in the middle of the stream",
        "gemini",
        (event(_chunk({"text": "a"})), json.dumps({"error": EXHAUSTED}, indent=2).encode() + b"\n"),
        {"text": "a", **_failed("rate_limited", "too many", retry_after_ms=17_000)},
    ),
    Report(
        "an error in an array",
        "gemini",
        (event([{"error": EXHAUSTED}]),),
        _failed("rate_limited", "too many", retry_after_ms=17_000),
    ),
    Report(
        "a whole answer as an array of chunks",
        "gemini",
        right={"text": "ab", "end": "stop"},
        **_whole([_chunk({"text": "a"}), _chunk({"text": "b"}, reason="STOP")]),
    ),
    Report(
        "[DONE] at the end",
        "gemini",
        (event(_chunk({"text": "a"}, reason="STOP")), DONE),
        {"text": "a", "end": "stop"},
    ),
    Report(
        "code that was run, with its signature",
        "gemini",
        (
            event(
                _chunk(
                    {"executableCode": {"language": "PYTHON", "code": "1"}, "thoughtSignature": "U0lH"},
                    {"text": "a"},
                    reason="STOP",
                )
            ),
        ),
        {"text": "a", "state_words": ("executableCode", "U0lH")},
    ),
    Report(
        "several parts of text in a whole answer are one delta",
        "gemini",
        right={"text": "abc", "text_deltas": 1, "end": "stop"},
        **_whole(_chunk({"text": "a"}, {"text": "b"}, {"text": "c"}, reason="STOP")),
    ),
]

NDJSON = {"Content-Type": "application/x-ndjson"}


def _line(**fields: Any) -> bytes:
    return json.dumps({"model": "m", "created_at": "2026-01-01T00:00:00Z", "done": False, **fields}).encode() + b"\n"


OLLAMA = [
    Report(
        "a byte-order mark before the first line",
        "ollama",
        (
            b"\xef\xbb\xbf" + _line(message={"role": "assistant", "content": "a"}),
            _line(message={"role": "assistant", "content": ""}, done=True, done_reason="stop"),
        ),
        {"text": "a", "end": "stop"},
        headers=NDJSON,
    ),
    Report("an empty stream", "ollama", (), _failed("protocol_violation"), headers=NDJSON),
    Report("an empty whole answer", "ollama", right=_failed("protocol_violation"), **_whole(b"")),
    Report(
        "a page of HTML instead of lines",
        "ollama",
        (b"<html><body>Please sign in</body></html>",),
        _failed("protocol_violation", "Please sign in"),
        headers={"Content-Type": "text/html"},
    ),
    Report(
        "an infinite number among the arguments",
        "ollama",
        (
            b'{"message":{"content":"","tool_calls":[{"function":{"name":"f","arguments":{"x":1e999}}}]},"done":false}\n',
            _line(message={"role": "assistant", "content": ""}, done=True, done_reason="stop"),
        ),
        {"calls": [], **_failed("protocol_violation")},
        headers=NDJSON,
    ),
]

REPORTS = [
    *CHAT,
    *RESPONSES,
    *ANTHROPIC,
    *GEMINI,
    *OLLAMA,
    Report(
        "an infinite number in a call's arguments",
        "chat",
        (
            _calls(_call(0, '{"x":1e999}', id="a", name="f")),
            _choice(delta={}, finish_reason="tool_calls"),
            DONE,
        ),
        {"calls": [], **_failed("protocol_violation")},
    ),
    Report(
        "a long text of an error",
        "chat",
        right=_failed("invalid_request", "é" * 1900),
        **_whole({"error": {"message": "é" * 3000}}, status=400, stream=True),
    ),
]


@pytest.mark.parametrize("report", REPORTS, ids=lambda report: f"{report.backend}: {report.name}")
async def test_public_reports(stage, report: Report) -> None:
    """What a public report shows of a server is read as the contract says."""
    client = await stage.client()
    stage.backend.on(
        report.backend,
        plays(*report.steps, status=report.status, headers=report.headers, framing=report.framing),
    )
    await client.infer(report.backend, stream=report.stream, include_reasoning=True, tools=TOOLS)

    answer = _summary(await client.answer())

    right = dict(report.right)
    words, state_words = right.pop("words", ()), right.pop("state_words", ())
    for name, value in right.items():
        found = answer[name]
        if isinstance(value, dict):
            found = {key: found.get(key) for key in value}
        assert found == value, answer
    assert [word for word in words if word not in answer["message"]] == [], answer
    state = json.dumps(answer.get("state"))
    assert [word for word in state_words if word not in state] == [], state


async def test_a_message_has_at_most_2000_characters_of_the_providers_text(stage) -> None:
    """A long error text is cut, not escaped."""
    client = await stage.client()
    stage.backend.on("chat", answers(400, {"error": {"message": "é" * 3000}}))
    await client.infer("chat")

    message = (await client.expect_failed("invalid_request"))["message"]

    assert 1900 <= message.count("é") <= 2000
    assert "\\u" not in message
