"""Dialect `gemini`: Google's Gemini API, `generateContent` and `streamGenerateContent`. The request; `gemini_decoder`
has the answer.

Source: the Gemini API reference, "Generating content" (`google.genai.types`, and what `google.genai.models` makes of
them for the Developer API), the guides "Function calling", "Thought signatures" and "File input methods", and
google.rpc's error details.
"""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

from pydantic import JsonValue

from ...canonical import (
    AssistantMessage,
    CanonicalRequest,
    FilePart,
    ImagePart,
    JsonObject,
    JsonPart,
    JsonSchemaOutput,
    MediaPart,
    Message,
    Part,
    SpecificTool,
    SystemMessage,
    ToolMessage,
)
from ...config.settings import BackendProfile, Capabilities
from ...errors import GatewayError, unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..decoding.error_kinds import error_of_status
from ..decoding.provider_errors import ProviderError
from ..encoding.caching import caching, refuse_cache
from ..encoding.call_ids import CallIds, CallPosition, IdRule, answered_calls
from ..encoding.gemini_models import wants_results_last, whole_name
from ..encoding.provider_state import CallPiece, OpaquePiece, Origin, TextPiece, TurnNotes, part_path, pieces
from ..encoding.reasoning import gemini_thinking, is_gemini_3
from ..encoding.turns import shape_turns
from .gemini_decoder import DIALECT, AnnotatedGeminiDecoder, GeminiDecoder, gemini_error

_CALL_IDS = IdRule(re.compile(r".+", re.DOTALL), unique="history")

