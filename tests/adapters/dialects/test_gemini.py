"""`adapters/gemini.py` and its decoder: what the recordings do not show."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.provider_errors import read_error
from beluna_gateway.adapters.dialects.gemini_decoder import GeminiDecoder
from beluna_gateway.canonical import (
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

GEMINI = dialect("gemini")
LOOK = {"name": "look", "input_schema": {"type": "object"}}


def text(value: str) -> dict[str, Any]:
    return {"text": {"text": value}}


def message(role: str, *parts: Any, **more: Any) -> dict[str, Any]:
    return {"role": role, "parts": list(parts), **more}


def encode(
    *messages: dict[str, Any], model: str = "gemini-2.5-flash", endpoint: str | None = None, **frame: Any
) -> Any:
    """What is sent for a request with these messages."""
    made = canonical({"type": "infer", "messages": list(messages or (message("user", text("Hi")),)), **frame})
    of = GEMINI if endpoint is None else dialect("gemini", endpoint=endpoint)
    return of.encode(made, model)


def refused(*messages: dict[str, Any], **frame: Any) -> GatewayError:
    with pytest.raises(GatewayError) as failure:
        encode(*messages, **frame)
    return failure.value


# --- request -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("model", "stream", "path"),
    [
        ("gemini-2.5-flash", True, "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"),
        ("gemini-2.5-flash", False, "/v1beta/models/gemini-2.5-flash:generateContent"),
        ("models/gemini-2.5-flash", False, "/v1beta/models/gemini-2.5-flash:generateContent"),
        ("tunedModels/mine", False, "/v1beta/tunedModels/mine:generateContent"),
    ],
)
def test_the_model_and_the_method_are_in_the_path(model: str, stream: bool, path: str) -> None:
    """The path names the model, which may bring its own collection, and whether the answer is streamed."""
    assert path == encode(model=model, stream=stream).path


@pytest.mark.parametrize(
    ("endpoint", "path", "probe"),
    [
        ("https://generativelanguage.googleapis.com", "/v1beta/models/m:generateContent", "/v1beta/models"),
        ("https://generativelanguage.googleapis.com/", "/v1beta/models/m:generateContent", "/v1beta/models"),
        ("https://generativelanguage.googleapis.com/v1beta", "/models/m:generateContent", "/models"),
        ("https://proxy.example/gemini/v1alpha/", "/models/m:generateContent", "/models"),
        ("https://proxy.example/gemini", "/v1beta/models/m:generateContent", "/v1beta/models"),
    ],
)
def test_the_version_is_added_where_the_endpoint_has_none(endpoint: str, path: str, probe: str) -> None:
    """An endpoint that ends in a version keeps it."""
    assert path == encode(model="m", stream=False, endpoint=endpoint).path
    assert probe == dialect("gemini", endpoint=endpoint).probe_path


@pytest.mark.parametrize(
    ("model", "path"),
    [
        ("m", "/v1beta/models/m"),
        ("models/m", "/v1beta/models/m"),
        ("tunedModels/m", "/v1beta/tunedModels/m"),
        ("m?key=x y", "/v1beta/models/m%3Fkey%3Dx%20y"),
    ],
)
def test_a_model_is_looked_up_by_its_name(model: str, path: str) -> None:
    """The path of `models.get`, of which nothing in a name can make another one's."""
    assert GEMINI.model_path(model) == path


@pytest.mark.parametrize("model", ["../../v1/files", "m?key=x", "m&alt=json"])
def test_a_model_cannot_change_the_url(model: str) -> None:
    """A model's name is no way to reach another method or to add a query."""
    assert refused(model=model).kind == "invalid_request"


def test_the_key_is_a_header() -> None:
    """The credential is sent as a header and is nowhere in the path."""
    assert GEMINI.auth_headers("s3cret") == {"x-goog-api-key": "s3cret"}


def image(url: str, **more: str) -> dict[str, Any]:
    return message("user", {"image_url": {"url": url, **more}})


@pytest.mark.parametrize(
    ("picture", "part"),
    [
        (image("data:image/png;base64,AAAA"), {"inlineData": {"mimeType": "image/png", "data": "AAAA"}}),
        (
            image("https://e.org/a.JPG?x=1"),
            {"fileData": {"fileUri": "https://e.org/a.JPG?x=1", "mimeType": "image/jpeg"}},
        ),
        (
            image("https://e.org/a", mime_type="image/webp"),
            {"fileData": {"fileUri": "https://e.org/a", "mimeType": "image/webp"}},
        ),
        (
            image("https://e.org/v1.2/a.b.png"),
            {"fileData": {"fileUri": "https://e.org/v1.2/a.b.png", "mimeType": "image/png"}},
        ),
        (image("https://e.org/files/abc123"), {"fileData": {"fileUri": "https://e.org/files/abc123"}}),
    ],
)
def test_images_go_by_value_or_by_address(picture: Any, part: Any) -> None:
    """A data: URL is sent inline, an https: URL as a file that Gemini fetches."""
    assert [part] == encode(picture).body["contents"][0]["parts"]


