"""Dialect `ollama`: Ollama's own `/api/chat`, one JSON object a line.

Source: Ollama's `docs/api.md` ("Generate a chat completion"), `api/types.go` (`ChatRequest`, `ChatResponse`) and
`server/routes.go` (`ChatHandler`, `streamResponse`).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import JsonValue

from ...canonical import (
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
from ...config.settings import Capabilities
from ...errors import unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..encoding.caching import caching, refuse_cache
from ..encoding.reasoning import ollama_think
from .ollama_decoder import OllamaDecoder


class OllamaDialect(HttpDialect):
    name = "ollama"
    capabilities = Capabilities()
    framing: ClassVar[Literal["sse", "ndjson"]] = "ndjson"
    probe_path = "/api/tags"

    def auth_headers(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}  # ollama.com; a local server asks for nothing

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        refuse_cache(caching(request, self.profile.backend.cache), self.name)
        if request.parallel_tool_calls is False:
            raise unsupported("parallel_tool_calls: ollama has no switch for it, and may make several calls in a turn")
        if request.service_tier is not None:
            raise unsupported("service_tier: ollama has one way of serving")
        body: JsonObject = {
            "model": model,
            "stream": request.stream,
            "messages": [_message(message, index) for index, message in enumerate(request.messages)],
        }
        choice = request.tool_choice
        if choice not in ("auto", "none"):
            word = f"specific ({choice.name})" if isinstance(choice, SpecificTool) else choice
            raise unsupported(f"tool_choice: ollama lets the model choose, it has no word for {word}")
        if request.tools and choice == "auto":  # nor has it one for "none": the tools are left out
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
        mode = request.output_mode
        if isinstance(mode, JsonSchemaOutput):
            body["format"] = mode.schema  # always enforced, by grammar: there is no less strict form
        elif mode == "json_object":
            body["format"] = "json"
        if (think := ollama_think(request)) is not None:
            body["think"] = think
        if options := _options(request):
            body["options"] = options
        return HttpRequest("/api/chat", body)

    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        return OllamaDecoder(self.max_event_bytes)


def _options(request: CanonicalRequest) -> JsonObject:
    options: JsonObject = {}
    if request.max_output_tokens is not None:
        options["num_predict"] = request.max_output_tokens
    options |= request.sampling.given()
    return options


def _message(message: Message, index: int) -> JsonValue:
    path = f"messages[{index}]"
    if isinstance(message, ToolMessage):
        for position, part in enumerate(message.parts):
            if isinstance(part, MediaPart):
                raise unsupported(f"{path}.parts[{position}].{part.field}: ollama takes text only as a tool's result")
        # `tool_call_id` tells apart two calls of one tool; a server older than it passes over it.
        return {
            "role": "tool",
            "content": message.text,
            "tool_name": message.tool_name,
            "tool_call_id": message.call_id,
        }
    turn = _content(message.parts, path)
    if isinstance(message, AssistantMessage):
        if message.tool_calls:
            turn["tool_calls"] = [
                {"id": call.id, "function": {"index": position, "name": call.name, "arguments": call.arguments}}
                for position, call in enumerate(message.tool_calls)
            ]
        return {"role": "assistant", **turn}
    return {"role": "system" if isinstance(message, SystemMessage) else "user", **turn}


def _content(parts: tuple[Part, ...], path: str) -> JsonObject:
    """Ollama knows one text a message, and beside it the images, in base64."""
    texts: list[str] = []
    images: list[JsonValue] = []
    for position, part in enumerate(parts):
        if isinstance(part, FilePart):
            raise unsupported(f"{path}.parts[{position}].file: ollama takes images only")
        if not isinstance(part, ImagePart):
            texts.append(part.text)
        elif part.data is not None:
            images.append(part.data)
        else:
            raise unsupported(
                f"{path}.parts[{position}].image_url.url: ollama loads no images from the network; send a data: URL"
            )
    return {"content": "\n".join(texts), **({"images": images} if images else {})}
