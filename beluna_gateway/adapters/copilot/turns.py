"""The pure half of `copilot.protocol` `sdk`: a request as a session's history, a session's events as an answer.

How a conversation gets in. A session keeps its history as a list of events. We write the events that a session with
this history would have, let the program resume it, and ask for one turn over it with no new message
(`session.sendMessages` with an empty list). So roles, tool calls and their results reach the model as what they are.
The other two ways are worse: sending the last message alone forgets the rest, and one prompt that retells everything
makes the model answer a story. Both also have the program put the date in front of the prompt.

Where an answer ends. The program is an agent: after a tool call it runs the tool and asks the model again, after a cut
it asks the model to go on, after a failure it asks again, up to five times and with the text so far already out. A
request here is one call of the model, so its end mark is the end of the first call: `assistant.message` after
`assistant.usage`, or that `usage` alone where it says that the output was cut, or the call's failure.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from uuid import uuid4

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from ...canonical import (
    AssistantMessage,
    BackendRawEvent,
    CanonicalRequest,
    Completed,
    JsonObject,
    MediaPart,
    Message,
    OutputTextDelta,
    ReasoningDelta,
    SystemMessage,
    ToolMessage,
    Usage,
    UsageStats,
    UserMessage,
)
from ...errors import ErrorKind, GatewayError, cut_off, unsupported
from ..decoding.error_kinds import error_of_status
from ..decoding.finish_reasons import finish_reason, is_cut
from ..decoding.provider_errors import ProviderError, read_error
from ..decoding.tool_calls import ToolCalls
from ..decoding.usage import count, usage_stats

# --- request -------------------------------------------------------------------------------------------------


def reject_unsupported(request: CanonicalRequest, *, brings_a_provider: bool) -> None:
    """Refuses a request with a field that a session cannot carry.

    Raises:
        GatewayError: `unsupported_capability`.
    """
    sampling = request.sampling
    asked = {
        "tool_choice": request.tool_choice not in ("auto", "none"),
        "output_mode": request.output_mode != "text",
        # The program takes it as a property of the provider, so there must be one.
        "limits.max_output_tokens": request.max_output_tokens is not None and not brings_a_provider,
        "sampling.temperature": sampling.temperature is not None,
        "sampling.top_p": sampling.top_p is not None,
        "sampling.seed": sampling.seed is not None,
        "sampling.stop": sampling.stop is not None,
        "enable_thinking": request.enable_thinking is not None,
        "reasoning": request.reasoning is not None,
        "parallel_tool_calls": request.parallel_tool_calls is False,
        "service_tier": request.service_tier is not None,
        **{f"cache.{name}": True for name in (request.cache.asked if request.cache is not None else ())},
        "provider_options": bool(request.provider_options),
    }
    begun = False
    for index, message in enumerate(request.messages):
        # A session has one system message, and it stands first.
        asked[f"messages[{index}]: a system message after others"] = begun and isinstance(message, SystemMessage)
        begun = begun or not isinstance(message, SystemMessage)
        for position, part in enumerate(message.parts):
            if isinstance(part, MediaPart):
                asked[f"messages[{index}].parts[{position}].{part.field}"] = True
    for field, found in asked.items():
        if found:
            raise unsupported(f"{field}: a session of the Copilot CLI has no place for it")


def system_text(request: CanonicalRequest) -> str:
    """The replacement for the program's own system prompt, which makes an agent of the model."""
    return "\n\n".join(_text(message) for message in request.messages if isinstance(message, SystemMessage))


def history(request: CanonicalRequest, session_id: str, model: str) -> str:
    """The session's history as the program stores it: an event a line."""
    lines = []
    parent: str | None = None
    start: JsonObject = {
        "sessionId": session_id,
        "version": 1,
        "producer": "beluna-gateway",
        "copilotVersion": "1.0.0",
        "startTime": _LONG_AGO,
        "selectedModel": model,
        "context": {"cwd": "/"},
    }
    for kind, data in (("session.start", start), *_events(request.messages)):
        event_id = str(uuid4())
        event: JsonObject = {"type": kind, "data": data, "id": event_id, "timestamp": _LONG_AGO, "parentId": parent}
        lines.append(to_json(event).decode())
        parent = event_id
    return "\n".join(lines) + "\n"


