"""Chat Completions answers as servers really send them; each is read alike at once and byte by byte."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import pytest

from beluna_gateway.adapters.dialects.openai_compatible_decoder import ChatCompletionsDecoder
from beluna_gateway.adapters.encoding.provider_state import TurnNotes
from beluna_gateway.canonical import (
    Annotation,
    BackendRawEvent,
    CanonicalRequest,
    Completed,
    OtherFinishReason,
    OutputTextDelta,
    Progress,
    ReasoningDelta,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    Usage,
    UsageStats,
)
from beluna_gateway.errors import GatewayError

from .. import recorded

DIALECT = recorded.dialect("openai_compatible")
REQUEST = recorded.canonical({"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]})
DONE = "data: [DONE]\n\n"
PARIS = '{"city":"Paris"}'


@dataclass
class Read:
    """What became of an answer."""

    events: list[BackendRawEvent]
    error: GatewayError | None

    @property
    def text(self) -> str:
        return "".join(event.delta for event in self.events if isinstance(event, OutputTextDelta))

    @property
    def reasoning(self) -> str:
        return "".join(event.delta for event in self.events if isinstance(event, ReasoningDelta))

    @property
    def calls(self) -> list[ToolCall]:
        return [event.call for event in self.events if isinstance(event, ToolCallReady)]

    @property
    def arguments(self) -> list[tuple[str, Any]]:
        return [(call.name, call.arguments) for call in self.calls]

    @property
    def usage(self) -> UsageStats | None:
        return next((event.usage for event in self.events if isinstance(event, Usage)), None)

    @property
    def completed(self) -> Completed:
        assert self.error is None, self.error
        assert isinstance(self.events[-1], Completed)
        return self.events[-1]

    @property
    def reason(self) -> Any:
        return self.completed.finish_reason

    @property
    def metadata(self) -> dict[str, Any]:
        return self.completed.backend_metadata

    @property
    def kind(self) -> str:
        assert self.error is not None
        assert not any(isinstance(event, Completed) for event in self.events)
        return self.error.kind


def play(answer: str, *, stream: bool = True, request: CanonicalRequest = REQUEST) -> Read:
    """What becomes of these bytes; the same however they are cut, but for ids that are made up."""
    data = answer.encode()
    read = Read(*recorded.decode(DIALECT, request, [data], stream=stream))
    in_bytes = [data[i : i + 1] for i in range(len(data))]
    again = recorded.wire_events(*recorded.decode(DIALECT, request, in_bytes, stream=stream), request)
    assert again == recorded.wire_events(read.events, read.error, request)
    return read


def stream(*chunks: Any, end: str = DONE) -> Read:
    """What becomes of a stream of these chunks."""
    return play("".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + end)


def whole(body: Any) -> Read:
    """What becomes of this unstreamed answer."""
    return play(json.dumps(body), stream=False)


def chunk(delta: Any = None, finish: Any = None, **fields: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta or {}, "finish_reason": finish}], **fields}


def instead(message: Any, finish: Any = None) -> dict[str, Any]:
    """A chunk with a `message` in place of a `delta`."""
    return {"choices": [{"index": 0, "message": message, "finish_reason": finish}]}


def message(fields: Any, finish: Any = "stop", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "message": {"role": "assistant", **fields}, "finish_reason": finish}], **more}


def piece(index: float | None = None, arguments: Any = None, **fields: Any) -> dict[str, Any]:
    """A delta with a piece of a call; `name` goes to the function."""
    name = {"name": fields.pop("name")} if "name" in fields else {}
    function = {**name, **({} if arguments is None else {"arguments": arguments})}
    return {"tool_calls": [{**({} if index is None else {"index": index}), **fields, "function": function}]}


# --- calls (B1) ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, "", id="a", name="get_weather"), piece(0, PARIS, id="b")],
        [piece(0, '{"ci', id="t1", name="get_weather"), piece(0, 'ty":"Pa', id="t2"), piece(0, 'ris"}', id="t3")],
        [piece(0, "", id="a", name="get_weather"), piece(1, PARIS, id="a")],
        [piece(0, {"city": "Paris"}, id="a", name="get_weather")],
        [piece(0.0, "", id="a", name="get_weather"), piece(0, PARIS)],
    ],
    ids=["another id", "an id for each piece", "another index", "an object", "a float"],
)
def test_pieces_without_a_name_continue_the_call(pieces: list[Any]) -> None:
    """One call with all its arguments, never one without."""
    read = stream(*map(chunk, pieces), chunk(finish="tool_calls"))

    assert read.arguments == [("get_weather", {"city": "Paris"})]
    assert read.reason == "tool_calls"


@pytest.mark.parametrize(
    "pieces",
    [
        [piece(0, "", id="a", name="get_weather"), piece(1, PARIS)],
        [piece(0, "", id="a", name="get_weather"), piece(0, PARIS, id="b", name="get_weather")],
        [piece(0, '{"city":', id="a", name="get_weather"), piece(0, PARIS, id="b", name="get_weather")],
        [piece(0, "{}", id="a", name="f"), piece(1, '{"x":1e999}', id="b", name="g")],
        [piece(0, "{}", id="a", name="f"), piece(1, {"x": float("inf")}, id="b", name="g")],
        [piece(0, PARIS, id="a", name="f"), {}, piece(0, 5)],
        [
            piece(0, "{}", id="a", name="f"),
            {"tool_calls": [{"index": True, "id": "b", "function": {"arguments": "{}"}}]},
        ],
    ],
)
def test_nothing_is_ready_where_a_piece_belongs_to_no_call(pieces: list[Any]) -> None:
    """A call that cannot be completed makes the answer fail before any call becomes ready."""
    read = stream(*map(chunk, pieces), chunk(finish="tool_calls"))

    assert read.kind == "protocol_violation"
    assert read.calls == []


def test_a_name_and_a_new_id_at_the_index_of_a_whole_call_begin_another() -> None:
    """Some servers say 0 for every call."""
    pieces = [piece(0, PARIS, id="a", name="f"), piece(0, "", id="b", name="g"), piece(0, '{"x":1}')]
    read = stream(*map(chunk, pieces), chunk(finish="tool_calls"))

    assert read.arguments == [("f", {"city": "Paris"}), ("g", {"x": 1})]


def test_a_message_beside_a_delta_fills_what_the_deltas_left_out() -> None:
    """Text, reasoning and arguments that only the whole message has."""
    begun = chunk({"content": "Hel", **piece(0, "", id="a", name="f")})
    final = chunk(finish="tool_calls")
    final["choices"][0]["delta"] = {"content": "lo"}
    final["choices"][0]["message"] = {
        "content": "Hello",
        "reasoning_content": "hm",
        **piece(0, PARIS, id="a", name="f"),
    }
    read = stream(begun, final)

    assert (read.text, read.reasoning, read.arguments) == ("Hello", "hm", [("f", {"city": "Paris"})])


def test_a_message_that_contradicts_the_deltas_adds_no_text_and_refuses_calls() -> None:
    """What was said stands; which arguments were meant cannot be known."""
    final = chunk({"content": "."}, "stop")
    final["choices"][0]["message"] = {"content": "Hello world"}
    assert stream(chunk({"content": "Hello"}), final).text == "Hello."

    final["choices"][0]["message"] = {"reasoning": "hm"}
    assert stream(chunk({"content": "Hello", "reasoning": "well"}), final).reasoning == "well"

    final["choices"][0]["message"] = piece(0, '{"city":"Rome"}')
    read = stream(chunk(piece(0, PARIS, id="a", name="f")), final)
    assert read.kind == "protocol_violation"
    assert read.calls == []


def test_a_message_beside_an_empty_delta_is_the_whole_unless_messages_are_pieces() -> None:
    """The whole after deltas; where all text came in messages, an empty `delta` beside them says nothing."""

    def beside(content: str, finish: str | None = None) -> dict[str, Any]:
        return {"choices": [{"index": 0, "delta": {}, "message": {"content": content}, "finish_reason": finish}]}

    assert stream(chunk({"content": "Hello."}), beside("Hello world", "stop")).text == "Hello."
    assert stream(chunk({"content": "Hel"}), beside("Hello", "stop")).text == "Hello"
    assert stream(beside("Hel"), beside("lo", "stop")).text == "Hello"
    assert stream(beside("Hel"), beside("Hello", "stop")).text == "Hello"


def test_a_message_in_place_of_a_delta_is_the_whole_or_a_piece() -> None:
    """The whole where it begins with what was said, else one more piece."""
    pieces = [instead({"content": "Hel"}), instead({"content": "lo"}), instead({}, "stop")]
    growing = [instead({"content": "Hel"}), instead({"content": "Hello"}), instead({"content": "Hello"}, "stop")]
    repeated = [chunk({"content": "Hel"}), chunk({"content": "lo"}), instead({"content": "Hello"}, "stop")]
    for chunks in (pieces, growing, repeated):
        assert stream(*chunks).text == "Hello"


def test_a_long_text_is_told_from_its_repetition() -> None:
    """What was said in hundreds of deltas adds nothing when it is said once more; what goes on does."""
    texts = [f"{number} " for number in range(700)]
    final = instead({"content": "".join(texts) + "end"}, "stop")

    assert stream(*(chunk({"content": text}) for text in texts), final).text == "".join(texts) + "end"


def test_calls_in_a_message_in_place_of_a_delta_are_whole_or_pieces() -> None:
    """Told apart as the text is; where there is no index the place in the list is one."""
    pieces = [instead(piece(None, '{"city":', id="a", name="f")), instead(piece(None, '"Paris"}'), "tool_calls")]
    growing = [
        instead(piece(0, '{"city":', id="a", name="f")),
        instead(piece(0, PARIS, id="a", name="f"), "tool_calls"),
    ]
    for chunks in (pieces, growing):
        assert stream(*chunks).arguments == [("f", {"city": "Paris"})]
        assert [call.id for call in stream(*chunks).calls] == ["a"]


@pytest.mark.parametrize(
    "messages",
    [
        [[(0, "f", '{"x":')], [(1, "g", "{}")], [(0, None, "1}")]],
        [[(None, "f", '{"x":')], [(None, "f", '{"x":1}'), (None, "g", "{}")]],
        [[(0, "f", '{"x":'), (1, "g", "")], [(0, "f", '{"x":1}'), (1, "g", "{}")]],
    ],
    ids=["pieces by their index", "growing without an index", "growing side by side"],
)
def test_several_calls_in_messages_in_place_of_deltas_stay_apart(messages: list[Any]) -> None:
    """By their index, or else by their place in the list."""
    calls = [[piece(index, text, **({"name": name} if name else {})) for index, name, text in m] for m in messages]
    chunks = [instead({"tool_calls": [call for each in m for call in each["tool_calls"]]}) for m in calls]

    assert stream(*chunks, chunk(finish="tool_calls")).arguments == [("f", {"x": 1}), ("g", {})]


F, G = {"id": "a", "name": "f"}, {"id": "b", "name": "g"}


@pytest.mark.parametrize(
    ("pieces", "repeated"),
    [
        ([(0, F), (0, G)], [(None, F), (None, G)]),
        ([(0, F), (0, G)], [(0, F), (1, G)]),
        ([(1, F), (2, G)], [(None, F), (None, G)]),
        ([(1, F), (2, G)], [(0, F), (1, G)]),
        ([(0, F), (1, G)], [(0, G), (1, F)]),
        ([(None, F), (None, G)], [(0, F), (1, G)]),
        ([(0, F), (1, G)], [(None, {"name": "f"}), (None, {"name": "g"})]),
        ([(1, {"name": "f"}), (2, {"name": "g"})], [(0, F), (1, G)]),
        ([(0, F), (1, F | {"id": "b"})], [(0, {"name": "f"}), (1, {"name": "f"})]),
    ],
    ids=[
        "all at index 0",
        "all at index 0, then at others",
        "from index 1",
        "from index 1, then from 0",
        "in another order",
        "without indexes, then with",
        "without ids at the end",
        "with ids at the end only",
        "of one name",
    ],
)
@pytest.mark.parametrize(
    "text", [PARIS, '{ "city": "Paris" }', {"city": "Paris"}], ids=["same", "other spaces", "object"]
)
def test_calls_that_a_message_repeats_are_the_same(pieces: Any, repeated: Any, text: Any) -> None:
    """Whatever their indexes were before and are in the list: nothing is called twice."""
    deltas = [chunk(piece(index, PARIS, **fields)) for index, fields in pieces]
    last = {"tool_calls": [call for i, fields in repeated for call in piece(i, text, **fields)["tool_calls"]]}
    beside = chunk(finish="tool_calls")
    beside["choices"][0]["message"] = last
    for end in (instead(last, "tool_calls"), beside):
        read = stream(*deltas, end)
        assert read.arguments == [(fields["name"], {"city": "Paris"}) for _, fields in pieces]
        assert all(call.arguments_json == PARIS for call in read.calls)


def test_a_call_of_a_message_with_another_id_is_another_unless_the_message_repeats() -> None:
    """Beside a delta it is the answer so far, in whose place the ids may be new; in place of one it is another call."""
    begun, again = chunk(piece(0, PARIS, **F)), piece(0, PARIS, id="z", name="f")
    beside = chunk(finish="tool_calls")
    beside["choices"][0]["message"] = again

    assert [call.id for call in stream(begun, beside).calls] == ["a"]
    assert [call.id for call in stream(begun, instead(again, "tool_calls")).calls] == ["a", "z"]


def test_calls_of_messages_with_one_id_are_told_apart_by_their_place() -> None:
    """Some servers take the tool's name for an id."""
    calls = [call for city in ("a", "b") for call in piece(None, {"city": city}, id="f", name="f")["tool_calls"]]
    for messages in ([calls], [calls[:1], calls], [calls, calls]):
        read = stream(*(instead({"tool_calls": each}) for each in messages), chunk(finish="tool_calls"))
        assert [call.arguments for call in read.calls] == [{"city": "a"}, {"city": "b"}]


