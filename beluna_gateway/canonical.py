"""The provider-neutral types: one request, and the events of one answer.

Only the request normaliser makes a `CanonicalRequest`, so its rules hold for each one: tool results follow their calls,
tool schemas are valid, images are split into media type and data.
Dialects encode it as a provider's body, and decode a provider's answer into the events below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Literal, TypeVar, dataclass_transform

from pydantic import JsonValue

from .errors import GatewayError

JsonObject = dict[str, JsonValue]

MAX_CACHE_MARKS = 4
"""Messages marked by `cache`. Anthropic: "A maximum of 4 blocks with cache_control may be provided" (HTTP 400)."""

_Value = TypeVar("_Value")


@dataclass_transform(frozen_default=True, field_specifiers=(field,))
def immutable(cls: type[_Value]) -> type[_Value]:
    """A dataclass whose fields only the type checker protects: `frozen` protects them at run time too, but makes an
    object two to four times as slowly, by a call for each field.

    How it looks and compares is written once: `dataclass` would compile it for each class, 7 ms of each start.
    """
    for name, method in (("__repr__", _as_text), ("__eq__", _is_equal), ("__hash__", _hash_of)):
        setattr(cls, name, method)
    return dataclass(slots=True, repr=False, eq=False)(cls)


def _values_of(value: Any) -> tuple[Any, ...]:
    return tuple([getattr(value, name) for name in value.__match_args__])


def _as_text(self: Any) -> str:
    shown = ", ".join(f"{each.name}={getattr(self, each.name)!r}" for each in fields(self) if each.repr)
    return f"{type(self).__qualname__}({shown})"


def _is_equal(self: Any, other: object) -> bool:
    return _values_of(self) == _values_of(other) if type(self) is type(other) else NotImplemented


def _hash_of(self: Any) -> int:
    return hash(_values_of(self))


# --- the request ---------------------------------------------------------------------------------------------


@immutable
class TextPart:
    """A text."""

    text: str


@immutable
class ImagePart:
    """An image by reference (`url` set) or by value (`data` set: base64, without line breaks)."""

    field: ClassVar[str] = "image_url"
    """The part's name on the wire."""
    url: str | None
    data: str | None
    mime_type: str | None

    @property
    def data_url(self) -> str:
        """The image as one URL, whichever way it came."""
        return self.url if self.url is not None else f"data:{self.mime_type};base64,{self.data}"


@immutable
class FilePart:
    """A file that is no image, by reference or by value as above."""

    field: ClassVar[str] = "file"
    url: str | None
    data: str | None
    mime_type: str
    name: str | None = None

    @property
    def data_url(self) -> str:
        """The file's `data` as a URL."""
        return f"data:{self.mime_type};base64,{self.data}"

    @property
    def file_name(self) -> str:
        """Its name, or one made of its type, for providers that require one."""
        return self.name or f"file.{self.mime_type.rpartition('/')[2]}"


@immutable
class JsonPart:
    """A JSON value; `text` is its compact form, which is how it reaches providers that know only text."""

    value: JsonValue
    text: str


TEXT_PARTS = (TextPart, JsonPart)
"""For `isinstance`, which takes several times as long with a union, and to say no."""
MediaPart = ImagePart | FilePart
Part = TextPart | JsonPart | MediaPart


@immutable
class ToolCall:
    """A finished call; `arguments_json` is a JSON object as a string, `arguments` the same, parsed."""

    id: str
    name: str
    arguments_json: str
    arguments: JsonObject


@immutable
class SystemMessage:
    """`cache`, here and in the other messages: the prefix up to and including this one is worth keeping."""

    parts: tuple[Part, ...]
    cache: bool = False


@immutable
class UserMessage:
    """What the user says."""

    parts: tuple[Part, ...]
    cache: bool = False


@immutable
class AssistantMessage:
    """An earlier turn of the model. `provider_state`: dialect name → what that dialect wants to see again."""

    parts: tuple[Part, ...]
    tool_calls: tuple[ToolCall, ...] = ()
    provider_state: Mapping[str, JsonValue] = field(default_factory=dict)
    cache: bool = False


@immutable
class ToolMessage:
    """The result of one call. `is_error`: the call failed, and this says how."""

    call_id: str
    tool_name: str
    parts: tuple[Part, ...]
    cache: bool = False
    is_error: bool = False

    @property
    def text(self) -> str:
        """All parts but media as one text, joined by line breaks."""
        return "\n".join(part.text for part in self.parts if not isinstance(part, MediaPart))


