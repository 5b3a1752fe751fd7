"""Dialect `anthropic`: the Messages API.

Source: the types of Anthropic's SDK (`anthropic.types.MessageCreateParams`, `RawMessageStreamEvent`), its guides
"Streaming", "Thinking" and "Troubleshooting thinking" (platform.claude.com/docs), and what llama.cpp's server, which
has this API too, really sends.
"""

from __future__ import annotations

import base64
import re
from urllib.parse import quote, urlsplit

from pydantic import JsonValue

from ...canonical import (
    MAX_CACHE_MARKS,
    AssistantMessage,
    CanonicalRequest,
    FilePart,
    ImagePart,
    JsonObject,
    JsonSchemaOutput,
    MediaPart,
    Message,
    Part,
    SpecificTool,
    SystemMessage,
    ToolMessage,
)
from ...config.settings import BackendProfile, Capabilities
from ...errors import invalid_request, unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..encoding.caching import CacheMarks, caching, refuse_cache_key
from ..encoding.call_ids import CallIds, IdRule, answered_calls
from ..encoding.call_names import PastNames
from ..encoding.provider_state import CallPiece, OpaquePiece, Origin, TurnNotes, part_path, pieces
from ..encoding.reasoning import claude_thinking
from ..encoding.turns import shape_turns
from .anthropic_decoder import CARRIED, AnthropicDecoder

_VERSION = {"anthropic-version": "2023-06-01"}
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})
_THINKING = frozenset({"thinking", "redacted_thinking"})
# The API's refusals: "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'", "`tool_use` ids must be unique".
_CALL_IDS = IdRule(re.compile(r"[a-zA-Z0-9_-]+"), unique="history")


class AnthropicDialect(HttpDialect):
    name = "anthropic"
    capabilities = Capabilities(json_mode=False)

    def __init__(self, profile: BackendProfile) -> None:
        super().__init__(profile)
        versioned = urlsplit(profile.backend.endpoint or "").path.rstrip("/").endswith("/v1")
        self._prefix = "" if versioned else "/v1"
        self.probe_path = f"{self._prefix}/models"
        self._default_max_tokens = profile.backend.anthropic.default_max_tokens

    def auth_headers(self, secret: str) -> dict[str, str]:
        return {"x-api-key": secret, **_VERSION}

    def model_path(self, model: str) -> str:
        return f"{self.probe_path}/{quote(model, safe='')}"  # "Get a Model": also resolves an alias

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        max_tokens = request.max_output_tokens or self._default_max_tokens
        body: JsonObject = {"model": model, "max_tokens": max_tokens, "stream": request.stream}
        cache = caching(request, self.profile.backend.cache)
        refuse_cache_key(cache, self.name)
        marks = CacheMarks(cache)
        if system := _system(request.messages, marks):
            body["system"] = system
        body["messages"] = _Conversation(request, Origin(self.name, self.profile.id, model), marks).turns()
        if cache.automatic and marks.placed < MAX_CACHE_MARKS:  # it takes one of the places for marks
            body["cache_control"] = marks.control
        if request.tools:
            body["tools"] = [
                {
                    "name": tool.name,
                    **({"description": tool.description} if tool.description is not None else {}),
                    # `type` is required here; arguments are an object in any case.
                    "input_schema": {"type": "object", **tool.input_schema},
                    **({"strict": tool.strict} if tool.strict is not None else {}),
                }
                for tool in request.tools
            ]
            body["tool_choice"] = _tool_choice(request, self.may_call_in_parallel(request))
        if request.service_tier is not None:
            body["service_tier"] = request.service_tier
        thinking, effort = claude_thinking(request, model, max_tokens)
        if thinking is not None:
            body["thinking"] = thinking
        output: JsonObject = {} if effort is None else {"effort": effort}
        mode = request.output_mode
        if isinstance(mode, JsonSchemaOutput):
            output["format"] = {"type": "json_schema", "schema": mode.schema}
        elif mode == "json_object":
            raise unsupported("output_mode: anthropic has no json_object; use json_schema")
        if output:
            body["output_config"] = output
        body |= _sampling(request)
        return HttpRequest(f"{self._prefix}/messages", body, _VERSION)

    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        notes = TurnNotes(self.name, self.profile.id, model)
        return AnthropicDecoder(notes, self.max_event_bytes, annotated=request.include_annotations)


def _sampling(request: CanonicalRequest) -> JsonObject:
    sampling = request.sampling
    if sampling.seed is not None:
        raise unsupported("sampling.seed: anthropic has no seed")
    wanted: JsonObject = {
        "temperature": sampling.temperature,
        "top_p": sampling.top_p,
        "stop_sequences": None if sampling.stop is None else list(sampling.stop),
    }
    return {key: value for key, value in wanted.items() if value is not None}


def _tool_choice(request: CanonicalRequest, parallel: bool | None) -> JsonObject:
    choice = request.tool_choice
    if choice == "none":  # has no switch, and needs none
        return {"type": "none"}
    switch: JsonObject = {} if parallel is None else {"disable_parallel_tool_use": not parallel}
    if isinstance(choice, SpecificTool):
        return {"type": "tool", "name": choice.name, **switch}
    return {"type": "any" if choice == "required" else choice, **switch}


def _system(messages: tuple[Message, ...], marks: CacheMarks) -> list[JsonValue]:
    blocks: list[JsonValue] = []
    for index, message in enumerate(messages):
        if isinstance(message, SystemMessage):
            own: list[JsonObject] = []
            for position, part in enumerate(message.parts):
                if isinstance(part, MediaPart):
                    path = f"messages[{index}].parts[{position}].{part.field}"
                    raise unsupported(f"{path}: anthropic's system is text only")
                own += _text_blocks(part.text)
            blocks += marks.mark(own, message.cache)
    return blocks


