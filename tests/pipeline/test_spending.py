"""`SpendingMeter`: what a request is charged."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from typing import Any

import pytest

from beluna_gateway.canonical import (
    BackendRawEvent,
    CanonicalRequest,
    EmbeddingRequest,
    OutputTextDelta,
    ReasoningDelta,
    TextPart,
    UsageStats,
    UserMessage,
)
from beluna_gateway.config.settings import Pricing
from beluna_gateway.pipeline.spending import Charge, SpendingMeter

PRICE = Pricing(input_per_mtok=1, output_per_mtok=2)
REQUEST = CanonicalRequest("r", (UserMessage((TextPart("x" * 400),)),))


class Played:
    """A call whose answer is `events`."""

    def __init__(self, *events: BackendRawEvent) -> None:
        self.events = events

    async def attempt(self, emit: Any, timer: Any) -> None:
        emit(list(self.events))


class Nowhere:
    blocked = False

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        pass

    async def drained(self) -> None:
        pass


async def meter(*events: BackendRawEvent, request: Any = REQUEST) -> SpendingMeter:
    made = SpendingMeter(request)
    await made.watched(Played(*events)).attempt(Nowhere(), None)
    return made


async def test_reported_usage_is_charged_as_it_is():
    """With its cost, to the micro-dollar; no estimate, whatever came."""
    one = await meter(OutputTextDelta("x" * 4000))

    assert one.charge(UsageStats(5, 6, cost=0.000017), "completed", PRICE, None) == Charge(17, 0, 11)


async def test_a_model_without_a_price_costs_nothing():
    """Its tokens count."""
    one = await meter(OutputTextDelta("x" * 40))

    assert one.charge(UsageStats(5, 6), "completed", None, None) == Charge(0, 0, 11)
    assert one.charge(None, "cancelled", None, None) == Charge(0, 0, 110)


@pytest.mark.parametrize("outcome", ["cancelled", "timeout", "completed", "backend_transient"])
async def test_an_answer_that_ended_without_usage_is_estimated(outcome):
    """Four characters are a token, of the request and of what came back, reasoning included."""
    one = await meter(OutputTextDelta("x" * 30), ReasoningDelta("x" * 10))

    assert one.charge(None, outcome, PRICE, None) == Charge(120, 120, 110)


async def test_hanging_up_before_the_first_output_is_not_free():
    """What went in is charged; a refusal of the backend is not, nor what never reached it."""
    one = await meter()

    assert one.charge(None, "cancelled", PRICE, None) == Charge(100, 100, 100)
    assert one.charge(None, "rate_limited", PRICE, None) == Charge(0, 0, 0)
    assert SpendingMeter(REQUEST).charge(None, "cancelled", PRICE, None) == Charge(0, 0, 0)


async def test_half_of_the_usage_is_completed_by_an_estimate():
    """A backend that reports what went in only."""
    one = await meter(OutputTextDelta("x" * 40))

    assert one.charge(UsageStats(input_tokens=7), "completed", PRICE, None) == Charge(27, 27, 17)


async def test_embeddings_are_estimated_by_their_inputs():
    """Where the provider reports nothing."""
    one = await meter(request=EmbeddingRequest("r", ("x" * 40, "y")))

    assert one.charge(None, "completed", PRICE, None) == Charge(11, 11, 11)


def test_without_such_limits_nothing_of_it_is_imported():
    """Neither the store's modules nor redis or sqlite3, for a gateway that has been made and has served."""
    script = """
import asyncio, sys
from beluna_gateway import AIGateway
from beluna_gateway.config.settings import Config
backend = {"id": "b", "dialect": "ollama", "endpoint": "http://127.0.0.1:1", "default_model": "m"}
backend["credential"] = {"type": "none"}
config = Config.model_validate({"ai_gateway": {"default_backend": "b", "backends": [backend]}})
async def main():
    async with AIGateway(config) as gateway:
        await gateway.start()
        async with gateway.infer_stream(messages=[{"role": "user", "parts": [{"text": {"text": "x"}}]}]) as events:
            async for _ in events: pass
        gateway.status()
asyncio.run(main())
print(sorted(name for name in sys.modules if name.startswith(("beluna_gateway.quota", "redis", "sqlite3"))))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)

    assert done.stdout == "[]\n", done.stderr