def test_calls_without_an_index_are_told_apart() -> None:
    """By their ids, wherever they stand; without ids by their place in the list; one alone goes on without either."""
    begun = [*piece(None, '{"x":', id="a", name="f")["tool_calls"], *piece(None, "{}", id="b", name="g")["tool_calls"]]
    rest = [*piece(None, "{}", id="c", name="h")["tool_calls"], *piece(None, "1}", id="a")["tool_calls"]]
    by_id = stream(chunk({"tool_calls": begun}), chunk({"tool_calls": rest}), chunk(finish="tool_calls"))
    assert [(call.id, call.arguments) for call in by_id.calls] == [("a", {"x": 1}), ("b", {}), ("c", {})]

    nameless = [{key: value for key, value in call.items() if key != "id"} for call in begun]
    by_place = stream(chunk({"tool_calls": nameless[:1]}), chunk(piece(None, "1}")), chunk(finish="tool_calls"))
    assert by_place.arguments == [("f", {"x": 1})]
    named = stream(chunk({"tool_calls": begun[:1]}), chunk(piece(None, "1}")), chunk(finish="tool_calls"))
    assert [(call.id, call.arguments) for call in named.calls] == [("a", {"x": 1})]
    beside = [*piece(None, PARIS, name="f")["tool_calls"], *piece(None, "{}", name="g")["tool_calls"]]
    assert stream(chunk({"tool_calls": beside}), chunk(finish="tool_calls")).arguments == [
        ("f", {"city": "Paris"}),
        ("g", {}),
    ]


