"""`encoding/turns.py`: a conversation in turns of user and model."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.adapters.encoding.call_ids import answered_calls
from beluna_gateway.adapters.encoding.turns import results_after_calls, shape_turns
from beluna_gateway.canonical import (
    AssistantMessage,
    JsonObject,
    Message,
    SystemMessage,
    TextPart,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from beluna_gateway.errors import GatewayError


def user(text: str) -> UserMessage:
    return UserMessage((TextPart(text),))


def system(text: str) -> SystemMessage:
    return SystemMessage((TextPart(text),))


def model(text: str, *ids: str) -> AssistantMessage:
    return AssistantMessage((TextPart(text),), tuple(ToolCall(call_id, "f", "{}", {}) for call_id in ids))


def result(call_id: str) -> ToolMessage:
    return ToolMessage(call_id, "f", (TextPart("ok"),))


def encode(index: int, message: Message) -> list[JsonObject]:
    """A block for each text that is not empty, each call and each result."""
    if isinstance(message, ToolMessage):
        return [{"result": message.call_id}]
    blocks: list[JsonObject] = [{"text": part.text} for part in message.parts if part.text]  # type: ignore[union-attr]
    if isinstance(message, AssistantMessage):
        blocks += [{"call": call.id} for call in message.tool_calls]
    return blocks


def shaped(*messages: Message, **options: Any) -> list[tuple[str, list[Any]]]:
    """The turns, each as its role and what stands in its blocks."""
    turns = shape_turns(messages, answered_calls(messages), encode, **options)
    return [(turn.role, [value for block in turn.content for value in block.values()]) for turn in turns]


def test_results_follow_the_message_that_made_the_calls() -> None:
    """Chat Completions keeps all messages; only a result that stands elsewhere is moved."""
    messages: list[Message] = [
        user("a"),
        model("", "1", "2"),
        user("b"),
        result("2"),
        model("", "1"),
        result("1"),
        result("1"),
    ]
    tidy: list[Message] = [result("0"), user("a"), model("", "1"), result("1"), model("c")]

    assert results_after_calls(messages, answered_calls(messages)) == [0, 1, 3, 5, 2, 4, 6]
    assert results_after_calls(tidy, answered_calls(tidy)) == [0, 1, 2, 3, 4]


def test_neighbours_of_one_role_are_one_turn() -> None:
    """Two user messages are one turn, two of the model as well, also with a system message or an empty one between."""
    turns = shaped(user("a"), system("s"), user("b"), model("c"), user(""), model("d", "1"), result("1"))

    assert turns == [("user", ["a", "b"]), ("assistant", ["c", "d", "1"]), ("user", ["1"])]


def test_results_stand_together_after_their_turn() -> None:
    """A message between results comes after all of them, and a later model turn keeps its place."""
    turns = shaped(user("a"), model("", "1", "2"), result("1"), user("b"), model("c"), result("2"), user("d"))

    assert turns[1:4] == [("assistant", ["1", "2"]), ("user", ["1", "2", "b"]), ("assistant", ["c"])]
    assert (turns[0], turns[4:]) == (("user", ["a"]), [("user", ["d"])])


def test_calls_of_neighbouring_messages_are_answered_together() -> None:
    """The results of a merged turn's calls all follow it."""
    turns = shaped(user("a"), model("", "1"), model("", "2"), user("b"), result("2"), result("1"))

    assert turns == [("user", ["a"]), ("assistant", ["1", "2"]), ("user", ["2", "1", "b"])]


def test_a_result_between_model_messages_parts_them() -> None:
    """A model that goes on after a result does so in a turn of its own."""
    turns = shaped(user("a"), model("", "1"), result("1"), model("", "2"), result("2"))

    assert turns == [("user", ["a"]), ("assistant", ["1"]), ("user", ["1"]), ("assistant", ["2"]), ("user", ["2"])]


def test_a_repeated_id_is_answered_in_its_own_turn() -> None:
    """The same id in two turns: each turn is followed by its own result."""
    turns = shaped(user("a"), model("", "1"), result("1"), user("b"), model("", "1"), user("c"), result("1"))

    assert turns[2:] == [("user", ["1", "b"]), ("assistant", ["1"]), ("user", ["1", "c"])]


def test_results_without_calls_are_the_users() -> None:
    """A result of a call that the history does not hold stands at the beginning of its turn."""
    assert shaped(user("a"), result("1"), user("b"), result("2")) == [("user", ["1", "2", "a", "b"])]


def test_the_order_of_results_may_be_chosen() -> None:
    """A provider that tells results apart by their order has them sorted."""
    turns = shaped(model("", "1", "2"), result("2"), result("1"), order=lambda results: results[::-1])

    assert turns == [("assistant", ["1", "2"]), ("user", ["1", "2"])]


@pytest.mark.parametrize("messages", [(system("s"),), (system("s"), user("")), (user(""), model(""))])
def test_nothing_to_answer_is_refused(messages: tuple[Message, ...]) -> None:
    """A history of which nothing but system messages is left is `invalid_request`."""
    with pytest.raises(GatewayError, match="system messages") as failure:
        shaped(*messages)
    assert failure.value.kind == "invalid_request"
