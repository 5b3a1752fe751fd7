"""Dialect `gemini`: Google's Gemini API, `generateContent` and `streamGenerateContent`. The request; `gemini_decoder`
has the answer.

Source: the Gemini API reference, "Generating content" (`google.genai.types`, and what `google.genai.models` makes of
them for the Developer API), the guides "Function calling", "Thought signatures" and "File input methods", and
google.rpc's error details.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from urllib.parse import urlsplit

from pydantic import JsonValue

from ...canonical import (
    AssistantMessage,
    CanonicalRequest,
    ImagePart,
    JsonObject,
    JsonPart,
    JsonSchemaOutput,
    Part,
    SpecificTool,
    SystemMessage,
    ToolMessage,
    UserMessage,
)
from ...config.settings import BackendProfile, Capabilities
from ...errors import GatewayError, invalid_request, unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..decoding.provider_errors import ProviderError, error_of_status
from ..encoding.provider_state import CallPiece, OpaquePiece, Origin, TextPiece, TurnNotes, pieces
from .gemini_decoder import DIALECT, GeminiDecoder, gemini_error, retry_delay_ms


class GeminiDialect(HttpDialect):
    name = DIALECT
    capabilities = Capabilities()

    def __init__(self, profile: BackendProfile) -> None:
        super().__init__(profile)
        path = urlsplit(profile.backend.endpoint or "").path
        self._version = "" if re.search(r"/v\d+\w*/?$", path) else "/v1beta"
        self.probe_path = f"{self._version}/models"

    def auth_headers(self, secret: str) -> dict[str, str]:
        return {"x-goog-api-key": secret}  # the API takes it in the URL as well, where every proxy would log it

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        if ".." in model or "?" in model or "&" in model:  # google.genai.models refuses the same
            raise invalid_request(f"model: {model!r} is no name of a Gemini model")
        origin = Origin(DIALECT, self.profile.id, model)
        if not model.startswith(("models/", "tunedModels/")):
            model = f"models/{model}"
        body: JsonObject = {"contents": _contents(request, origin)}
        system: list[JsonValue] = [
            _text_part(part, f"messages[{index}].parts[{position}]", "systemInstruction")
            for index, message in enumerate(request.messages)
            if isinstance(message, SystemMessage)
            for position, part in enumerate(message.parts)
        ]
        if system:
            body["systemInstruction"] = {"parts": system}
        if request.tools:
            declarations: list[JsonValue] = [
                {
                    "name": tool.name,
                    **({"description": tool.description} if tool.description is not None else {}),
                    # Not `parameters`, which is OpenAPI's subset and refuses $defs, allOf and additionalProperties.
                    "parametersJsonSchema": tool.input_schema,
                }
                for tool in request.tools
            ]
            body["tools"] = [{"functionDeclarations": declarations}]
            body["toolConfig"] = {"functionCallingConfig": _calling(request)}
        if config := _generation_config(request):
            body["generationConfig"] = config
        method = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
        return HttpRequest(f"{self._version}/{model}:{method}", body)

    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        notes = TurnNotes(DIALECT, self.profile.id, model)
        return GeminiDecoder(notes, self.profile.reliability.max_event_bytes)

    def error(self, status: int, error: ProviderError, retry_after_ms: int | None) -> GatewayError:
        delay = retry_after_ms if retry_after_ms is not None else retry_delay_ms(error)
        return gemini_error(error_of_status(status, error, retry_after_ms=delay), error)


def _calling(request: CanonicalRequest) -> JsonObject:
    choice = request.tool_choice
    if isinstance(choice, SpecificTool):
        return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice]}


def _generation_config(request: CanonicalRequest) -> JsonObject:
    sampling = request.sampling
    config: JsonObject = {
        "maxOutputTokens": request.max_output_tokens,
        "temperature": sampling.temperature,
        "topP": sampling.top_p,
        "seed": sampling.seed,
        "stopSequences": None if sampling.stop is None else list(sampling.stop),
    }
    config = {key: value for key, value in config.items() if value is not None}
    mode = request.output_mode
    if mode != "text":
        config["responseMimeType"] = "application/json"
    if isinstance(mode, JsonSchemaOutput):
        # Gemini knows neither the schema's name nor a laxer way of keeping to it; both say less than this does.
        config["responseJsonSchema"] = mode.schema
    thinking: JsonObject = {}
    if request.enable_thinking is not None:
        thinking["thinkingBudget"] = -1 if request.enable_thinking else 0
    if request.include_reasoning:
        thinking["includeThoughts"] = True
    if thinking:
        config["thinkingConfig"] = thinking
    return config


# --- messages → contents -------------------------------------------------------------------------------------


def _contents(request: CanonicalRequest, origin: Origin) -> list[JsonValue]:
    contents: list[JsonValue] = []
    results: list[JsonValue] = []  # of calls made at once: Gemini wants them in one turn
    anonymous: set[str] = set()  # calls to which Gemini gave no id
    for index, message in enumerate(request.messages):
        if not isinstance(message, ToolMessage):
            results = []
        match message:
            case UserMessage(parts):
                contents.append({"role": "user", "parts": _parts(parts, f"messages[{index}]")})
            case AssistantMessage():
                contents.append({"role": "model", "parts": _turn(message, f"messages[{index}]", origin, anonymous)})
            case ToolMessage(call_id) if results:
                results.append(_function_response(message, call_id not in anonymous))
            case ToolMessage(call_id):
                results = [_function_response(message, call_id not in anonymous)]
                contents.append({"role": "user", "parts": results})
    return contents


def _parts(parts: Iterable[Part], where: str) -> list[JsonValue]:
    return [
        _image(part, f"{where}.parts[{position}]") if isinstance(part, ImagePart) else {"text": part.text}
        for position, part in enumerate(parts)
    ]


def _text_part(part: Part, where: str, place: str) -> JsonObject:
    if isinstance(part, ImagePart):
        raise unsupported(f"{where}.image_url: gemini takes text only in its {place}")
    return {"text": part.text}


_MIME_TYPES = {
    "png": "image/png",
    "jpg": "image/jpeg",
    "jpeg": "image/jpeg",
    "webp": "image/webp",
    "heic": "image/heic",
    "heif": "image/heif",
    "gif": "image/gif",
}


def _image(part: ImagePart, where: str) -> JsonObject:
    if part.url is None:
        return {"inlineData": {"mimeType": part.mime_type, "data": part.data}}
    if not part.url.startswith("https:"):
        raise unsupported(f"{where}.image_url.url: gemini fetches https: URLs only; send the image as a data: URL")
    path = urlsplit(part.url).path
    mime_type = part.mime_type or _MIME_TYPES.get(path.rpartition(".")[2].lower())
    file: JsonObject = {"fileUri": part.url}
    if mime_type is not None:  # files that were uploaded to Google have their type there
        file["mimeType"] = mime_type
    return {"fileData": file}


# A turn that Gemini did not make, or whose signature is lost, may say so: "Thought signatures", FAQ. Models from
# Gemini 3 on refuse calls without any signature.
_NO_SIGNATURE = "skip_thought_signature_validator"
_WANTS_SIGNATURES = re.compile(r"gemini-(?:[3-9]|\d\d)")


def _turn(message: AssistantMessage, where: str, origin: Origin, anonymous: set[str]) -> list[JsonValue]:
    parts: list[JsonValue] = []
    signed = first_call = None
    for piece in pieces(message, origin, where):
        match piece:
            case TextPiece(text, extra):
                parts.append({"text": text, **_signature(extra)})
            case ImagePart():
                parts.append(_image(piece, f"{where}.parts"))
            case OpaquePiece(part):
                parts.append(part)
            case CallPiece(call, extra, noted):
                function: JsonObject = {"name": call.name, "args": call.arguments}
                if noted and not extra.get("id"):
                    anonymous.add(call.id)
                else:
                    function["id"] = call.id
                signature = _signature(extra)
                part = {"functionCall": function, **signature}
                first_call = first_call or part
                signed = signed or signature
                parts.append(part)
    if first_call is not None and not signed and _WANTS_SIGNATURES.search(origin.model):
        first_call["thoughtSignature"] = _NO_SIGNATURE
    return parts


def _signature(extra: JsonObject) -> JsonObject:
    return {"thoughtSignature": extra["thoughtSignature"]} if "thoughtSignature" in extra else {}


def _function_response(message: ToolMessage, with_id: bool) -> JsonObject:
    parts = message.parts
    # `response` must be an object; `output` is the API's own word for a result that is none.
    response: JsonValue = {"output": message.text}
    if len(parts) == 1 and isinstance(parts[0], JsonPart):
        value = parts[0].value
        response = value if isinstance(value, dict) else {"output": value}
    identity: JsonObject = {"id": message.call_id} if with_id else {}
    return {"functionResponse": {**identity, "name": message.tool_name, "response": response}}
