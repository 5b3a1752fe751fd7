"""`adapters/openai_responses.py` and its decoder: what the recordings do not show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from beluna_gateway.adapters.dialects.openai_responses_decoder import ResponsesDecoder
from beluna_gateway.adapters.encoding.turns import NOTHING_TO_ANSWER
from beluna_gateway.canonical import (
    Annotation,
    BackendRawEvent,
    Completed,
    JsonObject,
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

RESPONSES = dialect("openai_responses")
PNG = {"image_url": {"url": "data:image/png;base64,AAAA"}}
LOOK = {"name": "look", "input_schema": {"type": "object"}}


def text(value: str) -> dict[str, Any]:
    return {"text": {"text": value}}


def message(role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts), **more}


def body(*messages: dict[str, Any], **frame: Any) -> dict[str, Any]:
    """The HTTP body for a request with these messages."""
    request = canonical({"type": "infer", "messages": list(messages or (message("user", text("Hi")),)), **frame})
    return RESPONSES.encode(request, "gpt-5.4").body


def refused(*messages: dict[str, Any], **frame: Any) -> GatewayError:
    with pytest.raises(GatewayError) as failure:
        body(*messages, **frame)
    return failure.value


# --- request -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("field", ["seed", "stop"])
def test_sampling_that_the_api_has_no_place_for_is_refused(field: str) -> None:
    """`seed` and `stop` are `unsupported_capability`, naming the field."""
    error = refused(sampling={field: {"seed": 1, "stop": ["x"]}[field]})

    assert error.kind == "unsupported_capability"
    assert f"sampling.{field}" in error.message


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_images_outside_user_messages_are_refused(role: str) -> None:
    """A picture where the API has no place for one is `unsupported_capability`, naming the part."""
    error = refused(message(role, text("See:"), PNG), message("user", text("Hi")))

    assert error.kind == "unsupported_capability"
    assert "messages[0].parts" in error.message
    assert "image_url" in error.message


@pytest.mark.parametrize(
    ("frame", "reasoning", "include"),
    [
        ({}, None, False),
        ({"enable_thinking": True}, {"effort": "medium"}, True),
        ({"enable_thinking": False}, {"effort": "none"}, False),
        ({"include_reasoning": True}, {"summary": "auto"}, True),
        ({"enable_thinking": False, "include_reasoning": True}, {"effort": "none", "summary": "auto"}, True),
    ],
)
def test_reasoning_is_asked_for_only_where_the_client_does(frame: Any, reasoning: Any, include: bool) -> None:
    """Models that do not reason refuse `include`, so it goes out only with a request that is about reasoning."""
    made = body(**frame)

    assert reasoning == made.get("reasoning")
    assert include == ("include" in made)


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", "auto"),
        ("none", "none"),
        ("required", "required"),
        ({"specific": {"name": "look"}}, {"type": "function", "name": "look"}),
    ],
)
def test_tool_choice_has_a_word_for_each_form(choice: Any, expected: Any) -> None:
    """Every `tool_choice` of the contract goes out natively."""
    assert expected == body(tools=[LOOK], tool_choice=choice)["tool_choice"]


def test_each_field_of_a_request_has_its_place() -> None:
    """The whole body for a request that asks for everything, in the words of the Responses API."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    request = canonical(
        {
            "type": "infer",
            "messages": [
                message("system", text("Be brief.")),
                message(
                    "user",
                    text("See:"),
                    PNG,
                    {"file": {"mime_type": "application/pdf", "data": "aGk=", "name": "a.pdf"}},
                    {"file": {"mime_type": "application/pdf", "url": "https://h/a.pdf"}},
                ),
                message(
                    "assistant",
                    text("I look"),
                    tool_calls=calls("c"),
                    provider_state=state({"opaque": encrypted()}, {"text": 6, "extra": {"id": "m_1"}}, {"call": "c"}),
                ),
                message("tool", text("ok"), PNG, tool_call_id="c", tool_name="look"),
                message("assistant", text("I")),
                message("user", text("Go on")),
            ],
            "tools": [
                {"name": "look", "description": "looks", "input_schema": schema, "strict": True},
                {"name": "wait", "input_schema": {"type": "object"}},
            ],
            "tool_choice": {"specific": {"name": "look"}},
            "parallel_tool_calls": False,
            "service_tier": "flex",
            "output_mode": {"json_schema": {"name": "n", "schema": schema, "strict": True}},
            "limits": {"max_output_tokens": 5},
            "sampling": {"temperature": 0.5, "top_p": 0.25},
            "reasoning": {"effort": "low"},
        }
    )
    sent = dialect("openai_responses", cache={"key": "k", "retention": "long"}).encode(request, "gpt-5.4")

    assert sent.path == "/responses"
    assert sent.body == {
        "model": "gpt-5.4",
        "stream": True,
        "store": False,
        "input": [
            {"type": "message", "role": "system", "content": "Be brief."},
            {
                "type": "message",
                "role": "user",
                "content": [
                    {"type": "input_text", "text": "See:"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
                    {
                        "type": "input_file",
                        "filename": "a.pdf",
                        "file_data": "data:application/pdf;base64,aGk=",
                    },
                    {"type": "input_file", "file_url": "https://h/a.pdf"},
                ],
            },
            encrypted(),
            {
                "type": "message",
                "id": "m_1",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": "I look", "annotations": []}],
            },
            {"type": "function_call", "call_id": "c", "name": "look", "arguments": "{}"},
            {
                "type": "function_call_output",
                "call_id": "c",
                "output": [
                    {"type": "input_text", "text": "ok"},
                    {"type": "input_image", "image_url": "data:image/png;base64,AAAA", "detail": "auto"},
                ],
            },
            {"type": "message", "role": "assistant", "content": "I"},
            {"type": "message", "role": "user", "content": "Go on"},
        ],
        "tools": [
            {"type": "function", "name": "look", "description": "looks", "parameters": schema, "strict": True},
            {"type": "function", "name": "wait", "parameters": {"type": "object", "properties": {}}, "strict": False},
        ],
        "tool_choice": {"type": "function", "name": "look"},
        "parallel_tool_calls": False,
        "service_tier": "flex",
        "text": {"format": {"type": "json_schema", "name": "n", "schema": schema, "strict": True}},
        "max_output_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.25,
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
        "reasoning": {"effort": "low"},
        "include": ["reasoning.encrypted_content"],
    }


LINK = {"file": {"mime_type": "application/pdf", "url": "https://h/a.pdf"}}


@pytest.mark.parametrize(
    ("unsendable", "path"),
    [
        (message("system", text("See:"), LINK), "messages[1].parts[1].file: "),
        (message("assistant", text("See:"), LINK), "messages[1].parts[1].file: "),
    ],
)
def test_a_file_without_a_place_is_refused_by_its_path(unsendable: dict[str, Any], path: str) -> None:
    """A file of anyone but users and tools."""
    user = message("user", text("Hi"))

    assert refused(user, unsendable, user).message.startswith(path)


def test_nothing_is_kept_at_the_provider() -> None:
    """`store` is off, metadata stays here, and without tools neither tools nor a choice are sent."""
    made = body(metadata={"user": "ann"})

    assert made["store"] is False
    assert not made.keys() & {"metadata", "tools", "tool_choice", "previous_response_id"}


def test_tools_are_not_strict() -> None:
    """Strictness, which is the API's default here, would refuse schemas that the contract allows."""
    assert [tool["strict"] for tool in body(tools=[LOOK])["tools"]] == [False]


def test_a_lax_schema_stays_lax() -> None:
    """`strict` of an output schema is the client's."""
    made = body(output_mode={"json_schema": {"name": "n", "schema": {"type": "object"}, "strict": False}})

    assert made["text"]["format"]["strict"] is False


def test_state_of_another_dialect_is_passed_over() -> None:
    """A turn that another provider signed goes out as text."""
    turn = message("assistant", text("Hello"), provider_state={"anthropic": [{"type": "thinking"}]})

    made = body(message("user", text("Hi")), turn, message("user", text("Go on")))

    assert made["input"][1] == {"type": "message", "role": "assistant", "content": "Hello"}
    assert "include" not in made


def test_foreign_state_is_refused() -> None:
    """What this dialect did not give is `invalid_request`, naming where it stands."""
    error = refused(message("assistant", text("Hello"), provider_state={"openai_responses": "x"}))

    assert error.kind == "invalid_request"
    assert "messages[0].provider_state.openai_responses" in error.message


def calls(*ids: str) -> list[dict[str, str]]:
    return [{"id": call_id, "name": "look", "arguments_json": "{}"} for call_id in ids]


def state(*pieces: Any) -> dict[str, Any]:
    return {"openai_responses": {"backend": "recorded", "model": "gpt-5.4", "pieces": list(pieces)}}


def test_empty_text_is_left_out() -> None:
    """The API refuses empty text: such parts are left out, and messages of nothing else; a result stays."""
    sent = body(
        message("system", text("")),
        message("user", text("Hi"), text("")),
        message("assistant", text("")),
        message("assistant", text(""), tool_calls=calls("a")),
        message("tool", text(""), tool_call_id="a", tool_name="look"),
    )["input"]

    assert sent == [
        {"type": "message", "role": "user", "content": "Hi"},
        {"type": "function_call", "call_id": "a", "name": "look", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "a", "output": ""},
    ]


def test_nothing_to_answer_is_refused() -> None:
    """A history of which nothing but system messages is left is `invalid_request`."""
    error = refused(message("system", text("s")), message("user", text("")))

    assert (error.kind, error.message) == ("invalid_request", NOTHING_TO_ANSWER)


def test_long_call_ids_are_mapped() -> None:
    """A `call_id` of more than 64 characters is another one, in call and result alike."""
    long = "c" * 391
    turn, answer = (
        message("assistant", tool_calls=calls(long)),
        message("tool", text("x"), tool_call_id=long, tool_name="look"),
    )
    _, call, output = body(message("user", text("Hi")), turn, answer)["input"]

    assert call["call_id"] == output["call_id"]
    assert len(call["call_id"]) <= 64


ENCRYPTED = {"opaque": {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"}}


@pytest.mark.parametrize(
    ("before", "sent_id"),
    [
        ([ENCRYPTED], "msg_1"),
        ([], None),
        ([{"opaque": {**ENCRYPTED["opaque"], "id": "r" * 416}}], None),
        ([{"opaque": {"type": "web_search_call", "id": "ws_1"}}], None),
    ],
    ids=["with its reasoning", "without", "with reasoning of a long id", "with another item"],
)
def test_an_item_id_goes_back_with_its_reasoning_only(before: list[Any], sent_id: str | None) -> None:
    """The API refuses an id whose reasoning is not there; the text and its phase go back all the same."""
    noted = {"text": 2, "extra": {"id": "msg_1", "phase": "final_answer"}}
    turn = message("assistant", text("Hi"), provider_state=state(*before, noted))

    item = body(message("user", text("Hi")), turn)["input"][-1]

    assert (item.get("id"), item["phase"], "Hi" in json.dumps(item["content"])) == (sent_id, "final_answer", True)


def test_no_item_id_is_too_long() -> None:
    """Ids above 64 characters, which some servers give, are left out; the items go back."""
    long = "x" * 416
    reasoning = {"opaque": {**ENCRYPTED["opaque"], "id": long}}
    turn = message(
        "assistant",
        text("Hi"),
        tool_calls=calls("a"),
        provider_state=state(
            ENCRYPTED, reasoning, {"text": 2, "extra": {"id": long}}, {"call": "a", "extra": {"id": long}}
        ),
    )

    sent = body(message("user", text("Hi")), turn)["input"]

    assert [(item["type"], item.get("id")) for item in sent[1:]] == [
        ("reasoning", "rs_1"),
        ("reasoning", None),
        ("message", None),
        ("function_call", None),
    ]


@pytest.mark.parametrize(
    ("provider_state", "asks"),
    [
        (state(ENCRYPTED, {"text": 2}), True),
        (state({"opaque": {"type": "reasoning", "id": "rs_1", "summary": [], "content": []}}, {"text": 2}), False),
        ({"openai_responses": {"backend": "other", "model": "gpt-5.4", "pieces": [ENCRYPTED, {"text": 2}]}}, False),
    ],
    ids=["encrypted", "in the open", "of another backend"],
)
def test_encrypted_reasoning_is_asked_for_where_there_is_some(provider_state: Any, asks: bool) -> None:
    """Only a history that shows that the model encrypts its reasoning has it asked for."""
    turn = message("assistant", text("Hi"), provider_state=provider_state)

    assert ("include" in body(message("user", text("Hi")), turn)) == asks


def test_encrypted_reasoning_of_any_turn_counts() -> None:
    """Also where a later turn has none."""
    turns = [message("assistant", text("Hi"), provider_state=state(ENCRYPTED, {"text": 2}))]
    turns += [message("user", text("Go on")), message("assistant", text("So")), message("user", text("And?"))]

    assert "include" in body(message("user", text("Hi")), *turns)


def test_a_cache_key_has_no_place_at_other_servers() -> None:
    """It is refused, naming the field and whose place it has not."""
    request = canonical({"type": "infer", "messages": [message("user", text("Hi"))], "cache": {"key": "k"}})

    with pytest.raises(GatewayError, match=r"cache\.key: .*openai_responses"):
        dialect("openai_responses", endpoint="http://127.0.0.1:8080/v1").encode(request, "m")


def test_an_id_of_64_characters_goes_back() -> None:
    """The API's limit is the longest that it takes."""
    reasoning = {"opaque": {**ENCRYPTED["opaque"], "id": "r" * 64}}
    turn = message("assistant", text("Hi"), provider_state=state(reasoning, {"text": 2, "extra": {"id": "m" * 64}}))

    assert [item.get("id") for item in body(message("user", text("Hi")), turn)["input"][1:]] == ["r" * 64, "m" * 64]


def test_reasoning_goes_back_with_its_id_once() -> None:
    """HTTP 400 "Duplicate item found with id rs_1": a state that stands on two messages has its ids on the first."""
    turn = message("assistant", text("Hi"), provider_state=state(ENCRYPTED, {"text": 2, "extra": {"id": "msg_1"}}))

    items = body(message("user", text("Hi")), turn, message("user", text("?")), turn)["input"]

    kinds = ["message", "reasoning", "message", "message", "reasoning", "message"]
    assert [item["type"] for item in items] == kinds
    ids = [item.get("id") for item in items]
    assert ids == [None, ENCRYPTED["opaque"]["id"], "msg_1", None, None, None]
    assert items[4]["encrypted_content"] == items[1]["encrypted_content"]


def test_a_call_id_that_is_used_again_is_mapped() -> None:
    """HTTP 400 "Duplicate function_call_output for call_id 'a'": the first stays, the second pair gets its own."""
    turn = [message("assistant", tool_calls=calls("a")), message("tool", text("x"), tool_call_id="a", tool_name="look")]

    first, answer, second, other = (
        item["call_id"] for item in body(message("user", text("Hi")), *turn, *turn)["input"][1:]
    )

    assert first == answer == "a"
    assert second == other != "a"


def test_reasoning_alone_is_left_out() -> None:
    """A turn whose text and calls are gone has nothing that its reasoning could stand before."""
    turn = message("assistant", text(""), provider_state=state(ENCRYPTED, {"text": 2}))

    assert len(body(message("user", text("Hi")), turn)["input"]) == 1


def test_reasoning_at_the_end_of_a_turn_goes_back_without_its_id() -> None:
    """An answer that was cut off, or calls that a client dropped: with its id it is refused."""
    turn = message(
        "assistant", text("Hi"), provider_state=state(ENCRYPTED, {"text": 2}, ENCRYPTED, {"call": "gone"}, ENCRYPTED)
    )

    items = body(message("user", text("Hi")), turn)["input"][1:]

    assert [item.get("id") for item in items] == ["rs_1", None, None, None]
    assert [item.get("encrypted_content") for item in items] == ["e", None, "e", "e"]


@pytest.mark.parametrize(("strict", "sent"), [(True, True), (False, False), (None, False)])
def test_strict_of_a_tool(strict: bool | None, sent: bool) -> None:
    """A tool's `strict` is the API's own; left out it would mean true there."""
    assert body(tools=[{**LOOK, "strict": strict}])["tools"][0]["strict"] is sent


# --- response ------------------------------------------------------------------------------------------------


MAX_BYTES = 1 << 20


def a_decoder(limit: int | None = None, max_bytes: int = MAX_BYTES) -> ResponsesDecoder:
    return ResponsesDecoder(notes("openai_responses", "gpt-5.4"), limit, max_bytes, annotated=False)


def feed(*payloads: Any, limit: int | None = None) -> tuple[ResponsesDecoder, list[BackendRawEvent]]:
    decoder, events = a_decoder(limit), list[BackendRawEvent]()
    for payload in payloads:
        decoder.feed(json.dumps(payload).encode(), events)
    return decoder, events


def event(kind: str, **fields: Any) -> dict[str, Any]:
    return {"type": f"response.{kind}", **fields}


def end(status: str = "completed", output_tokens: int | None = None, **response: Any) -> dict[str, Any]:
    usage = None if output_tokens is None else {"input_tokens": 1, "output_tokens": output_tokens}
    return event(status, response={"id": "resp_1", "status": status, "output": [], "usage": usage, **response})


def call_item(arguments: Any = "", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "id": "fc_1", "call_id": "call_1", "name": "look", "arguments": arguments, **more}


ADDED = event("output_item.added", output_index=0, item=call_item())


def done(arguments: Any, **more: Any) -> dict[str, Any]:
    return event("output_item.done", output_index=0, item=call_item(arguments, status="completed", **more))


@pytest.mark.parametrize(
    "silent",
    [
        event("created", response={"status": "in_progress"}),
        event("in_progress", response={"status": "in_progress"}),
        event("queued", response={"status": "queued"}),
        event("output_item.added", output_index=0, item={"type": "reasoning", "id": "rs_1", "summary": []}),
        event("output_text.delta", output_index=0, item_id="m", delta=""),
        event("output_item.done", output_index=0, item={"type": "message", "content": []}),
        event("something.new", data=[1]),
        {"type": "keepalive"},
    ],
    ids=lambda value: value["type"],
)
def test_events_without_content_are_silence(silent: dict[str, Any]) -> None:
    """Preambles, keepalives and events that we do not know give nothing, so that the idle timer runs on."""
    decoder, events = feed(silent)

    assert events == []
    assert not decoder.ended


def test_encrypted_reasoning_is_a_sign_of_work() -> None:
    """An item that no frame shows is still no silence."""
    item = {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "x"}

    assert feed(event("output_item.done", output_index=0, item=item))[1] == [Progress()]


@pytest.mark.parametrize(
    "malformed",
    [
        event("output_text.delta", output_index=0, delta=1),
        event("output_text.delta", output_index=0),
        event("refusal.delta", output_index=0, delta=None),
        event("reasoning_summary_text.delta", output_index=0, delta=[]),
        event("function_call_arguments.delta", output_index=0, delta="{}"),
        event("output_item.added", output_index=0, item=7),
        event("output_item.added", output_index=0, item=call_item(name=3)),
        event("output_item.done", output_index=0, item={"type": "message", "content": {}}),
        event("output_item.done", output_index=0, item={"type": "message", "content": [{"text": 1}]}),
        event("completed"),
        event("completed", response={"status": "completed", "output": {}}),
        event("incomplete", response={"output": [], "incomplete_details": {"reason": 5}}),
        {"no": "type"},
        {"type": 7},
        [],
        "text",
    ],
    ids=json.dumps,
)
def test_malformed_events_are_protocol_violations(malformed: Any) -> None:
    """An event that we know but that is not what it should be ends the answer."""
    with pytest.raises(GatewayError) as failure:
        feed(malformed)

    assert failure.value.kind == "protocol_violation"


def test_what_came_in_no_delta_comes_with_the_item() -> None:
    """A server that sends an item only as a whole, or the rest of it, loses nothing."""
    whole = {
        "type": "message",
        "content": [{"type": "output_text", "text": "Hel"}, {"type": "refusal", "refusal": "no"}],
    }
    decoder, events = feed(
        event("output_text.delta", output_index=1, delta="He"),
        event("output_item.done", output_index=1, item=whole),
        done('{"a":1}'),
        end(),
    )
    decoder.finish(events)

    assert "".join(e.delta for e in events if isinstance(e, OutputTextDelta)) == "Helno"
    assert [e.call.arguments_json for e in events if isinstance(e, ToolCallReady)] == ['{"a":1}']
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason != "stop"


def test_an_item_may_be_named_by_its_index_or_its_id() -> None:
    """Deltas that name their item by another of its names than before still find it."""
    by_index = event("function_call_arguments.delta", output_index=0, delta='{"a"')
    by_id = event("function_call_arguments.delta", item_id="fc_1", delta=":1}")
    decoder, events = feed(ADDED, by_index, by_id, done('{"a":1}'), end())
    decoder.finish(events)

    assert [e.call.arguments_json for e in events if isinstance(e, ToolCallReady)] == ['{"a":1}']


def test_two_versions_of_the_same_arguments_are_a_protocol_violation() -> None:
    """Where the finished call contradicts its deltas, nobody knows what the model meant."""
    with pytest.raises(GatewayError) as failure:
        feed(ADDED, event("function_call_arguments.delta", output_index=0, delta='{"a":1}'), done('{"b":1}'))

    assert failure.value.kind == "protocol_violation"


def test_the_same_item_does_not_end_twice() -> None:
    """An item that was ended and is ended again is a protocol violation, not a second item."""
    for begun, ended in (
        (ADDED, done("{}")),
        (MESSAGE, event("output_item.done", output_index=0, item=text_item("a"))),
    ):
        with pytest.raises(GatewayError) as failure:
            feed(begun, ended, ended)
        assert failure.value.kind == "protocol_violation"


def test_a_call_without_its_end_is_ended_by_the_answers() -> None:
    """`response.completed` proves every call of the answer complete; no arguments are an empty object."""
    decoder, events = feed(ADDED, end())
    decoder.finish(events)

    assert [e.call.arguments_json for e in events if isinstance(e, ToolCallReady)] == ["{}"]


@pytest.mark.parametrize("arguments", ['{"a":', ""])
def test_a_call_that_the_limit_cut_is_not_ready(arguments: str) -> None:
    """llama.cpp calls a cut call and its answer `completed`: where the limit is spent, that is a `length`."""
    decoder, events = feed(ADDED, done(arguments), end(output_tokens=20), limit=20)
    decoder.finish(events)

    assert not [e for e in events if isinstance(e, ToolCallReady)]
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "length"


@pytest.mark.parametrize(("limit", "spent"), [(None, 20), (21, 20), (20, None)])
def test_broken_arguments_of_a_finished_call_are_a_protocol_violation(limit: int | None, spent: int | None) -> None:
    """Where nothing says that the limit cut them, the backend has finished a call that is no JSON."""
    decoder, events = feed(ADDED, done('{"a":'), end(output_tokens=spent), limit=limit)

    with pytest.raises(GatewayError) as failure:
        decoder.finish(events)
    assert failure.value.kind == "protocol_violation"


def test_a_whole_call_of_a_cut_answer_is_ready() -> None:
    """A call that was finished before the limit is ready, and the answer still says `length`."""
    decoder, events = feed(
        ADDED, done('{"a":1}'), end("incomplete", incomplete_details={"reason": "max_output_tokens"})
    )
    decoder.finish(events)

    assert [e.call.arguments_json for e in events if isinstance(e, ToolCallReady)] == ['{"a":1}']
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("error", "kind", "retryable"),
    [
        ({"code": "server_error", "message": "x"}, "backend_transient", True),
        ({"code": "rate_limit_exceeded", "message": "x"}, "rate_limited", True),
        ({"code": "insufficient_quota", "message": "x"}, "rate_limited", False),
        ({"code": "invalid_prompt", "message": "x"}, "invalid_request", False),
        ({"code": "image_too_large", "message": "x"}, "invalid_request", False),
        ({"code": "vector_store_timeout", "message": "x"}, "backend_transient", True),
        ({"type": "server_error", "code": None, "message": "x"}, "backend_transient", True),
        ({"code": "a_code_of_the_future", "message": "x"}, "backend_transient", True),
        (None, "backend_transient", True),
    ],
    ids=json.dumps,
)
def test_a_failure_is_told_by_its_code(error: Any, kind: str, retryable: bool) -> None:
    """A failed response, and an error event in either of its shapes, give the same error."""
    shapes = [event("failed", response={"status": "failed", "error": error})]
    if error is not None:
        shapes += [{"type": "error", "error": error}, {"error": error}]
    if error is not None and "type" not in error:
        shapes.append({"type": "error", **error})
    for shape in shapes:
        with pytest.raises(GatewayError) as failure:
            feed(shape)
        assert (failure.value.kind, failure.value.retryable) == (kind, retryable), shape
    with pytest.raises(GatewayError) as failure:
        a_decoder(None).feed_whole({"object": "response", "status": "failed", "error": error}, [])
    assert failure.value.kind == kind


@pytest.mark.parametrize("status", ["queued", "in_progress", "of_the_future", None])
def test_an_unstreamed_answer_must_be_complete(status: str | None) -> None:
    """A response that the API has not completed is not taken for an answer."""
    with pytest.raises(GatewayError) as failure:
        a_decoder(None).feed_whole({"object": "response", "status": status, "output": []}, [])

    assert failure.value.kind == "protocol_violation"


def test_repeated_deltas_are_counted_with_their_item() -> None:
    """Deltas in one envelope, which are read the fast way, belong to the item under way, also where they name none."""
    deltas = [event("output_text.delta", delta=delta) for delta in ("One", " two", " three")]
    first: dict[str, Any] = {"type": "message", "id": "m1", "phase": "commentary", "content": []}
    second = first | {"id": "m2"}
    decoder, events = feed(
        event("output_item.added", item=first),
        *deltas,
        event("output_item.done", item=first),
        event("output_item.added", item=second),
        *deltas,
        *deltas,
        event("output_item.done", item=second),
        end(),
    )
    decoder.finish(events)

    assert "".join(e.delta for e in events if isinstance(e, OutputTextDelta)) == "One two three" * 3
    assert isinstance(events[-1], Completed)
    assert events[-1].backend_metadata["provider_state"] == {
        "openai_responses": {
            "backend": "recorded",
            "model": "gpt-5.4",
            "pieces": [
                {"text": 13, "extra": {"phase": "commentary"}},
                {"text": 26, "extra": {"phase": "commentary"}},
            ],
        }
    }


def test_the_decoder_knows_what_was_asked() -> None:
    """The limit, whether annotations are wanted, and whose the state is."""
    cited = text_item("Hi", id="m")
    cited["content"][0]["annotations"] = [{"type": "url_citation", "url": "u"}]
    for annotated in (True, False):
        frame: Any = {"limits": {"max_output_tokens": 5}, "include_annotations": annotated}
        request = canonical({"type": "infer", "messages": [message("user", text("Hi"))], **frame})
        decoder, events = RESPONSES.decoder(request, "gpt-5.4"), list[BackendRawEvent]()
        for payload in (ADDED, end(output_tokens=5, output=[encrypted(), cited, call_item('{"a":')])):
            decoder.feed(json.dumps(payload).encode(), events)
        decoder.finish(events)

        assert [e.url for e in events if isinstance(e, Annotation)] == (["u"] if annotated else [])
        assert isinstance(events[-1], Completed)
        assert events[-1].finish_reason == "length"
        assert events[-1].backend_metadata["provider_state"] == state(
            {"opaque": encrypted()},
            {"text": 2, "extra": {"id": "m"}},
            {"call": "call_1", "extra": {"id": "fc_1"}},
        )


def test_done_is_no_end_mark() -> None:
    """`[DONE]`, which some servers add, does not make a cut answer whole."""
    decoder, events = feed(event("output_text.delta", output_index=0, delta="Hi"))
    decoder.done_mark()

    with pytest.raises(GatewayError) as failure:
        decoder.finish(events)
    assert (failure.value.kind, failure.value.retryable) == ("backend_transient", True)
    assert failure.value.message == "the backend's answer stopped without response.completed: it was cut off"


# --- whole items fill what deltas left out -------------------------------------------------------------------


def finished(*payloads: Any, limit: int | None = None) -> list[BackendRawEvent]:
    decoder, events = feed(*payloads, limit=limit)
    decoder.finish(events)
    return events


def said(events: list[BackendRawEvent]) -> str:
    return "".join(e.delta for e in events if isinstance(e, OutputTextDelta))


def reasoned(events: list[BackendRawEvent]) -> str:
    return "".join(e.delta for e in events if isinstance(e, ReasoningDelta))


def ready(events: list[BackendRawEvent]) -> list[tuple[str, str, str]]:
    return [(e.call.id, e.call.name, e.call.arguments_json) for e in events if isinstance(e, ToolCallReady)]


def metadata(events: list[BackendRawEvent]) -> dict[str, Any]:
    assert isinstance(events[-1], Completed)
    return events[-1].backend_metadata


def pieces_of(events: list[BackendRawEvent]) -> Any:
    return metadata(events)["provider_state"]["openai_responses"]["pieces"]


def text_item(*texts: str, **more: Any) -> dict[str, Any]:
    return {"type": "message", "content": [{"type": "output_text", "text": value} for value in texts], **more}


CITY = '{"city":"A"}'
ARGUMENTS_DONE = event("function_call_arguments.done", output_index=0, item_id="fc_1", arguments=CITY)


@pytest.mark.parametrize(
    "payloads",
    [
        [ADDED, ARGUMENTS_DONE, done(""), end()],
        [ADDED, ARGUMENTS_DONE, end()],
        [ADDED, done(CITY), end()],
        [ADDED, done(""), end(output=[call_item(CITY)])],
        [ADDED, end(output=[call_item(CITY, status="completed")])],
        [done(CITY), end(output=[call_item(CITY)])],
        [end(output=[call_item(CITY)])],
        [event("output_item.added", output_index=0, item=call_item(CITY)), done(""), end()],
        [event("output_item.added", output_index=0, item=call_item("{}")), ARGUMENTS_DONE, done(""), end()],
        [ADDED, done({"city": "A"}), end(output=[call_item({"city": "A"})])],
        [ADDED, event("function_call_arguments.delta", output_index=0, delta=CITY[:5]), done(CITY), end()],
        [ADDED, event("function_call_arguments.delta", output_index=0, delta=CITY), done(' {"city": "A"}'), end()],
    ],
)
def test_a_call_has_the_arguments_that_the_backend_gave_anywhere(payloads: list[Any]) -> None:
    """Whichever event has a call's arguments, the call is ready once, and with them."""
    [(call_id, name, arguments)] = ready(finished(*payloads))

    assert (call_id, name) == ("call_1", "look")
    assert json.loads(arguments) == {"city": "A"}


@pytest.mark.parametrize(
    "payloads",
    [
        [ADDED, ARGUMENTS_DONE, done('{"city":"B"}')],
        [ADDED, ARGUMENTS_DONE, end(output=[call_item("{}")])],
        [ADDED, done(CITY), end(output=[call_item('{"city":"B"}')])],
        [ADDED, done(CITY), end(output=[call_item(CITY, name="other")])],
        [ADDED, ARGUMENTS_DONE, ARGUMENTS_DONE | {"arguments": '{"city":"AB"}'}],
        [ARGUMENTS_DONE],
        [event("output_item.added", output_index=0, item=text_item(id="fc_1")), ARGUMENTS_DONE],
        [
            event("output_item.added", output_index=0, item=text_item(id="fc_1")),
            event("function_call_arguments.delta", output_index=0, item_id="fc_1", delta="{}"),
        ],
        [ADDED, done(7)],
    ],
)
def test_contradicting_arguments_are_a_protocol_violation(payloads: list[Any]) -> None:
    """Of two versions of a call, or of arguments of no call, nothing is guessed."""
    with pytest.raises(GatewayError) as failure:
        feed(*payloads)

    assert failure.value.kind == "protocol_violation"


def test_no_call_is_ready_where_one_cannot_be_completed() -> None:
    """The end mark makes all open calls ready or, where one is broken, none."""
    second = event("output_item.added", output_index=1, item=call_item("", id="fc_2", call_id="call_2"))
    broken = event("function_call_arguments.delta", output_index=1, delta='{"a"')
    decoder, events = feed(ADDED, ARGUMENTS_DONE, second, broken, end())

    with pytest.raises(GatewayError) as failure:
        decoder.finish(events)
    assert failure.value.kind == "protocol_violation"
    assert not ready(events)


def test_an_index_used_again_after_its_item_ended_begins_another_call() -> None:
    """A server that says `output_index` 0 for every item, and sends only whole ones, loses none. A call is another one
    where its `call_id` is, whatever the id of its item.
    """
    for item in ({}, {"id": "fc_2"}):
        events = finished(done(CITY), done("{}", call_id="call_2", **item), end())
        assert [r[0] for r in ready(events)] == ["call_1", "call_2"]
    for again in ([done(CITY), done(CITY, id="fc_2")], [done(CITY, call_id=None)] * 2):
        with pytest.raises(GatewayError, match="twice"):
            feed(*again)


def test_an_index_used_again_for_an_item_of_another_id_begins_another_item() -> None:
    """As for calls; the whole output, which has them once more, adds nothing, and an item that ended stays so."""
    for make in (text_item, reasoning_item):
        items = [make(word, id=word) for word in ("One", "Two")]
        ended = [event("output_item.done", output_index=0, item=item) for item in items]
        events = finished(*ended, end(output=items))

        assert said(events) + reasoned(events).replace("\n\n", "") == "OneTwo"
        with pytest.raises(GatewayError, match="twice"):
            feed(*ended, ended[0])


def test_an_item_without_a_known_name_is_the_one_under_way() -> None:
    """Where a server gives no index and changes the ids, a message that ends is the one that began."""
    begun = event("output_item.added", item={"type": "message", "id": "m1"})
    delta = event("output_text.delta", item_id="m2", delta="One")
    ended = event("output_item.done", item=text_item("One.", id="m3"))

    assert said(finished(begun, delta, ended, end(output=[text_item("One.", id="m4")]))) == "One."


@pytest.mark.parametrize(("indexes", "ids"), [((0, 1), ("m", "m")), ((0, 0), ("m1", "m2")), ((0, 0), ("m", "m"))])
def test_items_are_told_apart_by_what_is_their_own(indexes: Any, ids: Any) -> None:
    """Some servers give every item the same id, others the same index: the other name holds, or else the order."""
    payloads: list[Any] = []
    for index, item_id, word in zip(indexes, ids, ("One", "Two"), strict=True):
        item = text_item(word, id=item_id)
        payloads.append(event("output_item.added", output_index=index, item=item | {"content": []}))
        payloads.append(event("output_text.delta", output_index=index, item_id=item_id, delta=word[:2]))
        payloads.append(event("output_item.done", output_index=index, item=item))
    whole = [text_item("One", id=ids[0]), text_item("Two!", id=ids[1])]

    assert said(finished(*payloads, end(output=whole))) == "OneTwo!"


def test_a_call_whose_id_changes_at_its_index_is_one_call() -> None:
    """The index holds; the id that the client has seen first stays."""
    renamed = call_item(CITY, call_id="call_x", id="fc_x")
    events = finished(
        ADDED, event("output_item.done", output_index=0, item=renamed), end(output=[renamed | {"id": "fc_y"}])
    )

    assert ready(events) == [("call_1", "look", CITY)]


MESSAGE = event("output_item.added", output_index=0, item={"type": "message", "id": "m", "content": []})


def spoken(delta: str, **more: Any) -> dict[str, Any]:
    return event("output_text.delta", output_index=0, content_index=0, delta=delta) | more


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ([MESSAGE, end(output=[text_item("Hello")])], "Hello"),
        ([end(output=[text_item("Hello")])], "Hello"),
        ([end(output=[{"type": "message", "content": "Hello"}])], "Hello"),
        ([MESSAGE, spoken("Hel"), end(output=[text_item("Hello", " you")])], "Hello you"),
        ([spoken("Hello."), end(output=[text_item("Hello world")])], "Hello."),
        ([spoken("Hello"), end(output=[text_item("Hell")])], "Hello"),
        ([spoken("Hello"), end(output=[])], "Hello"),
        (
            [spoken("Hello"), event("output_text.done", output_index=0, content_index=0, text="Hello you"), end()],
            "Hello you",
        ),
        (
            [
                event("output_text.done", output_index=0, text="Hello"),
                event("output_text.done", output_index=0, text="Hello"),
                end(output=[text_item("Hello")]),
            ],
            "Hello",
        ),
        ([event("content_part.done", output_index=0, part={"type": "output_text", "text": "Hello"}), end()], "Hello"),
        (
            [
                spoken("A"),
                spoken("B", content_index=1),
                event("output_text.done", output_index=0, content_index=0, text="Ab"),
                end(output=[text_item("Ab", "B")]),
            ],
            "AB",
        ),
        ([spoken("A"), spoken("B", content_index=1), end(output=[text_item("A", "B", "C")])], "ABC"),
        (
            [
                spoken("A"),
                event("output_item.done", output_index=0, item=text_item("AB")),
                end(output=[text_item("ABC")]),
            ],
            "ABC",
        ),
        (
            [spoken("A"), event("output_item.done", output_index=0, item=text_item()), end(output=[text_item("AB")])],
            "AB",
        ),
    ],
)
def test_text_that_came_in_no_delta_comes_with_the_whole(payloads: list[Any], expected: str) -> None:
    """The rest of a text is delivered where the whole continues what was said; otherwise that stands."""
    assert said(finished(*payloads)) == expected


