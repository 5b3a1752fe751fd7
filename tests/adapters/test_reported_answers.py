"""Answers that public bug reports and SDKs tell of, and what a client gets of them.

Each case names its report. What a shape means is decided by protocol/README.md, "Order" and "Error mapping".
"""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.canonical import (
    Completed,
    OtherFinishReason,
    OutputTextDelta,
    ReasoningDelta,
    ToolCallReady,
    Usage,
)

from .recorded import canonical, decode, dialect

PIECE = 7
"""Bytes of a read, where an answer comes in small ones."""


def outcome(name: str, body: bytes, *, stream: bool, piece: int) -> dict[str, Any]:
    """What a client gets of an answer that comes in reads of `piece` bytes: only what there is."""
    frame = {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}], "stream": stream}
    chunks = [body[start : start + piece] for start in range(0, len(body), piece)]
    events, error = decode(dialect(name), canonical(frame), chunks, stream=stream)
    found: dict[str, Any] = {
        "text": "".join(event.delta for event in events if isinstance(event, OutputTextDelta)),
        "reasoning": "".join(event.delta for event in events if isinstance(event, ReasoningDelta)),
        "calls": [(e.call.name, e.call.arguments_json) for e in events if isinstance(e, ToolCallReady)],
    }
    for event in events:
        if isinstance(event, Usage):
            found["usage"] = (event.usage.input_tokens, event.usage.output_tokens, event.usage.total_tokens)
        if isinstance(event, Completed):
            reason = event.finish_reason
            found["end"] = reason.other if isinstance(reason, OtherFinishReason) else reason
            found["not_carried"] = event.backend_metadata.get("not_carried")
    if error is not None:
        found["end"] = (error.kind, error.retryable)
        found["code"] = error.provider_code
    return {key: value for key, value in found.items() if value}


def check(name: str, body: bytes, expected: dict[str, Any], *, stream: bool = True) -> None:
    assert outcome(name, body, stream=stream, piece=len(body)) == expected
    assert outcome(name, body, stream=stream, piece=PIECE) == expected


def data(*events: Any) -> bytes:
    """Server-sent events; bytes stand as they are."""
    return b"".join(e if isinstance(e, bytes) else b"data: %b\n\n" % json.dumps(e).encode() for e in events)


# --- Messages ------------------------------------------------------------------------------------------------

MESSAGE: dict[str, Any] = {"id": "m", "type": "message", "role": "assistant", "model": "c", "content": []}
BEGIN = {"type": "message_start", "message": MESSAGE}
TEXT: dict[str, Any] = {"type": "text", "text": ""}
TOOL: dict[str, Any] = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
OTHER = TOOL | {"id": "b", "name": "g"}
STOP = {"type": "message_stop"}


def block(index: int, value: dict[str, Any]) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": value}


def said(text: str, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "text_delta", "text": text}}


def thought(text: str, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "thinking_delta", "thinking": text}}


