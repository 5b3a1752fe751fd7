"""What is particular to `anthropic`; what it shares with other dialects is in test_recordings.py."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from beluna_gateway.adapters.encoding.claude_thinking import thinking_config
from beluna_gateway.canonical import (
    BackendRawEvent,
    Completed,
    Progress,
    ToolCallDelta,
    ToolCallReady,
    Usage,
)
from beluna_gateway.errors import GatewayError

from ..recorded import canonical, dialect

TOOL = {"name": "get_time", "input_schema": {"type": "object"}}


def text(value: str) -> dict[str, Any]:
    return {"text": {"text": value}}


def frame(**fields: Any) -> dict[str, Any]:
    return {"type": "infer", "messages": [{"role": "user", "parts": [text("Hi")]}], **fields}


def body_of(model: str = "claude-x", **fields: Any) -> dict[str, Any]:
    return dialect("anthropic").encode(canonical(frame(**fields)), model).body


def decode(*payloads: Any, finish: bool = True) -> list[BackendRawEvent]:
    decoder, events = dialect("anthropic").decoder(canonical(frame()), "claude-x"), list[BackendRawEvent]()
    for payload in payloads:
        decoder.feed(json.dumps(payload).encode(), events)
    if finish:
        decoder.finish(events)
    return events


def begin(index: int, **block: Any) -> dict[str, Any]:
    return {"type": "content_block_start", "index": index, "content_block": block}


def delta(index: int, **fields: Any) -> dict[str, Any]:
    return {"type": "content_block_delta", "index": index, "delta": fields}


def stop(index: int) -> dict[str, Any]:
    return {"type": "content_block_stop", "index": index}


def end(reason: str | None) -> dict[str, Any]:
    return {"type": "message_delta", "delta": {"stop_reason": reason}, "usage": {"output_tokens": 1}}


def ready_ids(events: list[BackendRawEvent]) -> list[str]:
    return [event.call.id for event in events if isinstance(event, ToolCallReady)]


# --- request -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "path", "probe"),
    [
        ("https://api.anthropic.com", "/v1/messages", "/v1/models"),
        ("https://api.anthropic.com/", "/v1/messages", "/v1/models"),
        ("https://proxy.example.com/anthropic", "/v1/messages", "/v1/models"),
        ("http://127.0.0.1:8080/v1", "/messages", "/models"),
        ("http://127.0.0.1:8080/v1/", "/messages", "/models"),
        ("unix:/run/llama.sock", "/v1/messages", "/v1/models"),
    ],
)
def test_the_version_is_in_the_path_once(endpoint: str, path: str, probe: str) -> None:
    """An endpoint may end in /v1 or not."""
    anthropic = dialect("anthropic", endpoint=endpoint)

    assert (anthropic.encode(canonical(frame()), "m").path, anthropic.probe_path) == (path, probe)


def test_every_request_names_the_version_of_the_api() -> None:
    """Anthropic refuses requests without anthropic-version; servers without a key get it, too."""
    anthropic = dialect("anthropic")

    assert anthropic.auth_headers("s") == {"x-api-key": "s", "anthropic-version": "2023-06-01"}
    assert anthropic.encode(canonical(frame()), "m").headers == {"anthropic-version": "2023-06-01"}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"sampling": {"seed": 1}}, "sampling.seed"),
        ({"output_mode": "json_object"}, "output_mode"),
        (
            {"messages": [{"role": "system", "parts": [{"image_url": {"url": "https://e.com/a.png"}}]}]},
            r"messages\[0\]",
        ),
        (
            {"messages": [{"role": "assistant", "parts": [{"image_url": {"url": "https://e.com/a.png"}}]}]},
            r"messages\[0\]",
        ),
        (
            {"messages": [{"role": "user", "parts": [{"image_url": {"url": "data:image/bmp;base64,AAAA"}}]}]},
            "image/bmp",
        ),
    ],
)
def test_what_has_no_place_is_refused_by_name(fields: dict[str, Any], named: str) -> None:
    """Nothing is dropped in silence."""
    with pytest.raises(GatewayError, match=named) as failure:
        body_of(**fields)

    assert failure.value.kind == "unsupported_capability"


def test_max_tokens_is_always_sent() -> None:
    """Anthropic requires it: the request's own, or the configuration's default."""
    assert body_of()["max_tokens"] == 4096
    assert body_of(limits={"max_output_tokens": 7})["max_tokens"] == 7


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"type": "auto"}),
        ("none", {"type": "none"}),
        ("required", {"type": "any"}),
        ({"specific": {"name": "get_time"}}, {"type": "tool", "name": "get_time"}),
    ],
)
def test_each_tool_choice_has_its_word(choice: Any, expected: dict[str, Any]) -> None:
    """All four choices have a place."""
    assert body_of(tools=[TOOL], tool_choice=choice)["tool_choice"] == expected


def test_a_result_that_comes_after_a_users_words_is_still_first_in_the_turn() -> None:
    """Anthropic wants the results of a turn's calls before anything else in the next one."""
    call = {"id": "c", "name": "get_time", "arguments_json": "{}"}
    messages = [
        {"role": "assistant", "parts": [text("")], "tool_calls": [call]},
        {"role": "user", "parts": [text("Hurry")]},
        {"role": "tool", "tool_call_id": "c", "tool_name": "get_time", "parts": [text("noon")]},
    ]

    turns = body_of(messages=messages)["messages"]

    assert [block["type"] for block in turns[0]["content"]] == ["tool_use"]
    assert [block["type"] for block in turns[1]["content"]] == ["tool_result", "text"]


