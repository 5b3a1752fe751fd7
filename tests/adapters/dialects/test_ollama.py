"""What is particular to `ollama`; what it shares with other dialects is in test_recordings.py."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.canonical import BackendRawEvent, Completed, OutputTextDelta, ToolCallReady, Usage
from beluna_gateway.errors import GatewayError

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


@pytest.mark.parametrize("choice", ["required", {"specific": {"name": "get_time"}}])
def test_a_forced_tool_is_refused_by_name(choice: Any) -> None:
    """Ollama always lets the model choose: anything else is unsupported, and the field is named."""
    with pytest.raises(GatewayError, match="tool_choice") as failure:
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
    ready = events_of({"message": {"tool_calls": [{"function": {"name": "f"}}]}}, {"done": True})[1]

    assert isinstance(ready, ToolCallReady)
    assert ready.call.arguments == {}


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
