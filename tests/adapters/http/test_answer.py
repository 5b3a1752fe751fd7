"""Where an answer ends, and what is no answer: rules that every dialect shares."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.adapters.http.answer import EMPTY_SECONDS, LATE_USAGE_SECONDS
from beluna_gateway.canonical import BackendRawEvent, Completed, OutputTextDelta
from beluna_gateway.errors import GatewayError

from ..recorded import ENDPOINTS, MAX_EVENT, canonical, decode, dialect

FRAME: dict[str, Any] = {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]}

LINE = {
    "openai_compatible": b'data: {"choices":[{"delta":{"content":"a"}}]}\n\n',
    "openai_responses": b'data: {"type":"response.output_text.delta","item_id":"m","content_index":0,"delta":"a"}\n\n',
    "anthropic": b'data: {"type":"content_block_start","index":0,"content_block":{"type":"text","text":"a"}}\n\n',
    "gemini": b'data: {"candidates":[{"content":{"parts":[{"text":"a"}]}}]}\n\n',
    "ollama": b'{"message":{"content":"a"},"done":false}\n',
}
"""For each dialect an event with the text `a`."""

END = {
    "openai_compatible": b'data: {"choices":[{"delta":{},"finish_reason":"stop"}]}\n\n',
    "openai_responses": b'data: {"type":"response.completed","response":{"status":"completed"}}\n\n',
    "anthropic": b'data: {"type":"message_delta","delta":{"stop_reason":"end_turn"}}\n\n',
    "gemini": b'data: {"candidates":[{"finishReason":"STOP"}]}\n\n',
    "ollama": b'{"message":{"content":""},"done":true}\n',
}
"""For each dialect an end mark."""


def answer(
    name: str, *chunks: bytes, stream: bool = True, limit: int = MAX_EVENT
) -> tuple[list[BackendRawEvent], GatewayError | None]:
    """The events of an answer whose body is whole, and its error."""
    return decode(dialect(name), canonical({**FRAME, "stream": stream}), chunks, stream=stream, limit=limit)


def in_any_reads(name: str, data: bytes, limit: int = MAX_EVENT) -> tuple[str, str]:
    """The text of an answer and how it ends, the same in one read, in two and byte by byte."""
    ways = [
        [data],
        [data[i : i + 1] for i in range(len(data))],
        *([data[:cut], data[cut:]] for cut in range(len(data))),
    ]
    found = set()
    for chunks in ways:
        events, error = answer(name, *chunks, limit=limit)
        said = "".join(event.delta for event in events if isinstance(event, OutputTextDelta))
        found.add((said, "completed" if error is None else error.kind))
    assert len(found) == 1, found
    return found.pop()


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


@pytest.mark.parametrize("name", [name for name in ENDPOINTS if name != "anthropic"])
def test_a_character_may_be_divided_between_events(name: str) -> None:
    """Its surrogates, as gateways that count UTF-16 write them; what has no other half is no character."""
    high, low, lone, pair = (
        LINE[name].replace(b'"a"', text)
        for text in (rb'"x\ud83d"', rb'"\uDE00y"', rb'"\ud83d!\ude00"', rb'"\\ud83d\ud83d\ude00"')
    )

    assert in_any_reads(name, high + low + END[name]) == ("x\U0001f600y", "completed")
    assert in_any_reads(name, high + LINE[name] + END[name]) == ("xa", "completed")
    assert in_any_reads(name, low + lone + END[name]) == ("\ufffdy\ufffd!\ufffd", "completed")
    assert in_any_reads(name, pair + END[name]) == ("\\ud83d\U0001f600", "completed")


def test_half_a_character_costs_no_whole_answer() -> None:
    """A text that was cut within one."""
    body = rb'{"choices":[{"message":{"content":"a\ud83d"},"finish_reason":"length"}]}'
    for stream in (True, False):
        events, error = answer("openai_compatible", body, stream=stream)

        assert error is None
        assert [event.delta for event in events if isinstance(event, OutputTextDelta)] == ["a\ufffd"]


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_stream_that_nobody_asked_for_is_read(name: str) -> None:
    """Some proxies always stream (loreai 1195): its text is one delta, and it needs its end mark as ever."""
    text = "a" if name == "anthropic" else "aa"  # whose blocks begin once
    line = LINE[name] * len(text)
    events, error = answer(name, line + END[name] + done_mark(name), stream=False)
    assert error is None
    assert [event.delta for event in events if isinstance(event, OutputTextDelta)] == [text]
    assert isinstance(events[-1], Completed)

    for rest in (b"", LINE[name].rstrip()[:-1]):
        error = failure(name, line + rest, stream=False)
        assert (error.kind, error.retryable) == ("backend_transient", True)


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
@pytest.mark.parametrize(
    "around",
    [
        b"%b\n\ndata: [DONE]\n\n",
        b"data: %b\n\ndata: [DONE]\n\n",
        b"%b\n[DONE]",
        b": wait\n\n%b",
        b"%b\n\n: done\n",
        b": wait\n\n%b\n: done",
    ],
)
def test_what_stands_around_a_whole_answer_is_passed_over(around: bytes, stream: bool) -> None:
    """A stream's `[DONE]`, `data:` and comments (9router 3492), in the body of an answer that is no stream."""
    body = around % b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
    events, error = answer("openai_compatible", body, stream=stream)

    assert error is None
    assert [event.delta for event in events if isinstance(event, OutputTextDelta)] == ["a"]


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_an_error_in_a_field_of_its_own_is_one(stream: bool) -> None:
    """Whether a stream was asked for or not; the provider's text is told."""
    _, error = answer("openai_compatible", b'error: {"code":429,"message":"slow down"}\n\n', stream=stream)

    assert error is not None
    assert (error.kind, "slow down" in error.message) == ("rate_limited", True)


