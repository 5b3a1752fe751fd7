"""Dialect `openai_responses`: OpenAI's Responses API. The request; `openai_responses_decoder` has the answer.

Source: the OpenAI API reference, "Responses" (`openai.types.responses.ResponseCreateParams`), the guide "Reasoning
models", section "Encrypted reasoning items", and what llama.cpp's server takes.
"""

from __future__ import annotations

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
    UserMessage,
)
from ...config.settings import Capabilities
from ...errors import unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..encoding.provider_state import CallPiece, OpaquePiece, Origin, Piece, TextPiece, TurnNotes, pieces
from .openai_responses_decoder import CARRIED, DIALECT, ResponsesDecoder


class OpenAIResponsesDialect(HttpDialect):
    name = DIALECT
    capabilities = Capabilities()

    def auth_headers(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        origin = Origin(DIALECT, self.profile.id, model)
        body: JsonObject = {
            "model": model,
            "stream": request.stream,
            # Every request carries its whole history, so there is nothing to keep at the provider.
            "store": False,
            "input": [
                item for index, message in enumerate(request.messages) for item in _items(message, origin, index)
            ],
        }
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "name": tool.name,
                    **({"description": tool.description} if tool.description is not None else {}),
                    "parameters": tool.input_schema,
                    # Left out it means true here, which refuses schemas that do not forbid additional properties.
                    "strict": False,
                }
                for tool in request.tools
            ]
            choice = request.tool_choice
            body["tool_choice"] = (
                {"type": "function", "name": choice.name} if isinstance(choice, SpecificTool) else choice
            )
        mode = request.output_mode
        if isinstance(mode, JsonSchemaOutput):
            body["text"] = {
                "format": {"type": "json_schema", "name": mode.name, "schema": mode.schema, "strict": mode.strict}
            }
        elif mode == "json_object":
            body["text"] = {"format": {"type": "json_object"}}
        if request.max_output_tokens is not None:
            body["max_output_tokens"] = request.max_output_tokens
        body |= _sampling(request)
        body |= _reasoning(request)
        return HttpRequest("/responses", body)

    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        notes = TurnNotes(DIALECT, self.profile.id, model)
        return ResponsesDecoder(notes, request.max_output_tokens, self.profile.reliability.max_event_bytes)


def _sampling(request: CanonicalRequest) -> JsonObject:
    sampling = request.sampling
    for field_name, value in (("seed", sampling.seed), ("stop", sampling.stop)):
        if value is not None:
            raise unsupported(f"sampling.{field_name}: the Responses API has no such parameter")
    wanted: JsonObject = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return {key: value for key, value in wanted.items() if value is not None}


def _reasoning(request: CanonicalRequest) -> JsonObject:
    reasoning: JsonObject = {}
    if request.enable_thinking is not None:
        reasoning["effort"] = "medium" if request.enable_thinking else "none"
    if request.include_reasoning:
        reasoning["summary"] = "auto"
    body: JsonObject = {"reasoning": reasoning} if reasoning else {}
    # Only where the request shows that the model reasons: one that does not answers HTTP 400 "Encrypted content is not
    # supported with this model". Where nobody asks, newer models send encrypted reasoning of their own accord.
    carries_reasoning = any(
        isinstance(message, AssistantMessage) and DIALECT in message.provider_state for message in request.messages
    )
    if request.enable_thinking or request.include_reasoning or carries_reasoning:
        body["include"] = ["reasoning.encrypted_content"]
    return body


_NO_IMAGE_HERE = "the Responses API takes images in user messages only"


def _items(message: Message, origin: Origin, index: int) -> list[JsonValue]:
    where = f"messages[{index}]"
    match message:
        case SystemMessage(parts):
            return [{"type": "message", "role": "system", "content": _content(parts, where)}]
        case UserMessage(parts):
            return [{"type": "message", "role": "user", "content": _content(parts, where, images=True)}]
        case ToolMessage(call_id, _, parts):
            return [{"type": "function_call_output", "call_id": call_id, "output": _content(parts, where)}]
        case AssistantMessage():
            return [_turn_item(piece, where) for piece in pieces(message, origin, where)]


def _content(parts: tuple[Part, ...], where: str, *, images: bool = False) -> JsonValue:
    """One text as a string, which every server takes; anything else as parts, so that their borders stay."""
    if len(parts) == 1 and not isinstance(parts[0], ImagePart):
        return parts[0].text
    content: list[JsonValue] = []
    for position, part in enumerate(parts):
        if not isinstance(part, ImagePart):
            content.append({"type": "input_text", "text": part.text})
        elif images:
            content.append({"type": "input_image", "image_url": part.data_url, "detail": "auto"})
        else:
            raise unsupported(
                f"{where}.parts[{position}].image_url: the Responses API takes images in user messages only"
            )
    return content


def _turn_item(piece: Piece, where: str) -> JsonValue:
    match piece:
        case TextPiece(text, extra):
            item: JsonObject = {"type": "message", "role": "assistant", "content": text}
            if "id" in extra:  # an item of the API's own is more than a text
                item["content"] = [{"type": "output_text", "text": text, "annotations": []}]
                item["status"] = "completed"
            return item | {key: extra[key] for key in CARRIED if key in extra}
        case CallPiece(call, extra):
            item = {"type": "function_call", "call_id": call.id, "name": call.name, "arguments": call.arguments_json}
            return item | {key: extra[key] for key in CARRIED if key in extra}
        case OpaquePiece(value):
            return value
        case ImagePart():
            raise unsupported(f"{where}.parts.image_url: {_NO_IMAGE_HERE}")
