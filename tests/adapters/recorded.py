"""Recorded conversations with backends, and how they are played: `recordings/<dialect>/<case>/`.

==================  ====================================================================================
file                what it holds
==================  ====================================================================================
ORIGIN              where the bytes come from; a line that begins with ``looser:`` says in what the answer is
                    looser than the provider's own SDK allows, and exempts it from that check
request.json        the `infer` frame, as on the wire
body.json           the HTTP body that `encode` makes of it
response.sse        the raw answer, as server-sent events; or
response.ndjson     … as NDJSON; or
response.json       … not streamed
events.ndjson       the frames a client gets, without `request_id`; a failure as its `kind` and `provider_code`
backend.json        optional: more keys of the backend's configuration
status              optional: the answer's HTTP status, where it is no success
==================  ====================================================================================

A call id that the gateway made up stands in `events.ndjson` as ``made-up-1``, ``made-up-2``, …
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from beluna_gateway.adapters import http_dialect
from beluna_gateway.adapters.base import HttpDialect
from beluna_gateway.adapters.decoding.provider_errors import read_error_body
from beluna_gateway.adapters.encoding.provider_state import TurnNotes
from beluna_gateway.adapters.http.answer import Answer
from beluna_gateway.adapters.http.connections import BrokenExchange
from beluna_gateway.adapters.http.ndjson import NdjsonParser
from beluna_gateway.adapters.http.payloads import parses
from beluna_gateway.adapters.http.sse import SseParser
from beluna_gateway.canonical import (
    Annotation,
    BackendRawEvent,
    CanonicalRequest,
    Completed,
    OtherFinishReason,
    OutputTextDelta,
    Progress,
    ReasoningDelta,
    ToolCallDelta,
    ToolCallReady,
    Usage,
)
from beluna_gateway.config.settings import BackendProfile, BackendSettings, Budget, Reliability
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.request_normalizer import RequestNormalizer
from beluna_gateway.wire.frames import Infer
from beluna_gateway.wire.ndjson import annotation_object, usage_object

RECORDINGS = Path(__file__).parent / "recordings"
MAX_EVENT = 1 << 20
_MADE_UP = re.compile(r"^call_[0-9a-f]{32}$")

ENDPOINTS = {
    "openai_compatible": "http://127.0.0.1:8080/v1",
    "openai_responses": "https://api.openai.com/v1",
    "anthropic": "https://api.anthropic.com",
    "gemini": "https://generativelanguage.googleapis.com",
    "ollama": "http://127.0.0.1:11434",
}
WireEvent = dict[str, Any]


def dialect(name: str, **backend_keys: Any) -> HttpDialect:
    """The dialect `name` for a backend with these extra keys of configuration."""
    backend = BackendSettings.model_validate(
        {
            "id": "recorded",
            "dialect": name,
            "endpoint": ENDPOINTS[name],
            "credential": {"type": "none"},
            "default_model": "default-model",
            **backend_keys,
        }
    )
    return http_dialect(BackendProfile(backend, Reliability(), Budget(), Path()))


def notes(name: str, model: str = "default-model") -> TurnNotes:
    """Empty notes of an answer that this dialect's recorded backend gives."""
    return TurnNotes(name, "recorded", model)


def canonical(frame: dict[str, Any]) -> CanonicalRequest:
    """The request that an `infer` frame asks for."""
    return RequestNormalizer().normalize(Infer.model_validate_json(json.dumps(frame)), "recorded")


@dataclass(frozen=True)
class Recording:
    dialect_name: str
    folder: Path

    @property
    def id(self) -> str:
        return f"{self.dialect_name}/{self.folder.name}"

    @cached_property
    def dialect(self) -> HttpDialect:
        extra = self.folder / "backend.json"
        return dialect(self.dialect_name, **(json.loads(extra.read_text()) if extra.exists() else {}))

    @cached_property
    def request(self) -> CanonicalRequest:
        return canonical(json.loads((self.folder / "request.json").read_text()))

    @cached_property
    def body(self) -> Any:
        return json.loads((self.folder / "body.json").read_text())

    @cached_property
    def answer(self) -> bytes:
        return next(path for path in self.folder.glob("response.*")).read_bytes()

    @property
    def streamed(self) -> bool:
        return not (self.folder / "response.json").exists()

    @property
    def status(self) -> int:
        path = self.folder / "status"
        return int(path.read_text()) if path.exists() else 200

    @cached_property
    def expected(self) -> list[WireEvent]:
        return [json.loads(line) for line in (self.folder / "events.ndjson").read_text().splitlines() if line]

    @cached_property
    def origin(self) -> str:
        return (self.folder / "ORIGIN").read_text()

    @property
    def looser(self) -> bool:
        """The answer comes from a server that is looser than its provider's SDK."""
        return any(line.startswith("looser:") for line in self.origin.splitlines())

    def payloads(self) -> list[bytes]:
        """The whole events of the streamed answer, undecoded."""
        parser = _parser(self.dialect)
        return [*parser.feed(self.answer), *filter(parses, parser.close())]

    def play(self, chunks: Iterable[bytes]) -> list[WireEvent]:
        """What a client gets of the answer, if it comes in these chunks."""
        return wire_events(*decode(self.dialect, self.request, chunks), self.request)

    def play_whole(self) -> list[WireEvent]:
        """What a client gets of an answer that is no stream."""
        return wire_events(*decode_whole(self.dialect, self.request, self.answer, self.status), self.request)


