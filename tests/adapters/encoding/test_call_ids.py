"""`encoding/call_ids.py`: ids of calls as a provider takes them."""

from __future__ import annotations

import re
from hashlib import sha256
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.encoding.call_ids import CallIds, IdRule, answered_calls
from beluna_gateway.canonical import AssistantMessage, Message, TextPart, ToolCall, ToolMessage, UserMessage

STRICT = re.compile(r"[a-zA-Z0-9_-]+")
SHORT = re.compile(r".{1,64}", re.DOTALL)
Unique = Literal["history", "turn"] | None


def calls(*ids: str) -> AssistantMessage:
    return AssistantMessage((), tuple(ToolCall(call_id, "f", "{}", {}) for call_id in ids))


def result(call_id: str) -> ToolMessage:
    return ToolMessage(call_id, "f", (TextPart("ok"),))


def sent(
    *messages: Message,
    allowed: re.Pattern[str] = STRICT,
    unique: Unique = "history",
    longest: int = 57,
) -> list[list[str]]:
    """The ids of each message as they are sent."""
    ids = CallIds(messages, answered_calls(messages), IdRule(allowed, unique, longest))
    return [
        [ids.of_call(index, position) for position in range(len(message.tool_calls))]
        if isinstance(message, AssistantMessage)
        else [ids.of_result(index)]
        for index, message in enumerate(messages)
        if isinstance(message, AssistantMessage | ToolMessage)
    ]


def test_an_allowed_id_is_sent_as_it_is() -> None:
    """Where nothing is restricted, nothing changes."""
    assert sent(calls("toolu_1", "b-2"), result("b-2"), result("toolu_1")) == [["toolu_1", "b-2"], ["b-2"], ["toolu_1"]]


def test_a_restricted_id_is_mapped_with_its_result() -> None:
    """An id with other characters becomes one that is taken; call and result keep together."""
    (mapped,), (answered,) = sent(calls("functions.get_weather:0"), result("functions.get_weather:0"))

    assert mapped == answered
    assert STRICT.fullmatch(mapped)
    assert mapped.startswith("functions_get_weather_0_")


@pytest.mark.parametrize(("length", "changes"), [(64, False), (65, True), (391, True)])
def test_a_long_id_is_mapped(length: int, changes: bool) -> None:
    """An id of up to 64 characters is taken by the Responses API, whatever its characters."""
    long = "é" * length

    (mapped,), (answered,) = sent(calls(long), result(long), allowed=SHORT, unique=None)

    assert mapped == answered
    assert (mapped != long) == changes
    assert len(mapped) <= 64


def hashed(call_id: str, use: int = 0, attempt: int = 0) -> str:
    return sha256(f"{use}:{attempt}:{call_id}".encode("utf-8", "surrogatepass")).hexdigest()[:16]


@pytest.mark.parametrize(
    ("call_id", "use", "beginning"),
    [
        ("functions.get_weather:0", 0, "functions_get_weather_0"),
        ("azAZ09_-", 1, "azAZ09_-"),
        ("a{[`@^/.:é 猫", 0, "a___________"),
        ("ab:" * 20, 0, ("ab_" * 20)[:40]),
        ("\ud800", 0, "_"),
    ],
)
def test_a_mapped_id_is_the_same_in_every_version(call_id: str, use: int, beginning: str) -> None:
    """What can be read of it and a hash: another one would let the provider's cache miss the whole conversation."""
    mapped = sent(calls(*[call_id] * (use + 1)))[0][use]

    assert mapped == f"{beginning}_{hashed(call_id, use)}"
    assert re.fullmatch("[a-zA-Z0-9_-]{1,57}", mapped)


def test_a_mapped_id_that_is_taken_is_mapped_again() -> None:
    """By hash after hash, until one is free."""
    first, second, third = (f"a_b_{hashed('a.b', attempt=attempt)}" for attempt in range(3))

    assert sent(calls("a.b", first)) == [[second, first]]
    assert sent(calls("a.b", second, first)) == [[third, second, first]]


def test_a_repeated_id_pairs_each_call_with_the_next_result() -> None:
    """Two calls of one id get two ids where they must be unique, and each result goes with its own call."""
    (first,), (answer,), (second,), (later,) = sent(calls("a"), result("a"), calls("a"), result("a"))
    assert (first, answer) == ("a", "a")
    assert second == later != "a"

    (one, two), *answers = sent(calls("a", "a"), result("a"), result("a"))
    assert answers == [[one], [two]]
    assert one != two


def test_a_repeated_id_stays_where_it_may_be_repeated() -> None:
    """The Responses API takes an id twice."""
    history = (calls("a", "a"), result("a"), calls("a"), result("a"))

    assert sent(*history, allowed=SHORT, unique=None) == [["a", "a"], ["a"], ["a"], ["a"]]


