"""What is told of limits: the refusal of a request, and what is used of how much."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from ..errors import GatewayError
from .decision import Use
from .limits import MICROS, SETTINGS, Reason, Scope


def over_limit(
    scope: Scope, prefix: str, reason: Literal["tokens", "day", "month"], use: Use, milliseconds: int
) -> GatewayError:
    """`budget_exceeded` for money or tokens that are spent.

    Args:
        scope: Whose they are.
        prefix: Of the setting: `shared_`, or nothing.
        reason: Which limit.
        use: What has been used.
        milliseconds: Until requests may begin again.
    """
    whose = f"backend {scope.backend_id!r}"
    if scope.client is not None:
        whose = f"client {scope.client!r} at {whose}"
    limit = getattr(scope.limits, reason)
    setting = f"{scope.setting}.{prefix}{SETTINGS[reason]}"
    if reason == "tokens":
        found = f"{use.tokens} tokens of the {limit} of a minute are used"
    else:
        spent = use.day_micros if reason == "day" else use.month_micros
        found = f"${spent / MICROS:.6f} of the ${limit / MICROS:g} of a UTC {reason} are spent"
    return GatewayError(
        "budget_exceeded",
        f"{whose}: {found} ({setting})",
        retryable=reason == "tokens",
        retry_after_ms=max(milliseconds, 1),
    )


def listed(scope: Scope, use: Use, prefix: str) -> Iterator[dict[str, Any]]:
    """What is used of each limit of a scope, for `status` frames and metrics. Money in dollars."""
    amounts: Sequence[tuple[Reason, float, float]] = (
        ("places", use.places, 0),
        ("tokens", use.tokens, 0),
        ("day", use.day_micros / MICROS, use.day_estimated / MICROS),
        ("month", use.month_micros / MICROS, use.month_estimated / MICROS),
    )
    for reason, amount, estimated in amounts:
        limit = getattr(scope.limits, reason)
        if limit is None:
            continue
        entry: dict[str, Any] = {"setting": f"{prefix}{SETTINGS[reason]}"}
        if scope.client is not None:
            entry["client"] = scope.client
        money = reason in ("day", "month")
        entry.update(used=amount, limit=limit / MICROS if money else limit)
        if money:
            entry["estimated"] = estimated
        yield entry