def arguments(text: Any, index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": {"type": "input_json_delta", "partial_json": text}}


def ended(index: int = 0) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def reason(word: str | None) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": word}}


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(
            [
                block(0, TEXT),
                said("a"),
                block(0, {"type": "thinking", "thinking": ""}),
                thought("hm"),
                ended(),
                block(1, TEXT),
                said("b", 1),
                ended(1),
                reason("end_turn"),
                STOP,
            ],
            {"text": "ab", "reasoning": "hm", "end": "stop"},
            id="ollama-17101: a block begins where another one was not ended",
        ),
        pytest.param(
            [
                block(0, TEXT),
                said("a"),
                block(1, TOOL),
                arguments('{"x":1}', 1),
                block(2, OTHER),
                arguments('{"y":2}', 2),
                reason("tool_use"),
                STOP,
            ],
            {"text": "a", "calls": [("f", '{"x":1}'), ("g", '{"y":2}')], "end": "tool_calls"},
            id="anthropic-sdk-kotlin-147: Kimi never ends a block",
        ),
        pytest.param(
            [block(0, TOOL | {"input": {"x": 1}}), block(1, OTHER | {"input": {"y": 2}}), reason("tool_use"), STOP],
            {"calls": [("f", '{"x":1}'), ("g", '{"y":2}')], "end": "tool_calls"},
            id="the same, with the arguments where the block begins",
        ),
        pytest.param(
            [block(0, TOOL | {"input": {"x": 1}}), arguments('{"x":2}'), reason("tool_use"), STOP],
            {"end": ("protocol_violation", False)},
            id="the same, with others in deltas",
        ),
        pytest.param(
            [block(0, TOOL | {"input": {"x": 1}}), reason("max_tokens"), STOP],
            {"end": "length"},
            id="the same, but cut",
        ),
        pytest.param(
            [block(0, TOOL), arguments('{"x":1}'), block(0, OTHER), arguments('{"y":2}'), ended(), reason("tool_use")],
            {"calls": [("f", '{"x":1}'), ("g", '{"y":2}')], "end": "tool_calls"},
            id="a call at the index of a whole one",
        ),
        pytest.param(
            [block(0, TOOL), arguments('{"x":'), block(0, OTHER), arguments('{"y":2}'), ended(), reason("tool_use")],
            {"end": ("protocol_violation", False)},
            id="a call at the index of one that is not whole",
        ),
        pytest.param(
            [block(0, TOOL), arguments('{"x":1}'), ended(), ended(), reason("tool_use"), STOP],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="litellm-37273: a block is ended twice",
        ),
        pytest.param(
            [block(0, TEXT), thought("hm"), said("a"), ended(), reason("end_turn"), STOP],
            {"text": "a", "reasoning": "hm", "end": "stop"},
            id="litellm-33224: a thought in a block of text",
        ),
        pytest.param(
            [block(0, TOOL), arguments('{"x":1}'), said("a"), ended(), reason("tool_use"), STOP],
            {"text": "a", "calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="sglang-24293: a text in the block of a call",
        ),
        pytest.param(
            [block(0, TOOL), arguments('{"x":1}'), ended(), reason("end_turn"), STOP],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="litellm-34692: end_turn with a call",
        ),
        pytest.param(
            [block(0, {"type": "tool_use", "id": "a", "name": "f"}), arguments('{"x":1}'), ended(), reason("tool_use")],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="llama.cpp-22960: a call begins without input",
        ),
        pytest.param(
            [block(0, TOOL), arguments({"x": 1}), ended(), reason("tool_use"), STOP],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="arguments as an object in place of a piece of text",
        ),
        pytest.param(
            [block(0, TOOL | {"input": "{}"}), arguments('{"x":1}'), ended(), reason("tool_use"), STOP],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="an empty input as a string before the real one",
        ),
        pytest.param(
            [block(0, TOOL), arguments("{}"), arguments('{"x":1}'), ended(), reason("tool_use"), STOP],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="an empty input passed on as the first delta",
        ),
        pytest.param(
            [block(0, TOOL), arguments("{}"), ended(), reason("tool_use"), STOP],
            {"calls": [("f", "{}")], "end": "tool_calls"},
            id="an empty input in the only delta",
        ),
        pytest.param(
            [said("a"), ended(), thought("hm", 1), ended(1), reason("end_turn"), STOP],
            {"text": "a", "reasoning": "hm", "end": "stop"},
            id="blocks that end and did not begin",
        ),
        pytest.param(
            [
                block(0, {"text": "a"}),
                {"type": "content_block_delta", "index": 0, "delta": {"text": "b"}},
                ended(),
                reason("end_turn"),
                STOP,
            ],
            {"text": "ab", "end": "stop"},
            id="a text without its type",
        ),
        pytest.param(
            [
                block(0, TEXT),
                said("a"),
                ended(),
                {"type": "message_delta", "delta": {"stop_reason": "end_turn", "usage": {"output_tokens": 15}}},
            ],
            {"text": "a", "usage": (None, 15, None), "end": "stop"},
            id="AnthropicSwiftSDK-7: usage inside the delta, as an early version of the documentation has it",
        ),
        pytest.param(
            [block(0, TEXT), said("a"), {"type": "message_delta", "usage": {"output_tokens": 1}}, reason("end_turn")],
            {"text": "a", "usage": (None, 1, None), "end": "stop"},
            id="a message_delta with usage alone",
        ),
        pytest.param(
            [block(0, TEXT), said("a"), ended(), {"type": "message_delta", "delta": None, "stop_reason": "max_tokens"}],
            {"text": "a", "end": "length"},
            id="a stop_reason beside the delta",
        ),
        pytest.param(
            [block(0, TEXT), said("a"), ended(), reason(None), STOP],
            {"text": "a", "end": ("backend_transient", True)},
            id="a message_stop without any reason",
        ),
        pytest.param(
            [b'event: error\ndata: {"message":"m","request_id":"r"}\n\n'],
            {"end": ("backend_transient", True)},
            id="anthropic-sdk-python: whatever stands in an event that is named error is one",
        ),
        pytest.param(
            [block(0, TEXT), {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED"}}],
            {"end": ("rate_limited", True), "code": "RESOURCE_EXHAUSTED"},
            id="Vertex: Google's error in Claude's stream",
        ),
        pytest.param(
            [block(0, TEXT), {"type": "error", "error": {"type": "billing_error", "message": "m"}}],
            {"end": ("rate_limited", False), "code": "billing_error"},
            id="the money is spent",
        ),
    ],
)
def test_messages(events: list[Any], expected: dict[str, Any]) -> None:
    check("anthropic", data(BEGIN, *events), expected)


def test_events_without_blank_lines_between_them() -> None:
    """A server may leave them out where its clients read line by line: each event is one."""
    events: list[dict[str, Any]] = [BEGIN, block(0, TEXT), said("a"), said("b"), ended(), reason("end_turn"), STOP]
    lines = b"".join(b"event: %b\ndata: %b\n" % (e["type"].encode(), json.dumps(e).encode()) for e in events)

    check("anthropic", lines, {"text": "ab", "end": "stop"})


def signed(**fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": 0, "delta": {"type": "signature_delta", "signature": "S"} | fields}


@pytest.mark.parametrize(
    ("begin", "signature"),
    [
        pytest.param({}, signed(), id="as Anthropic sends it"),
        pytest.param({"signature": "S"}, signed(), id="headroom-3543: with the block, and once more"),
        pytest.param({}, signed(type="thinking_delta", thinking=""), id="bifrost-5638: in a delta of thinking"),
    ],
)
def test_a_thought_that_was_not_ended_goes_back(begin: Any, signature: Any) -> None:
    """With its signature, once, and before the call: the next turn is refused without it."""
    events = data(
        *(BEGIN, block(0, {"type": "thinking", "thinking": "", **begin}), thought("hm"), signature),
        *(block(1, TOOL), arguments('{"x":1}', 1), reason("tool_use"), STOP),
    )
    request = canonical({"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]})
    completed = decode(dialect("anthropic"), request, [events])[0][-1]

    assert isinstance(completed, Completed)
    metadata: Any = completed.backend_metadata
    assert metadata["provider_state"]["anthropic"]["pieces"] == [
        {"opaque": {"type": "thinking", "thinking": "hm", "signature": "S"}},
        {"call": "a"},
    ]


def test_events_without_a_type() -> None:
    """Where the data has none, the event's name is its type."""
    events: list[dict[str, Any]] = [
        {"type": "ping"},
        BEGIN,
        block(0, TEXT),
        said("a"),
        ended(),
        reason("end_turn"),
        STOP,
    ]
    lines = b"".join(
        b"event: %b\ndata: %b\n\n"
        % (e["type"].encode(), json.dumps({k: v for k, v in e.items() if k != "type"}).encode())
        for e in events
    )

    check("anthropic", lines, {"text": "a", "end": "stop"})


def test_content_of_a_message_start() -> None:
    """langchain-34406: after a call of a program that the provider runs, the next call stands in `message_start`."""
    begin = {"type": "message_start", "message": MESSAGE | {"content": [TOOL | {"input": {"x": 1}}]}}
    whole = {"calls": [("f", '{"x":1}')], "end": "tool_calls"}

    check("anthropic", data(begin, reason("tool_use"), STOP), whole)
    check("anthropic", data(begin, begin, block(0, TEXT), said("a"), reason("tool_use")), {"text": "a", **whole})


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"content": None, "stop_reason": "end_turn"}, {"end": "stop"}),
        ({"content": [{"text": "a"}], "stop_reason": "end_turn"}, {"text": "a", "end": "stop"}),
        ({"content": [None, {"text": "a"}], "stop_reason": "end_turn"}, {"text": "a", "end": "stop"}),
        ({"content": [TOOL | {"input": []}], "stop_reason": "tool_use"}, {"calls": [("f", "{}")], "end": "tool_calls"}),
        ({"content": [TOOL | {"input": '{"x":1}'}]}, {"calls": [("f", '{"x":1}')], "end": "tool_calls"}),
    ],
)
def test_whole_messages(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    """Asked for or not: a server that does not stream sends the same."""
    for stream in (False, True):
        check("anthropic", json.dumps(MESSAGE | fields).encode(), expected, stream=stream)


# --- Gemini --------------------------------------------------------------------------------------------------


def chunk(*parts: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"parts": list(parts)}, **fields}]}


