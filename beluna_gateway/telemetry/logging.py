"""The log: structured lines on standard error, secrets taken out, one line per request."""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping, MutableMapping
from typing import Any

import structlog

from ..config.settings import Telemetry
from .records import RequestRecord
from .redaction import Redactor


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
