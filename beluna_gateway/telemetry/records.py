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
    model_is_configured: bool = False
    """Whether the configuration names the model; the client may have named any."""
    operation: str = "infer"
    """`infer`, `embed`, `count_tokens` or `models`."""
    streamed: bool = True
    attempts: int = 0
    first_output_after: float | None = None
    """The first output that the client got; of an attempt that failed there is none."""
    reasoning_first: bool = False
    """Whether that was reasoning."""
    duration: float = 0.0
    cancel_seconds: float | None = None
    """From the client's `cancel` or disconnect, or the shutdown, until the backend's connection was closed."""
    outcome: str = "cancelled"
    """`completed`, `cancelled` (by the client, by its disconnect or by a shutdown) or the kind of the error."""
    finish_reason: str | None = None
    error: str | None = None
    provider_code: str | None = None
    usage: UsageStats | None = None
    """As the backend reported it, never an estimate."""
    attempt_errors: list[str] = field(default_factory=list)
    """Kind and message of the error of each attempt before the last one."""
    client: str | None = None
    """The client's name, or its uid as text where no clients are configured; None: an embedding program."""
    uid: int | None = None

    @property
    def seconds_per_output_token(self) -> float | None:
        """The time between two tokens after the first output, of a streamed answer that completed.

        Reasoning tokens count only where reasoning was delivered: others came before the first output.
        """
        if self.outcome != "completed" or not self.streamed or self.first_output_after is None or self.usage is None:
            return None
        tokens = self.usage.output_tokens or 0
        if not self.reasoning_first:
            tokens -= self.usage.reasoning_tokens or 0
        return (self.duration - self.first_output_after) / (tokens - 1) if tokens > 1 else None


class TelemetrySink(Protocol):
    """Receives the record of each request that has ended."""

    def finished(self, record: RequestRecord) -> None:
        """Must not block. What it raises is logged; other sinks are called all the same."""
