"""The models of `beluna.jsonc`, the one source of its keys: `beluna.schema.json` is generated from them.

Base keys are Beluna core's, with core's defaults; everything is strict at every depth.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import BaseModel, ConfigDict, Field

from ..schemas.field_docs import describe, subclasses

Dialect = Literal["openai_compatible", "openai_responses", "anthropic", "gemini", "ollama", "github_copilot_sdk"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
HTTP_DIALECTS = frozenset(DIALECTS) - {"github_copilot_sdk"}

_MOST = 2**64 - 1  # core's u64; what it can hold is taken, what no clock could count is not
Milliseconds = Annotated[int, Field(ge=1, le=_MOST)]
Count = Annotated[int, Field(ge=1, le=_MOST)]
NonEmpty = Annotated[str, Field(min_length=1)]
PathText = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
HeaderValue = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]


_S = TypeVar("_S", bound="_Section")


class _Section(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, hide_input_in_errors=True)


class NoCredential(_Section):
    type: Literal["none"]


class EnvCredential(_Section):
    type: Literal["env"]
    var: NonEmpty
    """The environment variable that holds the secret."""


class InlineCredential(_Section):
    type: Literal["inline_token"]
    token: NonEmpty = Field(repr=False)
    """The secret itself. Prefer `env` or `file`: this file is read by people."""


class FileCredential(_Section):
    type: Literal["file"]
    path: PathText
    """A file whose trimmed content is the secret, read for each request. A relative path is looked up in
    $CREDENTIALS_DIRECTORY first, then in this file's folder."""


CredentialRef = Annotated[NoCredential | EnvCredential | InlineCredential | FileCredential, Field(discriminator="type")]


class Capabilities(_Section):
    """Overrides of what the dialect can do; a key that is not given keeps the dialect's own value."""

    streaming: bool = True
    tool_calls: bool = True
    json_mode: bool = True
    vision: bool = True
    resumable_streaming: bool = False
    """Accepted for core's sake, without effect: no dialect can resume a stream."""
    parallel_tool_calls: bool = True
    json_schema_mode: bool = True
    reasoning: bool = True


class Reliability(_Section):
    request_timeout_ms: Milliseconds = 30_000
    """One attempt's time to its first event."""
    idle_timeout_ms: Milliseconds = 30_000
    """Longest silence between two events of an attempt."""
    max_event_bytes: Count = 33_554_432
    """Largest event or unstreamed body that is taken from a backend."""
    connect_timeout_ms: Milliseconds = 5_000
    """TCP and TLS, or process start and handshake."""
    max_retries: Annotated[int, Field(ge=0, le=_MOST)] = 2
    """Attempts after the first."""
    backoff_base_ms: Milliseconds = 200
    """The wait before the first retry; doubled for each further one, ±20 %. A longer Retry-After wins."""
    backoff_max_ms: Milliseconds = 2_000
    retry_policy: Literal["before_first_event_only", "adapter_resumable"] = "before_first_event_only"
    """`adapter_resumable` is accepted for core's sake and changes nothing."""
    breaker_failure_threshold: Count = 5
    """Consecutive counted failures that open the circuit."""
    breaker_open_ms: Milliseconds = 15_000
    """How long an open circuit refuses before it lets one probe through."""


class Budget(_Section):
    max_request_time_ms: Milliseconds = 45_000
    """A whole request from acceptance, waiting and retries included. A request may ask for less; more is cut to it."""
    max_usage_tokens_per_request: Count | None = None
    """A request that asks for more `max_output_tokens` is refused. Reported usage above it is only accounted."""
    max_concurrency_per_backend: Count = 8
    rate_smoothing_per_second: Count | None = None
    """Request starts per second and backend, with a burst of one second's worth."""


class CopilotProvider(_Section):
    """Bring your own model: passed to the Copilot CLI as its session's provider (`protocol` `sdk` only)."""

    type: Literal["openai", "azure", "anthropic"] = "openai"
    base_url: NonEmpty
    wire_api: Literal["completions", "responses"] | None = None
    model_id: NonEmpty | None = None


class Copilot(_Section):
    command: NonEmpty
    """The program: a path, or a name that is looked up beside the daemon's own Python first, then in PATH."""
    args: list[str] = []
    """Its arguments, `["--stdio"]` for the language server."""
    protocol: Literal["language_server", "sdk"] = "language_server"
    """`language_server`: completions by LSP. `sdk`: chat sessions of the Copilot CLI (needs the extra `copilot`)."""
    provider: CopilotProvider | None = None
    """`sdk` only: a model of your own behind the Copilot CLI, whose key is the backend's credential."""
    idle_stop_ms: Milliseconds | None = None
    """Stop the program after this long without a request; null keeps it."""


class OpenAICompatible(_Section):
    max_tokens_field: Literal["max_tokens", "max_completion_tokens"] | None = None
    """Where `max_output_tokens` goes; null: `max_completion_tokens` for api.openai.com and Azure, else `max_tokens`."""
    stream_usage: bool = True
    """Whether `stream_options.include_usage` is sent."""
    thinking: Literal["chat_template_kwargs", "enable_thinking"] | None = None
    """Where a request's `enable_thinking` goes; null: such a request is refused."""