def test_images_that_gemini_would_not_fetch_are_refused() -> None:
    """An http: URL is `unsupported_capability`, naming the part."""
    error = refused(message("user", text("See:"), {"image_url": {"url": "http://e.org/a.png"}}))

    assert error.kind == "unsupported_capability"
    assert "messages[0].parts[1].image_url" in error.message


def test_images_in_the_system_prompt_are_refused() -> None:
    """`systemInstruction` is text only: `unsupported_capability`, naming the part."""
    error = refused({"role": "system", "parts": image("https://e.org/a.png")["parts"]}, message("user", text("Hi")))

    assert error.kind == "unsupported_capability"
    assert "messages[0].parts[0].image_url" in error.message


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ("auto", {"mode": "AUTO"}),
        ("none", {"mode": "NONE"}),
        ("required", {"mode": "ANY"}),
        ({"specific": {"name": "look"}}, {"mode": "ANY", "allowedFunctionNames": ["look"]}),
    ],
)
def test_tool_choice_has_a_word_for_each_form(choice: Any, expected: Any) -> None:
    """Every `tool_choice` of the contract goes out natively."""
    assert {"functionCallingConfig": expected} == encode(tools=[LOOK], tool_choice=choice).body["toolConfig"]


@pytest.mark.parametrize(
    ("frame", "config"),
    [
        ({}, None),
        ({"enable_thinking": True}, {"thinkingConfig": {"thinkingBudget": -1}}),
        ({"enable_thinking": False}, {"thinkingConfig": {"thinkingBudget": 0}}),
        ({"include_reasoning": True}, {"thinkingConfig": {"includeThoughts": True}}),
        (
            {"include_reasoning": True, "enable_thinking": True},
            {"thinkingConfig": {"thinkingBudget": -1, "includeThoughts": True}},
        ),
        ({"include_reasoning": True, "enable_thinking": False}, {"thinkingConfig": {"thinkingBudget": 0}}),
        ({"include_reasoning": True, "reasoning": {"effort": "off"}}, {"thinkingConfig": {"thinkingBudget": 0}}),
        ({"output_mode": "json_object"}, {"responseMimeType": "application/json"}),
    ],
)
def test_the_configuration_holds_only_what_was_asked_for(frame: Any, config: Any) -> None:
    """A plain request has no `generationConfig` at all."""
    assert config == encode(**frame).body.get("generationConfig")


def test_metadata_stays_here() -> None:
    """Nothing of a request's metadata is sent."""
    assert "ann" not in json.dumps(encode(metadata={"user": "ann"}).body)


def test_results_of_separate_steps_stay_in_separate_turns() -> None:
    """Results that follow each other share a turn; those of another step have their own."""
    calls = [{"id": f"c{i}", "name": "look", "arguments_json": "{}"} for i in range(3)]

    def result(call_id: str) -> dict[str, Any]:
        return message("tool", text("ok"), tool_call_id=call_id, tool_name="look")

    contents = encode(
        message("user", text("Hi")),
        message("assistant", tool_calls=calls[:2]),
        result("c0"),
        result("c1"),
        message("assistant", tool_calls=calls[2:]),
        result("c2"),
    ).body["contents"]

    assert [(turn["role"], len(turn["parts"])) for turn in contents] == [
        ("user", 1),
        ("model", 2),
        ("user", 2),
        ("model", 1),
        ("user", 1),
    ]


@pytest.mark.parametrize(
    ("parts", "response"),
    [
        ([{"json": {"value": {"a": 1}}}], {"a": 1}),
        ([{"json": {"value": [1]}}], {"output": [1]}),
        ([{"json": {"value": None}}], {"output": None}),
        ([text('{"a": 1}')], {"output": '{"a": 1}'}),
        ([text("a"), {"json": {"value": {"b": 1}}}], {"output": 'a\n{"b":1}'}),
        ([{"json": {"value": {"a": [{"$ref": "#/x"}]}}}], {"output": '{"a":[{"$ref":"#/x"}]}'}),
        ([{"json": {"value": [{"$ref": "#/x"}]}}], {"output": '[{"$ref":"#/x"}]'}),
        ([{"json": {"value": {"a": "$ref"}}}], {"a": "$ref"}),
    ],
)
def test_a_result_is_an_object(parts: Any, response: Any) -> None:
    """Gemini takes objects only: an object goes as it is, anything else as its `output`; text stays text, and an object
    with a key that Gemini would take for its own goes as text, too.
    """
    contents = encode(message("tool", *parts, tool_call_id="c", tool_name="look")).body["contents"]

    assert response == contents[0]["parts"][0]["functionResponse"]["response"]


