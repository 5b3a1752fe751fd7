"""The answer's half of `gemini`.

Source: the Gemini API reference, "GenerateContentResponse" (`google.genai.types.GenerateContentResponse`), and the
guide "Thought signatures": in a stream a signature may come on a last part with empty text. Some models and proxies
send a `finishReason` in every chunk, or before the last parts.
"""

from __future__ import annotations

from collections.abc import Callable

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
from ...errors import GatewayError, cut_off, protocol_violation
from ..base import ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.annotations import Annotations, gemini_annotations
from ..decoding.error_kinds import error_in_stream
from ..decoding.finish_reasons import finish_reason, said_reason
from ..decoding.gathering import gathered, is_answer
from ..decoding.kept import KeptBytes
from ..decoding.not_carried import NotCarried
from ..decoding.provider_errors import ProviderError, find_error
from ..decoding.scalars import whole_number, word
from ..decoding.tool_calls import MAX_CALLS, ToolCalls, arguments_text, call_id_text
from ..decoding.usage import count, merged, usage_stats
from ..encoding.provider_state import TurnNotes

DIALECT = "gemini"

_NOTE_COST = 300  # bytes of memory, about, that a note takes whatever is in it
_SEPARATOR = "\n\n"

_UNSPECIFIED = "_UNSPECIFIED"
"""The end of the words for "not set" in the API's enumerations."""

_ABOUT_A_PART = frozenset(
    {
        *("thought", "thoughtSignature", "mediaResolution", "mediaProcessing", "partMetadata", "videoMetadata"),
        *("audioMetadata", "documentMetadata", "spreadsheetMetadata", "speechMetadata", "audioTranscription"),
    }
)
"""Fields of a part that are not its content (google.genai.types.Part)."""
_NO_CONTENT = _ABOUT_A_PART | {"text"}


_NOT_CARRIED: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("citationMetadata", "citations", ("citationSources", "citations")),
    ("groundingMetadata", "grounding", ("groundingChunks",)),
    ("urlContextMetadata", "url_context", ("urlMetadata",)),
    ("logprobsResult", "logprobs", ()),
)
"""Fields of a candidate, what they are counted as, and the lists in them that have an entry for each."""