def test_the_rest_of_a_text_is_one_delta() -> None:
    """However many parts of a message came in no delta."""
    events = finished(spoken("A"), end(output=[text_item("AB", "C", "D")]))

    assert [e.delta for e in events if isinstance(e, OutputTextDelta)] == ["A", "BCD"]


def test_a_refusal_as_a_whole_is_one() -> None:
    """A refusal that came in no delta is told by the finish reason, wherever it stands."""
    part = {"type": "refusal", "refusal": "No."}
    for payloads in (
        [event("refusal.done", output_index=0, refusal="No."), end()],
        [event("content_part.done", output_index=0, part=part), end()],
        [event("output_item.done", output_index=0, item={"type": "message", "content": [part]}), end()],
        [event("refusal.delta", output_index=0, delta="No."), end()],
        [
            event("refusal.done", output_index=0, refusal="No."),
            event("output_text.done", output_index=0, content_index=1, text=""),
            end(),
        ],
    ):
        events = finished(*payloads)
        assert said(events) == "No."
        assert isinstance(events[-1], Completed)
        assert events[-1].finish_reason == OtherFinishReason("refusal")


def summary(delta: str, index: int, **more: Any) -> dict[str, Any]:
    return event("reasoning_summary_text.delta", output_index=0, summary_index=index, delta=delta) | more


