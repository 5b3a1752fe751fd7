"""Requests as typed dictionaries, for programs that embed the gateway: what `wire/frames.py` is to pydantic.

A request is written as on the wire: ``infer_once(messages=[{"role": "user", "parts": [{"text": {"text": "Hi"}}]}])``.
What each field means is said in protocol/README.md.
"""

from typing import Any, Literal, NotRequired, TypedDict

from .canonical import ToolCall


class Text(TypedDict):
    text: str


class ImageUrl(TypedDict):
    url: str
    mime_type: NotRequired[str | None]


class File(TypedDict):
    url: NotRequired[str | None]
    data: NotRequired[str | None]
    mime_type: str
    name: NotRequired[str | None]


class Json(TypedDict):
    value: Any


class TextPart(TypedDict):
    text: Text


class ImageUrlPart(TypedDict):
    image_url: ImageUrl


class FilePart(TypedDict):
    file: File


class JsonPart(TypedDict):
    json: Json


Part = TextPart | ImageUrlPart | JsonPart | FilePart


class PastToolCall(TypedDict):
    id: str
    name: str
    arguments_json: str
    status: NotRequired[Literal["ready"] | None]


class Message(TypedDict):
    role: Literal["system", "user", "assistant", "tool"]
    parts: list[Part]
    tool_call_id: NotRequired[str | None]
    tool_name: NotRequired[str | None]
    tool_calls: NotRequired[list[PastToolCall | ToolCall] | None]
    """`ToolCallReady.call` may be put back as it came."""
    provider_state: NotRequired[dict[str, Any] | None]
    cache: NotRequired[bool | None]
    is_error: NotRequired[bool | None]


class ToolDefinition(TypedDict):
    name: str
    description: NotRequired[str | None]
    input_schema: dict[str, Any]
    strict: NotRequired[bool | None]
    verify: NotRequired[bool]


class ToolName(TypedDict):
    name: str


class SpecificTool(TypedDict):
    specific: ToolName


class JsonSchema(TypedDict):
    name: str
    schema: dict[str, Any]
    strict: NotRequired[bool]
    verify: NotRequired[bool]


class JsonSchemaMode(TypedDict):
    json_schema: JsonSchema


class AliasRoute(TypedDict):
    kind: Literal["alias"]
    capability: Literal["chat"]
    alias: str


class KeyRoute(TypedDict):
    kind: Literal["key"]
    capability: Literal["chat"]
    binding_id: str


class Limits(TypedDict, total=False):
    max_output_tokens: int | None
    max_request_time_ms: int | None


class Sampling(TypedDict, total=False):
    temperature: float | None
    top_p: float | None
    seed: int | None
    stop: list[str] | None


class Reasoning(TypedDict, total=False):
    effort: Literal["off", "minimal", "low", "medium", "high", "xhigh", "max"] | None
    budget_tokens: int | None
    summary: Literal["auto", "concise", "detailed"] | None


class Cache(TypedDict, total=False):
    mode: Literal["auto", "off"] | None
    key: str | None
    retention: Literal["short", "long"] | None


class ModelsRequest(TypedDict, total=False):
    """Of `AIGateway.models`."""

    request_id: str | None
    backend_id: str | None


class EmbedRequest(ModelsRequest):
    """Of `AIGateway.embed`."""

    model: NotRequired[str | None]
    inputs: list[str]
    dimensions: NotRequired[int | None]


class CountTokensRequest(ModelsRequest):
    """Of `AIGateway.count_tokens`: what an inference consists of, but for its limits."""

    model: NotRequired[str | None]
    route: NotRequired[AliasRoute | KeyRoute | None]
    messages: list[Message]
    tools: NotRequired[list[ToolDefinition]]
    tool_choice: NotRequired[Literal["auto", "none", "required"] | SpecificTool]
    output_mode: NotRequired[Literal["text", "json_object"] | JsonSchemaMode]
    metadata: NotRequired[dict[str, str]]
    stream: NotRequired[bool]
    sampling: NotRequired[Sampling | None]
    enable_thinking: NotRequired[bool | None]
    reasoning: NotRequired[Reasoning | None]
    include_reasoning: NotRequired[bool]
    include_annotations: NotRequired[bool]
    cache: NotRequired[Cache | None]
    parallel_tool_calls: NotRequired[bool | None]
    service_tier: NotRequired[str | None]
    provider_options: NotRequired[dict[str, Any] | None]


class InferRequest(CountTokensRequest):
    """Of `AIGateway.infer_stream` and `AIGateway.infer_once`."""

    limits: NotRequired[Limits]
