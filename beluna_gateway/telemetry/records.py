"""The record of one request, made when it has ended, and the interface of its receivers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..canonical import UsageStats


@dataclass(slots=True)
class RequestRecord:
    """One request from acceptance to its end. Times are in seconds; fields that were not reached keep their default."""

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
    """`completed`, `cancelled` (by the client, by its disconnect or by a shutdown) or the kind of the error."""
    finish_reason: str | None = None
    error: str | None = None
    provider_code: str | None = None
    usage: UsageStats | None = None
    """As the backend reported it, never an estimate."""
    attempt_errors: list[str] = field(default_factory=list)
    """Kind and message of the error of each attempt before the last one."""


class TelemetrySink(Protocol):
    """Receives the record of each request that has ended."""

    def finished(self, record: RequestRecord) -> None:
        """Must not block. What it raises is logged; other sinks are called all the same."""
