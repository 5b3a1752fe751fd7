"""What is particular to `anthropic`; what it shares with other dialects is in test_recordings.py."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.base import ResponseDecoder
from beluna_gateway.adapters.dialects.anthropic_decoder import AnthropicDecoder
from beluna_gateway.canonical import (
    BackendRawEvent,
    Completed,
    OtherFinishReason,
    OutputTextDelta,
    Progress,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallReady,
    Usage,
)
from beluna_gateway.errors import GatewayError

from ..arbitrary import flooded, json_values, shaken, survives
from ..recorded import canonical, dialect, notes

TOOL = {"name": "get_time", "input_schema": {"type": "object"}}


def text(value: str) -> dict[str, Any]:
    return {"text": {"text": value}}


def frame(**fields: Any) -> dict[str, Any]:
    return {"type": "infer", "messages": [{"role": "user", "parts": [text("Hi")]}], **fields}


def body_of(model: str = "claude-x", **fields: Any) -> dict[str, Any]:
    return dialect("anthropic").encode(canonical(frame(**fields)), model).body


def a_decoder(max_bytes: int = 1 << 20) -> ResponseDecoder:
    return AnthropicDecoder(notes("anthropic", "claude-x"), max_bytes)


def decode(*payloads: Any, finish: bool = True) -> list[BackendRawEvent]:
    decoder, events = a_decoder(), list[BackendRawEvent]()
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


@pytest.mark.parametrize(("model", "path"), [("m", "/v1/models/m"), ("a/b?c d", "/v1/models/a%2Fb%3Fc%20d")])
def test_a_model_is_looked_up_by_its_name(model: str, path: str) -> None:
    """The path of one model, of which nothing in a name can make another one's."""
    assert dialect("anthropic").model_path(model) == path


def test_a_cache_key_is_refused_by_the_dialects_name() -> None:
    with pytest.raises(GatewayError, match=r"cache\.key: anthropic"):
        body_of(cache={"key": "k"})


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
            r"messages\[0\]\.parts\[0\]\.image_url: .*image/gif, image/jpeg.*, not image/bmp",
        ),
        (
            {"messages": [{"role": "user", "parts": [{"file": {"mime_type": "text/html", "data": "AA=="}}]}]},
            r"messages\[0\]\.parts\[0\]\.file: .*, not text/html$",
        ),
        (
            {"messages": [{"role": "user", "parts": [{"file": {"mime_type": "text/html", "url": "https://e.com/a"}}]}]},
            r"messages\[0\]\.parts\[0\]\.file: .*, not text/html by its URL$",
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


def test_an_id_used_again_in_a_later_turn_is_another_one() -> None:
    """The API wants ids of tool_use blocks to be unique; each result keeps its own call's."""
    turns = [turn("assistant", tool_calls=calls("a")), result("a", "1")]
    sent = body_of(messages=[turn("user", "Hi"), *turns, *turns])["messages"]

    first, its_result, second, second_result = (message["content"][0] for message in sent[1:5])
    assert first["id"] != second["id"]
    assert (its_result["tool_use_id"], second_result["tool_use_id"]) == (first["id"], second["id"])


def test_each_system_message_is_a_block_of_its_own() -> None:
    sent = body_of(messages=[turn("system", "Be kind."), turn("system", "Be brief."), turn("user", "Hi")])

    assert [block["text"] for block in sent["system"]] == ["Be kind.", "Be brief."]


def test_media_in_a_result_that_has_no_place_is_refused_by_its_path() -> None:
    picture = {"image_url": {"url": "data:image/bmp;base64,AAAA"}}
    messages = [turn("user", "Hi"), turn("assistant", tool_calls=calls("a")), result("a", "see")]
    messages[2]["parts"].append(picture)

    with pytest.raises(GatewayError, match=r"messages\[2\]\.parts\[1\]\.image_url: .*image/bmp"):
        body_of(messages=messages)


def test_a_turn_does_not_end_with_thinking() -> None:
    """Thinking whose text or call is gone is left out: the API refuses it at the end of a message."""
    thinking = {"opaque": {"type": "thinking", "thinking": "hm", "signature": "s"}}
    state = {"anthropic": {"backend": "recorded", "model": "claude-x", "pieces": [thinking, {"call": "gone"}]}}
    sent = body_of(messages=[turn("user", "Hi"), turn("assistant", "", provider_state=state), turn("user", "Well?")])

    assert [message["role"] for message in sent["messages"]] == ["user"]


def test_what_blocks_had_besides_goes_back() -> None:
    """Citations of a text, and who called a tool, stand beside them again."""
    cited = {"type": "web_search_result_location", "url": "https://h/", "encrypted_index": "e"}
    caller = {"type": "code_execution_20250825", "tool_id": "srvtoolu_1"}
    noted = [{"text": 2, "extra": {"citations": [cited]}}, {"call": "a", "extra": {"caller": caller}}]
    state = {"anthropic": {"backend": "recorded", "model": "claude-x", "pieces": noted}}

    (message,) = body_of(messages=[turn("assistant", "Hi", tool_calls=calls("a"), provider_state=state)])["messages"]

    assert (message["content"][0]["citations"], message["content"][1]["caller"]) == ([cited], caller)


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
    ("lifetimes", "hour"),
    [({"ephemeral_5m_input_tokens": 3, "ephemeral_1h_input_tokens": 4}, 4), ({}, None), (None, None), ("x", None)],
)
def test_tokens_written_for_an_hour_are_told_apart(lifetimes: Any, hour: int | None) -> None:
    """They have a price of their own; on the wire both lifetimes are `cache_write_input_tokens`."""
    usage = {"input_tokens": 5, "output_tokens": 1, "cache_creation_input_tokens": 7, "cache_creation": lifetimes}
    events = decode({"type": "message_start", "message": {"usage": usage}}, end("end_turn"))

    reported = next(event.usage for event in events if isinstance(event, Usage))
    assert (reported.input_tokens, reported.cache_write_input_tokens) == (12, 7)
    assert reported.cache_write_1h_input_tokens == hour


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
        begin(0, type="tool_use", id=5.5, name="f"),
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


