"""Requests as OpenTelemetry spans, sent to an OTLP/HTTP collector. Needs the extra `otlp`.

Attribute names are those of the semantic conventions for generative AI (opentelemetry.io/docs/specs/semconv/gen-ai),
where there is one. A span is made when its request has ended: nothing is done while tokens flow.
"""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import SpanKind, Status, StatusCode

from ..version import __version__
from .records import RequestRecord

_EXPORT_SECONDS = 2  # a collector that does not answer may hold up the daemon's end for so long
_PROVIDERS = {
    "openai_compatible": "openai",
    "openai_responses": "openai",
    "anthropic": "anthropic",
    "gemini": "gcp.gemini",
    "ollama": "ollama",
    "github_copilot_sdk": "github.copilot",
}


class OtlpSink:
    """The `TelemetrySink` of `telemetry.otlp`. Leaving its block sends what is left.

    Args:
        endpoint: The collector's base URL, for example ``http://127.0.0.1:4318``.
    """

    def __init__(self, endpoint: str) -> None:
        resource = Resource.create({"service.name": "beluna-gateway", "service.version": __version__})
        self._provider = TracerProvider(resource=resource)
        exporter = OTLPSpanExporter(endpoint.rstrip("/") + "/v1/traces", timeout=_EXPORT_SECONDS)
        # The processor sends from a thread of its own: the event loop never waits for the collector.
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("beluna_gateway", __version__)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._provider.shutdown()

    def finished(self, record: RequestRecord) -> None:
        """Makes the request's span, with the times that it had."""
        end = time.time_ns()
        span = self._tracer.start_span(
            f"chat {record.model or ''}".rstrip(),
            kind=SpanKind.CLIENT,
            start_time=end - int(record.duration * 1e9),
            attributes={
                "gen_ai.operation.name": "chat",
                "gen_ai.provider.name": _PROVIDERS.get(record.dialect or "", ""),
                "gen_ai.request.model": record.model or "",
                "beluna.request_id": record.request_id,
                "beluna.backend_id": record.backend_id or "",
                "beluna.attempts": record.attempts,
                "beluna.outcome": record.outcome,
                **{f"beluna.metadata.{key}": value for key, value in record.metadata.items()},
            },
        )
        if record.finish_reason is not None:
            span.set_attribute("gen_ai.response.finish_reasons", [record.finish_reason])
        if record.first_output_after is not None:
            span.set_attribute("gen_ai.server.time_to_first_token", record.first_output_after)
        if record.usage is not None:
            for name in ("input_tokens", "output_tokens"):
                if (tokens := getattr(record.usage, name)) is not None:
                    span.set_attribute(f"gen_ai.usage.{name}", tokens)
            if record.usage.cost is not None:
                span.set_attribute("beluna.cost_usd", record.usage.cost)
        if record.error is not None:
            span.set_attribute("error.type", record.outcome)
            span.set_status(Status(StatusCode.ERROR, record.error))
        span.end(end)
