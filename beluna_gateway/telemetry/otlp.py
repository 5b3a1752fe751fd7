"""Requests as OpenTelemetry spans, sent to an OTLP/HTTP collector. Needs the extra `otlp`.

Attribute names are those of the semantic conventions for generative AI (opentelemetry.io/docs/specs/semconv/gen-ai),
where there is one. A span is made when its request has ended; nothing is done per token.
"""

from __future__ import annotations

import time
from itertools import islice
from types import TracebackType
from typing import Self

from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import (
    NonRecordingSpan,
    SpanContext,
    SpanKind,
    Status,
    StatusCode,
    TraceFlags,
    TraceState,
    set_span_in_context,
)

from ..version import __version__
from .records import RequestRecord
from .trace_context import trace_context

EXPORT_SECONDS = 2
"""Timeout of an export; a collector that does not answer delays the end of the process by as much."""

MAX_METADATA, MAX_NAME_CHARACTERS, MAX_VALUE_CHARACTERS = 100, 200, 2000
"""What a span may hold of a request's `metadata`, which may have megabytes."""

_PROVIDERS = {
    "openai_compatible": "openai",
    "openai_responses": "openai",
    "anthropic": "anthropic",
    "gemini": "gcp.gemini",
    "ollama": "ollama",
    "github_copilot_sdk": "github.copilot",
}

_USAGE = {
    "input_tokens": "input_tokens",
    "output_tokens": "output_tokens",
    "cached_input_tokens": "cache_read.input_tokens",
    "cache_write_input_tokens": "cache_creation.input_tokens",
    "reasoning_tokens": "reasoning.output_tokens",
}
"""Field of `UsageStats` → attribute below `gen_ai.usage`."""


class OtlpSink:
    """The `TelemetrySink` of `telemetry.otlp`. Leaving its block sends the spans that are queued.

    Args:
        endpoint: The collector's base URL, for example ``http://127.0.0.1:4318``.
    """

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "beluna-gateway", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces", timeout=EXPORT_SECONDS)
        # The processor sends from its own thread: the event loop does not wait for the collector.
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("beluna_gateway", __version__)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._provider.shutdown()

    def finished(self, record: RequestRecord) -> None:
        """Makes the request's span, with the start and end of the request."""
        end = time.time_ns()
        span = self._tracer.start_span(
            f"chat {record.model or ''}".rstrip(),
            context=_parent(record),
            kind=SpanKind.CLIENT,
            start_time=end - int(record.duration * 1e9),
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": _PROVIDERS.get(record.dialect or "", ""),
                "gen_ai.request.model": record.model or "",
                "gen_ai.request.stream": record.streamed,
                "beluna.request_id": record.request_id,
                "beluna.backend_id": record.backend_id or "",
                "beluna.attempts": record.attempts,
                "beluna.outcome": record.outcome,
                **{
                    f"beluna.metadata.{key[:MAX_NAME_CHARACTERS]}": value[:MAX_VALUE_CHARACTERS]
                    for key, value in islice(record.metadata.items(), MAX_METADATA)
                },
            },
        )
        if record.client is not None:
            span.set_attribute("beluna.client", record.client)
        if record.uid is not None:
            span.set_attribute("beluna.uid", record.uid)
        if record.finish_reason is not None:
            span.set_attribute("gen_ai.response.finish_reasons", [record.finish_reason])
        if record.first_output_after is not None:
            for name in ("gen_ai.response.time_to_first_chunk", "gen_ai.server.time_to_first_token"):
                span.set_attribute(name, record.first_output_after)
        if record.usage is not None:
            for field, name in _USAGE.items():
                if (tokens := getattr(record.usage, field)) is not None:
                    span.set_attribute(f"gen_ai.usage.{name}", tokens)
            if record.usage.cost is not None:
                span.set_attribute("beluna.cost_usd", record.usage.cost)
        if record.error is not None:
            span.set_attribute("error.type", record.outcome)
            span.set_status(Status(StatusCode.ERROR, record.error))
        span.end(end)


def _parent(record: RequestRecord) -> Context:
    """The caller's span, which decides whether this one is sampled; without one the span begins a trace."""
    caller = trace_context(record.metadata)
    if caller is None:
        return Context()
    state = TraceState.from_header([caller.state]) if caller.state else TraceState()
    parent = SpanContext(caller.trace_id, caller.span_id, True, TraceFlags(caller.flags), state)
    return set_span_in_context(NonRecordingSpan(parent), Context())