def test_an_id_alone_begins_a_call() -> None:
    """Name and arguments may follow; so may they a thought signature."""
    for first in ({"index": 0, "id": "a"}, {"index": 0, "id": "a", "extra_content": {"google": {}}}):
        read = stream(chunk({"tool_calls": [first]}), chunk(piece(0, "{}", name="f")), chunk(finish="tool_calls"))
        assert [(call.id, call.name) for call in read.calls] == [("a", "f")]


def test_the_legacy_function_call_is_a_call() -> None:
    """Its pieces have neither index nor id."""
    begun, rest = {"name": "f", "arguments": ""}, [{"arguments": "{"}, {"name": "f", "arguments": "}"}]
    pieces = [chunk({"function_call": piece}) for piece in (begun, *rest)]
    read = stream(*pieces, chunk(finish="function_call"))
    unstreamed = whole(message({"content": None, "function_call": {"name": "f", "arguments": PARIS}}, "function_call"))

    assert (read.arguments, read.reason) == ([("f", {})], "tool_calls")
    assert read.calls[0].id.startswith("call_")
    assert (unstreamed.arguments, unstreamed.reason) == ([("f", {"city": "Paris"})], "tool_calls")


def test_calls_of_a_whole_answer_may_have_objects_as_arguments() -> None:
    """Each entry is a call of its own, whatever its index says."""
    calls = [{"id": i, "index": 0, "function": {"name": "f", "arguments": {"city": i}}} for i in ("a", "b")]
    nameless = [{"index": 0, "function": call["function"]} for call in calls]
    for own in (calls, nameless):
        read = whole(message({"tool_calls": own}, "tool_calls"))
        assert read.arguments == [("f", {"city": "a"}), ("f", {"city": "b"})]


@pytest.mark.parametrize("streamed", [True, False])
def test_a_custom_call_is_refused_by_its_kind(streamed: bool) -> None:
    """It waits for the client, and no frame carries it."""
    calls = {"tool_calls": [{"index": 0, "id": "a", "type": "custom", "custom": {"name": "apply", "input": "x"}}]}
    read = stream(chunk(calls), chunk(finish="tool_calls")) if streamed else whole(message(calls, "tool_calls"))

    assert read.kind == "unsupported_capability"
    assert read.error is not None
    assert "'custom' ('apply')" in read.error.message
    assert "'custom'," in str(stream(chunk({"tool_calls": [{"index": 0, "type": "custom"}]})).error)


def test_an_empty_object_beside_the_name_holds_the_place_of_the_arguments() -> None:
    """LiteLLM and others send Anthropic's empty `input` first (litellm 4537); where nothing follows, it counts."""
    begun = chunk(piece(0, "{}", id="a", name="f"))
    followed = stream(begun, chunk(piece(0, '{"city":')), chunk(piece(0, '"Paris"}')), chunk(finish="tool_calls"))
    alone = stream(begun, chunk(piece(1, "{}", id="b", name="g")), chunk(finish="tool_calls"))
    again = stream(begun, chunk(piece(0, PARIS, id="b", name="g")), chunk(finish="tool_calls"))
    blank = stream(begun, chunk(piece(0, "\n")), chunk(finish="tool_calls"))
    broken = stream(begun, chunk(piece(0, "}")), chunk(finish="tool_calls"))

    assert followed.arguments == [("f", {"city": "Paris"})]
    assert alone.arguments == [("f", {}), ("g", {})]
    assert again.arguments == [("f", {}), ("g", {"city": "Paris"})]
    assert blank.arguments == [("f", {})]
    assert broken.kind == "protocol_violation"
    for read in (followed, alone, again, blank):
        for call in read.calls:
            deltas = [e.arguments_delta for e in read.events if isinstance(e, ToolCallDelta) and e.call_id == call.id]
            assert "".join(deltas) in (call.arguments_json, call.arguments_json.strip())


@pytest.mark.parametrize(
    "nothing",
    [
        {"tool_calls": [{"index": 0, "id": "", "type": "function", "function": {"name": "", "arguments": ""}}]},
        {"tool_calls": [{"id": "", "type": "function"}]},
        {"tool_calls": [None]},
        {"function_call": {"name": "", "arguments": ""}},
        {"tool_calls": []},
    ],
)
def test_a_place_for_a_call_is_no_call(nothing: Any) -> None:
    """Some servers have one in every chunk (LM Studio issue 830)."""
    read = stream(chunk({"content": "x", **nothing}), chunk(nothing, "stop"))

    assert (read.text, read.calls, read.reason) == ("x", [], "stop")
    assert whole(message({"content": "x", **nothing})).reason == "stop"


def test_a_call_may_have_its_name_and_arguments_in_itself() -> None:
    """Cloudflare's Workers AI."""
    calls = {"tool_calls": [{"name": "f", "arguments": {"city": "Paris"}}]}

    assert whole(message(calls, "tool_calls")).arguments == [("f", {"city": "Paris"})]
    assert stream(chunk(calls), chunk(finish="tool_calls")).arguments == [("f", {"city": "Paris"})]


def test_the_calls_of_a_split_answer_are_its_own() -> None:
    """Copilot puts text and calls of Claude into several choices (nanobot 1555, zeroclaw 2136); others are others."""
    calls = [{"id": i, "function": {"name": "f", "arguments": PARIS}} for i in ("a", "b")]
    first = {"finish_reason": "tool_calls", "message": {"role": "assistant", "content": "I will"}}
    others = [{"finish_reason": "tool_calls", "message": {"role": "assistant", "tool_calls": [c]}} for c in calls]
    read = whole({"choices": [first, *others]})
    assert (read.text, [call.id for call in read.calls], read.metadata) == ("I will", ["a", "b"], {})

    read = whole({"choices": [first, *others, {"message": {"content": "no"}}]})
    assert (read.text, len(read.calls), read.metadata) == ("I will", 2, {"not_carried": {"choice": 1}})
    read = stream({"choices": [first, *others[:1]]})
    assert (read.text, read.calls, read.metadata) == ("I will", [], {"not_carried": {"choice": 1}})
    own = {"finish_reason": "tool_calls", "message": {"tool_calls": calls[:1]}}
    for choices in ([own, others[1]], [{**first, "finish_reason": "stop"}, others[0]]):
        read = whole({"choices": choices})
        assert ("b" not in [call.id for call in read.calls], read.metadata) == (True, {"not_carried": {"choice": 1}})


def test_the_first_choice_of_a_split_answer_may_be_empty() -> None:
    """One that has no message is as good as one without text; what is left of the others keeps its number."""
    calls = {"index": 1, "message": {"tool_calls": [{"id": "a", "function": {"name": "f", "arguments": PARIS}}]}}
    for empty in ({}, {"message": None}):
        read = whole({"choices": [{"index": 0, "finish_reason": "tool_calls", **empty}, calls]})
        assert (read.arguments, read.metadata) == ([("f", {"city": "Paris"})], {})

    other = {"index": 0, "message": {"content": "no"}}
    read = whole({"choices": [{"finish_reason": "tool_calls"}, calls, other, other | {"index": 9}]})
    assert (read.text, len(read.calls), read.metadata) == ("", 1, {"not_carried": {"choice": 2}})


@pytest.mark.parametrize("word", ["insufficient_system_resource", "model_length", "error", "abort", "network_error"])
@pytest.mark.parametrize("arguments", ["", '{"ci'])
def test_words_for_an_answer_that_broke_off_complete_no_call(word: str, arguments: str) -> None:
    """DeepSeek's, Mistral's, Zhipu's, vLLM's: arguments that never came are not invented, and the word is passed on."""
    read = stream(chunk({"content": "x"}), chunk(piece(0, arguments, id="a", name="f")), chunk(finish=word))

    assert (read.calls, read.reason) == ([], OtherFinishReason(word))
    assert stream(chunk(piece(0, PARIS, id="a", name="f")), chunk(finish="eos")).arguments == [("f", {"city": "Paris"})]


# --- the end (B3 to B7) --------------------------------------------------------------------------------------


