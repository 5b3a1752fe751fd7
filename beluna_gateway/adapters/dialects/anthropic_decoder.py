"""The answer's half of dialect `anthropic`; see `anthropic.py` for its sources."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import ClassVar

from pydantic import JsonValue

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
from ...wire import strict_json
from ..base import ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.annotations import Annotations, claude_annotation
from ..decoding.delta_template import DeltaTemplate
from ..decoding.error_kinds import error_in
from ..decoding.finish_reasons import finish_reason, is_cut, said_reason
from ..decoding.gathering import gathered, is_answer
from ..decoding.kept import KeptBytes
from ..decoding.not_carried import NotCarried
from ..decoding.scalars import word
from ..decoding.tool_calls import ToolCalls, arguments_text, call_id_text
from ..decoding.usage import count, merged, usage_stats
from ..encoding.provider_state import TurnNotes

_BLOCK_COST = 300  # bytes of memory, about, that a block and its note take whatever is in it
_SEPARATOR = "\n\n"

_FOR_THE_PROVIDER = frozenset({"redacted_thinking", "compaction"})
"""Blocks that have nothing for the client: their content is the provider's own."""

CARRIED = ("caller", "toolset_name")
"""What a tool_use has besides its id, name and input and must have when it comes back (ToolUseBlockParam)."""

_BEDROCK_METRICS = "amazon-bedrock-invocationMetrics"  # an event of its own, without a type


@dataclass(slots=True)
class _Block:
    """A content block that is open."""

    kind: str
    value: JsonObject
    """The block as it began. Of a text without its text, which is not kept."""
    call: int | None = None
    """The key of its call, for a tool_use."""
    texts: list[str] = field(default_factory=list)
    """What came in deltas: thinking, or the input of a tool that the provider runs itself."""
    signatures: list[str] = field(default_factory=list)
    """The pieces of a thinking's signature."""
    citations: list[JsonValue] = field(default_factory=list)