def test_a_repeated_id_stays_where_only_a_turn_may_not_repeat_it() -> None:
    """OpenAI's Chat Completions takes an id in turn after turn, but not twice in one."""
    (one, two), *answers, (third,), (last,) = sent(
        calls("a", "a"), result("a"), result("a"), calls("a"), result("a"), unique="turn"
    )

    assert answers == [[one], [two]]
    assert one == third == last == "a" != two


def test_a_mapped_id_is_as_short_as_the_provider_wants_it() -> None:
    """Of the client's id only so much is kept as there is room for, beside the hash or none at all."""
    call_id = "chatcmpl-tool-" + "0" * 32

    ((long,), *_) = sent(calls(call_id), allowed=re.compile(".{1,40}"), longest=40)
    (short,) = sent(calls("a", "b2345678C", "c"), allowed=re.compile("[a-zA-Z0-9]{9}"), longest=9)

    assert long == f"chatcmpl-tool-000000000_{hashed(call_id)}"
    assert len(long) == 40
    assert short == [hashed("a")[:9], "b2345678C", hashed("c")[:9]]
    assert sent(calls("a"), longest=17, allowed=re.compile("x"))[0] == [hashed("a")]
    assert sent(calls("ab"), longest=18, allowed=re.compile("x"))[0] == [f"a_{hashed('ab')}"]


def test_a_mapped_id_is_no_other_calls_id() -> None:
    """A client may use the very id that another one would be mapped to: both are told apart."""
    (mapped,), _ = sent(calls("a.b"), result("a.b"))

    (first, second), *_ = sent(calls("a.b", mapped))

    assert second == mapped != first


def test_results_without_calls() -> None:
    """A history without calls may hold results, which are mapped all the same."""
    ((one,), (other,)) = sent(result("a.b"), result("a.b"))

    assert one == other
    assert STRICT.fullmatch(one)


def test_one_result_too_many() -> None:
    """A second answer to a call belongs to that call."""
    assert sent(calls("a"), result("a"), result("a")) == [["a"], ["a"], ["a"]]


def test_each_result_has_the_call_that_it_answers() -> None:
    """Calls of one id in their order; a result too many belongs to the last of them, one of no call to none."""
    messages: list[Message] = [
        calls("a", "a"),
        result("a"),
        result("b"),
        result("a"),
        result("a"),
        calls("a"),
        result("a"),
    ]

    assert answered_calls(messages) == {1: (0, 0), 3: (0, 1), 4: (0, 1), 6: (5, 0)}


def test_of_two_calls_of_one_id_each_has_the_result_of_its_tool() -> None:
    """Servers that give parallel calls one id are told apart by the tools, where those differ."""
    both = AssistantMessage((), tuple(ToolCall("a", name, "{}", {}) for name in ("f", "g")))
    answers = [ToolMessage("a", name, (TextPart("ok"),)) for name in ("g", "f", "h")]

    assert answered_calls([both, *answers]) == {1: (0, 1), 2: (0, 0), 3: (0, 1)}
    assert answered_calls([both, answers[2], answers[0]]) == {1: (0, 0), 2: (0, 1)}


def test_an_allowed_id_of_a_result_without_a_call_is_sent_as_it_is() -> None:
    """As every allowed id is."""
    assert sent(result("a"), calls("b"), result("b")) == [["a"], ["b"], ["b"]]


_ids = st.sampled_from(["a", "b", "a.b", "a:b", "a_b", "", "é", "x" * 65, "x" * 65 + "y"]).filter(bool)
_histories = st.lists(st.lists(_ids, min_size=1, max_size=3), max_size=5)


@given(_histories, st.sampled_from([(STRICT, "history"), (SHORT, None), (SHORT, "history")]))
def test_ids_of_any_history(turns: list[list[str]], rule: tuple[re.Pattern[str], Unique]) -> None:
    """Every id is allowed; two ids never become one; what is sent does not depend on what follows."""
    allowed, unique = rule
    messages: list[Message] = []
    for turn in turns:
        messages += [calls(*turn), *map(result, turn), UserMessage((TextPart("and?"),))]

    ids = sent(*messages, allowed=allowed, unique=unique)

    made = [call_id for turn in ids for call_id in turn]
    assert all(allowed.fullmatch(call_id) for call_id in made)
    position = 0
    of_calls: list[tuple[str, str]] = []
    for turn in turns:
        own, answers = ids[position], ids[position + 1 : position + 1 + len(turn)]
        assert sorted(own) == sorted(answer[0] for answer in answers)
        of_calls += zip(turn, own, strict=True)
        position += 1 + len(turn)
    if unique:
        assert len({mapped for _, mapped in of_calls}) == len(of_calls)
    else:
        assert len({mapped for _, mapped in of_calls}) == len({original for original, _ in of_calls})
    for end in range(len(messages)):
        shorter = sent(*messages[:end], allowed=allowed, unique=unique)
        assert shorter == ids[: len(shorter)]