@pytest.mark.parametrize(
    "payloads",
    [
        [CALL, stop(0), ARGUMENTS],
        [CALL, stop(0), begin(1, type="text", text=""), ARGUMENTS],
        [CALL, ARGUMENTS, stop(0), CALL | {"index": 1}],
        [begin(0, type="tool_use", id="a", name="f", input={"x": 1}), ARGUMENTS, stop(0)],
        [begin(0, type="tool_use", id="a", name="f", input='{"x":1}'), stop(0)],
        [CALL, ARGUMENTS],
    ],
)
def test_arguments_are_never_invented(payloads: list[Any]) -> None:
    """A call gets `{}` only where the answer gives it nothing, early or late, in the block or in deltas."""
    events = decode(*payloads, end("tool_use"))
    [first, *_] = [event.call for event in events if isinstance(event, ToolCallReady)]

    assert (first.id, first.arguments) == ("a", {"x": 1})


@pytest.mark.parametrize(
    "payloads",
    [
        [begin(0, type="tool_use", id="a", name="f", input={"x": 2}), ARGUMENTS, stop(0)],
        [begin(0, type="tool_use", id="a", name="f", input=[1]), stop(0)],
        [CALL, ARGUMENTS, stop(0), ARGUMENTS],
        [CALL, ARGUMENTS, stop(0), ARGUMENTS | {"index": 1}],
        [begin(0, type="text", text=""), stop(0), ARGUMENTS],
        [CALL, CALL],
        [stop(0)],
        [begin(0, type="tool_use", id="a", name="", input={}), stop(0), end("tool_use")],
        [begin(0, type="tool_use", id="a", name="f", input={"x": 1e999}), stop(0), end("tool_use")],
    ],
)
def test_a_contradiction_or_a_delta_of_no_call_is_a_protocol_violation(payloads: list[Any]) -> None:
    """Of two versions of a call, or of a piece of none, nothing is guessed."""
    with pytest.raises(GatewayError) as failure:
        decode(*payloads)

    assert failure.value.kind == "protocol_violation"


