"""`limits` and `reports`: the limits of a budget, and what is told of them."""

from __future__ import annotations

from typing import Literal

import pytest

from beluna_gateway.config.settings import Budget
from beluna_gateway.quota.decision import Use
from beluna_gateway.quota.limits import Limits, Scope, shared_limits
from beluna_gateway.quota.reports import listed, over_limit

USE = Use(3, 70, day_micros=1_500_000, day_estimated=250_000, month_micros=2_000_001, month_estimated=500_000)
LIMITS = Limits(places=4, rate=9, tokens=60, day=1_000_000, month=2_000_000)


@pytest.mark.parametrize(
    ("reason", "prefix", "found", "retryable"),
    [
        ("tokens", "shared_", "70 tokens of the 60 of a minute are used (budget.shared_tokens_per_minute)", True),
        ("day", "", "$1.500000 of the $1 of a UTC day are spent (budget.spend_usd_per_day)", False),
        ("month", "shared_", "$2.000001 of the $2 of a UTC month are spent (budget.shared_spend_usd_per_month)", False),
    ],
)
def test_a_refusal_says_what_is_used_of_which_limit(
    reason: Literal["tokens", "day", "month"], prefix: str, found: str, retryable: bool
):
    """With whose limit it is, where it stands, and when to come again; only tokens come back soon enough to try."""
    error = over_limit(Scope("b", None, LIMITS), prefix, reason, USE, 7)
    of_client = over_limit(Scope("b", "notes", LIMITS), prefix, reason, USE, 0)

    assert (error.kind, error.message) == ("budget_exceeded", f"backend 'b': {found}")
    assert (error.retryable, error.retry_after_ms, of_client.retry_after_ms) == (retryable, 7, 1)
    assert of_client.message == f"client 'notes' at backend 'b': {found.replace('(', '(server.clients[].')}"


def test_status_lists_what_is_used_of_each_limit():
    """Money in dollars and with the share that is estimated; of the rate, and of what has no limit, nothing."""
    assert list(listed(Scope("b", None, LIMITS), USE, "shared_")) == [
        {"setting": "shared_max_concurrency", "used": 3, "limit": 4},
        {"setting": "shared_tokens_per_minute", "used": 70, "limit": 60},
        {"setting": "shared_spend_usd_per_day", "used": 1.5, "limit": 1.0, "estimated": 0.25},
        {"setting": "shared_spend_usd_per_month", "used": 2.000001, "limit": 2.0, "estimated": 0.5},
    ]
    assert list(listed(Scope("b", "notes", Limits(month=5_000_000)), USE, "")) == [
        {"setting": "spend_usd_per_month", "client": "notes", "used": 2.000001, "limit": 5.0, "estimated": 0.5}
    ]


def test_the_shared_limits_of_a_budget_are_whole_numbers():
    """Money is rounded to the nearest micro-dollar; without a shared limit there is nothing to ask the store."""
    budget = Budget(
        shared_max_concurrency=1,
        shared_rate_per_second=2,
        shared_tokens_per_minute=3,
        shared_spend_usd_per_day=1.005,
        shared_spend_usd_per_month=64.1,
    )

    assert shared_limits(budget) == Limits(places=1, rate=2, tokens=3, day=1_005_000, month=64_100_000)
    assert not shared_limits(Budget(spend_usd_per_day=5))
    assert shared_limits(Budget(shared_spend_usd_per_month=0.5))
