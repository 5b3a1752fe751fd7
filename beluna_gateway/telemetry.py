"""What happened, one record per request: a log line, the metrics of `/metrics`, a span. Nothing here runs per token."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from .canonical import UsageStats
from .config import Otlp, Telemetry
from .redaction import Redactor

if TYPE_CHECKING:
    from .otlp import OtlpSink


@dataclass(slots=True)
class RequestRecord:
    """One request from acceptance to its end, as far as it came. Times are seconds."""

    request_id: str
    metadata: Mapping[str, str]
    started_at: float
    backend_id: str | None = None
    dialect: str | None = None
    model: str | None = None
    attempts: int = 0
    first_output_after: float | None = None
    duration: float = 0.0
    outcome: str = "cancelled"
    """`completed`, `cancelled` (the client went, or said so) or the kind of the error."""
    finish_reason: str | None = None
    error: str | None = None
    provider_code: str | None = None
    usage: UsageStats | None = None
    """What the backend reported; None where it reported nothing, never an estimate."""
    attempt_errors: list[str] = field(default_factory=list)
    """How each attempt before the last one ended."""


class TelemetrySink(Protocol):
    """Is told of each request that ended."""

    def finished(self, record: RequestRecord) -> None:
        """Must not block and must not raise."""


class LogSink:
    """One structured line per request."""

    def __init__(self) -> None:
        self._log = structlog.get_logger("beluna_gateway.request")

    def finished(self, record: RequestRecord) -> None:
        """Info for what went well or was cancelled, warning for what failed."""
        fields: dict[str, Any] = {
            "request_id": record.request_id,
            "backend_id": record.backend_id,
            "model": record.model,
            "outcome": record.outcome,
            "attempts": record.attempts,
            "duration_ms": round(record.duration * 1000),
        }
        if record.first_output_after is not None:
            fields["first_output_ms"] = round(record.first_output_after * 1000)
        if record.usage is not None:
            fields["input_tokens"] = record.usage.input_tokens
            fields["output_tokens"] = record.usage.output_tokens
            if record.usage.cost is not None:
                fields["cost_usd"] = record.usage.cost
        for name in ("finish_reason", "error", "provider_code", "attempt_errors", "metadata"):
            if value := getattr(record, name):
                fields[name] = value
        if record.outcome in ("completed", "cancelled"):
            self._log.info("request", **fields)
        else:
            self._log.warning("request", **fields)


class MissingExtra(Exception):
    """The configuration asks for something whose packages are not installed."""


def otlp_sink(settings: Otlp) -> OtlpSink:
    """Sends spans to a collector.

    Raises:
        MissingExtra: The packages of the extra `otlp` are not installed.
    """
    try:
        from .otlp import OtlpSink
    except ImportError as error:
        raise MissingExtra(f"telemetry.otlp: {error}; install it with pip install 'beluna-gateway[otlp]'") from error
    return OtlpSink(settings.endpoint)


def configure_logging(settings: Telemetry, redactor: Redactor) -> None:
    """Logs go to stderr, a line each, with every known secret taken out of every text."""

    def redacted(_logger: object, _method: str, event: MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        for key, value in event.items():
            event[key] = _redact(value, redactor)
        return event

    renderer: structlog.typing.Processor = (
        structlog.processors.JSONRenderer()
        if settings.log_format == "json"
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty())
    )
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            redacted,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.getLevelNamesMapping()[settings.log_level.upper()]),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )


def _redact(value: Any, redactor: Redactor) -> Any:
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {redactor.redact(str(key)): _redact(item, redactor) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact(item, redactor) for item in value]
    return redactor.redact(value if isinstance(value, str) else repr(value))  # as the renderer would write it
