"""The models of `beluna.jsonc`, the only source of its keys: `beluna.schema.json` is generated from them.

Base keys are Beluna core's, with core's defaults; everything is strict at every depth. What no schema can say is in
`config/rules.py`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field

from ..schemas.field_docs import describe, subclasses

Dialect = Literal["openai_compatible", "openai_responses", "anthropic", "gemini", "ollama", "github_copilot_sdk"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)
HTTP_DIALECTS = frozenset(DIALECTS) - {"github_copilot_sdk"}

MAX_INTEGER = 2**64 - 1  # core's u64; larger values are refused
Milliseconds = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
Count = Annotated[int, Field(ge=1, le=MAX_INTEGER)]
NonEmpty = Annotated[str, Field(min_length=1)]
PathText = Annotated[str, Field(min_length=1, pattern=r"^[^\x00]*$")]
HeaderName = Annotated[str, Field(pattern=r"^[!#$%&'*+.^_`|~0-9A-Za-z-]+$")]
HeaderValue = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]*$")]
SocketMode = Annotated[str, Field(pattern=r"^0[0-7]{3}$")]
Uid = Annotated[int, Field(ge=0)]
Dollars = Annotated[float, Field(gt=0, le=1e9, allow_inf_nan=False)]
Price = Annotated[float, Field(ge=0, allow_inf_nan=False)]
CoreSection = dict[str, Any]

DEFAULT_ALIAS = "default"
"""The alias of the model for requests that name none, where there is no `default_backend`."""
_AZURE = (".openai.azure.com", ".cognitiveservices.azure.com", ".services.ai.azure.com")
CORE_SECTIONS = ("logging", "observability", "cortex", "continuity", "loop", "body", "spine")
"""The top-level keys of Beluna core's own configuration (its `core/src/config.rs`) that mean nothing to a gateway."""

_S = TypeVar("_S", bound="_Section")


class _Section(BaseModel):
    model_config = ConfigDict(
        strict=True,
        extra="forbid",
        frozen=True,
        hide_input_in_errors=True,
        defer_build=True,  # only `Config` is built; so defaults are made by `model_construct`, which builds nothing
    )


class NoCredential(_Section):
    type: Literal["none"]


class EnvCredential(_Section):
    type: Literal["env"]
    var: NonEmpty
    """The environment variable that holds the secret."""


class InlineCredential(_Section):
    type: Literal["inline_token"]
    token: NonEmpty = Field(repr=False)
    """The secret itself. Prefer `env` or `file`: people read this file."""


class FileCredential(_Section):
    type: Literal["file"]
    path: PathText
    """A file whose trimmed content is the secret, read for each request. A relative path is looked up in
    $CREDENTIALS_DIRECTORY first, then in this file's folder."""


class CommandCredential(_Section):
    type: Literal["command"]
    command: Annotated[list[NonEmpty], Field(min_length=1)]
    """A program and its arguments, started without a shell. Its standard output is the secret, or
    `{"token","expires_at"}` with an RFC 3339 time or Unix seconds; at most 64 KiB."""
    ttl_ms: Milliseconds | None = None
    """How long the secret is used; null: until `expires_at`, or until the provider refuses it."""
    timeout_ms: Milliseconds = 10_000
    """Longest time that the program may take."""


CredentialRef = Annotated[
    NoCredential | EnvCredential | InlineCredential | FileCredential | CommandCredential, Field(discriminator="type")
]


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
    """Time from the start of an attempt to its first event."""
    idle_timeout_ms: Milliseconds = 30_000
    """Longest time between two events of an attempt."""
    max_event_bytes: Count = 33_554_432
    """Largest event, or unstreamed body, that is accepted from a backend."""
    connect_timeout_ms: Milliseconds = 5_000
    """TCP and TLS, or process start and handshake."""
    max_retries: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 2
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
    """Time for a whole request, from its acceptance, waiting and retries included. A request may ask for less; more is
    cut to this."""
    max_usage_tokens_per_request: Count | None = None
    """A request that asks for more `max_output_tokens` is refused. Reported usage above it is only counted."""
    max_concurrency_per_backend: Count = 8
    rate_smoothing_per_second: Count | None = None
    """Request starts per second and backend, with a burst of one second's worth."""
    spend_usd_per_day: Dollars | None = None
    """US dollars in a UTC day that this daemon spends; counted since its start, in memory. Over it, requests are
    refused."""
    spend_usd_per_month: Dollars | None = None
    """The same for a month."""
    shared_max_concurrency: Count | None = None
    """Requests at the same time, of all daemons that share a store; `max_concurrency_per_backend` holds as well."""
    shared_rate_per_second: Count | None = None
    """Request starts per second, of all daemons together, with a burst of one second's worth."""
    shared_tokens_per_minute: Count | None = None
    """Tokens in and out, of all daemons together. Counted when a request ends; over it, requests are refused."""
    shared_spend_usd_per_day: Dollars | None = None
    """US dollars in a UTC day, of all daemons together. Counted when a request ends; over it, requests are refused."""
    shared_spend_usd_per_month: Dollars | None = None
    """The same for a month."""