class GeminiDecoder(ResponseDecoder):
    """Chunks of `GenerateContentResponse`, or one of them as the whole answer.

    The end mark is a `finishReason`, or the `blockReason` of a prompt that was not let through; content may follow it,
    and the last one counts. Each chunk's usage counts from the beginning.

    Args:
        notes: Where the turn's pieces are noted.
        max_bytes: The most bytes that are kept of the answer until its end.
    """

    def __init__(self, notes: TurnNotes, max_bytes: int) -> None:
        self.ended = self.done = False
        self._calls = ToolCalls(max_bytes)
        self._call_count = 0
        self._without_args: JsonObject | None = None
        """The last part, where it is a call without arguments."""
        self._notes = notes
        self._kept = KeptBytes(max_bytes)
        self._not_carried = NotCarried()
        self._unnoted = 0  # characters of unsigned text since the last note
        self._thought = False  # a thought was delivered
        self._thinking = False  # nothing came since the last thought
        self._word = ""
        self._usage: JsonObject = {}
        self._tier: str | None = None
        self._metadata: JsonObject = {}

    def head(self, header: Callable[[bytes], str | None]) -> None:
        self._tier = header(b"x-gemini-service-tier")  # the guide "Priority inference"

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        self._chunk(parse_object(payload), events)

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        pieces: list[BackendRawEvent] = []
        self._chunk(body, pieces)
        self.end_of_body(pieces)
        events += [event for event in gathered(pieces) if not isinstance(event, Progress)]
        self.done = True

    def end_of_body(self, events: list[BackendRawEvent]) -> None:
        self._settle(events)
        if not self.ended:
            if not is_answer(events):
                raise protocol_violation("the backend sent an unstreamed answer without a finishReason")
            self._end("STOP")  # the body is whole, and has something in it

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not (self.ended or self._word):
            raise cut_off("the backend's answer stopped without a finishReason: it was cut off")
        self._settle(events)
        self._annotate(events)
        if self._usage:
            events.append(Usage(_usage(self._usage, self._tier)))
        self._note_text()
        if state := self._notes.state():
            self._metadata["provider_state"] = state
        reason = finish_reason(self._word, calls_ready=self._calls.any_ready)
        events.append(Completed(reason, self._metadata | self._not_carried.metadata()))

    def _chunk(self, chunk: JsonObject, events: list[BackendRawEvent]) -> None:
        candidates = chunk.get("candidates")
        if candidates is None and isinstance(wrapped := chunk.get("response"), dict):
            chunk = wrapped  # Code Assist's, and that of proxies before it
            candidates = chunk.get("candidates")
        if (candidates is None or "error" in chunk) and (error := find_error(chunk)) is not None:
            raise gemini_error(error_in_stream(error), error)
        if candidates is not None:
            self._candidates(candidates, events)
        feedback = chunk.get("promptFeedback")
        if feedback is not None:
            blocked = said_reason(expect_object(feedback, "promptFeedback").get("blockReason"))
            if blocked is not None and not blocked.endswith(_UNSPECIFIED):
                self._metadata["block_reason"] = blocked
                self._end("content_filter")
        usage = chunk.get("usageMetadata")
        if isinstance(usage, dict):
            self._usage = merged(self._usage, usage)
        if "response_id" not in self._metadata:
            for ours, theirs in (("response_id", "responseId"), ("model", "modelVersion")):
                if isinstance(value := chunk.get(theirs), str) and value:
                    self._metadata[ours] = value

    def _candidates(self, candidates: JsonValue, events: list[BackendRawEvent]) -> None:
        if not isinstance(candidates, list):
            raise protocol_violation("the backend sent `candidates` that is not an array")
        for position, value in enumerate(candidates):
            if value is None:
                continue
            candidate = expect_object(value, "a candidate")
            index = whole_number(candidate.get("index"))
            if number := position if index is None else index:  # was not asked for, and is passed over
                self._not_carried.at_least("choice", min(number, MAX_CALLS))
            else:
                self._candidate(candidate, events)

    def _candidate(self, candidate: JsonObject, events: list[BackendRawEvent]) -> None:
        content = candidate.get("content")
        if content is not None:
            parts = expect_object(content, "a candidate's content").get("parts")
            if parts is not None:
                if not isinstance(parts, list):
                    raise protocol_violation("the backend sent `parts` that is not an array")
                for part in parts:
                    if part is None:
                        continue
                    self._part(expect_object(part, "a part"), events)
        if not _PLAIN_FIELDS.issuperset(candidate):
            self._count(candidate)
        if (said := candidate.get("finishReason")) and (reason := said_reason(said)) is not None:
            if reason.endswith(_UNSPECIFIED):
                self._word = self._word or reason  # the reason where HTTP ends the answer without another one
            else:
                self._end(reason)
            if message := candidate.get("finishMessage"):
                self._metadata["finish_message"] = message

    def _part(self, part: JsonObject, events: list[BackendRawEvent]) -> None:
        text = expect_text(part.get("text"), "a part's text")
        if self._without_args is not None and part.get("functionCall") is None and any(part.values()):
            self._settle(events)
        if text and len(part) == 1:  # as nearly always
            self._thinking = False
            self._unnoted += len(text)
            events.append(OutputTextDelta(text))
            return
        signature = part.get("thoughtSignature")
        if part.get("functionCall") is not None:
            if text:  # of one part that the API would have made two
                self._part({"text": text}, events)
            self._call(part, events)
            return
        kinds = _content(part)
        if part.get("thought") is True and (text or not kinds):
            if text:
                self._think(text, events)
            if signature:
                self._opaque(part, events)
        elif text or (signature and not kinds):
            self._thinking = self._thinking and not text
            if text:
                events.append(OutputTextDelta(text))
            if signature:
                # The signature is of this part, not of those before it: they stay apart.
                self._note_text()
                self._keep(signature)
                self._notes.text(len(text), {"thoughtSignature": signature})
                self._notes.mark_required()
                events.append(Progress())
            else:
                self._unnoted += len(text)
        elif kinds:
            # Code that it ran, a picture, a part of the future: no frame for it, but the provider wants it back.
            self._not_carried.add(_kind(part, kinds[0]))
            self._opaque(part, events)

    def _think(self, text: str, events: list[BackendRawEvent]) -> None:
        """Thoughts that follow each other are pieces of one; after something else another one begins."""
        begins = self._thought and not self._thinking
        self._thought = self._thinking = True
        events.append(ReasoningDelta(_SEPARATOR + text if begins else text))

    def _opaque(self, part: JsonObject, events: list[BackendRawEvent]) -> None:
        self._thinking = self._thinking and part.get("thought") is True
        self._note_text()
        self._keep(part)
        self._notes.opaque(part)
        events.append(Progress())

    def _call(self, part: JsonObject, events: list[BackendRawEvent]) -> None:
        call = expect_object(part["functionCall"], "a functionCall")
        if call.get("willContinue") or call.get("partialArgs"):
            raise protocol_violation("the backend sent a functionCall in pieces, which the Gemini API does not")
        self._thinking = False
        if call.get("args") is None and call.get("arguments") is not None:  # OpenAI's name
            call = {**call, "args": call["arguments"]}
            part = {**part, "functionCall": call}
        name = expect_text(call.get("name"), "a functionCall's name")
        own_id = call_id_text(call.get("id"))
        if (begun := self._without_args) is not None and not name:
            named = expect_object(begun["functionCall"], "a functionCall")
            if own_id in ("", call_id_text(named.get("id"))):
                self._without_args = None
                call = {**named, "args": call.get("args")}
                part = {**begun, **part, "functionCall": call}
        self._settle(events)
        if call.get("name") and arguments_text(call.get("args")) in ("", "{}"):
            self._keep(part)
            self._without_args = part
            events.append(Progress())
        else:
            self._whole_call(part, events)

    def _settle(self, events: list[BackendRawEvent]) -> None:
        """Ends a call without arguments, as something else follows it, or nothing.

        A call comes whole, but some servers send its name in one part, and its arguments in the next one.
        """
        if (part := self._without_args) is not None:
            self._without_args = None
            self._whole_call(part, events)

    def _whole_call(self, part: JsonObject, events: list[BackendRawEvent]) -> None:
        call = expect_object(part["functionCall"], "a functionCall")
        own_id = call_id_text(call.get("id"))
        key = self._call_count
        self._call_count += 1
        call_id = self._calls.fragment(
            key,
            events,
            call_id=own_id,
            name=expect_text(call.get("name"), "a functionCall's name"),
            arguments=arguments_text(call.get("args")) or "{}",
        )
        self._calls.end(key, events)
        self._note_text()
        extra: JsonObject = {"id": own_id} if own_id == call_id else {}
        if signature := part.get("thoughtSignature"):
            extra["thoughtSignature"] = signature
            self._notes.mark_required()
        self._keep(extra)
        self._notes.call(call_id, extra)

    def _annotate(self, events: list[BackendRawEvent]) -> None:
        """Appends annotations, which are only counted here."""

    def _count(self, candidate: JsonObject) -> None:
        """What beside the parts no frame carries. Chunks repeat it, so that the largest number counts."""
        for key, kind, entries in self._COUNTED:
            value = candidate.get(key)
            if isinstance(value, dict) and value:
                listed = next((found for entry in entries if isinstance(found := value.get(entry), list)), None)
                self._not_carried.at_least(kind, 1 if listed is None else len(listed))

    _COUNTED = _NOT_CARRIED

    def _keep(self, value: JsonValue) -> None:
        self._kept.add(_NOTE_COST)
        self._kept.add_value(value)

    def _note_text(self) -> None:
        if self._unnoted:
            self._notes.text(self._unnoted, {})
            self._unnoted = 0

    def _end(self, word: str) -> None:
        self._word = word
        self.ended = True


