"""`RequestNormalizer`: a frame becomes a request that is certain, or `invalid_request`."""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]

from beluna_gateway.canonical import (
    AssistantMessage,
    Cache,
    CanonicalRequest,
    FilePart,
    ImagePart,
    JsonPart,
    JsonSchemaOutput,
    Reasoning,
    Sampling,
    SpecificTool,
    SystemMessage,
    TextPart,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.request_normalizer import SCHEMA_KEYWORDS, RequestNormalizer
from beluna_gateway.wire.frames import Infer
from beluna_gateway.wire.ndjson import decode

USER = {"role": "user", "parts": [{"text": {"text": "hello"}}]}
CALL = {"id": "call_1", "name": "weather", "arguments_json": '{"city":"Oslo"}'}
ASSISTANT = {"role": "assistant", "parts": [], "tool_calls": [CALL]}
RESULT = {"role": "tool", "tool_call_id": "call_1", "tool_name": "weather", "parts": [{"json": {"value": {"t": 3}}}]}


def normalize(**fields: Any) -> CanonicalRequest:
    """Through the wire, because that is where a frame's values come from."""
    frame = decode(json.dumps({"type": "infer", "messages": [USER], **fields}).encode())
    assert isinstance(frame, Infer)
    return RequestNormalizer().normalize(frame, "r1")


ROUTES = [
    {"kind": "alias", "capability": "chat", "alias": " low-cost "},
    {"kind": "key", "capability": "chat", "binding_id": " low-cost "},
]


def refusal(**fields: Any) -> str:
    with pytest.raises(GatewayError) as caught:
        normalize(**fields)
    assert caught.value.kind == "invalid_request"
    assert not caught.value.retryable
    return caught.value.message


def image(url: str, mime_type: str | None = None) -> ImagePart:
    request = normalize(messages=[{"role": "user", "parts": [{"image_url": {"url": url, "mime_type": mime_type}}]}])
    part = request.messages[0].parts[0]
    assert isinstance(part, ImagePart)
    return part


# --- the whole -----------------------------------------------------------------------------------------------


def test_a_request_of_base_fields_has_every_default():
    """A request that says nothing but its messages leaves backend and model open, and everything else at rest."""
    expected = CanonicalRequest(request_id="r1", messages=(UserMessage((TextPart("hello"),)),))

    assert expected == normalize()


def test_every_field_of_a_frame_arrives():
    """Nothing that a client may say is dropped on the way."""
    schema: Any = {"type": "object", "properties": {"city": {"type": "string"}}}
    request = normalize(
        backend_id="b",
        model="m",
        tools=[{"name": "weather", "description": "d", "input_schema": schema}],
        tool_choice={"specific": {"name": "weather"}},
        output_mode={"json_schema": {"name": "answer", "schema": schema, "strict": False}},
        limits={"max_output_tokens": 5, "max_request_time_ms": 6},
        metadata={"k": "v"},
        stream=False,
        sampling={"temperature": 0.5, "top_p": 1, "seed": -3, "stop": ["x", ""]},
        enable_thinking=False,
        include_reasoning=True,
        parallel_tool_calls=False,
        service_tier="flex",
        include_annotations=True,
        provider_options={"deep": {"er": [None]}},
    )

    assert request == CanonicalRequest(
        request_id="r1",
        messages=(UserMessage((TextPart("hello"),)),),
        backend_hint="b",
        model="m",
        tools=(Tool("weather", "d", schema),),
        tool_choice=SpecificTool("weather"),
        output_mode=JsonSchemaOutput("answer", schema, strict=False),
        max_output_tokens=5,
        max_request_time_ms=6,
        metadata={"k": "v"},
        stream=False,
        sampling=Sampling(0.5, 1, -3, ("x", "")),
        enable_thinking=False,
        include_reasoning=True,
        parallel_tool_calls=False,
        service_tier="flex",
        include_annotations=True,
        provider_options={"deep": {"er": [None]}},
    )


def test_cache_arrives_field_by_field():
    """What is missing is left to the backend's configuration."""
    assert normalize(cache={"key": "k", "retention": "long"}).cache == Cache(None, "k", "long")
    assert normalize(cache={"mode": "off"}).cache == Cache("off")
    assert normalize(cache={}).cache == Cache()
    assert normalize().cache is None


@pytest.mark.parametrize("message", [USER, USER | {"role": "system"}, ASSISTANT, RESULT], ids=lambda m: m["role"])
def test_any_message_may_be_marked(message):
    """True marks it; false and null are absent."""
    marks = [
        normalize(messages=[message | extra]).messages[0].cache for extra in ({"cache": True}, {"cache": False}, {})
    ]

    assert marks == [True, False, False]


def test_at_most_four_messages_are_marked():
    """Anthropic takes no more; which of them count would be a guess."""
    normalize(messages=[USER | {"cache": True}] * 4 + [USER, USER | {"cache": False}])
    assert "more than 4" in refusal(messages=[USER | {"cache": True}] * 5)


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"effort": "max", "summary": "detailed"}, Reasoning(effort="max", summary="detailed")),
        ({"budget_tokens": 0}, Reasoning(budget_tokens=0)),
        ({"effort": None}, None),
        ({}, None),
        (None, None),
    ],
)
def test_reasoning_arrives_where_it_says_something(asked, expected):
    """An object that says nothing is absent, also beside `enable_thinking`."""
    assert normalize(reasoning=asked).reasoning == expected
    if expected is None:
        assert normalize(reasoning=asked, enable_thinking=False).enable_thinking is False