def turn(role: str, *parts: str, **fields: Any) -> dict[str, Any]:
    return {"role": role, "parts": [text(part) for part in parts], **fields}


def calls(*ids: str) -> list[dict[str, str]]:
    return [{"id": call_id, "name": "f", "arguments_json": "{}"} for call_id in ids]


def result(call_id: str, *parts: str) -> dict[str, Any]:
    return turn("tool", *parts, tool_call_id=call_id, tool_name="f")


def test_empty_text_is_left_out() -> None:
    """Empty text and white space alone are refused by the API; a message with nothing left is left out."""
    sent = body_of(
        messages=[
            turn("system", "", " "),
            turn("user", "Hi", ""),
            turn("assistant", ""),
            turn("assistant", "\n\n", tool_calls=calls("a")),
            result("a", "", "\n"),
            {"role": "user", "parts": [text(""), {"image_url": {"url": "https://h/i.png"}}]},
        ]
    )

    assert "system" not in sent
    assert sent["messages"] == [
        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "f", "input": {}}]},
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "a"},
                {"type": "image", "source": {"type": "url", "url": "https://h/i.png"}},
            ],
        },
    ]


def test_a_final_assistant_message_ends_without_white_space() -> None:
    """The API refuses trailing white space where the model is to go on; before the end it stays."""
    messages = [turn("user", "Hi"), turn("assistant", "So: \n")]

    assert body_of(messages=messages)["messages"][-1]["content"] == [{"type": "text", "text": "So:"}]
    longer = body_of(messages=[*messages, turn("user", "Go on")])["messages"]
    assert longer[1]["content"] == [{"type": "text", "text": "So: \n"}]


def test_ids_of_other_backends_are_mapped() -> None:
    """An id that the API does not take is another one, in call and result alike."""
    strange = "functions.get_weather:0"
    sent = body_of(messages=[turn("user", "Hi"), turn("assistant", tool_calls=calls(strange)), result(strange, "x")])

    call, answer = sent["messages"][1]["content"][0], sent["messages"][2]["content"][0]
    assert re.fullmatch(r"[a-zA-Z0-9_-]+", call["id"])
    assert call["id"] == answer["tool_use_id"]


