"""The answer's half of `ollama`; see `ollama.py` for its sources."""

from __future__ import annotations

from typing import NamedTuple

from ...canonical import (
    BackendRawEvent,
    Completed,
    JsonObject,
    OutputTextDelta,
    Progress,
    ReasoningDelta,
    ToolCallDelta,
    Usage,
    UsageStats,
)
from ...errors import cut_off, protocol_violation
from ..base import ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.content import read_content
from ..decoding.error_kinds import error_in
from ..decoding.finish_reasons import finish_reason, is_cut, said_reason
from ..decoding.gathering import gathered
from ..decoding.not_carried import NotCarried
from ..decoding.tool_calls import DEFAULT_MAX_BYTES, ToolCalls, arguments_text, call_entries, call_id_text
from ..decoding.usage import count, merged, usage_stats


class _Entry(NamedTuple):
    """An entry of `tool_calls`."""

    call_id: str
    name: str
    arguments: str


class OllamaDecoder(ResponseDecoder):
    """One `ChatResponse` a line; the one with `"done":true` is the last and carries the counts.

    A tool call comes whole, in one line, so it is finished as soon as its arguments are there. Where it has none, they
    may follow in an entry without a name, as in other APIs.

    Args:
        max_bytes: The most bytes that are kept of calls.
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self.ended = self.done = False
        self._calls = ToolCalls(max_bytes)
        self._calls_seen = 0
        self._without_arguments: _Entry | None = None  # the last call, while its arguments may follow
        self._not_carried = NotCarried()
        self._finish = "stop"
        self._usage: JsonObject | None = None
        self._metadata: JsonObject = {}

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        self._chunk(parse_object(payload), events)

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        pieces: list[BackendRawEvent] = []
        self._chunk(body, pieces)
        self._settle_last(pieces)
        events += gathered(pieces)
        if body.get("done") is None and any(isinstance(event, OutputTextDelta | ToolCallDelta) for event in pieces):
            self.ended = True  # HTTP proves that it is whole, and it does not say that it is not
        if not self.ended:
            raise protocol_violation('the backend sent an unstreamed answer that is not "done"')

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off('the backend\'s answer stopped without "done":true: it was cut off')
        self._settle_last(events)
        if self._usage is not None and (usage := _usage(self._usage)) is not None:
            events.append(Usage(usage))
        self._metadata |= self._not_carried.metadata()
        events.append(Completed(finish_reason(self._finish, calls_ready=self._calls.any_ready), self._metadata))

    def _chunk(self, chunk: JsonObject, events: list[BackendRawEvent]) -> None:
        if (error := error_in(chunk)) is not None:
            raise error
        message = chunk.get("message")
        done = chunk.get("done")
        if message is None and isinstance(text := chunk.get("response"), str):
            message = {"content": text, "thinking": chunk.get("thinking")}  # as `/api/generate` has it
        if message is not None:  # the last line of older servers has none
            self._message(expect_object(message, "a message"), events)
        elif done is None:
            raise protocol_violation("the backend sent a line with neither `message` nor `done`")
        if isinstance(logprobs := chunk.get("logprobs"), list) and logprobs:
            self._not_carried.at_least("logprobs")
        if done is True:
            self._done(chunk)
        elif done not in (False, None):
            raise protocol_violation("the backend sent `done` that is not a boolean")

    def _message(self, message: JsonObject, events: list[BackendRawEvent]) -> None:
        thinking = ""
        for key in ("thinking", "reasoning_content", "reasoning"):  # the others of servers that have Ollama's API
            value = message.get(key)
            if isinstance(value, str):
                thinking = thinking or value
            elif value:
                self._not_carried.add(key)
        if thinking:
            events.append(ReasoningDelta(thinking))
        for kind, text in read_content(message.get("content"), self._not_carried):
            events.append(ReasoningDelta(text) if kind == "reasoning" else OutputTextDelta(text))
        if calls := message.get("tool_calls"):
            for call in call_entries(calls):
                self._tool_call(call, events)
        if isinstance(images := message.get("images"), list) and images:
            self._not_carried.add("image", len(images))
            events.append(Progress())

    def _tool_call(self, call: JsonObject, events: list[BackendRawEvent]) -> None:
        function = expect_object(call.get("function") or call, "a tool call's function")
        entry = _Entry(
            call_id_text(call.get("id")),
            expect_text(function.get("name"), "a tool call's name"),
            arguments_text(function.get("arguments")),
        )
        begun = self._without_arguments
        if begun is not None and (not entry.name or (entry.call_id and entry[:2] == begun[:2])):
            self._without_arguments = None
            entry = begun._replace(arguments=entry.arguments or begun.arguments)
        self._settle(events)
        if entry.call_id and self._calls.is_known(*entry):
            return  # the last line repeats the calls
        if entry.name and entry.arguments.strip() in ("", "{}"):
            self._without_arguments = entry
            events.append(Progress())
        else:
            self._whole_call(entry, events)

    def _settle(self, events: list[BackendRawEvent]) -> None:
        """Ends a call without arguments, as another one follows it, or nothing."""
        if (begun := self._without_arguments) is not None:
            self._without_arguments = None
            self._whole_call(begun, events)

    def _settle_last(self, events: list[BackendRawEvent]) -> None:
        """As `_settle`, at the end: in an answer that was cut only `{}` says that there are none."""
        if not is_cut(self._finish) or (self._without_arguments is not None and self._without_arguments.arguments):
            self._settle(events)

    def _whole_call(self, entry: _Entry, events: list[BackendRawEvent]) -> None:
        # Not `function.index`, which may begin at 0 again in the next line: each entry is a call of its own.
        key = self._calls_seen
        self._calls_seen += 1
        self._calls.fragment(key, events, call_id=entry.call_id, name=entry.name, arguments=entry.arguments or "{}")
        self._calls.end(key, events)

    def _done(self, chunk: JsonObject) -> None:
        self.ended = True  # but not `done`: what comes after it is looked at
        # `done` without a word: older servers, and llm/server.go's DoneReasonConnectionClosed.
        self._finish = said_reason(chunk.get("done_reason")) or "stop"
        if isinstance(model := chunk.get("model"), str) and model:
            self._metadata["model"] = model
        self._usage = merged(self._usage, {key: chunk[key] for key in _USAGE_KEYS if key in chunk})


_USAGE_KEYS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


def _usage(raw: JsonObject) -> UsageStats | None:
    """`api.Metrics`, which stands in the last line itself and not in an object of its own."""
    input_tokens, output_tokens = count(raw.get("prompt_eval_count")), count(raw.get("eval_count"))
    if input_tokens is None and output_tokens is None:
        return None
    return usage_stats(raw, input_tokens=input_tokens, output_tokens=output_tokens)