def reasoning_item(*parts: str, **more: Any) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [{"type": "summary_text", "text": part} for part in parts], **more}


@pytest.mark.parametrize(
    "payloads",
    [
        [summary("**One**", 0), summary("**Tw", 1), summary("o**", 1), end()],
        [summary("**One**", 0), summary("**Two**", 0, output_index=1), end()],
        [summary("**One**", 0), end(output=[reasoning_item("**One**", "**Two**")])],
        [summary("**On", 0), end(output=[reasoning_item("**One**", "**Two**")])],
        [end(output=[reasoning_item("**One**", "**Two**")])],
        [end(output=[reasoning_item("**One**", id="a"), reasoning_item("**Two**", id="b")])],
        [
            event("reasoning_summary_text.done", output_index=0, summary_index=0, text="**One**"),
            event("reasoning_summary_part.done", output_index=0, summary_index=1, part={"text": "**Two**"}),
            end(output=[reasoning_item("**One**", "**Two**")]),
        ],
        [
            event("reasoning_text.delta", output_index=0, content_index=0, delta="**One**"),
            event("reasoning_text.done", output_index=0, content_index=1, text="**Two**"),
            event(
                "content_part.done", output_index=0, content_index=1, part={"type": "reasoning_text", "text": "**Two**"}
            ),
            end(),
        ],
    ],
)
def test_parts_and_items_of_reasoning_are_separated_by_a_blank_line(payloads: list[Any]) -> None:
    """Whether they come in deltas, in parts, or only with the whole output."""
    assert reasoned(finished(*payloads)) == "**One**\n\n**Two**"