@pytest.mark.parametrize("asked", [{"effort": "off"}, {"budget_tokens": 2048}, {"summary": "auto"}])
@pytest.mark.parametrize("enable", [True, False])
def test_reasoning_and_enable_thinking_exclude_each_other(asked, enable):
    """Which of them counts would be a guess, also where both say off."""
    message = refusal(reasoning=asked, enable_thinking=enable)

    assert message == "reasoning: not together with enable_thinking; effort 'off' is its false"


def test_effort_and_a_budget_exclude_each_other():
    """One says in words what the other says in tokens."""
    message = refusal(reasoning={"effort": "low", "budget_tokens": 2048})

    assert message == "reasoning.budget_tokens: not together with reasoning.effort; name one of them"


@pytest.mark.parametrize("mode", ["text", "json_object"])
def test_plain_output_modes_stay_words(mode):
    """`text` and `json_object` are kept as they are."""
    assert mode == normalize(output_mode=mode).output_mode


@pytest.mark.parametrize("choice", ["auto", "none", "required"])
def test_plain_tool_choices_stay_words(choice):
    """`auto`, `none` and `required` need no tool of that name."""
    assert choice == normalize(tool_choice=choice).tool_choice


# --- messages ------------------------------------------------------------------------------------------------


def test_no_messages_are_refused():
    """A request has at least one message."""
    assert refusal(messages=[]) == "messages: empty; at least one message is needed"


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_no_parts_are_refused(role):
    """A message has at least one part, unless it is the assistant's and has tool calls."""
    linkage = {"tool_call_id": "c", "tool_name": "t"} if role == "tool" else {}

    assert "messages[1].parts: empty" in refusal(messages=[USER, {"role": role, "parts": [], **linkage}])
    if role == "assistant":
        assert "messages[0].parts: empty" in refusal(messages=[{"role": role, "parts": [], "tool_calls": []}])


def test_a_conversation_with_a_call_and_its_result():
    """Roles, parsed arguments and the note of the provider arrive; a JSON part has its text beside it."""
    state: Any = {"anthropic": {"blocks": [1]}}
    request = normalize(
        messages=[{"role": "system", "parts": USER["parts"]}, USER, {**ASSISTANT, "provider_state": state}, RESULT]
    )

    assert request.messages == (
        SystemMessage((TextPart("hello"),)),
        UserMessage((TextPart("hello"),)),
        AssistantMessage((), (ToolCall("call_1", "weather", '{"city":"Oslo"}', {"city": "Oslo"}),), state),
        ToolMessage("call_1", "weather", (JsonPart({"t": 3}, '{"t":3}'),)),
    )