STOPPED = {"finishReason": "STOP"}
NAMED = {"functionCall": {"name": "ls", "args": {}}}
NAMELESS = {"functionCall": {"args": {"path": "/x"}}}
TWICE = b'{\n "error": {\n  "code": 503,\n  "message": "m",\n  "status": "UNAVAILABLE"\n }\n}\n' * 2


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param(
            [chunk(NAMED), chunk(NAMELESS), chunk(NAMED), chunk({"text": ""}), chunk(NAMELESS, finishReason="STOP")],
            {"calls": [("ls", '{"path":"/x"}')] * 2, "end": "tool_calls"},
            id="vscode-unify-chat-provider-48: the arguments in a part of their own",
        ),
        pytest.param(
            [
                chunk({"functionCall": {"name": "ls", "id": "a"}}),
                chunk({"functionCall": {"args": {"path": "/x"}, "id": "a"}}, finishReason="STOP"),
            ],
            {"calls": [("ls", '{"path":"/x"}')], "end": "tool_calls"},
            id="the arguments in a part of their own, by the id",
        ),
        pytest.param(
            [
                chunk({"functionCall": {"name": "ls", "id": "a"}}),
                chunk({"functionCall": {"args": {"x": 1}, "id": "b"}}),
            ],
            {"calls": [("ls", "{}")], "end": ("protocol_violation", False)},
            id="arguments of a call that has no name",
        ),
        pytest.param(
            [chunk(NAMED), chunk(NAMED), chunk({"text": "a"}, finishReason="STOP")],
            {"text": "a", "calls": [("ls", "{}")] * 2, "end": "tool_calls"},
            id="calls without arguments",
        ),
        pytest.param(
            [chunk({"text": "a"}, finishReason="STOP"), chunk(NAMED, finishReason="STOP")],
            {"text": "a", "calls": [("ls", "{}")], "end": "tool_calls"},
            id="a call without arguments after an end mark",
        ),
        pytest.param(
            [chunk(NAMELESS)],
            {"end": ("protocol_violation", False)},
            id="arguments of no call",
        ),
        pytest.param(
            [chunk({"text": "a"}, finishReason="FINISH_REASON_UNSPECIFIED"), chunk({"text": "b"}, finishReason="STOP")],
            {"text": "ab", "end": "stop"},
            id="a reason that is not set",
        ),
        pytest.param(
            [chunk({"text": "a"}, finishReason="FINISH_REASON_UNSPECIFIED")],
            {"text": "a", "end": "FINISH_REASON_UNSPECIFIED"},
            id="no other reason until the end of the body",
        ),
        pytest.param(
            [chunk({"text": "a"}) | {"promptFeedback": {"blockReason": "BLOCK_REASON_UNSPECIFIED"}}],
            {"text": "a", "end": ("backend_transient", True)},
            id="a prompt that was not blocked",
        ),
        pytest.param(
            [chunk({"text": "", "inlineData": {"mimeType": "image/png", "data": "AA"}}, finishReason="STOP")],
            {"end": "stop", "not_carried": {"image": 1}},
            id="an image beside an empty text",
        ),
        pytest.param(
            [chunk({"text": "b"}, index=1), chunk({"text": "a"}, finishReason="STOP")],
            {"text": "a", "end": "stop", "not_carried": {"choice": 1}},
            id="another candidate is counted",
        ),
        pytest.param(
            [chunk({"text": "a"}), TWICE],
            {"text": "a", "end": ("backend_transient", True), "code": "UNAVAILABLE"},
            id="python-genai-1162: an error is written twice",
        ),
        pytest.param(
            [TWICE],
            {"end": ("backend_transient", True), "code": "UNAVAILABLE"},
            id="and nothing before it",
        ),
        pytest.param(
            [{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": {"promptTokenCount": 13}}],
            {"usage": (13, None, None), "end": "content_filter"},
            id="ai-19758: a prompt that was blocked",
        ),
        pytest.param(
            [{"candidates": [{"content": {}, "finishReason": "MALFORMED_FUNCTION_CALL"}]}],
            {"end": "MALFORMED_FUNCTION_CALL"},
            id="ai-5039: content without parts",
        ),
        pytest.param(
            [{"candidates": [None]}, {"candidates": [{"content": {"parts": [None, {"text": "a"}]}}]}, chunk(**STOPPED)],
            {"text": "a", "end": "stop"},
            id="null in place of a candidate, and of a part",
        ),
        pytest.param(
            [chunk({"functionCall": {"name": "ls", "arguments": {"path": "/x"}}}, **STOPPED)],
            {"calls": [("ls", '{"path":"/x"}')], "end": "tool_calls"},
            id="arguments by OpenAI's name: none are invented",
        ),
        pytest.param(
            [chunk({"text": "a", **NAMED}, **STOPPED)],
            {"text": "a", "calls": [("ls", "{}")], "end": "tool_calls"},
            id="a text and a call in one part",
        ),
    ],
)
def test_gemini(chunks: list[Any], expected: dict[str, Any]) -> None:
    check("gemini", data(*chunks), expected)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_chunks_in_a_response(stream: bool) -> None:
    """Code Assist's, as some proxies pass them on."""
    wrapped = {"response": chunk({"text": "a"}, **STOPPED) | {"usageMetadata": {"promptTokenCount": 1}}}
    expected = {"text": "a", "usage": (1, None, None), "end": "stop"}

    check("gemini", data(wrapped) if stream else json.dumps(wrapped).encode(), expected, stream=stream)


