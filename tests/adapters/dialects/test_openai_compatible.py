"""What is particular to `openai_compatible`; what it shares with other dialects is in test_recordings.py."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from beluna_gateway.canonical import (
    BackendRawEvent,
    Completed,
    OtherFinishReason,
    OutputTextDelta,
    ReasoningDelta,
    ToolCallReady,
    Usage,
)
from beluna_gateway.errors import GatewayError

from ..recorded import canonical, dialect

TOOL = {"name": "get_time", "input_schema": {"type": "object"}}


def frame(**fields: Any) -> dict[str, Any]:
    return {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}], **fields}


def body_of(fields: dict[str, Any], **backend: Any) -> dict[str, Any]:
    return dialect("openai_compatible", **backend).encode(canonical(frame(**fields)), "m").body


def decode(*payloads: Any, finish: bool = True) -> list[BackendRawEvent]:
    decoder, events = dialect("openai_compatible").decoder(canonical(frame()), "m"), list[BackendRawEvent]()
    for payload in payloads:
        if payload == b"[DONE]":
            decoder.done_mark()
        else:
            decoder.feed(payload if isinstance(payload, bytes) else json.dumps(payload).encode(), events)
    if finish:
        decoder.finish(events)
    return events


def chunk(delta: Any = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **fields}


def call(index: int | None, arguments: str, **fields: Any) -> dict[str, Any]:
    where = {} if index is None else {"index": index}
    return {"tool_calls": [{**where, "function": {"name": "f", "arguments": arguments}, **fields}]}


def reason_of(events: list[BackendRawEvent]) -> Any:
    assert isinstance(events[-1], Completed)
    return events[-1].finish_reason


# --- request -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("endpoint", "field"),
    [
        ("https://api.openai.com/v1", "max_completion_tokens"),
        ("https://me.openai.azure.com/openai/v1", "max_completion_tokens"),
        ("https://me.services.ai.azure.com/models", "max_completion_tokens"),
        ("http://127.0.0.1:8080/v1", "max_tokens"),
        ("https://api.openai.com.example.com/v1", "max_tokens"),
    ],
)
def test_the_limit_goes_where_the_host_takes_it(endpoint: str, field: str) -> None:
    """OpenAI and Azure refuse max_tokens for newer models; other servers know nothing else."""
    body = body_of({"limits": {"max_output_tokens": 5}}, endpoint=endpoint)

    assert {key: value for key, value in body.items() if key.startswith("max_")} == {field: 5}


def test_the_configuration_has_the_last_word_on_the_limits_name() -> None:
    """`openai_compatible.max_tokens_field` overrides what the host suggests."""
    backend = {"endpoint": "https://api.openai.com/v1", "openai_compatible": {"max_tokens_field": "max_tokens"}}

    assert body_of({"limits": {"max_output_tokens": 5}}, **backend)["max_tokens"] == 5


@pytest.mark.parametrize(
    ("thinking", "on", "off"),
    [
        (
            "chat_template_kwargs",
            {"chat_template_kwargs": {"enable_thinking": True}},
            {"chat_template_kwargs": {"enable_thinking": False}},
        ),
        ("enable_thinking", {"enable_thinking": True}, {"enable_thinking": False}),
        ("thinking_type", {"thinking": {"type": "enabled"}}, {"thinking": {"type": "disabled"}}),
        ("reasoning_effort", {"reasoning_effort": "medium"}, {"reasoning_effort": "none"}),
    ],
)
def test_thinking_goes_where_the_configuration_says(thinking: str, on: Any, off: Any) -> None:
    """Each word of `openai_compatible.thinking` has its own place in the body."""
    for enable, expected in ((True, on), (False, off)):
        body = body_of({"enable_thinking": enable}, openai_compatible={"thinking": thinking})
        assert body.items() >= expected.items()


def test_thinking_without_a_place_for_it() -> None:
    """Where the configuration has no word, `false` (core's default) is satisfied and `true` is refused by name."""
    assert body_of({"enable_thinking": False}) == body_of({})
    with pytest.raises(GatewayError, match="enable_thinking") as failure:
        body_of({"enable_thinking": True})
    assert failure.value.kind == "unsupported_capability"


@pytest.mark.parametrize(
    ("backend", "joined"),
    [
        ({}, True),
        ({"endpoint": "https://api.openai.com/v1"}, False),
        ({"endpoint": "https://me.openai.azure.com/openai/v1"}, False),
        ({"openai_compatible": {"text_parts": "array"}}, False),
        ({"endpoint": "https://api.openai.com/v1", "openai_compatible": {"text_parts": "joined"}}, True),
    ],
)
@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_several_texts_of_a_message(backend: dict[str, Any], joined: bool, role: str) -> None:
    """OpenAI and Azure get an array, other servers one string; the configuration decides otherwise."""
    linked = {"tool_call_id": "c", "tool_name": "f"} if role == "tool" else {}
    message = {"role": role, "parts": [{"text": {"text": "a"}}, {"json": {"value": [1]}}], **linked}

    (sent,) = body_of({"messages": [message]}, **backend)["messages"]

    array = [{"type": "text", "text": "a"}, {"type": "text", "text": "[1]"}]
    assert sent["content"] == ("a\n\n[1]" if joined else array)


@pytest.mark.parametrize("call_id", ["x" * 40, "chatcmpl-tool-" + "0" * 32])
@pytest.mark.parametrize(
    "endpoint",
    [
        *("https://api.openai.com/v1", "https://me.openai.azure.com/openai/v1", "http://h/v1"),
        *("https://openrouter.ai/api/v1", "https://api.githubcopilot.com", "https://api.business.githubcopilot.com"),
    ],
)
def test_ids_of_calls_are_as_short_as_openai_takes_them(endpoint: str, call_id: str) -> None:
    """OpenAI, Azure, and who passes on to OpenAI: HTTP 400 "Expected a string with maximum length 40". Others get the
    client's own ids."""
    messages = [
        {"role": "assistant", "parts": [], "tool_calls": [{"id": call_id, "name": "f", "arguments_json": "{}"}] * 2},
        *[{"role": "tool", "tool_call_id": call_id, "tool_name": "f", "parts": [{"text": {"text": "ok"}}]}] * 2,
    ]

    turn, *results = body_of({"messages": messages}, endpoint=endpoint)["messages"]

    ids = [call["id"] for call in turn["tool_calls"]]
    assert ids == [result["tool_call_id"] for result in results]
    if endpoint == "http://h/v1":
        assert ids == [call_id, call_id]
    else:
        assert len(set(ids)) == 2
        assert all(len(sent) <= 40 for sent in ids)
        assert (ids[0] == call_id) == (len(call_id) <= 40)


@pytest.mark.parametrize("endpoint", ["https://api.mistral.ai/v1", "https://codestral.mistral.ai/v1"])
def test_ids_of_calls_are_mistrals(endpoint: str) -> None:
    """HTTP 400 "must be a-z, A-Z, 0-9, with a length of 9": Mistral's own stay, others are mapped, each pair alike."""
    calls = [{"id": call_id, "name": "f", "arguments_json": "{}"} for call_id in ("call_1", "b9mgIC84m", "call_2")]
    answers = [
        {"role": "tool", "tool_call_id": call["id"], "tool_name": "f", "parts": [{"text": {"text": "ok"}}]}
        for call in calls
    ]

    turn, *results = body_of(
        {"messages": [{"role": "assistant", "parts": [], "tool_calls": calls}, *answers]}, endpoint=endpoint
    )["messages"]

    ids = [call["id"] for call in turn["tool_calls"]]
    assert ids == [result["tool_call_id"] for result in results]
    assert all(re.fullmatch("[a-zA-Z0-9]{9}", call_id) for call_id in ids)
    assert ids[1] == "b9mgIC84m"
    assert len(set(ids)) == 3


@pytest.mark.parametrize(
    ("endpoint", "sent"),
    [("https://api.openai.com/v1", "a_b"), ("https://api.mistral.ai/v1", "a_b"), ("http://h/v1", "a.b")],
)
def test_names_of_past_calls_where_ids_are_restricted(endpoint: str, sent: str) -> None:
    """HTTP 400 "string does not match pattern '^[a-zA-Z0-9_-]+$'"; another server's names are its own."""
    call = {"id": "call_1", "name": "a.b", "arguments_json": "{}"}

    (turn,) = body_of({"messages": [{"role": "assistant", "parts": [], "tool_calls": [call]}]}, endpoint=endpoint)[
        "messages"
    ]

    assert turn["tool_calls"][0]["function"]["name"] == sent


def test_empty_text_is_sent() -> None:
    """Chat Completions takes empty text and gets it."""
    messages = [{"role": role, "parts": [{"text": {"text": ""}}]} for role in ("user", "assistant")]

    assert [message["content"] for message in body_of({"messages": messages})["messages"]] == ["", ""]


@pytest.mark.parametrize(
    "endpoint", ["https://api.mistral.ai/v1", "https://api.moonshot.ai/v1", "https://api.kimi.com/coding/v1"]
)
def test_a_turn_without_text_and_calls_is_left_out_where_it_is_refused(endpoint: str) -> None:
    """HTTP 400 "with role 'assistant' must not be empty". Empty text beside a call stays, and so does any other's."""
    user = {"role": "user", "parts": [{"text": {"text": ""}}]}
    empty = {"role": "assistant", "parts": [{"text": {"text": ""}}] * 2}
    called = {**past_turn("a"), "parts": [{"text": {"text": ""}}]}
    said = {"role": "assistant", "parts": [{"text": {"text": ""}}, {"text": {"text": "Hi"}}]}

    sent = body_of({"messages": [user, empty, called, said]}, endpoint=endpoint)["messages"]

    assert [message["role"] for message in sent] == ["user", "assistant", "assistant"]
    assert ["tool_calls" in message for message in sent] == [False, True, False]


@pytest.mark.parametrize("strict", [True, False])
def test_strict_of_a_tool(strict: bool) -> None:
    """A tool's `strict` is sent as the API's own; without it nothing is said."""
    (tool,) = body_of({"tools": [{**TOOL, "strict": strict}]})["tools"]

    assert tool["function"]["strict"] is strict
    assert "strict" not in body_of({"tools": [TOOL]})["tools"][0]["function"]


def state(*pieces: Any, backend: str = "recorded", model: str = "m") -> dict[str, Any]:
    return {"openai_compatible": {"backend": backend, "model": model, "pieces": list(pieces)}}


REASONED = [
    {"opaque": {"reasoning_content": "hm", "reasoning_details": [{"type": "reasoning.text", "text": "hm"}]}},
    {"call": "b", "extra": {"extra_content": {"google": {"thought_signature": "s"}}}},
]


def past_turn(*call_ids: str, **fields: Any) -> dict[str, Any]:
    calls = [{"id": call_id, "name": "f", "arguments_json": "{}"} for call_id in call_ids]
    return {"role": "assistant", "parts": [{"text": {"text": "Hi"}}], "tool_calls": calls, **fields}


def test_what_the_server_must_see_again_goes_back() -> None:
    """`reasoning_content` and `reasoning_details` beside the turn, `extra_content` on the call that had it."""
    turn = past_turn("a", "b", provider_state=state(*REASONED))

    (sent,) = body_of({"messages": [turn]})["messages"]

    assert (sent["content"], sent["reasoning_content"]) == ("Hi", "hm")
    assert sent["reasoning_details"] == [{"type": "reasoning.text", "text": "hm"}]
    assert [call.get("extra_content") for call in sent["tool_calls"]] == [None, {"google": {"thought_signature": "s"}}]


def test_reasoning_content_goes_back_in_turns_with_calls_only() -> None:
    """A turn is all between two messages of the user: a last answer behind results is one of it. Without calls and
    tools it stays out, as DeepSeek's older models demand.
    """
    user = {"role": "user", "parts": [{"text": {"text": "?"}}]}
    answered = {"role": "tool", "tool_call_id": "a", "tool_name": "f", "parts": [{"text": {"text": "ok"}}]}
    own = {"provider_state": state(*REASONED)}
    messages = [user, past_turn(**own), user, past_turn("a", **own), answered, past_turn(**own), user, past_turn(**own)]

    without = body_of({"messages": messages})["messages"]
    with_tools = body_of({"messages": messages, "tools": [{"name": "f", "input_schema": {}}]})["messages"]

    assert ["reasoning_content" in message for message in without if message["role"] == "assistant"] == [
        *(False, True, True, False)
    ]
    assert all("reasoning_content" in message for message in with_tools if message["role"] == "assistant")
    assert all("reasoning_details" in message for message in without if message["role"] == "assistant")


@pytest.mark.parametrize(
    ("endpoint", "asked", "expected"),
    [
        ("https://api.deepseek.com/v1", {}, [" ", "hm"]),
        ("https://api.deepseek.com/v1", {"enable_thinking": True}, [" ", "hm"]),
        ("https://api.deepseek.com/v1", {"enable_thinking": False}, [None, "hm"]),
        ("https://notdeepseek.com/v1", {}, [None, "hm"]),
        ("https://api.moonshot.ai/v1", {}, [" ", "hm"]),
        ("https://api.moonshot.cn/v1", {"enable_thinking": False}, [None, "hm"]),
        ("https://api.kimi.com/coding/v1", {}, [" ", "hm"]),
        ("https://api.xiaomimimo.com/v1", {}, [" ", "hm"]),
    ],
)
def test_foreign_turns_get_reasoning_where_it_is_demanded(
    endpoint: str, asked: Any, expected: list[str | None]
) -> None:
    """Thinking, DeepSeek, Kimi and MiMo refuse a turn with calls without any, and DeepSeek V4 Pro an empty one."""
    messages = [past_turn("a"), past_turn("b", provider_state=state(*REASONED))]

    sent = body_of({"messages": messages, **asked}, endpoint=endpoint, openai_compatible={"thinking": "thinking_type"})[
        "messages"
    ]

    assert [message.get("reasoning_content") for message in sent] == expected


def test_several_pieces_of_state_go_back_together() -> None:
    """Each with what it holds, whatever else a piece holds that is not this server's business."""
    kept = [{"opaque": {"reasoning_content": "hm"}}, {"opaque": {"reasoning_details": [1], "other": 2}}]

    (sent,) = body_of({"messages": [past_turn("a", provider_state=state(*kept))]})["messages"]

    assert (sent["reasoning_content"], sent["reasoning_details"]) == ("hm", [1])
    assert "other" not in sent


@pytest.mark.parametrize("origin", [{"backend": "other"}, {"model": "other"}])
def test_state_of_another_server_stays_out(origin: dict[str, str]) -> None:
    """What another backend or another model gave is not sent here."""
    (sent,) = body_of({"messages": [past_turn("a", provider_state=state(*REASONED, **origin))]})["messages"]

    assert sent.keys() == {"role", "content", "tool_calls"}


def test_usage_is_asked_for_only_where_it_can_be() -> None:
    """`stream_options` belongs to a stream, and some servers refuse it."""
    assert body_of({})["stream_options"] == {"include_usage": True}
    assert "stream_options" not in body_of({"stream": False})
    assert "stream_options" not in body_of({}, openai_compatible={"stream_usage": False})


def test_each_field_of_a_request_has_its_place() -> None:
    """The whole body for a request that asks for everything, in the words of Chat Completions."""
    schema = {"type": "object", "properties": {"a": {"type": "string"}}}
    asked = {
        "messages": [
            {"role": "system", "parts": [{"text": {"text": "Be brief."}}]},
            {
                "role": "user",
                "parts": [
                    {"text": {"text": "See:"}},
                    {"image_url": {"url": "https://h/i.png"}},
                    {"file": {"mime_type": "application/pdf", "data": "aGk=", "name": "a.pdf"}},
                    {"file": {"mime_type": "audio/mpeg", "data": "aGk="}},
                ],
            },
            {"role": "assistant", "parts": [], "tool_calls": [{"id": "c", "name": "f", "arguments_json": '{"a":1}'}]},
            {"role": "tool", "tool_call_id": "c", "tool_name": "f", "parts": [{"text": {"text": "ok"}}]},
            {"role": "user", "parts": [{"text": {"text": "Go on"}}]},
            {"role": "assistant", "parts": [{"text": {"text": "I"}}]},
        ],
        "tools": [
            {"name": "f", "description": "does", "input_schema": schema, "strict": True},
            {"name": "g", "input_schema": {"type": "object"}},
        ],
        "tool_choice": {"specific": {"name": "f"}},
        "parallel_tool_calls": False,
        "service_tier": "flex",
        "output_mode": {"json_schema": {"name": "n", "schema": schema, "strict": True}},
        "limits": {"max_output_tokens": 5},
        "sampling": {"temperature": 0.5, "top_p": 0.25, "seed": 7, "stop": ["x", "y"]},
    }
    request = dialect(
        "openai_compatible", endpoint="https://api.openai.com/v1", cache={"key": "k", "retention": "long"}
    ).encode(canonical(frame(**asked)), "m")

    call = {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
    assert request.path == "/chat/completions"
    assert request.body == {
        "model": "m",
        "stream": True,
        "stream_options": {"include_usage": True},
        "messages": [
            {"role": "system", "content": "Be brief."},
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "See:"},
                    {"type": "image_url", "image_url": {"url": "https://h/i.png"}},
                    {
                        "type": "file",
                        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,aGk="},
                    },
                    {"type": "input_audio", "input_audio": {"data": "aGk=", "format": "mp3"}},
                ],
            },
            {"role": "assistant", "content": None, "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "c", "content": "ok"},
            {"role": "user", "content": "Go on"},
            {"role": "assistant", "content": "I"},
        ],
        "tools": [
            {
                "type": "function",
                "function": {"name": "f", "description": "does", "parameters": schema, "strict": True},
            },
            {"type": "function", "function": {"name": "g", "parameters": {"type": "object", "properties": {}}}},
        ],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "parallel_tool_calls": False,
        "service_tier": "flex",
        "response_format": {"type": "json_schema", "json_schema": {"name": "n", "schema": schema, "strict": True}},
        "max_completion_tokens": 5,
        "temperature": 0.5,
        "top_p": 0.25,
        "seed": 7,
        "stop": ["x", "y"],
        "prompt_cache_key": "k",
        "prompt_cache_retention": "24h",
    }


