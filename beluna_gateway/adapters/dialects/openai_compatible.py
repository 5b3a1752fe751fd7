"""Dialect `openai_compatible`: Chat Completions, as OpenAI defines it and many servers copy it.

Source: the OpenAI API reference, "Chat" (`openai.types.chat`), and what llama.cpp's server really sends.
"""

from __future__ import annotations

import re

from pydantic import JsonValue

from ...canonical import (
    TEXT_PARTS,
    AssistantMessage,
    CanonicalRequest,
    FilePart,
    ImagePart,
    JsonObject,
    MediaPart,
    Message,
    Part,
    SpecificTool,
    ToolMessage,
    UserMessage,
)
from ...config.settings import BackendProfile, Capabilities, is_at, is_openai
from ...errors import GatewayError, unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..encoding.caching import caching, openai_cache
from ..encoding.call_ids import CallIds, IdRule, answered_calls
from ..encoding.call_names import PastNames
from ..encoding.provider_state import CallPiece, OpaquePiece, Origin, TurnNotes, pieces
from ..encoding.reasoning import chat_reasoning
from ..encoding.tool_schemas import openai_judges, wants_whole_schemas, whole_schema
from ..encoding.turns import results_after_calls
from .openai_compatible_decoder import ChatCompletionsDecoder

# "Invalid 'messages[1].tool_calls[0].id': string too long. Expected a string with maximum length 40", "Duplicate value
# for 'tool_call_id' of 'call_1', in messages[7] and messages[8]" (HTTP 400). vLLM makes ids of 46 characters.
_OPENAI_CALL_IDS = IdRule(re.compile(r".{1,40}", re.DOTALL), unique="turn", longest=40)
# "Tool call id was call_1 but must be a-z, A-Z, 0-9, with a length of 9" (HTTP 400)
_MISTRAL_CALL_IDS = IdRule(re.compile(r"[a-zA-Z0-9]{9}"), unique="turn", longest=9)


def _call_ids(endpoint: str | None) -> IdRule | None:
    """What the server takes as ids of calls; None: the client's own, whatever they are."""
    if openai_judges(endpoint):
        return _OPENAI_CALL_IDS
    return _MISTRAL_CALL_IDS if is_at(endpoint, "mistral.ai") else None


_REASON_IN_TURNS = ("deepseek.com", "moonshot.ai", "moonshot.cn", "kimi.com", "xiaomimimo.com")
"""Whose thinking models refuse a turn with calls that has no `reasoning_content`. HTTP 400 "must be passed back to the
API" (DeepSeek, Xiaomi MiMo), "thinking is enabled but reasoning_content is missing in assistant tool call message"
(Kimi: continue #11600, opencode #16318)."""


_REFUSE_EMPTY = ("mistral.ai", "moonshot.ai", "moonshot.cn", "kimi.com")
"""Who refuses a turn of the model without text and calls. HTTP 400 "the message at position 8 with role 'assistant'
must not be empty" (Kimi: AstrBot #7200, kimi-code #1985), "Assistant message must have either content or tool_calls,
but not none" (Mistral)."""


