"""The models of the frames of clients, strict at every depth; `server_frames.py` has the daemon's.

The shapes are what serde's derive gives for Beluna core's own types: enum variants with data are *externally tagged*
(``{"text":{"text":"hello"}}``), an absent `Option` may be null or missing, anything else may not be null.
`protocol/client.schema.json` is generated from here by `frame_schemas`; the docstring under a field is its description
there, and a `title` the name of a type that generated code shares.

Only shape is checked here (a line that fails is `rejected`); rules between fields are the request normaliser's.

pydantic makes an object of a kilobyte for each mistake. So that a line with a million mistakes costs no more than a
right one, a list stops at its first wrong item, and `unknown_keys.py` removes most unknown keys of a large line.
"""

from __future__ import annotations

from itertools import islice
from typing import Annotated, Any, Literal, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)

from .. import canonical

PROTOCOL_VERSION = 1

RequestId = Annotated[str, Field(min_length=1, max_length=128, title="RequestId")]
# The largest number that core's u64 and every JSON library with 64-bit integers can hold.
Count = Annotated[int, Field(ge=1, le=2**64 - 1)]
JsonValue = Annotated[Any, Field(title="JsonValue")]

MOST_MISTAKES = 20
"""Of the unknown keys of one object, and of the wrong values of `metadata`, so many are looked at."""

_Item = TypeVar("_Item")
List = Annotated[list[_Item], Field(fail_fast=True)]


class Shape(BaseModel):
    """What frames and everything in them have in common."""

    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        defer_build=True,  # each schema is built when it is first used: half the start-up time
    )


def _only_key(value: Any) -> str | None:
    """Which variant of an externally tagged enum this is."""
    if isinstance(value, dict) and len(value) == 1:
        return str(next(iter(value)))
    return None


def _kind(value: Any) -> str | None:
    """Which variant of an internally tagged enum this is."""
    kind = value.get("kind") if isinstance(value, dict) else None
    return kind if isinstance(kind, str) else None