def test_a_cache_key_is_refused_by_this_dialects_name() -> None:
    """Only OpenAI and Azure have a place for it."""
    with pytest.raises(GatewayError, match=r"cache\.key: this backend \(openai_compatible,"):
        body_of({"cache": {"key": "k"}})


LINK = {"file": {"mime_type": "application/pdf", "url": "https://h/a.pdf"}}


@pytest.mark.parametrize(
    ("message", "path"),
    [
        ({"role": "user", "parts": [{"text": {"text": "?"}}, LINK]}, "messages[1].parts[1].file.url: "),
        (
            {"role": "tool", "tool_call_id": "c", "tool_name": "f", "parts": [LINK]},
            "messages[1].parts[0].file: openai_compatible takes images and files in user messages only",
        ),
        (
            {"role": "assistant", "parts": [{"text": {"text": "a"}}], "provider_state": {"openai_compatible": 5}},
            "messages[1].provider_state.openai_compatible: ",
        ),
    ],
)
def test_what_cannot_be_sent_is_refused_by_its_path(message: dict[str, Any], path: str) -> None:
    """A file by its URL, a file in a result, state that nobody gave."""
    with pytest.raises(GatewayError) as failure:
        body_of({"messages": [past_turn("c"), message, frame()["messages"][0]]})

    assert failure.value.message.startswith(path)


