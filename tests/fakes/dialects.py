"""What each HTTP dialect's server says: one text, one tool call, one error, in the dialect's own events."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from .answers import plays
from .backend import Script


@dataclass(frozen=True)
class Row:
    """One dialect. Payloads are JSON values, an event or a line each."""

    beginning: list[Any]
    """What comes before the first text."""
    text: list[Any]
    """Two deltas, "Hello" and " world"."""
    call: list[Any]
    """A whole call of `get_weather` with {"city":"Paris"}."""
    end: list[Any]
    """The end mark and what comes after it, for a text."""
    call_end: list[Any]
    """The same, for a call."""
    whole: Any
    """The unstreamed answer "Hello world"."""
    busy: Any
    """An event that says: too many requests."""
    silence: bytes
    """Something without content: a ping, a comment, an empty delta."""
    ndjson: bool = False

    def play(self, *payloads: Any) -> bytes:
        """Bytes as the backend frames them."""
        if self.ndjson:
            return b"".join(json.dumps(payload).encode() + b"\n" for payload in payloads)
        return b"".join(b"data: " + json.dumps(payload).encode() + b"\n\n" for payload in payloads)

    def whole_body(self) -> bytes:
        """The unstreamed answer's bytes."""
        return json.dumps(self.whole).encode()

    @property
    def content_type(self) -> bytes:
        """Of a streamed answer."""
        return b"application/x-ndjson" if self.ndjson else b"text/event-stream"

    def answer(self) -> Script:
        """The streamed text."""
        return plays(self.play(*self.beginning, *self.text, *self.end))


def chat(delta: dict[str, Any], finish: str | None = None) -> dict[str, Any]:
    return {"id": "c", "model": "m", "choices": [{"index": 0, "delta": delta, "finish_reason": finish}]}


CHAT_USAGE = {"id": "c", "choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": 2, "total_tokens": 9}}
CALL = {"name": "get_weather", "arguments": '{"city":"Paris"}'}


def message_start() -> dict[str, Any]:
    usage = {"input_tokens": 7, "output_tokens": 0}
    message = {"id": "m", "type": "message", "role": "assistant", "model": "m", "content": [], "usage": usage}
    return {"type": "message_start", "message": message}