_LISTED = (
    ("groundingMetadata", ("groundingChunks", "groundingSupports")),
    ("citationMetadata", ("citationSources", "citations")),
)
"""Fields of a candidate, and the lists in them that become annotations."""


class AnnotatedGeminiDecoder(GeminiDecoder):
    """The same for a request that asked for annotations: their positions count bytes of the text, which is kept."""

    _COUNTED = tuple(row for row in _NOT_CARRIED if row[0] not in ("citationMetadata", "groundingMetadata"))

    def __init__(self, notes: TurnNotes, max_bytes: int) -> None:
        super().__init__(notes, max_bytes)
        self._annotations = Annotations(max_bytes)
        self._texts: list[str] = []
        self._lists: JsonObject = {}

    def _chunk(self, chunk: JsonObject, events: list[BackendRawEvent]) -> None:
        before = len(events)
        super()._chunk(chunk, events)
        for event in events[before:]:
            if isinstance(event, OutputTextDelta):
                self._kept.add(len(event.delta))
                self._texts.append(event.delta)

    def _count(self, candidate: JsonObject) -> None:
        super()._count(candidate)
        for field_name, keys in _LISTED:
            metadata = candidate.get(field_name)
            for key in keys if isinstance(metadata, dict) else ():
                self._longest(key, metadata)

    def _longest(self, key: str, metadata: JsonValue) -> None:
        """Chunks repeat the lists; the longest one is the whole."""
        found = metadata.get(key) if isinstance(metadata, dict) else None
        known = self._lists.get(key)
        if isinstance(found, list) and len(found) > (len(known) if isinstance(known, list) else 0):
            self._kept.add_value(found)
            self._lists[key] = found

    def _annotate(self, events: list[BackendRawEvent]) -> None:
        text = "".join(self._texts)
        for annotation in gemini_annotations(self._lists, text):
            self._annotations.add(annotation)
        events += self._annotations.events(len(text))
        self._not_carried.add("citations", self._annotations.passed_over)