@pytest.mark.parametrize("word", ["null", "None", "", None])
def test_some_words_do_not_end_the_answer(word: Any) -> None:
    """The answer goes on after a chunk whose finish_reason says nothing, and is cut where it ends with it."""
    chunks = [chunk({"content": text}, word) for text in "abc"]

    assert stream(*chunks, chunk(finish="stop")).text == "abc"
    assert stream(*chunks, end="").kind == "backend_transient"


def test_the_last_of_the_end_marks_counts_however_they_alternate() -> None:
    """An envelope that was seen before may end the answer otherwise than the last one did."""
    for count in range(1, 10):
        words = (["stop", "length"] * 5)[:count]
        assert stream(*(chunk({"content": f"t{n}"}, word) for n, word in enumerate(words))).reason == words[-1]


def test_text_in_the_envelope_of_a_first_chunk_is_output() -> None:
    """So that `[DONE]` ends the answer: where the envelope had no text before, and where only its id was known."""
    role, named = {"role": "assistant"}, {"id": "r", "model": "m"}
    for nothing in ({**role, "content": None}, role):
        first, second = (
            {"choices": [{"index": 0, "delta": delta}], **named} for delta in (nothing, {**role, "content": "x"})
        )
        read = stream(first, second)
        assert (read.text, read.reason) == ("x", "stop")


@pytest.mark.parametrize("repeats", [1, 5])
@pytest.mark.parametrize(
    ("beside", "text", "not_carried", "tokens"),
    [
        (chunk({"content": "y"}, usage={"prompt_tokens": 3, "completion_tokens": 2}), "y", {}, 2),
        ({"choices": [{"index": 0, "delta": {"content": "y"}, "usage": {"completion_tokens": 2}}]}, "y", {}, 2),
        ({"choices": [{"index": n, "delta": {"content": "y"}} for n in (0, 1)]}, "y", {"choice": 1}, None),
        ({"choices": [{"index": 1, "delta": {"content": "y"}}]}, "", {"choice": 1}, None),
        (chunk({"content": "y"}, citations=["u"]), "y", {"citations": 1}, None),
        (chunk({"content": [{"type": "text", "text": "y"}]}), "y", {}, None),
        (
            {"choices": [{"index": 0, "delta": {"content": "y"}, "logprobs": {"content": [{}]}}]},
            "y",
            {"logprobs": 1},
            None,
        ),
        ({"choices": [{"index": 0, "delta": None}]}, "", {}, None),
    ],
)
def test_what_stands_beside_a_text_counts_in_every_chunk(
    beside: Any, text: str, not_carried: Any, tokens: int | None, repeats: int
) -> None:
    """Also after chunks that had text alone, which are read the fast way."""
    read = stream(*[chunk({"content": "x"}, id="r")] * 3, *[beside] * repeats, chunk(finish="stop"))

    assert read.text == "xxx" + text * repeats
    assert read.metadata.get("not_carried", {}) == not_carried
    assert (read.usage and read.usage.output_tokens) == tokens


def test_a_piece_of_a_call_beside_a_text_is_never_passed_over() -> None:
    """However often the same piece comes in the same envelope."""
    again = chunk({"content": "x", **piece(0, " ")})
    chunks = [chunk(piece(0, '{"a":', id="a", name="f")), *[again] * 5, chunk(piece(0, "1}")), chunk(finish="stop")]
    (call,) = stream(*chunks).calls

    assert call.arguments_json == '{"a":' + " " * 5 + "1}"


def test_what_is_no_choice_and_no_delta_is_a_protocol_violation_anywhere() -> None:
    """Also after chunks with text."""
    for broken in (5, {"index": 0, "delta": 5}):
        assert stream(chunk({"content": "x"}), {"choices": [broken]}).kind == "protocol_violation"


def test_the_tier_may_be_told_beside_any_text() -> None:
    """Also in a chunk that has only text besides."""
    texts = [chunk({"content": text}, service_tier=tier) for text, tier in (("a", None), ("b", "flex"), ("c", "flex"))]
    read = stream(*texts, chunk(finish="stop", usage={"prompt_tokens": 1, "completion_tokens": 1}))

    assert read.usage is not None
    assert (read.text, read.usage.service_tier) == ("abc", "flex")


def test_the_first_chunk_says_which_answer_it_is() -> None:
    """Its id, model and fingerprint are the answer's; what others say is not looked at."""
    named = {"id": "r", "model": "m", "system_fingerprint": "f"}
    read = stream(
        chunk({"role": "assistant"}, **named), chunk({"content": "x"}, id="other"), chunk(finish="stop", id="x")
    )

    assert read.metadata == {"response_id": "r", "model": "m", "system_fingerprint": "f"}
    assert stream(chunk({"content": "x"}, "stop", id=5, model="", system_fingerprint=None)).metadata == {}


def test_content_after_an_end_mark_is_delivered_and_the_last_mark_counts() -> None:
    """`finish_reason` in an early chunk, or in every one, was not the end."""
    read = stream(
        chunk(finish="stop"), chunk({"content": "a"}), chunk({"content": "b"}), chunk({"content": "c"}, "length")
    )

    assert (read.text, read.reason) == ("abc", "length")


def test_calls_after_an_early_end_mark_become_ready_at_the_last() -> None:
    """An early end mark proves no call complete."""
    chunks = [chunk(piece(0, '{"city":', id="a", name="f"), "stop"), chunk(piece(0, '"Paris"}'), "stop")]

    assert stream(*chunks).arguments == [("f", {"city": "Paris"})]


def test_an_error_after_the_end_mark_changes_nothing() -> None:
    """The answer was there."""
    read = stream(chunk({"content": "x"}), chunk(finish="stop"), {"error": {"message": "too late"}})

    assert (read.text, read.reason) == ("x", "stop")


def test_a_last_event_without_its_end_counts() -> None:
    """The body ends after the closing brace."""
    last = json.dumps(chunk(finish="stop"))

    assert stream(chunk({"content": "x"}), end=f"data: {last}").reason == "stop"


@pytest.mark.parametrize("silence", ["data: : keepalive\n\n", "data:\n\n", ": ping\n\n", "event: ping\n\n"])
def test_silence_is_not_looked_at(silence: str) -> None:
    """Comments however they are wrapped; `[DONE]` with white space is still the end."""
    read = play(f"{silence}data: {json.dumps(chunk({'content': 'x'}))}\n\n{silence}data: [DONE] \n\n")

    assert (read.text, read.reason) == ("x", "stop")


@pytest.mark.parametrize("finish", ["", None, "null"])
def test_a_whole_answer_without_a_finish_reason_is_complete(finish: Any) -> None:
    """HTTP proves that it is whole."""
    assert whole(message({"content": "x"}, finish)).reason == "stop"
    assert whole(message(piece(None, "{}", id="a", name="f"), finish)).reason == "tool_calls"
    for nothing in ({"content": ""}, {"content": None, "reasoning_content": "hm"}):
        assert whole(message(nothing, finish)).kind == "protocol_violation"


# --- errors (B8, B9) -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("error", "kind", "code", "text"),
    [
        (
            {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "m"}}]},
            "backend_transient",
            "502",
            "m",
        ),
        (
            {"error": {"type": "invalid_request_error", "code": "tool_use_failed", "message": "m"}},
            "invalid_request",
            "tool_use_failed",
            "m",
        ),
        (
            {"error": "Input validation error: m", "error_type": "validation"},
            "invalid_request",
            "validation",
            "Input validation error: m",
        ),
        (
            {"error": {"type": "exceeded_current_quota_error", "message": "m"}},
            "rate_limited",
            "exceeded_current_quota_error",
            "m",
        ),
        (
            {"choices": None, "base_resp": {"status_code": 1008, "status_msg": "insufficient balance"}},
            "backend_transient",
            "1008",
            "insufficient balance",
        ),
    ],
)
def test_an_error_fails_the_answer_with_its_text(error: Any, kind: str, code: str, text: str) -> None:
    """In a stream before and after content, and as the whole answer."""
    for read in (stream(error), stream(chunk({"content": "x"}), error, chunk(finish="stop")), whole(error)):
        assert (read.kind, read.error and read.error.provider_code) == (kind, code)
        assert read.error is not None
        assert text in read.error.message
        assert read.error.retryable == (kind == "backend_transient")


