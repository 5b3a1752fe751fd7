"""The response of an operation: one result, or one failure. The `ResponseNormalizer` of what is no inference."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from ..canonical import BackendRawEvent, Embedding, Failed, ModelList, OperationResult, TokenCount, UsageStats
from ..config.settings import Pricing
from ..errors import GatewayError
from ..wire.strict_json import without_too_large
from .pricing import ListedCost, spent


class OperationResponse:
    """The `Emit` of one operation, for all its attempts. Its fields are those of `ResponseNormalizer`.

    Args:
        clock: Monotonic seconds.
    """

    blocked = False
    """Nobody reads before the result is there."""
    output_sent = False
    """Nothing is written before the end, so that any attempt may be followed by another one."""
    reasoning_first = False

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self.price: Pricing | None = None
        self.listed_cost: ListedCost | None = None
        self.first_output_at: float | None = None
        self.usage: UsageStats | None = None
        self.terminal: OperationResult | Failed | None = None

    async def drained(self) -> None:
        """See `Emit`."""

    def start(self, backend_id: str, model: str) -> None:
        """An operation has no `Started`."""

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        """Takes the result."""
        for event in events:
            if self.terminal is not None or not isinstance(event, Embedding | TokenCount | ModelList):
                raise GatewayError("internal", f"the dialect answered an operation with {type(event).__name__}")
            if isinstance(event, Embedding):
                self.usage = event.usage = self._priced(event.usage)
            elif isinstance(event, ModelList):
                event.models = [without_too_large(model) for model in event.models]
            self.first_output_at = self._clock()
            self.terminal = event

    def _priced(self, usage: UsageStats) -> UsageStats:
        nothing_out = replace(usage, output_tokens=0)  # a vector is no output that is paid for
        raw = None if usage.provider_usage_raw is None else without_too_large(usage.provider_usage_raw)
        return replace(usage, cost=spent(nothing_out, self.price, self.listed_cost), provider_usage_raw=raw)

    def assert_ended(self) -> None:
        """See `ResponseNormalizer.assert_ended`."""
        if self.terminal is None:
            raise GatewayError("internal", "the dialect left an operation without a result")

    def fail(self, error: GatewayError) -> None:
        """Keeps `error` as the result, unless there is one."""
        if self.terminal is None:
            self.terminal = Failed(error)