class _Conversation:
    """The messages of one request as turns of content blocks. A text is always a block, whatever stands beside it."""

    def __init__(self, request: CanonicalRequest, origin: Origin, marks: CacheMarks) -> None:
        self._messages = messages = request.messages
        self._names = PastNames(request.tools)
        self._marks = marks
        self._origin = origin
        self._answered = answered_calls(messages)
        self._ids = CallIds(messages, self._answered, _CALL_IDS)

    def turns(self) -> list[JsonValue]:
        turns = shape_turns(self._messages, self._answered, self._marked_blocks)
        last = turns[-1].blocks[-1] if turns[-1].role == "assistant" else {}
        if last.get("type") == "text":
            # "final assistant content cannot end with trailing whitespace" (HTTP 400)
            last["text"] = str(last["text"]).rstrip()
        return [{"role": turn.role, "content": [*turn.content]} for turn in turns]

    def _marked_blocks(self, index: int, message: Message) -> list[JsonObject]:
        return self._marks.mark(self._blocks(index, message), message.cache)

    def _blocks(self, index: int, message: Message) -> list[JsonObject]:
        path = f"messages[{index}]"
        if isinstance(message, AssistantMessage):
            return self._assistant_blocks(index, message, path)
        if isinstance(message, ToolMessage):
            return self._result_blocks(index, message, path)
        return _content_blocks(message.parts, path)

    def _result_blocks(self, index: int, message: ToolMessage, path: str) -> list[JsonObject]:
        """The result, and beside it what may not stand in one that says that the call failed."""
        inner = _content_blocks(message.parts, path)
        beside: list[JsonObject] = []
        if message.is_error:
            # "all content must be type `text` if `is_error` is true", "content cannot be empty if `is_error` is true"
            # (HTTP 400)
            beside = [block for block in inner if block["type"] != "text"]
            inner = [block for block in inner if block["type"] == "text"] or _text_blocks("error")
        # A result without `content` is one that is empty.
        content: JsonObject = {"content": _text_or_blocks(inner)} if inner else {}
        error: JsonObject = {"is_error": True} if message.is_error else {}
        return [{"type": "tool_result", "tool_use_id": self._ids.of_result(index), **content, **error}, *beside]

    def _assistant_blocks(self, index: int, message: AssistantMessage, path: str) -> list[JsonObject]:
        """An earlier turn, its thinking where it was: "in their original order" (ThinkingBlockParam)."""
        blocks: list[JsonObject] = []
        for piece in pieces(message, self._origin, path):
            if isinstance(piece, MediaPart):
                raise unsupported(
                    f"{part_path(message, piece, path)}.{piece.field}: anthropic takes images and files of users and "
                    "tools only"
                )
            if isinstance(piece, OpaquePiece):
                blocks.append(piece.value)
            elif isinstance(piece, CallPiece):
                call, call_id = piece.call, self._ids.of_call(index, piece.position)
                name = self._names.sent(call.name)
                carried = {key: piece.extra[key] for key in CARRIED if key in piece.extra}
                block: JsonObject = {"type": "tool_use", "id": call_id, "name": name, "input": call.arguments}
                blocks.append(block | carried)
            else:
                citations = {"citations": piece.extra["citations"]} if "citations" in piece.extra else {}
                blocks += [text | citations for text in _text_blocks(piece.text)]
        # "The final block in an assistant message cannot be `thinking`" (HTTP 400). What followed it is gone.
        while blocks and blocks[-1].get("type") in _THINKING:
            blocks.pop()
        return blocks


def _text_blocks(text: str) -> list[JsonObject]:
    """One block; none for an empty text: "text content blocks must contain non-whitespace text" (HTTP 400)."""
    return [{"type": "text", "text": text}] if text.strip() else []


def _text_or_blocks(blocks: list[JsonObject]) -> JsonValue:
    """A single text as a string, which is shorthand for the same; anything else as blocks."""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else [*blocks]


def _content_blocks(parts: tuple[Part, ...], path: str) -> list[JsonObject]:
    blocks: list[JsonObject] = []
    for position, part in enumerate(parts):
        if isinstance(part, ImagePart):
            blocks.append(_image(part, f"{path}.parts[{position}]"))
        elif isinstance(part, FilePart):
            blocks.append(_document(part, f"{path}.parts[{position}].file"))
        else:
            blocks += _text_blocks(part.text)
    return blocks


def _image(part: ImagePart, path: str) -> JsonObject:
    if part.url is not None:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    if part.mime_type not in _IMAGE_TYPES:
        raise unsupported(f"{path}.image_url: anthropic takes {', '.join(sorted(_IMAGE_TYPES))}, not {part.mime_type}")
    return {"type": "image", "source": {"type": "base64", "media_type": part.mime_type, "data": part.data}}


def _document(part: FilePart, path: str) -> JsonObject:
    """A PDF, or plain text by value: what `DocumentBlockParam` has sources for."""
    pdf = part.mime_type == "application/pdf"
    source: JsonObject
    if pdf and part.url is not None:
        source = {"type": "url", "url": part.url}
    elif pdf:
        source = {"type": "base64", "media_type": part.mime_type, "data": part.data}
    elif part.mime_type == "text/plain" and part.data is not None:
        try:
            text = base64.b64decode(part.data).decode()
        except UnicodeDecodeError:
            raise invalid_request(f"{path}.data: text/plain, but it is not UTF-8") from None
        source = {"type": "text", "media_type": part.mime_type, "data": text}
    else:
        how = "" if part.url is None else " by its URL"
        raise unsupported(
            f"{path}: anthropic takes application/pdf, text/plain by its data, and images, not {part.mime_type}{how}"
        )
    return {"type": "document", "source": source, **({"title": part.name} if part.name is not None else {})}