class CopilotProvider(_Section):
    """A model of your own: passed to the Copilot CLI as its session's provider (`protocol` `sdk` only)."""

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
    thinking: Literal["chat_template_kwargs", "enable_thinking", "thinking_type", "reasoning_effort"] | None = None
    """Where a request's `enable_thinking` goes; null: false is satisfied as it is, true is refused."""
    text_parts: Literal["array", "joined"] | None = None
    """Several texts of one message: as an array, or as one string joined by a blank line; null: `array` for
    api.openai.com and Azure, else `joined`."""


class Anthropic(_Section):
    default_max_tokens: Count = 4096
    """Sent as `max_tokens`, which Anthropic requires, where a request names no `max_output_tokens`."""


class CacheSettings(_Section):
    """What requests ask of the provider's prompt cache where they say nothing else."""

    mode: Literal["auto", "off"] = "auto"
    """`off` asks for nothing."""
    key: NonEmpty | None = None
    """Brings requests with the same beginning to the same cache; only at OpenAI and Azure."""
    retention: Literal["short", "long"] = "short"
    """`long`: an hour at Anthropic, a day at OpenAI and Azure; a mistake elsewhere."""


class Pricing(_Section):
    """US dollars per million tokens."""

    input_per_mtok: Price
    output_per_mtok: Price
    cached_input_per_mtok: Price | None = None
    """Tokens read from the cache; null: as input."""
    cache_write_per_mtok: Price | None = None
    """Tokens written to the cache for its short lifetime; null: as input."""
    cache_write_1h_per_mtok: Price | None = None
    """Tokens written to the cache for an hour (Anthropic); null: as input."""


class Tls(_Section):
    """Whom to trust, and who we are, in TLS with this backend. Files are PEM; relative paths are looked up in this
    file's folder.
    """

    ca_file: PathText | None = None
    """Authorities to trust in place of the system's."""
    cert_file: PathText | None = None
    """Our certificate, with those between it and its authority."""
    key_file: PathText | None = None
    """Its key, without a passphrase; null: it stands in `cert_file`."""


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


class Model(_Section):
    """A model of a backend, and what requests may call it by."""

    id: NonEmpty
    """The provider's name for it."""
    aliases: list[NonEmpty] = []
    """Names for `route` of a request; white space around them does not count, and each is unique over all backends."""


class BackendSettings(_Section):
    id: str
    dialect: Dialect
    endpoint: str | None = None
    """Base URL, required by the HTTP dialects; `unix:/path` reaches a server on a Unix socket."""
    credential: CredentialRef
    default_model: NonEmpty | None = None
    """The model of requests that name none; null: the first of `models`. One of the two is required."""
    models: Annotated[list[Model], Field(min_length=1)] | None = None
    """Models with aliases. A request may name others, too: the provider decides."""
    capabilities: Capabilities | None = None
    copilot: Copilot | None = None
    openai_compatible: OpenAICompatible = OpenAICompatible.model_construct()
    anthropic: Anthropic = Anthropic.model_construct()
    cache: CacheSettings | None = None
    """The default of requests' `cache`; null: requests that say nothing about it ask for nothing."""
    headers: Annotated[dict[HeaderName, HeaderValue], Field(json_schema_extra={"additionalProperties": False})] = {}
    """Extra request headers. They may not hold secrets: use `credential`."""
    reliability: Reliability = Reliability.model_construct()
    """This backend's own values for any key of `ai_gateway.reliability`."""
    budget: Budget = Budget.model_construct()
    """This backend's own values for any key of `ai_gateway.budget`."""
    pricing: dict[str, Pricing] = {}
    """By model name; gives `usage.cost`."""
    launch: Launch | None = None
    proxy: str | None = None
    """`http://host:port`: every connection goes through it, by CONNECT. Never one from the environment."""
    proxy_credential: CredentialRef | None = None
    """Its secret is `user:password`, for the proxy."""
    tls: Tls | None = None