@pytest.mark.parametrize(
    ("model", "stands_in"),
    [
        ("gemini-2.5-pro", False),
        ("gemini-2.5-flash-latest", False),
        ("gemini-3-pro-preview", True),
        ("models/gemini-3.7-flash", True),
        ("gemini-10-pro", True),
        ("gemini-flash-latest", True),
        ("gemini-flash-lite-latest", True),
        ("models/gemini-pro-latest", True),
        ("learnlm-latest", False),
    ],
)
def test_a_lost_signature_is_admitted_where_models_ask_for_one(model: str, stands_in: bool) -> None:
    """From Gemini 3 on a call without any signature is refused: the first of a turn says that it was lost."""
    calls = [{"id": f"c{i}", "name": "look", "arguments_json": "{}"} for i in range(2)]
    made = encode(message("user", text("Hi")), message("assistant", tool_calls=calls), model=model)

    assert [stands_in, False] == ["thoughtSignature" in part for part in made.body["contents"][1]["parts"]]


def test_foreign_state_is_refused() -> None:
    """What this dialect did not give is `invalid_request`, naming where it stands."""
    error = refused(message("assistant", text("Hello"), provider_state={"gemini": {"thoughtSignature": "x"}}))

    assert error.kind == "invalid_request"
    assert "messages[0].provider_state.gemini" in error.message


def calls(*ids: str) -> list[dict[str, str]]:
    return [{"id": call_id, "name": "look", "arguments_json": "{}"} for call_id in ids]


def result(call_id: str, *parts: Any) -> dict[str, Any]:
    return message("tool", *(parts or (text("ok"),)), tool_call_id=call_id, tool_name="look")


def state(*pieces: Any) -> dict[str, Any]:
    return {"gemini": {"backend": "recorded", "model": "gemini-2.5-flash", "pieces": list(pieces)}}


def test_empty_text_is_left_out() -> None:
    """The API refuses empty parts: they are left out, and messages of nothing else; a result stays."""
    sent = encode(
        message("system", text("")),
        message("user", text("Hi"), text("")),
        message("assistant", text("")),
        message("assistant", text(""), tool_calls=calls("a")),
        result("a", text(""), {"json": {"value": {"x": 1}}}),
        message("user", text("")),
    ).body

    assert "systemInstruction" not in sent
    assert sent["contents"] == [
        {"role": "user", "parts": [{"text": "Hi"}]},
        {"role": "model", "parts": [{"functionCall": {"name": "look", "args": {}, "id": "a"}}]},
        {"role": "user", "parts": [{"functionResponse": {"id": "a", "name": "look", "response": {"x": 1}}}]},
    ]


def test_neighbours_are_one_turn() -> None:
    """Two model messages in a row, and the results of a turn's calls around a user's message, are one turn each."""
    contents = encode(
        message("user", text("Hi")),
        message("assistant", text("Well")),
        message("assistant", tool_calls=calls("a", "b")),
        result("a"),
        message("user", text("Wait")),
        result("b"),
    ).body["contents"]

    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert [next(iter(part)) for part in contents[1]["parts"]] == ["text", "functionCall", "functionCall"]
    assert [next(iter(part)) for part in contents[2]["parts"]] == ["functionResponse", "functionResponse", "text"]


@pytest.mark.parametrize(
    ("model", "kinds"),
    [
        ("gemini-3-pro-preview", ["functionResponse", "functionResponse", "text", "text"]),
        ("gemini-3.8-flash", ["text", "text", "functionResponse", "functionResponse"]),
    ],
)
def test_later_models_get_results_behind_the_texts_of_their_turn(model: str, kinds: list[str]) -> None:
    """From 3.6 on they refuse what follows a result: HTTP 400 "Requests ending with a model turn are not supported"."""
    contents = encode(
        message("user", text("Hi")),
        message("assistant", tool_calls=calls("a", "b")),
        *(result("a"), message("user", text("Wait")), result("b"), message("user", text("Go on"))),
        model=model,
    ).body["contents"]

    assert [content["role"] for content in contents] == ["user", "model", "user"]
    assert [next(iter(part)) for part in contents[2]["parts"]] == kinds
    assert [part["text"] for part in contents[2]["parts"] if "text" in part] == ["Wait", "Go on"]


def test_results_without_ids_come_in_the_order_of_their_calls() -> None:
    """Where Gemini gave no ids, it can tell results of one function apart by their order only."""
    turn = message("assistant", tool_calls=calls("a", "b"), provider_state=state({"call": "a"}, {"call": "b"}))

    contents = encode(message("user", text("Hi")), turn, result("b", text("B")), result("a", text("A"))).body[
        "contents"
    ]

    assert contents[2]["parts"] == [
        {"functionResponse": {"name": "look", "response": {"output": output}}} for output in ("A", "B")
    ]


def test_a_result_bears_the_name_of_its_call() -> None:
    """Whatever the client calls it: Gemini 3.7 refuses another. Without a call the client's name is all there is."""
    named = message("tool", text("ok"), tool_call_id="a", tool_name="other")

    answer = encode(message("user", text("Hi")), message("assistant", tool_calls=calls("a")), named).body["contents"][2]
    (alone,) = encode(named).body["contents"]

    assert answer["parts"][0]["functionResponse"]["name"] == "look"
    assert alone["parts"][0]["functionResponse"]["name"] == "other"


