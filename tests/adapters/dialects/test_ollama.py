"""What is particular to `ollama`; what it shares with other dialects is in test_recordings.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.canonical import (
    BackendRawEvent,
    Completed,
    OutputTextDelta,
    ReasoningDelta,
    ToolCallReady,
    Usage,
)
from beluna_gateway.errors import GatewayError

from .. import recorded
from ..recorded import canonical, dialect

TOOL = {"name": "get_time", "input_schema": {"type": "object"}}


def frame(**fields: Any) -> dict[str, Any]:
    return {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}], **fields}


def body_of(**fields: Any) -> dict[str, Any]:
    return dialect("ollama").encode(canonical(frame(**fields)), "llama3.2").body


def events_of(*lines: Any) -> list[BackendRawEvent]:
    decoder, events = dialect("ollama").decoder(canonical(frame()), "m"), list[BackendRawEvent]()
    for line in lines:
        decoder.feed(json.dumps(line).encode(), events)
    decoder.finish(events)
    return events


@pytest.mark.parametrize(
    ("choice", "word"), [("required", "required"), ({"specific": {"name": "get_time"}}, r"specific \(get_time\)")]
)
def test_a_forced_tool_is_refused_by_name(choice: Any, word: str) -> None:
    """Ollama always lets the model choose: anything else is unsupported; the field and what it asks for are named."""
    with pytest.raises(GatewayError, match=f"tool_choice: .* no word for {word}$") as failure:
        body_of(tools=[TOOL], tool_choice=choice)

    assert failure.value.kind == "unsupported_capability"


def test_required_is_refused_without_tools_too() -> None:
    """What has no place is never dropped in silence."""
    with pytest.raises(GatewayError, match="tool_choice"):
        body_of(tool_choice="required")


def test_tool_choice_none_leaves_the_tools_out() -> None:
    """Ollama has no word for none."""
    assert "tools" not in body_of(tools=[TOOL], tool_choice="none")
    assert "tools" in body_of(tools=[TOOL])


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_an_image_by_reference_is_refused_by_place(scheme: str) -> None:
    """Ollama loads nothing from the network."""
    parts = [{"text": {"text": "?"}}, {"image_url": {"url": f"{scheme}://example.com/a.png"}}]
    with pytest.raises(GatewayError, match=r"messages\[0\]\.parts\[1\]\.image_url") as failure:
        body_of(messages=[{"role": "user", "parts": parts}])

    assert failure.value.kind == "unsupported_capability"


def test_nothing_is_sent_that_was_not_asked_for() -> None:
    """Without options the server's and the model's own defaults hold."""
    assert body_of().keys() == {"model", "stream", "messages"}


@pytest.mark.parametrize("enable", [True, False])
def test_thinking_is_switched_either_way(enable: bool) -> None:
    """`think` tells false from missing."""
    assert body_of(enable_thinking=enable)["think"] is enable


def test_a_zero_temperature_and_an_explicit_zero_count_are_kept() -> None:
    """Zero is a value, not the lack of one (F23)."""
    assert body_of(sampling={"temperature": 0, "seed": 0})["options"] == {"temperature": 0, "seed": 0}
    usage = events_of({"message": {"role": "assistant", "content": ""}, "done": True, "eval_count": 0})[0]
    assert isinstance(usage, Usage)
    assert (usage.usage.input_tokens, usage.usage.output_tokens, usage.usage.total_tokens) == (None, 0, None)


def test_a_call_is_ready_at_once_and_reads_like_its_arguments() -> None:
    """Ollama sends calls whole; their arguments become text here, big numbers and all letters intact."""
    arguments = {"n": 12345678901234567890123, "é": "\u2028", "x": 1.5, "deep": [{}]}
    call = {"function": {"name": "f", "arguments": arguments}}
    ready = events_of({"message": {"tool_calls": [call]}}, {"done": True})[1]

    assert isinstance(ready, ToolCallReady)
    assert json.loads(ready.call.arguments_json) == arguments


def test_calls_without_ids_are_told_apart() -> None:
    """Each entry is a call of its own, also where servers say neither id nor a useful index (F18)."""
    call = {"function": {"index": 0, "name": "f", "arguments": {"x": 1}}}
    events = events_of({"message": {"tool_calls": [call, call]}}, {"message": {"tool_calls": [call]}}, {"done": True})

    assert len({event.call.id for event in events if isinstance(event, ToolCallReady)}) == 3


def test_a_call_that_is_missing_its_arguments_has_none() -> None:
    """`{}` stands for no arguments."""
    for function in ({"name": "f"}, {"name": "f", "arguments": {}}, {"name": "f", "arguments": ""}):
        line = {"message": {"tool_calls": [{"function": function}, {"function": function}]}}
        for events in (events_of(line, {"done": True}), completed(lines(line), stream=False)):
            ready = [event.call for event in events if isinstance(event, ToolCallReady)]
            assert [call.arguments for call in ready] == [{}, {}]


@pytest.mark.parametrize("nothing", [None, "", {}])
@pytest.mark.parametrize("second", [{}, {"id": "a"}, {"id": "b"}, {"id": "a", "function": {"name": "f"}}])
def test_arguments_may_follow_a_call_that_has_none(nothing: Any, second: Any) -> None:
    """Never `{}` where the next entry has them, which has no name of its own or the same id."""
    first = {"id": "a", "function": {"index": 0, "name": "f", "arguments": nothing}}
    rest = {**second, "function": {**second.get("function", {}), "index": 0, "arguments": {"x": 1}}}
    for answer in (
        lines({"message": {"tool_calls": [first]}}, {"message": {"tool_calls": [rest]}}, {"done": True}),
        lines({"message": {"tool_calls": [first, rest]}, "done": True}),
    ):
        ready = [event.call for event in completed(answer) if isinstance(event, ToolCallReady)]
        assert [(call.id, call.name, call.arguments) for call in ready] == [("a", "f", {"x": 1})]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize(("arguments", "ready"), [({}, 1), ({"x": 1}, 1), (None, 0), ("", 0)])
def test_a_call_of_a_cut_answer_is_ready_where_it_says_its_arguments(arguments: Any, ready: int, stream: bool) -> None:
    """What never came is not invented."""
    call = {"function": {"name": "f", "arguments": arguments}}
    line = {"message": {"tool_calls": [call]}, "done": True, "done_reason": "length"}

    assert sum(isinstance(event, ToolCallReady) for event in completed(lines(line), stream=stream)) == ready


@pytest.mark.parametrize("arguments", [{"x": 1}, {}])
def test_a_call_that_the_last_line_repeats_is_made_once(arguments: Any) -> None:
    """Told by its id; with other arguments it is another one."""
    call = {"id": "a", "function": {"name": "f", "arguments": arguments}}
    other = {"id": "a", "function": {"name": "g", "arguments": {"y": 2}}}
    said: list[Any] = [{"message": {"tool_calls": [call]}}, {"message": {"content": "x"}}]
    for last, expected in (([call], [arguments]), ([call, other], [arguments, {"y": 2}])):
        events = completed(lines(*said, {"message": {"tool_calls": last}, "done": True}))
        assert [event.call.arguments for event in events if isinstance(event, ToolCallReady)] == expected


@pytest.mark.parametrize(
    "line",
    [
        {"message": {"content": 5}},
        {"message": "text"},
        {"message": {"tool_calls": {"a": 1}}},
        {"message": {"tool_calls": [{"function": {"name": "f", "arguments": '{"a":1'}}]}},
        {"message": {"tool_calls": [{"function": {"arguments": {}}}]}},
        {"message": {"tool_calls": [{}]}},
        {"done": "yes"},
        {"model": "x"},
    ],
)
def test_a_malformed_line_is_a_protocol_violation(line: Any) -> None:
    """A line that is not what Ollama's types say ends the answer."""
    with pytest.raises(GatewayError) as failure:
        events_of(line)

    assert failure.value.kind == "protocol_violation"


