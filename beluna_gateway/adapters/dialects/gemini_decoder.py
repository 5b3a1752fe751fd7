"""The answer's half of `gemini`.

Source: the Gemini API reference, "GenerateContentResponse" (`google.genai.types.GenerateContentResponse`), and the
guide "Thought signatures": in a stream a signature may come on a last part with empty text.
"""

from __future__ import annotations

import re

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
from ...errors import GatewayError, cut_off, protocol_violation
from ..base import ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.finish_reasons import finish_reason
from ..decoding.provider_errors import ProviderError, error_in_stream, read_error
from ..decoding.tool_calls import ToolCalls
from ..decoding.usage import count, usage_stats
from ..encoding.provider_state import TurnNotes

DIALECT = "gemini"


class GeminiDecoder(ResponseDecoder):
    """Chunks of `GenerateContentResponse`, or one of them as the whole answer.

    The end mark is a `finishReason`, or the `blockReason` of a prompt that was not let through. Each chunk's usage
    counts from the beginning, so that the last one is the answer's.
    """

    def __init__(self, notes: TurnNotes) -> None:
        self._calls = ToolCalls()
        self._call_count = 0
        self._notes = notes
        self._unsigned = 0  # characters of text since the last note
        self._word = ""
        self._usage: JsonObject | None = None
        self._metadata: JsonObject = {}

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        self._chunk(parse_object(payload), events)

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        self._chunk(body, events)
        if not self.ended:
            raise protocol_violation("the backend sent an unstreamed answer without a finishReason")
        self.done = True

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off("the backend's answer stopped without a finishReason: it was cut off")
        if self._usage is not None:
            events.append(Usage(_usage(self._usage)))
        self._note_text()
        if state := self._notes.state():
            self._metadata["provider_state"] = state
        events.append(Completed(finish_reason(self._word, calls_ready=self._calls.any_ready), self._metadata))

    def _chunk(self, chunk: JsonObject, events: list[BackendRawEvent]) -> None:
        if chunk.get("error") is not None:
            error = read_error(chunk)
            raise gemini_error(error_in_stream(error, retry_after_ms=retry_delay_ms(error)), error)
        candidates = chunk.get("candidates")
        if candidates is not None:
            if not isinstance(candidates, list):
                raise protocol_violation("the backend sent `candidates` that is not an array")
            for candidate in candidates:
                self._candidate(expect_object(candidate, "a candidate"), events)
        feedback = chunk.get("promptFeedback")
        if feedback is not None:
            blocked = expect_text(expect_object(feedback, "promptFeedback").get("blockReason"), "a blockReason")
            if blocked:
                self._metadata["block_reason"] = blocked
                self._end("content_filter")
        usage = chunk.get("usageMetadata")
        if isinstance(usage, dict):
            self._usage = usage
        if "response_id" not in self._metadata:
            for ours, theirs in (("response_id", "responseId"), ("model", "modelVersion")):
                if isinstance(value := chunk.get(theirs), str) and value:
                    self._metadata[ours] = value

    def _candidate(self, candidate: JsonObject, events: list[BackendRawEvent]) -> None:
        if candidate.get("index") not in (0, None):
            raise protocol_violation(
                "the backend sent a second candidate (`candidateCount` above 1), which has no place in one answer"
            )
        content = candidate.get("content")
        if content is not None:
            parts = expect_object(content, "a candidate's content").get("parts")
            if parts is not None:
                if not isinstance(parts, list):
                    raise protocol_violation("the backend sent `parts` that is not an array")
                for part in parts:
                    self._part(expect_object(part, "a part"), events)
        if word := candidate.get("finishReason"):
            self._end(expect_text(word, "a finishReason"))
            if message := candidate.get("finishMessage"):
                self._metadata["finish_message"] = message

    def _part(self, part: JsonObject, events: list[BackendRawEvent]) -> None:
        signature = part.get("thoughtSignature")
        if part.get("functionCall") is not None:
            self._call(part, events)
            return
        text = expect_text(part.get("text"), "a part's text")
        if part.get("thought") is True:
            if text:
                events.append(ReasoningDelta(text))
            if signature:
                self._note_text()
                self._notes.opaque(part)
                events.append(Progress())
        elif "text" in part or signature:
            if text:
                events.append(OutputTextDelta(text))
            if signature:
                # The signature is of this part, not of those before it: they stay apart.
                self._note_text()
                self._notes.text(len(text), {"thoughtSignature": signature})
                self._notes.mark_required()
                events.append(Progress())
            else:
                self._unsigned += len(text)
        elif part:
            # Code that it ran, a picture: only where `provider_options` asked for them. We have no frame for these.
            events.append(Progress())

    def _call(self, part: JsonObject, events: list[BackendRawEvent]) -> None:
        call = expect_object(part["functionCall"], "a functionCall")
        if call.get("willContinue") or call.get("partialArgs"):
            raise protocol_violation("the backend sent a functionCall in pieces, which the Gemini API does not")
        arguments = call.get("args")
        arguments = {} if arguments is None else expect_object(arguments, "a functionCall's args")
        own_id = expect_text(call.get("id"), "a functionCall's id")
        key = self._call_count
        self._call_count += 1
        call_id = self._calls.fragment(
            key,
            events,
            call_id=own_id,
            name=expect_text(call.get("name"), "a functionCall's name"),
            arguments=to_json(arguments).decode(),
        )
        self._calls.end(key, events)  # a call comes whole
        self._note_text()
        extra: JsonObject = {"id": own_id} if own_id == call_id else {}
        if signature := part.get("thoughtSignature"):
            extra["thoughtSignature"] = signature
            self._notes.mark_required()
        self._notes.call(call_id, extra)

    def _note_text(self) -> None:
        if self._unsigned:
            self._notes.text(self._unsigned, {})
            self._unsigned = 0

    def _end(self, word: str) -> None:
        self._word = word
        self.ended = True


def _usage(raw: JsonObject) -> UsageStats:
    thoughts = count(raw.get("thoughtsTokenCount"))
    input_tokens = _sum(count(raw.get("promptTokenCount")), count(raw.get("toolUsePromptTokenCount")))
    output_tokens = _sum(count(raw.get("candidatesTokenCount")), thoughts)
    return usage_stats(
        raw,
        input_tokens=input_tokens,
        output_tokens=output_tokens,
        total_tokens=count(raw.get("totalTokenCount")),
        cached_input_tokens=count(raw.get("cachedContentTokenCount")),
        reasoning_tokens=thoughts,
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


def retry_delay_ms(error: ProviderError) -> int | None:
    """google.rpc.RetryInfo's `retryDelay`, a protobuf duration in JSON (``"3.5s"``)."""
    for detail in _details(error):
        delay = detail.get("retryDelay")
        if isinstance(delay, str) and (match := re.fullmatch(r"(\d{1,9})(?:\.(\d{1,9}))?s", delay)):
            return int(match[1]) * 1000 + -(-int((match[2] or "0").ljust(9, "0")) // 1_000_000)
    return None


def _details(error: ProviderError) -> list[JsonObject]:
    details: JsonValue = error.detail.get("details")
    return [detail for detail in details if isinstance(detail, dict)] if isinstance(details, list) else []