def test_a_repeated_id_is_two_ids() -> None:
    """Two calls of one id are told apart, each with its own result."""
    contents = encode(
        *(message("user", text("Hi")), message("assistant", tool_calls=calls("a")), result("a")),
        *(message("assistant", tool_calls=calls("a")), result("a")),
    ).body["contents"]

    ids = [part[kind]["id"] for content in contents[1:] for part in content["parts"] for kind in part]
    assert (ids[0], ids[2]) == ("a", ids[3])
    assert ids[0] == ids[1] != ids[2]


def test_a_signature_on_an_empty_text_goes_back() -> None:
    """A part of empty text that has a signature is not empty."""
    turn = message(
        "assistant", text("Hi"), provider_state=state({"text": 2}, {"text": 0, "extra": {"thoughtSignature": "s"}})
    )

    parts = encode(message("user", text("Hi")), turn).body["contents"][1]["parts"]

    assert parts == [{"text": "Hi"}, {"text": "", "thoughtSignature": "s"}]


# --- errors --------------------------------------------------------------------------------------------------


def failure(status: int, *details: Any, header: int | None = None) -> GatewayError:
    body: JsonObject = {"error": {"code": status, "message": "No.", "status": "WORD", "details": list(details)}}
    return GEMINI.error(status, read_error(body), header)


def test_an_unknown_key_is_an_authentication_error() -> None:
    """HTTP 400 with the reason API_KEY_INVALID is about the credential; any other 400 is about the request."""
    unknown = failure(400, {"@type": "type.googleapis.com/google.rpc.ErrorInfo", "reason": "API_KEY_INVALID"})

    assert (unknown.kind, unknown.provider_code, unknown.provider_http_status) == ("authentication", "WORD", 400)
    assert failure(400, {"reason": "OTHER"}, 7).kind == "invalid_request"
    assert failure(500, {"reason": "API_KEY_INVALID"}).kind == "backend_transient"


@pytest.mark.parametrize(
    ("delay", "milliseconds"),
    [
        ("3.5s", 3500),
        ("34s", 34000),
        ("0.0001s", 1),
        ("1.000000001s", 1001),
        ("0s", 0),
        ("soon", None),
        ("-1s", None),
        (3, None),
        ("3.5", None),
        ("9999999999999s", None),
    ],
)
def test_the_delay_is_read_from_the_body(delay: Any, milliseconds: int | None) -> None:
    """`RetryInfo.retryDelay`, rounded up, becomes `retry_after_ms`; what is no duration is passed over."""
    assert milliseconds == failure(429, {"reason": "x"}, {"retryDelay": delay}).retry_after_ms


def test_the_longer_of_header_and_body_counts() -> None:
    """Where a `Retry-After` came as well."""
    assert failure(429, {"retryDelay": "30s"}, header=1000).retry_after_ms == 30_000
    assert failure(429, {"retryDelay": "30s"}, header=60_000).retry_after_ms == 60_000


# --- response ------------------------------------------------------------------------------------------------


MAX_BYTES = 1 << 20


def a_decoder(max_bytes: int = MAX_BYTES) -> GeminiDecoder:
    return GeminiDecoder(notes("gemini", "gemini-2.5-flash"), max_bytes)


def feed(*payloads: Any) -> tuple[GeminiDecoder, list[BackendRawEvent]]:
    decoder, events = a_decoder(), list[BackendRawEvent]()
    for payload in payloads:
        decoder.feed(json.dumps(payload).encode(), events)
    return decoder, events


def chunk(*parts: Any, **candidate: Any) -> dict[str, Any]:
    return {"candidates": [{"content": {"role": "model", "parts": list(parts)}, **candidate}]}


def whole(*payloads: Any) -> list[BackendRawEvent]:
    decoder, events = feed(*payloads)
    decoder.finish(events)
    return events


@pytest.mark.parametrize(
    "silent",
    [
        {},
        {"candidates": []},
        {"usageMetadata": {"promptTokenCount": 1}},
        chunk({"text": ""}),
        chunk({}),
        chunk(),
        {"candidates": [{"content": {"role": "model"}}]},
        {"candidates": None, "modelVersion": "m"},
    ],
    ids=json.dumps,
)
def test_chunks_without_content_are_silence(silent: Any) -> None:
    """Usage and empty parts give nothing, so that the idle timer runs on."""
    decoder, events = feed(silent)

    assert events == []
    assert not decoder.ended


def test_signatures_and_foreign_parts_are_signs_of_work() -> None:
    """What no frame shows is still no silence."""
    assert feed(chunk({"thoughtSignature": "eA=="}))[1] == [Progress()]
    assert feed(chunk({"inlineData": {"mimeType": "image/png", "data": "AAAA"}}))[1] == [Progress()]


def test_thoughts_are_reasoning_and_text_is_text() -> None:
    """A part that is marked as a thought is no output text."""
    assert feed(chunk({"text": "hm", "thought": True}, {"text": "4", "thought": False}))[1] == [
        ReasoningDelta("hm"),
        OutputTextDelta("4"),
    ]


