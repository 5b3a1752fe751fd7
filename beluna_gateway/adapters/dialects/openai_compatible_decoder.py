"""The answer's half of `openai_compatible`; see `openai_compatible.py` for its sources."""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue

from ...canonical import (
    BackendRawEvent,
    Completed,
    JsonObject,
    OutputTextDelta,
    ReasoningDelta,
    Usage,
    UsageStats,
)
from ...errors import cut_off, protocol_violation
from ..base import ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.delta_template import DeltaTemplate
from ..decoding.finish_reasons import finish_reason, is_cut
from ..decoding.provider_errors import error_in_stream, read_error
from ..decoding.tool_calls import ToolCalls
from ..decoding.usage import openai_usage
from ..encoding.provider_state import TurnNotes


class ChatCompletionsDecoder(ResponseDecoder):
    """`chat.completion.chunk`s, or one `chat.completion`.

    The end mark is a `finish_reason`, or `[DONE]` after output. Usage comes in a chunk of its own after it.
    """

    def __init__(self, notes: TurnNotes) -> None:
        self._notes = notes
        self._calls = ToolCalls()
        self._finish: str | None = None
        self._refused = False
        self._output = False
        self._usage: UsageStats | None = None
        self._metadata: JsonObject = {}
        self._template = DeltaTemplate(_delta, "content")

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        if (text := self._template.match(payload)) is not None:
            events.append(OutputTextDelta(text))
            return
        before = len(events)
        chunk = parse_object(payload)
        self._chunk(chunk, "delta", events)
        if len(events) == before + 1 and not self.ended and chunk.get("usage") is None:
            event = events[before]
            if type(event) is OutputTextDelta and not self._refused:
                self._template.learn(payload, event.delta)

    def done_mark(self) -> None:
        self.done = True
        self.ended = self.ended or self._output

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        self._chunk(body, "message", events)
        if not self.ended:
            raise protocol_violation("the backend sent an unstreamed answer without a finish_reason")
        self.done = True

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off("the backend's answer stopped without a finish_reason: it was cut off")
        word = self._finish or "stop"
        if is_cut(word):
            self._calls.end_before_cut(events)
        else:
            self._calls.end_all(events)
        if self._usage is not None:
            events.append(Usage(self._usage))
        reason = finish_reason(word, calls_ready=self._calls.any_ready, refused=self._refused)
        events.append(Completed(reason, self._metadata))

    def _chunk(self, chunk: JsonObject, message_key: str, events: list[BackendRawEvent]) -> None:
        if chunk.get("error") is not None or chunk.get("object") == "error":
            raise error_in_stream(read_error(chunk))
        before = len(events)
        choices = chunk.get("choices")
        if choices:
            if not isinstance(choices, list):
                raise protocol_violation("the backend sent `choices` that is not an array")
            for choice in choices:
                self._choice(expect_object(choice, "a choice"), message_key, events)
        if len(events) > before:
            self._output = True
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = openai_usage(usage, "prompt_tokens", "completion_tokens")
        if not self._metadata:
            self._note_metadata(chunk)

    def _choice(self, choice: JsonObject, message_key: str, events: list[BackendRawEvent]) -> None:
        if choice.get("index") not in (0, None):
            raise protocol_violation("the backend sent a second choice (`n` above 1), which has no place in one answer")
        message = choice.get(message_key)
        if message is not None:
            message = expect_object(message, f"a {message_key}")
            # llama.cpp and DeepSeek say reasoning_content, OpenRouter and vLLM reasoning.
            if reasoning := message.get("reasoning_content") or message.get("reasoning"):
                events.append(ReasoningDelta(expect_text(reasoning, "reasoning")))
            if content := message.get("content"):
                events.append(OutputTextDelta(expect_text(content, "content")))
            if refusal := message.get("refusal"):
                self._refused = True
                events.append(OutputTextDelta(expect_text(refusal, "a refusal")))
            if calls := message.get("tool_calls"):
                self._tool_calls(calls, message_key == "message", events)
        finish = choice.get("finish_reason")
        if finish:
            self._finish = expect_text(finish, "a finish_reason")
            self.ended = True

    def _tool_calls(self, calls: JsonValue, whole: bool, events: list[BackendRawEvent]) -> None:
        if not isinstance(calls, list):
            raise protocol_violation("the backend sent `tool_calls` that is not an array")
        for position, value in enumerate(calls):
            call = expect_object(value, "a tool call")
            function = expect_object(call.get("function") or {}, "a tool call's function")
            index = position if whole else call.get("index")  # in a whole message each entry is a call of its own
            self._calls.fragment(
                index if isinstance(index, int) else None,
                events,
                call_id=expect_text(call.get("id"), "a tool call's id"),
                name=expect_text(function.get("name"), "a tool call's name"),
                arguments=expect_text(function.get("arguments"), "a tool call's arguments"),
            )

    def _note_metadata(self, chunk: JsonObject) -> None:
        for ours, theirs in (("response_id", "id"), ("model", "model"), ("system_fingerprint", "system_fingerprint")):
            if isinstance(value := chunk.get(theirs), str) and value:
                self._metadata[ours] = value


def _delta(chunk: Any) -> JsonObject:
    delta: JsonObject = chunk["choices"][0]["delta"]
    return delta