_LONG_AGO = "2026-01-01T00:00:00.000Z"


def _events(messages: tuple[Message, ...]) -> Iterator[tuple[str, JsonObject]]:
    for message in messages:
        match message:
            case SystemMessage():
                continue  # it goes into the session's configuration
            case UserMessage():
                text = _text(message)
                # The second is what the model sees; the program would add the date to it.
                yield "user.message", {"content": text, "transformedContent": text}
            case AssistantMessage(tool_calls=calls):
                requests: list[JsonValue] = [
                    {"toolCallId": call.id, "name": call.name, "arguments": call.arguments, "type": "function"}
                    for call in calls
                ]
                yield (
                    "assistant.message",
                    {"messageId": str(uuid4()), "content": _text(message), "toolRequests": requests},
                )
            case ToolMessage(call_id=call_id):
                yield (
                    "tool.execution_complete",
                    {"toolCallId": call_id, "success": True, "result": {"content": message.text}},
                )


def _text(message: Message) -> str:
    return "\n".join(part.text for part in message.parts if not isinstance(part, MediaPart))


# --- response ------------------------------------------------------------------------------------------------


class TurnDecoder:
    """The events of one session → the events of one answer. `done` once nothing more can come."""

    WANTED = frozenset(
        {
            *("assistant.message_delta", "assistant.reasoning_delta", "assistant.tool_call_delta", "assistant.message"),
            *("assistant.usage", "model.call_failure", "session.error", "session.idle"),
        }
    )
    """The types that `feed` handles. The program sends some forty others."""

    def __init__(self) -> None:
        self.done = False
        self._calls = ToolCalls()
        self._said = False
        self._call_ids: set[str] = set()
        self._answered = False
        self._finish: str | None = None
        self._usage: UsageStats | None = None
        self._metadata: JsonObject = {}

    def feed(self, kind: str, data: Mapping[str, Any], events: list[BackendRawEvent]) -> None:
        """Appends to `events` what an event means.

        Raises:
            GatewayError: The call of the model failed, or the turn ended without an answer.
        """
        if self.done:
            return  # what the agent does after the first call is not part of the answer
        match kind:
            case "assistant.message_delta":
                self._say(data.get("deltaContent"), events)
            case "assistant.reasoning_delta":
                self._think(data.get("deltaContent"), events)
            case "assistant.tool_call_delta":
                self._call(data.get("toolCallId"), data.get("toolName"), str(data.get("inputDelta") or ""), events)
            case "assistant.usage":
                self._used(data, events)
            case "assistant.message":
                self._message(data, events)
            case "model.call_failure":
                raise call_failure(data)
            case "session.error":
                raise session_failure(data)
            case "session.idle":
                self._idle(events)
            case _:
                pass

    def _idle(self, events: list[BackendRawEvent]) -> None:
        if not self._answered and self._usage is None:
            raise cut_off("the session ended its turn without an answer of the model")
        self._end(events)

    def _say(self, text: Any, events: list[BackendRawEvent]) -> None:
        if text:
            self._said = True
            events.append(OutputTextDelta(str(text)))

    def _think(self, text: Any, events: list[BackendRawEvent]) -> None:
        if text:
            events.append(ReasoningDelta(str(text)))

    def _call(self, call_id: Any, name: Any, arguments: str, events: list[BackendRawEvent]) -> None:
        self._call_ids.add(str(call_id))
        self._calls.fragment(
            str(call_id), events, call_id=str(call_id), name=str(name) if name else None, arguments=arguments
        )

    def _message(self, data: Mapping[str, Any], events: list[BackendRawEvent]) -> None:
        self._answered = True
        if not self._said:  # it came without deltas
            self._say(data.get("content"), events)
        requests = data.get("toolRequests") or []
        for request in requests:
            if str(request.get("toolCallId")) not in self._call_ids:
                arguments = to_json(request.get("arguments") or {}).decode()
                self._call(request.get("toolCallId"), request.get("name"), arguments, events)
        self._note("response_id", data.get("apiCallId"))
        self._note("model", data.get("model"))
        if self._usage is not None or requests:
            self._end(events)  # after a tool call the program waits for its result, and usage has come before or not

    def _used(self, data: Mapping[str, Any], events: list[BackendRawEvent]) -> None:
        self._finish = str(data.get("finishReason") or "stop")
        self._usage = _usage(data)
        self._note("response_id", data.get("apiCallId"))
        self._note("model", data.get("model"))
        # Cut off: the program would ask the model to go on, and would not report the first half again.
        if self._answered or is_cut(self._finish):
            self._end(events)

    def _note(self, name: str, value: Any) -> None:
        if isinstance(value, str) and value:
            self._metadata[name] = value

    def _end(self, events: list[BackendRawEvent]) -> None:
        word = self._finish or "stop"
        if is_cut(word):
            self._calls.end_before_cut(events)
        else:
            self._calls.end_all(events)
        if self._usage is not None:
            events.append(Usage(self._usage))
        events.append(Completed(finish_reason(word, calls_ready=self._calls.any_ready), self._metadata))
        self.done = True