@pytest.mark.parametrize(
    "malformed",
    [
        {"candidates": {}},
        {"candidates": [1]},
        {"candidates": [{"content": []}]},
        {"candidates": [{"content": {"parts": {}}}]},
        chunk("text"),
        chunk({"text": 1}),
        chunk({"functionCall": []}),
        chunk({"functionCall": {}}),
        chunk({"functionCall": {"name": 1}}),
        chunk({"functionCall": {"name": "look", "args": [1]}}),
        chunk({"functionCall": {"name": "look", "args": "{"}}),
        chunk({"functionCall": {"name": "look", "willContinue": True}}),
        chunk({"functionCall": {"partialArgs": [{"jsonPath": "$.a"}], "willContinue": True}}),
        chunk(finishReason=5),
        {"promptFeedback": []},
        {"promptFeedback": {"blockReason": 1}},
        [],
        "text",
    ],
    ids=json.dumps,
)
def test_malformed_chunks_are_protocol_violations(malformed: Any) -> None:
    """A field that we know but that is not what it should be ends the answer."""
    with pytest.raises(GatewayError) as raised:
        feed(malformed)

    assert raised.value.kind == "protocol_violation"


@pytest.mark.parametrize(
    ("word", "reason"),
    [
        ("STOP", "stop"),
        ("MAX_TOKENS", "length"),
        *((word, OtherFinishReason("content_filter")) for word in ("SAFETY", "RECITATION", "BLOCKLIST", "SPII")),
        ("PROHIBITED_CONTENT", OtherFinishReason("content_filter")),
        *(
            (word, OtherFinishReason(word))
            for word in ("OTHER", "LANGUAGE", "MALFORMED_FUNCTION_CALL", "UNEXPECTED_TOOL_CALL", "OF_THE_FUTURE")
        ),
    ],
)
def test_every_finish_reason_keeps_its_meaning(word: str, reason: Any) -> None:
    """What is not the model's own end never becomes `stop`."""
    completed = whole(chunk({"text": "a"}, finishReason=word))[-1]

    assert isinstance(completed, Completed)
    assert completed.finish_reason == reason


def test_calls_without_ids_get_their_own() -> None:
    """Two calls of one tool are two calls, also where the backend gives both the same id or none."""
    for same in ({}, {"id": ""}, {"id": "twice"}):
        call = {"functionCall": {"name": "look", "args": {"a": 1}, **same}}
        events = whole(chunk(call, call, finishReason="STOP"))
        ids = [event.call.id for event in events if isinstance(event, ToolCallReady)]
        assert len(set(ids)) == 2
        assert isinstance(events[-1], Completed)
        assert events[-1].finish_reason == "tool_calls"


def test_a_call_is_whole_when_it_comes() -> None:
    """Calls before a cut are ready, and the answer still says `length`."""
    events = whole(chunk({"functionCall": {"name": "look"}}, finishReason="MAX_TOKENS"))

    assert [event.call.arguments_json for event in events if isinstance(event, ToolCallReady)] == ["{}"]
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "length"


@pytest.mark.parametrize(
    ("usage", "counts"),
    [
        ({"promptTokenCount": 5, "candidatesTokenCount": 2, "thoughtsTokenCount": 3}, (5, 5, 10, None, 3)),
        (
            {"promptTokenCount": 5, "toolUsePromptTokenCount": 4, "cachedContentTokenCount": 1, "totalTokenCount": 9},
            (9, None, 9, 1, None),
        ),
        ({"promptTokenCount": 0, "candidatesTokenCount": 0}, (0, 0, 0, None, None)),
        ({"promptTokenCount": "5", "candidatesTokenCount": -1}, (5, None, None, None, None)),
    ],
)
def test_usage_counts_everything_that_went_in_and_came_out(usage: Any, counts: Any) -> None:
    """Thoughts are output, tool results input; what was not said stays unknown, zero stays zero."""
    reported = whole(chunk(finishReason="STOP") | {"usageMetadata": usage})[0]

    assert isinstance(reported, Usage)
    stats = reported.usage
    found = (stats.input_tokens, stats.output_tokens, stats.total_tokens)
    assert counts == (*found, stats.cached_input_tokens, stats.reasoning_tokens)
    assert usage == stats.provider_usage_raw


def test_usage_is_cumulative() -> None:
    """Each chunk's usage counts from the beginning: the last one stands, and is reported once."""
    first, last = {"promptTokenCount": 5, "candidatesTokenCount": 1}, {"promptTokenCount": 5, "candidatesTokenCount": 9}
    events = whole(
        chunk({"text": "a"}) | {"usageMetadata": first}, chunk(finishReason="STOP") | {"usageMetadata": last}
    )

    assert [event.usage.output_tokens for event in events if isinstance(event, Usage)] == [9]


