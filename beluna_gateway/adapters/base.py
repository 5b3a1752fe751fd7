"""What an adapter is to the gateway, and what a dialect is to the shared HTTP edge.

An HTTP dialect is one file with two pure halves, request out (`encode`) and events in (`ResponseDecoder`); it never
touches the network. `http.adapter.HttpAdapter` moves the bytes for all of them.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal, Protocol

from pydantic import JsonValue
from pydantic_core import from_json

from ..canonical import BackendRawEvent, CanonicalRequest, JsonObject, ResolvedCredential
from ..config.settings import BackendProfile, Capabilities
from ..errors import GatewayError, protocol_violation
from ..telemetry.service import ProgramStatus
from .decoding.model_lists import ModelAnswer
from .decoding.provider_errors import ProviderError, error_of_status


class Emit(Protocol):
    """Where an adapter pushes what it reads, a batch per read."""

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        """Takes a batch. Raises `GatewayError` where the order of events is broken."""

    @property
    def blocked(self) -> bool:
        """The client does not read: `await drained()` before reading on."""

    async def drained(self) -> None:
        """Returns once the client has read enough."""


class SilenceTimer(Protocol):
    """The timers of one attempt; each names itself in the error that it raises."""

    def connecting(self) -> None:
        """From now on `connect_timeout_ms` runs."""

    def connected(self) -> None:
        """From now on only `request_timeout_ms`, counted from the attempt's start, runs."""

    def progressed(self) -> None:
        """The backend said something with content: from now on `idle_timeout_ms` runs, counted from here."""

    def suspended(self) -> None:
        """We wait for the client, which is not the backend's silence: no timer runs until `progressed`."""


class Call(Protocol):
    """One request, made ready for its backend: everything that can be refused has been refused."""

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        """Tries once. Returns after `Completed` was emitted.

        A cancelled attempt has told the backend by the time it is left: its connection is closed, or its program told.

        Raises:
            GatewayError: The attempt failed; `retryable` says whether another one may follow.
        """


class BackendAdapter(ABC):
    """One configured backend: its connections or its child process. `close` ends them."""

    capabilities: Capabilities
    """The dialect's, with the configuration's overrides laid over."""

    @abstractmethod
    def prepare(self, request: CanonicalRequest, model: str, credential: ResolvedCredential) -> Call:
        """Encodes the request, without I/O.

        Raises:
            GatewayError: `unsupported_capability` or `invalid_request`, naming the field.
        """

    @abstractmethod
    async def probe(self, credential: ResolvedCredential) -> str:
        """Whether the backend can be reached and takes the credential, in a few words on what was seen.

        For `beluna-gateway check`. Raises `GatewayError` where it cannot.
        """

    @property
    def program(self) -> ProgramStatus | None:
        """The program that the daemon runs for this backend; None where there is none."""
        return None

    async def probe_model(self, credential: ResolvedCredential, model: str) -> tuple[str, ModelAnswer]:
        """As `probe`, and whether the backend has `model`."""
        return await self.probe(credential), ModelAnswer(None, "cannot tell: there is no list of models")

    async def start(self) -> None:
        """Called once before the first request; may start what takes time, must not wait for it."""

    @abstractmethod
    async def close(self) -> None:
        """Ends connections and child processes."""


def overridden(capabilities: Capabilities, profile: BackendProfile) -> Capabilities:
    """The dialect's capabilities with the keys that the configuration names laid over."""
    own = profile.backend.capabilities
    return (
        capabilities
        if own is None
        else capabilities.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
    )


@dataclass(frozen=True, slots=True)
class HttpRequest:
    """What a dialect wants to be sent. `path` is appended to the backend's endpoint; `body` becomes JSON."""

    path: str
    body: JsonObject
    headers: Mapping[str, str] = field(default_factory=dict)