Message = SystemMessage | UserMessage | AssistantMessage | ToolMessage


@immutable
class Tool:
    """A tool that the model may call."""

    name: str
    description: str | None
    input_schema: JsonObject
    strict: bool | None = None
    """Whether the provider is asked to keep arguments to the schema; None leaves it to the provider."""
    verify: JsonObject | None = None
    """The schema as the client wrote it, where arguments are to be verified by it before the call is ready."""


@immutable
class SpecificTool:
    """The tool that the model must call."""

    name: str


ToolChoice = Literal["auto", "none", "required"] | SpecificTool


@immutable
class JsonSchemaOutput:
    """The answer is to be JSON of this shape."""

    name: str
    schema: JsonObject
    strict: bool
    verify: bool = False
    """Whether the text is to be verified before `Completed`."""


OutputMode = Literal["text", "json_object"] | JsonSchemaOutput


@immutable
class Sampling:
    """How the next token is chosen; None is the provider's own default."""

    temperature: float | None = None
    top_p: float | None = None
    seed: int | None = None
    stop: tuple[str, ...] | None = None

    def given(self) -> JsonObject:
        """Those that are set, by their names here, which are those of Chat Completions and Ollama, too."""
        fields: JsonObject = {}
        if self.temperature is not None:
            fields["temperature"] = self.temperature
        if self.top_p is not None:
            fields["top_p"] = self.top_p
        if self.seed is not None:
            fields["seed"] = self.seed
        if self.stop is not None:
            fields["stop"] = list(self.stop)
        return fields


@immutable
class Cache:
    """What is asked of the provider's prompt cache; None where the backend's configuration decides."""

    mode: Literal["auto", "off"] | None = None
    key: str | None = None
    retention: Literal["short", "long"] | None = None

    @property
    def asked(self) -> tuple[str, ...]:
        """The fields that need a place at the provider: what caches by itself satisfies the others."""
        if self.mode == "off":
            return ()
        return (*(("key",) if self.key is not None else ()), *(("retention",) if self.retention == "long" else ()))


Effort = Literal["off", "minimal", "low", "medium", "high", "xhigh", "max"]


@immutable
class Reasoning:
    """How much the model is to reason: by a word or by a budget in tokens, never both; and how it sums that up."""

    effort: Effort | None = None
    budget_tokens: int | None = None
    summary: Literal["auto", "concise", "detailed"] | None = None


@immutable
class CanonicalRequest:
    """One inference, checked and complete. `model`, `backend_hint` and `route` are None where the client left the
    choice; `route` is an alias, and never beside the other two.
    """

    request_id: str
    messages: tuple[Message, ...]
    backend_hint: str | None = None
    model: str | None = None
    route: str | None = None
    tools: tuple[Tool, ...] = ()
    tool_choice: ToolChoice = "auto"
    output_mode: OutputMode = "text"
    max_output_tokens: int | None = None
    max_request_time_ms: int | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)
    stream: bool = True
    sampling: Sampling = Sampling()
    enable_thinking: bool | None = None
    reasoning: Reasoning | None = None
    """Not None only where it says something, and never beside `enable_thinking`."""
    include_reasoning: bool = False
    cache: Cache | None = None
    parallel_tool_calls: bool | None = None
    service_tier: str | None = None
    include_annotations: bool = False
    provider_options: JsonObject | None = None


@immutable
class EmbeddingRequest:
    """Vectors for texts, one for each."""

    name: ClassVar[str] = "embed"
    request_id: str
    inputs: tuple[str, ...]
    backend_hint: str | None = None
    model: str | None = None
    dimensions: int | None = None
    route: None = None
    max_request_time_ms: None = None


@immutable
class TokenCountRequest:
    """How many tokens the input of `inference` has."""

    name: ClassVar[str] = "count_tokens"
    inference: CanonicalRequest

    @property
    def request_id(self) -> str:
        return self.inference.request_id

    @property
    def backend_hint(self) -> str | None:
        return self.inference.backend_hint

    @property
    def model(self) -> str | None:
        return self.inference.model

    @property
    def route(self) -> str | None:
        return self.inference.route

    @property
    def max_request_time_ms(self) -> int | None:
        return self.inference.max_request_time_ms