class AnthropicDecoder(ResponseDecoder):
    """The events of one message, or one whole `message`.

    The end mark is a `message_delta` with a `stop_reason`; `message_stop` says that nothing more comes.

    Args:
        notes: Where the turn's pieces are noted.
        max_bytes: The most bytes that are kept of the answer until its end.
        annotated: Whether the request asked for annotations.
    """

    def __init__(self, notes: TurnNotes, max_bytes: int, *, annotated: bool = False) -> None:
        self.ended = self.done = False
        self._annotations = Annotations(max_bytes) if annotated else None
        self._noted_length = 0  # characters of the text before that
        self._calls = ToolCalls(max_bytes)
        self._notes = notes
        self._kept = KeptBytes(max_bytes)
        self._not_carried = NotCarried()
        self._blocks: dict[int, _Block] = {}  # those that are open, by index
        self._ended: set[int] = set()  # indexes of blocks that have ended
        self._call_keys: dict[int, int] = {}  # the last call that began at an index
        self._call_count = 0
        self._text_length = 0  # characters of text that are not noted yet
        self._unsigned: JsonObject | None = None
        """Thinking without a signature. Where nothing follows it may have been cut, and then does not go back."""
        self._reasoning: _Block | None = None  # the block of the last reasoning
        self._doubtful: int | None = None
        """A call that was stopped, but may have been cut: decided by what comes next."""
        self._stopped_late: list[int] = []
        """Calls whose block was stopped after an end mark. That is no content: they become ready in `finish`."""
        self._without_input: list[int] = []
        """Calls that ended without any input, and were not cut: ready at the end, if none comes until then."""
        self._begun = False  # a `message_start` has come
        self._message_id: str | None = None
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
                self._template.learn(payload, event, last.delta)
        elif isinstance(kind, str) and (handler := self._HANDLERS.get(kind)) is not None:
            handler(self, event, events)
        elif (error := error_in(event)) is not None:  # llama.cpp's has OpenAI's shape
            raise error
        elif not isinstance(kind, str) and not self.ended and _BEDROCK_METRICS not in event:
            raise protocol_violation("the backend sent an event without a `type`")

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        if (error := error_in(body)) is not None:
            raise error
        self._message(body)
        pieces: list[BackendRawEvent] = []
        self._whole_content(body.get("content"), pieces)
        events += gathered(pieces)
        self._end(body)
        if not self.ended:
            if not is_answer(pieces):
                raise protocol_violation("the backend sent an unstreamed answer without a stop_reason")
            self.ended, self._stop_reason = True, "end_turn"
        self.done = True

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off("the backend's answer stopped without a stop_reason: it was cut off")
        self._stop_open(events)
        for block in self._blocks.values():  # calls that the backend has not ended (Kimi)
            if block.call is not None:
                self._whole_input(block.call, block.value.get("input"), events)
        cut = is_cut(self._stop_reason)
        if cut:
            for key in self._without_input:
                self._calls.end(key, events)
            for key in self._stopped_late:
                self._calls.end_if_whole(key, events)
            self._calls.end_before_cut(events)
        else:
            self._calls.end_all(events)
        if self._annotations is not None:
            events += self._annotations.events(self._noted_length + self._text_length)
            self._not_carried.add("citations", self._annotations.passed_over)
        if self._usage:
            events.append(Usage(_usage(self._usage)))
        if cut or (self._unsigned is not None and not self._unsigned["thinking"]):
            self._unsigned = None
        self._flush_notes()
        if state := self._notes.state():
            self._metadata["provider_state"] = state
        reason = finish_reason(self._stop_reason, calls_ready=self._calls.any_ready)
        events.append(Completed(reason, self._metadata | self._not_carried.metadata()))

    # Events.

    def _message_start(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        message = expect_object(event.get("message"), "a message")
        message_id = word(message.get("id"))
        if self._message_id is not None and message_id not in (None, self._message_id):
            if not self.ended:
                raise protocol_violation("the backend began a second message inside one answer")
            self.done = True  # what follows belongs to another answer
            return
        self._message_id = message_id or self._message_id
        self._message(message)
        if not self._begun:
            # Where the client went on with a tool of a program that the provider runs, the first blocks come whole.
            self._whole_content(message.get("content"), events)
        self._begun = True

    def _whole_message(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        """An answer that was not streamed, in one event: so proxies answer that only pretend to stream."""
        if not (self._begun or self._blocks or self._ended) and isinstance(event.get("content"), list):
            self._message_start({"message": event}, events)
            self._end(event)

    def _block_start(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        self._begin(_index(event), expect_object(event.get("content_block"), "a content_block"), events)

    def _block_stop(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        self._stop(_index(event), events)

    def _message_delta(self, event: JsonObject, _: list[BackendRawEvent]) -> None:
        self._merge_usage(event.get("usage"))
        if event.get("delta") is None:  # some servers have its fields beside it, or only usage
            self._end(event)
            return
        delta = expect_object(event["delta"], "a message_delta's delta")
        self._merge_usage(delta.get("usage"))  # where an earlier version of the API's documentation has it
        self._end(delta)

    def _message_stop(self, _: JsonObject, __: list[BackendRawEvent]) -> None:
        self.done_mark()  # before any end mark it ends nothing: where the reads happen to cut would decide

    _HANDLERS: ClassVar[dict[str, Callable[[AnthropicDecoder, JsonObject, list[BackendRawEvent]], None]]] = {
        "message_start": _message_start,
        "message": _whole_message,
        "content_block_start": _block_start,
        "content_block_stop": _block_stop,
        "message_delta": _message_delta,
        "message_stop": _message_stop,
    }

    # Content blocks.

    def _delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        delta = expect_object(event.get("delta"), "a content_block_delta's delta")
        kind = delta.get("type") or ("text_delta" if "text" in delta else None)
        if kind == "text_delta":
            self._may_end(event.get("index"))
            self._say(expect_text(delta.get("text"), "a text_delta's text"), events)
            return
        index = _index(event)
        block = self._blocks.get(index)
        if kind == "input_json_delta":
            text = delta.get("partial_json")
            if isinstance(text, dict):
                text = arguments_text(text)
            self._input(index, block, expect_text(text, "an input_json_delta's JSON"), events)
        elif kind == "thinking_delta":
            if block is None:
                self._may_end(index)
            self._think(block, expect_text(delta.get("thinking"), "a thinking_delta's thinking"), events)
            if delta.get("signature"):  # Bifrost before Bedrock sends no signature_delta
                self._sign(block, delta["signature"], events)
        elif kind == "signature_delta":
            self._sign(block, delta.get("signature"), events)
        elif kind == "citations_delta":
            if block is not None and delta.get("citation") is not None:
                self._kept.add_value(delta["citation"])
                block.citations.append(delta["citation"])
            events.append(Progress())
        elif kind == "compaction_delta" and block is not None:
            self._kept.add_value(delta)
            block.value |= {key: value for key, value in delta.items() if key != "type" and value is not None}
            events.append(Progress())
        elif isinstance(kind, str):  # of a version of the API that is yet to come
            self._not_carried.at_least(kind.removesuffix("_delta"))

    def _may_end(self, index: JsonValue) -> None:
        """Notes a text for a block that has not begun, if it has not: that block may end all the same."""
        if type(index) is int and index not in self._blocks and index not in self._ended:
            self._kept.add(_BLOCK_COST)
            self._ended.add(index)

    def _sign(self, block: _Block | None, value: JsonValue, events: list[BackendRawEvent]) -> None:
        """Takes a piece of a signature. Some proxies say the one that a block began with once more in a delta."""
        signature = expect_text(value, "a signature_delta's signature")
        if block is not None and signature and block.signatures != [signature]:
            self._kept.add(len(signature))
            block.signatures.append(signature)
            events.append(Progress())

    def _say(self, text: str, events: list[BackendRawEvent]) -> None:
        if text:
            self._text_length += len(text)
            events.append(OutputTextDelta(text))

    def _think(self, block: _Block | None, text: str, events: list[BackendRawEvent]) -> None:
        if not text:
            return
        if block is not None:
            self._kept.add(len(text))
            block.texts.append(text)
        begins = self._reasoning is not None and self._reasoning is not block
        self._reasoning = block
        events.append(ReasoningDelta(_SEPARATOR + text if begins else text))

    def _input(self, index: int, block: _Block | None, text: str, events: list[BackendRawEvent]) -> None:
        if block is not None and block.call is None:  # for a tool that the provider runs itself
            self._kept.add(len(text))
            block.texts.append(text)
            events.append(Progress())
            return
        key = self._call_keys.get(index) if block is None else block.call
        if key is None:
            raise protocol_violation("the backend sent an input_json_delta for a block that is not open")
        # `{}` alone may be the input with which the block began, as some proxies pass it on before the real one.
        name = word(block.value.get("name")) if block is not None and text == "{}" else None
        self._calls.fragment(key, events, name=name, arguments=text, may_be_placeholder=True)

    def _whole_content(self, content: JsonValue, events: list[BackendRawEvent]) -> None:
        """The blocks of a `content`, none of which comes in pieces."""
        if content is None:
            return
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        if not isinstance(content, list):
            raise protocol_violation("the backend sent a message whose `content` is not an array")
        for index, value in enumerate(content, -len(content)):  # the indexes of events begin at 0
            if value is None:
                continue
            self._begin(index, expect_object(value, "a content block"), events)
            self._stop(index, events, whole=True)

    def _begin(self, index: int, value: JsonObject, events: list[BackendRawEvent]) -> None:
        kind = expect_text(value.get("type"), "a content block's type") or ("text" if "text" in value else "block")
        if (before := self._blocks.get(index)) is not None and before.call is not None:
            self._stop(index, events)
            if self._doubtful == before.call:
                raise protocol_violation(
                    f"the backend began another content block at index {index}, whose tool call is not complete"
                )
        self._stop_open(events)
        self._settle_doubtful(events)
        self._flush_notes()
        self._kept.add(_BLOCK_COST)
        block = self._blocks[index] = _Block(kind, value)
        if kind == "text":
            block.value = {}
            if isinstance(citations := value.get("citations"), list):
                self._kept.add_value(citations)
                block.citations += citations
            self._say(expect_text(value.get("text"), "a block's text"), events)
        elif kind == "tool_use":
            self._begin_call(index, block, events)
        elif kind == "thinking":
            self._think(block, expect_text(value.get("thinking"), "a block's thinking"), events)
            block.signatures.append(expect_text(value.get("signature"), "a signature"))
            self._kept.add(len(block.signatures[0]))
        else:
            self._kept.add_value(value)
            if kind not in _FOR_THE_PROVIDER:
                self._not_carried.add(kind)
            events.append(Progress())

    def _begin_call(self, index: int, block: _Block, events: list[BackendRawEvent]) -> None:
        # A key of its own and not the index: some servers use that again.
        key = block.call = self._call_keys[index] = self._call_count
        self._call_count += 1
        call_id = self._calls.fragment(
            key,
            events,
            call_id=call_id_text(block.value.get("id")),
            name=expect_text(block.value.get("name"), "a tool_use's name"),
        )
        extra = {name: block.value[name] for name in CARRIED if block.value.get(name) is not None}
        self._kept.add_value([block.value.get("input"), extra])
        self._notes.call(call_id, extra)

    def _stop_open(self, events: list[BackendRawEvent]) -> None:
        """Ends the texts and thoughts that the backend has not: blocks follow each other, and some servers (Ollama,
        Kimi) leave out a `content_block_stop`. A call's end proves something, and is never assumed.
        """
        for index in [index for index, block in self._blocks.items() if block.kind in ("text", "thinking")]:
            self._stop(index, events)

    def _stop(self, index: int, events: list[BackendRawEvent], *, whole: bool = False) -> None:
        block = self._blocks.pop(index, None)
        if block is None:
            if index in self._ended:
                return  # ended twice (LiteLLM), or by the beginning of the next one
            raise protocol_violation(f"the backend ended content block {index}, which is not open")
        self._ended.add(index)
        if block.kind == "text":
            self._cite(block.citations)
            self._flush_notes({"citations": block.citations} if block.citations else {})
        elif block.kind == "thinking":
            thinking = {**block.value, "thinking": "".join(block.texts)}
            if signature := "".join(block.signatures):
                self._notes.opaque(thinking | {"signature": signature})
            else:  # also without a text: DeepSeek demands the block itself
                self._unsigned = thinking
        elif block.call is not None:
            self._stop_call(block.call, block.value.get("input"), events, whole=whole)
        elif (value := _with_input(block)) is not None:
            self._notes.opaque(value)

    def _cite(self, citations: list[JsonValue]) -> None:
        """The citations of the text block that ends here."""
        if self._annotations is None:
            self._not_carried.add("citations", len(citations))
            return
        start = self._noted_length  # what came before was noted when the block began
        for citation in citations:
            self._annotations.add(claude_annotation(citation, start, start + self._text_length))

    def _stop_call(self, key: int, value: JsonValue, events: list[BackendRawEvent], *, whole: bool) -> None:
        self._whole_input(key, value, events)
        if self.ended:
            self._stopped_late.append(key)
        elif whole or not self._calls.end_if_whole(key, events):
            # A call is also stopped where max_tokens cuts it. Its text shows that; an unstreamed input is no text.
            self._doubtful = key

    def _whole_input(self, key: int, value: JsonValue, events: list[BackendRawEvent]) -> None:
        """The input with which a call began: usually it comes in deltas, and is `{}` here, perhaps as a string."""
        if value and (text := arguments_text(value)).strip() != "{}":
            self._calls.whole(key, events, arguments=text)

    def _settle_doubtful(self, events: list[BackendRawEvent]) -> None:
        """A call that another block follows was not cut."""
        key, self._doubtful = self._doubtful, None
        if key is None:
            return
        if self._calls.has_arguments(key):
            self._calls.end(key, events)
        else:
            self._without_input.append(key)

    def _flush_notes(self, extra: JsonObject | None = None) -> None:
        """Notes what came before: thinking that was not cut, as something follows it, and text.

        Args:
            extra: What goes back together with the text.
        """
        if self._unsigned is not None:
            self._notes.opaque(self._unsigned)
            self._unsigned = None
        if self._text_length:
            self._notes.text(self._text_length, extra or {})
            self._noted_length += self._text_length
            self._text_length = 0

    # The message.

    def _end(self, delta: JsonObject) -> None:
        """Takes the end mark; what ended the answer decides in `finish` about the calls that are not proven yet."""
        reason = said_reason(delta.get("stop_reason"))
        if reason is None:
            return
        self.ended = True
        self._stop_reason = reason
        for key in ("stop_sequence", "stop_details", "container"):
            if delta.get(key) is not None:
                self._metadata[key] = delta[key]

    def _message(self, message: JsonObject) -> None:
        for ours, theirs in (("response_id", "id"), ("model", "model")):
            if isinstance(value := message.get(theirs), str) and value:
                self._metadata[ours] = value
        self._merge_usage(message.get("usage"))

    def _merge_usage(self, usage: JsonValue) -> None:
        """Counts are cumulative ("The cumulative number of …", MessageDeltaUsage)."""
        if isinstance(usage, dict):
            self._usage = merged(self._usage, usage)


def _index(event: JsonObject) -> int:
    index = event.get("index")
    if not isinstance(index, int):
        raise protocol_violation("the backend sent a content block event without an index")
    return index


def _with_input(block: _Block) -> JsonObject | None:
    """A block as it goes back to the provider; None where its input is no JSON object, as it was cut."""
    # `{}` alone says nothing, as for a call; see `AnthropicDecoder._input`.
    text = "".join(block.texts[1:] if block.texts[:1] == ["{}"] else block.texts)
    if not text.strip():
        return block.value
    try:
        return {**block.value, "input": strict_json.parse_arguments(text)}
    except ValueError:
        return None


def _usage(raw: JsonObject) -> UsageStats:
    uncached, output_tokens = count(raw.get("input_tokens")), count(raw.get("output_tokens"))
    read, written = count(raw.get("cache_read_input_tokens")), count(raw.get("cache_creation_input_tokens"))
    # "Total input tokens in a request is the summation of" these three (Message.usage).
    input_tokens = None if uncached is None else uncached + (read or 0) + (written or 0)
    details, lifetimes = raw.get("output_tokens_details"), raw.get("cache_creation")
    return usage_stats(
        raw,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        cached_input_tokens=read,
        cache_write_input_tokens=written,
        cache_write_1h_input_tokens=(
            count(lifetimes.get("ephemeral_1h_input_tokens")) if isinstance(lifetimes, dict) else None
        ),
        reasoning_tokens=count(details.get("thinking_tokens")) if isinstance(details, dict) else None,
        service_tier=word(raw.get("service_tier")),
    )