def test_no_call_is_ready_where_one_cannot_be_completed() -> None:
    """The end mark makes all open calls ready or, where one is broken, none."""
    decoder, events = a_decoder(), list[BackendRawEvent]()
    broken = delta(1, type="input_json_delta", partial_json='{"x":')
    for payload in (CALL, SECOND, broken, end("tool_use")):
        decoder.feed(json.dumps(payload).encode(), events)

    with pytest.raises(GatewayError):
        decoder.finish(events)
    assert ready_ids(events) == []


def test_an_index_used_again_is_another_block() -> None:
    """A server that says index 0 for every block loses no call."""
    events = decode(CALL, stop(0), SECOND | {"index": 0}, ARGUMENTS, stop(0), end("tool_use"))

    assert sorted(ready_ids(events)) == ["a", "b"]
    assert {e.call.id: e.call.arguments for e in events if isinstance(e, ToolCallReady)} == {"a": {}, "b": {"x": 1}}


def test_calls_stopped_after_the_end_mark_are_no_content() -> None:
    """A late content_block_stop gives no event, so that the answer is not taken to go on; the calls are ready in the
    end, also in an answer that was cut."""
    for reason in ("tool_use", "max_tokens"):
        events = decode(CALL, ARGUMENTS, end(reason), finish=False)
        assert decode(CALL, ARGUMENTS, end(reason), stop(0), finish=False) == events
        assert ready_ids(decode(CALL, ARGUMENTS, end(reason), stop(0))) == ["a"]


def test_content_after_an_end_mark_is_delivered() -> None:
    """The last stop_reason counts (B3)."""
    events = decode(
        begin(0, type="text", text="One"), end("end_turn"), delta(0, type="text_delta", text=" two"), end("max_tokens")
    )

    assert said(events) == "One two"
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "length"


def said(events: list[BackendRawEvent]) -> str:
    return "".join(event.delta for event in events if isinstance(event, OutputTextDelta))


def metadata(events: list[BackendRawEvent]) -> dict[str, Any]:
    assert isinstance(events[-1], Completed)
    return events[-1].backend_metadata


def pieces_of(events: list[BackendRawEvent]) -> Any:
    return metadata(events)["provider_state"]["anthropic"]["pieces"]


@pytest.mark.parametrize("word", ["", "null", "None", None])
def test_some_words_are_no_stop_reason(word: str | None) -> None:
    """The answer goes on (B5)."""
    decoder = a_decoder()
    decoder.feed(json.dumps(end(word)).encode(), [])

    assert not decoder.ended


def whole(*content: Any, **fields: Any) -> list[BackendRawEvent]:
    decoder, events = a_decoder(), list[BackendRawEvent]()
    decoder.feed_whole({"type": "message", "id": "m", "content": [*content], **fields}, events)
    decoder.finish(events)
    return events


@pytest.mark.parametrize("word", ["", "null", None])
def test_a_whole_body_without_a_stop_reason_is_completed_where_it_has_content(word: str | None) -> None:
    """Text or calls, which HTTP proves whole; thinking alone is no answer (B6)."""
    words = {"type": "text", "text": "Hi"}
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {"x": 1}}

    text_only, with_call = whole(words, stop_reason=word), whole(words, call, stop_reason=word)

    assert [e.finish_reason for e in (text_only[-1], with_call[-1]) if isinstance(e, Completed)] == [
        "stop",
        "tool_calls",
    ]
    for content in ([], [{"type": "thinking", "thinking": "Hm"}]):
        with pytest.raises(GatewayError) as failure:
            whole(*content, stop_reason=word)
        assert failure.value.kind == "protocol_violation"