def test_a_turn_does_not_end_with_thinking() -> None:
    """Thinking whose text or call is gone is left out: the API refuses it at the end of a message."""
    thinking = {"opaque": {"type": "thinking", "thinking": "hm", "signature": "s"}}
    state = {"anthropic": {"backend": "recorded", "model": "claude-x", "pieces": [thinking, {"call": "gone"}]}}
    sent = body_of(messages=[turn("user", "Hi"), turn("assistant", "", provider_state=state), turn("user", "Well?")])

    assert [message["role"] for message in sent["messages"]] == ["user"]


@pytest.mark.parametrize("strict", [True, False])
def test_strict_of_a_tool(strict: bool) -> None:
    """A tool's `strict` is sent as the API's own; without it nothing is said."""
    tool = {"name": "f", "input_schema": {}}

    assert body_of(tools=[{**tool, "strict": strict}])["tools"][0]["strict"] is strict
    assert "strict" not in body_of(tools=[tool])["tools"][0]


def test_a_strange_provider_state_is_refused_by_place() -> None:
    """What the gateway did not give for that turn cannot be sent back."""
    message = {"role": "assistant", "parts": [text("x")], "provider_state": {"anthropic": "nonsense"}}
    with pytest.raises(GatewayError, match=r"messages\[0\]\.provider_state\.anthropic") as failure:
        body_of(messages=[message])

    assert failure.value.kind == "invalid_request"


# --- thinking ------------------------------------------------------------------------------------------------

MANUAL = ["claude-3-7-sonnet-20250219", "claude-opus-4-20250514", "claude-sonnet-4-5", "claude-haiku-4-5-20251001"]
NEWER = ["claude-opus-4-6", "claude-opus-4-8", "anthropic.claude-opus-4-7-v1:0", "claude-opus-4-6@20260205"]
NEWEST = ["claude-sonnet-5", "claude-opus-5-5", "claude-fable-5", "claude-mythos-preview"]


def thinking(model: str, max_tokens: int = 4096, **fields: Any) -> Any:
    return thinking_config(canonical(frame(**fields)), model, max_tokens)


@pytest.mark.parametrize("model", [*MANUAL, "smollm2", "some-model-4-6"])
def test_older_models_get_a_budget_below_max_tokens(model: str) -> None:
    """`enabled` needs a budget of at least 1024 that is less than max_tokens."""
    for max_tokens in (1025, 1500, 4096, 100_000):
        config = thinking(model, max_tokens, enable_thinking=True)

        assert config["type"] == "enabled"
        assert 1024 <= config["budget_tokens"] < max_tokens


@pytest.mark.parametrize("model", MANUAL)
def test_an_answer_too_short_to_think_in_is_refused(model: str) -> None:
    """The gateway neither raises the client's limit nor leaves the thinking out."""
    with pytest.raises(GatewayError, match=r"enable_thinking.*max_output_tokens") as failure:
        thinking(model, 1024, enable_thinking=True)

    assert failure.value.kind == "unsupported_capability"


@pytest.mark.parametrize("model", [*NEWER, *NEWEST])
def test_newer_models_decide_themselves_how_much_to_think(model: str) -> None:
    """From Claude 4.6 on it is `adaptive`, whose text is shown where it is asked for."""
    assert thinking(model, 10, enable_thinking=True) == {"type": "adaptive"}
    assert thinking(model, enable_thinking=True, include_reasoning=True) == {
        "type": "adaptive",
        "display": "summarized",
    }


def test_showing_does_not_switch_thinking_on() -> None:
    """`include_reasoning` alone is sent only to models that think anyway."""
    assert [thinking(model, include_reasoning=True) for model in [*MANUAL, *NEWER]] == [None] * 8
    assert {json.dumps(thinking(model, include_reasoning=True)) for model in NEWEST} == {
        '{"type": "adaptive", "display": "summarized"}'
    }


@pytest.mark.parametrize("model", [*MANUAL, *NEWER, *NEWEST, "smollm2"])
def test_thinking_is_switched_off_by_word_and_left_alone_by_default(model: str) -> None:
    """Missing means: the model's own way."""
    assert thinking(model, enable_thinking=False) == {"type": "disabled"}
    assert thinking(model) is None


# --- response ------------------------------------------------------------------------------------------------