@pytest.mark.parametrize(
    ("kind", "index", "delta"),
    [
        ("reasoning", "content_index", "hm"),
        ("reasoning_summary", "summary_index", "hm"),
        ("reasoning_summary", "summary_index", {"text": "hm"}),
    ],
)
def test_reasoning_has_other_names_for_its_events(kind: str, index: str, delta: Any) -> None:
    """Those of Open Responses, and those of the API's first version, whose deltas were objects."""
    place = {"output_index": 0, "item_id": "rs_1", index: 0}
    group = "summary" if index == "summary_index" else "content"
    whole = {"type": "reasoning", "id": "rs_1", "summary": [], group: [{"text": "hm, hm!"}]}
    payloads = [event(f"{kind}.delta", delta=delta, **place), event(f"{kind}.done", text="hm, hm!", **place)]

    assert feed(payloads[0])[1] == [ReasoningDelta("hm")]
    assert reasoned(finished(*payloads, end(output=[whole]))) == "hm, hm!"


@pytest.mark.parametrize("delta", [None, 1, "", {}, {"text": 1}, []])
def test_a_delta_of_reasoning_that_has_no_text_says_nothing(delta: Any) -> None:
    """By the other names of such events: before they were known they cost no answer."""
    assert feed(event("reasoning.delta", output_index=0, delta=delta))[1] == []