def test_candidates_without_an_index_are_told_apart_by_their_place() -> None:
    """Only the first one is the answer; the API leaves out an index of 0."""
    both = chunk({"text": "a"}, finishReason="STOP")["candidates"] + chunk({"text": "b"})["candidates"]
    expected = {"text": "a", "end": "stop", "not_carried": {"choice": 1}}

    check("gemini", data({"candidates": both}), expected)
    check("gemini", json.dumps({"candidates": both}).encode(), expected, stream=False)


@pytest.mark.parametrize("last", [{"text": "b"}, NAMED])
def test_an_array_of_chunks_that_nobody_asked_to_stream_is_whole(last: dict[str, Any]) -> None:
    """Without a finishReason it is complete, as one chunk is; asked for as a stream it was cut off."""
    body = json.dumps([chunk({"text": "a"}), chunk(last)]).encode()
    expected = {"text": "ab", "end": "stop"} if "text" in last else {"text": "a", "calls": [("ls", "{}")]}

    check("gemini", body, {"end": "tool_calls", **expected}, stream=False)
    assert outcome("gemini", body, stream=True, piece=len(body))["end"] == ("backend_transient", True)
    check("gemini", b"[{},{}]", {"end": ("protocol_violation", False)}, stream=False)


@pytest.mark.parametrize(
    ("counts", "usage"),
    [((10, 30, 20, 60), (10, 50, 60)), ((10, 30, 20, 40), (10, 30, 40)), ((10, None, 20, 30), (10, 20, 30))],
)
def test_geminis_thoughts_are_counted_once(counts: tuple[int | None, ...], usage: tuple[int, ...]) -> None:
    """llm-gemini-75: whether they are among the candidates differs from model to model; the total shows it."""
    names = ("promptTokenCount", "candidatesTokenCount", "thoughtsTokenCount", "totalTokenCount")
    body = chunk({"text": "a"}, finishReason="STOP") | {"usageMetadata": dict(zip(names, counts, strict=True))}

    check("gemini", data(body), {"text": "a", "usage": usage, "end": "stop"})


@pytest.mark.parametrize("digits", [17, 400, 5000])
def test_a_count_that_is_too_large_is_not_said(digits: int) -> None:
    """Whether the parser of JSON takes so many digits or not: the rest of the event counts."""
    body = chunk({"text": "a"}, finishReason="STOP") | {
        "usageMetadata": {"promptTokenCount": "COUNT", "candidatesTokenCount": 5, "totalTokenCount": 7}
    }
    answer = data(body).replace(b'"COUNT"', b"9" * digits)

    check("gemini", answer, {"text": "a", "usage": (None, 5, 7), "end": "stop"})
    check("gemini", answer.removeprefix(b"data: "), {"text": "a", "usage": (None, 5, 7), "end": "stop"}, stream=False)


# --- Ollama --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        pytest.param(
            [{"message": {"content": "a"}, "done": False}, {"message": {"content": "b"}, "done": True}],
            {"text": "ab", "end": "stop"},
            id="lines, whether they were asked for or not",
        ),
        pytest.param(
            [{"message": {"reasoning_content": "hm"}, "done": False}, {"message": {"reasoning": "!"}, "done": True}],
            {"reasoning": "hm!", "end": "stop"},
            id="other servers' names for `thinking`",
        ),
        pytest.param(
            [{"message": {"thinking": "hm"}, "done": False}, {"error": "error parsing tool call: raw='1', err=…"}],
            {"reasoning": "hm", "end": ("backend_transient", True)},
            id="ollama-12884: an error in mid-stream",
        ),
        pytest.param(
            [{"StatusCode": 429, "Status": "429 Too Many Requests", "error": "m"}],
            {"end": ("rate_limited", True), "code": "429"},
            id="routes.go: the error of a cloud model",
        ),
    ],
)
def test_ollama(lines: list[Any], expected: dict[str, Any], stream: bool) -> None:
    check("ollama", b"".join(json.dumps(line).encode() + b"\n" for line in lines), expected, stream=stream)


# --- Chat Completions ----------------------------------------------------------------------------------------

PARIS = '{"city":"Paris"}'
DONE = b"data: [DONE]\n\n"