def _texts(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """`metadata`, validated here where it is long: in one call a million entries would hold up other threads. Of wrong
    entries some are enough: the others would be refused in the same words.
    """
    if type(value) is not dict or len(value) <= MOST_MISTAKES:
        return validate(value)
    wrong = ((key, item) for key, item in value.items() if type(item) is not str or type(key) is not str)
    some = dict(islice(wrong, MOST_MISTAKES))
    return validate(some) if some else dict(value)


def _empty(kind: type[list[Any] | dict[str, Any]]) -> Any:
    """A default that is made anew for each frame: pydantic makes a deep copy of one that it is given as a value."""
    return Field(default_factory=kind, json_schema_extra={"default": kind()})


class Text(Shape):
    text: str


class ImageUrl(Shape):
    url: str
    """`http:`, `https:` or a `data:` URL."""
    mime_type: str | None = None
    """Where the URL does not say it itself."""


class File(Shape):
    """Exactly one of `url` and `data`."""

    url: str | None = None
    """`http:`, `https:` or a `data:` URL."""
    data: str | None = None
    """Base64."""
    mime_type: str
    name: str | None = None


class Json(Shape):
    value: JsonValue


class TextPart(Shape):
    text: Text


class ImageUrlPart(Shape):
    image_url: ImageUrl


class FilePart(Shape):
    file: File


class JsonPart(Shape):
    json_: Json = Field(alias="json")


Part = Annotated[
    Annotated[TextPart, Tag("text")]
    | Annotated[ImageUrlPart, Tag("image_url")]
    | Annotated[JsonPart, Tag("json")]
    | Annotated[FilePart, Tag("file")],
    Discriminator(
        _only_key,
        custom_error_type="part",
        custom_error_message="expected an object with one key: text, image_url, json or file",
    ),
    Field(title="Part"),
]


class PastToolCall(Shape):
    """A call that the model made in an earlier turn."""

    model_config = ConfigDict(from_attributes=True)  # a program's `ToolCallReady.call` may be put back as it came

    id: str
    name: str
    arguments_json: str
    """A JSON object, as a string."""
    status: Literal["ready"] | None = None
    """As in `tool_call_ready.call`, which may be put back as it came."""


Role = Annotated[Literal["system", "user", "assistant", "tool"], Field(title="Role")]


class Message(Shape):
    """One turn of the conversation."""

    role: Role
    parts: List[Part]
    """At least one, except in an assistant message that has `tool_calls`."""
    tool_call_id: str | None = None
    """Required for `tool`, refused elsewhere: the call that this message answers."""
    tool_name: str | None = None
    """Required for `tool`, refused elsewhere."""
    tool_calls: List[PastToolCall] | None = None
    """Only on `assistant`; an empty one may stand anywhere."""
    provider_state: dict[str, Any] | None = None
    """Only on `assistant`: `completed.backend_metadata.provider_state` of that turn, unchanged. An empty one may stand
    anywhere."""
    cache: bool | None = None
    """The prompt up to and including this message is worth keeping in the provider's cache; at most 4 are marked."""
    is_error: bool | None = None
    """Only on `tool`: the call failed. Sent where the provider has a word for it."""


class ToolDefinition(Shape):
    """A tool that the model may call."""

    name: str
    """Unique among the tools of a request."""
    description: str | None = None
    input_schema: dict[str, Any]
    """A JSON Schema object."""
    strict: bool | None = None
    """Sent as the provider's own `strict` of the tool where it has one; it may stand in `input_schema` instead."""
    verify: bool = False
    """Validate the arguments of each call against `input_schema` before `tool_call_ready`."""


class ToolName(Shape):
    name: str


class SpecificTool(Shape):
    specific: ToolName
    """Must name one of `tools`."""


ToolChoice = Annotated[Literal["auto", "none", "required"] | SpecificTool, Field(title="ToolChoice")]


class JsonSchema(Shape):
    """The answer is to be JSON of this shape."""

    name: str
    schema_: dict[str, Any] = Field(alias="schema")
    """A JSON Schema object."""
    strict: bool = True
    """Whether the backend is asked to enforce it."""
    verify: bool = False
    """Validate the finished text against `schema` before `completed`."""


class JsonSchemaMode(Shape):
    json_schema: JsonSchema


OutputMode = Annotated[Literal["text", "json_object"] | JsonSchemaMode, Field(title="OutputMode")]


class AliasRoute(Shape):
    """Core's `ChatRouteRef`: a model by one of its aliases."""

    kind: Literal["alias"]
    capability: Literal["chat"]
    alias: str


class KeyRoute(Shape):
    """Core's `ChatRouteRef`: the same with core's other word."""

    kind: Literal["key"]
    capability: Literal["chat"]
    binding_id: str
    """An alias."""


Route = Annotated[
    Annotated[AliasRoute, Tag("alias")] | Annotated[KeyRoute, Tag("key")],
    Discriminator(
        _kind,
        custom_error_type="route",
        custom_error_message="expected an object whose kind is alias or key",
    ),
    Field(title="Route"),
]


class Limits(Shape):
    max_output_tokens: Count | None = None
    max_request_time_ms: Count | None = None
    """The whole request, waiting and retries included; cut to `budget.max_request_time_ms`."""


class Sampling(Shape):
    """What the dialect has no place for is refused."""

    temperature: Annotated[float, Field(allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(allow_inf_nan=False)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), le=2**64 - 1)] | None = None
    stop: List[str] | None = None


Effort = Annotated[canonical.Effort, Field(title="Effort")]
ReasoningSummary = Annotated[Literal["auto", "concise", "detailed"], Field(title="ReasoningSummary")]


class Reasoning(Shape):
    """How much the model is to reason. What the dialect or the model's generation has no word for is refused."""

    effort: Effort | None = None
    budget_tokens: Annotated[int, Field(ge=0, le=2**64 - 1)] | None = None
    """Sent as it is; not together with `effort`."""
    summary: ReasoningSummary | None = None
    """Only `openai_responses` has it."""


CacheMode = Annotated[Literal["auto", "off"], Field(title="CacheMode")]
CacheRetention = Annotated[Literal["short", "long"], Field(title="CacheRetention")]


