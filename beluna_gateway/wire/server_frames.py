"""The models of the daemon's frames, which describe what `ndjson.py` writes: `protocol/server.schema.json` is generated
from here. The daemon itself loads none of them. What holds for all frames is said in `frames.py`.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from .. import errors
from .frames import JsonValue, RequestId, Shape


class _ServerFrame(Shape):
    # A newer daemon may add keys inside objects that a client of today does not know.
    model_config = ConfigDict(extra="allow")


ErrorKind = Annotated[errors.ErrorKind, Field(title="ErrorKind")]


class Error(_ServerFrame):
    """Why a request failed or a line was rejected. Programs decide by `kind` and `retryable`."""

    kind: ErrorKind
    message: str
    """For people; at most 2,000 characters of the provider's text, without secrets."""
    retryable: bool
    """The same request may succeed if it is sent again."""
    backend_id: str | None
    provider_code: str | None
    provider_http_status: int | None
    retry_after_ms: int | None = None
    """Present where the backend said when to come back."""


class StartedFrame(_ServerFrame):
    """The request is on its way to the backend; once, however many attempts it takes."""

    type: Literal["started"]
    request_id: RequestId
    backend_id: str
    model: str


class OutputTextDeltaFrame(_ServerFrame):
    """More text of the answer."""

    type: Literal["output_text_delta"]
    request_id: RequestId
    delta: Annotated[str, Field(min_length=1)]


class ReasoningDeltaFrame(_ServerFrame):
    """Only where `include_reasoning` asked for it."""

    type: Literal["reasoning_delta"]
    request_id: RequestId
    delta: Annotated[str, Field(min_length=1)]


class ToolCallDeltaFrame(_ServerFrame):
    """More of a tool call's arguments. Not to be acted upon: wait for `tool_call_ready`."""

    type: Literal["tool_call_delta"]
    request_id: RequestId
    call_id: str
    name: str | None
    """Not null in a call's first delta at the latest."""
    arguments_delta: str


class ReadyCall(_ServerFrame):
    id: str
    name: str
    arguments_json: str
    """The concatenation of the call's deltas; always a JSON object."""
    status: Literal["ready"]


class ToolCallReadyFrame(_ServerFrame):
    """A tool call that is proven complete."""

    type: Literal["tool_call_ready"]
    request_id: RequestId
    call: ReadyCall


class AnnotationBody(_ServerFrame):
    kind: str
    """The provider's own word, or `grounding`, `citation`, `search_result`."""
    url: str | None = None
    title: str | None = None
    text: str | None = None
    """What is cited or grounded, where the provider quotes it."""
    start: int | None = None
    """The first character of the answer's text that it is for, in code points; with `end` or not at all."""
    end: int | None = None
    """The one after the last."""
    raw: JsonValue
    """The provider's own value."""


class AnnotationFrame(_ServerFrame):
    """Only where `include_annotations` asked for it: after the text, before `usage`."""

    type: Literal["annotation"]
    request_id: RequestId
    annotation: AnnotationBody


class UsageBody(_ServerFrame):
    input_tokens: int | None
    """Everything that went in, cached tokens included."""
    output_tokens: int | None
    """Everything that came out, reasoning included."""
    total_tokens: int | None
    """The provider's, else the sum of both."""
    provider_usage_raw: dict[str, Any] | None
    """The provider's own object."""
    cached_input_tokens: int | None = None
    cache_write_input_tokens: int | None = None
    """Tokens of the input that were written to the provider's cache."""
    reasoning_tokens: int | None = None
    cost: float | None = None
    """US dollars: by the configured price, else what the provider itself charges, where it says so."""
    service_tier: str | None = None
    """The tier that served, in the provider's own word."""


class UsageFrame(_ServerFrame):
    """What the backend reported; at most once, before the terminal frame."""

    type: Literal["usage"]
    request_id: RequestId
    usage: UsageBody


class OtherFinishReason(_ServerFrame):
    other: str
    """`content_filter`, `refusal`, or the provider's own word."""


FinishReason = Annotated[Literal["stop", "length", "tool_calls"] | OtherFinishReason, Field(title="FinishReason")]


class CompletedFrame(_ServerFrame):
    """Terminal: the backend said that its answer is at its end."""

    type: Literal["completed"]
    request_id: RequestId
    finish_reason: FinishReason
    backend_metadata: dict[str, Any]
    """`response_id`, `model` as the backend names it, `provider_state`, … where known."""


class EmbeddingFrame(_ServerFrame):
    """Terminal: the answer to `embed`."""

    type: Literal["embedding"]
    request_id: RequestId
    vectors: list[list[float]]
    """One for each of `inputs`, in their order."""
    usage: UsageBody