@pytest.mark.parametrize(
    "missing", [{"tool_call_id": None}, {"tool_name": None}, {"tool_call_id": ""}, {"tool_name": ""}]
)
def test_a_tool_message_names_its_call_and_its_tool(missing):
    """A `tool` message without `tool_call_id` or `tool_name` answers nothing."""
    assert "tool_call_id and tool_name" in refusal(messages=[USER, {**RESULT, **missing}])


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
@pytest.mark.parametrize("field", ["tool_call_id", "tool_name"])
def test_only_tool_messages_are_linked(role, field):
    """No other role may have `tool_call_id` or `tool_name`, not even an empty one."""
    message = refusal(messages=[{**USER, "role": role, field: ""}])

    assert message == f"messages[0].{field}: only a tool message may have it, this one is {role!r}"


@pytest.mark.parametrize("role", ["system", "user", "tool"])
@pytest.mark.parametrize("field", [{"tool_calls": [CALL]}, {"provider_state": {"gemini": []}}])
def test_only_the_assistant_has_calls_and_state(role, field):
    """`tool_calls` and `provider_state` belong to the assistant alone."""
    message = {**(RESULT if role == "tool" else USER), "role": role, **field}

    assert f"messages[0].{next(iter(field))}: only an assistant" in refusal(messages=[message])


@pytest.mark.parametrize("role", ["system", "user", "assistant", "tool"])
def test_empty_calls_and_state_are_absent(role):
    """`[]` and `{}`, which core writes on every message, mean nothing on any role."""
    message = RESULT if role == "tool" else {**USER, "role": role}
    empty = {**message, "tool_calls": [], "provider_state": {}}

    assert normalize(messages=[empty]).messages == normalize(messages=[message]).messages


def test_a_call_is_put_back_as_it_came():
    """`tool_call_ready.call` has a status, and may be an entry of `tool_calls` as it is."""
    ready = {**ASSISTANT, "tool_calls": [{**CALL, "status": "ready"}]}

    assert normalize(messages=[ready]).messages == normalize(messages=[{**ASSISTANT, "tool_calls": [CALL]}]).messages


def test_a_result_may_have_images_and_files_and_say_that_it_failed():
    """Whether the provider takes them there is the dialect's business."""
    parts = [{"image_url": {"url": "https://h/i.png"}}, {"file": {"data": "aGk=", "mime_type": "a/b"}}]
    message = normalize(messages=[ASSISTANT, {**RESULT, "parts": parts, "is_error": True}]).messages[1]

    expected = (ImagePart("https://h/i.png", None, None), FilePart(None, "aGk=", "a/b"))
    assert message == ToolMessage("call_1", "weather", expected, is_error=True)


@pytest.mark.parametrize("role", ["system", "user", "assistant"])
def test_only_a_result_can_be_an_error(role):
    """False and null are absent everywhere."""
    assert "messages[0].is_error" in refusal(messages=[{**USER, "role": role, "is_error": True}])
    for absent in (False, None):
        normalize(messages=[{**USER, "role": role, "is_error": absent}])


def test_a_result_answers_an_earlier_call():
    """Where the history has calls, a result must answer one that came before it."""
    assert "answers no call" in refusal(messages=[ASSISTANT, {**RESULT, "tool_call_id": "other"}])
    assert "messages[0].tool_call_id" in refusal(messages=[RESULT, ASSISTANT])


def test_results_without_any_calls_are_taken():
    """Core has no place for past calls: a history without any may hold results all the same."""
    assert isinstance(normalize(messages=[USER, RESULT]).messages[1], ToolMessage)


@pytest.mark.parametrize(
    "arguments",
    [
        "",
        "[]",
        "null",
        '"{}"',
        "{",
        '{"a":}',
        "{}{}",
        "{'a':1}",
        '{"a":NaN}',
        '{"a":1e400}',
        '{"a":"\\ud800"}',
        '{"a":' + "[" * 300 + "]" * 300 + "}",
        '{"a":' + "9" * 250 + "e99}",
    ],
)
def test_past_arguments_are_a_json_object(arguments):
    """`arguments_json` is one JSON object in a string, of numbers that a dialect can write again."""
    call = {**CALL, "arguments_json": arguments}

    assert "messages[0].tool_calls[0].arguments_json" in refusal(messages=[{**ASSISTANT, "tool_calls": [call]}])


