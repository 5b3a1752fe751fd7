"""The choices of a chunk or of an answer: which is the answer, and what the message in one is to what was said."""

from __future__ import annotations

from typing import Literal

from pydantic import JsonValue

from ...canonical import JsonObject
from ..base import expect_object
from ..decoding.said_text import SaidText
from ..decoding.scalars import whole_number

Form = Literal["piece", "whole", "either"]
"""What a message in a choice is. `piece`: the next piece of the answer, that is a `delta`, or the only message of an
unstreamed answer. `whole`: the answer so far, once more, that is a `message` beside a `delta`. `either`: a `message` in
place of a `delta`, which is the answer so far where it begins with that, else the next piece. Beside an empty `delta`
it is the whole, but for a server whose messages have said something: then it is as if in place of the `delta`.
"""


def unsaid(said: SaidText, text: str, *, whole: bool) -> str:
    """What a text adds to what was said: its rest where it begins with that, else all of it, or nothing where it is the
    `whole` once more.
    """
    rest = said.rest(text)
    return rest if rest is not None else "" if whole else text


def with_split_calls(choices: list[JsonObject]) -> list[JsonObject]:
    """The choices of an unstreamed answer, of which those after the first may hold its calls.

    GitHub Copilot splits an answer of Claude: the first choice has the text and says `tool_calls`, and each further one
    has calls. Nobody asked for several answers, so they are its own.
    """
    first, *others = choices
    if first.get("finish_reason") != "tool_calls" or _calls_of(first) or not any(map(_calls_of, others)):
        return choices
    message = first.get("message")
    calls = [call for choice in choices for call in _calls_of(choice)]
    whole = {**first, "message": {**(message if isinstance(message, dict) else {}), "tool_calls": calls}}
    answers = [choice for choice in others if not _calls_of(choice)]
    return [whole, *({**choice, "index": index} for index, choice in enumerate(answers, 1))]


def number_of(choice: JsonObject, position: int) -> int:
    """Its index, else its position."""
    index = whole_number(choice.get("index"))
    return position if index is None else index


def as_message(value: JsonValue, where: str) -> JsonObject:
    """A message, or its text alone (open-chat-studio 526)."""
    if isinstance(value, dict):
        return value
    return {"content": value} if isinstance(value, str) else expect_object(value, where)


def _calls_of(choice: JsonObject) -> list[JsonValue]:
    message = choice.get("message")
    calls = message.get("tool_calls") if isinstance(message, dict) else None
    return calls if isinstance(calls, list) else []
