"""`Infer` frame → `CanonicalRequest`, or `invalid_request`: everything about a request that takes understanding.

What a JSON Schema can say of a frame has been checked before (`wire/frames.py`, answered with `rejected`); what is
refused here ends the request with `failed`. The rules are those of protocol/README.md, "Client frames".
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

from ..canonical import (
    MAX_CACHE_MARKS,
    AssistantMessage,
    Cache,
    CanonicalRequest,
    EmbeddingRequest,
    FilePart,
    ImagePart,
    JsonObject,
    JsonPart,
    JsonSchemaOutput,
    MediaPart,
    Message,
    ModelListRequest,
    Operation,
    OutputMode,
    Part,
    Reasoning,
    Sampling,
    SpecificTool,
    SystemMessage,
    TextPart,
    TokenCountRequest,
    Tool,
    ToolCall,
    ToolMessage,
    UserMessage,
)
from ..errors import GatewayError, invalid_request, quoted, unsupported
from ..wire import frames, json_pieces, strict_json
from ..wire.json_schema import schema_mistake

SCHEMA_KEYWORDS = frozenset(
    {
        # draft 4, whose `id` is `$id` in later drafts
        *("$schema", "id", "$ref", "title", "description", "default", "enum", "type", "format", "definitions"),
        *("allOf", "anyOf", "oneOf", "not", "multipleOf", "maximum", "exclusiveMaximum", "minimum"),
        *("exclusiveMinimum", "maxLength", "minLength", "pattern", "items", "additionalItems", "maxItems", "minItems"),
        *("uniqueItems", "properties", "patternProperties", "additionalProperties", "required", "maxProperties"),
        *("minProperties", "dependencies"),
        # draft 6
        *("$id", "const", "contains", "propertyNames", "examples"),
        # draft 7
        *("$comment", "if", "then", "else", "readOnly", "writeOnly", "contentMediaType", "contentEncoding"),
        # 2019-09
        *("$anchor", "$defs", "$recursiveRef", "$recursiveAnchor", "$vocabulary", "dependentRequired"),
        *("dependentSchemas", "unevaluatedItems", "unevaluatedProperties", "maxContains", "minContains"),
        *("deprecated", "contentSchema"),
        # 2020-12
        *("$dynamicRef", "$dynamicAnchor", "prefixItems"),
        # OpenAPI's
        "nullable",
    }
)
"""What may stand at the top level of a tool's `input_schema`."""

UNSENT_KEYWORDS = frozenset({"$schema", "$id", "$comment"})
"""Of these, what is not sent: it says nothing about arguments."""

COUNTS_OF_ANSWERS = ("n", "candidateCount", "candidate_count", "num_choices")
"""Provider options that ask for several answers; also looked for in Gemini's `generationConfig`."""

_GEMINI_CONFIG = ("generationConfig", "generation_config")


class RequestNormalizer:
    """Checks and completes requests. Has no state."""

    def normalize(self, frame: frames.Infer, request_id: str) -> CanonicalRequest:
        """The request that `frame` asks for.

        Raises:
            GatewayError: `invalid_request`, or `unsupported_capability` for an option that asks for several answers.
        """
        return self._inference(frame, request_id, frame.limits)

    def normalize_operation(self, frame: frames.OperationFrame, request_id: str) -> Operation:
        """As `normalize`, for what is no inference."""
        if isinstance(frame, frames.CountTokens):
            return TokenCountRequest(self._inference(frame, request_id, _NO_LIMITS))
        if isinstance(frame, frames.Models):
            return ModelListRequest(request_id, frame.backend_id)
        if not frame.inputs:
            raise invalid_request("inputs: empty; at least one text is needed")
        return EmbeddingRequest(request_id, tuple(frame.inputs), frame.backend_id, frame.model, frame.dimensions)

    def _inference(
        self, frame: frames.Infer | frames.CountTokens, request_id: str, limits: frames.Limits
    ) -> CanonicalRequest:
        tools = tuple(_tools(frame.tools)) if frame.tools else ()
        sampling, cache, options = frame.sampling, frame.cache, frame.provider_options
        return CanonicalRequest(
            request_id=request_id,
            backend_hint=frame.backend_id,
            model=frame.model,
            route=None if frame.route is None else _route(frame, frame.route),
            messages=_messages(frame.messages),
            tools=tools,
            tool_choice=_tool_choice(frame.tool_choice, tools),
            output_mode=_output_mode(frame.output_mode),
            max_output_tokens=limits.max_output_tokens,
            max_request_time_ms=limits.max_request_time_ms,
            metadata=frame.metadata,
            stream=frame.stream,
            sampling=_NO_SAMPLING
            if sampling is None
            else Sampling(
                sampling.temperature,
                sampling.top_p,
                sampling.seed,
                # OpenAI refuses an empty list ("ensure this value has at least 1 items"); at Ollama it replaces the
                # model's own (ollama #3629).
                tuple(sampling.stop) if sampling.stop else None,
            ),
            enable_thinking=frame.enable_thinking,
            reasoning=None if frame.reasoning is None else _reasoning(frame, frame.reasoning),
            cache=None if cache is None else Cache(cache.mode, cache.key, cache.retention),
            parallel_tool_calls=frame.parallel_tool_calls,
            service_tier=frame.service_tier,
            include_annotations=frame.include_annotations,
            include_reasoning=frame.include_reasoning,
            provider_options=None if options is None else _one_answer(options),
        )


