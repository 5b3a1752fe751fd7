"""The interfaces of adapters, which the gateway uses, and of dialects, which the HTTP adapter uses.

An HTTP dialect has two pure halves: `encode` makes the request's body, a `ResponseDecoder` makes events of the answer.
It does no I/O; `http.adapter.HttpAdapter` does it for all dialects.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field
from typing import ClassVar, Literal, Protocol, TypeVar

from pydantic import JsonValue
from pydantic_core import from_json

from ..canonical import BackendRawEvent, CanonicalRequest, JsonObject, Operation, ResolvedCredential, immutable
from ..config.settings import BackendProfile, Capabilities
from ..errors import GatewayError, protocol_violation, unsupported
from ..telemetry.service import ProgramStatus
from ..wire import json_pieces, strict_json
from .decoding.error_kinds import error_of_status
from .decoding.provider_errors import ProviderError

_Result = TypeVar("_Result")


class Emit(Protocol):
    """Receives an adapter's events, one batch per read."""

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        """Takes a batch of events. Raises `GatewayError` where their order breaks a rule."""

    @property
    def blocked(self) -> bool:
        """Whether too much waits for the client: `await drained()` before reading on."""

    async def drained(self) -> None:
        """Returns once the client has taken enough."""


class SilenceTimer(Protocol):
    """The timers of one attempt. The error of a timer that fires names it."""

    def connecting(self) -> None:
        """Starts `connect_timeout_ms`."""

    def connected(self) -> None:
        """Ends `connect_timeout_ms`; only `request_timeout_ms` runs, counted from the attempt's start."""

    def progressed(self) -> None:
        """Starts `idle_timeout_ms` anew: the backend sent content."""

    def suspended(self) -> None:
        """Stops all timers until `progressed`: the client is waited for, not the backend."""


class Aside(Protocol):
    """Runs a function off the event loop, where `wire.json_pieces` works in pieces; see `worker.Worker.run`."""

    async def __call__(self, function: Callable[[], _Result], /) -> _Result:
        """What `function` gives. Cancelling ends the work at the next piece."""


class Call(Protocol):
    """One encoded request. All that can be refused before sending has been."""

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        """Makes one attempt. Returns after `Completed` was emitted.

        When a cancelled attempt returns, the backend has been told: its connection is closed, or its program was sent
        a cancel.

        Raises:
            GatewayError: The attempt failed; `retryable` says whether another one may follow.
        """


@immutable
class ModelAnswer:
    """Whether a backend has a model: true, false, or None where it does not say. `text` is for people."""

    known: bool | None
    text: str


class BackendAdapter(ABC):
    """One configured backend, with its connections or its child process."""

    capabilities: Capabilities
    """Those of the dialect, with the configuration's overrides."""
    aside: Aside | None = None
    """For what takes long with a large answer; the gateway sets it when it has made the adapter."""

    @abstractmethod
    def prepare(self, request: CanonicalRequest, model: str, credential: ResolvedCredential) -> Call:
        """Encodes the request, without I/O.

        Raises:
            GatewayError: `unsupported_capability` or `invalid_request`, naming the field.
        """

    def prepare_operation(self, request: Operation, model: str, credential: ResolvedCredential) -> Call:
        """As `prepare`, for what is no inference; by default an adapter has no such thing."""
        raise unsupported(f"{request.name}: this backend has none")

    @abstractmethod
    async def probe(self, credential: ResolvedCredential) -> str:
        """Checks that the backend can be reached and takes the credential, for `beluna-gateway check`.

        Returns:
            What was seen, in a few words.

        Raises:
            GatewayError: It cannot be reached, or refuses.
        """

    @property
    def program(self) -> ProgramStatus | None:
        """The program that the daemon runs for this backend; None where there is none."""
        return None

    async def probe_model(self, credential: ResolvedCredential, model: str) -> tuple[str, ModelAnswer]:
        """As `probe`, and whether the backend has `model`."""
        return await self.probe(credential), ModelAnswer(None, "cannot tell: there is no list of models")

    async def start(self) -> None:
        """Called once before the first request. May start what takes time; must not wait for it."""

    @abstractmethod
    async def close(self) -> None:
        """Closes connections and ends child processes."""


def overridden(capabilities: Capabilities, profile: BackendProfile) -> Capabilities:
    """The dialect's capabilities, with those that the configuration names in their place."""
    own = profile.backend.capabilities
    return (
        capabilities
        if own is None
        else capabilities.model_copy(update={name: getattr(own, name) for name in own.model_fields_set})
    )


@immutable
class HttpRequest:
    """An encoded request. `path` is appended to the backend's endpoint; `body` is sent as JSON."""

    path: str
    body: JsonObject
    headers: Mapping[str, str] = field(default_factory=dict)