def test_an_unstreamed_answer_has_one_delta_of_text() -> None:
    """Thinking first, then text, then calls; a text in place of the blocks is one."""
    call = {"type": "tool_use", "id": "a", "name": "f", "input": {}}
    thoughts = [{"type": "thinking", "thinking": word, "signature": "s"} for word in ("A", "B")]
    events = whole(
        {"type": "text", "text": "1"}, call, *thoughts, {"type": "text", "text": "2"}, stop_reason="tool_use"
    )

    assert [type(e) for e in events[:2]] == [ReasoningDelta, OutputTextDelta]
    assert (said(events), ready_ids(events)) == ("12", ["a"])
    decoder, more = a_decoder(), list[BackendRawEvent]()
    decoder.feed_whole({"content": "Hi", "stop_reason": "end_turn"}, more)
    assert said(more) == "Hi"


def thinking_block(index: int, *words: str, **more: Any) -> list[dict[str, Any]]:
    return [
        begin(index, type="thinking", thinking="", **more),
        *(delta(index, type="thinking_delta", thinking=word) for word in words),
        stop(index),
    ]


def test_one_thinking_block_and_the_next_are_separated_by_a_blank_line() -> None:
    """Streamed or whole, whatever stands between them; pieces of one block are not (B14)."""
    events = decode(
        *thinking_block(0, "O", "ne", signature="s"),
        *(begin(1, type="text", text="!"), stop(1)),
        *thinking_block(2, "Two", signature="s"),
        end("end_turn"),
    )
    blocks = [{"type": "thinking", "thinking": word} for word in ("One", "Two")]

    for answer in (events, whole(*blocks, {"type": "text", "text": "!"}, stop_reason="end_turn")):
        assert "".join(e.delta for e in answer if isinstance(e, ReasoningDelta)) == "One\n\nTwo"


def test_thinking_without_a_signature_goes_back() -> None:
    """DeepSeek and Kimi have none and want it beside a call. Thinking that was cut does not go back."""
    plain = {"type": "thinking", "thinking": "Hm"}
    events = decode(*thinking_block(0, "H", "m"), CALL | {"index": 1}, stop(1), end("tool_use"))

    assert pieces_of(events) == [{"opaque": plain}, {"call": "a"}]
    assert pieces_of(decode(*thinking_block(0, "Hm"), end("end_turn"))) == [{"opaque": plain}]
    assert "provider_state" not in metadata(decode(*thinking_block(0, "Hm"), end("max_tokens")))
    assert "provider_state" not in metadata(decode(*thinking_block(0), end("end_turn")))


@pytest.mark.parametrize(
    ("begun", "pieces", "whole"),
    [
        ({}, ["{}"], {}),
        ({}, ["{}", '{"q":', "1}"], {"q": 1}),
        ({"q": 1}, ["{}"], {"q": 1}),
        ({"q": 1}, ['{"q":1}'], {"q": 1}),
    ],
)
def test_the_input_of_a_server_tool_goes_back(begun: dict[str, int], pieces: list[str], whole: dict[str, int]) -> None:
    """Also where a proxy passes on the empty one with which its block began."""
    block = {"type": "server_tool_use", "id": "s", "name": "web_search", "input": begun}
    deltas = [delta(0, type="input_json_delta", partial_json=piece) for piece in pieces]
    events = decode(begin(0, **block), *deltas, stop(0), end("pause_turn"))

    assert pieces_of(events) == [{"opaque": block | {"input": whole}}]


def test_thinking_without_a_text_goes_back_beside_a_call() -> None:
    """DeepSeek demands the block itself: "The `content[].thinking` in the thinking mode must be passed back"."""
    empty = {"type": "thinking", "thinking": ""}
    events = decode(*thinking_block(0), CALL | {"index": 1}, stop(1), end("tool_use"))

    assert pieces_of(events) == [{"opaque": empty}, {"call": "a"}]

    state = metadata(events)["provider_state"]
    (message,) = body_of(messages=[turn("assistant", "", tool_calls=calls("a"), provider_state=state)])["messages"]
    assert [block["type"] for block in message["content"]] == ["thinking", "tool_use"]