@pytest.mark.parametrize(
    "piece",
    [
        event("code_interpreter_call_code.delta", output_index=0, item_id="x", delta="print("),
        event("custom_tool_call_input.delta", output_index=0, item_id="x", delta="{"),
        event("image_generation_call.partial_image", output_index=0, item_id="x", partial_image_b64="iVBO"),
        event("mcp_call_arguments.delta", output_index=0, item_id="x", delta="{"),
        event("shell_call_command.delta", output_index=0, item_id="x", delta="ls"),
        event("shell_call_output_content.delta", output_index=0, item_id="x", delta={"stdout": "a"}),
    ],
    ids=lambda value: value["type"],
)
def test_a_piece_of_an_item_that_no_frame_carries_is_a_sign_of_work(piece: dict[str, Any]) -> None:
    """A program that the provider's tool is given may take longer than the idle timer."""
    assert feed(piece)[1] == [Progress()]
    assert feed({**piece, "delta": "", "partial_image_b64": ""})[1] == []


def test_sound_is_counted_and_a_sign_of_work() -> None:
    """It belongs to no item."""
    events = finished(event("audio.delta", delta="UklG"), event("audio.transcript.delta", delta="Hi"), end())

    assert events[:2] == [Progress(), Progress()]
    assert isinstance(events[-1], Completed)
    assert events[-1].backend_metadata["not_carried"] == {"audio": 1}


def test_a_whole_item_that_no_event_began_is_matched_by_its_turn() -> None:
    """llama.cpp gives no index: items of the whole output are matched by their ids, or else in their order."""
    events = finished(
        event("output_item.added", item={"type": "message", "id": "m1"}),
        event("output_text.delta", item_id="m1", delta="One"),
        event("output_item.added", item=call_item(id="fc_a", call_id="call_a")),
        event("output_item.added", item=call_item(id="fc_b", call_id="call_b", name="other")),
        end(
            output=[
                text_item("One.", id="changed"),
                call_item('{"b":1}', id="y", call_id="", name="other"),
                call_item('{"a":1}', id="x", call_id=""),
                text_item(" Two.", id="new"),
            ]
        ),
    )

    assert said(events) == "One. Two."
    assert sorted(ready(events)) == [("call_a", "look", '{"a":1}'), ("call_b", "other", '{"b":1}')]


def test_an_unstreamed_answer_has_one_delta_of_text() -> None:
    """However many messages it is made of: reasoning first, then text, then calls."""
    decoder, events = a_decoder(), list[BackendRawEvent]()
    output: list[JsonValue] = [text_item("One."), reasoning_item("Hm"), call_item("{}"), text_item(" Two.", id="m2")]
    decoder.feed_whole({"status": "completed", "output": output}, events)
    decoder.finish(events)

    kinds = [type(e) for e in events if not isinstance(e, Progress)]
    assert kinds == [ReasoningDelta, OutputTextDelta, ToolCallDelta, ToolCallDelta, ToolCallReady, Completed]
    assert said(events) == "One. Two."


def test_the_last_event_of_a_stream_may_stand_for_an_unstreamed_answer() -> None:
    """Some servers send it in place of the response."""
    decoder, events = a_decoder(), list[BackendRawEvent]()
    decoder.feed_whole(end(output=[text_item("Hi")]), events)
    decoder.finish(events)

    assert said(events) == "Hi"


@pytest.mark.parametrize("status", [None, "", "null", "None"])
def test_a_whole_body_without_a_status_is_completed_where_it_has_content(status: str | None) -> None:
    """HTTP proves that it is whole. One that says that it is not finished is none; nor is reasoning an answer."""
    decoder, events = a_decoder(), list[BackendRawEvent]()
    decoder.feed_whole({"status": status, "output": [text_item("Hi"), call_item("{}")]}, events)
    decoder.finish(events)

    assert isinstance(events[-1], Completed)
    assert (said(events), events[-1].finish_reason) == ("Hi", "tool_calls")
    bodies: list[JsonObject] = [
        {"status": "in_progress", "output": [text_item("Hi")]},
        {"status": "queued", "output": [text_item("Hi")]},
        {"status": status, "output": [reasoning_item("Hm")]},
    ]
    for unfinished in bodies:
        with pytest.raises(GatewayError) as failure:
            a_decoder().feed_whole(unfinished, [])
        assert failure.value.kind == "protocol_violation"


_EVENTS = st.sets(st.sampled_from(["added", "deltas", "some deltas", "part done", "item done"]))


@given(
    st.lists(st.tuples(st.sampled_from(["message", "call", "reasoning"]), _EVENTS), min_size=1, max_size=5),
    st.booleans(),
)
def test_whatever_a_stream_leaves_out_the_whole_output_brings(items: list[tuple[str, set[str]]], indexed: bool) -> None:
    """Each item may come in deltas, in part of them, as a whole item, or in no event at all: in the end every text and
    every call is there once, with indexes or with ids alone, and what goes back is in the output's order."""
    output: list[dict[str, Any]] = []
    payloads: list[dict[str, Any]] = []
    for index, (kind, events) in enumerate(items):
        words = f'{{"n":{index}}}'
        ids = {"id": f"id{index}", "status": "completed"}
        if kind == "message":
            own = text_item(words, **ids)
        elif kind == "call":
            own = call_item(words, call_id=f"c{index}", **ids)
        else:
            own = reasoning_item(words, encrypted_content="e", **ids)
        output.append(own)
        at = {"output_index": index, "item_id": f"id{index}"} if indexed else {"item_id": f"id{index}"}
        place = {"output_index": index} if indexed else {}
        name, done_name, key = {
            "message": ("output_text.delta", "output_text.done", "text"),
            "call": ("function_call_arguments.delta", "function_call_arguments.done", "arguments"),
            "reasoning": ("reasoning_summary_text.delta", "reasoning_summary_text.done", "text"),
        }[kind]
        if "added" in events or kind == "call" or not indexed:  # without an index only this tells items apart
            begun = {k: v for k, v in own.items() if k not in ("content", "summary", "encrypted_content", "status")}
            payloads.append(
                event("output_item.added", item=begun | ({"arguments": ""} if kind == "call" else {}), **place)
            )
        if events & {"deltas", "some deltas"}:
            letters = words if "deltas" in events else words[:3]
            payloads += (event(name, delta=letter, **at) for letter in letters)
        if "part done" in events:
            payloads.append(event(done_name, **{key: words}, **at))
        if "item done" in events:
            payloads.append(event("output_item.done", item=own, **place))
    events_ = finished(*payloads, end(output=output))

    texts = {kind: [f'{{"n":{n}}}' for n, (k, _) in enumerate(items) if k == kind] for kind in ("message", "call")}
    assert sorted(texts["call"]) == sorted(arguments for _, _, arguments in ready(events_))
    assert len(said(events_)) == sum(map(len, texts["message"]))
    assert all(said(events_).count(f'"n":{n}') <= 1 for n in range(len(items)))
    if any(kind == "reasoning" for kind, _ in items):
        places = {"opaque": "reasoning", "text": "message", "call": "call"}
        noted = [places[next(iter(piece))] for piece in pieces_of(events_)]
        assert noted.count("reasoning") == sum(kind == "reasoning" for kind, _ in items)
        assert noted.count("call") == len(texts["call"])
        assert sum(piece.get("text", 0) for piece in pieces_of(events_)) == len(said(events_))


# --- which item is which -------------------------------------------------------------------------------------


def unplaced(kind: str, delta: str, **more: Any) -> dict[str, Any]:
    return event(f"{kind}.delta", delta=delta, **more)


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ([unplaced("reasoning_text", "Hm"), unplaced("output_text", "Hi"), end()], ("Hm", "Hi")),
        ([unplaced("output_text", "Hi"), unplaced("reasoning_text", "Hm"), end()], ("Hm", "Hi")),
        (
            [
                unplaced("reasoning_text", "One", item_id="a"),
                event("output_item.done", item={"type": "reasoning", "id": "a"}),
                unplaced("reasoning_text", "Two", item_id="b"),
                end(),
            ],
            ("One\n\nTwo", ""),
        ),
        (
            [
                unplaced("reasoning_text", "One"),
                event("output_item.done", item={"type": "reasoning"}),
                unplaced("reasoning_text", "Two"),
                end(),
            ],
            ("One\n\nTwo", ""),
        ),
        (
            [
                summary("One", 0),
                event("reasoning_summary_part.done", output_index=0, summary_index=1, part={"text": "Two"}),
                end(),
            ],
            ("One\n\nTwo", ""),
        ),
        (
            [
                event("reasoning_text.delta", output_index=0, content_index=0, delta="One"),
                event(
                    "content_part.done", output_index=0, content_index=1, part={"type": "reasoning_text", "text": "Two"}
                ),
                end(),
            ],
            ("One\n\nTwo", ""),
        ),
    ],
)
def test_a_text_without_a_place_belongs_to_the_item_under_way_of_its_kind(payloads: list[Any], expected: Any) -> None:
    """Reasoning is never said as text nor text as reasoning, and an item that has ended gets nothing more."""
    events = finished(*payloads)

    assert (reasoned(events), said(events)) == expected


@pytest.mark.parametrize("none", [None, "0", 0.0, True, [], {}])
def test_an_index_that_is_no_number_is_none(none: Any) -> None:
    """And the text is the answer's all the same."""
    begun = event("output_item.added", output_index=none, item={"type": "message", "id": "m"})
    events = finished(begun, spoken("Hi", output_index=none, content_index=none), end(output=[text_item("Hi!")]))

    assert said(events) == "Hi!"


def test_messages_that_nothing_names_are_told_apart_by_their_ends() -> None:
    """No event that begins them, no index and no id: what comes after the end of one is the next one's."""
    events = finished(
        unplaced("output_text", "On"),
        unplaced("output_text", "e."),
        event("output_item.done", item=text_item("One.", phase="commentary")),
        unplaced("output_text", "Tw"),
        unplaced("output_text", "o."),
        event("output_item.done", item=text_item("Two.", phase="final_answer")),
        end(),
    )

    assert said(events) == "One.Two."
    assert pieces_of(events) == [
        {"text": 4, "extra": {"phase": "commentary"}},
        {"text": 4, "extra": {"phase": "final_answer"}},
    ]


def test_a_call_is_never_taken_for_the_one_under_way() -> None:
    """A call that ends under another id than the open one's is a second call."""
    events = finished(
        event("output_item.added", item=call_item()),
        event("output_item.done", item=call_item(CITY, id="fc_2", call_id="call_2", status="completed")),
        end(),
    )

    assert ready(events) == [("call_2", "look", CITY), ("call_1", "look", "{}")]