@immutable
class ModelListRequest:
    """The models of a backend."""

    name: ClassVar[str] = "models"
    request_id: str
    backend_hint: str | None = None
    model: None = None
    route: None = None
    max_request_time_ms: None = None


Operation = EmbeddingRequest | TokenCountRequest | ModelListRequest
"""What a backend is asked besides inference: one answer, no stream."""


@immutable
class ResolvedCredential:
    """A secret, or None for a backend that needs none. Hidden in `repr`."""

    secret: str | None = field(repr=False)
    proxy: str | None = field(default=None, repr=False)
    """`user:password` for the backend's proxy, where it wants any."""


# --- the answer ----------------------------------------------------------------------------------------------


@immutable
class OtherFinishReason:
    """A reason without a word of ours: the provider's own, or `content_filter`, `refusal`, `incomplete`."""

    other: str


FinishReason = Literal["stop", "length", "tool_calls"] | OtherFinishReason


@immutable
class UsageStats:
    """Tokens of one request. `input_tokens` counts all that went in, cached ones too; `output_tokens` all that
    came out, reasoning too. None where the provider did not say. `cost` in USD. `service_tier`: the tier that served.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    total_tokens: int | None = None
    cached_input_tokens: int | None = None
    reasoning_tokens: int | None = None
    cost: float | None = None
    provider_usage_raw: JsonObject | None = None
    cache_write_input_tokens: int | None = None
    service_tier: str | None = None
    cache_write_1h_input_tokens: int | None = None
    """Those of `cache_write_input_tokens` that were written for an hour; only their price is different."""


@dataclass(slots=True)
class OutputTextDelta:
    """A piece of the answer's text."""

    delta: str


@dataclass(slots=True)
class ReasoningDelta:
    """A piece of the model's reasoning."""

    delta: str


@dataclass(slots=True)
class ToolCallDelta:
    """A piece of a call's arguments."""

    call_id: str
    name: str | None
    arguments_delta: str


@dataclass(slots=True)
class ToolCallReady:
    """A call with all of its arguments."""

    call: ToolCall


@immutable
class Annotation:
    """A citation, or what the answer is grounded on; only where the request asked for it.

    `kind` is the provider's word, `raw` its own value. `start` and `end` count characters (code points) of the answer's
    text, `end` excluded; both are None where the provider does not say them so.
    """

    kind: str
    raw: JsonValue
    url: str | None = None
    title: str | None = None
    text: str | None = None
    start: int | None = None
    end: int | None = None


@dataclass(slots=True)
class Usage:
    """What the request used."""

    usage: UsageStats


@dataclass(slots=True)
class Completed:
    """The answer is at its end."""

    finish_reason: FinishReason
    backend_metadata: JsonObject


@dataclass(slots=True)
class Embedding:
    """The result of an `EmbeddingRequest`: a vector for each input, in their order."""

    vectors: list[list[float]]
    usage: UsageStats


@dataclass(slots=True)
class TokenCount:
    """The result of a `TokenCountRequest`."""

    input_tokens: int


@dataclass(slots=True)
class ModelList:
    """The result of a `ModelListRequest`: the provider's own objects, each with an `id`."""

    models: list[JsonObject]


@dataclass(slots=True)
class Progress:
    """The backend is at work on something that no frame shows (a signature, an encrypted item): not silence."""


@dataclass(slots=True)
class Started:
    """The first event of every request that is dispatched, once, however many attempts it takes."""

    backend_id: str
    model: str


@dataclass(slots=True)
class Failed:
    """The terminal event of a request that did not complete."""

    error: GatewayError


OperationResult = Embedding | TokenCount | ModelList
"""What a caller gets of an `Operation`."""

BackendRawEvent = (
    OutputTextDelta
    | ReasoningDelta
    | ToolCallDelta
    | ToolCallReady
    | Annotation
    | Usage
    | Completed
    | Progress
    | OperationResult
)
"""What a dialect makes of an answer; `Completed` or an `OperationResult` is the last one. A failure is raised as
`GatewayError`."""

GatewayEvent = (
    Started | OutputTextDelta | ReasoningDelta | ToolCallDelta | ToolCallReady | Annotation | Usage | Completed | Failed
)
"""What a caller gets of an inference: `Started` first, then exactly one of `Completed` and `Failed` last."""