def delta(fields: Any, finish: str | None = None, **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": fields, "finish_reason": finish}], **more}


def call(arguments: Any, **fields: Any) -> dict[str, Any]:
    """An entry of `tool_calls`; `name` goes to the function."""
    name = {"name": fields.pop("name")} if "name" in fields else {}
    return {**fields, "type": "function", "function": {**name, "arguments": arguments}}


def calls(*entries: Any, finish: str | None = None) -> dict[str, Any]:
    return delta({"tool_calls": [*entries]}, finish)


HI = delta({"content": "a"})
CALLED = delta({}, "tool_calls")
TWO = [("f", PARIS), ("g", PARIS)]


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        pytest.param(
            [calls(call(PARIS, id="", name="f"), call(PARIS, id="", name="g")), CALLED],
            {"calls": TWO, "end": "tool_calls"},
            id="side by side, with neither index nor id",
        ),
        pytest.param(
            [calls(call(PARIS, id="x", name="f"), call(PARIS, id="y", name="g")), CALLED],
            {"calls": TWO, "end": "tool_calls"},
            id="AstrBot-6661: ids without indexes",
        ),
        pytest.param(
            [calls(call(PARIS, index=0, id="x", name="f"), call(PARIS, index=0, id="y", name="g")), CALLED],
            {"calls": TWO, "end": "tool_calls"},
            id="openai-python-2806: index 0 for every call",
        ),
        pytest.param(
            [
                calls(call(PARIS, index=0, id="x", name="f")),
                calls(call("", index=0, id="y", name="g")),
                calls(call(PARIS, index=1, id="y")),
                CALLED,
            ],
            {"calls": TWO, "end": "tool_calls"},
            id="agno-8880: the second call begins at the index of the first",
        ),
        pytest.param(
            [
                calls(call("", index=0, id="x", name="f")),
                calls(call('{"city":', index=0, id="", name="")),
                calls(call('"Paris"}', index=0, id="", name=None)),
                CALLED,
            ],
            {"calls": [("f", PARIS)], "end": "tool_calls"},
            id="DashScope: empty ids and names after the first piece",
        ),
        pytest.param(
            [
                calls(call("", index=0, id="x", name="f")),
                calls(call(PARIS, index=0, id="null")),
                calls(call("", index=1, id="y", name="g")),
                calls(call(PARIS, index=1, id="null")),
                CALLED,
            ],
            {"calls": TWO, "end": "tool_calls"},
            id="zed-53605: null in words for the id of each later piece",
        ),
        pytest.param(
            [calls(call(PARIS, id="None", name="f"), call(PARIS, id="None", name="g")), CALLED],
            {"calls": TWO, "end": "tool_calls"},
            id="no ids in words, side by side",
        ),
        pytest.param(
            [
                delta({"tool_calls": call('{"city":', index=0, id="", name="f")}),
                delta({"tool_calls": call('"Paris"}', index=0, id="", name=None)}),
                delta({}, "eos_token"),
            ],
            {"calls": [("f", PARIS)], "end": "eos_token"},
            id="text-generation-inference-2949: a call in place of a list",
        ),
        pytest.param(
            [calls(call(PARIS, index=1, id="x", name="f"), finish="stop")],
            {"calls": [("f", PARIS)], "end": "tool_calls"},
            id="indexes from 1, and `stop` of a forced call (vLLM)",
        ),
        pytest.param(
            [calls(call(PARIS, index=0, id="x", name="f")), calls(call(PARIS, index=0, id="x", name="f")), CALLED],
            {"end": ("protocol_violation", False)},
            id="arguments twice are no arguments",
        ),
        pytest.param(
            [
                calls(call("", index=0, id="x", name="f")),
                *(calls(call(PARIS[:end], index=0, id="x", name="f")) for end in (4, 9, len(PARIS), len(PARIS))),
                CALLED,
            ],
            {"calls": [("f", PARIS)], "end": "tool_calls"},
            id="hermes-agent-35718: all arguments so far in each piece",
        ),
        pytest.param(
            [calls(call(json.dumps(PARIS), index=0, id="x", name="f")), CALLED],
            {"end": ("protocol_violation", False)},
            id="vllm-54964: JSON in a string is no object",
        ),
        pytest.param([calls(call("null", index=0, id="x", name="f")), CALLED], {"end": ("protocol_violation", False)}),
        pytest.param(
            [
                calls(call('{"city":', index=0, id="x", name="f")),
                calls(call('"Paris"}', index=0, id="", name="null")),
                CALLED,
            ],
            {"calls": [("f", PARIS)], "end": "tool_calls"},
            id="litellm-12513: null in words for a name",
        ),
        pytest.param(
            [
                {"choices": [], "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": {}}]},
                HI,
                {"choices": [{"index": 0, "finish_reason": None, "content_filter_results": {"error": {"code": "x"}}}]},
                delta({}, "stop"),
            ],
            {"text": "a", "end": "stop"},
            id="Azure: results of its filters, an error of them too",
        ),
        pytest.param(
            [
                {"choices": [{"index": 0, "delta": {"content": "a"}, "message": {"content": "a"}}]},
                {"choices": [{"delta": {"content": "b"}, "message": {"content": "ab"}, "finish_reason": "stop"}]},
            ],
            {"text": "ab", "end": "stop"},
            id="perplexity-209: the text so far beside each piece",
        ),
        pytest.param(
            [
                HI,
                {"choices": [{"index": 0, "text": "", "delta": {"content": "", "tool_calls": None}}]},
                delta({}, "eos"),
            ],
            {"text": "a", "end": "eos"},
            id="Together: an empty text beside the delta, and a word of its own",
        ),
        pytest.param(
            [delta({"channel": "analysis", "reasoning": "hm"}), delta({"channel": "final", "content": "a"}, "stop")],
            {"text": "a", "reasoning": "hm", "end": "stop"},
            id="Groq: gpt-oss' channels",
        ),
        pytest.param(
            [{"code": 0, "message": "Success", **HI}, {"code": 0, "message": "Success", **delta({})}],
            {"text": "a", "end": "stop"},
            id="Spark: a code of success in each chunk, and no finish_reason",
        ),
        pytest.param(
            [HI, {"object": "error", "message": "m", "type": "BadRequestError", "code": 400}],
            {"text": "a", "end": ("invalid_request", False), "code": "BadRequestError"},
            id="vLLM, litellm-25505",
        ),
        pytest.param(
            [HI, {"error": {"code": "server_error", "message": "m"}, **delta({"content": ""}, "error")}],
            {"text": "a", "end": ("backend_transient", True), "code": "server_error"},
            id="OpenRouter: an error beside choices",
        ),
        pytest.param(
            [{"choices": [], "error": {"code": 502, "message": "m", "metadata": {"error_type": "unavailable"}}}],
            {"end": ("backend_transient", True), "code": "unavailable"},
            id="OmniRoute-8210: an error beside no choices",
        ),
        pytest.param(
            [{"error": {"message": "m", "type": "None", "param": "None", "code": "429"}}],
            {"end": ("rate_limited", True), "code": "429"},
            id="LiteLLM: None in words",
        ),
        pytest.param(
            [delta({"content": "a"}, "stop", usage={"prompt_tokens": 26, "completion_tokens": 2, "total_tokens": 87})],
            {"text": "a", "usage": (26, 2, 87), "end": "stop"},
            id="fx-904: a total that nothing explains is not shared out",
        ),
        pytest.param(
            [delta({"content": "a"}, "stop", usage={"prompt_tokens": 3, "completion_tokens": -1, "total_tokens": 5})],
            {"text": "a", "usage": (3, None, 5), "end": "stop"},
            id="a negative count is none",
        ),
    ],
)
def test_chat_completions(chunks: list[Any], expected: dict[str, Any]) -> None:
    check("openai_compatible", data(*chunks, DONE), expected)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("end", [b"", b"[DONE]", b"[DONE]\n\n", b"data: [DONE]\n"])