@pytest.mark.parametrize(
    ("error", "kind", "retryable", "delay"),
    [
        ({"code": 503, "status": "UNAVAILABLE"}, "backend_transient", True, None),
        ({"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "2s"}]}, "rate_limited", True, 2000),
        ({"code": 400, "status": "INVALID_ARGUMENT"}, "invalid_request", False, None),
        (
            {"code": 400, "status": "INVALID_ARGUMENT", "details": [{"reason": "API_KEY_INVALID"}]},
            "authentication",
            False,
            None,
        ),
        ({"message": "?"}, "backend_transient", True, None),
    ],
)
def test_an_error_inside_the_answer_is_told_by_its_code(error: Any, kind: str, retryable: bool, delay: Any) -> None:
    """An error after HTTP 200 is what its code stands for."""
    with pytest.raises(GatewayError) as raised:
        feed(chunk({"text": "a"}), {"error": error})

    assert (raised.value.kind, raised.value.retryable, raised.value.retry_after_ms) == (kind, retryable, delay)


def test_an_unstreamed_answer_must_be_complete() -> None:
    """A body without a finishReason and without content is not taken for an answer."""
    bodies: list[JsonObject] = [{"oops": 1}, chunk(), chunk({"text": ""}, finishReason="null")]
    for body in bodies:
        with pytest.raises(GatewayError) as raised:
            a_decoder().feed_whole(body, [])

        assert raised.value.kind == "protocol_violation"


def said(events: list[BackendRawEvent]) -> str:
    return "".join(event.delta for event in events if isinstance(event, OutputTextDelta))


def metadata(events: list[BackendRawEvent]) -> dict[str, Any]:
    assert isinstance(events[-1], Completed)
    return events[-1].backend_metadata


def pieces_of(events: list[BackendRawEvent]) -> Any:
    return metadata(events)["provider_state"]["gemini"]["pieces"]


def test_content_after_an_end_mark_is_delivered() -> None:
    """Some models say STOP in every chunk, or before the last parts: the last word counts (B3)."""
    words = ("One", " two", " three")
    events = whole(*(chunk({"text": word}, finishReason="STOP") for word in words), chunk(finishReason="MAX_TOKENS"))

    assert said(events) == "One two three"
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "length"


@pytest.mark.parametrize("word", ["", "null", "None", None])
def test_some_words_are_no_finish_reason(word: str | None) -> None:
    """The answer goes on (B5)."""
    decoder, _ = feed(chunk({"text": "a"}, finishReason=word), {"promptFeedback": {"blockReason": word}})

    assert not decoder.ended


def unstreamed(body: JsonObject) -> list[BackendRawEvent]:
    decoder, events = a_decoder(), list[BackendRawEvent]()
    decoder.feed_whole(body, events)
    decoder.finish(events)
    return events


def test_a_whole_body_without_a_finish_reason_is_completed_where_it_has_content() -> None:
    """Text or calls, which HTTP proves whole; thoughts alone are no answer (B6)."""
    call = {"functionCall": {"name": "look", "args": {"a": 1}}}
    answers = [unstreamed(chunk({"text": "a"}))[-1], unstreamed(chunk({"text": "a"}, call))[-1]]

    assert [event.finish_reason for event in answers if isinstance(event, Completed)] == ["stop", "tool_calls"]
    with pytest.raises(GatewayError) as raised:
        unstreamed(chunk({"text": "hm", "thought": True}))
    assert raised.value.kind == "protocol_violation"


def test_an_unstreamed_answer_has_one_delta_of_text() -> None:
    """However many parts it has: thoughts first, then text, then calls."""
    call = {"functionCall": {"name": "look"}}
    events = unstreamed(chunk({"text": "1"}, call, {"text": "hm", "thought": True}, {"text": "2"}, finishReason="STOP"))

    assert [type(event) for event in events] == [
        ReasoningDelta,
        OutputTextDelta,
        ToolCallDelta,
        ToolCallReady,
        Completed,
    ]
    assert said(events) == "12"


@pytest.mark.parametrize(
    ("parts", "reasoning"),
    [
        ([{"text": "O", "thought": True}, {"text": "ne", "thought": True}], "One"),
        ([{"text": "O", "thought": True}, {"text": ""}, {"text": "ne", "thought": True}], "One"),
        ([{"text": "One", "thought": True}, {"text": "!"}, {"text": "Two", "thought": True}], "One\n\nTwo"),
        (
            [{"text": "One", "thought": True}, {"functionCall": {"name": "look"}}, {"text": "Two", "thought": True}],
            "One\n\nTwo",
        ),
        (
            [{"text": "One", "thought": True}, {"executableCode": {"code": "1"}}, {"text": "Two", "thought": True}],
            "One\n\nTwo",
        ),
        ([{"text": "!"}, {"text": "One", "thought": True, "thoughtSignature": "s"}], "One"),
    ],
)
def test_one_thought_and_the_next_are_separated_by_a_blank_line(parts: list[Any], reasoning: str) -> None:
    """Chunks of one thought are not (B14)."""
    for events in (
        whole(*map(chunk, parts), chunk(finishReason="STOP")),
        unstreamed(chunk(*parts, finishReason="STOP")),
    ):
        assert "".join(event.delta for event in events if isinstance(event, ReasoningDelta)) == reasoning


def test_parts_of_every_kind_go_back_as_they_came() -> None:
    """With their signatures in their places; unsigned thoughts, which Gemini does not want back, do not."""
    parts: list[Any] = [
        {"text": "hm", "thought": True},
        {"executableCode": {"language": "PYTHON", "code": "print(4)"}, "thoughtSignature": "S"},
        {"codeExecutionResult": {"outcome": "OUTCOME_OK", "output": "4"}},
        {"text": "4", "thoughtSignature": "T"},
        {"inlineData": {"mimeType": "image/png", "data": "AAAA"}, "thought": True},
        {"toolCall": {"id": "t"}, "partMetadata": {"a": 1}},
        {"thoughtSignature": "U", "thought": True},
    ]
    events = whole(*map(chunk, parts), chunk(finishReason="STOP"))

    assert pieces_of(events) == [
        {"opaque": parts[1]},
        {"opaque": parts[2]},
        {"text": 1, "extra": {"thoughtSignature": "T"}},
        {"opaque": parts[4]},
        {"opaque": parts[5]},
        {"opaque": parts[6]},
    ]
    turn = message("assistant", text(said(events)), provider_state=metadata(events)["provider_state"])
    sent = encode(message("user", text("Hi")), turn, message("user", text("Go on"))).body["contents"][1]["parts"]
    assert sent == parts[1:]


def test_what_no_frame_carries_is_counted_by_kind() -> None:
    """Parts one by one; what later chunks repeat, and add to, once."""
    media = ("image/png", "audio/wav", "video/mp4", "application/pdf")
    parts: list[dict[str, Any]] = [{"inlineData": {"mimeType": kind, "data": "AA"}} for kind in media]
    parts.append({"audioMetadata": {"x": 1}, "fileData": {"mimeType": "image/png", "fileUri": "gs://x"}})
    found = {"groundingChunks": [{}, {}], "webSearchQueries": ["x"]}
    events = whole(
        chunk(*parts, {"executableCode": {"code": "1"}}, groundingMetadata={"groundingChunks": [{}]}),
        chunk(
            citationMetadata={"citationSources": [{}, {}]},
            groundingMetadata=found,
            logprobsResult={"chosenCandidates": [{}]},
            urlContextMetadata={"urlMetadata": [{}]},
            finishReason="STOP",
            index=0,
        ),
        chunk(citationMetadata={"citations": [{}]}, groundingMetadata={"webSearchQueries": ["x"]}, index=0, x=1),
    )

    assert metadata(events)["not_carried"] == {
        "image": 2,
        "audio": 1,
        "video": 1,
        "file": 1,
        "executableCode": 1,
        "grounding": 2,
        "citations": 2,
        "logprobs": 1,
        "url_context": 1,
    }
    assert "not_carried" not in metadata(whole(chunk({"text": "a"}, finishReason="STOP", index=0, safetyRatings=[{}])))


def test_other_candidates_are_passed_over() -> None:
    """Nobody asked for them."""
    second = {"content": {"parts": [{"text": "B"}]}, "index": 1, "finishReason": "MAX_TOKENS"}
    first = chunk({"text": "A"}, index=0, finishReason="STOP")["candidates"][0]
    events = whole({"candidates": [second, first, second]})

    assert said(events) == "A"
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == "stop"


def test_a_count_is_never_lowered() -> None:
    """A last chunk with fewer counts, zeros or nulls leaves what was told (B13)."""
    full = {"promptTokenCount": 5, "candidatesTokenCount": "2", "thoughtsTokenCount": 3.0}
    for last in ({"promptTokenCount": 0, "candidatesTokenCount": None}, {"totalTokenCount": 10}, {}):
        events = whole(
            chunk({"text": "a"}) | {"usageMetadata": full}, chunk(finishReason="STOP") | {"usageMetadata": last}
        )
        [stats] = [event.usage for event in events if isinstance(event, Usage)]
        assert (stats.input_tokens, stats.output_tokens, stats.total_tokens, stats.reasoning_tokens) == (5, 5, 10, 3)


@pytest.mark.parametrize("arguments", [{"a": 1}, '{"a": 1}'])
def test_arguments_may_be_an_object_or_its_text(arguments: Any) -> None:
    """Proxies send both."""
    events = whole(chunk({"functionCall": {"name": "look", "args": arguments}}, finishReason="STOP"))

    assert [event.call.arguments for event in events if isinstance(event, ToolCallReady)] == [{"a": 1}]


@pytest.mark.parametrize("arguments", [b'{"x":1e999}', b'"{"', b"[1]", b'"[]"'])
def test_arguments_that_are_no_object_are_a_protocol_violation(arguments: bytes) -> None:
    """Nor are they what a JSON number cannot hold."""
    part = b'{"candidates":[{"content":{"parts":[{"functionCall":{"name":"look","args":%b}}]}}]}' % arguments
    with pytest.raises(GatewayError) as raised:
        a_decoder().feed(part, [])

    assert raised.value.kind == "protocol_violation"


@pytest.mark.parametrize(
    "flood",
    [
        lambda n: chunk({"text": "a", "thoughtSignature": "s" * 300}),
        lambda n: chunk({"functionCall": {"name": "look", "id": f"{n}"}, "thoughtSignature": "s" * 300}),
        lambda n: chunk({"inlineData": {"mimeType": "image/png", "data": "A" * 300}}),
        lambda n: chunk({"text": "a", "thought": True, "thoughtSignature": "s" * 300}),
        lambda n: chunk({"functionCall": {"name": "look", "args": {"a": "x" * 300}}}),
    ],
)
def test_what_is_kept_of_an_answer_is_bounded(flood: Any) -> None:
    """Signatures, parts and calls without end are a protocol violation that names the setting."""
    error = flooded(a_decoder(max_bytes=20_000), (flood(number) for number in range(200)))

    assert error is not None
    assert error.kind == "protocol_violation"
    assert "max_event_bytes" in error.message


# --- both halves ---------------------------------------------------------------------------------------------

_signature = st.sampled_from([{}, {}, {"thoughtSignature": "c2lnbmF0dXJl"}, {"thoughtSignature": "+/+/"}])
_texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=4)
_parts = st.lists(
    st.one_of(
        st.builds(lambda value, signed: {"text": value, **signed}, _texts, _signature),
        st.builds(lambda value: {"text": value, "thought": True, "thoughtSignature": "dGhvdWdodA=="}, _texts),
        st.builds(
            lambda own, signed: {"functionCall": {"name": "look", "args": {"at": [1, 2.5]}, **own}, **signed},
            st.sampled_from([{}, {"id": ""}]),
            _signature,
        ),
    ),
    min_size=1,
    max_size=6,
)


def _merged(parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Unsigned texts that follow each other are one text; empty ones are none."""
    merged: list[dict[str, Any]] = []
    for part in parts:
        plain = part.keys() == {"text"}
        if plain and not part["text"]:
            continue
        if plain and merged and merged[-1].keys() == {"text"}:
            merged[-1] = {"text": merged[-1]["text"] + part["text"]}
        else:
            merged.append(part)
    return merged


@given(_parts, st.booleans())
def test_an_answer_goes_back_as_it_came(parts: list[dict[str, Any]], numbered: bool) -> None:
    """The parts of an answer, carried by a client as text, calls and state, are the same parts in the next request:
    each signature on its own part, unchanged; ids where there were ids."""
    for index, part in enumerate(parts):
        if "functionCall" in part:
            own = part["functionCall"] = {k: v for k, v in part["functionCall"].items() if k != "id"}
            if numbered:
                own["id"] = f"call-{index}"
    signed = [*parts, {"text": "", "thoughtSignature": "ZW5k"}]
    events = whole(*(chunk(part) for part in signed), chunk(finishReason="STOP"))
    completed = events[-1]
    assert isinstance(completed, Completed)
    said = "".join(event.delta for event in events if isinstance(event, OutputTextDelta))
    calls = [
        {"id": event.call.id, "name": event.call.name, "arguments_json": event.call.arguments_json}
        for event in events
        if isinstance(event, ToolCallReady)
    ]
    if not said and not calls:
        return  # a turn of signatures alone is none that a client can send
    turn = message(
        "assistant",
        *([text(said)] if said else []),
        **({"tool_calls": calls} if calls else {}),
        provider_state=completed.backend_metadata["provider_state"],
    )
    results = [message("tool", text("ok"), tool_call_id=call["id"], tool_name="look") for call in calls]

    contents = encode(message("user", text("Hi")), turn, *results).body["contents"]

    assert _merged(signed) == contents[1]["parts"]
    if calls:
        assert [numbered] * len(calls) == ["id" in part["functionResponse"] for part in contents[2]["parts"]]


_candidate = shaken(
    {
        "content": shaken(
            {
                "parts": st.lists(
                    shaken(
                        {
                            "text": st.text(max_size=3),
                            "thought": st.booleans(),
                            "thoughtSignature": st.just("eA=="),
                            "functionCall": shaken(
                                {"name": st.just("look"), "args": json_values, "id": st.sampled_from(["a", "b"])}
                            ),
                        }
                    ),
                    max_size=2,
                )
            }
        ),
        "finishReason": st.sampled_from(["STOP", "MAX_TOKENS", "OTHER"]),
        "finishMessage": st.text(max_size=3),
        "index": st.just(0),
    }
)
_chunk = st.one_of(
    json_values,
    shaken(
        {
            "candidates": st.lists(_candidate, max_size=1),
            "promptFeedback": shaken({"blockReason": st.just("SAFETY")}),
            "usageMetadata": shaken({"promptTokenCount": st.integers(), "thoughtsTokenCount": st.integers()}),
            "error": shaken(
                {"code": json_values, "details": st.lists(shaken({"retryDelay": st.just("1s")}), max_size=1)}
            ),
            "responseId": st.text(max_size=3),
        }
    ),
)


@given(st.lists(_chunk, max_size=6))
def test_whatever_the_backend_says_nothing_but_gateway_errors_comes_of_it(payloads: list[Any]) -> None:
    """Arbitrary answers, near misses of real ones too, are decoded or refused."""
    survives(a_decoder(), payloads)