class OpenAICompatibleDialect(HttpDialect):
    name = "openai_compatible"
    capabilities = Capabilities()

    def __init__(self, profile: BackendProfile) -> None:
        super().__init__(profile)
        settings = profile.backend.openai_compatible
        self._at_openai = openai_itself = is_openai(profile.backend.endpoint)
        self._call_ids = _call_ids(profile.backend.endpoint)
        self._whole_schemas = wants_whole_schemas(profile.backend.endpoint)
        self._wants_reasoning = is_at(profile.backend.endpoint, *_REASON_IN_TURNS)
        self._refuses_empty = is_at(profile.backend.endpoint, *_REFUSE_EMPTY)
        self._max_tokens_field = settings.max_tokens_field or (
            "max_completion_tokens" if openai_itself else "max_tokens"
        )
        self._stream_usage = settings.stream_usage
        self._thinking = settings.thinking
        self._joins_texts = (settings.text_parts or ("array" if openai_itself else "joined")) == "joined"

    def auth_headers(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        body: JsonObject = {"model": model, "stream": request.stream}
        origin = Origin(self.name, self.profile.id, model)
        answered = answered_calls(request.messages)
        ids = None if self._call_ids is None else CallIds(request.messages, answered, self._call_ids)
        names = None if ids is None else PastNames(request.tools)  # whoever restricts ids restricts names
        order = results_after_calls(request.messages, answered)
        if self._refuses_empty:
            order = [index for index in order if not _is_empty_turn(request.messages[index])]
        thinking = chat_reasoning(request, self._thinking)
        reasoned = _Reasoned(request, always=self._wants_reasoning and thinking != _NOT_THINKING)
        body["messages"] = [
            self._message(request.messages[index], index, origin, ids, names, reasoned) for index in order
        ]
        if request.stream and self._stream_usage:
            body["stream_options"] = {"include_usage": True}
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        **({"description": tool.description} if tool.description is not None else {}),
                        "parameters": whole_schema(tool.input_schema) if self._whole_schemas else tool.input_schema,
                        **({"strict": tool.strict} if tool.strict is not None else {}),
                    },
                }
                for tool in request.tools
            ]
            choice = request.tool_choice
            body["tool_choice"] = (
                {"type": "function", "function": {"name": choice.name}} if isinstance(choice, SpecificTool) else choice
            )
            if (parallel := self.may_call_in_parallel(request)) is not None:
                body["parallel_tool_calls"] = parallel
        if request.service_tier is not None:
            body["service_tier"] = request.service_tier
        mode = request.output_mode
        if mode == "json_object":
            body["response_format"] = {"type": "json_object"}
        elif mode != "text":
            body["response_format"] = {
                "type": "json_schema",
                "json_schema": {"name": mode.name, "schema": mode.schema, "strict": mode.strict},
            }
        if request.max_output_tokens is not None:
            body[self._max_tokens_field] = request.max_output_tokens
        body |= request.sampling.given()
        body |= thinking
        body |= openai_cache(caching(request, self.profile.backend.cache), self.name, at_openai=self._at_openai)
        return HttpRequest("/chat/completions", body)

    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        notes = TurnNotes(self.name, self.profile.id, model)
        return ChatCompletionsDecoder(
            notes,
            self.max_event_bytes,
            annotated=request.include_annotations,
            with_tools=bool(request.tools) or _has_called(request.messages),
        )

    def _message(
        self,
        message: Message,
        index: int,
        origin: Origin,
        ids: CallIds | None,
        names: PastNames | None,
        reasoned: _Reasoned,
    ) -> JsonObject:
        parts = message.parts
        texts = [part.text for part in parts if isinstance(part, TEXT_PARTS)]
        if len(texts) < len(parts):
            if not isinstance(message, UserMessage):
                raise _no_media(parts, index)
            media: list[JsonValue] = [_user_part(part, f"messages[{index}].parts[{n}]") for n, part in enumerate(parts)]
            return {"role": "user", "content": media}
        content = self._text_content(texts)
        if isinstance(message, UserMessage):
            return {"role": "user", "content": content}
        if isinstance(message, AssistantMessage):
            said = content if parts else None
            fields = _turn_fields(message, index, origin, ids, names)
            return {"role": "assistant", "content": said, **reasoned.fields(fields, index)}
        if isinstance(message, ToolMessage):
            call_id = message.call_id if ids is None else ids.of_result(index)
            return {"role": "tool", "tool_call_id": call_id, "content": content}
        return {"role": "system", "content": content}

    def _text_content(self, texts: list[str]) -> JsonValue:
        """One text as a string, which every server takes; several as parts or joined, as the server wants them."""
        if len(texts) == 1:
            return texts[0]
        if self._joins_texts:
            return "\n\n".join(texts)
        return [{"type": "text", "text": text} for text in texts]


_RETURNED = ("reasoning_content", "reasoning_details", "reasoning_text", "reasoning_opaque", "extra_content")
"""What a turn has besides text and calls and must have when it comes back. Sources: DeepSeek's guide "Thinking mode",
Kimi's "Use thinking models", OpenRouter's "Reasoning tokens", Gemini's "OpenAI compatibility" (`extra_content`); for
`reasoning_text` and `reasoning_opaque` the GitHub Copilot extension of VS Code, `ThinkingDataInMessage`."""


def _no_media(parts: tuple[Part, ...], index: int) -> GatewayError:
    """The refusal of the first image or file in a message at `index` that is no user's."""
    position, part = next((n, part) for n, part in enumerate(parts) if isinstance(part, MediaPart))
    return unsupported(
        f"messages[{index}].parts[{position}].{part.field}: openai_compatible takes images and files in user messages "
        "only"
    )