def test_the_last_line_may_carry_the_last_text() -> None:
    """Content beside `done` is not lost."""
    events = events_of({"message": {"content": "end"}, "done": True, "done_reason": "length"})

    assert isinstance(events[0], OutputTextDelta)
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "length"


def test_a_secret_goes_where_ollama_com_takes_it() -> None:
    """A bearer token, in the header alone."""
    assert dialect("ollama").auth_headers("s") == {"Authorization": "Bearer s"}


# --- answers as servers really send them; each is read alike at once and byte by byte -----------------------


def play(answer: bytes, *, stream: bool = True) -> tuple[list[BackendRawEvent], GatewayError | None]:
    ollama, request = dialect("ollama"), canonical(frame())
    events, error = recorded.decode(ollama, request, [answer], stream=stream)
    in_bytes = [answer[i : i + 1] for i in range(len(answer))]
    again = recorded.wire_events(*recorded.decode(ollama, request, in_bytes, stream=stream), request)
    assert again == recorded.wire_events(events, error, request)
    return events, error


def lines(*values: Any) -> bytes:
    return b"".join(json.dumps(value).encode() + b"\n" for value in values)


def text_of(events: list[BackendRawEvent]) -> str:
    return "".join(event.delta for event in events if isinstance(event, OutputTextDelta))