def test_lines_without_data(end: bytes, stream: bool) -> None:
    """opik-5149: a proxy leaves out `data:`, perhaps before `[DONE]`, too."""
    for chunks in ([HI, delta({"content": "b"}, "stop")], [delta({"content": "ab"}, "stop")]):
        body = b"".join(json.dumps(each).encode() + b"\n" for each in chunks)
        check("openai_compatible", body + end, {"text": "ab", "end": "stop"}, stream=stream)


def test_an_error_by_its_name_with_a_status_in_a_comment() -> None:
    """DashScope's own framing."""
    body = b'id:1\nevent:error\n:HTTP_STATUS/400\ndata:{"code":"InvalidParameter","message":"m"}\n\n'

    check("openai_compatible", body, {"end": ("invalid_request", False), "code": "InvalidParameter"})


# --- Responses -----------------------------------------------------------------------------------------------


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def spoken(text: str) -> dict[str, Any]:
    return {"type": "message", "id": "m", "content": [{"type": "output_text", "text": text}]}


A = event("output_text.delta", item_id="m", output_index=0, content_index=0, delta="a")


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(
            [event("created"), event("output_text.done", text="a"), event("completed", response={"output": []})],
            {"text": "a", "end": "stop"},
            id="gemini-web2api-57: no deltas, no places",
        ),
        pytest.param(
            [
                A,
                event("content_part.done", output_index=0, part={"type": "output_text", "text": ""}),
                event("output_item.done", output_index=0, item={"type": "message", "id": "m", "content": []}),
                event("completed", response={"output": []}),
            ],
            {"text": "a", "end": "stop"},
            id="agentgateway-2281: empty wholes take nothing back",
        ),
        pytest.param(
            [A, event("completed", response={"status": "in_progress", "output": [spoken("a")]})],
            {"text": "a", "end": "stop"},
            id="a status that was not brought up to date",
        ),
        pytest.param(
            [A, event("completed", response={"status": "completed", "output": None})],
            {"text": "a", "end": "stop"},
            id="no output at the end",
        ),
        pytest.param(
            [event("incomplete", response={"incomplete_details": {"reason": "max_output_tokens"}})],
            {"end": "length"},
            id="ai-18872: no output at all",
        ),
        pytest.param(
            [event("completed", response={"status": "completed", "output": None})],
            {"end": "stop"},
            id="an empty answer",
        ),
        pytest.param(
            [
                A,
                event(
                    "output_item.done", output_index=0, item=spoken("a") | {"content": [None, *spoken("a")["content"]]}
                ),
                event("completed", response={"output": [None, spoken("a")]}),
            ],
            {"text": "a", "end": "stop"},
            id="null in place of an item, and of a part",
        ),
        pytest.param(
            [event("failed", response={"error": None, "incomplete_details": {"reason": "content_filter"}})],
            {"end": ("backend_transient", True)},
            id="no error, but the reason in another place",
        ),
        pytest.param(
            [{"type": "error", "error": {"type": "usage_limit_reached", "message": "m"}, "status_code": 429}],
            {"end": ("rate_limited", True), "code": "usage_limit_reached"},
            id="claude-code-proxy-139",
        ),
        pytest.param(
            [A, {"type": "response.error", "error": {"code": "rate_limit_exceeded", "message": "m"}}],
            {"text": "a", "end": ("rate_limited", True), "code": "rate_limit_exceeded"},
            id="an error by an event of another name",
        ),
    ],
)
def test_responses(events: list[Any], expected: dict[str, Any]) -> None:
    check("openai_responses", data(*events), expected)


def one_part_each(kind: str, *texts: str, item_id: str, index: int) -> list[dict[str, Any]]:
    """A text as vLLM streams it: each delta is a part of its own, and so is the text as a whole."""
    place = {"item_id": item_id, "output_index": index}
    deltas = [event(f"{kind}.delta", content_index=i, delta=text, **place) for i, text in enumerate(texts)]
    return [*deltas, event(f"{kind}.done", content_index=len(texts), text="".join(texts), **place)]


