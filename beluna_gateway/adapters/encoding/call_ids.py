"""Ids of tool calls, mapped to what a provider takes.

The ids belong to the client, whose history may come from any backend. Where a provider restricts them, the ids of one
request are mapped: the same history gives the same ids, two calls never get one id, a call and its result get the same,
and an id that is allowed is sent as it is.
"""

from __future__ import annotations

import re
from collections import Counter, deque
from collections.abc import Iterable, Mapping, Sequence
from hashlib import sha256
from typing import Literal

from ...canonical import AssistantMessage, Message, ToolMessage, immutable

CallPosition = tuple[int, int]
"""Where a call stands: the index of its message, and its position among that message's calls."""


def answered_calls(messages: Sequence[Message]) -> dict[int, CallPosition]:
    """The call that each tool message answers, by the tool message's index.

    Where an id is used again, each call belongs to the next result that names it, and of two calls that wait the one
    whose tool the result names. A result that finds every call of its id answered belongs to the last of them. Results
    of calls that the history does not hold are not in the answer.
    """
    waiting: dict[str, deque[tuple[CallPosition, str]]] = {}
    latest: dict[str, CallPosition] = {}
    answered: dict[int, CallPosition] = {}
    for index, message in enumerate(messages):
        if isinstance(message, AssistantMessage):
            for position, call in enumerate(message.tool_calls):
                waiting.setdefault(call.id, deque()).append(((index, position), call.name))
                latest[call.id] = (index, position)
        elif isinstance(message, ToolMessage) and message.call_id in latest:
            open_calls = waiting[message.call_id]
            if len(open_calls) > 1:
                _put_first(open_calls, message.tool_name)
            answered[index] = open_calls.popleft()[0] if open_calls else latest[message.call_id]
    return answered


def _put_first(open_calls: deque[tuple[CallPosition, str]], tool_name: str) -> None:
    """Puts the first call of that tool before the others, where there is one."""
    found = next((call for call in open_calls if call[1] == tool_name), open_calls[0])
    open_calls.remove(found)
    open_calls.appendleft(found)


@immutable
class IdRule:
    """What a provider takes as ids of calls: what an id has to match as a whole, whether no two calls of a history or
    of a turn may have the same, and how many characters a mapped one has at most.
    """

    allowed: re.Pattern[str]
    unique: Literal["history", "turn"] | None = None
    longest: int = 57


class CallIds:
    """The ids of one request as they are sent.

    Args:
        messages: The history.
        answered: What `answered_calls` says about it.
        rule: The provider's.
    """

    def __init__(
        self,
        messages: Sequence[Message],
        answered: Mapping[int, CallPosition],
        rule: IdRule,
    ) -> None:
        self._rule = rule
        self._taken = {call_id for call_id in _ids(messages) if rule.allowed.fullmatch(call_id)}
        self._mapped: dict[tuple[str, int], str] = {}
        self._calls: dict[CallPosition, str] = {}
        self._results: dict[int, str] = {}
        uses: Counter[str] = Counter()
        for index, message in enumerate(messages):
            if isinstance(message, AssistantMessage):
                if rule.unique == "turn":
                    uses.clear()
                for position, call in enumerate(message.tool_calls):
                    self._calls[index, position] = self._map(call.id, uses[call.id] if rule.unique else 0)
                    uses[call.id] += 1
            elif isinstance(message, ToolMessage):
                position_of_call = answered.get(index)
                self._results[index] = (
                    self._map(message.call_id, 0) if position_of_call is None else self._calls[position_of_call]
                )

    def of_call(self, index: int, position: int) -> str:
        """The id of a call: the index of its message and its position among that message's calls."""
        return self._calls[index, position]

    def of_result(self, index: int) -> str:
        """The id of the call that the tool message at `index` answers."""
        return self._results[index]

    def _map(self, call_id: str, use: int) -> str:
        """The id to send for the `use`-th call (from 0) that the client calls `call_id`."""
        if use == 0 and self._rule.allowed.fullmatch(call_id):
            return call_id
        key = (call_id, use)
        if key not in self._mapped:
            # Only the id itself and how often it was used before go in, so a longer history changes no earlier id.
            attempt = 0
            while (mapped := _hashed(call_id, use, attempt, self._rule.longest)) in self._taken:
                attempt += 1
            self._taken.add(mapped)
            self._mapped[key] = mapped
        return self._mapped[key]


def _ids(messages: Iterable[Message]) -> Iterable[str]:
    for message in messages:
        if isinstance(message, AssistantMessage):
            yield from (call.id for call in message.tool_calls)
        elif isinstance(message, ToolMessage):
            yield message.call_id


_HASH_CHARACTERS = 16


def _hashed(call_id: str, use: int, attempt: int, longest: int) -> str:
    """Characters of `[a-zA-Z0-9_-]`, which every provider takes: a readable beginning and a hash, which stands alone
    where there is room for nothing else.
    """
    digest = sha256(f"{use}:{attempt}:{call_id}".encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_CHARACTERS]
    room = longest - _HASH_CHARACTERS - 1
    return f"{re.sub(r'[^a-zA-Z0-9_-]', '_', call_id[:room])}_{digest}" if room > 0 else digest[:longest]