@pytest.mark.parametrize("empty", ["id", "name"])
def test_past_calls_have_an_id_and_a_name(empty):
    """A call that cannot be named cannot be answered."""
    assert "messages[0].tool_calls[0]" in refusal(messages=[{**ASSISTANT, "tool_calls": [{**CALL, empty: ""}]}])


# --- files ---------------------------------------------------------------------------------------------------


def file(**fields: Any) -> Any:
    part = {"file": {"mime_type": "application/pdf", **fields}}
    return normalize(messages=[{"role": "user", "parts": [part]}]).messages[0].parts[0]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"data": "aGk=", "name": "a.pdf"}, FilePart(None, "aGk=", "application/pdf", "a.pdf")),
        ({"data": "aGk=", "url": None, "name": ""}, FilePart(None, "aGk=", "application/pdf", None)),
        ({"url": "https://h/a"}, FilePart("https://h/a", None, "application/pdf", None)),
        ({"url": "data:text/plain,hi"}, FilePart(None, "aGk=", "text/plain", None)),
        ({"url": "data:;base64,aGk="}, FilePart(None, "aGk=", "application/pdf", None)),
        ({"data": "aGk=", "mime_type": "Text/Plain"}, FilePart(None, "aGk=", "text/plain", None)),
        ({"data": "aGk=", "mime_type": "IMAGE/JPG"}, ImagePart(None, "aGk=", "image/jpeg")),
        ({"url": "https://h/a", "mime_type": "image/png"}, ImagePart("https://h/a", None, "image/png")),
        ({"url": "data:image/png;base64,aGk="}, ImagePart(None, "aGk=", "image/png")),
    ],
)
def test_a_file_comes_by_its_data_or_by_a_url(fields, expected):
    """One that is an image is an image."""
    assert file(**fields) == expected


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({}, "file: expected exactly one"),
        ({"url": "https://h/a", "data": "aGk="}, "file: expected exactly one"),
        ({"data": "aGk"}, "file.data: its data is not base64"),
        ({"data": "é"}, "file.data: its data is not base64"),
        ({"url": "ftp://h/a"}, "file.url: expected an http"),
        ({"url": "https://"}, "file.url: not a URL"),
        ({"url": "data:x"}, "file.url: not a data: URL"),
        ({"data": "aGk=", "mime_type": ""}, "file.mime_type"),
        ({"data": "aGk=", "mime_type": "pdf"}, "file.mime_type"),
        ({"data": "aGk=", "mime_type": "text/plain; charset=utf-8"}, "file.mime_type"),
        ({"data": "aGk=", "mime_type": "a/b\n"}, "file.mime_type"),
    ],
)
def test_a_file_that_cannot_be_one_is_refused(fields, named):
    """With its place, and what was expected there."""
    part = {"file": {"mime_type": "application/pdf", **fields}}

    assert refusal(messages=[{"role": "user", "parts": [part]}]).startswith(f"messages[0].parts[0].{named}")


# --- images --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["http://h/i.png", "https://h:8443/i?q=1#f", "HTTPS://h/i"])
def test_remote_images_are_passed_on(url):
    """An `http:` or `https:` image stays a reference, to the letter."""
    assert image(url, "image/png") == ImagePart(url, None, "image/png")
    assert image(url).data_url == url


@pytest.mark.parametrize(
    "url", ["", "i.png", "ftp://h/i", "file:///etc/passwd", "javascript:1", " https://h/i", "blob:x"]
)
def test_other_schemes_are_refused(url):
    """Only `http:`, `https:` and `data:` name an image."""
    message = refusal(messages=[{"role": "user", "parts": [{"image_url": {"url": url}}]}])

    assert message.startswith("messages[0].parts[0].image_url.url: ")


