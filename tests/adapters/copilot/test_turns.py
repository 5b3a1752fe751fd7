"""A request as a session's history, a session's events as an answer; without any program."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.adapters.copilot.turns import TurnDecoder, history, system_text
from beluna_gateway.adapters.decoding.finish_reasons import finish_reason
from beluna_gateway.canonical import (
    AssistantMessage,
    Completed,
    JsonPart,
    OtherFinishReason,
    OutputTextDelta,
    ReasoningDelta,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    ToolMessage,
    Usage,
    UserMessage,
)
from beluna_gateway.errors import GatewayError

from .helpers import request

# --- history ---


def test_history():
    """Each turn becomes the event that a session keeps of it, in order and linked; the system turns are elsewhere."""
    asked = request(
        messages=(
            SystemMessage((TextPart("Be brief."),)),
            SystemMessage((TextPart("Be kind."),)),
            UserMessage((TextPart("Weather?"), JsonPart({"a": 1}, '{"a":1}'))),
            AssistantMessage((), (ToolCall("c1", "weather", '{"city": "Paris"}', {"city": "Paris"}),)),
            ToolMessage("c1", "weather", (TextPart("22 °C"),)),
            AssistantMessage((TextPart("Warm."),)),
            UserMessage((TextPart("And\nnow?"),)),
        )
    )

    events = [json.loads(line) for line in history(asked, "s1", "m1").splitlines()]

    assert [event["type"] for event in events] == [
        *("session.start", "user.message", "assistant.message", "tool.execution_complete", "assistant.message"),
        "user.message",
    ]
    assert [event["parentId"] for event in events] == [None, *(event["id"] for event in events[:-1])]
    start, question, call, result, answer, last = (event["data"] for event in events)
    assert (start["sessionId"], start["selectedModel"]) == ("s1", "m1")
    assert question["transformedContent"] == 'Weather?\n{"a":1}'
    assert call["toolRequests"] == [
        {"toolCallId": "c1", "name": "weather", "arguments": {"city": "Paris"}, "type": "function"}
    ]
    assert result == {"toolCallId": "c1", "success": True, "result": {"content": "22 °C"}}
    assert (answer["content"], answer["toolRequests"]) == ("Warm.", [])
    assert last["content"] == "And\nnow?"
    assert system_text(asked) == "Be brief.\n\nBe kind."


# --- answers ---


Event = tuple[str, dict[str, Any]]


def delta(text: str) -> Event:
    return "assistant.message_delta", {"deltaContent": text, "messageId": "m"}


def call_delta(call_id: str, text: str, name: str | None = "weather") -> Event:
    return "assistant.tool_call_delta", {"toolCallId": call_id, "toolName": name, "inputDelta": text}


def usage(finish: str | None = "stop", **fields: Any) -> Event:
    return "assistant.usage", {
        "model": "m1",
        "apiCallId": "x1",
        "inputTokens": 10,
        "outputTokens": 5,
        "cacheReadTokens": 4,
        **({} if finish is None else {"finishReason": finish}),
        **fields,
    }


def message(content: str = "", *calls: tuple[str, Any]) -> Event:
    requests = [{"toolCallId": call_id, "name": "weather", "arguments": arguments} for call_id, arguments in calls]
    return "assistant.message", {"content": content, "model": "m1", "apiCallId": "x1", "toolRequests": requests}


IDLE: Event = ("session.idle", {})


def decoded(*events: Event) -> tuple[bool, list[Any]]:
    decoder = TurnDecoder()
    out: list[Any] = []
    for kind, data in events:
        decoder.feed(kind, data, out)
    return decoder.done, out


def test_text():
    """Deltas are passed on, the message that repeats them is not; usage and end come after its end mark."""
    done, events = decoded(
        ("assistant.reasoning_delta", {"deltaContent": "hm"}),
        delta("hé"),
        delta(""),
        delta("llo"),
        usage(reasoningTokens=2, cost=0.33),
        message("héllo"),
        IDLE,
    )

    assert done
    *texts, used, completed = events
    assert texts == [ReasoningDelta("hm"), OutputTextDelta("hé"), OutputTextDelta("llo")]
    assert completed == Completed("stop", {"response_id": "x1", "model": "m1"})
    assert isinstance(used, Usage)
    stats = used.usage
    assert (stats.input_tokens, stats.output_tokens, stats.total_tokens) == (10, 5, 15)
    assert (stats.cached_input_tokens, stats.reasoning_tokens, stats.cost) == (4, 2, None)
    assert stats.provider_usage_raw == {
        "inputTokens": 10,
        "outputTokens": 5,
        "cacheReadTokens": 4,
        "reasoningTokens": 2,
        "cost": 0.33,
    }


def test_text_without_deltas():
    """A message that comes whole is its own delta."""
    _, events = decoded(usage(), message("hello"))

    assert events[0] == OutputTextDelta("hello")


@pytest.mark.parametrize(
    "events",
    [
        (delta("a"), usage(), message("a")),
        (delta("a"), message("a"), usage()),
        (delta("a"), message("a"), IDLE),
        (delta("a"), usage(), IDLE),
        (delta("a"), usage(None), message("a")),
    ],
)
def test_ends(events):
    """Message and usage end an answer in either order, and the end of the turn does where one of them is missing."""
    for cut in range(len(events)):
        assert not decoded(*events[:cut])[0]
    done, out = decoded(*events)

    assert done
    assert out[0] == OutputTextDelta("a")
    assert isinstance(out[-1], Completed)
    assert out[-1].finish_reason == "stop"


def test_a_turn_without_an_answer_is_cut():
    """A turn that ends before the model's answer is a cut, not an end."""
    with pytest.raises(GatewayError) as failure:
        decoded(delta("a"), IDLE)

    assert (failure.value.kind, failure.value.retryable) == ("backend_transient", True)


