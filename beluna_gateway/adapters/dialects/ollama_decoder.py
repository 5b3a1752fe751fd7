"""The answer's half of `ollama`; see `ollama.py` for its sources."""

from __future__ import annotations

from pydantic_core import to_json

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
from ..decoding.finish_reasons import finish_reason
from ..decoding.provider_errors import error_in_stream, read_error
from ..decoding.tool_calls import ToolCalls
from ..decoding.usage import count, usage_stats


class OllamaDecoder(ResponseDecoder):
    """One `ChatResponse` a line; the one with `"done":true` is the last and carries the counts.

    A tool call comes whole, in one line, so it is finished as soon as it is there.
    """

    def __init__(self) -> None:
        self._calls = ToolCalls()
        self._calls_seen = 0
        self._finish = "stop"
        self._usage: UsageStats | None = None
        self._metadata: JsonObject = {}

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        self._chunk(parse_object(payload), events)

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        self._chunk(body, events)
        if not self.ended:
            raise protocol_violation('the backend sent an unstreamed answer that is not "done"')

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off('the backend\'s answer stopped without "done":true: it was cut off')
        if self._usage is not None:
            events.append(Usage(self._usage))
        events.append(Completed(finish_reason(self._finish, calls_ready=self._calls.any_ready), self._metadata))

    def _chunk(self, chunk: JsonObject, events: list[BackendRawEvent]) -> None:
        if chunk.get("error") is not None:
            raise error_in_stream(read_error(chunk))
        message = chunk.get("message")
        done = chunk.get("done")
        if message is not None:  # the last line of older servers has none
            self._message(expect_object(message, "a message"), events)
        elif not done:
            raise protocol_violation("the backend sent a line with neither `message` nor `done`")
        if done is True:
            self._done(chunk)
        elif done not in (False, None):
            raise protocol_violation("the backend sent `done` that is not a boolean")

    def _message(self, message: JsonObject, events: list[BackendRawEvent]) -> None:
        if thinking := message.get("thinking"):
            events.append(ReasoningDelta(expect_text(thinking, "thinking")))
        if content := message.get("content"):
            events.append(OutputTextDelta(expect_text(content, "content")))
        if calls := message.get("tool_calls"):
            if not isinstance(calls, list):
                raise protocol_violation("the backend sent `tool_calls` that is not an array")
            for call in calls:
                self._tool_call(expect_object(call, "a tool call"), events)

    def _tool_call(self, call: JsonObject, events: list[BackendRawEvent]) -> None:
        function = expect_object(call.get("function"), "a tool call's function")
        arguments = function.get("arguments")
        # Not `function.index`, which may begin at 0 again in the next line: each entry is a call of its own.
        key = self._calls_seen
        self._calls_seen += 1
        self._calls.fragment(
            key,
            events,
            call_id=expect_text(call.get("id"), "a tool call's id"),
            name=expect_text(function.get("name"), "a tool call's name"),
            arguments=to_json({} if arguments is None else expect_object(arguments, "arguments")).decode(),
        )
        self._calls.end(key, events)

    def _done(self, chunk: JsonObject) -> None:
        self.ended = self.done = True
        # `done` without a word: older servers, and llm/server.go's DoneReasonConnectionClosed.
        self._finish = expect_text(chunk.get("done_reason"), "a done_reason") or "stop"
        if isinstance(model := chunk.get("model"), str) and model:
            self._metadata["model"] = model
        self._usage = _usage(chunk)


_USAGE_KEYS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


def _usage(chunk: JsonObject) -> UsageStats | None:
    """`api.Metrics`, which stands in the last line itself and not in an object of its own."""
    raw: JsonObject = {key: chunk[key] for key in _USAGE_KEYS if key in chunk}
    input_tokens, output_tokens = count(raw.get("prompt_eval_count")), count(raw.get("eval_count"))
    if input_tokens is None and output_tokens is None:
        return None
    return usage_stats(raw, input_tokens=input_tokens, output_tokens=output_tokens)