@pytest.mark.parametrize("url", ["http:", "https://", "http:///i.png", "https://[::1"])
def test_a_url_without_a_host_is_refused(url):
    """A reference that leads nowhere is refused here rather than by the provider."""
    assert "no host" in refusal(messages=[{"role": "user", "parts": [{"image_url": {"url": url}}]}])


@pytest.mark.parametrize(
    ("url", "mime_type", "expected"),
    [
        ("data:image/png;base64,aGk=", None, ImagePart(None, "aGk=", "image/png")),
        ("DATA:IMAGE/PNG;BASE64,aGk=", None, ImagePart(None, "aGk=", "image/png")),
        ("data:image/png;name=a;base64,aGk=", None, ImagePart(None, "aGk=", "image/png")),
        ("data:;base64,aGk=", "image/gif", ImagePart(None, "aGk=", "image/gif")),
        ("data:image/png;base64,aGk=", "image/gif", ImagePart(None, "aGk=", "image/png")),
        ("data:image/png;base64,aGk%3D", None, ImagePart(None, "aGk=", "image/png")),
        ("data:image/svg+xml,%3Csvg/%3E", None, ImagePart(None, base64.b64encode(b"<svg/>").decode(), "image/svg+xml")),
        ("data:image/svg+xml;base64x,hi", None, ImagePart(None, "aGk=", "image/svg+xml")),
        ("data:image/svg+xml,a,b", None, ImagePart(None, base64.b64encode(b"a,b").decode(), "image/svg+xml")),
    ],
)
def test_data_urls_become_base64(url, mime_type, expected):
    """Media type and data of a `data:` URL come apart, whichever way it is written; `mime_type` is for one that has no
    media type of its own.
    """
    assert expected == image(url, mime_type)


@given(st.binary(min_size=1, max_size=50), st.sampled_from(["image/png", "image/webp"]))
def test_an_image_survives_as_it_is(data, mime_type):
    """The bytes of an image by value are those of its `data:` URL, and that URL can be made again."""
    url = f"data:{mime_type};base64,{base64.b64encode(data).decode()}"
    part = image(url)

    assert part.data is not None
    assert data == base64.b64decode(part.data)
    assert url == part.data_url


@pytest.mark.parametrize(
    "url",
    [
        "data:image/png;base64",
        "data:,x",
        "data:;base64,aGk=",
        "data:image/png;base64,a",
        "data:image/png;base64,a\nGk=",
        "data:image/png;base64,aGk",
        "data:image/png;base64,aGk=x",
        "data:image/png;base64,é",
    ],
)
def test_broken_data_urls_are_refused(url):
    """No comma, no media type, or data that is not base64."""
    assert "image_url.url" in refusal(messages=[{"role": "user", "parts": [{"image_url": {"url": url}}]}])


@pytest.mark.parametrize("url", ["data:image/jpg;base64,aGk=", "data:IMAGE/JPG;base64,aGk="])
def test_the_common_name_of_jpeg(url):
    """`image/jpg` is `image/jpeg`, wherever it stands."""
    assert image(url).mime_type == "image/jpeg"
    assert image("https://h/i", "image/jpg").mime_type == "image/jpeg"
    assert image("data:;base64,aGk=", "image/jpg").mime_type == "image/jpeg"


def test_a_media_type_is_in_small_letters():
    """RFC 2045: case does not count; providers know the small ones."""
    assert image("data:;base64,AAAA", "IMAGE/PNG").mime_type == "image/png"
    assert image("https://h/i", "Image/JPG").mime_type == "image/jpeg"