def named(name: str, value: str) -> list[dict[str, Any]]:
    """A message that is known by its id only."""
    return [
        event("output_item.added", item={"type": "message", "id": name}),
        unplaced("output_text", value, item_id=name),
        event("output_item.done", item=text_item(value, id=name)),
    ]


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        # by their ids, in whichever order
        ([*named("a", "One"), *named("b", "Two"), end(output=[text_item("Two!", id="b")])], "OneTwo!"),
        # an id that two of them have is the first one's
        ([*named("a", "One"), end(output=[text_item("One", id="a"), text_item("Two", id="a")])], "OneTwo"),
        # one that has been found is not found again by its turn
        ([*named("a", "One"), end(output=[text_item("One", id="a"), text_item("Two", id="b")])], "OneTwo"),
        # one with an index of its own is not found by its turn
        ([spoken("One", output_index=1), end(output=[text_item("Two")])], "OneTwo"),
        # an id that a delta gave
        (
            [
                unplaced("output_text", "One", item_id="a"),
                event("output_item.added", item={"type": "reasoning", "id": "r"}),
                unplaced("output_text", " more", item_id="a"),
                end(output=[text_item("One more!", id="a")]),
            ],
            "One more!",
        ),
    ],
)
def test_an_item_of_the_whole_output_is_the_one_that_has_its_name(payloads: list[Any], expected: str) -> None:
    """Its id first, then its index, then its turn."""
    assert said(finished(*payloads)) == expected


def test_a_call_of_the_whole_output_is_found_by_its_call_id() -> None:
    """In whichever order the output has the calls, and without ids of items."""
    first, second = (call_item(call_id=name) for name in ("call_a", "call_b"))
    for item in (first, second):
        del item["id"]
    events = finished(
        event("output_item.added", item=first),
        event("output_item.added", item=second),
        end(output=[second | {"arguments": '{"b":1}'}, first | {"arguments": '{"a":1}'}]),
    )

    assert sorted(ready(events)) == [("call_a", "look", '{"a":1}'), ("call_b", "look", '{"b":1}')]


def test_an_item_that_no_frame_carries_is_found_by_its_turn() -> None:
    """Whatever its name is: only calls are told apart by it."""
    begun = event("output_item.added", item={"type": "mcp_call", "id": "a", "name": "x"})

    assert metadata(finished(begun, end(output=[{"type": "mcp_call", "id": "b", "name": "x"}])))["not_carried"] == {
        "mcp_call": 1
    }


def test_an_item_that_ends_is_the_one_of_its_id() -> None:
    """Not the last one, where both are open and neither has an index."""
    begun = [event("output_item.added", item={"type": "message", "id": name}) for name in "ab"]
    deltas = [unplaced("output_text", name, item_id=name) for name in "ab"]
    ended = [event("output_item.done", item=text_item(name + "!", id=name)) for name in "ba"]

    assert said(finished(*begun, *deltas, *ended, end())) == "ab!!"


def test_a_call_that_ends_is_the_one_of_its_call_id() -> None:
    """Where it has no other name."""
    item = call_item()
    del item["id"]
    ended = item | {"arguments": CITY, "status": "completed"}
    events = finished(event("output_item.added", item=item), event("output_item.done", item=ended), end())

    assert ready(events) == [("call_1", "look", CITY)]


def test_a_call_that_its_item_calls_unfinished_is_not_ready() -> None:
    """Although its arguments are whole: the limit may have cut it there."""
    cut = event("output_item.done", output_index=0, item=call_item(CITY, status="incomplete"))

    assert ready(finished(ADDED, cut, end("incomplete"))) == []


def test_deltas_with_a_number_of_their_own_are_one_text() -> None:
    """As OpenAI's have it; what the whole text adds to them comes at its end."""
    deltas = [spoken(word, sequence_number=number) for number, word in enumerate(("One", " two", " three"))]

    assert said(finished(*deltas, end(output=[text_item("One two three!")]))) == "One two three!"


def test_deltas_go_on_after_the_rest_of_their_text() -> None:
    """In the envelope that was known before."""
    rest = event("output_text.done", output_index=0, content_index=0, text="aaab")

    assert said(finished(*[spoken("a")] * 3, rest, *[spoken("c")] * 3, end())) == "aaabccc"


def test_reasoning_of_two_items_in_turns_is_told_apart_by_their_ids() -> None:
    """Where nothing else names them."""
    begun = [event("output_item.added", item={"type": "reasoning", "id": name}) for name in "ab"]
    deltas = [unplaced("reasoning_text", word, item_id=name) for name, word in (("a", "One"), ("b", "Two"))]

    assert reasoned(finished(*begun, *deltas, end())) == "One\n\nTwo"


def test_white_space_before_arguments_is_theirs() -> None:
    """No sign that they are encrypted."""
    deltas = [event("function_call_arguments.delta", output_index=0, delta=delta) for delta in ("", " ", " {", "}")]

    assert ready(finished(ADDED, *deltas, end())) == [("call_1", "look", "  {}")]
    assert ready(finished(ADDED, deltas[2], deltas[3], end())) == [("call_1", "look", " {}")]


def test_the_end_says_which_answer_it_was_and_what_it_cost() -> None:
    """Id and model are the answer's metadata, where they are texts; the tier belongs to the usage."""
    usage = {"input_tokens": 3, "output_tokens": 2}
    events = finished(spoken("Hi"), end(id="r", model="m-1", service_tier="flex", usage=usage))
    (found,) = [e.usage for e in events if isinstance(e, Usage)]

    assert (found.input_tokens, found.output_tokens, found.service_tier) == (3, 2, "flex")
    assert metadata(events) == {"response_id": "r", "model": "m-1"}
    assert metadata(finished(spoken("Hi"), end(id=5, model=""))) == {}


@pytest.mark.parametrize(
    ("kind", "status", "reason"),
    [
        ("completed", "incomplete", "length"),
        ("done", "incomplete", "length"),
        ("incomplete", "completed", "stop"),
        ("completed", "of_the_future", "stop"),
        ("completed", "in_progress", "stop"),
        ("completed", 5, "stop"),
        ("incomplete", None, "length"),
    ],
)
def test_how_an_answer_ended_is_its_own_status(kind: str, status: Any, reason: str) -> None:
    """The last event's name says it where the status is missing or no end."""
    details = {"reason": "max_output_tokens"}
    response = {"status": status, "output": [text_item("Hi")], "incomplete_details": details}
    events = finished(event(kind, response=response))

    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == reason


@pytest.mark.parametrize(
    ("whole", "expected"),
    [
        (text_item("Ab", "BC"), "AB"),
        (text_item("X", "BC"), "AB"),
        (text_item("A", "BC"), "ABC"),
        (text_item("A", "B", "C", status="incomplete"), "ABC"),
    ],
)
def test_only_the_last_part_that_was_said_goes_on(whole: dict[str, Any], expected: str) -> None:
    """A rest of an earlier part would stand in the wrong place."""
    assert said(finished(spoken("A"), spoken("B", content_index=1), end(output=[whole]))) == expected


@pytest.mark.parametrize(
    "payloads",
    [
        [
            event(
                "output_item.done",
                output_index=0,
                item={"type": "message", "content": [{"type": "refusal", "refusal": "No."}, {"text": "But"}]},
            ),
            end(),
        ],
        [
            event("output_item.done", output_index=0, item=text_item("No.")),
            end(output=[text_item("No.", "Bu")]),
            end(output=[text_item("No.", "But")]),
        ],
    ],
)
def test_no_part_of_a_message_is_passed_over(payloads: list[Any]) -> None:
    """Behind a refusal, and where a message that has ended comes once more."""
    assert said(finished(*payloads)) == "No.But"


@pytest.mark.parametrize(
    ("answer", "status", "limit", "is_ready"),
    [
        ("incomplete", "completed", None, True),
        ("incomplete", "incomplete", None, False),
        ("incomplete", None, None, False),
        ("completed", "completed", 5, True),
        ("completed", "incomplete", 5, False),
        ("completed", None, 5, True),
    ],
)
def test_a_call_of_the_whole_output_is_ready_where_its_status_says_so(
    answer: str, status: str | None, limit: int | None, is_ready: bool
) -> None:
    """Or where it has none and the answer's says so."""
    events = finished(end(answer, output_tokens=5, output=[call_item(CITY, status=status)]), limit=limit)

    assert ready(events) == ([("call_1", "look", CITY)] if is_ready else [])


def test_arguments_that_came_only_with_a_calls_beginning_are_its_own() -> None:
    """Not another call's."""
    first = event("output_item.added", output_index=0, item=call_item(CITY))
    second = event("output_item.added", output_index=1, item=call_item('{"b":1}', id="fc_2", call_id="call_2"))

    assert ready(finished(first, second, end())) == [("call_1", "look", CITY), ("call_2", "look", '{"b":1}')]


@pytest.mark.parametrize(
    ("between", "reason"),
    [
        ([], "length"),
        ([event("output_item.done", output_index=0, item=call_item())], "tools"),
        ([done(CITY)], "tools"),
    ],
)
def test_a_call_that_has_ended_is_not_one_that_the_limit_cut(between: list[Any], reason: str) -> None:
    """Of an answer that spent its limit, a call is ready where the backend ended it and its arguments are whole."""
    begun = event("output_item.added", output_index=0, item=call_item(CITY))
    events = finished(begun, *between, end(output_tokens=5), limit=5)

    assert isinstance(events[-1], Completed)
    assert (events[-1].finish_reason == "length") == (reason == "length")
    assert bool(ready(events)) == (reason == "tools")
    assert Progress() not in events


# --- what no frame carries, and what goes back ---------------------------------------------------------------