_PLAIN_FIELDS = frozenset({"content", "finishReason", "index"})
"""What nearly every candidate of a stream has, and nothing else."""


def _content(part: JsonObject) -> list[str]:
    """The keys of a part's content other than text; the API gives one of all."""
    return [key for key, value in part.items() if value is not None and key not in _NO_CONTENT]


def _kind(part: JsonObject, key: str) -> str:
    """What a part is counted as: an image by its media type, anything else by its key."""
    value = part[key]
    if key in ("inlineData", "fileData") and isinstance(value, dict):
        media = str(value.get("mimeType")).partition("/")[0]
        return media if media in ("image", "audio", "video") else "file"
    return key


def _usage(raw: JsonObject, tier: str | None) -> UsageStats:
    """The counts, and the tier: the header's, else the one in the usage; Vertex has `trafficType` in its place."""
    thoughts = count(raw.get("thoughtsTokenCount"))
    input_tokens = _sum(count(raw.get("promptTokenCount")), count(raw.get("toolUsePromptTokenCount")))
    candidates, total = count(raw.get("candidatesTokenCount")), count(raw.get("totalTokenCount"))
    # Some models and versions of the API count the thoughts among the candidates: the total shows it.
    inclusive = candidates is not None and total == _sum(input_tokens, candidates)
    return usage_stats(
        raw,
        input_tokens=input_tokens,
        output_tokens=candidates if inclusive else _sum(candidates, thoughts),
        total_tokens=total,
        cached_input_tokens=count(raw.get("cachedContentTokenCount")),
        reasoning_tokens=thoughts,
        service_tier=word(tier) or word(raw.get("serviceTier")) or word(raw.get("trafficType")),
    )


def _sum(*counts: int | None) -> int | None:
    known = [number for number in counts if number is not None]
    return sum(known) if known else None


# --- errors --------------------------------------------------------------------------------------------------


def gemini_error(failure: GatewayError, error: ProviderError) -> GatewayError:
    """`failure`, corrected: the API answers HTTP 400 to a key that it does not know."""
    if failure.kind == "invalid_request" and any(d.get("reason") == "API_KEY_INVALID" for d in _details(error)):
        return failure.replace(kind="authentication")
    return failure


def _details(error: ProviderError) -> list[JsonObject]:
    details: JsonValue = error.detail.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