@pytest.mark.parametrize(
    "options",
    [
        {"n": 2},
        {"n": 2.0},
        {"num_choices": 3},
        {"candidateCount": 2},
        {"generationConfig": {"candidateCount": 2}},
        {"generationConfig": {"candidateCount": "2"}},
        {"n": "10"},
        {"generation_config": {"candidate_count": 2}},
    ],
)
def test_several_answers_are_refused(options):
    """An option that asks for more than one answer is `unsupported_capability`, naming it."""
    with pytest.raises(GatewayError, match="provider_options") as failure:
        normalize(provider_options=options)
    assert failure.value.kind == "unsupported_capability"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"n": 1},
        {"n": "two"},
        {"n": "01"},
        {"n": "0"},
        {"generationConfig": {"candidateCount": 1}},
        {"generationConfig": 5},
    ],
)
def test_one_answer_may_be_asked_for(options):
    """Options that ask for one answer, or that only the provider can judge, go on to it."""
    assert normalize(provider_options=options).provider_options == options


# --- tools and output ----------------------------------------------------------------------------------------


RIGHT_VALUES: dict[str, Any] = {
    **dict.fromkeys(("additionalProperties", "not", "if", "then", "else", "contains", "propertyNames"), True),
    **dict.fromkeys(("items", "additionalItems", "unevaluatedItems", "unevaluatedProperties", "contentSchema"), True),
    **{key: {"a": True} for key in ("properties", "patternProperties", "$defs", "definitions", "dependentSchemas")},
    **{key: [True] for key in ("allOf", "anyOf", "oneOf", "prefixItems")},
    **{key: ["a"] for key in ("required", "enum", "examples")},
    **{key: {"a": ["b"]} for key in ("dependencies", "dependentRequired")},
    **dict.fromkeys(("format", "pattern", "title", "description", "contentMediaType", "contentEncoding"), "x"),
    **dict.fromkeys(("$schema", "$id", "id", "$ref", "$dynamicRef", "$recursiveRef", "$comment"), "urn:x"),
    **dict.fromkeys(("$anchor", "$dynamicAnchor"), "x"),
    **dict.fromkeys(("minItems", "maxItems", "minLength", "maxLength", "minimum", "maximum", "multipleOf"), 1),
    **dict.fromkeys(("minProperties", "maxProperties", "minContains", "maxContains", "default", "const"), 1),
    **dict.fromkeys(("exclusiveMinimum", "exclusiveMaximum", "uniqueItems", "deprecated", "readOnly"), True),
    **dict.fromkeys(("writeOnly", "$recursiveAnchor", "nullable"), True),
    "$vocabulary": {"urn:x": True},
    "type": "object",
}


def test_every_keyword_of_json_schema_is_known():
    """The drafts' own meta-schemas name no keyword that may not stand at the top level of a tool's schema."""
    named = {
        keyword
        for uri in REGISTRY
        if re.search(r"draft-0[467]|/(2019-09|2020-12)/", uri)
        for keyword in REGISTRY.contents(uri)["properties"]
    }

    assert named | {"nullable"} == SCHEMA_KEYWORDS == RIGHT_VALUES.keys()


@pytest.mark.parametrize("keyword", sorted(SCHEMA_KEYWORDS))
def test_each_keyword_is_taken_at_the_top(keyword):
    """Every keyword may stand at the top level of a tool's schema, and is sent where it says anything of arguments."""
    schema = {keyword: RIGHT_VALUES[keyword]}

    (tool,) = normalize(tools=[{"name": "t", "input_schema": schema}]).tools

    assert tool.input_schema == ({} if keyword in ("$schema", "$id", "$comment") else schema)


@pytest.mark.parametrize("route", ROUTES)
def test_both_forms_of_a_route_name_an_alias(route):
    """Core trims the name, and so is it done here; without a route there is none."""
    assert normalize(route=route).route == "low-cost"
    assert normalize().route is None


@pytest.mark.parametrize("route", ROUTES)
@pytest.mark.parametrize("other", [{"backend_id": "b"}, {"model": "m"}, {"backend_id": "b", "model": "m"}])
def test_a_route_stands_alone(route, other):
    """A route decides both backend and model, so that a request with either beside it contradicts itself."""
    assert refusal(route=route, **other) == "route: not together with backend_id or model"


def test_sampling_without_stop_stops_at_nothing():
    """Any part of `sampling` may be left out."""
    assert normalize(sampling={"top_p": 0.5}).sampling == Sampling(top_p=0.5)


