"""The answer's half of `openai_responses`.

Source: the OpenAI API reference, "Streaming events" (`openai.types.responses.ResponseStreamEvent`), and what
llama.cpp's server really sends: events with neither `sequence_number` nor `output_index`, no `[DONE]`, and `completed`
of answers and of calls that the limit cut.
"""

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
from ..base import ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.delta_template import DeltaTemplate
from ..decoding.finish_reasons import finish_reason
from ..decoding.provider_errors import error_in_stream, read_error
from ..decoding.tool_calls import ToolCalls
from ..decoding.usage import openai_usage
from ..encoding.provider_state import TurnNotes

DIALECT = "openai_responses"

CARRIED = ("id", "phase")
"""What an output item has besides its content and must have when it comes back as input."""

_END_STATUS = frozenset({"completed", "incomplete", "failed", "cancelled"})


@dataclass(slots=True)
class _Item:
    """What has come so far of one item of the output. `whole` is the item as it was when the backend ended it."""

    key: int
    kind: str
    call_id: str = ""
    characters: int = 0
    arguments: list[str] = field(default_factory=list)
    whole: JsonObject | None = None


class ResponsesDecoder(ResponseDecoder):
    """Streaming events, or one `response` object.

    The end mark is `response.completed`, `.incomplete` or `.failed`; it carries the usage, so nothing follows it.

    Args:
        notes: Where the turn's pieces are noted.
        limit: What the request allowed as `max_output_tokens`.
    """

    def __init__(self, notes: TurnNotes, limit: int | None) -> None:
        self._notes = notes
        self._limit = limit
        self._calls = ToolCalls()
        self._order: list[_Item] = []
        self._items: dict[int | str, _Item] = {}  # by index and by id: a server may name an item by either
        self._open_calls: set[int] = set()
        self._repeating: _Item | None = None  # the item whose deltas the template knows
        self._template = DeltaTemplate(lambda event: event, "delta")
        self._word = ""
        self._refused = False
        self._usage: UsageStats | None = None
        self._metadata: JsonObject = {}

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        if self._repeating is not None and (delta := self._template.match(payload)) is not None:
            self._repeating.characters += len(delta)
            events.append(OutputTextDelta(delta))
            return
        event = parse_object(payload)
        kind = event.get("type")
        if kind == "response.output_text.delta":
            delta = _delta(event)
            self._repeating = self._said(event, delta, events)
            self._template.learn(payload, delta)
        elif isinstance(kind, str):
            handler = self._HANDLERS.get(kind)
            if handler is not None:  # an event that we do not know must not end the answer
                handler(self, event, events)
        elif event.get("error") is not None:
            raise error_in_stream(read_error(event))
        else:
            raise protocol_violation("the backend sent an event without `type`")

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        if body.get("object") != "response" and body.get("error") is not None:
            raise error_in_stream(read_error(body))
        self._response(body, expect_text(body.get("status"), "a response's status"), events)
        if not self.ended:
            raise protocol_violation("the backend sent an unstreamed answer that it has not completed")

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off("the backend's answer stopped without response.completed: it was cut off")
        if self._word == "completed":
            if self._open_calls and self._limit_spent():
                # llama.cpp says `completed` of what the limit cut; a call that is not whole gives it away.
                self._word = "max_output_tokens"
            else:
                self._calls.end_all(events)
        if self._usage is not None:
            events.append(Usage(self._usage))
        self._note_items()
        if state := self._notes.state():
            self._metadata["provider_state"] = state
        reason = finish_reason(self._word, calls_ready=self._calls.any_ready, refused=self._refused)
        events.append(Completed(reason, self._metadata))

    # The events that mean something.

    def _said(self, event: JsonObject, delta: str, events: list[BackendRawEvent]) -> _Item:
        item = self._text_item(event, "message")
        item.characters += len(delta)
        if delta:
            events.append(OutputTextDelta(delta))
        return item

    def _refusal_delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        self._refused = True
        self._said(event, _delta(event), events)

    def _reasoning_delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        delta = _delta(event)
        if delta:
            self._text_item(event, "reasoning").characters += len(delta)
            events.append(ReasoningDelta(delta))

    def _arguments_delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        delta = _delta(event)
        item = self._find(event, event.get("item_id"))
        if item is None:
            raise protocol_violation("the backend sent arguments of a tool call that it had not begun")
        if delta:
            item.arguments.append(delta)
            self._calls.fragment(item.key, events, arguments=delta)

    def _item_added(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        value = expect_object(event.get("item"), "an output item")
        self._begin(event.get("output_index"), value, events)

    def _item_done(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        value = expect_object(event.get("item"), "an output item")
        item = (
            self._find(event, value.get("id"), value.get("call_id"))
            or self._last_open(event, value.get("type"))
            or self._begin(event.get("output_index"), value, events)
        )
        self._complete(item, value, events, proven=value.get("status") in (None, "completed"))

    def _end(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        response = expect_object(event.get("response"), "a response")
        said = expect_text(event["type"], "a type").removeprefix("response.")
        status = response.get("status")
        self._response(response, status if isinstance(status, str) and status in _END_STATUS else said, events)

    def _error(self, event: JsonObject, _: list[BackendRawEvent]) -> None:
        # The event's own type, "error", is no code of the provider's.
        raise error_in_stream(read_error({key: value for key, value in event.items() if key != "type"}))

    _HANDLERS: ClassVar[dict[str, Callable[[ResponsesDecoder, JsonObject, list[BackendRawEvent]], None]]] = {
        "response.refusal.delta": _refusal_delta,
        "response.reasoning_summary_text.delta": _reasoning_delta,
        "response.reasoning_text.delta": _reasoning_delta,
        "response.function_call_arguments.delta": _arguments_delta,
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.completed": _end,
        "response.incomplete": _end,
        "response.failed": _end,
        "error": _error,
    }

    # Items of the output.

    def _find(self, event: JsonObject, *ids: JsonValue) -> _Item | None:
        """The item that an event belongs to: by its index, or where a server sends none (llama.cpp) by an id."""
        index = event.get("output_index")
        if isinstance(index, int) and index in self._items:
            return self._items[index]
        return next((self._items[name] for name in ids if isinstance(name, str) and name in self._items), None)

    def _last_open(self, event: JsonObject, kind: JsonValue) -> _Item | None:
        """The item under way, for an event without an index or a known id. Never a call: those must not be mixed up."""
        if not self._order or isinstance(event.get("output_index"), int) or kind == "function_call":
            return None
        last = self._order[-1]
        return last if last.whole is None and last.kind == kind else None

    def _text_item(self, event: JsonObject, kind: str) -> _Item:
        item_id = event.get("item_id")
        return (
            self._find(event, item_id)
            or self._last_open(event, kind)
            or self._begin(event.get("output_index"), {"type": kind, "id": item_id}, [])
        )

    def _begin(self, index: JsonValue, value: JsonObject, events: list[BackendRawEvent]) -> _Item:
        self._repeating = None
        item = _Item(len(self._order), expect_text(value.get("type"), "an output item's type"))
        self._order.append(item)
        for name in (index, value.get("id"), value.get("call_id")):
            if isinstance(name, int | str):
                self._items[name] = item
        if item.kind == "function_call":
            self._open_calls.add(item.key)
            self._call_fragment(item, value, "", events)
        return item

    def _complete(self, item: _Item, value: JsonObject, events: list[BackendRawEvent], *, proven: bool) -> None:
        """The item as a whole. What of it has not come in deltas comes now.

        Args:
            item: Where its deltas were counted.
            value: The item.
            events: Where the events go.
            proven: The backend says that the item is finished, rather than cut off.
        """
        if item.whole is not None:
            raise protocol_violation("the backend ended one output item twice")
        item.whole = value
        if item.kind == "message":
            text = self._texts(value.get("content"))
            if rest := text[item.characters :]:
                events.append(OutputTextDelta(rest))
                item.characters += len(rest)
        elif item.kind == "reasoning":
            text = self._texts(value.get("summary")) + self._texts(value.get("content"))
            if rest := text[item.characters :]:
                events.append(ReasoningDelta(rest))
                item.characters += len(rest)
            events.append(Progress())
        elif item.kind == "function_call":
            said = expect_text(value.get("arguments"), "a tool call's arguments")
            begun = "".join(item.arguments)
            if said and not said.startswith(begun):
                raise protocol_violation("the backend ended a tool call with other arguments than it had sent")
            self._call_fragment(item, value, said[len(begun) :], events)
            if proven and self._calls.end_if_whole(item.key, events):
                self._open_calls.discard(item.key)
        else:
            events.append(Progress())

    def _texts(self, parts: JsonValue) -> str:
        if parts is None:
            return ""
        if not isinstance(parts, list):
            raise protocol_violation("the backend sent an output item's content that is not an array")
        texts = []
        for value in parts:
            part = expect_object(value, "a part of an output item")
            if part.get("type") == "refusal":
                self._refused = True
                texts.append(expect_text(part.get("refusal"), "a refusal"))
            else:
                texts.append(expect_text(part.get("text"), "a text"))
        return "".join(texts)

    def _call_fragment(self, item: _Item, value: JsonObject, arguments: str, events: list[BackendRawEvent]) -> None:
        item.call_id = self._calls.fragment(
            item.key,
            events,
            call_id=expect_text(value.get("call_id"), "a tool call's id"),
            name=expect_text(value.get("name"), "a tool call's name"),
            arguments=arguments,
        )

    # The end.

    def _response(self, response: JsonObject, status: str, events: list[BackendRawEvent]) -> None:
        """The whole response: the last event's, or the unstreamed answer."""
        if status == "failed":
            raise error_in_stream(read_error(response.get("error")))
        if status not in _END_STATUS:
            return  # `finish` says that it was cut off
        if not self._order:
            self._output(response.get("output"), events, complete=status == "completed")
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        self._word = (expect_text(reason, "a reason") or status) if status == "incomplete" else status
        if isinstance(usage := response.get("usage"), dict):
            self._usage = openai_usage(usage, "input_tokens", "output_tokens")
        for ours, theirs in (("response_id", "id"), ("model", "model")):
            if isinstance(said := response.get(theirs), str) and said:
                self._metadata[ours] = said
        self.ended = self.done = True

    def _limit_spent(self) -> bool:
        spent = self._usage.output_tokens if self._usage is not None else None
        return self._limit is not None and spent is not None and spent >= self._limit

    def _output(self, output: JsonValue, events: list[BackendRawEvent], *, complete: bool) -> None:
        if not isinstance(output, list):
            raise protocol_violation("the backend sent `output` that is not an array")
        for index, value in enumerate(output):
            item = expect_object(value, "an output item")
            status = item.get("status")
            proven = status == "completed" or (status is None and complete)
            self._complete(self._begin(index, item, events), item, events, proven=proven)

    def _note_items(self) -> None:
        notes = self._notes
        for item in self._order:
            whole = item.whole or {}
            extra: JsonObject = {key: value for key in CARRIED if isinstance(value := whole.get(key), str)}
            if item.kind == "message":
                notes.text(item.characters, extra)
                if "phase" in extra:
                    notes.mark_required()
            elif item.kind == "function_call":
                notes.call(item.call_id, extra)
            elif whole.get("encrypted_content"):
                notes.opaque(whole)  # without its encrypted content the provider could not find it again


def _delta(event: JsonObject) -> str:
    delta = event.get("delta")
    if not isinstance(delta, str):
        raise protocol_violation(f"the backend sent {event['type']} without a `delta` that is a string")
    return delta
