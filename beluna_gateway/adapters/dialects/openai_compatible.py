"""Dialect `openai_compatible`: Chat Completions, as OpenAI defines it and many servers copy it.

Source: the OpenAI API reference, "Chat" (`openai.types.chat`), and what llama.cpp's server really sends.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

from pydantic import JsonValue

from ...canonical import (
    AssistantMessage,
    BackendRawEvent,
    CanonicalRequest,
    Completed,
    ImagePart,
    JsonObject,
    JsonSchemaOutput,
    Message,
    OutputTextDelta,
    Part,
    ReasoningDelta,
    SpecificTool,
    SystemMessage,
    ToolMessage,
    Usage,
    UsageStats,
    UserMessage,
)
from ...config.settings import BackendProfile, Capabilities
from ...errors import cut_off, protocol_violation, unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.delta_template import DeltaTemplate
from ..decoding.finish_reasons import finish_reason, is_cut
from ..decoding.provider_errors import error_in_stream, read_error
from ..decoding.tool_calls import ToolCalls
from ..decoding.usage import openai_usage

# --- request -------------------------------------------------------------------------------------------------


class OpenAICompatibleDialect(HttpDialect):
    name = "openai_compatible"
    capabilities = Capabilities()

    def __init__(self, profile: BackendProfile) -> None:
        super().__init__(profile)
        settings = profile.backend.openai_compatible
        host = urlsplit(profile.backend.endpoint or "").hostname or ""
        openai_itself = host == "api.openai.com" or host.endswith(
            (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
        )
        self._max_tokens_field = settings.max_tokens_field or (
            "max_completion_tokens" if openai_itself else "max_tokens"
        )
        self._stream_usage = settings.stream_usage
        self._thinking = settings.thinking

    def auth_headers(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        body: JsonObject = {"model": model, "stream": request.stream}
        body["messages"] = [_message(message, index) for index, message in enumerate(request.messages)]
        if request.stream and self._stream_usage:
            body["stream_options"] = {"include_usage": True}
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        **({"description": tool.description} if tool.description is not None else {}),
                        "parameters": tool.input_schema,
                    },
                }
                for tool in request.tools
            ]
            choice = request.tool_choice
            body["tool_choice"] = (
                {"type": "function", "function": {"name": choice.name}} if isinstance(choice, SpecificTool) else choice
            )
        mode = request.output_mode
        if isinstance(mode, JsonSchemaOutput):
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": mode.name, "schema": mode.schema, "strict": mode.strict},
            }
        elif mode == "json_object":
            body["response_format"] = {"type": "json_object"}
        if request.max_output_tokens is not None:
            body[self._max_tokens_field] = request.max_output_tokens
        sampling = request.sampling
        for field, value in (("temperature", sampling.temperature), ("top_p", sampling.top_p), ("seed", sampling.seed)):
            if value is not None:
                body[field] = value
        if sampling.stop is not None:
            body["stop"] = list(sampling.stop)
        if request.enable_thinking is not None:
            body |= self._thinking_switch(request.enable_thinking)
        return HttpRequest("/chat/completions", body)

    def _thinking_switch(self, enable: bool) -> JsonObject:
        if self._thinking == "chat_template_kwargs":
            return {"chat_template_kwargs": {"enable_thinking": enable}}
        if self._thinking == "enable_thinking":
            return {"enable_thinking": enable}
        raise unsupported(
            "enable_thinking: this backend has no word for it; set openai_compatible.thinking in its configuration"
        )

    def decoder(self, request: CanonicalRequest) -> ResponseDecoder:
        return ChatCompletionsDecoder()


def _message(message: Message, index: int) -> JsonValue:
    where = f"messages[{index}]"
    match message:
        case SystemMessage(parts):
            return {"role": "system", "content": _text_content(parts, where)}
        case UserMessage(parts):
            if any(isinstance(part, ImagePart) for part in parts):
                return {"role": "user", "content": [_user_part(part) for part in parts]}
            return {"role": "user", "content": _text_content(parts, where)}
        case ToolMessage(call_id, _, parts):
            return {"role": "tool", "tool_call_id": call_id, "content": _text_content(parts, where)}
        case AssistantMessage(parts, tool_calls):
            turn: JsonObject = {"role": "assistant", "content": _text_content(parts, where) if parts else None}
            if tool_calls:
                turn["tool_calls"] = [
                    {
                        "id": call.id,
                        "type": "function",
                        "function": {"name": call.name, "arguments": call.arguments_json},
                    }
                    for call in tool_calls
                ]
            return turn


def _text_content(parts: tuple[Part, ...], where: str) -> JsonValue:
    """One text as a string, which every server takes; several as parts, so that their borders stay."""
    texts = []
    for position, part in enumerate(parts):
        if isinstance(part, ImagePart):
            raise unsupported(
                f"{where}.parts[{position}].image_url: openai_compatible takes images in user messages only"
            )
        texts.append(part.text)
    if len(texts) == 1:
        return texts[0]
    return [{"type": "text", "text": text} for text in texts]


def _user_part(part: Part) -> JsonValue:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": part.data_url}}
    return {"type": "text", "text": part.text}


# --- response ------------------------------------------------------------------------------------------------


class ChatCompletionsDecoder(ResponseDecoder):
    """`chat.completion.chunk`s, or one `chat.completion`.

    The end mark is a `finish_reason`, or `[DONE]` after output. Usage comes in a chunk of its own after it.
    """

    def __init__(self) -> None:
        self._calls = ToolCalls()
        self._finish: str | None = None
        self._refused = False
        self._output = False
        self._usage: UsageStats | None = None
        self._metadata: JsonObject = {}
        self._template = DeltaTemplate(_delta, "content")

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        if (text := self._template.match(payload)) is not None:
            events.append(OutputTextDelta(text))
            return
        if payload == b"[DONE]":
            self.done = True
            self.ended = self.ended or self._output
            return
        before = len(events)
        chunk = parse_object(payload)
        self._chunk(chunk, "delta", events)
        if len(events) == before + 1 and not self.ended and chunk.get("usage") is None:
            event = events[before]
            if type(event) is OutputTextDelta and not self._refused:
                self._template.learn(payload, event.delta)

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        self._chunk(body, "message", events)
        if not self.ended:
            raise protocol_violation("the backend sent an unstreamed answer without a finish_reason")
        self.done = True

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off("the backend's answer stopped without a finish_reason: it was cut off")
        word = self._finish or "stop"
        if is_cut(word):
            self._calls.end_before_cut(events)
        else:
            self._calls.end_all(events)
        if self._usage is not None:
            events.append(Usage(self._usage))
        reason = finish_reason(word, calls_ready=self._calls.any_ready, refused=self._refused)
        events.append(Completed(reason, self._metadata))

    def _chunk(self, chunk: JsonObject, message_key: str, events: list[BackendRawEvent]) -> None:
        if chunk.get("error") is not None or chunk.get("object") == "error":
            raise error_in_stream(read_error(chunk))
        before = len(events)
        choices = chunk.get("choices")
        if choices:
            if not isinstance(choices, list):
                raise protocol_violation("the backend sent `choices` that is not an array")
            for choice in choices:
                self._choice(expect_object(choice, "a choice"), message_key, events)
        if len(events) > before:
            self._output = True
        usage = chunk.get("usage")
        if isinstance(usage, dict):
            self._usage = openai_usage(usage, "prompt_tokens", "completion_tokens")
        if not self._metadata:
            self._note_metadata(chunk)

    def _choice(self, choice: JsonObject, message_key: str, events: list[BackendRawEvent]) -> None:
        if choice.get("index") not in (0, None):
            raise protocol_violation("the backend sent a second choice (`n` above 1), which has no place in one answer")
        message = choice.get(message_key)
        if message is not None:
            message = expect_object(message, f"a {message_key}")
            # llama.cpp and DeepSeek say reasoning_content, OpenRouter and vLLM reasoning.
            if reasoning := message.get("reasoning_content") or message.get("reasoning"):
                events.append(ReasoningDelta(expect_text(reasoning, "reasoning")))
            if content := message.get("content"):
                events.append(OutputTextDelta(expect_text(content, "content")))
            if refusal := message.get("refusal"):
                self._refused = True
                events.append(OutputTextDelta(expect_text(refusal, "a refusal")))
            if calls := message.get("tool_calls"):
                self._tool_calls(calls, message_key == "message", events)
        finish = choice.get("finish_reason")
        if finish:
            self._finish = expect_text(finish, "a finish_reason")
            self.ended = True

    def _tool_calls(self, calls: JsonValue, whole: bool, events: list[BackendRawEvent]) -> None:
        if not isinstance(calls, list):
            raise protocol_violation("the backend sent `tool_calls` that is not an array")
        for position, value in enumerate(calls):
            call = expect_object(value, "a tool call")
            function = expect_object(call.get("function") or {}, "a tool call's function")
            index = position if whole else call.get("index")  # in a whole message each entry is a call of its own
            self._calls.fragment(
                index if isinstance(index, int) else None,
                events,
                call_id=expect_text(call.get("id"), "a tool call's id"),
                name=expect_text(function.get("name"), "a tool call's name"),
                arguments=expect_text(function.get("arguments"), "a tool call's arguments"),
            )

    def _note_metadata(self, chunk: JsonObject) -> None:
        for ours, theirs in (("response_id", "id"), ("model", "model"), ("system_fingerprint", "system_fingerprint")):
            if isinstance(value := chunk.get(theirs), str) and value:
                self._metadata[ours] = value


def _delta(chunk: Any) -> JsonObject:
    delta: JsonObject = chunk["choices"][0]["delta"]
    return delta