class ResponseDecoder(ABC):
    """The answer's half of a dialect: payloads of one answer in, canonical events out.

    Streamed answers come by `feed`, one payload at a time: the `data` of a server-sent event, or a line, never empty
    and never a comment (`http.payloads`). An unstreamed one comes once, by `feed_whole`. `finish` ends either. Errors
    inside the answer are raised as `GatewayError`.

    An end mark is not always the end: some servers send content after it. So `feed` only notes the mark in `ended`;
    calls that depend on it become ready, and `Usage` and `Completed` are appended, in `finish` (`http.answer.Answer`
    decides when that is).
    """

    ended: bool = False
    """An end mark has been seen, at least once."""
    done: bool = False
    """Nothing more can come: the answer need not be read further."""

    @abstractmethod
    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        """Appends to `events` the content of `payload`. Nothing appended means: no progress (a ping, a preamble)."""

    @abstractmethod
    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        """Appends the content of an unstreamed answer, up to but without usage and `Completed`."""

    def done_mark(self) -> None:
        """Takes `[DONE]`. By default it ends an answer that had its end mark, and is passed over otherwise."""
        self.done = self.done or self.ended

    @abstractmethod
    def finish(self, events: list[BackendRawEvent]) -> None:
        """Ends the answer: appends what depended on the end mark, `Usage`, where known, and `Completed`.

        Raises:
            GatewayError: `backend_transient` (`errors.cut_off`) where the end mark never came.
        """


class HttpDialect(ABC):
    """The request's half of a dialect, for one backend."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    """What the dialect can carry, before the configuration's overrides."""
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    probe_path: str = "/models"
    """A cheap GET that needs the credential, for `beluna-gateway check`."""

    def __init__(self, profile: BackendProfile) -> None:
        self.profile = profile

    def may_call_in_parallel(self, request: CanonicalRequest) -> bool | None:
        """What the request says, else False where the configuration says that the model cannot; None: nobody says."""
        own = self.profile.backend.capabilities
        if request.parallel_tool_calls is None and own is not None and not own.parallel_tool_calls:
            return False
        return request.parallel_tool_calls

    def model_path(self, model: str) -> str | None:
        """A GET that the provider answers where it has `model`, also by a name that its list has not; None: there is
        none.
        """
        return None

    @abstractmethod
    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        """The provider's request. Never drops anything in silence.

        Raises:
            GatewayError: `unsupported_capability`, naming the field that the dialect has no place for.
        """

    @abstractmethod
    def auth_headers(self, secret: str) -> dict[str, str]:
        """The headers that carry the credential."""

    @abstractmethod
    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        """A fresh decoder for one answer of `model`, the model that `encode` was given."""

    def error(self, status: int, error: ProviderError, retry_after_ms: int | None) -> GatewayError:
        """The error for an HTTP answer that is no success; dialects with rules of their own override this."""
        return error_of_status(status, error, retry_after_ms=retry_after_ms)


MAX_JSON_VALUES = 1_000_000
"""The most values in one event or body: a small value takes up to a hundred times its bytes when it is parsed."""


def check_json_size(payload: bytes) -> None:
    """Refuses JSON with too many values, before it is parsed.

    Raises:
        GatewayError: `protocol_violation`.
    """
    # Each value but the first of an array or object comes after a comma. Those inside of strings are counted too.
    if payload.count(b",") + payload.count(b"[") + payload.count(b"{") > MAX_JSON_VALUES:
        raise protocol_violation(f"the backend sent JSON with more than {MAX_JSON_VALUES} values")


def parse_object(payload: bytes) -> JsonObject:
    """One JSON object of an answer.

    Raises:
        GatewayError: `protocol_violation`, where it is no JSON object.
    """
    if len(payload) > MAX_JSON_VALUES:
        check_json_size(payload)
    try:
        # cache_strings="keys": an answer repeats its keys in every event, its values hardly ever.
        value = from_json(payload, allow_inf_nan=False, cache_strings="keys")
    except ValueError as error:
        raise protocol_violation(f"the backend sent an event that is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise protocol_violation(f"the backend sent an event that is not a JSON object but {type(value).__name__}")
    return value


def expect_object(value: JsonValue, where: str) -> JsonObject:
    """`value`, which must be an object; `protocol_violation` naming `where` otherwise."""
    if not isinstance(value, dict):
        raise protocol_violation(f"the backend sent {where} that is not an object")
    return value


def expect_text(value: JsonValue, where: str) -> str:
    """`value`, which must be a string, or null for the empty one; `protocol_violation` naming `where` otherwise."""
    if value is None:
        return ""
    if not isinstance(value, str):
        raise protocol_violation(f"the backend sent {where} that is not a string")
    return value