class Shared(_Section):
    """The store of the `shared_…` limits: exactly one of `url` and `sqlite`. See docs/fleet.md."""

    url: NonEmpty | None = None
    """A Redis or Valkey server: `redis://host:port/db`, `rediss://…` (TLS) or `unix:///path`; a user may stand in it,
    a password not (needs the extra `shared`)."""
    sqlite: PathText | None = None
    """A file, for the daemons of one host; a relative path is looked up in this file's folder."""
    credential: CredentialRef = NoCredential.model_construct(type="none")
    """Its secret is the server's password."""
    tls: Tls | None = None
    """Whom to trust, and who we are, where `url` is `rediss:`."""
    namespace: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.:-]+$")] = "beluna"
    """The beginning of all keys. Daemons with one namespace share their limits."""
    lease_ms: Milliseconds = 15_000
    """After this long without a sign of life, a daemon's places are free again. The same for all daemons."""
    timeout_ms: Milliseconds = 50
    """How long the store may take to answer."""
    on_failure: Literal["refuse", "local"] = "refuse"
    """Without an answer of the store: `refuse` requests, or let them pass by the `local` limits alone."""


class Resilience(Reliability, Budget):
    """Beluna core's one section for the keys of `reliability` and `budget`."""


class AIGateway(_Section):
    default_backend: str | None = None
    """The `id` that serves requests which name no backend; null: the backend of the model with the alias `default`.
    There is no fallback to another one, ever."""
    backends: Annotated[list[BackendSettings], Field(min_length=1)]
    reliability: Reliability = Reliability.model_construct()
    budget: Budget = Budget.model_construct()
    resilience: Resilience = Resilience.model_construct()
    """Another place for the keys of `reliability` and `budget`, which is core's; a key stands in one of them."""
    shared: Shared | None = None
    """Where daemons keep what they use of the `shared_…` limits; null: nowhere."""
    chat: CoreSection = {}
    """Core's own, without effect here."""


class ClientBudget(_Section):
    """A client's own limits. Each one narrows the backend's: of the two the smaller counts, so none is widened."""

    max_request_time_ms: Milliseconds | None = None
    max_usage_tokens_per_request: Count | None = None
    max_concurrency_per_backend: Count | None = None
    """Requests of this client at the same time, at each backend."""
    rate_smoothing_per_second: Count | None = None
    """Request starts per second of this client, at each backend."""
    spend_usd_per_day: Dollars | None = None
    """US dollars in a UTC day, of this client at each backend; counted since the daemon's start."""
    spend_usd_per_month: Dollars | None = None
    shared_max_concurrency: Count | None = None
    """Requests of this client at the same time, at each backend, of all daemons together."""
    shared_rate_per_second: Count | None = None
    shared_tokens_per_minute: Count | None = None
    shared_spend_usd_per_day: Dollars | None = None
    shared_spend_usd_per_month: Dollars | None = None


class ClientSettings(_Section):
    """Who a peer is, what it may ask, and how much."""

    name: NonEmpty
    """Stands in log lines, metrics, spans and `status`; unique."""
    uids: Annotated[list[Uid], Field(min_length=1)]
    """The users that are this client, by SO_PEERCRED; each belongs to one client only."""
    backends: list[str] | None = None
    """The backends that it may ask; null: all of them."""
    budget: ClientBudget = ClientBudget.model_construct()


class Server(_Section):
    max_frame_bytes: Count = 8 * 1024 * 1024
    """Longest line a client may send."""
    max_in_flight_per_connection: Count = 256
    max_connections: Count = 256
    socket_mode: SocketMode = "0600"
    allowed_uids: list[Uid] | None = None
    """Which peers may connect, by SO_PEERCRED; null: whoever the file's mode lets in."""
    clients: Annotated[list[ClientSettings], Field(min_length=1)] | None = None
    """The clients by name. Where they are given, no other uid may connect; null: a client's name is its uid."""
    shutdown_grace_ms: Annotated[int, Field(ge=0, le=MAX_INTEGER)] = 5_000
    allow_exit: bool = True
    """Whether a client's `exit` frame stops the daemon."""


class Metrics(_Section):
    listen: NonEmpty
    """`HOST:PORT`, as `127.0.0.1:9464`, or the path of a Unix socket, with a slash; `unix:` may stand before it."""
    socket_mode: SocketMode = "0600"
    """Of that Unix socket: who may read the metrics."""


class Otlp(_Section):
    endpoint: NonEmpty
    """An OTLP/HTTP collector, for example `http://127.0.0.1:4318` (needs the extra `otlp`)."""


class Telemetry(_Section):
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    log_format: Literal["json", "console", "auto"] = "json"
    """`json`: an object a line. `console`: for people. `auto`: `console` where standard error is a terminal, else
    `json`."""
    metrics: Metrics | NonEmpty | None = None
    """A Prometheus endpoint; a plain string is its `listen`."""
    otlp: Otlp | None = None
    propagate_trace: bool = False
    """Whether `metadata.traceparent` and `metadata.tracestate` of a request are sent to its backend, as headers."""