def test_length_ends_at_once():
    """An output that was cut off ends the answer, before the program asks the model to go on."""
    done, events = decoded(delta("a"), usage("length"), delta("b"), usage(), message("b"), IDLE)

    assert done
    assert [event for event in events if isinstance(event, OutputTextDelta)] == [OutputTextDelta("a")]
    assert events[-1].finish_reason == "length"


def test_tool_calls():
    """Calls become ready at the end of the model's answer, each with the arguments of its deltas; then nothing more."""
    done, events = decoded(
        delta("Let me see."),
        call_delta("c1", '{"city":'),
        call_delta("c2", '{"city":"Rome"}'),
        call_delta("c1", ' "Paris"}', None),
        usage("tool_calls"),
        message("Let me see.", ("c1", {"city": "Paris"}), ("c2", {"city": "Rome"})),
        ("model.call_failure", {"errorMessage": "nobody cares"}),
    )

    assert done
    ready = [event.call for event in events if isinstance(event, ToolCallReady)]
    assert [(call.id, call.name, call.arguments_json) for call in ready] == [
        ("c1", "weather", '{"city": "Paris"}'),
        ("c2", "weather", '{"city":"Rome"}'),
    ]
    assert events[-1].finish_reason == "tool_calls"
    assert isinstance(events[-2], Usage)


@pytest.mark.parametrize(("arguments", "text"), [({"city": "Paris"}, '{"city":"Paris"}'), ({}, "{}"), (None, "{}")])
def test_tool_calls_without_deltas(arguments, text):
    """A call that comes only in the message has its arguments in one delta."""
    _, events = decoded(usage("tool_calls"), message("", ("c1", arguments)))

    assert events[0] == ToolCallDelta("c1", "weather", text)
    assert events[1].call.arguments_json == text


def test_a_cut_call_is_not_ready():
    """In an answer that was cut off only calls that were finished before are ready."""
    _, events = decoded(call_delta("c1", "{}"), call_delta("c2", '{"city"'), usage("length"))

    assert [event.call.id for event in events if isinstance(event, ToolCallReady)] == ["c1"]
    assert events[-1].finish_reason == "length"


@pytest.mark.parametrize("word", ["length", "content_filter", "refusal"])
def test_a_call_that_was_cut_for_any_reason_is_no_violation(word):
    """A filter or a refusal cuts as a limit does: the open call is not ready, and the answer is complete."""
    # The program's own message has the cut call with `{}` for the arguments that it could not read.
    done, events = decoded(call_delta("c1", '{"city"'), usage(word), message("", ("c1", {})))

    assert done
    assert not [event for event in events if isinstance(event, ToolCallReady)]
    assert isinstance(events[-1], Completed)
    assert events[-1].finish_reason == finish_reason(word)


def test_other_finish_reasons():
    """What the model's provider says about the end is kept."""
    _, events = decoded(delta("a"), usage("content_filter"), message("a"))

    assert events[-1].finish_reason == OtherFinishReason("content_filter")


def test_unknown_events():
    """The many other events, and whatever a later version adds, mean nothing."""
    assert decoded(("session.info", {"message": "x"}), ("unknown", {})) == (False, [])


# --- failures ---


def call_failure(**data: Any) -> Event:
    return "model.call_failure", {"source": "top_level", **data}


def session_error(error_type: str, **data: Any) -> Event:
    return "session.error", {"errorType": error_type, "message": "words", **data}


@pytest.mark.parametrize(
    ("event", "kind", "retryable", "code", "status"),
    [
        (call_failure(statusCode=400, errorCode="c"), "invalid_request", False, "c", 400),
        (call_failure(statusCode=401, errorType="t"), "authentication", False, "t", 401),
        (call_failure(statusCode=403), "authorization", False, None, 403),
        (call_failure(statusCode=429, errorCode="slow"), "rate_limited", True, "slow", 429),
        (
            call_failure(statusCode=429, errorCode="insufficient_quota"),
            "rate_limited",
            False,
            "insufficient_quota",
            429,
        ),
        (call_failure(statusCode=500), "backend_transient", True, None, 500),
        (call_failure(failureKind="transport", errorMessage='"cut"'), "backend_transient", True, None, None),
        (session_error("authentication"), "authentication", False, "authentication", None),
        (session_error("authorization"), "authorization", False, "authorization", None),
        (session_error("policy"), "authorization", False, "policy", None),
        (session_error("quota", errorCode="quota_exceeded"), "rate_limited", False, "quota_exceeded", None),
        (session_error("rate_limit", statusCode=429), "rate_limited", True, "rate_limit", 429),
        (session_error("context_limit"), "invalid_request", False, "context_limit", None),
        (session_error("query"), "backend_transient", True, "query", None),
        (session_error("query", statusCode=404), "invalid_request", False, "query", 404),
    ],
)
def test_failures(event, kind, retryable, code, status):
    """The first failed call ends the answer, before the program asks again; status and type decide the kind."""
    with pytest.raises(GatewayError) as raised:
        decoded(delta("a"), event)

    failure = raised.value
    assert (failure.kind, failure.retryable, failure.provider_code) == (kind, retryable, code)
    assert failure.provider_http_status == status


@pytest.mark.parametrize("text", ['{"message":"the words","code":"c"}', '"the words"', "the words"])
def test_words_of_a_failure(text):
    """The provider's text is found in each form that the program gives it."""
    with pytest.raises(GatewayError, match="the words"):
        decoded(call_failure(statusCode=500, errorMessage=text))