SEARCH = {"type": "server_tool_use", "id": "srv", "name": "web_search"}
FOUND = {"type": "web_search_tool_result", "tool_use_id": "srv", "content": [{"encrypted_content": "e"}]}


def test_a_turn_with_tools_of_the_providers_own_goes_back_as_it_came() -> None:
    """Each block in its place, input that came in pieces put together, nothing told twice."""
    cited = {"type": "web_search_result_location", "encrypted_index": "i"}
    events = decode(
        *thinking_block(0, "A", signature="s"),
        begin(1, **SEARCH, input={}),
        delta(1, type="input_json_delta", partial_json='{"query":'),
        delta(1, type="input_json_delta", partial_json='"x"}'),
        stop(1),
        *(begin(2, **FOUND), stop(2)),
        *thinking_block(3, "B", signature="t"),
        begin(4, type="text", text="", citations=[]),
        delta(4, type="text_delta", text="So"),
        delta(4, type="citations_delta", citation=cited),
        stop(4),
        end("pause_turn"),
    )

    assert pieces_of(events) == [
        {"opaque": {"type": "thinking", "thinking": "A", "signature": "s"}},
        {"opaque": {**SEARCH, "input": {"query": "x"}}},
        {"opaque": FOUND},
        {"opaque": {"type": "thinking", "thinking": "B", "signature": "t"}},
        {"text": 2, "extra": {"citations": [cited]}},
    ]
    assert metadata(events)["not_carried"] == {"server_tool_use": 1, "web_search_tool_result": 1, "citations": 1}
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == OtherFinishReason("pause_turn")
    unstreamed = whole({**SEARCH, "input": {"query": "x"}}, FOUND, stop_reason="end_turn")
    assert pieces_of(unstreamed) == pieces_of(events)[1:3]


def test_input_of_the_providers_own_tool_that_was_cut_does_not_go_back() -> None:
    """What is no JSON the provider would refuse."""
    cut = delta(0, type="input_json_delta", partial_json='{"query":')
    events = decode(begin(0, **SEARCH, input={}), cut, stop(0), end("max_tokens"))

    assert "provider_state" not in metadata(events)


def test_a_compaction_and_redacted_thinking_go_back_and_are_not_counted() -> None:
    """They have nothing for the client."""
    redacted = {"type": "redacted_thinking", "data": "d"}
    events = decode(
        begin(0, type="compaction", content=None, signature="s"),
        delta(0, type="compaction_delta", content="Summary", encrypted_content=None),
        stop(0),
        *(begin(1, **redacted), stop(1)),
        end("end_turn"),
    )

    assert pieces_of(events) == [
        {"opaque": {"type": "compaction", "content": "Summary", "signature": "s"}},
        {"opaque": redacted},
    ]
    assert "not_carried" not in metadata(events)


def test_who_called_a_tool_goes_back() -> None:
    """A call that code of the provider made names it, and the next turn must, too."""
    caller = {"type": "code_execution_20250825", "tool_id": "srv"}
    events = decode(begin(0, **SEARCH, input={}), stop(0), CALL | {"index": 1}, stop(1), end("tool_use"))
    with_caller = begin(1, type="tool_use", id="a", name="f", input={}, caller=caller, toolset_name=None)
    called = decode(begin(0, **SEARCH, input={}), stop(0), with_caller, stop(1), end("tool_use"))

    assert pieces_of(events)[1] == {"call": "a"}
    assert pieces_of(called)[1] == {"call": "a", "extra": {"caller": caller}}


def test_text_outside_of_blocks_is_noted_in_its_place() -> None:
    """A server that leaves the blocks' borders out loses no text, and the state fits it."""
    events = decode(
        delta(0, type="text_delta", text="One"),
        *thinking_block(1, "A", signature="s"),
        begin(2, type="text", text="Two"),
        end("end_turn"),
    )

    assert [piece.get("text") for piece in pieces_of(events)] == [3, None, 3]


