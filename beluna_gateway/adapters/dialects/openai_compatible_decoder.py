"""The answer's half of `openai_compatible`; see `openai_compatible.py` for its sources."""

from __future__ import annotations

from typing import Any

from pydantic import JsonValue

from ...canonical import (
    BackendRawEvent,
    Completed,
    JsonObject,
    OutputTextDelta,
    Progress,
    ReasoningDelta,
    ToolCallDelta,
    Usage,
)
from ...errors import cut_off, protocol_violation
from ..base import ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.annotations import Annotations, openai_annotation, perplexity_annotations
from ..decoding.content import Kind, read_content
from ..decoding.delta_template import DeltaTemplate
from ..decoding.error_kinds import error_in
from ..decoding.finish_reasons import finish_reason, is_cut, said_reason
from ..decoding.gathering import gathered
from ..decoding.not_carried import NotCarried, client_action
from ..decoding.said_text import MAX_PIECES, SaidText
from ..decoding.scalars import whole_number, word
from ..decoding.tool_calls import MAX_CALLS, ToolCalls, arguments_text, call_entries, call_id_text
from ..decoding.usage import merged, openai_usage
from ..encoding.provider_state import TurnNotes
from .openai_compatible_choices import Form, as_message, number_of, unsaid, with_split_calls
from .openai_compatible_reasoning import REASONING, Reasoning
from .openai_compatible_state import TurnState