def test_nothing_is_sent_that_was_not_asked_for() -> None:
    """Without options the server's own defaults hold."""
    assert body_of({"stream": False}).keys() == {"model", "stream", "messages"}


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_tool_choices_keep_their_words(choice: str) -> None:
    """Chat Completions has the same three words."""
    assert body_of({"tools": [TOOL], "tool_choice": choice})["tool_choice"] == choice


@pytest.mark.parametrize("role", ["system", "assistant"])
def test_an_image_outside_a_user_message_is_refused_by_place(role: str) -> None:
    """Only users can show something here."""
    parts = [{"text": {"text": "?"}}, {"image_url": {"url": "https://example.com/a.png"}}]
    with pytest.raises(GatewayError, match=r"messages\[0\]\.parts\[1\]\.image_url") as failure:
        body_of({"messages": [{"role": role, "parts": parts}]})

    assert failure.value.kind == "unsupported_capability"


# --- response ------------------------------------------------------------------------------------------------


def test_the_end_mark_is_a_finish_reason_or_done_after_output() -> None:
    """A finish_reason alone is enough, and so is [DONE], but not [DONE] alone (F1, F10)."""
    assert reason_of(decode(chunk({"content": "x"}), chunk(finish="stop"))) == "stop"
    assert reason_of(decode(chunk({"content": "x"}), b"[DONE]")) == "stop"
    for payloads in ([], [chunk({"content": "x"})], [chunk({"role": "assistant"}), b"[DONE]"]):
        with pytest.raises(GatewayError) as failure:
            decode(*payloads)

        assert (failure.value.kind, failure.value.retryable) == ("backend_transient", True)
        assert failure.value.message == "the backend's answer stopped without a finish_reason: it was cut off"