CALL = begin(0, type="tool_use", id="a", name="f", input={})
ARGUMENTS = delta(0, type="input_json_delta", partial_json='{"x":1}')
SECOND = begin(1, type="tool_use", id="b", name="g", input={})


def test_a_call_is_ready_when_its_block_ends() -> None:
    """content_block_stop is Anthropic's own end of a call; nothing before it is."""
    assert ready_ids(decode(CALL, ARGUMENTS, finish=False)) == []
    assert ready_ids(decode(CALL, ARGUMENTS, stop(0), finish=False)) == ["a"]


def test_a_call_without_arguments_is_ready_when_it_is_known_not_to_be_cut() -> None:
    """A block that is stopped before its first argument looks the same whether it was cut or has none. What follows
    tells; until the end arguments may still come."""
    text = begin(1, type="text", text="")

    assert ready_ids(decode(CALL, stop(0), text, finish=False)) == []
    assert ready_ids(decode(CALL, stop(0), end("tool_use"))) == ["a"]
    assert ready_ids(decode(CALL, stop(0), end("max_tokens"))) == []
    assert ready_ids(decode(CALL, stop(0), text, end("max_tokens"))) == ["a"]


@pytest.mark.parametrize("reason", ["max_tokens", "model_context_window_exceeded", "refusal"])
def test_a_cut_call_is_neither_ready_nor_an_error(reason: str) -> None:
    """Anthropic stops the block of a call that it cut; only the stop_reason after it tells."""
    cut = delta(1, type="input_json_delta", partial_json='{"x":')
    events = decode(CALL, ARGUMENTS, stop(0), SECOND, cut, stop(1), end(reason))

    assert ready_ids(events) == ["a"]
    assert isinstance(events[-1], Completed)


def test_a_call_whose_block_never_ended_is_cut_by_a_length_and_ended_by_anything_else() -> None:
    """Looser servers leave content_block_stop out."""
    assert ready_ids(decode(CALL, ARGUMENTS, end("max_tokens"))) == []
    assert ready_ids(decode(CALL, ARGUMENTS, end("tool_use"))) == ["a"]


def test_a_block_that_stops_after_the_end_mark_ends_its_call_once() -> None:
    """A server that closes its blocks late has nothing new to say of them."""
    assert ready_ids(decode(CALL, ARGUMENTS, end("tool_use"), stop(0))) == ["a"]
    assert ready_ids(decode(CALL, end("tool_use"), stop(0))) == ["a"]


def test_a_broken_call_before_another_block_is_a_protocol_violation() -> None:
    """What another block follows was not cut: its arguments must be JSON."""
    with pytest.raises(GatewayError) as failure:
        decode(CALL, delta(0, type="input_json_delta", partial_json='{"x":'), stop(0), SECOND, finish=False)

    assert failure.value.kind == "protocol_violation"


def test_arguments_that_come_with_the_start_of_the_block_count() -> None:
    """Some servers send the whole input at once and no deltas."""
    events = decode(begin(0, type="tool_use", id="a", name="f", input={"x": 1}), stop(0), end("tool_use"))

    assert [event.arguments_delta for event in events if isinstance(event, ToolCallDelta)] == ["", '{"x":1}']
    assert ready_ids(events) == ["a"]


def test_message_stop_without_a_stop_reason_is_a_cut() -> None:
    """The end mark is the stop_reason (F1)."""
    for payloads in ([end(None), {"type": "message_stop"}], [{"type": "message_stop"}]):
        with pytest.raises(GatewayError) as failure:
            decode(begin(0, type="text", text="x"), *payloads)

        assert (failure.value.kind, failure.value.retryable) == ("backend_transient", True)


def test_a_preamble_a_ping_and_unknown_events_are_silence() -> None:
    """Nothing of these counts as progress or output (F9, F13, F22)."""
    events = decode(
        {"type": "message_start", "message": {"id": "m", "model": "x", "usage": {"input_tokens": 1}}},
        begin(0, type="text", text=""),
        {"type": "ping"},
        {"type": "new"},
        delta(0, type="new_delta"),
        delta(0, type="text_delta", text=""),
        finish=False,
    )

    assert events == []


