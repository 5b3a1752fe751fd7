"""Dialect `anthropic`: the Messages API.

Source: the types of Anthropic's SDK (`anthropic.types.MessageCreateParams`, `RawMessageStreamEvent`), its guides
"Streaming", "Thinking" and "Troubleshooting thinking" (platform.claude.com/docs), and what llama.cpp's server, which
has this API too, really sends.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from pydantic import JsonValue

from ...canonical import (
    AssistantMessage,
    CanonicalRequest,
    ImagePart,
    JsonObject,
    JsonSchemaOutput,
    Message,
    Part,
    SpecificTool,
    SystemMessage,
    ToolMessage,
)
from ...config.settings import BackendProfile, Capabilities
from ...errors import unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..encoding.claude_thinking import thinking_config
from ..encoding.provider_state import CallPiece, OpaquePiece, Origin, TurnNotes, pieces
from .anthropic_decoder import AnthropicDecoder

_VERSION = {"anthropic-version": "2023-06-01"}
_IMAGE_TYPES = frozenset({"image/jpeg", "image/png", "image/gif", "image/webp"})


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

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        max_tokens = request.max_output_tokens or self._default_max_tokens
        body: JsonObject = {"model": model, "max_tokens": max_tokens, "stream": request.stream}
        if system := _system(request.messages):
            body["system"] = system
        body["messages"] = _turns(request.messages, Origin(self.name, self.profile.id, model))
        if request.tools:
            body["tools"] = [
                {
                    "name": tool.name,
                    **({"description": tool.description} if tool.description is not None else {}),
                    # `type` is required here; arguments are an object in any case.
                    "input_schema": {"type": "object", **tool.input_schema},
                }
                for tool in request.tools
            ]
            body["tool_choice"] = _tool_choice(request)
        mode = request.output_mode
        if isinstance(mode, JsonSchemaOutput):
            body["output_config"] = {"format": {"type": "json_schema", "schema": mode.schema}}
        elif mode == "json_object":
            raise unsupported("output_mode: anthropic has no json_object; use json_schema")
        sampling = request.sampling
        if sampling.seed is not None:
            raise unsupported("sampling.seed: anthropic has no seed")
        if sampling.temperature is not None:
            body["temperature"] = sampling.temperature
        if sampling.top_p is not None:
            body["top_p"] = sampling.top_p
        if sampling.stop is not None:
            body["stop_sequences"] = list(sampling.stop)
        if thinking := thinking_config(request, model, max_tokens):
            body["thinking"] = thinking
        return HttpRequest(f"{self._prefix}/messages", body, _VERSION)

    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        notes = TurnNotes(self.name, self.profile.id, model)
        return AnthropicDecoder(notes, self.profile.reliability.max_event_bytes)


def _tool_choice(request: CanonicalRequest) -> JsonObject:
    choice = request.tool_choice
    if isinstance(choice, SpecificTool):
        return {"type": "tool", "name": choice.name}
    return {"type": "any" if choice == "required" else choice}


def _system(messages: tuple[Message, ...]) -> JsonValue:
    texts: list[str] = []
    for index, message in enumerate(messages):
        if isinstance(message, SystemMessage):
            for position, part in enumerate(message.parts):
                if isinstance(part, ImagePart):
                    raise unsupported(f"messages[{index}].parts[{position}].image_url: anthropic's system is text only")
                texts.append(part.text)
    return _text_or_blocks([{"type": "text", "text": text} for text in texts])


def _turns(messages: tuple[Message, ...], origin: Origin) -> list[JsonValue]:
    """The conversation, messages of one role in a row as one turn: all results of a turn's calls must be in one."""
    turns: list[tuple[str, list[JsonObject]]] = []
    for index, message in enumerate(messages):
        if isinstance(message, SystemMessage):
            continue
        where = f"messages[{index}]"
        role = "assistant" if isinstance(message, AssistantMessage) else "user"
        if not turns or turns[-1][0] != role:
            turns.append((role, []))
        content = turns[-1][1]
        if isinstance(message, AssistantMessage):
            content += _assistant_blocks(message, origin, where)
        elif isinstance(message, ToolMessage):
            texts: list[JsonObject] = [{"type": "text", "text": part.text} for part in message.parts]
            result: JsonObject = {"type": "tool_result", "tool_use_id": message.call_id}
            # Results come first in a turn, in their order ("Handle tool calls": text before them is an error).
            results = sum(block["type"] == "tool_result" for block in content)
            content.insert(results, {**result, "content": _text_or_blocks(texts)})
        else:
            content += [_user_block(part, f"{where}.parts[{n}]") for n, part in enumerate(message.parts)]
    return [{"role": role, "content": _text_or_blocks(content)} for role, content in turns]


def _text_or_blocks(blocks: list[JsonObject]) -> JsonValue:
    """A single text as a string, which is shorthand for the same; anything else as blocks."""
    return blocks[0]["text"] if len(blocks) == 1 and blocks[0]["type"] == "text" else [*blocks]


def _user_block(part: Part, where: str) -> JsonObject:
    if not isinstance(part, ImagePart):
        return {"type": "text", "text": part.text}
    if part.url is not None:
        return {"type": "image", "source": {"type": "url", "url": part.url}}
    if part.mime_type not in _IMAGE_TYPES:
        raise unsupported(f"{where}.image_url: anthropic takes {', '.join(sorted(_IMAGE_TYPES))}, not {part.mime_type}")
    return {"type": "image", "source": {"type": "base64", "media_type": part.mime_type, "data": part.data}}


def _assistant_blocks(message: AssistantMessage, origin: Origin, where: str) -> list[JsonObject]:
    """An earlier turn, its thinking where it was: "in their original order" (ThinkingBlockParam)."""
    blocks: list[JsonObject] = []
    for piece in pieces(message, origin, where):
        if isinstance(piece, ImagePart):
            raise unsupported(
                f"{where}.parts: an image_url in an assistant message; anthropic takes them from users only"
            )
        if isinstance(piece, OpaquePiece):
            blocks.append(piece.value)
        elif isinstance(piece, CallPiece):
            call = piece.call
            blocks.append({"type": "tool_use", "id": call.id, "name": call.name, "input": call.arguments})
        elif piece.text:  # an empty text block is refused, and an assistant turn of calls alone often has one
            blocks.append({"type": "text", "text": piece.text})
    return blocks