def test_what_no_frame_carries_is_counted_by_kind() -> None:
    """Each piece once, although the whole output repeats it."""
    cited = text_item("Hi", id="m")
    cited["content"][0] |= {"annotations": [{"type": "url_citation"}] * 2, "logprobs": [{"token": "Hi"}]}
    cited["content"].append({"type": "output_audio", "data": "…"})
    search = {"type": "web_search_call", "id": "ws", "status": "completed"}
    annotation = event("output_text.annotation.added", output_index=1, annotation={"type": "url_citation"})
    for payloads in (
        [
            event("output_item.done", output_index=0, item=search),
            annotation,
            annotation,
            event("output_item.done", output_index=1, item=cited),
            end(output=[search, cited]),
        ],
        [end(output=[search, cited])],
    ):
        counted = metadata(finished(*payloads))["not_carried"]
        assert counted == {"web_search_call": 1, "logprobs": 1, "audio": 1, "citations": 2}
    assert metadata(finished(annotation, spoken("Hi", output_index=1), end()))["not_carried"] == {"citations": 1}
    assert metadata(finished(annotation, annotation, end()))["not_carried"] == {"citations": 2}
    parts = {"type": "message", "content": [{"text": word, "annotations": [{}]} for word in "ab"]}
    assert metadata(finished(end(output=[parts])))["not_carried"] == {"citations": 2}
    assert "not_carried" not in metadata(finished(spoken("Hi"), end(output=[text_item("Hi")])))
    deltas = [spoken("Hi", logprobs=[{"token": "Hi"}]), spoken("!", logprobs=[])]
    assert metadata(finished(*deltas, end()))["not_carried"] == {"logprobs": 1}
    assert "not_carried" not in metadata(finished(deltas[1], end()))


@pytest.mark.parametrize(
    "item",
    [
        {"type": "custom_tool_call", "name": "grep", "call_id": "c", "input": "x"},
        {"type": "local_shell_call", "call_id": "c", "action": {}},
        {"type": "apply_patch_call", "call_id": "c"},
        {"type": "mcp_approval_request", "name": "pay", "arguments": "{}"},
        {"type": "mcp_approval_request", "name": 7},
        {"type": "computer_call", "call_id": "c"},
        {"type": "shell_call", "call_id": "c", "environment": {"type": "local"}},
        {"type": "shell_call", "call_id": "c", "environment": None},
        {"type": "tool_search_call", "execution": "client"},
    ],
    ids=json.dumps,
)
def test_an_item_that_waits_for_the_client_is_refused_by_name(item: dict[str, Any]) -> None:
    """No frame can carry it, and without an answer to it the turn could not go on."""
    for payload in (event("output_item.done", output_index=0, item=item), end(output=[item])):
        with pytest.raises(GatewayError) as failure:
            feed(payload)
        assert failure.value.kind == "unsupported_capability"
        assert item["type"] in failure.value.message
        assert str(item.get("name", "")).strip("7") in failure.value.message


@pytest.mark.parametrize(
    "item",
    [
        {"type": "shell_call", "environment": {"type": "container_reference", "container_id": "c"}},
        {"type": "tool_search_call", "execution": "server"},
        {"type": "code_interpreter_call"},
        {"type": "of_the_future"},
    ],
    ids=json.dumps,
)
def test_an_item_that_the_provider_answers_itself_is_counted(item: dict[str, Any]) -> None:
    """What OpenAI runs itself does not end the answer, whether it is begun, ended or both."""
    for kind in ("added", "done"):
        events = finished(event(f"output_item.{kind}", output_index=0, item=item), end())
        assert metadata(events)["not_carried"] == {item["type"]: 1}


def test_an_item_that_waits_for_the_client_is_refused_when_it_begins() -> None:
    """What would follow is of no use; where only the whole item says that it waits, it is refused then."""
    with pytest.raises(GatewayError, match=r"'custom_tool_call' \('grep'\)"):
        feed(event("output_item.added", item={"type": "custom_tool_call", "name": "grep"}))
    assert feed(event("output_item.added", item={"type": "shell_call"}))[1] == []
    ours = {"type": "custom_tool_call", "id": "a", "name": "x_keyword_search"}
    with pytest.raises(GatewayError, match=r"'custom_tool_call' \('grep'\)"):
        feed(event("output_item.added", item=ours), event("output_item.done", item=ours | {"name": "grep"}))


def encrypted(item_id: str = "rs_1") -> dict[str, Any]:
    return {"type": "reasoning", "id": item_id, "summary": [], "encrypted_content": "e"}


def test_arguments_in_deltas_that_are_encrypted_come_with_the_whole() -> None:
    """GitHub Copilot's, for VS Code (opencodex 995): what is no JSON is no argument, and none are made up."""
    deltas = [event("function_call_arguments.delta", output_index=0, delta=delta) for delta in ("gAAAA", "{B==")]
    whole = event("function_call_arguments.done", output_index=0, arguments='{"a":1}')
    for rest in ([whole, done('{"a":1}'), end()], [done('{"a":1}'), end()], [end(output=[call_item('{"a":1}')])]):
        decoder, events = feed(ADDED, *deltas, *rest)
        decoder.finish(events)

        assert [e.call.arguments_json for e in events if isinstance(e, ToolCallReady)] == ['{"a":1}']
        assert "".join(e.arguments_delta for e in events if isinstance(e, ToolCallDelta)) == '{"a":1}'

    decoder, events = feed(ADDED, *deltas, end())
    assert events.count(Progress()) == 2
    with pytest.raises(GatewayError, match=r"'call_1' \(look\) are not JSON") as failure:
        decoder.finish(events)
    assert failure.value.kind == "protocol_violation"
    assert not any(isinstance(e, ToolCallReady) for e in events)


@pytest.mark.parametrize("name", ["x_keyword_search", "view_x_video"])
def test_a_custom_call_that_xai_answers_itself_is_counted(name: str) -> None:
    """Parts of its `x_search`: recorded in the tests of Vercel's AI SDK, `xai-x-search-tool.chunks.txt`."""
    item = {"type": "custom_tool_call", "id": "ctc_1", "call_id": "xs_call_1", "name": name, "input": "{}"}
    decoder, events = feed(
        event("output_item.added", output_index=0, item=item),
        event("custom_tool_call_input.delta", output_index=0, item_id="ctc_1", delta="{}"),
        event("output_item.done", output_index=0, item=item | {"status": "completed"}),
        event("output_text.delta", output_index=1, item_id="m", delta="Hi"),
        end(output=[item, {"type": "message", "id": "m", "content": "Hi"}]),
    )
    decoder.finish(events)

    assert isinstance(events[-1], Completed)
    assert (events[-1].finish_reason, events[-1].backend_metadata["not_carried"]) == ("stop", {"custom_tool_call": 1})


@pytest.mark.parametrize(
    ("last", "kind", "text"),
    [
        ({"error": {"code": "server_is_overloaded", "message": "m"}}, "backend_transient", "m"),
        ({"error": None}, "backend_transient", "response.failed"),
        ({"response": {"error": {"code": "cyber_policy", "message": "m"}}}, "invalid_request", "m"),
    ],
)
def test_a_failure_may_have_no_response(last: dict[str, Any], kind: str, text: str) -> None:
    """Its error stands in the event, or nowhere."""
    with pytest.raises(GatewayError) as failure:
        feed(event("output_text.delta", output_index=0, delta="Hi"), event("failed", **last))

    assert failure.value.kind == kind
    assert text in failure.value.message


def test_other_words_and_places_for_the_end() -> None:
    """`response.done` of Codex' backend (oh-my-pi 4692), a text that only `output_text` has, a summary of strings."""
    reasoning = {"type": "reasoning", "summary": ["One", "Two"]}
    decoder, events = feed(event("done", response={"output": [reasoning], "output_text": "Hi"}))
    decoder.finish(events)

    assert "".join(e.delta for e in events if isinstance(e, ReasoningDelta)) == "One\n\nTwo"
    assert "".join(e.delta for e in events if isinstance(e, OutputTextDelta)) == "Hi"
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "stop"

    said, events = feed(event("output_text.delta", output_index=0, delta="Hi"), end(output_text="Hi"))
    said.finish(events)
    assert "".join(e.delta for e in events if isinstance(e, OutputTextDelta)) == "Hi"