def completed(answer: bytes, *, stream: bool = True) -> list[BackendRawEvent]:
    events, error = play(answer, stream=stream)
    assert error is None
    assert isinstance(events[-1], Completed)
    return events


def failed(answer: bytes, *, stream: bool = True) -> GatewayError:
    events, error = play(answer, stream=stream)
    assert error is not None
    assert not any(isinstance(event, Completed) for event in events)
    return error


def test_a_byte_order_mark_and_blank_lines_are_silence() -> None:
    """Proxies on Windows write the one, others the other."""
    answer = b"\xef\xbb\xbf" + lines({"message": {"content": "x"}}) + b"\n\r\n" + lines({"done": True})

    assert text_of(completed(answer)) == "x"


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("body", [b"", b"\n", b"<html>\n", b'{"hello":"world"}\n'])
def test_what_is_no_answer_is_a_protocol_violation(body: bytes, stream: bool) -> None:
    """An empty body, HTML, another API; what came is quoted."""
    error = failed(body, stream=stream)

    assert (error.kind, error.retryable) == ("protocol_violation", False)
    assert body.decode().strip() in error.message


@pytest.mark.parametrize("arguments", [{"city": "é"}, '{"city":"é"}'])
def test_arguments_may_be_an_object_or_its_text(arguments: Any) -> None:
    """Servers that copy Ollama write them as OpenAI does."""
    call = {"function": {"name": "f", "arguments": arguments}}
    for events in (
        completed(lines({"message": {"tool_calls": [call]}}, {"done": True})),
        completed(lines({"message": {"tool_calls": [call]}, "done": True}), stream=False),
    ):
        assert [event.call.arguments for event in events if isinstance(event, ToolCallReady)] == [{"city": "é"}]


@pytest.mark.parametrize("arguments", ['{"x":1e999}', '"{\\"x\\":1e999}"', '"{\\"x\\":"', "[]", "5", "true"])
def test_arguments_that_are_no_object_are_refused(arguments: str) -> None:
    """Also a number that no float can hold: it would be refused on its way back."""
    answer = f'{{"message":{{"tool_calls":[{{"function":{{"name":"f","arguments":{arguments}}}}}]}}}}\n'

    assert failed(answer.encode() + lines({"done": True})).kind == "protocol_violation"


def test_content_after_done_is_delivered() -> None:
    """`done` in an early line was not the end; the last one's reason counts."""
    events = completed(
        lines(
            {"message": {"content": "a"}, "done": True, "prompt_eval_count": 5},
            {"message": {"content": "b"}, "done": True, "done_reason": "length", "eval_count": 2},
        )
    )

    assert text_of(events) == "ab"
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "length"
    assert [(e.usage.input_tokens, e.usage.output_tokens) for e in events if isinstance(e, Usage)] == [(5, 2)]


def test_a_whole_answer_is_complete_unless_it_says_that_it_is_not() -> None:
    """HTTP proves that it is whole; `"done":false` says the contrary."""
    body = {"message": {"content": "x"}}

    for done in ({}, {"done": None}):
        assert completed(lines({**body, **done}), stream=False) == [OutputTextDelta("x"), Completed("stop", {})]
    for answer in ({**body, "done": False}, {"message": {"thinking": "hm"}}):
        error = failed(lines(answer), stream=False)
        assert error.kind == "protocol_violation"
        assert error.message.endswith('unstreamed answer that is not "done"')
    error = failed(lines({**body, "done": False}))
    assert error.kind == "backend_transient"
    assert 'without "done":true' in error.message


@pytest.mark.parametrize(("model", "metadata"), [("m:1b", {"model": "m:1b"}), ("", {}), (5, {}), (None, {})])
def test_the_metadata_name_the_model_that_answered(model: Any, metadata: dict[str, Any]) -> None:
    """Where the server says one."""
    end = completed(lines({"message": {"content": "x"}, "done": True, "model": model}))[-1]

    assert isinstance(end, Completed)
    assert end.backend_metadata == metadata


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        ({"error": "m"}, "backend_transient"),
        ({"error": {"message": "m", "code": 404}}, "invalid_request"),
        ({"detail": "m"}, "backend_transient"),
        ({"code": 429, "message": "m"}, "rate_limited"),
    ],
)
def test_an_error_in_a_line_fails_the_answer_with_its_text(error: Any, kind: str) -> None:
    """Wherever it stands, and in the whole answer too."""
    for failure in (
        failed(lines({"message": {"content": "x"}}, error)),
        failed(lines(error)),
        failed(lines(error), stream=False),
    ):
        assert failure.kind == kind
        assert "inside its answer: m" in failure.message