# The guide "Thought signatures", FAQ: what may stand in place of a signature in a turn that Gemini did not make. Models
# from Gemini 3 on refuse a turn whose first call has none; of parallel calls only the first one has any.
_NO_SIGNATURE = "skip_thought_signature_validator"


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

    def model_path(self, model: str) -> str:
        named = model if model.startswith(("models/", "tunedModels/")) else f"models/{model}"
        return f"{self._version}/{quote(named)}"  # models.get

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        refuse_cache(caching(request, self.profile.backend.cache), DIALECT)
        if request.parallel_tool_calls is False:
            raise unsupported("parallel_tool_calls: gemini has no switch for it, and may make several calls in a turn")
        origin = Origin(DIALECT, self.profile.id, model)
        model = whole_name(model)
        body: JsonObject = {"contents": _Conversation(request.messages, origin).contents()}
        system: list[JsonValue] = [
            _text_part(part, f"messages[{index}].parts[{position}]", "systemInstruction")
            for index, message in enumerate(request.messages)
            if isinstance(message, SystemMessage)
            for position, part in enumerate(message.parts)
            if isinstance(part, MediaPart) or part.text
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
        if request.service_tier is not None:
            body["serviceTier"] = request.service_tier
        if config := _generation_config(request, model):
            body["generationConfig"] = config
        method = "streamGenerateContent?alt=sse" if request.stream else "generateContent"
        return HttpRequest(f"{self._version}/{model}:{method}", body)

    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        notes = TurnNotes(DIALECT, self.profile.id, model)
        decoder = AnnotatedGeminiDecoder if request.include_annotations else GeminiDecoder
        return decoder(notes, self.max_event_bytes)

    def error(self, status: int, error: ProviderError, retry_after_ms: int | None) -> GatewayError:
        return gemini_error(error_of_status(status, error, retry_after_ms=retry_after_ms), error)


def _calling(request: CanonicalRequest) -> JsonObject:
    choice = request.tool_choice
    if isinstance(choice, SpecificTool):
        return {"mode": "ANY", "allowedFunctionNames": [choice.name]}
    return {"mode": {"auto": "AUTO", "none": "NONE", "required": "ANY"}[choice]}


def _generation_config(request: CanonicalRequest, model: str) -> JsonObject:
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
    if thinking := gemini_thinking(request, model):
        config["thinkingConfig"] = thinking
    return config


# --- messages → contents -------------------------------------------------------------------------------------


class _Conversation:
    """The messages of one request as `contents`."""

    def __init__(self, messages: tuple[Message, ...], origin: Origin) -> None:
        self._messages = messages
        self._origin = origin
        self._answered = answered_calls(messages)
        self._ids = CallIds(messages, self._answered, _CALL_IDS)
        self._sent: dict[CallPosition, int] = {}  # the calls in the order in which they are sent
        self._anonymous: set[CallPosition] = set()  # calls to which Gemini gave no id

    def contents(self) -> list[JsonValue]:
        turns = shape_turns(self._messages, self._answered, self._parts, order=self._in_order)
        results_last = wants_results_last(self._origin.model)
        return [
            {
                "role": "model" if turn.role == "assistant" else "user",
                "parts": [*turn.blocks, *turn.results] if results_last else [*turn.content],
            }
            for turn in turns
        ]

    def _in_order(self, results: list[int]) -> list[int]:
        """Results of calls without ids are told apart by their order only."""
        if any(self._answered[result] in self._anonymous for result in results):
            return sorted(results, key=lambda result: self._sent[self._answered[result]])
        return results

    def _parts(self, index: int, message: Message) -> list[JsonObject]:
        path = f"messages[{index}]"
        if isinstance(message, AssistantMessage):
            return self._model_parts(index, message, path)
        if isinstance(message, ToolMessage):
            call = self._answered.get(index)
            call_id = None if call in self._anonymous else self._ids.of_result(index)
            return [_function_response(message, path, call_id, self._name(message, call))]
        parts: list[JsonObject] = []
        for position, part in enumerate(message.parts):
            if isinstance(part, MediaPart):
                parts.append(_media(part, f"{path}.parts[{position}]"))
            elif part.text:
                parts.append({"text": part.text})
        return parts

    def _name(self, message: ToolMessage, call: CallPosition | None) -> str:
        """The tool's, as its call has it: Gemini 3.7 refuses a result by another name (archestra #7583)."""
        if call is None:
            return message.tool_name
        index, position = call
        called = self._messages[index]
        return called.tool_calls[position].name if isinstance(called, AssistantMessage) else message.tool_name

    def _model_parts(self, index: int, message: AssistantMessage, path: str) -> list[JsonObject]:
        parts: list[JsonObject] = []
        first_call: JsonObject | None = None
        for piece in pieces(message, self._origin, path):
            match piece:
                case TextPiece(text, extra):
                    # A signature may stand on a part whose text is empty.
                    if text or "thoughtSignature" in extra:
                        parts.append({"text": text, **_signature(extra)})
                case ImagePart() | FilePart():
                    parts.append(_media(piece, part_path(message, piece, path)))
                case OpaquePiece(part):
                    parts.append(part)
                case CallPiece(call, position, extra, noted):
                    self._sent[index, position] = len(self._sent)
                    function: JsonObject = {"name": call.name, "args": call.arguments}
                    if noted and not extra.get("id"):
                        self._anonymous.add((index, position))
                    else:
                        function["id"] = self._ids.of_call(index, position)
                    part = {"functionCall": function, **_signature(extra)}
                    first_call = first_call or part
                    parts.append(part)
        if first_call is not None and is_gemini_3(self._origin.model):
            first_call.setdefault("thoughtSignature", _NO_SIGNATURE)
        return parts


def _text_part(part: Part, path: str, place: str) -> JsonObject:
    if isinstance(part, MediaPart):
        raise unsupported(f"{path}.{part.field}: gemini takes text only in its {place}")
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


def _media(part: MediaPart, path: str) -> JsonObject:
    """An image or a file. Gemini takes no name with it."""
    if part.url is None:
        return {"inlineData": {"mimeType": part.mime_type, "data": part.data}}
    if not part.url.startswith("https:"):
        raise unsupported(f"{path}.{part.field}.url: gemini fetches https: URLs only; send its data instead")
    name = urlsplit(part.url).path
    mime_type = part.mime_type or _MIME_TYPES.get(name.rpartition(".")[2].lower())
    file: JsonObject = {"fileUri": part.url}
    if mime_type is not None:  # files that were uploaded to Google have their type there
        file["mimeType"] = mime_type
    return {"fileData": file}


def _signature(extra: JsonObject) -> JsonObject:
    return {"thoughtSignature": extra["thoughtSignature"]} if "thoughtSignature" in extra else {}


def _has_reference(value: JsonValue) -> bool:
    """Whether a result has a key `$ref`, as JSON Schema has it. Gemini takes it for the name of a part of the response:
    "The referenced name … does not match to a display_name in the function_response.parts" (HTTP 400).
    """
    if isinstance(value, dict):
        return "$ref" in value or any(map(_has_reference, value.values()))
    return isinstance(value, list) and any(map(_has_reference, value))


def _function_response(message: ToolMessage, path: str, call_id: str | None, name: str) -> JsonObject:
    texts = [part for part in message.parts if not isinstance(part, MediaPart) and part.text]
    # `response` must be an object; `output` and `error` are the API's own words for a result that is none, and for one
    # that says what went wrong.
    value: JsonValue = "\n".join(part.text for part in texts)
    if len(texts) == 1 and isinstance(texts[0], JsonPart) and not _has_reference(texts[0].value):
        value = texts[0].value
    word = "error" if message.is_error else "output"
    response: JsonValue = value if isinstance(value, dict) and not message.is_error else {word: value}
    identity: JsonObject = {} if call_id is None else {"id": call_id}
    media: list[JsonValue] = [
        _media(part, f"{path}.parts[{position}]")
        for position, part in enumerate(message.parts)
        if isinstance(part, MediaPart)
    ]
    beside: JsonObject = {"parts": media} if media else {}
    return {"functionResponse": {**identity, "name": name, "response": response, **beside}}
