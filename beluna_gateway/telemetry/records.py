"""What is recorded of each request when it has ended, and who is told. Nothing here runs per token."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ..canonical import UsageStats


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