class TokenCountFrame(_ServerFrame):
    """Terminal: the answer to `count_tokens`."""

    type: Literal["token_count"]
    request_id: RequestId
    input_tokens: int
    """As the provider counts them."""


class ListedModel(_ServerFrame):
    """The provider's own object."""

    __pydantic_extra__: dict[str, JsonValue]

    id: str
    """What `model` of a request names it by."""


class ModelListFrame(_ServerFrame):
    """Terminal: the answer to `models`."""

    type: Literal["model_list"]
    request_id: RequestId
    models: list[ListedModel]
    """Of all pages."""


class FailedFrame(_ServerFrame):
    """Terminal: there is no answer, or not all of it."""

    type: Literal["failed"]
    request_id: RequestId
    error: Error


class RejectedFrame(_ServerFrame):
    """Answers a line that had no effect."""

    type: Literal["rejected"]
    request_id: RequestId | None
    """Null where none could be read."""
    error: Error


ProgramState = Annotated[Literal["stopped", "starting", "running", "waiting", "foreign"], Field(title="ProgramState")]
BreakerState = Annotated[Literal["closed", "open", "half_open"], Field(title="BreakerState")]


class ProgramStatus(_ServerFrame):
    """A model server or Copilot program that the daemon runs for a backend."""

    state: ProgramState
    """`waiting`: it failed, and is not started again yet. `foreign`: somebody else's server answers and is used."""
    starts: int
    """How often it was started."""


class LimitStatus(_ServerFrame):
    """What is used of a limit of money, or of one that daemons share."""

    setting: str
    """Its key in `budget`."""
    client: str | None = None
    """Whose it is, where it stands in `server.clients[].budget`."""
    used: float
    """Places, tokens of the last minute, or US dollars of the UTC day or month."""
    limit: float
    estimated: float | None = None
    """How many of the dollars are estimated, for answers that ended without usage."""


class SharedStatus(_ServerFrame):
    """The store of the limits that daemons share."""

    store: Literal["redis", "sqlite"]
    up: bool
    """It answered when it was asked last."""
    leases: int
    """Places of all backends that this daemon has."""
    waiting: int
    """Requests of this daemon that wait for one."""


class BackendStatus(_ServerFrame):
    id: str
    dialect: str
    default_model: str
    in_flight: int
    """Requests that have a place at the backend."""
    max_concurrency: int | None = None
    """How many may have one at the same time (`budget.max_concurrency_per_backend`)."""
    queued: int
    """Requests that wait for one."""
    breaker: BreakerState
    requests: int
    failures: int
    used_tokens: int
    """Reported by the backend for all requests since the daemon's start, or since the reload that changed it."""
    output_tokens: int | None = None
    """Of those the ones that came out."""
    cost_usd: float | None = None
    """US dollars, of the requests whose price is known."""
    limits: list[LimitStatus] | None = None
    """Absent where the backend has none."""
    program: ProgramStatus | None = None
    """Absent where the daemon runs no program for this backend."""


class ReloadStatus(_ServerFrame):
    ok: int
    """Reloads of the configuration that took effect, since the daemon's start."""
    failed: int
    """Reloads that changed nothing, because the file was wrong."""
    running: bool
    """One is under way."""
    last_error: str | None
    """What was wrong with the file at the last reload; null where it took effect."""


class ClientStatus(_ServerFrame):
    """What one client does, and has used since the daemon's start."""

    name: str
    """From `server.clients`, or the uid where there is no such list."""
    connections: int
    in_flight: int
    queued: int
    """Requests that wait for a place of the client's own (`server.clients[].budget`)."""
    requests: int
    failures: int
    used_tokens: int
    output_tokens: int | None = None
    """Of those the ones that came out."""
    cost_usd: float | None = None
    """US dollars, of the requests whose price is known."""


class StatusFrame(_ServerFrame):
    type: Literal["status"]
    protocol: Literal[1]
    version: str
    pid: int
    uptime_ms: int
    connections: int
    """The asking one included."""
    in_flight: int
    reloads: ReloadStatus
    shared: SharedStatus | None = None
    """Absent where `ai_gateway.shared` is not configured."""
    backends: list[BackendStatus]
    clients: list[ClientStatus] = Field(default=[])
    """Those that are configured, or else the uids that are allowed or have connected since the daemon's start."""


ServerFrame = Annotated[
    StartedFrame
    | OutputTextDeltaFrame
    | ReasoningDeltaFrame
    | ToolCallDeltaFrame
    | ToolCallReadyFrame
    | AnnotationFrame
    | UsageFrame
    | CompletedFrame
    | EmbeddingFrame
    | TokenCountFrame
    | ModelListFrame
    | FailedFrame
    | RejectedFrame
    | StatusFrame,
    Field(discriminator="type"),
]