def block_delta(index: int, **delta: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": delta}


def message_end(reason: str) -> list[Any]:
    delta = {"stop_reason": reason, "stop_sequence": None}
    return [{"type": "message_delta", "delta": delta, "usage": {"output_tokens": 2}}, {"type": "message_stop"}]


def response(status: str, *output: Any) -> dict[str, Any]:
    usage = {"input_tokens": 7, "output_tokens": 2, "total_tokens": 9}
    return {"id": "r", "object": "response", "status": status, "model": "m", "output": list(output), "usage": usage}


RESPONSES_MESSAGE = {
    "id": "msg",
    "type": "message",
    "role": "assistant",
    "status": "completed",
    "content": [{"type": "output_text", "text": "Hello world", "annotations": []}],
}
RESPONSES_CALL = {"id": "fc", "type": "function_call", "call_id": "call_1", "status": "completed", **CALL}


def text_delta(delta: str) -> dict[str, Any]:
    kind = "response.output_text.delta"
    return {"type": kind, "item_id": "msg", "output_index": 0, "content_index": 0, "delta": delta}


def candidate(*parts: Any, finish: str | None = None) -> dict[str, Any]:
    usage = {"promptTokenCount": 7, "candidatesTokenCount": 2, "totalTokenCount": 9}
    content = {"role": "model", "parts": list(parts)}
    found: dict[str, Any] = {"index": 0, "content": content}
    if finish:
        found["finishReason"] = finish
    return {"candidates": [found], "usageMetadata": usage, "modelVersion": "m", "responseId": "r"}


def line(content: str, done: bool = False, **message: Any) -> dict[str, Any]:
    counts = {"done_reason": "stop", "prompt_eval_count": 7, "eval_count": 2} if done else {}
    return {"model": "m", "message": {"role": "assistant", "content": content, **message}, "done": done, **counts}


DIALECTS = {
    "openai_compatible": Row(
        beginning=[chat({"role": "assistant", "content": ""})],
        text=[chat({"content": "Hello"}), chat({"content": " world"})],
        call=[chat({"tool_calls": [{"index": 0, "id": "call_1", "type": "function", "function": CALL}]})],
        end=[chat({}, "stop"), CHAT_USAGE],
        call_end=[chat({}, "tool_calls"), CHAT_USAGE],
        whole={
            "id": "c",
            "choices": [{"index": 0, "message": {"content": "Hello world"}, "finish_reason": "stop"}],
            "usage": CHAT_USAGE["usage"],
        },
        busy={"error": {"message": "slow down", "code": "rate_limit_exceeded"}},
        silence=b": ping\n\n",
    ),
    "openai_responses": Row(
        beginning=[
            {"type": "response.created", "response": response("in_progress")},
            {"type": "response.output_item.added", "output_index": 0, "item": {**RESPONSES_MESSAGE, "content": []}},
        ],
        text=[text_delta("Hello"), text_delta(" world")],
        call=[
            {
                "type": "response.output_item.added",
                "output_index": 1,
                "item": {**RESPONSES_CALL, "status": "in_progress", "arguments": ""},
            },
            {
                "type": "response.function_call_arguments.delta",
                "item_id": "fc",
                "output_index": 1,
                "delta": CALL["arguments"],
            },
            {"type": "response.output_item.done", "output_index": 1, "item": RESPONSES_CALL},
        ],
        end=[{"type": "response.completed", "response": response("completed", RESPONSES_MESSAGE)}],
        call_end=[{"type": "response.completed", "response": response("completed", RESPONSES_CALL)}],
        whole=response("completed", RESPONSES_MESSAGE),
        busy={"type": "error", "code": "rate_limit_exceeded", "message": "slow down"},
        silence=b'data: {"type":"response.in_progress","response":{}}\n\n',
    ),
    "anthropic": Row(
        beginning=[
            message_start(),
            {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        ],
        text=[block_delta(0, type="text_delta", text="Hello"), block_delta(0, type="text_delta", text=" world")],
        call=[
            {
                "type": "content_block_start",
                "index": 1,
                "content_block": {"type": "tool_use", "id": "call_1", "name": "get_weather", "input": {}},
            },
            block_delta(1, type="input_json_delta", partial_json=CALL["arguments"]),
            {"type": "content_block_stop", "index": 1},
        ],
        end=[{"type": "content_block_stop", "index": 0}, *message_end("end_turn")],
        call_end=message_end("tool_use"),
        whole={
            "id": "m",
            "type": "message",
            "role": "assistant",
            "model": "m",
            "content": [{"type": "text", "text": "Hello world"}],
            "stop_reason": "end_turn",
            "usage": {"input_tokens": 7, "output_tokens": 2},
        },
        busy={"type": "error", "error": {"type": "rate_limit_error", "message": "slow down"}},
        silence=b'event: ping\ndata: {"type":"ping"}\n\n',
    ),
    "gemini": Row(
        beginning=[],
        text=[candidate({"text": "Hello"}), candidate({"text": " world"})],
        call=[candidate({"functionCall": {"name": "get_weather", "args": {"city": "Paris"}}})],
        end=[candidate(finish="STOP")],
        call_end=[candidate(finish="STOP")],
        whole=candidate({"text": "Hello world"}, finish="STOP"),
        busy={"error": {"code": 429, "message": "slow down", "status": "RESOURCE_EXHAUSTED"}},
        silence=b": ping\r\n\r\n",
    ),
    "ollama": Row(
        beginning=[],
        text=[line("Hello"), line(" world")],
        call=[line("", tool_calls=[{"function": {"name": "get_weather", "arguments": {"city": "Paris"}}}])],
        end=[line("", done=True)],
        call_end=[line("", done=True)],
        whole=line("Hello world", done=True),
        busy={"error": {"message": "slow down", "code": "rate_limit_exceeded"}},
        silence=b'{"model":"m","message":{"role":"assistant","content":""},"done":false}\n',
        ndjson=True,
    ),
}