_NO_LIMITS = frames.Limits()
_NO_SAMPLING = Sampling()


def _route(frame: frames.Infer | frames.CountTokens, route: frames.AliasRoute | frames.KeyRoute) -> str:
    """The alias that `route` names. Core looks both of its forms up among the aliases, and trims them."""
    if frame.backend_id is not None or frame.model is not None:
        raise invalid_request("route: not together with backend_id or model")
    name = route.alias if isinstance(route, frames.AliasRoute) else route.binding_id
    return name.strip()


def _reasoning(frame: frames.Infer | frames.CountTokens, asked: frames.Reasoning) -> Reasoning | None:
    if asked.effort is None and asked.budget_tokens is None and asked.summary is None:
        return None
    if frame.enable_thinking is not None:
        raise invalid_request("reasoning: not together with enable_thinking; effort 'off' is its false")
    if asked.effort is not None and asked.budget_tokens is not None:
        raise invalid_request("reasoning.budget_tokens: not together with reasoning.effort; name one of them")
    return Reasoning(asked.effort, asked.budget_tokens, asked.summary)


# --- messages ------------------------------------------------------------------------------------------------


def _messages(messages: list[frames.Message]) -> tuple[Message, ...]:
    if not messages:
        raise invalid_request("messages: empty; at least one message is needed")
    history_has_calls: bool | None = None
    known_calls: set[str] = set()
    checked: list[Message] = []
    marks = 0
    for index, message in enumerate(messages):
        role, cache = message.role, message.cache is True
        marks += cache
        _check_linkage(message, role, index)
        parts = tuple([_part(part, index, position) for position, part in enumerate(message.parts)])
        if role == "tool":
            if history_has_calls is None:
                history_has_calls = any(message.tool_calls for message in messages)
            checked.append(_tool_message(message, parts, index, known_calls if history_has_calls else None))
        elif role == "assistant":
            calls = tuple([_past_call(call, index, n) for n, call in enumerate(message.tool_calls or ())])
            known_calls.update([call.id for call in calls])
            checked.append(AssistantMessage(parts, calls, message.provider_state or {}, cache))
        elif role == "system":
            checked.append(SystemMessage(parts, cache))
        else:
            checked.append(UserMessage(parts, cache))
    if marks > MAX_CACHE_MARKS:
        raise invalid_request(f"messages: more than {MAX_CACHE_MARKS} of them are marked by cache")
    return tuple(checked)


def _check_linkage(message: frames.Message, role: str, index: int) -> None:
    if role == "tool":
        if not message.tool_call_id or not message.tool_name:
            raise invalid_request(f"messages[{index}]: a tool message must have tool_call_id and tool_name")
    elif message.tool_call_id is not None or message.tool_name is not None or message.is_error:
        raise _foreign(message, index, "a tool message", ("tool_call_id", "tool_name", "is_error"))
    # core writes `"tool_calls": []` on every message
    if role != "assistant" and (message.tool_calls or message.provider_state):
        raise _foreign(message, index, "an assistant message", ("tool_calls", "provider_state"))
    if not message.parts and not message.tool_calls:
        raise invalid_request(f"messages[{index}].parts: empty; at least one part is needed")