@pytest.mark.parametrize(
    "error",
    [
        {"choices": [], "x_groq": {"id": "r", "error": "over capacity"}},  # Groq's SDK, XGroq
        chunk({"error": {"message": "over capacity"}}),
        chunk({"content": "", "error": "over capacity"}, "error"),
    ],
)
def test_an_error_beside_content_is_found(error: Any) -> None:
    """In a delta or a message, and where Groq puts it."""
    for read in (stream(chunk({"content": "x"}), error, chunk(finish="stop")), whole(error)):
        assert read.kind == "backend_transient"
        assert "over capacity" in str(read.error)


def test_an_error_in_a_field_of_its_own_is_read() -> None:
    """llama.cpp's `error:` beside `data:`."""
    read = play('error: {"code":503,"message":"Loading model","type":"unavailable_error"}\n\n')

    assert (read.kind, read.error and read.error.retryable) == ("backend_transient", True)
    assert "Loading model" in str(read.error)


@pytest.mark.parametrize("nothing", [None, "", {}, False, "null"])
def test_an_error_that_says_nothing_is_none(nothing: Any) -> None:
    """Some servers send the field in every chunk."""
    read = stream(chunk({"content": "x"}, error=nothing), chunk(finish="stop", error=nothing))

    assert (read.text, read.reason) == ("x", "stop")


@pytest.mark.parametrize("body", [{}, {"object": "list", "data": []}, {"choices": []}])
def test_a_whole_answer_of_another_kind_is_quoted(body: Any) -> None:
    """The message shows what came instead."""
    read = whole(body)

    assert read.kind == "protocol_violation"
    assert json.dumps(body) in str(read.error)


# --- shapes of content (B12, A11) ----------------------------------------------------------------------------

MISTRAL = [{"type": "thinking", "thinking": [{"type": "text", "text": "2+2"}]}, {"type": "text", "text": "4"}]


def test_content_may_be_an_array_of_parts() -> None:
    """Mistral's reasoning models."""
    for read in (stream(chunk({"content": MISTRAL}), chunk(finish="stop")), whole(message({"content": MISTRAL}))):
        assert (read.text, read.reasoning, read.reason) == ("4", "2+2", "stop")


def test_parts_of_a_delta_keep_their_order() -> None:
    """Whatever was said before."""
    read = stream(*[chunk({"content": [*MISTRAL, *MISTRAL]})] * 2, chunk(finish="stop"))

    assert read.events[:8] == [ReasoningDelta("2+2"), OutputTextDelta("4")] * 4


def test_parts_of_a_whole_message_are_one_text() -> None:
    """However the deltas had cut it; what else is in it is counted."""
    parts = [{"type": "text", "text": "Hel"}, MISTRAL[0], {"type": "text", "text": "lo!"}, {"type": "image_url"}]
    read = stream(chunk({"content": "Hello"}), instead({"content": parts}, "stop"))

    assert (read.text, read.reasoning, read.metadata) == ("Hello!", "2+2", {"not_carried": {"image": 1}})


def test_a_whole_answer_is_one_delta_of_each_kind() -> None:
    """Reasoning first, then the text, however they alternate in the content."""
    read = whole(message({"content": [*MISTRAL, *MISTRAL]}))

    assert read.events[:2] == [ReasoningDelta("2+22+2"), OutputTextDelta("44")]
    assert read.reason == "stop"


def test_a_legacy_text_is_content() -> None:
    """`text` in place of a delta."""
    read = stream({"choices": [{"index": 0, "text": "a"}]}, {"choices": [{"text": "b", "finish_reason": "stop"}]})

    assert (read.text, read.reason) == ("ab", "stop")
    assert stream(*[{"choices": [{"text": "ha"}]}] * 2).text == "haha"
    assert stream({"choices": [{"delta": {"content": "a"}, "text": "a"}]}, {"choices": [{"text": None}]}).text == "a"


@pytest.mark.parametrize("empty", [[], "", {}, None])
def test_an_empty_delta_says_nothing(empty: Any) -> None:
    """PHP writes `[]` for an empty object."""
    read = stream(chunk({"content": "x"}), {"choices": [{"index": 0, "delta": empty, "finish_reason": "stop"}]})

    assert (read.text, read.reason) == ("x", "stop")


def test_numbers_that_are_no_json_cost_no_answer() -> None:
    """Python's json writes them, into statistics and logprobs (ragflow 15266)."""
    numbers = '"timings":{"a":NaN,"b":Infinity,"c":-Infinity},"usage":{"completion_tokens":2}'
    read = play('data: {"choices":[{"delta":{"content":"x"},"finish_reason":"stop"}],' + numbers + "}\n\n")

    assert (read.text, read.usage and read.usage.output_tokens) == ("x", 2)
    call = '{"id":"a","function":{"name":"f","arguments":{"x":NaN}}}'
    read = play('{"choices":[{"message":{"tool_calls":[' + call + ']},"finish_reason":"tool_calls"}]}', stream=False)
    assert (read.kind, read.calls) == ("protocol_violation", [])


def test_a_delta_may_stand_in_a_whole_answer() -> None:
    """A server that always writes `delta`."""
    assert whole(chunk({"content": "x"}, "stop")).text == "x"


def details(text: str, key: str = "text", **fields: Any) -> dict[str, Any]:
    return {"reasoning_details": [{"type": f"reasoning.{key}", key: text, **fields}]}


@pytest.mark.parametrize(
    ("deltas", "reasoning"),
    [
        ([details("hm")], "hm"),
        ([details("hm", "summary")], "hm"),
        ([details("h", index=0), details("m", index=0)], "hm"),
        ([details("ha", index=0), details("ha", index=0)], "haha"),
        ([{"reasoning": "ha"}, {"reasoning": "ha"}], "haha"),
        ([details("a", "summary", index=0), details("b", "summary", index=1)], "a\n\nb"),
        ([{"reasoning": "hm", **details("hm")}], "hm"),
        ([{"reasoning": "hm"}, details("hm", signature="s")], "hm"),
        ([{"reasoning_content": {"a": 1}, "reasoning": "hm"}], "hm"),
        ([{"reasoning_content": 5}, {"reasoning_content": "hm"}], "hm"),
        ([{"reasoning_text": "h"}, {"reasoning_text": "m"}], "hm"),  # Copilot: Gemini, Claude
        ([{"thinking": "hm"}], "hm"),
        ([{"cot_summary": "hm"}], "hm"),
    ],
)
def test_reasoning_is_read_once_from_where_it_stands(deltas: list[Any], reasoning: str) -> None:
    """`reasoning_details` only where nothing else says it; what is no string is passed over; items stay apart."""
    assert stream(*map(chunk, deltas), chunk(finish="stop")).reasoning == reasoning


def test_reasoning_details_of_a_whole_answer_stay_apart() -> None:
    """Each entry is an item of its own."""
    details = [{"type": "reasoning.summary", "summary": text} for text in ("**One**", "**Two**")]

    assert whole(message({"content": "x", "reasoning_details": details})).reasoning == "**One**\n\n**Two**"


def test_only_the_first_choice_is_the_answer() -> None:
    """The others are passed over, and counted."""
    others = [{"index": i, "delta": {"content": "no"}, "finish_reason": "stop"} for i in (1, 2)]
    read = stream({"choices": [others[0], {"index": 0, "delta": {"content": "x"}}, others[1]]}, chunk(finish="stop"))
    unnumbered = whole({"choices": [{"message": {"content": text}, "finish_reason": "stop"} for text in ("x", "no")]})

    assert (read.text, read.metadata) == ("x", {"not_carried": {"choice": 2}})
    assert (unnumbered.text, unnumbered.metadata) == ("x", {"not_carried": {"choice": 1}})


