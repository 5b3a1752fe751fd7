"""The answer's half of dialect `anthropic`; see `anthropic.py` for its sources."""

from __future__ import annotations

from pydantic import JsonValue
from pydantic_core import to_json

from ...canonical import (
    BackendRawEvent,
    Completed,
    JsonObject,
    OutputTextDelta,
    Progress,
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
from ..decoding.usage import count, usage_stats
from ..encoding.provider_state import TurnNotes


class AnthropicDecoder(ResponseDecoder):
    """The events of one message, or one whole `message`.

    The end mark is a `message_delta` with a `stop_reason`; `message_stop` says that nothing more comes.
    """

    def __init__(self, notes: TurnNotes) -> None:
        self._calls = ToolCalls()
        self._notes = notes
        self._blocks: dict[int, JsonObject] = {}  # those that are open, by index
        self._text_length = 0  # of the text block that is open; blocks follow each other
        self._thinking: list[str] = []  # of the thinking block that is open
        self._doubtful: int | None = None
        """A call that was stopped, but may have been cut: decided by what comes next."""
        self._stop_reason = ""
        self._usage: JsonObject = {}
        self._metadata: JsonObject = {}
        self._template = DeltaTemplate(lambda event: expect_object(event["delta"], "a delta"), "text")

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        if (text := self._template.match(payload)) is not None:
            self._text_length += len(text)
            events.append(OutputTextDelta(text))
            return
        event = parse_object(payload)
        kind = event.get("type")
        if kind == "content_block_delta":
            before = len(events)
            self._delta(event, events)
            if len(events) > before and isinstance(last := events[-1], OutputTextDelta):
                self._template.learn(payload, last.delta)
        elif kind == "content_block_start":
            self._start(_index(event), expect_object(event.get("content_block"), "a content_block"), events)
        elif kind == "content_block_stop":
            self._stop(_index(event), events)
        elif kind == "message_start":
            self._note_message(expect_object(event.get("message"), "a message"))
        elif kind == "message_delta":
            self._merge_usage(event.get("usage"))
            self._end(expect_object(event.get("delta"), "a message_delta's delta"))
        elif kind == "message_stop":
            self.done = True
        elif kind == "error" or "error" in event:  # llama.cpp's has OpenAI's shape
            raise error_in_stream(read_error(event))
        elif not isinstance(kind, str):
            raise protocol_violation("the backend sent an event without a `type`")

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        if body.get("type") == "error" or "error" in body:
            raise error_in_stream(read_error(body))
        content = body.get("content")
        if not isinstance(content, list):
            raise protocol_violation("the backend sent a message whose `content` is not an array")
        self._note_message(body)
        pieces: list[BackendRawEvent] = []
        for index, value in enumerate(content):
            block = expect_object(value, "a content block")
            self._start(index, block, pieces)
            self._stop(index, pieces, whole=True)
        text = "".join(event.delta for event in pieces if isinstance(event, OutputTextDelta))
        events += (event for event in pieces if isinstance(event, ReasoningDelta))
        if text:
            events.append(OutputTextDelta(text))
        events += (event for event in pieces if not isinstance(event, OutputTextDelta | ReasoningDelta))
        self._end(body)
        if not self.ended:
            raise protocol_violation("the backend sent an unstreamed answer without a stop_reason")
        self.done = True

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off("the backend's answer stopped without a stop_reason: it was cut off")
        if is_cut(self._stop_reason):
            self._calls.end_before_cut(events)
        else:
            self._calls.end_all(events)
        if self._usage:
            events.append(Usage(_usage(self._usage)))
        if state := self._notes.state():
            self._metadata["provider_state"] = state
        events.append(Completed(finish_reason(self._stop_reason, calls_ready=self._calls.any_ready), self._metadata))

    def _delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        delta = expect_object(event.get("delta"), "a content_block_delta's delta")
        kind = delta.get("type")
        if kind == "text_delta":
            if text := expect_text(delta.get("text"), "a text_delta's text"):
                self._text_length += len(text)
                events.append(OutputTextDelta(text))
            return
        index = _index(event)
        block = self._blocks.get(index)
        if kind == "input_json_delta":
            if block is None:
                raise protocol_violation("the backend sent an input_json_delta for a block that is not open")
            if block.get("type") == "tool_use":
                text = expect_text(delta.get("partial_json"), "an input_json_delta's partial_json")
                self._calls.fragment(index, events, arguments=text)
            else:
                events.append(Progress())  # for a tool that the provider runs itself
        elif kind == "thinking_delta":
            if text := expect_text(delta.get("thinking"), "a thinking_delta's thinking"):
                self._thinking.append(text)
                events.append(ReasoningDelta(text))
        elif kind == "signature_delta":
            signature = expect_text(delta.get("signature"), "a signature_delta's signature")
            if block is not None and signature:
                block["signature"] = expect_text(block.get("signature"), "a signature") + signature
                events.append(Progress())

    def _start(self, index: int, block: JsonObject, events: list[BackendRawEvent]) -> None:
        if self._doubtful is not None:  # what came before another block was not cut
            self._calls.end(self._doubtful, events)
            self._doubtful = None
        if index in self._blocks:
            raise protocol_violation(f"the backend began content block {index} twice")
        self._blocks[index] = block
        kind = block.get("type")
        if kind == "text":
            self._text_length = 0
            if text := expect_text(block.get("text"), "a block's text"):
                self._text_length = len(text)
                events.append(OutputTextDelta(text))
        elif kind == "tool_use":
            call_id = self._calls.fragment(
                index,
                events,
                call_id=expect_text(block.get("id"), "a tool_use's id"),
                name=expect_text(block.get("name"), "a tool_use's name"),
            )
            self._notes.call(call_id, {})
        elif kind == "thinking":
            self._thinking.clear()
            if text := expect_text(block.get("thinking"), "a block's thinking"):
                self._thinking.append(text)
                events.append(ReasoningDelta(text))
        else:
            events.append(Progress())  # redacted thinking, or a tool that the provider runs itself

    def _stop(self, index: int, events: list[BackendRawEvent], *, whole: bool = False) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            raise protocol_violation(f"the backend ended content block {index}, which is not open")
        kind = block.get("type")
        if kind == "text":
            self._notes.text(self._text_length, {})
        elif kind == "thinking":
            if block.get("signature"):  # thinking without one, cut or another server's, is refused if it comes back
                self._notes.opaque({**block, "thinking": "".join(self._thinking)})
        elif kind == "redacted_thinking":
            self._notes.opaque(block)
        elif kind == "tool_use":
            # Usually the input comes in deltas and is {} here.
            if (value := block.get("input")) and not self._calls.has_arguments(index):
                arguments = to_json(expect_object(value, "a tool_use's input")).decode()
                self._calls.fragment(index, events, arguments=arguments)
            # A call is also stopped where max_tokens cuts it. Its text shows that; an unstreamed input is no text.
            if whole or not self._calls.end_if_whole(index, events):
                self._doubtful = index

    def _end(self, delta: JsonObject) -> None:
        """Takes the end mark. What ended the answer decides in `finish` about the calls that are not proven yet."""
        reason = expect_text(delta.get("stop_reason"), "a stop_reason")
        if not reason:
            return
        self.ended = True
        self._stop_reason = reason
        for key in ("stop_sequence", "stop_details"):
            if delta.get(key) is not None:
                self._metadata[key] = delta[key]

    def _note_message(self, message: JsonObject) -> None:
        for ours, theirs in (("response_id", "id"), ("model", "model")):
            if isinstance(value := message.get(theirs), str) and value:
                self._metadata[ours] = value
        self._merge_usage(message.get("usage"))

    def _merge_usage(self, usage: JsonValue) -> None:
        """Counts are cumulative ("The cumulative number of …", MessageDeltaUsage): the last word on each one holds."""
        if isinstance(usage, dict):
            self._usage |= {key: value for key, value in usage.items() if value is not None or key not in self._usage}


def _index(event: JsonObject) -> int:
    index = event.get("index")
    if not isinstance(index, int):
        raise protocol_violation("the backend sent a content block event without an index")
    return index


def _usage(raw: JsonObject) -> UsageStats:
    uncached, output_tokens = count(raw.get("input_tokens")), count(raw.get("output_tokens"))
    read, written = count(raw.get("cache_read_input_tokens")), count(raw.get("cache_creation_input_tokens"))
    # "Total input tokens in a request is the summation of" these three (Message.usage).
    input_tokens = None if uncached is None else uncached + (read or 0) + (written or 0)
    details = raw.get("output_tokens_details")
    return usage_stats(
        raw,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=read,
        reasoning_tokens=count(details.get("thinking_tokens")) if isinstance(details, dict) else None,
    )