def _foreign(message: frames.Message, index: int, owner: str, fields: tuple[str, ...]) -> GatewayError:
    """The refusal of the first of `fields` that `message` has, and only `owner` may have."""
    field = next(field for field in fields if getattr(message, field) not in (None, False, [], {}))
    return invalid_request(f"messages[{index}].{field}: only {owner} may have it, this one is {message.role!r}")


def _tool_message(
    message: frames.Message, parts: tuple[Part, ...], index: int, known_calls: set[str] | None
) -> ToolMessage:
    call_id, tool_name = message.tool_call_id, message.tool_name
    assert call_id is not None and tool_name is not None  # noqa: S101, PT018 - _check_linkage saw to it
    if known_calls is not None and call_id not in known_calls:
        raise invalid_request(
            f"messages[{index}].tool_call_id: {quoted(call_id)} answers no call of an earlier assistant message"
        )
    return ToolMessage(call_id, tool_name, parts, message.cache is True, message.is_error is True)


def _past_call(call: frames.PastToolCall, index: int, position: int) -> ToolCall:
    if not call.id or not call.name:
        raise invalid_request(f"messages[{index}].tool_calls[{position}]: id and name may not be empty")
    try:
        arguments = strict_json.parse_arguments(call.arguments_json)
    except ValueError as error:
        path = f"messages[{index}].tool_calls[{position}].arguments_json"
        raise invalid_request(f"{path}: expected a JSON object in a string: {error}") from None
    return ToolCall(call.id, call.name, call.arguments_json, arguments)


def _part(
    part: frames.TextPart | frames.ImageUrlPart | frames.JsonPart | frames.FilePart,
    index: int,
    position: int,
) -> Part:
    """The part at `position` of the message at `index`."""
    if isinstance(part, frames.TextPart):
        return TextPart(part.text.text)
    if isinstance(part, frames.JsonPart):
        return JsonPart(part.json_.value, json_pieces.dump(part.json_.value).decode())
    path = f"messages[{index}].parts[{position}]"
    if isinstance(part, frames.FilePart):
        return _file(part.file, f"{path}.file")
    image, path = part.image_url, f"{path}.image_url.url"
    rest = _data_of(image.url, path)
    if rest is None:
        return ImagePart(image.url, None, image.mime_type and _media_type(image.mime_type))
    data, mime_type = _data_url(rest, image.mime_type, path)
    return ImagePart(None, data, mime_type)


_MIME_TYPE = re.compile(r"[\w.+-]+/[\w.+-]+")


def _file(file: frames.File, path: str) -> MediaPart:
    """A file; one that is an image is an image, in whichever way it was sent."""
    if not _MIME_TYPE.fullmatch(file.mime_type):
        raise invalid_request(
            f"{path}.mime_type: found {quoted(file.mime_type)}, expected a media type without parameters, as "
            "application/pdf"
        )
    url, data, mime_type = file.url, file.data, _media_type(file.mime_type)
    if (url is None) == (data is None):
        raise invalid_request(f"{path}: expected exactly one of url and data")
    if data is not None:
        _check_base64(data, f"{path}.data")
    elif url is not None and (rest := _data_of(url, f"{path}.url")) is not None:
        data, mime_type = _data_url(rest, mime_type, f"{path}.url")
        url = None
    if mime_type.startswith("image/"):
        return ImagePart(url, data, mime_type)
    return FilePart(url, data, mime_type, file.name or None)


def _data_of(url: str, path: str) -> str | None:
    """What follows `data:`; None for a URL of the network, which has a host."""
    scheme, _, rest = url.partition(":")
    scheme = scheme.lower()
    if scheme == "data":
        return rest
    if scheme not in ("http", "https"):
        raise invalid_request(f"{path}: expected an http:, https: or data: URL, found the scheme {scheme[:40]!r}")
    try:
        host = urlsplit(url).hostname
    except ValueError:
        host = None
    if not host:
        raise invalid_request(f"{path}: not a URL: it names no host")
    return None


def _media_type(name: str) -> str:
    """The registered name of a media type; case does not count, and `image/jpg` is a common name of `image/jpeg`."""
    name = name.lower()
    return "image/jpeg" if name == "image/jpg" else name