@pytest.mark.parametrize("before", [[], [{"choices": [], "id": "r"}], [{"choices": None}]])
def test_the_first_choice_may_have_another_number(before: Any) -> None:
    """Some servers count from 1 (litellm 376); what has another number then is another answer."""

    def of(index: int, delta: Any, finish: Any = None) -> dict[str, Any]:
        return {"choices": [{"index": index, "delta": delta, "finish_reason": finish}]}

    for first, other in ((1, 0), (1, 2), (0, 1)):
        texts = [(first, "a"), (first, "b"), (other, "no"), (first, "c")]
        read = stream(*before, *(of(index, {"content": text}) for index, text in texts), of(first, {}, "length"))
        assert (read.text, read.reason) == ("abc", "length")
        assert read.metadata["not_carried"] == {"choice": 1}
    roles = [of(1, {"role": "assistant", "content": ""}), of(0, {"role": "assistant", "content": ""})]
    answers = [of(1, {"content": "no"}), of(0, {"content": "a"}), of(1, {}, "stop"), of(0, {}, "length")]
    read = stream(*before, *roles, *answers)
    assert (read.text, read.reason) == ("a", "length")
    body = {
        "choices": [{"index": index, "message": {"content": f"{index}"}, "finish_reason": "stop"} for index in (2, 1)]
    }
    assert (whole(body).text, whole(body).metadata) == ("1", {"not_carried": {"choice": 1}})


def test_a_message_may_be_its_text() -> None:
    """In place of an object, in a stream and whole (open-chat-studio 526)."""
    assert whole({"choices": [{"message": "x", "finish_reason": "stop"}]}).text == "x"
    assert stream({"choices": [{"delta": "x"}]}, {"choices": [{"delta": "y", "finish_reason": "stop"}]}).text == "xy"


# --- usage (B13, D3, D5) -------------------------------------------------------------------------------------


def test_reasoning_that_the_completion_leaves_out_is_output() -> None:
    """prompt 12, completion 1, total 399, reasoning 386."""
    usage = {"prompt_tokens": 12, "completion_tokens": 1, "total_tokens": 399}
    usage |= {"completion_tokens_details": {"reasoning_tokens": 386}}  # type: ignore[dict-item]
    for read in (stream(chunk({"content": "x"}, "stop", usage=usage)), whole(message({"content": "x"}, usage=usage))):
        assert read.usage is not None
        assert (read.usage.output_tokens, read.usage.total_tokens, read.usage.reasoning_tokens) == (387, 399, 386)


@pytest.mark.parametrize(
    "last",
    [
        chunk({}, "stop", x_groq={"usage": {"prompt_tokens": 3, "completion_tokens": 2}}),
        chunk({}, "stop", usage={"input_tokens": 3, "output_tokens": 2}),  # mlx-vlm 1009
        chunk({}, "stop", usage={"prompt_tokens": 0, "input_tokens": 3, "output_tokens": 2, "total_tokens": 0}),
    ],
)
def test_usage_is_read_by_its_other_names(last: Any) -> None:
    """In Groq's own object, and by the names of the Responses API."""
    read = stream(chunk({"content": "x"}), last)

    assert read.usage is not None
    assert (read.usage.input_tokens, read.usage.output_tokens, read.usage.total_tokens) == (3, 2, 5)


def test_usage_may_stand_in_the_choice() -> None:
    """Kimi's place."""
    last = chunk({"content": "x"}, "stop")
    last["choices"][0]["usage"] = {"prompt_tokens": 3, "completion_tokens": 2, "cached_tokens": 1}
    read = stream(last)

    assert read.usage is not None
    assert (read.usage.input_tokens, read.usage.output_tokens, read.usage.cached_input_tokens) == (3, 2, 1)


def test_a_later_report_takes_nothing_back() -> None:
    """A last chunk with zeros, or without what an earlier one had."""
    reports = [{"prompt_tokens": 12, "completion_tokens": 5}, {"prompt_tokens": 0, "completion_tokens": 6}, {}, None]
    read = stream(chunk({"content": "x"}, "stop"), *({"choices": [], "usage": usage} for usage in reports))

    assert read.usage is not None
    assert (read.usage.input_tokens, read.usage.output_tokens, read.usage.total_tokens) == (12, 6, 18)


def test_price_and_tier_are_the_providers() -> None:
    """OpenRouter names its price, OpenAI the tier that served."""
    usage = {
        "prompt_tokens": 3,
        "completion_tokens": 2,
        "cost": 0.25,
        "prompt_tokens_details": {"cache_write_tokens": 3},
    }
    read = stream(chunk({"content": "x"}, "stop", service_tier="flex"), {"choices": [], "usage": usage})

    assert read.usage is not None
    assert (read.usage.cost, read.usage.service_tier, read.usage.cache_write_input_tokens) == (0.25, "flex", 3)


# --- what no frame carries (B16) -----------------------------------------------------------------------------


def test_what_no_frame_carries_is_counted() -> None:
    """By kind; what is repeated in every chunk is counted once."""
    first = chunk({"content": "x"}, citations=["u"], search_results=[{}])
    second = chunk({"images": [{"type": "image_url"}]}, citations=["u", "v"], search_results=[{}])
    second["choices"][0]["logprobs"] = {"content": [{}]}
    audio = chunk({"audio": {"id": "a", "data": "AA"}})
    read = stream(first, second, second | {"choices": []}, audio, audio, chunk(finish="stop"))
    counts = {"citations": 2, "search_results": 1, "image": 1, "audio": 1, "logprobs": 1}
    assert read.metadata["not_carried"] == counts

    annotations = {"annotations": [{"type": "url_citation"}, {"type": "url_citation"}]}
    pieces = stream(chunk({"content": "x", **annotations}), chunk(annotations), chunk(finish="stop"))
    assert pieces.metadata["not_carried"] == {"citations": 4}
    assert whole(message({"content": "x", **annotations})).metadata["not_carried"] == {"citations": 2}


def test_chunks_of_one_shape_are_counted_one_by_one() -> None:
    """Text that comes with a piece that no frame carries is read in full each time, however often it repeats."""
    repeated = chunk({"content": "x", "annotations": [{"type": "url_citation"}]})
    read = stream(*[repeated] * 5, chunk(finish="stop"))

    assert (read.text, read.metadata["not_carried"]) == ("xxxxx", {"citations": 5})


def test_a_message_that_repeats_its_pieces_counts_nothing_twice() -> None:
    """The largest number of one kind counts; an object is one, whatever it holds."""
    annotations = {"annotations": [{"type": "url_citation"}, {"type": "url_citation"}]}
    audio = {"audio": {"id": "a", "data": "AA", "expires_at": 1}}
    read = stream(chunk({"content": "x"}), instead({"content": "x", **annotations, **audio}), chunk(finish="stop"))

    assert (read.text, read.metadata["not_carried"]) == ("x", {"citations": 2, "audio": 1})


def test_only_what_was_left_out_is_counted() -> None:
    """Not the calls and reasoning beside it, and no words or numbers: they are no content."""
    fields: Any = {"annotations": [{}], "name": "assistant", "padding": 7}
    fields["tool_calls"] = piece(0, "{}", id="a", name="f")["tool_calls"]
    details = {"reasoning_details": [{"type": "reasoning.text", "text": "h", "index": 0}]}
    read = stream(chunk({**fields, **details}), chunk(finish="tool_calls"))

    assert read.metadata["not_carried"] == {"citations": 1}
    assert whole(message({**fields, **details}, "tool_calls")).metadata["not_carried"] == {"citations": 1}