def test_reasoning_in_plain_text_goes_back() -> None:
    """Servers of open models have `content` in place of `encrypted_content`; with neither nothing goes back."""
    plain = {"type": "reasoning", "id": "rs", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm"}]}
    events = finished(end(output=[plain, call_item("{}")]))

    assert pieces_of(events) == [{"opaque": plain}, {"call": "call_1", "extra": {"id": "fc_1"}}]
    assert reasoned(events) == "Hm"
    bare = finished(end(output=[plain | {"content": []}, call_item("{}")]))
    assert "provider_state" not in metadata(bare)


@pytest.mark.parametrize(
    ("output", "ids"),
    [
        ([encrypted(), call_item("{}")], ["rs_1", "fc_1"]),
        ([encrypted(), call_item("{}", id="i" * 64)], ["rs_1", "i" * 64]),
        ([encrypted(), call_item("{}", id="i" * 65)], ["rs_1", None]),
        ([encrypted(), call_item("{}", id="")], ["rs_1", None]),
        ([encrypted("r" * 65), call_item("{}")], [None, None]),
        ([call_item("{}"), encrypted()], [None, "rs_1"]),
        ([encrypted(), text_item("A", id="m"), reasoning_item("B", id="x"), call_item("{}")], ["rs_1", "m", None]),
        ([encrypted(), {"type": "web_search_call", "id": "ws"}, text_item("A", id="m")], [None, None]),
    ],
)
def test_an_id_goes_back_only_with_the_reasoning_that_it_needs(output: list[Any], ids: list[Any]) -> None:
    """And never above 64 characters, nor in a turn of which something is left out."""
    pieces = pieces_of(finished(end(output=output)))

    assert [piece.get("opaque", piece.get("extra", {})).get("id") for piece in pieces] == ids


def test_a_compaction_goes_back_and_is_not_counted() -> None:
    """It has nothing for the client."""
    item = {"type": "compaction", "id": "cmp", "encrypted_content": "e"}
    events = finished(event("output_item.done", output_index=0, item=item), end())

    assert pieces_of(events) == [{"opaque": item}]
    assert "not_carried" not in metadata(events)


def test_an_item_that_only_the_whole_output_has_is_noted_in_its_place() -> None:
    """The reasoning of a call stands before it, although it came later."""
    events = finished(ADDED, done("{}"), end(output=[encrypted(), call_item("{}")]))

    assert [next(iter(piece)) for piece in pieces_of(events)] == ["opaque", "call"]


def test_texts_in_another_order_than_their_items_are_noted_as_one() -> None:
    """What cannot be told apart any more keeps no extras; what follows stays whole."""
    first, second = text_item("One.", id="a", phase="commentary"), text_item("Two.", id="b")
    events = finished(spoken("On"), spoken("Two.", output_index=1), end(output=[first, second, encrypted()]))

    assert said(events) == "OnTwo.e."
    assert pieces_of(events) == [{"text": 8}, {"opaque": encrypted()}]


def test_a_namespace_goes_back() -> None:
    """A call of a tool that was searched for is known by it."""
    events = finished(end(output=[call_item("{}", namespace="crm")]))

    assert pieces_of(events) == [{"call": "call_1", "extra": {"namespace": "crm"}}]


def test_a_call_that_runs_asynchronously_goes_back_as_one() -> None:
    """Any other call needs nothing of the kind."""
    assert pieces_of(finished(end(output=[call_item("{}", **{"async": True})]))) == [
        {"call": "call_1", "extra": {"async": True}}
    ]
    for runs in (False, None):
        assert "provider_state" not in metadata(finished(end(output=[call_item("{}", **{"async": runs})])))


PROGRAM: dict[str, Any] = {"type": "program", "id": "cm_1", "call_id": "p", "code": "look()", "fingerprint": "F"}
CALLER = {"type": "program", "caller_id": "p"}


def test_a_program_goes_back_whole_and_its_calls_name_it() -> None:
    """ "Opaque program replay fingerprint that must be round-tripped"; a result names the program of its call, too."""
    called = call_item("{}", caller=CALLER, status="in_progress")
    events = finished(end(output=[encrypted(), PROGRAM, called]))
    notes = pieces_of(events)

    assert notes == [
        {"opaque": encrypted()},
        {"opaque": PROGRAM},
        {"call": "call_1", "extra": {"id": "fc_1", "caller": CALLER}},
    ]
    sent = body(
        message("user", text("Hi")),
        message("assistant", tool_calls=calls("call_1"), provider_state=state(*notes)),
        message("tool", text("9"), tool_call_id="call_1", tool_name="look"),
    )["input"]
    assert sent[1:3] == [encrypted(), PROGRAM]
    assert [item["caller"] for item in sent[3:]] == [CALLER, CALLER]


def test_what_came_of_a_program_goes_back_and_a_call_of_the_model_names_no_caller() -> None:
    """With its id, which it must have, whatever else the answer held."""
    output = {"type": "program_output", "id": "po_1", "call_id": "p", "result": "9", "status": "completed"}
    direct = call_item("{}", caller={"type": "direct"})
    events = finished(end(output=[output, {"type": "web_search_call", "id": "ws_1"}, direct]))

    assert pieces_of(events) == [{"opaque": output}, {"call": "call_1"}]


def test_another_response_inside_one_answer_is_a_protocol_violation() -> None:
    """`response.created` with another id; the same one again says nothing new."""
    first, second = (event("created", response={"id": name}) for name in ("a", "b"))
    unnamed = [event("created", response=response) for response in ({}, None, {"id": ""}, {"id": 7})]
    assert feed(*unnamed, first, first, *unnamed)[1] == []

    with pytest.raises(GatewayError) as failure:
        feed(first, spoken("x"), second)
    assert failure.value.kind == "protocol_violation"


@pytest.mark.parametrize(
    "payload",
    [
        {"error": "overloaded"},
        {"type": "proxy_error", "error": {"message": "overloaded"}},
        {"detail": "overloaded"},
        {"type": "error", "message": "overloaded"},
        event("completed", error={"message": "overloaded"}),
        event("incomplete", response=None, error={"message": "overloaded"}),
        end(error={"code": "server_error", "message": "overloaded"}),
    ],
    ids=json.dumps,
)
def test_an_error_is_found_wherever_it_stands(payload: Any) -> None:
    """Also in an event of an unknown type, and in a response that calls itself completed."""
    with pytest.raises(GatewayError, match="overloaded") as failure:
        feed(spoken("x"), payload)

    assert (failure.value.kind, failure.value.retryable) == ("backend_transient", True)


def test_an_error_in_place_of_an_unstreamed_answer_is_told() -> None:
    """In whichever shape the server puts it."""
    with pytest.raises(GatewayError, match="overloaded"):
        a_decoder().feed_whole({"detail": "overloaded"}, [])


@pytest.mark.parametrize(
    "flood",
    [
        lambda n: event("output_item.added", output_index=n, item={"type": "message"}),
        lambda n: spoken("x", content_index=n),
    ],
)
def test_the_number_of_items_and_parts_is_bounded(flood: Any) -> None:
    """However little is in them: a protocol violation that names the setting."""
    error = flooded(a_decoder(max_bytes=20_000), (flood(number) for number in range(100)))

    assert error is not None
    assert error.kind == "protocol_violation"
    assert "max_event_bytes" in error.message


@pytest.mark.parametrize(
    "item",
    [
        encrypted() | {"encrypted_content": "e" * 900},
        {"type": "message", "id": "i" * 900},
        {"type": "x" * 900},
        call_item("x" * 900),
    ],
)
def test_what_is_kept_of_items_is_bounded(item: dict[str, Any]) -> None:
    """Encrypted content, ids, types and arguments count by their length."""
    payloads = [
        event(f"output_item.{kind}", output_index=n, item=item | ({"call_id": f"c{n}"} if "name" in item else {}))
        for n in range(100)
        for kind in (("added",) if "encrypted_content" not in item else ("done",))
    ]

    whole = end(output=[payload["item"] for payload in payloads])
    assert flooded(a_decoder(max_bytes=200_000), [*payloads, whole]) is None
    error = flooded(a_decoder(max_bytes=100_000), payloads)
    assert error is not None
    assert "max_event_bytes" in error.message


def test_a_text_of_any_length_is_delivered() -> None:
    """The text itself is not kept: neither a bound nor its end changes what is compared with it."""
    decoder, events = a_decoder(max_bytes=1000), list[BackendRawEvent]()
    for _ in range(1000):
        decoder.feed(json.dumps(spoken("0123456789")).encode(), events)
    decoder.feed(json.dumps(end(output=[text_item("0123456789" * 1000 + "!")])).encode(), events)

    assert said(events) == "0123456789" * 1000 + "!"


def test_deltas_of_two_items_in_turns_belong_to_their_items() -> None:
    """The envelope that one item's deltas repeat is not taken for another's."""
    one, two = (event("output_text.delta", item_id=name, delta="") for name in ("m1", "m2"))
    payloads = [
        event("output_item.added", item={"type": "message", "id": "m1"}),
        *(one | {"delta": delta} for delta in ("a", "b", "c")),
        event("output_item.added", item={"type": "message", "id": "m2"}),
        *(two | {"delta": delta} for delta in ("d", "e", "f")),
        one | {"delta": "delta"},  # stands twice in its event: no template comes of it
        *(two | {"delta": delta} for delta in ("g", "h")),
        end(output=[text_item("abcdelta", id="m1"), text_item("defgh!", id="m2")]),
    ]

    assert said(finished(*payloads)) == "abcdefdeltagh!"


# --- both halves ---------------------------------------------------------------------------------------------

_texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=5)
_output = st.lists(
    st.one_of(
        st.builds(
            lambda value, phase: {
                "type": "message",
                "role": "assistant",
                "status": "completed",
                "content": [{"type": "output_text", "text": value, "annotations": []}],
                **phase,
            },
            _texts,
            st.sampled_from([{}, {"phase": "commentary"}, {"phase": "final_answer"}]),
        ),
        st.builds(lambda blob: {"type": "reasoning", "summary": [], "encrypted_content": blob}, _texts),
        st.just({"type": "function_call", "name": "look", "arguments": '{"at": [1,  2.50]}'}),
    ),
    max_size=6,
)


@given(_output)
def test_an_answer_goes_back_as_it_came(output: list[dict[str, Any]]) -> None:
    """The items of an answer, carried by a client as text, calls and state, are the same items in the next request."""
    items: list[dict[str, Any]] = [{"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "e"}]
    for index, item in enumerate(output):
        own = {"id": f"item_{index}"} | ({"call_id": f"call_{index}"} if item["type"] == "function_call" else {})
        items.append(item | own)
    decoder, events = a_decoder(None), list[BackendRawEvent]()
    whole: JsonObject = {"object": "response", "id": "r", "status": "completed", "output": list(items)}
    decoder.feed_whole(whole, events)
    decoder.finish(events)
    completed = events[-1]
    assert isinstance(completed, Completed)
    said = "".join(e.delta for e in events if isinstance(e, OutputTextDelta))
    calls = [
        {"id": e.call.id, "name": e.call.name, "arguments_json": e.call.arguments_json}
        for e in events
        if isinstance(e, ToolCallReady)
    ]
    turn = message(
        "assistant",
        *([text(said)] if said else []),
        **({"tool_calls": calls} if calls else {}),
        provider_state=completed.backend_metadata["provider_state"],
    )
    if not said and not calls:
        return  # a turn of reasoning alone is none that a client can send
    results = [message("tool", text("ok"), tool_call_id=c["id"], tool_name="look") for c in calls]

    sent = body(message("user", text("Hi")), turn, *results)["input"]

    for item in reversed(items):  # but for ids that the API refuses
        if item["type"] != "reasoning":
            break
        del item["id"]
    assert items == sent[1 : 1 + len(items)]


_event = st.one_of(
    json_values,
    shaken(
        {
            "type": st.sampled_from([*ResponsesDecoder._HANDLERS, "response.output_text.delta"]),
            "output_index": st.integers(0, 1),
            "item_id": st.sampled_from(["a", "b"]),
            "delta": st.sampled_from(["", "x", '{"a":1}', "{"]),
            "item": shaken(
                {
                    "type": st.sampled_from(["message", "function_call", "reasoning", "other"]),
                    "id": st.sampled_from(["a", "b"]),
                    "status": st.sampled_from(["completed", "incomplete"]),
                    "call_id": st.sampled_from(["c1", "c2"]),
                    "name": st.just("look"),
                    "arguments": st.sampled_from(["", '{"a":1}', "{"]),
                    "content": st.lists(shaken({"text": st.text(max_size=3), "type": st.just("refusal")}), max_size=2),
                    "encrypted_content": st.just("x"),
                }
            ),
            "response": shaken(
                {
                    "status": st.sampled_from(["completed", "incomplete", "failed", "queued"]),
                    "output": st.lists(shaken({"type": st.just("function_call"), "name": st.just("look")}), max_size=2),
                    "usage": shaken({"output_tokens": st.integers(), "input_tokens_details": json_values}),
                    "incomplete_details": shaken({"reason": st.text(max_size=3)}),
                    "error": shaken({"code": st.sampled_from(["server_error", "401", "x"])}),
                }
            ),
            "error": shaken({"code": json_values}),
        }
    ),
)


@given(st.lists(_event, max_size=8))
def test_whatever_the_backend_says_nothing_but_gateway_errors_comes_of_it(payloads: list[Any]) -> None:
    """Arbitrary answers, near misses of real ones too, are decoded or refused."""
    survives(a_decoder(20), payloads)