class ResponseDecoder(ABC):
    """Decodes one answer: payloads in, canonical events out.

    `feed` is called for each payload of a streamed answer: the `data` of a server-sent event, or a line, never empty
    and never a comment (`http.payloads`). `feed_whole` is called once for an unstreamed answer. `finish` ends either.
    Errors inside the answer are raised as `GatewayError`.

    An end mark is not always the end: some servers send content after it. So `feed` only sets `ended`; calls that
    depend on the mark become ready, and `Usage` and `Completed` are appended, in `finish`, when `http.answer.Answer`
    decides that the answer has ended.
    """

    ended: bool = False
    """Whether an end mark has been seen."""
    done: bool = False
    """Whether nothing more can come, so that the answer need not be read further. Then it has `ended`, too.

    Decoders of streams set both in their `__init__` once more: Python reads an instance's own faster, for every event.
    """

    def head(self, header: Callable[[bytes], str | None]) -> None:
        """Called once before the body: takes what stands in the response's headers, by default nothing.

        Args:
            header: Gives the value of a header, by its name in lower case; None where there is none.
        """

    @abstractmethod
    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        """Appends the content of `payload` to `events`. Where it appends nothing there was no progress (a ping)."""

    @abstractmethod
    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        """Appends the content of an unstreamed answer, up to but without usage and `Completed`."""

    def end_of_body(self, events: list[BackendRawEvent]) -> None:
        """Called after the last chunk of an unstreamed answer that is one array of chunks, with all its events: HTTP
        proves that it is whole. By default that ends nothing.
        """

    def done_mark(self) -> None:
        """Handles `[DONE]`: by default it ends an answer that has had its end mark, and is ignored in another one."""
        self.done = self.done or self.ended

    @abstractmethod
    def finish(self, events: list[BackendRawEvent]) -> None:
        """Ends the answer: appends what depended on the end mark, `Usage` where it is known, and `Completed`.

        Raises:
            GatewayError: `backend_transient` (`errors.cut_off`) where the end mark never came.
        """


class HttpDialect(ABC):
    """One dialect for one backend: encodes requests, and creates a decoder for each answer."""

    name: ClassVar[str]
    capabilities: ClassVar[Capabilities] = Capabilities()
    """What the dialect supports, before the configuration's overrides."""
    framing: ClassVar[Literal["sse", "ndjson"]] = "sse"
    probe_path: str = "/models"
    """A cheap GET that needs the credential, for `beluna-gateway check`."""

    def __init__(self, profile: BackendProfile) -> None:
        self.profile = profile
        self.max_event_bytes = profile.reliability.max_event_bytes
        """The most that is kept of an answer."""

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
        """Encodes a request as the provider wants it. Never drops a field silently.

        Raises:
            GatewayError: `unsupported_capability`, naming a field that the dialect cannot express.
        """

    @abstractmethod
    def auth_headers(self, secret: str) -> dict[str, str]:
        """The headers that carry the credential."""

    @abstractmethod
    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        """A new decoder for one answer of `model`, the model that `encode` was given."""

    def error(self, status: int, error: ProviderError, retry_after_ms: int | None) -> GatewayError:
        """The error for a response with a status other than 2xx; dialects with rules of their own override this."""
        return error_of_status(status, error, retry_after_ms=retry_after_ms)


MAX_JSON_VALUES = 1_000_000
"""The most values in one event or body: parsed, a small value takes up to a hundred times its bytes."""


_CUT_BYTES = 4 * json_pieces.PIECE_BYTES
"""Longer JSON may be parsed in pieces; nearly every event is shorter."""

_COUNTED_BYTES = 1024 * 1024


def check_json_size(payload: bytes) -> None:
    """Refuses JSON with too many values, before it is parsed.

    Raises:
        GatewayError: `protocol_violation`.
    """
    if len(payload) <= MAX_JSON_VALUES:
        return
    # Every value but the first of an array or object follows a comma. Commas inside strings are counted as well.
    # Some bytes at a time: one call for megabytes would hold up other threads.
    values = 0
    for start in range(0, len(payload), _COUNTED_BYTES):
        end = start + _COUNTED_BYTES
        values += payload.count(b",", start, end) + payload.count(b"[", start, end) + payload.count(b"{", start, end)
    if values > MAX_JSON_VALUES:
        raise protocol_violation(f"the backend sent JSON with more than {MAX_JSON_VALUES} values")


def parse_object(payload: bytes) -> JsonObject:
    """Parses one JSON object of an answer.

    Raises:
        GatewayError: `protocol_violation` where it is not a JSON object.
    """
    try:
        # cache_strings="keys": events repeat their keys, and hardly ever their values.
        if len(payload) > _CUT_BYTES:
            check_json_size(payload)
            try:
                value = json_pieces.read(payload)
            except ValueError:
                if len(payload) > _COUNTED_BYTES or (b"NaN" not in payload and b"Infinity" not in payload):
                    raise
                value = from_json(payload, cache_strings="keys")
        else:
            # Python's json writes NaN and Infinity, though they are no JSON: in statistics, scores and logprobs, which
            # must not cost an answer. What is passed on of an answer has null there, as for a number like 1e400.
            value = from_json(payload, cache_strings="keys")
    except ValueError as error:
        # A number of thousands of digits is a count or a code that is not said, and costs no answer.
        if len(payload) <= _CUT_BYTES and (shorter := strict_json.with_short_numbers(payload)) != payload:
            return parse_object(shorter)
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