class Anthropic(_Section):
    default_max_tokens: Count = 4096
    """Sent as `max_tokens`, which Anthropic requires, where a request names no `max_output_tokens`."""


class Pricing(_Section):
    """US dollars per million tokens."""

    input_per_mtok: Price
    output_per_mtok: Price
    cached_input_per_mtok: Price | None = None
    """Null: cached tokens cost as much as others."""


class Launch(_Section):
    """A local model server that the daemon starts, watches and stops.

    Without `idle_stop_ms` it is started with the daemon and kept; with it, on the first request, and stopped when it
    has been idle for that long.
    """

    command: NonEmpty
    """A path, or a name that is looked up beside the daemon's own Python first, then in PATH."""
    args: list[str] = []
    env: dict[str, str] = {}
    ready_path: NonEmpty = "/health"
    """Answers 200 once the server is ready; taken from the root of `endpoint`'s host."""
    ready_timeout_ms: Milliseconds = 60_000
    idle_stop_ms: Milliseconds | None = None


class BackendSettings(_Section):
    id: str
    dialect: Dialect
    endpoint: str | None = None
    """Base URL, required by the HTTP dialects; `unix:/path` reaches a server on a Unix socket."""
    credential: CredentialRef
    default_model: NonEmpty
    capabilities: Capabilities | None = None
    copilot: Copilot | None = None
    openai_compatible: OpenAICompatible = OpenAICompatible()
    anthropic: Anthropic = Anthropic()
    headers: Annotated[dict[HeaderName, HeaderValue], Field(json_schema_extra={"additionalProperties": False})] = {}
    """Extra request headers. They may not hold secrets: use `credential`."""
    reliability: Reliability = Reliability()
    """This backend's own values for any key of `ai_gateway.reliability`."""
    budget: Budget = Budget()
    """This backend's own values for any key of `ai_gateway.budget`."""
    pricing: dict[str, Pricing] = {}
    """By model name; gives `usage.cost`."""
    launch: Launch | None = None


class AIGateway(_Section):
    default_backend: str
    """The `id` that serves requests which name no backend. There is no fallback to another one, ever."""
    backends: Annotated[list[BackendSettings], Field(min_length=1)]
    reliability: Reliability = Reliability()
    budget: Budget = Budget()


class Server(_Section):
    max_frame_bytes: Count = 8 * 1024 * 1024
    """Longest line a client may send."""
    max_in_flight_per_connection: Count = 256
    max_connections: Count = 256
    socket_mode: Annotated[str, Field(pattern=r"^0[0-7]{3}$")] = "0600"
    allowed_uids: list[Annotated[int, Field(ge=0)]] | None = None
    """Which peers may connect, by SO_PEERCRED; null: whoever the file's mode lets in."""
    shutdown_grace_ms: Annotated[int, Field(ge=0, le=_MOST)] = 5_000
    allow_exit: bool = True
    """Whether a client's `exit` frame stops the daemon."""


class Metrics(_Section):
    listen: NonEmpty
    """`127.0.0.1:9464`, or the path of a Unix socket."""


class Otlp(_Section):
    endpoint: NonEmpty
    """An OTLP/HTTP collector, for example `http://127.0.0.1:4318` (needs the extra `otlp`)."""


class Telemetry(_Section):
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console"] = "json"
    metrics: Metrics | NonEmpty | None = None
    """A Prometheus endpoint; a plain string is the path of a Unix socket."""
    otlp: Otlp | None = None


class Config(_Section):
    schema_url: str | None = Field(default=None, alias="$schema")
    """For editors."""
    socket_path: PathText = "beluna.sock"
    """Relative to this file's folder."""
    ai_gateway: AIGateway
    server: Server = Server()
    telemetry: Telemetry = Telemetry()


@dataclass(frozen=True, slots=True)
class BackendProfile:
    """A backend with everything resolved that its configuration leaves to the sections above it."""

    backend: BackendSettings
    reliability: Reliability
    budget: Budget
    folder: Path
    """Where relative paths are looked up: the config file's folder."""

    @property
    def id(self) -> str:
        return self.backend.id


def profiles(config: Config, folder: Path) -> dict[str, BackendProfile]:
    """Each backend by id, its own `reliability` and `budget` keys laid over the shared ones."""
    shared = config.ai_gateway
    return {
        backend.id: BackendProfile(
            backend,
            _laid_over(shared.reliability, backend.reliability),
            _laid_over(shared.budget, backend.budget),
            folder,
        )
        for backend in shared.backends
    }


def _laid_over(base: _S, own: _S) -> _S:
    return base.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})


def json_schema() -> dict[str, Any]:
    """The schema of `beluna.jsonc`, as it ships in `beluna.schema.json`."""
    schema = describe(Config.model_json_schema(by_alias=True), subclasses(_Section))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "beluna-gateway"}