@pytest.mark.parametrize("texts", [["1", "1"], ["1", " 11", "1"], ["1"]])
def test_each_delta_is_a_part_of_its_own(texts: list[str]) -> None:
    """vllm-35184: it is one text all the same, said once, and in its reasoning without blank lines."""
    text = "".join(texts)
    part = {"type": "output_text", "text": text}
    thought = {"type": "reasoning", "id": "r", "content": [{"type": "reasoning_text", "text": text}]}
    message = {"type": "message", "id": "m", "content": [part]}
    events = [
        begun(0, type="reasoning", id="r"),
        *one_part_each("reasoning_text", *texts, item_id="r", index=0),
        event("output_item.done", output_index=0, item=thought),
        begun(0, type="message", id="r", content=[]),
        *one_part_each("output_text", *texts, item_id="m", index=1),
        event("content_part.done", item_id="m", output_index=1, content_index=len(texts) + 1, part=part),
        event("output_item.done", output_index=1, item=message),
        event("completed", response={"output": [thought, message]}),
    ]

    check("openai_responses", data(*events), {"text": text, "reasoning": text, "end": "stop"})


def test_a_whole_response_with_a_text_and_no_output() -> None:
    """Streamed or not, `output_text` is the answer where there is nothing else."""
    body = {"status": "completed", "output": None, "output_text": "a"}

    check("openai_responses", json.dumps(body).encode(), {"text": "a", "end": "stop"}, stream=False)
    check("openai_responses", data(event("completed", response=body)), {"text": "a", "end": "stop"})


def begun(index: int, **item: Any) -> dict[str, Any]:
    return event("output_item.added", output_index=index, item=item)


F = {"type": "function_call", "id": "x", "call_id": "x", "name": "f", "arguments": ""}
G = {"type": "function_call", "id": "y", "call_id": "y", "name": "g", "arguments": ""}


def piece_of(call_id: str, text: str, index: int = 0) -> dict[str, Any]:
    return event("function_call_arguments.delta", output_index=index, item_id=call_id, delta=text)


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        pytest.param(
            [
                begun(0, type="message", id="m1", content=[]),
                event("reasoning_summary_text.delta", output_index=0, item_id="r1", summary_index=0, delta="h"),
                event("reasoning_summary_text.delta", output_index=0, item_id="r2", summary_index=0, delta="m"),
                event("output_text.delta", output_index=0, item_id="t", content_index=0, delta="a"),
                begun(1, **F),
                piece_of("x", PARIS, 1),
                event(
                    "completed",
                    response={
                        "output": [
                            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "hm"}]},
                            {"type": "message", "id": "m", "content": [{"type": "output_text", "text": "ab"}]},
                            F | {"arguments": PARIS},
                        ]
                    },
                ),
            ],
            {"text": "ab", "reasoning": "hm", "calls": [("f", PARIS)], "end": "tool_calls"},
            id="litellm-36375: the output has other ids and indexes than the stream",
        ),
        pytest.param(
            [
                event("output_text.delta", output_index=0, item_id="t", content_index=0, delta="a"),
                event("completed", response={"output": [{"type": "web_search_call", "id": "w"}, spoken("a")]}),
            ],
            {"text": "a", "end": "stop", "not_carried": {"web_search_call": 1}},
            id="the output has another id and index",
        ),
        pytest.param(
            [
                event("output_text.delta", output_index=0, item_id="t", content_index=0, delta="a"),
                event("completed", response={"output": [{"type": "web_search_call", "id": "w"}, spoken("b")]}),
            ],
            {"text": "ab", "end": "stop", "not_carried": {"web_search_call": 1}},
            id="the output has another message",
        ),
        pytest.param(
            [begun(0, **F), begun(0, **G), piece_of("x", PARIS), piece_of("y", PARIS), event("completed", response={})],
            {"calls": TWO, "end": "tool_calls"},
            id="litellm-36375: one index for several calls",
        ),
        pytest.param(
            [
                begun(0, **F),
                event("function_call_arguments.delta", call_id="x", delta=PARIS),
                event("completed", response={}),
            ],
            {"calls": [("f", PARIS)], "end": "tool_calls"},
            id="a piece of a call by its call_id",
        ),
        pytest.param(
            [
                begun(0, **F),
                event("function_call_arguments.done", output_index=0, item_id="x", arguments="{}"),
                event("output_item.done", output_index=0, item={**F, "arguments": PARIS}),
                event("completed", response={"output": [{**F, "arguments": PARIS}]}),
            ],
            {"calls": [("f", PARIS)], "end": "tool_calls"},
            id="the arguments come with the item only",
        ),
        pytest.param(
            [
                begun(0, **F),
                event("function_call_arguments.done", output_index=0, item_id="x", arguments="{}"),
                event("output_item.done", output_index=0, item=F),
                event("completed", response={"output": [F]}),
            ],
            {"calls": [("f", "{}")], "end": "tool_calls"},
            id="the arguments are an empty object",
        ),
        pytest.param(
            [
                begun(0, **{**F, "arguments": PARIS}),
                event("function_call_arguments.done", output_index=0, item_id="x", arguments="{}"),
                event("completed", response={}),
            ],
            {"calls": [("f", PARIS)], "end": "tool_calls"},
            id="the arguments come with the beginning only",
        ),
        pytest.param(
            [
                event("output_item.added", output_index=0, item=None),
                A,
                event("output_item.done", output_index=0, item=None),
                event("output_item.done", output_index=1),
                event("completed", response={"output": [spoken("a")]}),
            ],
            {"text": "a", "end": "stop"},
            id="openai-python-3125: an item that is null",
        ),
        pytest.param(
            [
                begun(0, **F),
                begun(0, **F),
                piece_of("x", "{}"),
                event("output_item.done", output_index=0, item=F | {"arguments": "{}"}),
                event("completed", response={"output": [F | {"arguments": "{}"}]}),
            ],
            {"calls": [("f", "{}")], "end": "tool_calls"},
            id="a call that is announced twice",
        ),
        pytest.param(
            [
                begun(0, **F),
                begun(0, **F | {"id": "y"}),
                piece_of("y", '{"x":'),
                event("output_item.done", output_index=0, item=F | {"id": "z", "arguments": '{"x":1}'}),
                event("completed", response={"output": []}),
            ],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="a call that is announced twice, with another id in each event",
        ),
        pytest.param(
            [
                begun(0, **F),
                event("output_item.done", output_index=1, item=F | {"id": "y", "arguments": '{"x":1}'}),
                event("completed", response={"output": []}),
            ],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="hermes-agent-94961: a call that ends under another id and index",
        ),
        pytest.param(
            [
                begun(0, **F | {"name": ""}),
                event("function_call_arguments.done", output_index=0, item_id="x", name="f", arguments='{"x":1}'),
                event("completed", response={"output": []}),
            ],
            {"calls": [("f", '{"x":1}')], "end": "tool_calls"},
            id="a call that is named with its arguments",
        ),
    ],
)
def test_responses_with_items_that_are_hard_to_tell(events: list[Any], expected: dict[str, Any]) -> None:
    check("openai_responses", data(*events), expected)