class Cache(Shape):
    """What is asked of the provider's prompt cache. A field that is missing is the backend's configured one."""

    mode: CacheMode | None = None
    """`auto` where nobody says; `off` asks for nothing."""
    key: Annotated[str, Field(min_length=1)] | None = None
    """Brings requests with the same beginning to the same cache; OpenAI and Azure only."""
    retention: CacheRetention | None = None
    """`long`: an hour at Anthropic, a day at OpenAI and Azure; refused elsewhere."""


class _Request(Shape):
    """What every request to a backend has."""

    request_id: RequestId | None = None
    """Names the request on this connection; a UUIDv7 is made where it is missing or null."""
    backend_id: str | None = None
    """Which backend; the configuration's default otherwise. Never another one than named."""


class _Inference(_Request):
    """What an inference consists of, but for its limits."""

    model: str | None = None
    """The backend's default model otherwise."""
    route: Route | None = None
    """Backend and model by an alias of the configuration; not together with `backend_id` or `model`."""
    messages: List[Message]
    """At least one."""
    tools: List[ToolDefinition] = _empty(list)
    tool_choice: ToolChoice = "auto"
    output_mode: OutputMode = "text"
    metadata: Annotated[dict[str, str], WrapValidator(_texts)] = _empty(dict)
    """For logs and telemetry, never sent to a backend."""
    stream: bool = True
    """Whether the backend is asked to stream. The frames are the same."""
    sampling: Sampling | None = None
    enable_thinking: bool | None = None
    """Switches the model's thinking; missing: the backend's own way."""
    reasoning: Reasoning | None = None
    """How much the model is to reason; not together with `enable_thinking`."""
    include_reasoning: bool = False
    """Deliver `reasoning_delta` frames."""
    cache: Cache | None = None
    """What is asked of the provider's prompt cache, field by field over the backend's configured default."""
    parallel_tool_calls: bool | None = None
    """Whether the model may make several calls in one turn; missing: the backend's own way."""
    service_tier: Annotated[str, Field(min_length=1)] | None = None
    """The provider's own word for how fast and at which price it serves."""
    include_annotations: bool = False
    """Deliver `annotation` frames: citations and grounding."""
    provider_options: dict[str, Any] | None = None
    """Merged into the backend's request body; a key that the gateway sets itself is refused."""


class Infer(_Inference):
    """Starts one inference."""

    type: Literal["infer"]
    limits: Limits = Limits.model_construct()


class CountTokens(_Inference):
    """Asks how many input tokens an inference would have; answered by one `token_count`."""

    type: Literal["count_tokens"]


class Embed(_Request):
    """Asks for the vectors of texts; answered by one `embedding`."""

    type: Literal["embed"]
    model: str | None = None
    """The backend's default model otherwise."""
    inputs: List[str]
    """At least one."""
    dimensions: Count | None = None
    """The length of each vector; the model's own otherwise."""


class Models(_Request):
    """Asks for a backend's models; answered by one `model_list`."""

    type: Literal["models"]


class Cancel(Shape):
    """Cancels one request of this connection; it ends with `failed`, kind `cancelled`."""

    type: Literal["cancel"]
    request_id: RequestId
    """Of a request in flight on this connection; for any other the answer is `rejected`."""


class Exit(Shape):
    """Stops the daemon."""

    type: Literal["exit"]


class StatusQuery(Shape):
    """Asks for one `status` frame."""

    type: Literal["status"]


OperationFrame = CountTokens | Embed | Models
"""What is answered by one frame: the result or `failed`."""
RequestFrame = Infer | OperationFrame
"""What a backend is asked: a request that can be cancelled, and ends with one terminal frame."""
ClientFrameType = RequestFrame | Cancel | Exit | StatusQuery
ClientFrame = Annotated[ClientFrameType, Field(discriminator="type")]
CLIENT_FRAMES: dict[str, type[ClientFrameType]] = {
    "infer": Infer,
    "embed": Embed,
    "count_tokens": CountTokens,
    "models": Models,
    "cancel": Cancel,
    "exit": Exit,
    "status": StatusQuery,
}
