"""Where an answer ends, and what is no answer: rules that every dialect shares."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.canonical import BackendRawEvent, Completed, OutputTextDelta
from beluna_gateway.errors import GatewayError

from ..recorded import ENDPOINTS, canonical, decode, dialect

FRAME: dict[str, Any] = {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]}

LINE = {
    "openai_compatible": b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    "openai_responses": b'data: {"type":"response.output_text.delta","item_id":"m","content_index":0,"delta":"a"}\n\n',
    "anthropic": b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}\n\n',
    "gemini": b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]}}]}\n\n',
    "ollama": b'{"message":{"content":"a"},"done":false}\n',
}
"""For each dialect an event with the text `a`."""


def answer(name: str, *chunks: bytes, stream: bool = True) -> tuple[list[BackendRawEvent], GatewayError | None]:
    """The events of an answer whose body is whole, and its error."""
    return decode(dialect(name), canonical({**FRAME, "stream": stream}), chunks, stream=stream)


def failure(name: str, *chunks: bytes, stream: bool = True) -> GatewayError:
    events, error = answer(name, *chunks, stream=stream)
    assert error is not None, events
    return error


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize("body", [b"<html>", b"{malformed json:", b'{"a" 1', b"upstream connect error", b"", b"\n \n"])
@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_body_that_is_no_answer_is_a_protocol_violation(name: str, body: bytes, stream: bool) -> None:
    """A server's page or broken JSON, with and without a line end: quoted, and not asked for again."""
    for end in (b"", b"\n"):
        error = failure(name, body + end, stream=stream)

        assert (error.kind, error.retryable) == ("protocol_violation", False)
        assert (body.decode().strip() or "empty") in error.message


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_last_line_that_was_cut_is_no_violation(name: str) -> None:
    """What may be the beginning of an event was cut off, and so was the answer: another attempt may help."""
    line = LINE[name]
    body = line.find(b"{")
    for cut in range(body + 1, len(line.rstrip())):
        events, error = answer(name, line, line[:cut])

        assert [event.delta for event in events if isinstance(event, OutputTextDelta)] == ["a"]
        assert error is not None
        assert (error.kind, error.retryable) == ("backend_transient", True)


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_last_line_that_is_no_json_is_a_violation(name: str) -> None:
    """The same with and without its line end."""
    for end in (b"", b"\n\n"):
        begin = b"" if name == "ollama" else b"data: "

        assert failure(name, LINE[name], begin + b"{malformed json:" + end).kind == "protocol_violation"


@pytest.mark.parametrize("rest", [b"data: [DON", b'data: {"choices":[{"de', b"data: {malformed json:", b"<html>"])
def test_after_the_end_mark_a_broken_last_line_is_ignored(rest: bytes) -> None:
    """The answer is there; what was cut after it can only be usage."""
    end = b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n'
    events, error = answer("openai_compatible", LINE["openai_compatible"], end, rest)

    assert error is None
    assert isinstance(events[-1], Completed)


def test_a_cut_done_mark_is_a_cut() -> None:
    """`[DONE]` without its end mark cut short is no broken JSON."""
    for cut in (b"data: [", b"data: [D", b"data: [DONE"):
        assert failure("openai_compatible", LINE["openai_compatible"], cut).kind == "backend_transient"