def test_an_error_beside_output_and_done_is_still_an_error() -> None:
    """[DONE] after an error does not make an answer of it (F2)."""
    with pytest.raises(GatewayError) as failure:
        decode(chunk({"content": "x"}), {"error": {"message": "no", "code": "server_error"}}, b"[DONE]")

    assert failure.value.provider_code == "server_error"


@pytest.mark.parametrize(
    ("error", "kind", "code"),
    [
        ({"error": {"message": "m", "type": "rate_limit_error", "code": None}}, "rate_limited", "rate_limit_error"),
        ({"error": {"message": "m", "code": 402}}, "backend_permanent", "402"),
        ({"error": "overloaded"}, "backend_transient", "overloaded"),
        (
            {"object": "error", "message": "m", "type": "BadRequestError", "code": 400},
            "invalid_request",
            "BadRequestError",
        ),
        ({"error": {"message": "m"}, **chunk(finish="error")}, "backend_transient", None),
    ],
)
def test_an_error_inside_the_stream_has_the_kind_of_its_code(error: Any, kind: str, code: str | None) -> None:
    """OpenAI's, OpenRouter's and vLLM's shapes."""
    with pytest.raises(GatewayError) as failure:
        decode(chunk({"content": "x"}), error)

    assert (failure.value.kind, failure.value.provider_code) == (kind, code)