def recordings() -> list[Recording]:
    """Every case of every dialect."""
    return [
        Recording(folder.parent.name, folder)
        for folder in sorted(RECORDINGS.glob("*/*"))
        if (folder / "request.json").exists()
    ]


class _Body:
    """A response's body that is all there, in these chunks."""

    def __init__(self, chunks: Iterable[bytes], *, cut: bool, waits: list[float] | None) -> None:
        self._chunks = iter(chunks)
        self._cut = cut
        self._waits = waits

    async def until(self, take: Callable[[bytes], bool], within: float | None = None) -> bool:
        if any(take(chunk) for chunk in self._chunks if chunk):
            return False
        if self._waits is not None and within is not None:
            self._waits.append(within)
            raise TimeoutError
        if self._cut:
            raise BrokenExchange("backend_transient", "the connection was cut", retryable=True)
        return True


class _Events(list[BackendRawEvent]):
    """An `Emit` whose client reads at once."""

    blocked = False

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        self.extend(events)

    async def drained(self) -> None:
        """Never called."""


class _NoTimer:
    """A `SilenceTimer` for answers that are all there."""

    def connecting(self) -> None: ...

    def connected(self) -> None: ...

    def progressed(self) -> None: ...

    def suspended(self) -> None: ...


def decode(
    of: HttpDialect,
    request: CanonicalRequest,
    chunks: Iterable[bytes],
    *,
    stream: bool = True,
    cut: bool = False,
    limit: int = MAX_EVENT,
    waits: list[float] | None = None,
) -> tuple[list[BackendRawEvent], GatewayError | None]:
    """The events of an answer with status 200, and the error it ended in, if any: as `HttpAdapter`, without a network.

    After the last chunk comes HTTP's own end of the body, or with `cut` the end of the connection before that, or with
    `waits` nothing: it gets the seconds that more was waited for.
    """
    events = _Events()
    answer = Answer(of.decoder(request, request.model or "default-model"), of.framing, limit, events, _NoTimer())
    try:
        answer.read(_Body(chunks, cut=cut, waits=waits), stream).send(None)
    except StopIteration:
        return list(events), None
    except GatewayError as error:
        return list(events), error
    raise AssertionError("the answer waits for more than there is")


def decode_whole(
    of: HttpDialect, request: CanonicalRequest, answer: bytes, status: int = 200
) -> tuple[list[BackendRawEvent], GatewayError | None]:
    """As `decode`, of an answer that is no stream."""
    if status != 200:
        return [], of.error(status, read_error_body(answer), None)
    return decode(of, request, [answer], stream=False)


def _parser(of: HttpDialect) -> SseParser | NdjsonParser:
    return SseParser(MAX_EVENT) if of.framing == "sse" else NdjsonParser(MAX_EVENT)


def wire_events(
    events: Iterable[BackendRawEvent], error: GatewayError | None, request: CanonicalRequest
) -> list[WireEvent]:
    """Events as a client sees them, without `request_id`; made-up call ids renamed in their order."""
    made_up: dict[str, str] = {}
    frames: list[WireEvent] = []
    for event in events:
        if isinstance(event, Progress) or (isinstance(event, ReasoningDelta) and not request.include_reasoning):
            continue
        frame = _wire_event(event)
        holder, key = (frame["call"], "id") if "call" in frame else (frame, "call_id")
        if (own := holder.get(key)) is not None and _MADE_UP.match(own):
            holder[key] = made_up.setdefault(own, f"made-up-{len(made_up) + 1}")
        frames.append(frame)
    if made_up and frames and "backend_metadata" in frames[-1]:
        # A provider's state names calls, too.
        metadata = json.dumps(frames[-1]["backend_metadata"])
        for own, name in made_up.items():
            metadata = metadata.replace(own, name)
        frames[-1]["backend_metadata"] = json.loads(metadata)
    if error is not None:
        frames.append({"type": "failed", "error": {"kind": error.kind, "provider_code": error.provider_code}})
    return frames


def _wire_event(event: BackendRawEvent) -> WireEvent:
    match event:
        case OutputTextDelta(delta):
            assert delta, "an output_text_delta is never empty"
            return {"type": "output_text_delta", "delta": delta}
        case ReasoningDelta(delta):
            assert delta, "a reasoning_delta is never empty"
            return {"type": "reasoning_delta", "delta": delta}
        case ToolCallDelta(call_id, name, arguments):
            return {"type": "tool_call_delta", "call_id": call_id, "name": name, "arguments_delta": arguments}
        case ToolCallReady(call):
            assert json.loads(call.arguments_json) == call.arguments
            ready = {"id": call.id, "name": call.name, "arguments_json": call.arguments_json, "status": "ready"}
            return {"type": "tool_call_ready", "call": ready}
        case Annotation():
            return {"type": "annotation", "annotation": annotation_object(event)}
        case Usage(usage):
            return {"type": "usage", "usage": usage_object(usage)}
        case Completed(reason, metadata):
            word = {"other": reason.other} if isinstance(reason, OtherFinishReason) else reason
            return {"type": "completed", "finish_reason": word, "backend_metadata": metadata}
    raise TypeError(f"{event!r} has no frame")