def test_a_response_in_place_of_its_event() -> None:
    """sap-ai-core-llm-proxy 35: the data is the response, and the event's name says which event it is."""
    response = {"id": "r", "object": "response", "output": [spoken("a")], "status": "completed", "error": None}
    lines = b"".join(b"event: response.%b\ndata: %b\n\n" % (k, json.dumps(v).encode()) for k, v in (
        (b"created", {**response, "output": [], "status": "in_progress"}),
        (b"output_text.delta", {k: v for k, v in A.items() if k != "type"}),
        (b"completed", response),
    ))  # fmt: skip

    check("openai_responses", lines, {"text": "a", "end": "stop"})


# --- whole answers in one event ------------------------------------------------------------------------------


@pytest.mark.parametrize("behind", [[], [b"data: [DONE]\n\n"]])
@pytest.mark.parametrize(
    ("name", "answer"),
    [
        ("anthropic", MESSAGE | {"content": [TEXT | {"text": "a"}], "stop_reason": "end_turn"}),
        ("gemini", chunk({"text": "a"}, **STOPPED)),
        ("openai_compatible", {"choices": [{"message": {"content": "a"}, "finish_reason": "stop"}]}),
        ("openai_responses", {"object": "response", "status": "completed", "output": [spoken("a")]}),
    ],
)
def test_a_whole_answer_in_one_event(name: str, answer: dict[str, Any], behind: list[bytes]) -> None:
    """A proxy may pretend to stream what its provider did not."""
    check(name, data(answer, *behind), {"text": "a", "end": "stop"})


def test_a_message_that_says_no_reason_and_what_is_said_already_end_nothing() -> None:
    """A whole message in an event is the answer only where it ends itself and nothing came before."""
    whole = MESSAGE | {"content": [TEXT | {"text": "a"}]}

    check("anthropic", data(whole), {"text": "a", "end": ("backend_transient", True)})
    check("anthropic", data(BEGIN, said("b"), whole, reason("end_turn")), {"text": "b", "end": "stop"})
    check(
        "openai_responses",
        data({"object": "response", "status": "in_progress"}),
        {"end": ("protocol_violation", False)},
    )


# --- quoting -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "begun"),
    [
        ("openai_compatible", data(HI)),
        ("openai_responses", data(A)),
        ("anthropic", data(BEGIN, block(0, TEXT), said("a"))),
        ("gemini", data(chunk({"text": "a"}))),
        ("ollama", b'{"message":{"content":"a"}}\n'),
    ],
)
def test_an_answer_that_has_begun_is_not_quoted(name: str, begun: bytes) -> None:
    """A message may be logged, an answer may not; and where the bytes are divided makes no difference."""
    frame = {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]}
    broken = b"{broken}\n" if name == "ollama" else b"data: {broken}\n\n"
    for chunks in ([begun + broken], [begun, broken]):
        events, error = decode(dialect(name), canonical(frame), chunks)

        assert error is not None
        assert error.kind == "protocol_violation"
        assert "begins with" not in error.message
        assert any(isinstance(event, OutputTextDelta) for event in events)


# --- ids -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [0, 7, -1, 2**64 - 1])
def test_the_id_of_a_call_may_be_an_integer(number: int) -> None:
    """opencode-19947, kilocode-5816: NVIDIA NIM and MiniMax send numbers; the client gets their digits."""
    entry, again = call("{}", index=0, id=number, name="f"), call("", index=0, id=number)
    item = F | {"call_id": number, "arguments": "{}"}
    answers = {
        "openai_compatible": data(calls(entry), calls(again), CALLED, DONE),
        "ollama": json.dumps({"message": {"tool_calls": entry}, "done": True}).encode(),
        "anthropic": data(BEGIN, block(0, TOOL | {"id": number}), ended(), reason("tool_use")),
        "gemini": data(chunk({"functionCall": {"name": "f", "args": {}, "id": number}}, finishReason="STOP")),
        "openai_responses": data(
            begun(0, **item), event("output_item.done", output_index=0, item=item), event("completed", response={})
        ),
    }
    for name, answer in answers.items():
        frame = {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]}
        events, error = decode(dialect(name), canonical(frame), [answer])

        assert error is None, (name, error)
        assert [(e.call.id, e.call.name) for e in events if isinstance(e, ToolCallReady)] == [(str(number), "f")], name