def start(message_id: str | None) -> dict[str, Any]:
    return {"type": "message_start", "message": {"id": message_id, "usage": {"input_tokens": 25}}}


def test_a_second_message_inside_one_answer_is_a_protocol_violation() -> None:
    """One with the same id or none says nothing new; after the end mark it belongs to another answer (B15)."""
    words = begin(0, type="text", text="One")
    assert said(decode(start("a"), start("a"), words, start(None), end("end_turn"))) == "One"
    with pytest.raises(GatewayError) as failure:
        decode(start("a"), words, start("b"))
    assert failure.value.kind == "protocol_violation"

    decoder = a_decoder()
    for payload in (start("a"), words, end("end_turn"), start("b")):
        decoder.feed(json.dumps(payload).encode(), [])
    assert decoder.done


def test_a_model_that_is_no_text_is_not_named() -> None:
    """Metadata holds what the answer says, and nothing where it says something else than a name."""
    begun: dict[str, Any] = {"type": "message_start", "message": {"id": "m", "model": 5, "usage": None}}

    assert metadata(decode(begun, begin(0, type="text", text="Hi"), stop(0), end("end_turn"))) == {"response_id": "m"}


def test_the_container_of_a_tool_is_named_at_the_end() -> None:
    """A next request may ask for the same container by its id."""
    ended = end("end_turn")
    ended["delta"]["container"] = {"id": "container_1", "expires_at": "2026-01-01T00:00:00Z"}

    assert metadata(decode(begin(0, type="text", text="Hi"), stop(0), ended))["container"]["id"] == "container_1"


@pytest.mark.parametrize("citation", [None, {"type": "char_location"}])
def test_a_citation_of_nothing_is_passed_over(citation: Any) -> None:
    """One without a value, or for a block that is not open, says nothing of the text."""
    place = 1 if citation else 0
    opened = begin(0, type="text", text="Hi")

    events = decode(opened, delta(place, type="citations_delta", citation=citation), stop(0), end("end_turn"))

    assert (said(events), "not_carried" in metadata(events)) == ("Hi", False)


def test_bedrocks_metrics_are_passed_over() -> None:
    """An event without a type, which Bedrock sends near the end; any other is a protocol violation, before the end."""
    metrics = {"amazon-bedrock-invocationMetrics": {"inputTokenCount": 9}}
    words = begin(0, type="text", text="One")
    for payloads in (
        [words, end("end_turn"), metrics],
        [words, metrics, end("end_turn")],
        [words, end("end_turn"), {}],
    ):
        assert said(decode(*payloads, {"type": "message_stop"})) == "One"
    with pytest.raises(GatewayError):
        decode(words, {"metrics": 1}, end("end_turn"))


def test_a_zero_after_a_count_says_nothing() -> None:
    """`message_delta` with `input_tokens` 0 after 25 keeps 25 (B13); cache writes and the tier are told."""
    last = end("end_turn") | {
        "usage": {"input_tokens": 0, "output_tokens": "7", "cache_creation_input_tokens": 4.0, "service_tier": "batch"}
    }
    [usage] = [event.usage for event in decode(start("a"), last) if isinstance(event, Usage)]

    assert (usage.input_tokens, usage.output_tokens, usage.total_tokens) == (29, 7, 36)
    assert (usage.cache_write_input_tokens, usage.service_tier) == (4, "batch")


@pytest.mark.parametrize(
    ("payload", "kind"),
    [
        ({"type": "error", "error": {"type": "overloaded_error", "message": "oops"}}, "backend_transient"),
        ({"type": "error", "error": {"type": "invalid_request_error", "message": "oops"}}, "invalid_request"),
        ({"error": {"code": 400, "message": "oops", "type": "invalid_request_error"}}, "invalid_request"),
        ({"error": "oops"}, "backend_transient"),
        ({"type": "exception", "error": {"status": 429, "message": "oops"}}, "rate_limited"),
        ({"detail": [{"msg": "oops", "loc": ["body"]}]}, "backend_transient"),
    ],
)
def test_an_error_is_found_wherever_it_stands(payload: Any, kind: str) -> None:
    """In the stream and in an unstreamed body alike; an empty one is none (B8)."""
    for read in (lambda: decode(payload), lambda: a_decoder().feed_whole(payload, [])):
        with pytest.raises(GatewayError, match="oops") as failure:
            read()
        assert failure.value.kind == kind
    assert decode({"type": "ping", "error": None}, finish=False) == []
    assert said(whole({"type": "text", "text": "Hi"}, error=None, stop_reason="end_turn")) == "Hi"