def test_calls_become_ready_at_the_end_mark_and_not_before() -> None:
    """Chat Completions has no end of a call: what has come so far may parse and still go on (F19)."""
    payloads = [chunk(call(0, '{"path":"/"}', id="a")), chunk(call(1, "{}", id="b"))]

    assert not any(isinstance(event, ToolCallReady) for event in decode(*payloads, finish=False))
    ready = [e.call.id for e in decode(*payloads, chunk(finish="tool_calls")) if isinstance(e, ToolCallReady)]
    assert ready == ["a", "b"]


@pytest.mark.parametrize(
    ("word", "reason"), [("length", "length"), ("content_filter", OtherFinishReason("content_filter"))]
)
def test_after_a_cut_only_overtaken_calls_are_ready(word: str, reason: Any) -> None:
    """The last call of a cut answer is unproven, even if it parses; the reason stays what it was (F20)."""
    events = decode(chunk(call(0, '{"a":1}', id="a")), chunk(call(1, "{}", id="b")), chunk(finish=word))

    assert [e.call.id for e in events if isinstance(e, ToolCallReady)] == ["a"]
    assert reason_of(events) == reason


def test_usage_may_come_anywhere_and_null_is_none() -> None:
    """In the last chunk, in every chunk, before or after the end mark: the last object counts, once (F23)."""
    first, last = {"prompt_tokens": 3, "completion_tokens": 0}, {"prompt_tokens": 3, "completion_tokens": 2}
    for payloads in (
        [chunk({"content": "x"}, usage=first), chunk(finish="stop", usage=last)],
        [
            chunk({"content": "x"}, usage=None),
            chunk(finish="stop", usage=None),
            {"choices": [], "usage": last},
            b"[DONE]",
        ],
    ):
        usages = [event.usage for event in decode(*payloads) if isinstance(event, Usage)]

        assert [(u.input_tokens, u.output_tokens, u.total_tokens, u.provider_usage_raw) for u in usages] == [
            (3, 2, 5, last)
        ]

    assert not any(isinstance(event, Usage) for event in decode(chunk({"content": "x"}, "stop", usage=None)))