@pytest.mark.parametrize(
    ("field", "progress"),
    [({"images": [{}]}, 1), ({"audio": {"data": "AA"}}, 1), ({"annotations": [{}]}, 0), ({"padding": "x"}, 0)],
)
def test_an_image_or_sound_that_comes_is_progress(field: Any, progress: int) -> None:
    """The backend is not silent while it sends one, though no frame carries it."""
    read = stream(chunk({"content": "x"}), chunk(field), chunk(finish="stop"))

    assert sum(isinstance(event, Progress) for event in read.events) == progress


def test_nothing_is_said_where_nothing_was_left_out() -> None:
    """Empty and null fields are none."""
    empty: Any = {"role": "assistant", "content": "x", "annotations": [], "audio": None, "refusal": None, "images": []}
    empty["provider_specific_fields"] = {"refusal": None, "citations": []}
    body = message(empty)
    body["choices"][0]["logprobs"] = {"content": None, "refusal": []}
    read = whole(body)

    assert read.metadata == {}


# --- what goes back to the server (C2) -----------------------------------------------------------------------


def state(read: Read) -> Any:
    """The pieces of the turn's state."""
    return read.metadata["provider_state"]["openai_compatible"]["pieces"]


def test_state_says_whose_it_is() -> None:
    """The backend and the model that was asked for."""
    read = stream(chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "E"}]}), chunk({}, "stop"))
    origin = read.metadata["provider_state"]["openai_compatible"]

    assert (origin["backend"], origin["model"]) == ("recorded", "default-model")


def test_reasoning_content_of_a_turn_with_calls_goes_back() -> None:
    """DeepSeek and Kimi refuse the next turn without it; of a turn without calls it is not wanted."""
    deltas = [{"reasoning_content": "h"}, {"reasoning_content": "m"}]
    with_call = stream(*map(chunk, deltas), chunk(piece(0, "{}", id="a", name="f")), chunk(finish="tool_calls"))
    without = stream(*map(chunk, deltas), chunk({"content": "x"}, "stop"))
    unstreamed = whole(message({"reasoning_content": "hm", **piece(None, "{}", id="a", name="f")}, "tool_calls"))

    assert state(with_call) == state(unstreamed) == [{"opaque": {"reasoning_content": "hm"}}]
    assert "provider_state" not in without.metadata


def test_reasoning_content_of_the_answer_to_results_goes_back() -> None:
    """It belongs to a turn with calls, and with tools DeepSeek wants it back in any case."""
    user = {"role": "user", "parts": [{"text": {"text": "?"}}]}
    call = {"role": "assistant", "parts": [], "tool_calls": [{"id": "a", "name": "f", "arguments_json": "{}"}]}
    result = {"role": "tool", "tool_call_id": "a", "tool_name": "f", "parts": [{"text": {"text": "ok"}}]}
    tools = [{"name": "f", "input_schema": {}}]
    answer = [chunk({"reasoning_content": "hm"}), chunk({"content": "x"}, "stop")]

    for asked, kept in (
        ({"messages": [user, call, result]}, True),
        ({"messages": [user], "tools": tools}, True),
        ({"messages": [user, call, result, user]}, False),
    ):
        request = recorded.canonical({"type": "infer", **asked})
        read = play("".join(f"data: {json.dumps(each)}\n\n" for each in answer) + DONE, request=request)
        assert ("provider_state" in read.metadata) == kept


def test_what_copilot_wants_back_goes_back() -> None:
    """Its Gemini models refuse a turn without `reasoning_opaque`; without that the text is not wanted."""
    deltas = [{"reasoning_text": "h"}, {"reasoning_text": "m"}, {"reasoning_opaque": "S", **piece(0, "{}", name="f")}]
    read = stream(*map(chunk, deltas), chunk(finish="tool_calls"))
    without = stream(
        *map(chunk, deltas[:2]), *(chunk({"reasoning_opaque": no}) for no in ("", 5, None)), chunk({}, "stop")
    )

    assert state(read) == [{"opaque": {"reasoning_text": "hm", "reasoning_opaque": "S"}}]
    bare = stream(chunk({"reasoning_opaque": "S"}), chunk({"content": "x"}, "stop"))
    assert state(bare) == [{"opaque": {"reasoning_text": "", "reasoning_opaque": "S"}}]
    both = stream(*map(chunk, [{"reasoning_content": "why"}, *deltas]), chunk(finish="tool_calls"))
    assert state(both) == [
        {"opaque": {"reasoning_content": "why", "reasoning_text": "hm", "reasoning_opaque": "S"}},
    ]
    assert "provider_state" not in without.metadata


def test_extra_content_of_a_call_goes_back_with_it() -> None:
    """The thought signature of Gemini's OpenAI endpoint, under the id that the client knows."""
    extra = {"google": {"thought_signature": "S"}}
    read = stream(chunk(piece(0, "{}", name="f", extra_content=extra)), chunk(finish="tool_calls"))

    assert state(read) == [{"call": read.calls[0].id, "extra": {"extra_content": extra}}]


def test_reasoning_details_go_back_as_whole_items() -> None:
    """Pieces of one item are joined, encrypted ones stay as they are, the signature may come last."""
    entries = [
        {"type": "reasoning.text", "text": "h", "index": 0, "format": "anthropic-claude-v1"},
        {"type": "reasoning.text", "text": "m", "index": 0},
        {"type": "reasoning.text", "signature": "S", "index": 0},
        {"type": "reasoning.summary", "summary": "s", "index": 1},
        {"type": "reasoning.encrypted", "data": "E", "index": 2},
        {"type": "reasoning.encrypted", "data": "F", "index": 2},
    ]
    read = stream(*(chunk({"reasoning_details": [entry]}) for entry in entries), chunk({"content": "x"}, "stop"))
    unstreamed = whole(message({"content": "x", "reasoning_details": entries}))

    assert state(read) == [
        {
            "opaque": {
                "reasoning_details": [
                    {**entries[0], "text": "hm", "signature": "S"},
                    entries[3],
                    entries[4],
                    entries[5],
                ]
            }
        }
    ]
    assert state(unstreamed) == [{"opaque": {"reasoning_details": entries}}]

    repeated = chunk({"content": "x"}, "stop")
    repeated["choices"][0]["message"] = {"content": "x", "reasoning_details": [entries[4]]}
    assert state(stream(chunk({"reasoning_details": [entries[4]]}), repeated)) == [
        {"opaque": {"reasoning_details": [entries[4]]}}
    ]


@pytest.mark.parametrize("text", [True, False], ids=["as text, too", "alone"])
@pytest.mark.parametrize("last", ["abcd", "abcde"], ids=["the same", "more"])
def test_details_that_a_message_repeats_are_read_once(text: bool, last: str) -> None:
    """MiniMax ends a stream with the whole message: neither the client nor the provider gets its reasoning twice."""

    def thought(said: str) -> dict[str, Any]:
        entry = {"type": "reasoning.text", "id": "r", "index": 0, "text": said}
        return {"reasoning_details": [entry], **({"reasoning_content": said} if text else {})}

    encrypted = {"type": "reasoning.encrypted", "data": "E"}
    final = {"content": "x", **thought(last)}
    final["reasoning_details"] += [encrypted, {"type": "reasoning.summary", "summary": "s", "index": 1}]
    chunks = [chunk(thought("ab")), chunk(thought("cd")), chunk({"reasoning_details": [encrypted]})]
    read = stream(*chunks, chunk({"content": "x"}), instead(final, "stop"))

    assert (read.text, read.reasoning) == ("x", last if text else f"{last}\n\ns")
    details = final["reasoning_details"]
    assert state(read) == [{"opaque": {"reasoning_details": details}}]


def test_reasoning_that_a_message_repeats_by_another_name_goes_back_whole() -> None:
    """Under the name that the server knows; where deltas had that name, it is kept once."""
    call = piece(0, "{}", id="a", name="f")
    for key in ("reasoning", "reasoning_content"):
        read = stream(
            chunk({key: "hm"}), chunk(call), instead({**call, "reasoning_content": "hm"}), chunk(finish="stop")
        )
        assert read.reasoning == "hm"
        assert state(read) == [{"opaque": {"reasoning_content": "hm"}}]