@pytest.mark.parametrize("nothing", [None, "", {}, False])
def test_an_error_that_says_nothing_is_none(nothing: Any) -> None:
    """Servers that write the field in each line."""
    assert text_of(completed(lines({"message": {"content": "x"}, "error": nothing, "done": True}))) == "x"


def test_content_may_be_an_array_of_parts() -> None:
    """As other servers send it."""
    parts = [{"type": "thinking", "thinking": "hm"}, {"type": "text", "text": "x"}]
    events = completed(lines({"message": {"content": parts}}, {"done": True}))

    assert events[:2] == [ReasoningDelta("hm"), OutputTextDelta("x")]


def test_a_generation_in_place_of_a_message_is_one() -> None:
    """A proxy answers as `/api/generate` does (ollama_openai 33)."""
    answer = lines(
        {"response": "a", "done": False}, {"response": "", "thinking": "hm"}, {"response": "b", "done": True}
    )

    assert text_of(completed(answer)) == "ab"
    assert ReasoningDelta("hm") in completed(answer)
    assert text_of(completed(lines({"response": "a", "done": True}), stream=False)) == "a"


def test_a_call_may_have_its_name_and_arguments_in_itself() -> None:
    """As Workers AI has it in Chat Completions."""
    calls = [{"name": "f", "arguments": {"x": 1}}, {"function": None, "name": "g", "arguments": "{}"}]
    events = completed(lines({"message": {"tool_calls": calls}, "done": True}))

    ready = [event.call for event in events if isinstance(event, ToolCallReady)]
    assert [(call.name, call.arguments) for call in ready] == [("f", {"x": 1}), ("g", {})]


def test_a_line_that_says_only_that_it_is_not_done_says_nothing() -> None:
    """While the model is loaded."""
    assert text_of(completed(lines({"done": False}, {"message": None, "done": False}, {"done": True}))) == ""


def test_reasoning_that_is_no_text_is_passed_over() -> None:
    """And counted; another name's text counts all the same."""
    message = {"thinking": True, "reasoning_content": {"a": 1}, "reasoning": "hm", "content": "x"}
    events = completed(lines({"message": message, "done": True}))

    assert events[:2] == [ReasoningDelta("hm"), OutputTextDelta("x")]
    assert isinstance(end := events[-1], Completed)
    assert end.backend_metadata == {"not_carried": {"thinking": 1, "reasoning_content": 1}}


def test_what_no_frame_carries_is_counted() -> None:
    """Pictures that it made, parts of other kinds, and the probabilities of its tokens; no list of them is none."""
    line = {"message": {"content": "x", "images": ["AA", "BB"]}, "logprobs": [{}]}
    others = {"message": {"content": [{"type": "audio", "data": "AA"}]}}
    end = completed(lines(line, others, line, {"done": True}))[-1]
    no_lists = completed(lines({"message": {"content": "x", "images": "CC"}, "logprobs": 1, "done": True}))[-1]

    assert isinstance(end, Completed)
    assert end.backend_metadata == {"not_carried": {"image": 4, "logprobs": 1, "audio": 1}}
    assert isinstance(no_lists, Completed)
    assert no_lists.backend_metadata == {}


@pytest.mark.parametrize(("word", "reason"), [("", "stop"), ("null", "stop"), ("length", "length")])
def test_some_words_are_no_reason(word: str, reason: str) -> None:
    """They stand where older servers have nothing."""
    end = completed(lines({"message": {"content": "x"}, "done": True, "done_reason": word}))[-1]

    assert isinstance(end, Completed)
    assert end.finish_reason == reason


def test_counts_that_are_booleans_are_none() -> None:
    """And counts may be integral floats or digits."""
    events = completed(lines({"done": True, "prompt_eval_count": True, "eval_count": "7"}))
    usage = events[0]

    assert isinstance(usage, Usage)
    assert (usage.usage.input_tokens, usage.usage.output_tokens) == (None, 7)