def test_the_last_event_alone_is_an_answer() -> None:
    """A server of the Responses API may send it in place of the response."""
    event = b'{"type":"response.completed","response":{"output":[{"type":"message","content":"a"}]}}'
    for body in (event, b"event: response.completed\ndata: " + event + b"\n\n"):
        events, error = answer("openai_responses", body, stream=False)

        assert error is None
        assert [event.delta for event in events if isinstance(event, OutputTextDelta)] == ["a"]


def done_mark(name: str) -> bytes:
    return b"[DONE]\n" if name == "ollama" else b"data: [DONE]\n\n"


@pytest.mark.parametrize("name", ENDPOINTS)
def test_a_done_mark_before_anything_is_silence(name: str) -> None:
    """However it is cut into reads: it ends an answer, and there is none yet."""
    assert in_any_reads(name, done_mark(name) + LINE[name] + END[name]) == ("a", "completed")
    assert in_any_reads(name, done_mark(name) * 2 + LINE[name])[0] == "a"
    assert in_any_reads(name, done_mark(name) * 2)[1] == "protocol_violation"
    assert in_any_reads(name, done_mark(name).rstrip())[1] == "protocol_violation"


@pytest.mark.parametrize("name", ENDPOINTS)
def test_after_the_end_and_a_done_mark_nothing_counts(name: str) -> None:
    """Neither content nor what cannot be read, however it is cut into reads."""
    ended = LINE[name] + END[name] + done_mark(name)
    for rest in (LINE[name], END[name], done_mark(name), b"data: {malformed json:\n\n", b"<html>"):
        assert in_any_reads(name, ended + rest) == ("a", "completed")


@pytest.mark.parametrize("name", ENDPOINTS)
def test_an_event_above_the_limit_ends_what_came_before_it(name: str) -> None:
    """Before the end mark it is a violation, after what could be read; after the end mark it is ignored."""
    limit = max(len(LINE[name]), len(END[name]))
    large = LINE[name].replace(b"a", b"a" * limit, 1)

    assert in_any_reads(name, LINE[name] + large + END[name], limit) == ("a", "protocol_violation")
    assert in_any_reads(name, LINE[name] + END[name] + large, limit) == ("a", "completed")
    assert in_any_reads(name, LINE[name] + END[name] + large.rstrip(), limit) == ("a", "completed")
    if name in ("openai_compatible", "gemini", "ollama"):  # the others' content cannot go on after the end mark
        gone_on = LINE[name] + END[name] + LINE[name]
        assert in_any_reads(name, gone_on + large, limit) == ("aa", "protocol_violation")


@pytest.mark.parametrize(("spaces", "kind"), [(1199, "completed"), (1200, "backend_transient")])
def test_white_space_before_a_body_counts_the_same_in_any_reads(spaces: int, kind: str) -> None:
    """Above a bound nothing is held back any longer to tell a body from a stream, which needs an end mark."""
    body = b" " * spaces + b'{"choices":[{"message":{"content":"a"}}]}'
    for chunks in ([body], [body[i : i + 1] for i in range(len(body))], [body[:1000], body[1000:]]):
        _, error = answer("openai_compatible", *chunks)

        assert (error.kind if error is not None else "completed") == kind


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
def test_a_body_above_the_limit_is_a_violation_in_any_reads(stream: bool) -> None:
    """Also one that comes in one read, and where a stream was asked for."""
    body = b'{"choices":[{"message":{"content":"a"},"finish_reason":"stop"}]}'
    for chunks in ([body], [body[:10], body[10:]]):
        assert answer("openai_compatible", *chunks, stream=stream, limit=len(body))[1] is None
        _, error = answer("openai_compatible", *chunks, stream=stream, limit=len(body) - 1)

        assert error is not None
        assert "max_event_bytes" in error.message


def test_an_element_with_a_number_beyond_floats_is_read_as_outside_of_an_array() -> None:
    """An array of chunks is taken apart; that must not make another value of one."""
    chunk = b'{"candidates":[{"content":{"parts":[{"text":"a"}]},"finishReason":"STOP","avgLogprobs":-1e999}]}'

    assert in_any_reads("gemini", b"data: " + chunk + b"\n\n") == ("a", "completed")
    assert in_any_reads("gemini", b"data: [" + chunk + b"]\n\n") == ("a", "completed")


@pytest.mark.parametrize("name", ["openai_compatible", "gemini", "ollama"])
@pytest.mark.parametrize("content", [True, False])
def test_an_end_mark_before_any_content_waits_longer(name: str, content: bool) -> None:
    """Some proxies send one first, while the model thinks; after content only usage may come late."""
    waits: list[float] = []
    chunks = [LINE[name]] * content + [END[name]]
    events, error = decode(dialect(name), canonical(FRAME), chunks, waits=waits)

    assert waits == [LATE_USAGE_SECONDS if content else EMPTY_SECONDS]
    assert error is None
    assert isinstance(events[-1], Completed)
