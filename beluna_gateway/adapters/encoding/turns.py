"""The order and the shape of a conversation, for providers that accept only one.

Anthropic and Gemini want user and model in turns (`shape_turns`): neighbouring messages of one role are one turn, and
the results of a turn's calls stand together, directly after it, also where the history has another message between
them. Sources: Anthropic's guide "Handle tool calls" ("Tool result blocks must immediately follow their corresponding
tool use blocks", "must come first in the content array"), and Gemini's refusal "number of function response parts is
equal to the number of function call parts of the function call turn".

Chat Completions keeps each message, but wants results behind the message that made the calls (`results_after_calls`):
"An assistant message with 'tool_calls' must be followed by tool messages responding to each 'tool_call_id'".
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...canonical import AssistantMessage, JsonObject, Message, SystemMessage, ToolMessage
from ...errors import invalid_request
from .call_ids import CallPosition

NOTHING_TO_ANSWER = "messages: nothing is left to answer besides system messages and empty text"


@dataclass(slots=True)
class Turn:
    """One turn. A user's begins with the results of the calls before it; their order and the texts' are kept."""

    role: Literal["user", "assistant"]
    results: list[JsonObject] = field(default_factory=list)
    beside: list[JsonObject] = field(default_factory=list)
    """What belongs to a result and may not stand in it; results stand together, so it follows all of them."""
    blocks: list[JsonObject] = field(default_factory=list)

    @property
    def content(self) -> list[JsonObject]:
        return [*self.results, *self.beside, *self.blocks]

    def add_result(self, blocks: list[JsonObject]) -> None:
        """The result of a call, and what stands beside it."""
        self.results.append(blocks[0])
        self.beside += blocks[1:]


def results_after_calls(messages: Sequence[Message], answered: Mapping[int, CallPosition]) -> list[int]:
    """The indexes of the messages in the order in which each call's result follows the message that made the call.

    Results of calls that the history does not hold stay where they are.
    """
    if not answered:
        return [*range(len(messages))]
    results: dict[int, list[int]] = {}
    for result in sorted(answered):
        results.setdefault(answered[result][0], []).append(result)
    order: list[int] = []
    for index in range(len(messages)):
        if index not in answered:
            order += (index, *results.get(index, ()))
    return order


def shape_turns(
    messages: Sequence[Message],
    answered: Mapping[int, CallPosition],
    encode: Callable[[int, Message], list[JsonObject]],
    *,
    order: Callable[[list[int]], list[int]] = list,
) -> list[Turn]:
    """The conversation without its system messages, in turns.

    Args:
        messages: The history.
        answered: What `call_ids.answered_calls` says about it.
        encode: Gives the blocks of the message at an index; a message without any is left out. The first block of a
            tool message is its result. Called for a message only after it was called for the calls that it answers.
        order: Sorts the results of one turn, which come by the indexes of their messages.

    Raises:
        GatewayError: `invalid_request`, where no turn is left.
    """
    shaper = _Shaper(messages, answered, encode, order)
    for index, message in enumerate(messages):
        shaper.add(index, message)
    if not shaper.turns:
        raise invalid_request(NOTHING_TO_ANSWER)
    return shaper.turns


class _Shaper:
    def __init__(
        self,
        messages: Sequence[Message],
        answered: Mapping[int, CallPosition],
        encode: Callable[[int, Message], list[JsonObject]],
        order: Callable[[list[int]], list[int]],
    ) -> None:
        self.turns: list[Turn] = []
        self._messages = messages
        self._answered = answered
        self._encode = encode
        self._order = order
        self._results: dict[int, list[int]] = {}  # by the message that made the calls
        for result, (index, _) in answered.items():
            self._results.setdefault(index, []).append(result)
        self._open: set[int] = set()  # the results of the assistant turn that is not closed yet

    def add(self, index: int, message: Message) -> None:
        if isinstance(message, SystemMessage):
            return
        if index in self._answered:
            if index in self._open:
                self._turn("user")
            return
        blocks = self._encode(index, message)
        if not blocks:
            return
        if isinstance(message, ToolMessage):
            self._turn("user").add_result(blocks)
        elif isinstance(message, AssistantMessage):
            self._turn("assistant").blocks += blocks
            self._open.update(self._results.get(index, ()))
        else:
            self._turn("user").blocks += blocks

    def _turn(self, role: Literal["user", "assistant"]) -> Turn:
        """The turn under way, or a new one; the results of the calls before it are its beginning."""
        if not self.turns or self.turns[-1].role != role:
            self.turns.append(Turn(role))
            for result in self._order(sorted(self._open)):
                self.turns[-1].add_result(self._encode(result, self._messages[result]))
            self._open.clear()
        return self.turns[-1]