class ChatCompletionsDecoder(ResponseDecoder):
    """`chat.completion.chunk`s, or one `chat.completion`.

    The end mark is a `finish_reason`, or `[DONE]` after output. Usage comes in a chunk of its own after it.

    Args:
        notes: Takes what the server must see again of this turn.
        max_bytes: The most bytes that are kept of calls, and of reasoning for `notes`.
        annotated: Whether the request asked for annotations.
        with_tools: The request had tools, or the turn calls already: its `reasoning_content` is wanted back.
    """

    def __init__(self, notes: TurnNotes, max_bytes: int, *, annotated: bool, with_tools: bool = False) -> None:
        self.ended = self.done = False
        self._notes = notes
        self._max_bytes = max_bytes
        self._with_tools = with_tools
        self._annotations = Annotations(max_bytes) if annotated else None
        self._sources: JsonObject = {}  # Perplexity's, as the last chunk has them
        self._calls: ToolCalls | None = None  # see `_tool_calls`
        self._state: TurnState | None = None  # see `_turn_state`
        self._not_carried = NotCarried()
        self._text = SaidText()
        self._said: dict[Kind, SaidText] = {"text": self._text}
        self._pieces = self._text.pieces
        self._reasoning: Reasoning | None = None  # see `_begin_reasoning`
        self._first: int | None = None  # the index of the first choice
        self._said_by_message = False  # a `message` of a stream has had more than the deltas
        self._finish: str | None = None
        self._output = False
        self._usage: JsonObject | None = None
        self._service_tier: JsonValue = None
        self._metadata: JsonObject = {}
        self._template = DeltaTemplate(_delta, "content")

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        if (text := self._template.match(payload)) is not None:
            events.append(OutputTextDelta(text))
            pieces = self._pieces
            pieces.append(text)
            if len(pieces) > MAX_PIECES:
                self._text.fold()
            return
        chunk = parse_object(payload)
        if (self._metadata or self._output) and (text := self._plain_text(chunk)):
            self._output = True
            self._text.add(text)
            events.append(OutputTextDelta(text))
        else:
            before, not_carried = len(events), self._not_carried.total
            self._chunk(chunk, events, streamed=True)
            alone = len(events) == before + 1 and self._not_carried.total == not_carried
            event = events[before] if alone else None
            text = event.delta if type(event) is OutputTextDelta else None
        if text and not self.ended:
            self._template.learn(payload, chunk, text)

    def _plain_text(self, chunk: JsonObject) -> str | None:
        """The text of a chunk that has nothing else in it, which is nearly every one."""
        # What tells most other chunks apart is asked first.
        choices = chunk.get("choices")
        if type(choices) is not list or len(choices) != 1 or chunk.get("usage"):
            return None
        choice = choices[0]
        if type(choice) is not dict or choice.get("finish_reason") or choice.get("logprobs"):
            return None
        delta = choice.get("delta")
        if type(delta) is not dict or not (text := delta.get("content")) or type(text) is not str:
            return None
        if choice.get("index") != 0 or self._first != 0:
            return None
        if not (_ENVELOPE.issuperset(chunk) and _CHOICE.issuperset(choice) and _DELTA.issuperset(delta)):
            return None
        tier = chunk.get("service_tier")
        return text if tier is None or tier == self._service_tier else None

    def done_mark(self) -> None:
        self.ended = self.ended or self._output
        super().done_mark()

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        pieces: list[BackendRawEvent] = []
        self._chunk(body, pieces, streamed=False)
        events += gathered(pieces)
        # HTTP proves that it is whole; but without a finish_reason only text or calls are an answer.
        if not (self.ended or any(isinstance(event, OutputTextDelta | ToolCallDelta) for event in pieces)):
            raise protocol_violation("the backend sent an unstreamed answer with neither content nor a finish_reason")
        self.ended = self.done = True

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off("the backend's answer stopped without a finish_reason: it was cut off")
        reason = self._finish or "stop"
        called = self._calls is not None and self._end_calls(self._calls, reason, events)
        if self._annotations is not None:
            self._annotate(self._annotations, events)
        if self._usage is not None:
            usage = openai_usage(self._usage, "prompt_tokens", "completion_tokens", service_tier=self._service_tier)
            events.append(Usage(usage))
        if self._state is not None:
            self._note_state(self._state, with_reasoning=self._with_tools or called)
        if self._not_carried.total:
            self._metadata |= self._not_carried.metadata()
        refused = bool(self._said.get("refusal"))
        events.append(Completed(finish_reason(reason, calls_ready=called, refused=refused), self._metadata))

    @staticmethod
    def _end_calls(calls: ToolCalls, reason: str, events: list[BackendRawEvent]) -> bool:
        """Ends the calls that are open; returns whether any is ready."""
        if is_cut(reason):
            calls.end_before_cut(events)
        else:
            calls.end_all(events)
        return calls.any_ready

    def _note_state(self, state: TurnState, *, with_reasoning: bool) -> None:
        if finished := state.finished(with_reasoning=with_reasoning):
            self._metadata["provider_state"] = finished
        if state.incomplete:
            self._not_carried.at_least("provider_state")

    def _annotate(self, annotations: Annotations, events: list[BackendRawEvent]) -> None:
        for found in perplexity_annotations(self._sources.get("search_results"), self._sources.get("citations")):
            annotations.add(found)
        # A refusal is text of the answer, too, in which the positions do not count.
        events += annotations.events(None if self._said.get("refusal") else self._text.length)
        self._not_carried.add("citations", annotations.passed_over)

    def _chunk(self, chunk: JsonObject, events: list[BackendRawEvent], *, streamed: bool) -> None:
        if (error := error_in(chunk)) is not None:
            raise error
        if isinstance(groq := chunk.get("x_groq"), dict):
            self._groq(groq)
        before = len(events)
        if choices := chunk.get("choices"):
            self._choices(choices, events, streamed=streamed)
        if len(events) > before:
            self._output = True
        if (usage := chunk.get("usage")) is not None:
            self._note_usage(usage)
        if not self._metadata:
            self._note_metadata(chunk)
        if (tier := chunk.get("service_tier")) is not None:
            self._service_tier = tier
        if "citations" in chunk or "search_results" in chunk:
            self._note_sources(chunk)

    def _groq(self, groq: JsonObject) -> None:
        """What Groq adds to a chunk: usage, or "An error string indicating why a stream was stopped early"
        (`groq.types.chat.chat_completion_chunk.XGroq`).
        """
        if (error := error_in({"error": groq.get("error")})) is not None:
            raise error
        self._note_usage(groq.get("usage"))

    def _choices(self, choices: JsonValue, events: list[BackendRawEvent], *, streamed: bool) -> None:
        if not isinstance(choices, list):
            raise protocol_violation("the backend sent `choices` that is not an array")
        if len(choices) == 1:
            choice = expect_object(choices[0], "a choice")
            number = number_of(choice, 0)
            self._choice(choice, number - self._first_of(number), events, streamed=streamed)
            return
        values = [expect_object(value, "a choice") for value in choices]
        if not streamed:
            values = with_split_calls(values)
        numbers = [number_of(choice, position) for position, choice in enumerate(values)]
        first = self._first_of(min(numbers))
        for number, choice in zip(numbers, values, strict=True):
            self._choice(choice, number - first, events, streamed=streamed)

    def _first_of(self, lowest: int) -> int:
        """The number of the first choice. Some servers count from 1; before the first content any may be the first."""
        if self._first is None or (lowest < self._first and not self._output):
            self._first = lowest
        return self._first

    def _choice(self, choice: JsonObject, distance: int, events: list[BackendRawEvent], *, streamed: bool) -> None:
        if distance:  # only the first is an answer of ours
            self._not_carried.at_least("choice", min(abs(distance), MAX_CALLS))
            return
        delta, message, text = choice.get("delta"), choice.get("message"), choice.get("text")
        if delta:  # `[]` is PHP's empty object
            self._message(as_message(delta, "a delta"), "piece", events, streamed=streamed)
        if message:
            whole = delta or (delta is not None and not self._said_by_message)
            form: Form = ("whole" if whole else "either") if streamed else "piece"
            before = len(events)
            self._message(as_message(message, "a message"), form, events, streamed=streamed)
            self._said_by_message = self._said_by_message or len(events) > before
        if text is not None and not (delta or message):  # legacy completions
            self._say_text("text", expect_text(text, "a text"), "piece", events)
        if (logprobs := choice.get("logprobs")) and (not isinstance(logprobs, dict) or any(logprobs.values())):
            self._not_carried.at_least("logprobs")
        if (usage := choice.get("usage")) is not None:
            self._note_usage(usage)
        if (finish := choice.get("finish_reason")) and (reason := said_reason(finish)) is not None:
            self._finish = reason
            self.ended = True

    def _message(self, message: JsonObject, form: Form, events: list[BackendRawEvent], *, streamed: bool) -> None:
        more: list[str] = []
        if not _USUAL_KEYS.issuperset(message):
            # Servers write null or [] for much that a message has not.
            more = [key for key, value in message.items() if value and key not in _USUAL_KEYS]
        if more and not REASONING.isdisjoint(more):
            (self._reasoning or self._begin_reasoning()).read(message, form, events, streamed=streamed)
        if content := message.get("content"):
            if type(content) is str:
                self._say_text("text", content, form, events)
            else:
                self._say(read_content(content, self._not_carried), form, events)
        if refusal := message.get("refusal"):
            self._say_text("refusal", expect_text(refusal, "a refusal"), form, events)
        if calls := message.get("tool_calls"):
            entries = call_entries(calls)
            for position, call in enumerate(entries):
                call_id = call_id_text(call.get("id"))
                key = whole_number(call.get("index")) if streamed else position  # unstreamed each entry is another call
                if key is None and (form != "piece" or (len(entries) > 1 and not call_id)):
                    key = position  # side by side they are different calls
                self._tool_call(key, position, call, call_id, form, events)
        elif function := message.get("function_call"):  # the form of 2023
            function = expect_object(function, "a function_call")
            if any(function.values()):
                self._function("function_call", function, "", form, events)
        if more and not _READ_KEYS.issuperset(more):
            self._count_rest(message, form, events)

    def _say(self, texts: list[tuple[Kind, str]], form: Form, events: list[BackendRawEvent]) -> None:
        if form != "piece" and any(self._said.values()):
            kinds = dict.fromkeys(kind for kind, _ in texts)
            texts = [(kind, "".join(text for other, text in texts if other == kind)) for kind in kinds]
        for kind, text in texts:
            self._say_text(kind, text, form, events)

    def _say_text(self, kind: Kind, text: str, form: Form, events: list[BackendRawEvent]) -> None:
        said = self._said.get(kind)
        if said is None:
            said = self._said[kind] = SaidText()
        if form != "piece":
            text = unsaid(said, text, whole=form == "whole")
        if text:
            said.add(text)
            events.append(ReasoningDelta(text) if kind == "reasoning" else OutputTextDelta(text))

    def _tool_call(
        self,
        key: int | None,
        position: int,
        call: JsonObject,
        call_id: str,
        form: Form,
        events: list[BackendRawEvent],
    ) -> None:
        if call.get("type") == "custom":
            custom = call.get("custom")
            raise client_action("custom", word(custom.get("name")) if isinstance(custom, dict) else None)
        # Cloudflare's Workers AI has name and arguments in the call itself.
        function = expect_object(call.get("function") or call, "a tool call's function")
        extra = call.get("extra_content")
        if not (call_id or extra or any(function.get(said) for said in ("name", "arguments"))):
            return  # some servers have a place for a call in every chunk, mostly with nothing in it
        own_id = self._function(key, function, call_id, form, events, position)
        if isinstance(extra, dict):
            self._turn_state().call(own_id, extra)

    def _function(
        self,
        key: int | str | None,
        function: JsonObject,
        call_id: str,
        form: Form,
        events: list[BackendRawEvent],
        place: int | None = None,
    ) -> str:
        # "null" in words is no name either (litellm 12513).
        name = word(expect_text(function.get("name"), "a tool call's name")) or ""
        arguments = arguments_text(function.get("arguments"))
        if form == "piece":
            return self._tool_calls().fragment(
                key, events, call_id=call_id, name=name, arguments=arguments, may_be_placeholder=True
            )
        return self._tool_calls().whole(
            key,
            events,
            call_id=call_id,
            name=name,
            arguments=arguments,
            piece_otherwise=form == "either",
            place=place,
        )

    def _tool_calls(self) -> ToolCalls:
        """The calls of the answer, created for the first one: most answers have none."""
        if self._calls is None:
            self._calls = ToolCalls(self._max_bytes)
        return self._calls

    def _begin_reasoning(self) -> Reasoning:
        """The reader of reasoning, created for the first of it: most answers have none."""
        said = self._said.setdefault("reasoning", SaidText())
        self._reasoning = Reasoning(said, self._turn_state(), self._not_carried)
        return self._reasoning

    def _turn_state(self) -> TurnState:
        """What must go back of the turn, created for the first of it: most answers have none."""
        if self._state is None:
            self._state = TurnState(self._notes, self._max_bytes)
        return self._state

    def _count_rest(self, message: JsonObject, form: Form, events: list[BackendRawEvent]) -> None:
        """Counts what a message has and no frame carries."""
        for key, value in message.items():
            if key == "error" and (error := error_in({"error": value})) is not None:
                raise error
            if key in _READ_KEYS or not isinstance(value, list | dict) or not value:
                continue
            if isinstance(value, dict) and not any(value.values()):
                continue  # LiteLLM has places for what its own fields could hold
            if key == "annotations" and self._annotations is not None and isinstance(value, list):
                for annotation in value:
                    self._annotations.add(openai_annotation(annotation))
                continue
            kind = _KINDS.get(key, key)
            if isinstance(value, list) and form == "piece":
                self._not_carried.add(kind, len(value))
            else:
                self._not_carried.at_least(kind, len(value) if isinstance(value, list) else 1)
            if key in ("images", "audio"):
                events.append(Progress())

    def _note_sources(self, chunk: JsonObject) -> None:
        """Perplexity's sources, which each chunk repeats."""
        for key in _SOURCES:
            if isinstance(found := chunk.get(key), list):
                if self._annotations is None:
                    self._not_carried.at_least(key, len(found))
                else:
                    self._sources[key] = found

    def _note_usage(self, usage: JsonValue) -> None:
        if isinstance(usage, dict):
            self._usage = merged(self._usage, usage) if self._usage else usage

    def _note_metadata(self, chunk: JsonObject) -> None:
        for theirs, ours in _METADATA.items():
            if (value := chunk.get(theirs)) and type(value) is str:
                self._metadata[ours] = value


# The keys of a chunk that holds text and nothing else; what others mean is looked at.
_ENVELOPE = frozenset(
    ("id", "object", "created", "model", "choices", "system_fingerprint", "usage", "service_tier", "obfuscation")
)
_CHOICE = frozenset(("index", "delta", "finish_reason", "logprobs"))
_DELTA = frozenset(("role", "content"))

_METADATA = {"id": "response_id", "model": "model", "system_fingerprint": "system_fingerprint"}
"""What of a chunk stands in `backend_metadata`, and its name there."""

_SOURCES = ("citations", "search_results")
_USUAL_KEYS = frozenset(("role", "content", "refusal", "tool_calls", "function_call"))
_READ_KEYS = REASONING | _USUAL_KEYS
_KINDS = {"annotations": "citations", "images": "image"}


def _delta(chunk: Any) -> JsonObject:
    delta: JsonObject = chunk["choices"][0]["delta"]
    return delta