@pytest.mark.parametrize(
    "flood",
    [
        lambda n: begin(n, type="text", text=""),
        lambda n: begin(n, type="redacted_thinking", data="d" * 500),
        lambda n: begin(n, type="new", data="d" * 500),
        lambda n: begin(n, type="text", text="", citations=[{"x": "t" * 500}]),
        lambda n: begin(n, type="tool_use", id=f"{n}", name="f", input={"x": "x" * 500}),
        lambda n: begin(n, type="thinking", thinking="t" * 500),
        lambda n: delta(0, type="thinking_delta", thinking="t" * 500) if n else begin(0, type="thinking", thinking=""),
        lambda n: (
            delta(0, type="signature_delta", signature="t" * 500) if n else begin(0, type="thinking", thinking="")
        ),
        lambda n: delta(0, type="citations_delta", citation={"x": "t" * 500}) if n else begin(0, type="text", text=""),
        lambda n: delta(0, type="input_json_delta", partial_json="1" * 500) if n else begin(0, **SEARCH),
        lambda n: delta(0, type="input_json_delta", partial_json="1" * 500) if n else CALL,
        lambda n: delta(0, type="compaction_delta", content="t" * 500) if n else begin(0, type="compaction"),
    ],
)
def test_what_is_kept_of_an_answer_is_bounded(flood: Any) -> None:
    """Blocks, thinking, signatures and input without end are a protocol violation that names the setting."""
    error = flooded(a_decoder(max_bytes=10_000), (flood(number) for number in range(100)))

    assert error is not None
    assert error.kind == "protocol_violation"
    assert "max_event_bytes" in error.message


_block = st.one_of(
    shaken(
        {
            "type": st.sampled_from(["text", "thinking", "tool_use", "server_tool_use", "new"]),
            "id": st.sampled_from(["a", "b"]),
            "name": st.just("f"),
            "text": st.text(max_size=3),
            "thinking": st.text(max_size=3),
            "signature": st.text(max_size=3),
            "input": st.sampled_from([{}, {"x": 1}]),
            "citations": st.lists(json_values, max_size=1),
        }
    ),
    json_values,
)
_event = st.one_of(
    json_values,
    shaken(
        {
            "type": st.sampled_from([*AnthropicDecoder._HANDLERS, "content_block_delta", "new"]),
            "index": st.integers(0, 2),
            "content_block": _block,
            "message": shaken({"id": st.sampled_from(["a", "b"]), "usage": shaken({"input_tokens": json_values})}),
            "delta": shaken(
                {
                    "type": st.sampled_from(
                        [
                            f"{kind}_delta"
                            for kind in ("text", "thinking", "signature", "input_json", "citations", "compaction")
                        ]
                    ),
                    "text": st.text(max_size=3),
                    "thinking": st.text(max_size=3),
                    "signature": st.text(max_size=3),
                    "partial_json": st.sampled_from(["{", "}", '{"x":1}']),
                    "citation": json_values,
                    "stop_reason": st.sampled_from(["end_turn", "tool_use", "max_tokens", "null"]),
                }
            ),
            "usage": shaken({"output_tokens": json_values}),
        }
    ),
)


@given(st.lists(_event, max_size=8))
def test_whatever_the_backend_says_nothing_but_gateway_errors_comes_of_it(payloads: list[Any]) -> None:
    """Arbitrary answers, near misses of real ones too, are decoded or refused."""
    survives(a_decoder(), payloads)