class Config(_Section):
    schema_url: str | None = Field(default=None, alias="$schema")
    """For editors."""
    socket_path: PathText = "beluna.sock"
    """Relative to this file's folder."""
    ai_gateway: AIGateway
    server: Server = Server.model_construct()
    telemetry: Telemetry = Telemetry.model_construct()
    logging: CoreSection = {}
    """Core's own, without effect here, like the six below."""
    observability: CoreSection = {}
    cortex: CoreSection = {}
    continuity: CoreSection = {}
    loop: CoreSection = {}
    body: CoreSection = {}
    spine: CoreSection = {}

    @property
    def without_effect(self) -> tuple[str, ...]:
        """The keys that this file has for Beluna core's sake."""
        sections = [name for name in CORE_SECTIONS if name in self.model_fields_set]
        chat = "chat" in self.ai_gateway.model_fields_set
        return (*sections, "ai_gateway.chat") if chat else tuple(sections)


def is_openai(endpoint: str | None) -> bool:
    """Whether an endpoint is OpenAI's own or Azure's, where OpenAI's words have their places."""
    return _host(endpoint) == "api.openai.com" or is_azure(endpoint)


def is_azure(endpoint: str | None) -> bool:
    """Whether an endpoint is Azure's, where requests name deployments of models."""
    return _host(endpoint).endswith(_AZURE)


def is_at(endpoint: str | None, *domains: str) -> bool:
    """Whether an endpoint is in one of the domains of providers."""
    return f".{_host(endpoint)}".endswith(tuple(f".{domain}" for domain in domains))


def _host(endpoint: str | None) -> str:
    try:
        return urlsplit(endpoint or "").hostname or ""
    except ValueError:
        return ""


@dataclass(frozen=True, slots=True)
class BackendProfile:
    """A backend's settings, with the shared sections merged in."""

    backend: BackendSettings
    reliability: Reliability
    budget: Budget
    folder: Path
    """Where relative paths are looked up: the config file's folder."""
    propagate_trace: bool = False
    """`telemetry.propagate_trace`."""
    shared: Shared | None = None
    """`ai_gateway.shared`, where the budget has a limit that is kept there."""
    id: str = field(init=False)
    """The backend's name."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "id", self.backend.id)

    @property
    def default_model(self) -> str:
        """The model of requests that name none."""
        own = self.backend
        if own.default_model is not None:
            return own.default_model
        assert own.models  # noqa: S101 - config/rules.py requires one of the two
        return own.models[0].id

    @property
    def models(self) -> tuple[str, ...]:
        """The models that the configuration names, the default one first, each once. Requests may name others."""
        own = self.backend
        return tuple(dict.fromkeys((self.default_model, *(model.id for model in own.models or ()), *own.pricing)))

    def equals(self, other: BackendProfile) -> bool:
        """Whether the two have the same effect. A key that is given with its default has that of one that is not,
        except among the capabilities, where it overrides the dialect's.
        """
        return self == other and _named(self.backend.capabilities) == _named(other.backend.capabilities)


def _named(section: _Section | None) -> set[str] | None:
    return None if section is None else section.model_fields_set


def profiles(config: Config, folder: Path) -> dict[str, BackendProfile]:
    """Each backend by id, its own `reliability` and `budget` keys merged over the shared ones."""
    gateway = config.ai_gateway
    reliability, budget = (
        _laid_over(gateway.reliability, gateway.resilience),
        _laid_over(gateway.budget, gateway.resilience),
    )
    return {
        backend.id: BackendProfile(
            backend,
            _laid_over(reliability, backend.reliability),
            _laid_over(budget, backend.budget),
            folder,
            config.telemetry.propagate_trace,
            gateway.shared if _has_shared_limits(_laid_over(budget, backend.budget)) else None,
        )
        for backend in gateway.backends
    }


def _has_shared_limits(budget: Budget) -> bool:
    return any(getattr(budget, name) is not None for name in Budget.model_fields if name.startswith("shared_"))


@dataclass(frozen=True, slots=True)
class Target:
    """What an alias stands for."""

    backend_id: str
    model: str


def aliases(config: Config) -> dict[str, Target]:
    """Each alias of a model, without the white space around it."""
    return {
        alias.strip(): Target(backend.id, model.id)
        for backend in config.ai_gateway.backends
        for model in backend.models or ()
        for alias in model.aliases
    }


def _laid_over(base: _S, own: _Section) -> _S:
    """`base` with the keys that `own` names and `base` has."""
    named = own.model_fields_set & type(base).model_fields.keys()
    return base.model_copy(update={name: getattr(own, name) for name in named})


def json_schema() -> dict[str, Any]:
    """The schema of `beluna.jsonc`, as it ships in `beluna.schema.json`."""
    schema = describe(Config.model_json_schema(by_alias=True), subclasses(_Section))
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **schema, "title": "beluna-gateway"}