def test_a_signature_is_progress() -> None:
    """With its text left out, thinking shows nothing, but the backend is at work."""
    events = decode(
        begin(0, type="thinking", thinking="", signature=""),
        delta(0, type="signature_delta", signature="abc"),
        finish=False,
    )

    assert events == [Progress()]


def test_unsigned_thinking_is_not_to_be_sent_back() -> None:
    """Thinking that was cut has no signature, and Anthropic refuses it."""
    thought = delta(0, type="thinking_delta", thinking="Hm")
    events = decode(begin(0, type="thinking", thinking="", signature=""), thought, stop(0), end("max_tokens"))

    assert isinstance(events[-1], Completed)
    assert "provider_state" not in events[-1].backend_metadata


def test_thinking_between_calls_keeps_its_place() -> None:
    """Interleaved thinking goes back where it stood, byte by byte."""
    first = {"type": "thinking", "thinking": "é\u2028", "signature": "s+/="}
    second = {"type": "thinking", "thinking": "and so", "signature": "t"}
    redacted = {"type": "redacted_thinking", "data": "d"}
    empty = {"type": "thinking", "thinking": "", "signature": ""}
    signed = [delta(3, type="thinking_delta", thinking=word) for word in ("and ", "so")]
    signed.append(delta(3, type="signature_delta", signature="t"))
    events = decode(
        *(begin(0, **redacted), stop(0)),
        *(CALL | {"index": 1}, ARGUMENTS | {"index": 1}, stop(1)),
        *(begin(2, **first), stop(2)),
        *(begin(3, **empty), *signed, stop(3)),
        *(SECOND | {"index": 4}, stop(4)),
        end("tool_use"),
    )
    assert isinstance(events[-1], Completed)
    message = {
        "role": "assistant",
        "parts": [],
        "tool_calls": [{"id": i, "name": n, "arguments_json": "{}"} for i, n in (("a", "f"), ("b", "g"))],
        "provider_state": json.loads(json.dumps(events[-1].backend_metadata["provider_state"])),
    }

    content = body_of(messages=[message])["messages"][0]["content"]

    assert [content[0], content[2], content[3]] == [redacted, first, second]
    assert [block["id"] for block in (content[1], content[4])] == ["a", "b"]


def test_usage_is_the_last_word_on_each_count() -> None:
    """Counts are cumulative; null says nothing, and no later report lowers one."""
    start = {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 1}
    events = decode(
        {"type": "message_start", "message": {"usage": start}},
        {"type": "message_delta", "delta": {}, "usage": {"output_tokens": 4}},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn"},
            "usage": {"input_tokens": 0, "output_tokens": 9, "cache_read_input_tokens": None},
        },
    )

    usage = next(event.usage for event in events if isinstance(event, Usage))
    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens, usage.cached_input_tokens) == (7, 9, 16, 2)
    assert usage.provider_usage_raw == {"input_tokens": 5, "cache_read_input_tokens": 2, "output_tokens": 9}


@pytest.mark.parametrize(
    "payload",
    [
        {},
        {"type": "content_block_delta", "index": 0},
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": 5}},
        delta(7, type="input_json_delta", partial_json="{}"),
        {"type": "content_block_delta", "delta": {"type": "input_json_delta", "partial_json": "{}"}},
        {"type": "content_block_start", "index": 0},
        {"type": "content_block_start", "index": "0", "content_block": {"type": "text", "text": ""}},
        begin(0, type="tool_use", id=5, name="f"),
        stop(3),
        {"type": "message_start"},
        {"type": "message_delta", "delta": {"stop_reason": 5}},
    ],
)
def test_a_malformed_known_event_is_a_protocol_violation(payload: Any) -> None:
    """Unknown events are passed over, broken ones are not (F22)."""
    with pytest.raises(GatewayError) as failure:
        decode(payload)

    assert failure.value.kind == "protocol_violation"