def test_details_of_messages_in_place_of_deltas_are_wholes_or_pieces() -> None:
    """As their texts are; others than those before are pieces of their own, but nothing beside a delta."""
    encrypted = [{"reasoning_details": [{"type": "reasoning.encrypted", "data": data}]} for data in "EF"]
    for messages, reasoning in (
        ([details("ab", index=0), details("abc", index=0), details("abc", index=0)], "abc"),
        ([details("ab", index=0), details("c", index=0)], "abc"),
        ([details("ab", index=0), details("c", "summary", index=1)], "ab\n\nc"),
        ([details("ab", index=0), details("ab") | encrypted[0]], "ab"),
        ([details("ab", index=0), *encrypted], "ab"),
    ):
        assert stream(*map(instead, messages), chunk(finish="stop")).reasoning == reasoning
    whole = chunk({"content": "x"}, "stop")
    whole["choices"][0]["message"] = {"content": "x", **details("other", index=0)}
    read = stream(chunk(details("ab", index=0)), whole)
    assert (read.reasoning, state(read)) == ("ab", [{"opaque": details("ab", index=0)}])
    both = stream(*map(instead, encrypted), chunk(finish="stop"))
    assert state(both) == [{"opaque": {"reasoning_details": [e["reasoning_details"][0] for e in encrypted]}}]


def test_details_are_reasoning_a_paragraph_for_each_entry() -> None:
    """An entry is told by its index, else by its id; what is encrypted says nothing, but the backend is not silent."""
    texts: list[Any] = [{"id": "a", "text": "x"}, {"id": "a", "text": "y"}, {"id": "b", "summary": "z"}]
    texts += [{"index": 1, "id": "b", "text": 5, "summary": ""}, {"index": 1, "id": "b", "text": "w"}]
    read = stream(*(chunk({"reasoning_details": [entry]}) for entry in texts), chunk({"content": "!"}, "stop"))
    assert (read.reasoning, read.text) == ("xy\n\nz\n\nw", "!")

    encrypted = stream(chunk({"reasoning_details": [{"type": "reasoning.encrypted", "data": "E"}]}), chunk({}, "stop"))
    assert [type(event) for event in encrypted.events[:1]] == [Progress]
    empty = stream(chunk({"reasoning_details": [{"type": "reasoning.text", "text": ""}]}), chunk({}, "stop"))
    assert not any(isinstance(event, Progress | ReasoningDelta) for event in empty.events)


@pytest.mark.parametrize("other", [{"index": 1}, {"type": "reasoning.summary", "summary": "m"}])
def test_details_of_another_index_or_type_are_other_entries(other: Any) -> None:
    """Only pieces of the same entry are joined."""
    first = {"type": "reasoning.text", "text": "h", "index": 0}
    second = {"type": "reasoning.text", "text": "m", "index": 0, **other}
    read = stream(chunk({"reasoning_details": [first]}), chunk({"reasoning_details": [second]}), chunk({}, "stop"))

    assert state(read) == [{"opaque": {"reasoning_details": [first, second]}}]


def test_a_null_takes_nothing_from_a_detail() -> None:
    """Servers write every field in every piece."""
    first = {"type": "reasoning.text", "text": "h", "signature": "S", "format": None}
    second = {"type": "reasoning.text", "text": "m", "signature": None, "format": "f"}
    read = stream(chunk({"reasoning_details": [first]}), chunk({"reasoning_details": [second]}), chunk({}, "stop"))

    joined = {"type": "reasoning.text", "text": "hm", "signature": "S", "format": "f"}
    assert state(read) == [{"opaque": {"reasoning_details": [joined]}}]


def test_state_of_exactly_the_limit_goes_back() -> None:
    """One character more, and none does."""
    for length, kept in ((100, True), (101, False)):
        decoder = ChatCompletionsDecoder(TurnNotes("openai_compatible", "b", "m"), 100, annotated=False)
        events: list[BackendRawEvent] = []
        for delta in ({"reasoning_content": "x" * length}, piece(0, "{}", id="a", name="f")):
            decoder.feed(json.dumps(chunk(delta)).encode(), events)
        decoder.feed(json.dumps(chunk(finish="tool_calls")).encode(), events)
        decoder.finish(events)

        assert isinstance(events[-1], Completed)
        assert ("provider_state" in events[-1].backend_metadata) == kept


def test_state_is_bounded() -> None:
    """Reasoning beyond the limit is delivered and counted, and nothing of the turn's goes back."""
    decoder = ChatCompletionsDecoder(TurnNotes("openai_compatible", "b", "m"), 100, annotated=False)
    events: list[BackendRawEvent] = []
    for delta in ({"reasoning_content": "x"}, {"reasoning_content": "x" * 200}, piece(0, "{}", id="a", name="f")):
        decoder.feed(json.dumps(chunk(delta)).encode(), events)
    decoder.feed(json.dumps(chunk(finish="tool_calls")).encode(), events)
    decoder.finish(events)

    assert isinstance(events[0], ReasoningDelta)
    assert isinstance(events[-1], Completed)
    assert events[-1].backend_metadata == {"not_carried": {"provider_state": 1}}


def test_a_refusal_is_a_reason_of_its_own() -> None:
    """OpenAI's refusal text comes as text, also where it is a part of the content."""
    for read in (
        stream(chunk({"refusal": "I can"}), chunk({"refusal": "not"}), chunk(finish="stop")),
        whole(message({"content": None, "refusal": "I cannot"})),
        whole(message({"content": [{"type": "refusal", "refusal": "I cannot"}]})),
    ):
        assert (read.text, read.reason) == ("I cannot", OtherFinishReason("refusal"))
    assert stream(*[chunk({"refusal": "no"})] * 2, chunk(finish="stop")).text == "nono"


def test_positions_do_not_count_beside_a_refusal() -> None:
    """Its text stands in the answer, too."""
    place = {"url": "u", "start_index": 0, "end_index": 1}
    cited = {"annotations": [{"type": "url_citation", "url_citation": place}], "images": [{}]}
    for fields, start in (({"content": "ab"}, 0), ({"content": "ab", "refusal": "no"}, None)):
        decoder = ChatCompletionsDecoder(TurnNotes("openai_compatible", "b", "m"), 1000, annotated=True)
        events: list[BackendRawEvent] = []
        for payload in (chunk(fields), chunk(cited), chunk(finish="stop")):
            decoder.feed(json.dumps(payload).encode(), events)
        decoder.finish(events)

        assert [event.start for event in events if isinstance(event, Annotation)] == [start]
        assert isinstance(events[-1], Completed)
        assert events[-1].backend_metadata == {"not_carried": {"image": 1}}


def test_a_repeated_message_changes_nothing() -> None:
    """Neither what was counted, nor which calls of an answer were finished before it was cut."""
    said: dict[str, Any] = {"content": "x", "reasoning_content": {"a": 1}}
    said["tool_calls"] = [*piece(0, "{}", **F)["tool_calls"], *piece(1, "{}", **G)["tool_calls"]]
    for rest in ([chunk(finish="length")], [instead(said, "length")], [instead(said), instead(said, "length")]):
        read = stream(chunk(said), *rest)
        assert (read.text, read.arguments, read.reason) == ("x", [("f", {})], "length")
        assert read.metadata["not_carried"] == {"reasoning_content": 1}


def test_what_belongs_to_no_call_and_reasoning_of_another_form_are_counted() -> None:
    """Gemini's `extra_content` beside a text, and `reasoning_details` that are no list."""
    extra = {"extra_content": {"google": {"thought_signature": "S"}}}
    read = stream(chunk({"content": "x", **extra}), chunk({"reasoning_details": "hm", **extra}), chunk(finish="stop"))

    assert read.text == "x"
    assert read.metadata["not_carried"] == {"extra_content": 1, "reasoning_details": 1}