def _is_empty_turn(message: Message) -> bool:
    """Whether a turn of the model has neither text nor calls."""
    if not isinstance(message, AssistantMessage) or message.tool_calls:
        return False
    return all(isinstance(part, TEXT_PARTS) and not part.text for part in message.parts)


def _turn_fields(
    message: AssistantMessage, index: int, origin: Origin, ids: CallIds | None, names: PastNames | None
) -> JsonObject:
    """The calls of an earlier turn, and what its server must see again."""
    calls: list[JsonObject] = [
        {
            "id": call.id if ids is None else ids.of_call(index, position),
            "type": "function",
            "function": {
                "name": call.name if names is None else names.sent(call.name),
                "arguments": call.arguments_json,
            },
        }
        for position, call in enumerate(message.tool_calls)
    ]
    fields: JsonObject = {}
    if origin.dialect in message.provider_state:  # what has no notes has neither opaque pieces nor extras
        for piece in pieces(message, origin, f"messages[{index}]"):
            if isinstance(piece, OpaquePiece):
                fields |= {key: piece.value[key] for key in _RETURNED if key in piece.value}
            elif isinstance(piece, CallPiece) and "extra_content" in piece.extra:
                calls[piece.position]["extra_content"] = piece.extra["extra_content"]
    return {**fields, "tool_calls": [*calls]} if calls else fields


_NOT_THINKING: JsonObject = {"thinking": {"type": "disabled"}}
_NO_REASONING = " "
"""For turns of other models: DeepSeek V4 Pro refuses an empty one (hermes-agent #18263, which sends this to all)."""


class _Reasoned:
    """Which messages of the model have their `reasoning_content`.

    DeepSeek's guide "Thinking mode": with tools, and in a turn with calls, which is all between two messages of the
    user, it has to come back in all requests that follow ("The `reasoning_content` in the thinking mode must be passed
    back to the API", HTTP 400). Else it is not wanted, and older models refuse it. Kimi and MiMo want no more.

    Args:
        request: The request.
        always: `_NO_REASONING` stands for what a message does not have: another model's, or none at all.
    """

    def __init__(self, request: CanonicalRequest, *, always: bool) -> None:
        self._request = request
        self._always = always
        self._wanted: set[int] | None = None

    def fields(self, fields: JsonObject, index: int) -> JsonObject:
        """`fields` of the message at `index`, with or without it."""
        if not self._always and "reasoning_content" not in fields:
            return fields
        if self._wanted is None:
            self._wanted = self._look()
        if index not in self._wanted:
            fields.pop("reasoning_content", None)
        elif self._always:
            fields.setdefault("reasoning_content", _NO_REASONING)
        return fields

    def _look(self) -> set[int]:
        wanted: set[int] = set()
        called = bool(self._request.tools)
        for index, message in enumerate(self._request.messages):
            if isinstance(message, UserMessage):
                called = bool(self._request.tools)
            elif isinstance(message, AssistantMessage):
                called = called or bool(message.tool_calls)
                if called:
                    wanted.add(index)
        return wanted


def _has_called(messages: tuple[Message, ...]) -> bool:
    """Whether the turn that the answer belongs to has calls."""
    for message in reversed(messages):
        if isinstance(message, UserMessage):
            return False
        if isinstance(message, ToolMessage):
            return True
    return False


_AUDIO_FORMATS = {
    "audio/wav": "wav",
    "audio/wave": "wav",
    "audio/x-wav": "wav",
    "audio/mpeg": "mp3",
    "audio/mp3": "mp3",
}


def _user_part(part: Part, path: str) -> JsonValue:
    if isinstance(part, ImagePart):
        return {"type": "image_url", "image_url": {"url": part.data_url}}
    if isinstance(part, FilePart):
        if part.url is not None:
            raise unsupported(f"{path}.file.url: Chat Completions has no place for a file's URL; send its data")
        if audio := _AUDIO_FORMATS.get(part.mime_type):
            return {"type": "input_audio", "input_audio": {"data": part.data, "format": audio}}
        return {"type": "file", "file": {"filename": part.file_name, "file_data": part.data_url}}
    return {"type": "text", "text": part.text}