def test_reasoning_has_two_names() -> None:
    """llama.cpp and DeepSeek say reasoning_content, OpenRouter and vLLM reasoning; both at once are one."""
    for delta in ({"reasoning_content": "r"}, {"reasoning": "r"}, {"reasoning_content": "r", "reasoning": "r"}):
        assert decode(chunk(delta), finish=False) == [ReasoningDelta("r")]


def test_a_role_alone_is_silence() -> None:
    """The first chunk of an answer is no content."""
    assert decode(chunk({"role": "assistant", "content": None}), chunk({"content": ""}), finish=False) == []


def test_the_same_envelope_with_other_text_is_read_alike() -> None:
    """Text that needs escapes, is empty or looks like JSON survives the fast way for repeated envelopes."""
    texts = ["a", "b", '"', "\\", "é", "}", '"}}]}', "\n", "c", " "]
    events = decode(*(chunk({"content": text}, id="x", model="m") for text in texts), finish=False)

    assert events == [OutputTextDelta(text) for text in texts]


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"[DONE",
        b"[]",
        b"5",
        {"choices": 5},
        {"choices": [5]},
        chunk({"content": 5}),
        chunk({"content": {"a": 1}}),
        chunk({"tool_calls": "a"}),
        chunk({"tool_calls": [5]}),
        chunk({"tool_calls": [{"index": 0, "function": 5}]}),
        chunk({"tool_calls": [{"index": 0, "function": [5]}]}),
        chunk({"tool_calls": [{"index": 0, "id": [5], "function": {"name": "f"}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"name": "f", "arguments": 5}}]}),
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": "{}"}}]}, "tool_calls"),
        chunk({"function_call": 5}),
        chunk({"function_call": {"name": 5}}),
        chunk({"refusal": 5}),
        {"choices": [{"index": 0, "delta": 5}]},
        {"choices": [{"index": 0, "message": 5}]},
        {"choices": [{"index": 0, "text": 5}]},
        chunk({"tool_calls": [{"index": 0, "function": {"arguments": {}, "name": 5}}]}),
        {"choices": [{"index": 0, "delta": {}, "finish_reason": 5}]},
    ],
)
def test_a_malformed_chunk_is_a_protocol_violation(payload: Any) -> None:
    """What is not what the API says fails."""
    with pytest.raises(GatewayError) as failure:
        decode(payload)

    assert failure.value.kind == "protocol_violation"
