"""A program with a gateway inside: what it may rely on, told to the type checker."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import assert_never, assert_type

from beluna_gateway import InferRequest
from beluna_gateway.adapters.base import BackendAdapter, Call, Emit, SilenceTimer
from beluna_gateway.canonical import (
    Annotation,
    CanonicalRequest,
    Completed,
    Failed,
    FinishReason,
    GatewayEvent,
    JsonObject,
    OtherFinishReason,
    OutputTextDelta,
    ReasoningDelta,
    ResolvedCredential,
    Started,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    Usage,
    UsageStats,
)
from beluna_gateway.config.loading import load_config
from beluna_gateway.config.settings import BackendProfile, Capabilities, Config
from beluna_gateway.errors import ErrorKind, GatewayError
from beluna_gateway.event_stream import EventStream, InferenceResult
from beluna_gateway.gateway import AIGateway
from beluna_gateway.pipeline.response_normalizer import EventSink
from beluna_gateway.telemetry.records import RequestRecord, TelemetrySink
from beluna_gateway.wire.frames import Infer

QUESTION = {"messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}]}]}


async def one_answer(path: Path) -> str:
    """A question, and its answer as a whole."""
    config = load_config(path)
    assert_type(config, Config)
    async with AIGateway(config, path.parent) as gateway:
        assert_type(gateway, AIGateway)
        result = await gateway.infer_once(QUESTION)
        assert_type(result, InferenceResult)
        assert_type(result.finish_reason, FinishReason)
        assert_type(result.tool_calls, tuple[ToolCall, ...])
        assert_type(result.usage, UsageStats | None)
        return result.output_text


async def by_keywords(gateway: AIGateway) -> list[list[float]]:
    """Fields one by one are checked, at every depth."""
    request: InferRequest = {"messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}]}]}
    result = await gateway.infer_once(**request)
    await gateway.infer_once(messages=[{"role": "assistant", "parts": [], "tool_calls": [*result.tool_calls]}])
    await gateway.infer_once(messages=[], reasoning={"effort": "low"}, limits={"max_output_tokens": 5})
    await gateway.infer_once(message=[])  # type: ignore[call-overload]
    await gateway.infer_once(messages=[], reasoning={"effort": "lots"})  # type: ignore[call-overload]
    assert_type(await gateway.count_tokens(messages=[]), int)
    assert_type(await gateway.models(backend_id="b"), list[JsonObject])
    return (await gateway.embed(inputs=["a"])).vectors


async def a_stream_by_keywords(gateway: AIGateway) -> None:
    """A stream's fields are checked, too: one by one, as a typed dictionary, and what is no field or no word of one."""
    request: InferRequest = {
        "messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}], "cache": True}],
        "tools": [{"name": "f", "input_schema": {"type": "object"}, "strict": True}],
        "tool_choice": {"specific": {"name": "f"}},
        "reasoning": {"budget_tokens": 2048},
        "cache": {"retention": "long"},
        "include_annotations": True,
    }
    async with gateway.infer_stream(**request) as events:
        assert_type(events, EventStream)
    async with gateway.infer_stream(messages=[], parallel_tool_calls=False, service_tier="flex") as events:
        assert_type(await anext(aiter(events)), GatewayEvent)
    gateway.infer_stream(request)
    gateway.infer_stream(message=[])  # type: ignore[call-overload]
    gateway.infer_stream(messages=[], cache={"retention": "for ever"})  # type: ignore[call-overload]
    gateway.infer_stream(request, stream=False)  # type: ignore[call-overload]


async def a_stream(gateway: AIGateway) -> str:
    """Event by event; the type checker sees that none is forgotten."""
    said = ""
    async with gateway.infer_stream(Infer(type="infer", messages=[])) as events:
        assert_type(events, EventStream)
        async for event in events:
            match event:
                case OutputTextDelta(delta) | ReasoningDelta(delta):
                    said += delta
                case Started() | ToolCallDelta() | ToolCallReady() | Annotation() | Usage():
                    pass
                case Completed(finish_reason):
                    said += finish_reason.other if isinstance(finish_reason, OtherFinishReason) else finish_reason
                case Failed(error):
                    raise error
                case _:
                    assert_never(event)
    return said


def by_kind(error: GatewayError) -> bool:
    """A program decides by the kind, of which there is a closed list."""
    assert_type(error.kind, ErrorKind)
    assert_type(error.retry_after_ms, int | None)
    return error.retryable or error.kind == "circuit_open"


class Printer:
    """An `EventSink` and a `TelemetrySink` need not know of our classes."""

    blocked = False

    def write(self, events: Sequence[GatewayEvent]) -> None:
        """Takes a batch."""

    async def drained(self) -> None:
        """Is never blocked."""

    def finished(self, record: RequestRecord) -> None:
        """Is told of each request."""
        assert_type(record.usage, UsageStats | None)


class Echo(BackendAdapter):
    """An adapter of the program's own."""

    capabilities = Capabilities(tool_calls=False)

    def __init__(self, profile: BackendProfile) -> None:
        self.profile = profile

    def prepare(self, request: CanonicalRequest, model: str, credential: ResolvedCredential) -> Call:
        """Echoes the last message."""
        return EchoCall(request)

    async def probe(self, credential: ResolvedCredential) -> str:
        """Is always there."""
        return "echo"

    async def close(self) -> None:
        """Has nothing to close."""


class EchoCall:
    """Fits `Call` without inheriting it."""

    def __init__(self, request: CanonicalRequest) -> None:
        self.request = request

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        """Says it, and ends."""
        timer.connecting()
        emit([OutputTextDelta(str(self.request.messages[-1].parts)), Completed("stop", {})])


async def with_its_own_parts(config: Config, sink: EventSink, telemetry: TelemetrySink) -> None:
    """The table of adapters, the events' reader and the telemetry are the program's to choose."""
    async with AIGateway(config, adapters={"ollama": Echo}, telemetry=[telemetry, Printer()]) as gateway:
        await gateway.infer(Infer(type="infer", messages=[]), "r1", sink)
        await gateway.infer(Infer(type="infer", messages=[]), "r2", Printer())