_USAGE_KEYS = ("inputTokens", "outputTokens", "cacheReadTokens", "cacheWriteTokens", "reasoningTokens", "cost")


def _usage(data: Mapping[str, Any]) -> UsageStats:
    return usage_stats(
        # `cost` is in premium requests, not in dollars: it stays in here.
        {key: data[key] for key in _USAGE_KEYS if data.get(key) is not None},
        input_tokens=count(data.get("inputTokens")),
        output_tokens=count(data.get("outputTokens")),
        cached_input_tokens=count(data.get("cacheReadTokens")),
        cache_write_input_tokens=count(data.get("cacheWriteTokens")),
        reasoning_tokens=count(data.get("reasoningTokens")),
    )


def call_failure(data: Mapping[str, Any]) -> GatewayError:
    """The error for a call of the model that failed."""
    text = data.get("errorMessage")
    try:
        error = read_error(from_json(text)) if isinstance(text, str) else ProviderError(None, None, {})
    except ValueError:
        error = ProviderError(None, str(text), {})
    code = next((c for c in (data.get("errorCode"), data.get("errorType")) if isinstance(c, str) and c), error.code)
    status = data.get("statusCode")
    if isinstance(status, int):
        return error_of_status(status, ProviderError(code, error.message, {}), where="the model's provider answered")
    said = error.message or "no reason given"
    return GatewayError(
        "backend_transient", f"the call of the model failed: {said}", retryable=True, provider_code=code
    )


_KIND_OF_TYPE: dict[str, tuple[ErrorKind, bool]] = {
    # `errorType` of `session.error`, from session-events.schema.json
    "authentication": ("authentication", False),
    "authorization": ("authorization", False),
    "policy": ("authorization", False),
    "quota": ("rate_limited", False),
    "rate_limit": ("rate_limited", True),
    "context_limit": ("invalid_request", False),
}


def session_failure(data: Mapping[str, Any]) -> GatewayError:
    """The error for a `session.error`."""
    kind, retryable = _KIND_OF_TYPE.get(str(data.get("errorType")), ("backend_transient", True))
    code = next((c for c in (data.get("errorCode"), data.get("errorType")) if isinstance(c, str) and c), None)
    status, message = data.get("statusCode"), str(data.get("message") or "no reason given")
    if kind == "backend_transient" and isinstance(status, int):
        return error_of_status(status, ProviderError(code, message, {}), where="the model's provider answered")
    return GatewayError(
        kind,
        f"the session failed: {message}",
        retryable=retryable,
        provider_code=code,
        provider_http_status=status if isinstance(status, int) else None,
    )