def _data_url(rest: str, mime_type: str | None, path: str) -> tuple[str, str]:
    """RFC 2397, ``data:[<mediatype>][;base64],<data>``: the data in base64, and its media type."""
    header, comma, data = rest.partition(",")
    if not comma:
        raise invalid_request(f"{path}: not a data: URL: it has no comma")
    media_type, *parameters = (piece.strip().lower() for piece in header.split(";"))
    media_type = _media_type(media_type or mime_type or "")
    if not media_type:
        raise invalid_request(f"{path}: says no media type, and there is no mime_type either")
    if parameters[-1:] != ["base64"]:
        return base64.b64encode(_unquoted(data)).decode(), media_type
    if "%" in data:
        data = _unquoted(data).decode(errors="replace")
    _check_base64(data, path)
    return data, media_type


def _check_base64(data: str, path: str) -> None:
    try:
        binascii.a2b_base64(data.encode(), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise invalid_request(f"{path}: its data is not base64: {error}") from None


def _unquoted(data: str) -> bytes:
    """Percent-decoded, some at a time: one call for megabytes of escapes would hold up other threads for 0.3 s."""
    decoded = bytearray()
    start = 0
    while start < len(data):
        end = start + _UNQUOTED_CHARACTERS
        cut = data.rfind("%", end - 2, end)  # an escape that the end would cut in two
        if cut >= 0 and end < len(data):
            end = cut
        decoded += unquote_to_bytes(data[start:end])
        start = end
    return bytes(decoded)


_UNQUOTED_CHARACTERS = 16 * 1024


# --- tools and output ----------------------------------------------------------------------------------------


def _tools(definitions: list[frames.ToolDefinition]) -> Iterable[Tool]:
    names: set[str] = set()
    for index, definition in enumerate(definitions):
        path = f"tools[{index}]"
        if not definition.name:
            raise invalid_request(f"{path}.name: empty")
        if definition.name in names:
            raise invalid_request(f"{path}.name: {quoted(definition.name)} is there twice; tool names are unique")
        names.add(definition.name)
        strict = _strict(definition, path)
        schema = {key: value for key, value in definition.input_schema.items() if key != "strict"}
        unknown = schema.keys() - SCHEMA_KEYWORDS
        tool = f"{path}.input_schema: tool {quoted(definition.name)}"
        if unknown:
            raise invalid_request(f"{tool} has the unsupported keyword {quoted(min(unknown))} at its top level")
        if mistake := schema_mistake(schema):
            raise invalid_request(f"{tool} has no valid JSON Schema: {mistake}")
        sent = {key: value for key, value in schema.items() if key not in UNSENT_KEYWORDS}
        verified = schema if definition.verify else None
        yield Tool(definition.name, definition.description, sent, strict, verified)


def _strict(definition: frames.ToolDefinition, path: str) -> bool | None:
    """`strict` of a tool, which may stand beside its schema or at the schema's top level."""
    inside = definition.input_schema.get("strict")
    if inside is None:
        return definition.strict
    if not isinstance(inside, bool):
        raise invalid_request(f"{path}.input_schema.strict: expected true or false")
    if definition.strict not in (None, inside):
        raise invalid_request(f"{path}.strict: contradicts input_schema.strict")
    return inside


def _one_answer(options: JsonObject) -> JsonObject:
    """`options`, none of which asks for several answers: a client gets one."""
    for place in (options, *(options.get(name) for name in _GEMINI_CONFIG)):
        for name in COUNTS_OF_ANSWERS:
            count = place.get(name) if isinstance(place, dict) else None
            if isinstance(count, str):  # so Gemini takes numbers, too
                count = 2 if count.isdecimal() and count.lstrip("0") not in ("", "1") else 1
            if isinstance(count, int | float) and count > 1:
                raise unsupported(f"provider_options: {name} asks for several answers, a request gets one")
    return options


def _tool_choice(choice: str | frames.SpecificTool, tools: tuple[Tool, ...]) -> Any:
    if isinstance(choice, str):
        return choice
    name = choice.specific.name
    if all(tool.name != name for tool in tools):
        raise invalid_request(f"tool_choice.specific.name: {quoted(name)} is not one of tools")
    return SpecificTool(name)


def _output_mode(mode: str | frames.JsonSchemaMode) -> OutputMode:
    if isinstance(mode, str):
        return "json_object" if mode == "json_object" else "text"
    wanted = mode.json_schema
    if not wanted.name:
        raise invalid_request("output_mode.json_schema.name: empty")
    if mistake := schema_mistake(wanted.schema_):
        raise invalid_request(f"output_mode.json_schema.schema: not a valid JSON Schema: {mistake}")
    return JsonSchemaOutput(wanted.name, wanted.schema_, wanted.strict, wanted.verify)