def test_no_stop_sequences_are_none():
    """An empty list says nothing. OpenAI refuses it, and at Ollama it takes the place of the model's own."""
    assert normalize(sampling={"stop": []}).sampling == Sampling()


@pytest.mark.parametrize("strict", [True, False])
def test_strict_stands_beside_the_schema_or_in_it(strict):
    """`strict` is the tool's, also where it stands in `input_schema`, and no part of the schema that is sent."""
    for fields in ({"input_schema": {"strict": strict}}, {"input_schema": {}, "strict": strict}):
        (tool,) = normalize(tools=[{"name": "t", **fields}]).tools

        assert (tool.strict, tool.input_schema) == (strict, {})


@pytest.mark.parametrize(
    "fields", [{"input_schema": {"strict": "yes"}}, {"input_schema": {"strict": True}, "strict": False}]
)
def test_a_strict_that_is_none_is_refused(fields):
    """Anything but a boolean, and two that contradict each other."""
    assert re.match(r"tools\[0\]\.(input_schema\.)?strict: ", refusal(tools=[{"name": "t", **fields}]))


@pytest.mark.parametrize("keyword", ["x-mine", "parameters", "optional", ""])
def test_other_keywords_at_the_top_are_refused(keyword):
    """Any other keyword is refused, naming the tool; the same keyword deeper inside is the provider's business."""
    message = refusal(tools=[{"name": "weather", "input_schema": {keyword: {}}}])

    assert message == (
        f"tools[0].input_schema: tool 'weather' has the unsupported keyword {keyword!r} at its top level"
    )
    inner = {"type": "object", "properties": {"a": {"const": 1, "x-mine": 2}}}
    assert normalize(tools=[{"name": "weather", "input_schema": inner}]).tools[0].input_schema == inner


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "objekt"},
        {"type": 5},
        {"required": "a"},
        {"properties": []},
        {"properties": {"a": {"minimum": "1"}}},
        {"allOf": []},
        {"$defs": {"a": {"items": [1]}}},
    ],
)
def test_schemas_must_be_schemas(schema):
    """What is no JSON Schema is refused, for tools and for the output, at every depth."""
    assert "no valid JSON Schema" in refusal(tools=[{"name": "weather", "input_schema": schema}])
    assert "not a valid JSON Schema" in refusal(output_mode={"json_schema": {"name": "n", "schema": schema}})


def test_the_output_schema_may_use_any_keyword():
    """The list of keywords is the tools'; an output schema is only checked for being one."""
    mode = {"json_schema": {"name": "n", "schema": {"$schema": "https://json-schema.org/draft/2020-12/schema"}}}

    assert isinstance(normalize(output_mode=mode).output_mode, JsonSchemaOutput)


def test_names_are_there_and_unique():
    """Tools have different names, and neither a tool's nor a schema's name is empty."""
    tool = {"name": "t", "input_schema": {}}

    assert "tools[1].name" in refusal(tools=[tool, tool])
    assert "tools[0].name: empty" in refusal(tools=[{**tool, "name": ""}])
    assert refusal(output_mode={"json_schema": {"name": "", "schema": {}}}) == "output_mode.json_schema.name: empty"


def test_a_specific_tool_is_one_of_the_tools():
    """A `specific` choice names a tool of the same request."""
    choice = {"specific": {"name": "b"}}

    assert "tool_choice.specific.name" in refusal(tool_choice=choice)
    assert "tool_choice.specific.name" in refusal(tool_choice=choice, tools=[{"name": "a", "input_schema": {}}])


@pytest.mark.parametrize("before", range(4))
def test_a_long_percent_encoded_image_is_decoded_whole(before: int):
    """Escapes survive wherever a long URL is cut for decoding."""
    data = b"x" * before + bytes(range(256)) * 200
    message = {"role": "user", "parts": [{"image_url": {"url": f"data:image/png,{quote(data)}"}}]}

    (part,) = normalize(messages=[message]).messages[0].parts

    assert isinstance(part, ImagePart)
    assert part.data == base64.b64encode(data).decode()
