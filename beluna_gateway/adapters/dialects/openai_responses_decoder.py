"""The answer's half of `openai_responses`.

Source: the OpenAI API reference, "Streaming events" (`openai.types.responses.ResponseStreamEvent`), and what other
servers of this API send. llama.cpp: events with neither `sequence_number` nor `output_index`, no `[DONE]`, and
`completed` of answers and of calls that the limit cut. GitHub Copilot: another id for the same item in each event, of
some 400 characters; deltas of arguments that are encrypted, for VS Code (opencodex issue 995). Open Responses:
`response.reasoning.delta` (openresponses/openresponses, `schema/events.tsp`).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, NamedTuple

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
from ..decoding.annotations import Annotations, openai_annotation
from ..decoding.delta_template import DeltaTemplate
from ..decoding.error_kinds import error_in, error_in_stream
from ..decoding.finish_reasons import finish_reason, said_reason
from ..decoding.gathering import gathered, is_answer
from ..decoding.kept import KeptBytes
from ..decoding.not_carried import NotCarried, client_action
from ..decoding.provider_errors import read_error
from ..decoding.said_text import MAX_PIECES, SaidText
from ..decoding.usage import openai_usage
from ..encoding.provider_state import TurnNotes
from .openai_responses_calls import Calls
from .openai_responses_items import (
    CLIENT_ITEMS,
    Item,
    PartKey,
    part_text,
    parts_of,
    reasoning_texts,
    text_or_none,
    waits_for_client,
)
from .openai_responses_output import Output, index_of
from .openai_responses_state import keep, note_turn

_END_STATUS = frozenset({"completed", "incomplete", "failed", "cancelled"})
_UNFINISHED_STATUS = frozenset({"queued", "in_progress"})

_PART_COST = 300
"""Bytes of memory, about, that a part of an item takes whatever is in it."""


class _TextEvent(NamedTuple):
    """Which part of which item an event with text belongs to."""

    kind: str
    group: str
    index_key: str = "content_index"
    text_key: str = "text"


_SEPARATOR = "\n\n"


class ResponsesDecoder(ResponseDecoder):
    """Streaming events, or one `response` object.

    The end mark is `response.completed`, `.incomplete` or `.failed`; it carries the usage and the whole output once
    more, so nothing follows it.

    Args:
        notes: Where the turn's pieces are noted.
        limit: What the request allowed as `max_output_tokens`.
        max_bytes: The most bytes that are kept of the answer until its end.
        annotated: Whether the request asked for annotations.
    """

    def __init__(self, notes: TurnNotes, limit: int | None, max_bytes: int, *, annotated: bool) -> None:
        self.ended = self.done = False
        self._annotations = Annotations(max_bytes) if annotated else None
        self._notes = notes
        self._limit = limit
        self._kept = KeptBytes(max_bytes)
        self._max_bytes = max_bytes
        self._output = Output(self._kept)
        self._calls: Calls | None = None  # see `_function_calls`
        self._repeating: SaidText | None = None  # the part whose deltas the template knows
        self._place: object = None  # where the events of that part say that they belong
        self._reasoning_place: object = None  # the same of the last reasoning, while nothing else came
        self._template = _template()
        self._speaking: Item | None = None
        self._spoken: list[Item] = []  # messages in the order of their texts
        self._interleaved = False  # a message went on after another one
        self._reasoning: SaidText | None = None  # the part of the last reasoning
        self._not_carried = NotCarried()
        self._logprobs = False  # deltas had some
        self._response_id = ""
        self._word = ""
        self._refused = False
        self._usage: UsageStats | None = None
        self._metadata: JsonObject = {}

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        part = self._repeating
        if part is not None and (delta := self._template.match(payload)) is not None:
            events.append(OutputTextDelta(delta))
            pieces = part.pieces
            pieces.append(delta)
            if len(pieces) > MAX_PIECES:
                part.fold()
            return
        event = parse_object(payload)
        kind = event.get("type")
        if kind == "response.output_text.delta":
            if delta := _delta(event):
                self._logprobs = self._logprobs or bool(event.get("logprobs"))
                self._text_delta(event, delta, events)
                self._template.learn(payload, event, delta)
        elif isinstance(kind, str) and (handler := self._HANDLERS.get(kind)) is not None:
            handler(self, event, events)
        elif (error := error_in(event)) is not None:
            raise error
        elif event.get("object") == "response" and event.get("status") in _END_STATUS:
            # An answer that was not streamed, in one event: so proxies answer that only pretend to stream.
            self._end({"type": "response.completed", "response": event}, events)
        elif not isinstance(kind, str):  # an event that we do not know must not end the answer
            raise protocol_violation("the backend sent an event without `type`")

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        if (error := error_in(body)) is not None:
            raise error
        if isinstance(response := body.get("response"), dict):
            body = response  # the last event of a stream, as some servers send it in place of the response
        status = said_reason(body.get("status")) or ""
        pieces: list[BackendRawEvent] = []
        if status in _END_STATUS:
            self._response(body, status, pieces)
        elif status not in _UNFINISHED_STATUS:
            self._response(body, status or "completed", pieces)
            self.ended = self.done = is_answer(pieces)
        if not self.ended:
            raise protocol_violation("the backend sent an unstreamed answer that it has not completed")
        events += gathered(pieces)

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off("the backend's answer stopped without response.completed: it was cut off")
        if self._word == "completed" and self._calls is not None:
            if self._calls.any_open and self._limit_spent():
                # llama.cpp says `completed` of what the limit cut; a call that is not whole gives it away.
                self._word = "max_output_tokens"
            else:
                self._calls.end(self._output.items, events)
        if self._annotations is not None:
            self._annotate(self._annotations, events)
        if self._usage is not None:
            events.append(Usage(self._usage))
        self._count_items()
        note_turn(self._notes, self._output.items, self._spoken, interleaved=self._interleaved)
        if self._logprobs:
            self._not_carried.at_least("logprobs")
        if state := self._notes.state():
            self._metadata["provider_state"] = state
        called = self._calls is not None and self._calls.any_ready
        reason = finish_reason(self._word, calls_ready=called, refused=self._refused)
        events.append(Completed(reason, self._metadata | self._not_carried.metadata()))

    # Events with text.

    def _text_delta(self, event: JsonObject, delta: str, events: list[BackendRawEvent]) -> None:
        place = (event.get("output_index"), event.get("content_index"), event.get("item_id"))
        repeating = self._repeating
        if repeating is not None and place == self._place:  # as nearly always: no need to look for it
            repeating.add(delta)
            events.append(OutputTextDelta(delta))
            return
        item = self._text_item(event, "message")
        part = self._part(item, ("content", index_of(event.get("content_index"))))
        self._say(item, part, delta, events)
        if part is not repeating:  # a template knows the envelope of one part only
            self._template = _template()
        self._repeating, self._place = part, place

    def _refusal_delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        self._refused = True
        if delta := _delta(event):
            self._text_delta(event, delta, events)

    def _reasoning_delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        if delta := _delta(event):
            text = _TEXT_EVENTS[str(event["type"])]
            place = (text, event.get("output_index"), event.get(text.index_key), event.get("item_id"))
            if self._reasoning is not None and place == self._reasoning_place:
                self._reasoning.add(delta)
                events.append(ReasoningDelta(delta))
                return
            item = self._text_item(event, text.kind)
            part = item.thought
            if text is _SUMMARY or part is None:
                part = self._part(item, (text.group, index_of(event.get(text.index_key))))
                item.thought = None if text is _SUMMARY else part
            self._say(item, part, delta, events)
            self._reasoning_place = place

    def _other_reasoning_delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        """By the names of Open Responses and of early versions of the API, in which a delta may be an object."""
        delta = event.get("delta")
        text = delta.get("text") if isinstance(delta, dict) else delta
        self._reasoning_delta({**event, "delta": text if isinstance(text, str) else ""}, events)

    def _text_done(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        text = _TEXT_EVENTS[str(event["type"])]
        said = expect_text(event.get(text.text_key), "a text")
        self._refused = self._refused or text.text_key == "refusal"
        self._part_done(event, text, said, events)

    def _content_part_done(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        part = expect_object(event.get("part"), "a part of an output item")
        kind = part.get("type")
        if kind == "refusal":
            self._refused = True
            said = expect_text(part.get("refusal"), "a refusal")
        else:
            said = expect_text(part.get("text"), "a text")
        text = _TextEvent("reasoning" if kind == "reasoning_text" else "message", "content")
        self._part_done(event, text, said, events)

    def _summary_part_done(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        part = expect_object(event.get("part"), "a part of a summary")
        said = expect_text(part.get("text"), "a text")
        self._part_done(event, _SUMMARY, said, events)

    def _part_done(self, event: JsonObject, text: _TextEvent, said: str, events: list[BackendRawEvent]) -> None:
        """A part as a whole: what of it has not come in deltas comes now. Only of the last part, so that none mixes."""
        if not said:
            return
        item = self._text_item(event, text.kind)
        item.thought = None
        key = (text.group, index_of(event.get(text.index_key)))
        if (len(item.parts) > 1 or key not in item.parts) and item.beyond(said) == "":
            return
        part = self._part(item, key)
        if part is next(reversed(item.parts.values())):
            self._say(item, part, part.rest(said), events)

    def _part(self, item: Item, key: PartKey) -> SaidText:
        part = item.parts.get(key)
        if part is None:
            self._kept.add(_PART_COST)
            part = item.parts[key] = SaidText()
        return part

    def _say(self, item: Item, part: SaidText, text: str | None, events: list[BackendRawEvent]) -> None:
        """Delivers text of a message or of reasoning, if there is any."""
        if not text:
            return
        part.add(text)
        if item.kind == "message":
            events.append(OutputTextDelta(text))
            self._repeating = None
            if item is not self._speaking:
                self._interleaved = self._interleaved or item.spoken
                self._speaking = item
                if not item.spoken:
                    item.spoken = True
                    self._spoken.append(item)
        else:
            begins = self._reasoning is not None and part is not self._reasoning
            self._reasoning = part
            self._reasoning_place = None
            events.append(ReasoningDelta(_SEPARATOR + text if begins else text))

    # Events of calls and items.

    def _call_item(self, event: JsonObject) -> Item:
        item = self._output.find(event, "function_call", event.get("item_id"), event.get("call_id"))
        if item is None:
            raise protocol_violation("the backend sent arguments of a tool call that it had not begun")
        return item

    def _arguments_delta(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        delta = _delta(event)
        self._function_calls().delta(self._call_item(event), delta, events)

    def _arguments_done(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        self._function_calls().arguments_done(self._call_item(event), event, events)

    def _function_calls(self) -> Calls:
        """The calls of the answer, created for the first one: most answers have none."""
        if self._calls is None:
            self._calls = Calls(self._max_bytes)
        return self._calls

    def _item_added(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        if event.get("item") is None:  # some servers announce nothing (openai-python 3125)
            return
        value = expect_object(event["item"], "an output item")
        item = self._output.announced(value)
        if item is None or item.index is None or item.index != index_of(event.get("output_index")):
            self._begin(event.get("output_index"), value, events)
        else:
            self._output.name(item, value.get("id"))

    def _item_done(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        if event.get("item") is None:
            return
        value = expect_object(event["item"], "an output item")
        kind = expect_text(value.get("type"), "an output item's type")
        item = self._output.find(event, kind, value.get("id"), value.get("call_id"))
        item = item or self._output.last_open(event, kind)
        if item is None and kind == "function_call":
            item = self._output.announced(value)  # at another index than this one, which none was announced for
        if item is None or (item.ended and self._output.is_another(item, value)):
            item = self._begin(event.get("output_index"), value, events)
        elif item.ended:
            raise protocol_violation("the backend ended one output item twice")
        self._complete(item, value, events, proven=value.get("status") in (None, "completed"))

    def _annotation(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        item = self._text_item(event, "message")
        item.citations += 1
        if self._annotations is not None:
            self._kept.add_value(event.get("annotation"))
            item.annotations.append((index_of(event.get("content_index")) or 0, event.get("annotation")))
        events.append(Progress())

    def _hidden_piece(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        """A piece of an item that no frame carries, which is counted with its item."""
        if event.get("delta") or event.get("partial_image_b64"):
            events.append(Progress())

    def _audio(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        """A piece of sound, or of what is said in it, which belongs to no item."""
        self._not_carried.at_least("audio")
        self._hidden_piece(event, events)

    def _created(self, event: JsonObject, _: list[BackendRawEvent]) -> None:
        response = event.get("response")
        response_id = response.get("id") if isinstance(response, dict) else None
        if isinstance(response_id, str) and response_id:
            if self._response_id not in ("", response_id):
                raise protocol_violation("the backend began a second response inside one answer")
            self._response_id = response_id

    def _end(self, event: JsonObject, events: list[BackendRawEvent]) -> None:
        bare = event.get("response") is None  # some proxies have its fields in the event itself
        if bare and (event["type"] == "response.failed" or error_in(event) is not None):
            raise error_in_stream(read_error(event))
        response = event if bare and "output" in event else expect_object(event.get("response"), "a response")
        said = str(event["type"]).removeprefix("response.")
        status = response.get("status")
        said = "completed" if said == "done" else said
        status = status if isinstance(status, str) and status in _END_STATUS else said
        self._response(response, status, events, streamed=True)

    def _error(self, event: JsonObject, _: list[BackendRawEvent]) -> None:
        raise error_in_stream(read_error(event))

    _HANDLERS: ClassVar[dict[str, Callable[[ResponsesDecoder, JsonObject, list[BackendRawEvent]], None]]] = {
        "response.refusal.delta": _refusal_delta,
        "response.reasoning_summary_text.delta": _reasoning_delta,
        "response.reasoning_text.delta": _reasoning_delta,
        "response.reasoning.delta": _other_reasoning_delta,
        "response.reasoning_summary.delta": _other_reasoning_delta,
        "response.output_text.done": _text_done,
        "response.refusal.done": _text_done,
        "response.reasoning_summary_text.done": _text_done,
        "response.reasoning_text.done": _text_done,
        "response.reasoning.done": _text_done,
        "response.reasoning_summary.done": _text_done,
        "response.content_part.done": _content_part_done,
        "response.reasoning_summary_part.done": _summary_part_done,
        "response.output_text.annotation.added": _annotation,
        "response.function_call_arguments.delta": _arguments_delta,
        "response.function_call_arguments.done": _arguments_done,
        "response.code_interpreter_call_code.delta": _hidden_piece,
        "response.custom_tool_call_input.delta": _hidden_piece,
        "response.image_generation_call.partial_image": _hidden_piece,
        "response.mcp_call_arguments.delta": _hidden_piece,
        "response.shell_call_command.delta": _hidden_piece,
        "response.shell_call_output_content.delta": _hidden_piece,
        "response.audio.delta": _audio,
        "response.audio.transcript.delta": _audio,
        "response.output_item.added": _item_added,
        "response.output_item.done": _item_done,
        "response.created": _created,
        "response.completed": _end,
        "response.done": _end,  # ChatGPT's backend of Codex, at times
        "response.incomplete": _end,
        "response.failed": _end,
        "error": _error,
    }

    # Items of the output.

    def _text_item(self, event: JsonObject, kind: str) -> Item:
        item_id = event.get("item_id")
        return (
            self._output.find(event, kind, item_id)
            or self._output.last_open(event, kind)
            or self._begin(event.get("output_index"), {"type": kind, "id": item_id}, [])
        )

    def _begin(self, index: JsonValue, value: JsonObject, events: list[BackendRawEvent]) -> Item:
        self._repeating = self._reasoning_place = None
        item = self._output.begin(index, value)
        if item.kind in CLIENT_ITEMS and waits_for_client(value):
            raise client_action(item.kind, text_or_none(value.get("name")))
        if item.kind == "function_call":
            self._function_calls().begin(item, value, events)
            self._kept.add(len(item.first_arguments))
        return item

    def _complete(self, item: Item, value: JsonObject, events: list[BackendRawEvent], *, proven: bool) -> None:
        """The item as a whole. What of it has not come in deltas comes now.

        Args:
            item: Where its deltas were counted.
            value: The item.
            events: Where the events go.
            proven: The backend says that the item is finished, rather than cut off.
        """
        if waits_for_client(value):
            raise client_action(item.kind, text_or_none(value.get("name")))
        if item.kind == "message":
            self._fill(item, self._message_texts(item, parts_of(value.get("content"))), events)
        elif item.kind == "reasoning":
            self._fill(item, reasoning_texts(value), events)
        elif item.kind == "function_call":
            self._function_calls().complete(item, value, events, proven=proven)
        if item.kind not in ("message", "function_call"):
            events.append(Progress())
        keep(item, value)
        if not item.ended:  # otherwise it takes the place of what was kept
            self._kept.add_value(item.opaque or item.extra)
        item.ended = True
        self._repeating = self._reasoning_place = None  # further deltas that name no item are another one's

    def _fill(self, item: Item, texts: list[str], events: list[BackendRawEvent]) -> None:
        """The rest of an item's text, as one delta. Where the whole text does not continue what was said, that stands.

        Args:
            item: Where its deltas were counted.
            texts: The texts of the whole item's parts.
            events: Where the delta goes.
        """
        whole = [text for text in texts if text]
        rest = item.rest(whole)
        if rest is None:
            return
        more: list[BackendRawEvent] = []
        said = item.said()
        if said:
            self._say(item, said[-1], rest, more)
        for index in range(len(said), len(whole)):
            self._say(item, self._part(item, ("whole", index)), whole[index], more)
        events += gathered(more)

    def _message_texts(self, item: Item, parts: list[JsonObject]) -> list[str]:
        """The texts of a message's parts. What else is in them is counted when the item ends for the first time."""
        texts: list[str] = []
        citations = 0
        whole: list[tuple[int, JsonValue]] = []
        for position, part in enumerate(parts):
            texts.append(part_text(part))
            if part.get("type") == "refusal":
                self._refused = True
                continue
            if isinstance(annotations := part.get("annotations"), list):
                citations += len(annotations)
                whole += [(position, annotation) for annotation in annotations]
            if item.ended:
                continue
            if part.get("logprobs"):
                self._not_carried.add("logprobs")
            if "text" not in part and isinstance(kind := part.get("type"), str):
                self._not_carried.add(kind.removeprefix("output_"))
        item.citations = max(item.citations, citations)
        if self._annotations is not None and len(whole) > len(item.annotations):
            self._kept.add_value([annotation for _, annotation in whole])
            item.annotations = whole
        return texts

    # The end.

    def _response(
        self, response: JsonObject, status: str, events: list[BackendRawEvent], *, streamed: bool = False
    ) -> None:
        """The whole response: the last event's, which may leave its output out, or the unstreamed answer."""
        if status == "failed":
            raise error_in_stream(read_error(response.get("error") or response.get("incomplete_details")))
        if (error := error_in({"error": response.get("error")})) is not None:
            raise error
        output, text = response.get("output"), response.get("output_text")
        if output is not None or not (streamed or isinstance(text, str)):
            self._whole_output(output, events, complete=status == "completed")
        if self._calls is not None:
            self._calls.first_arguments(self._output.items, events)
        # `output_text` is of SDKs; some servers have it, and nothing else.
        if isinstance(text, str) and not (self._spoken or self._refused):
            self._say(self._begin(None, {"type": "message"}, events), SaidText(), text, events)
        details = response.get("incomplete_details")
        reason = details.get("reason") if isinstance(details, dict) else None
        self._word = (said_reason(reason) or status) if status == "incomplete" else status
        if isinstance(usage := response.get("usage"), dict):
            self._usage = openai_usage(
                usage, "input_tokens", "output_tokens", service_tier=response.get("service_tier")
            )
        for ours, theirs in (("response_id", "id"), ("model", "model")):
            if isinstance(said := response.get(theirs), str) and said:
                self._metadata[ours] = said
        self.ended = self.done = True

    def _limit_spent(self) -> bool:
        spent = self._usage.output_tokens if self._usage is not None else None
        return self._limit is not None and spent is not None and spent >= self._limit

    def _whole_output(self, output: JsonValue, events: list[BackendRawEvent], *, complete: bool) -> None:
        """The whole output: all of an unstreamed answer, and of a streamed one what its events left out."""
        if not isinstance(output, list):
            raise protocol_violation("the backend sent `output` that is not an array")
        values = [expect_object(value, "an output item") for value in output if value is not None]
        order: list[Item] = []
        for index, (value, known) in enumerate(zip(values, self._output.matches(values), strict=True)):
            item = known or self._begin(index, value, events)
            status = value.get("status")
            self._complete(item, value, events, proven=status == "completed" or (status is None and complete))
            order.append(item)
        if len(order) == len(self._output.items):
            self._output.items = order  # where an item came only now, this is its place

    def _annotate(self, annotations: Annotations, events: list[BackendRawEvent]) -> None:
        """Positions count in a part of a message: where that begins in the answer is known if no texts were mixed."""
        begin = 0
        for item in self._spoken:
            for position, value in item.annotations:
                annotations.add(openai_annotation(value, None if self._interleaved else item.offset(begin, position)))
            begin += item.characters()
        for item in self._output.items:
            if not item.spoken:
                for _, value in item.annotations:
                    annotations.add(openai_annotation(value, None))
        events += annotations.events(begin)
        self._not_carried.add("citations", annotations.passed_over)

    def _count_items(self) -> None:
        """Counts what of the items no frame carries."""
        for item in self._output.items:
            if item.is_lost:
                self._not_carried.add(item.kind)
        if self._annotations is None:
            self._not_carried.add("citations", sum(item.citations for item in self._output.items))


_SUMMARY = _TextEvent("reasoning", "summary", "summary_index")

_TEXT_EVENTS = {
    "response.output_text.done": _TextEvent("message", "content"),
    "response.refusal.done": _TextEvent("message", "content", text_key="refusal"),
    "response.reasoning_text.delta": _TextEvent("reasoning", "content"),
    "response.reasoning_text.done": _TextEvent("reasoning", "content"),
    "response.reasoning.delta": _TextEvent("reasoning", "content"),
    "response.reasoning.done": _TextEvent("reasoning", "content"),
    "response.reasoning_summary.delta": _SUMMARY,
    "response.reasoning_summary.done": _SUMMARY,
    "response.reasoning_summary_text.delta": _SUMMARY,
    "response.reasoning_summary_text.done": _SUMMARY,
}


def _template() -> DeltaTemplate:
    return DeltaTemplate(lambda event: event, "delta")


def _delta(event: JsonObject) -> str:
    delta = event.get("delta")
    if not isinstance(delta, str):
        raise protocol_violation(f"the backend sent {event['type']} without a `delta` that is a string")
    return delta
