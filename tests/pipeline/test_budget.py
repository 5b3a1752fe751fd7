"""`BudgetEnforcer`: places, starts, time and tokens; and that everything taken comes back."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beluna_gateway.canonical import CanonicalRequest, UsageStats
from beluna_gateway.config.settings import Budget
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.budget import BudgetEnforcer

from ..fakes.clock import virtual_time


def enforcer(**values: Any) -> BudgetEnforcer:
    return BudgetEnforcer(Budget(**values), "b")


def request(**fields: Any) -> CanonicalRequest:
    return CanonicalRequest("r1", (), **fields)


async def test_asking_for_too_many_tokens_is_refused():
    """`max_output_tokens` above the limit is `budget_exceeded`; at the limit, or unsaid, it passes."""
    budget = enforcer(max_usage_tokens_per_request=100)
    with pytest.raises(GatewayError) as caught:
        budget.check(request(max_output_tokens=101))

    assert (caught.value.kind, caught.value.retryable) == ("budget_exceeded", False)
    assert caught.value.message == (
        "limits.max_output_tokens: 101 is more than the 100 that a request to backend 'b' may use "
        "(budget.max_usage_tokens_per_request)"
    )
    budget.check(request(max_output_tokens=100))
    budget.check(request())
    enforcer().check(request(max_output_tokens=2**64 - 1))


async def test_the_time_of_a_request_is_cut_to_the_configured_most():
    """A request may ask for less time, and gets no more than is configured."""
    budget = enforcer(max_request_time_ms=2000)

    assert [budget.seconds(request(max_request_time_ms=ms)) for ms in (None, 500, 9000)] == [2.0, 0.5, 2.0]


async def test_reported_usage_is_accounted():
    """The total counts, else what is known of both sides; nothing known counts nothing."""
    budget = enforcer(max_usage_tokens_per_request=1)
    for usage in (
        UsageStats(5, 6, 20),
        UsageStats(5, 6),
        UsageStats(input_tokens=3),
        UsageStats(),
        UsageStats(1, 1, 0),
    ):
        budget.account(usage)

    assert budget.used.tokens == 20 + 11 + 3
    assert budget.used.output_tokens == 6 + 6 + 1


@virtual_time
async def test_starts_are_smoothed():
    """One second's worth may start at once; the next one waits for its share of the second."""
    budget = enforcer(rate_smoothing_per_second=20, max_concurrency_per_backend=100)
    loop = asyncio.get_running_loop()
    begun = loop.time()
    for _ in range(20):
        async with budget.lease():
            pass
    burst = loop.time() - begun
    async with budget.lease():
        pass

    assert burst < 0.001
    assert loop.time() - begun == pytest.approx(1 / 20, abs=0.001)


@given(st.lists(st.tuples(st.sampled_from([0.0, 0.1, 0.5]), st.booleans()), max_size=15), st.sampled_from([1, 2, 5]))
@settings(max_examples=40)
def test_starts_are_given_in_order(arrivals: list[tuple[float, bool]], rate: int):
    """Who came first starts first, whoever gave up meanwhile; and never more than a second's worth at once."""

    @virtual_time
    async def run() -> None:
        budget = enforcer(rate_smoothing_per_second=rate, max_concurrency_per_backend=100)
        loop = asyncio.get_running_loop()
        started: list[tuple[int, float]] = []

        async def one(number: int) -> None:
            async with budget.lease():
                started.append((number, loop.time()))

        tasks = []
        for number, (pause, gives_up) in enumerate(arrivals):
            tasks.append(asyncio.create_task(one(number)))
            await asyncio.sleep(pause)
            if gives_up:
                tasks[-1].cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

        assert (budget.in_flight, budget.queued) == (0, 0)
        assert started == sorted(started)
        for earlier, later in zip(started, started[2 * rate :], strict=False):
            assert later[1] - earlier[1] > 0.99

    run()


async def test_a_wait_for_a_start_that_is_cancelled_gives_back_its_place():
    """Who waits for a rate token holds a place, and gives it back."""
    budget = enforcer(rate_smoothing_per_second=1, max_concurrency_per_backend=1)
    async with budget.lease():
        pass
    waiting = asyncio.create_task(_hold(budget, asyncio.Event()))
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert (budget.in_flight, budget.queued) == (0, 1)
    waiting.cancel()
    await asyncio.wait([waiting])

    assert (budget.in_flight, budget.queued) == (0, 0)


async def _hold(
    budget: BudgetEnforcer, release: asyncio.Event, order: list[int] | None = None, number: int = 0
) -> None:
    async with budget.lease():
        if order is not None:
            order.append(number)
        await release.wait()
        if number % 3 == 2:
            raise ValueError("the request failed")


# What is done to a request: None lets one more arrive, a number ends, cancels or cancels twice one of those there.
_actions = st.lists(
    st.tuples(st.sampled_from(["arrive", "arrive", "finish", "cancel", "cancel twice", "rest"]), st.integers(0, 30)),
    max_size=40,
)


@given(_actions, st.integers(1, 4), st.sampled_from([{}, {"spend_usd_per_day": 1.0}]))
@settings(max_examples=100)
async def test_everything_taken_comes_back(actions: list[tuple[str, int]], places: int, money: dict[str, float]):
    """After any mixture of success, failure, cancel and double cancel nothing is in flight and nothing queued; there
    are never more leases than places; and places are given in the order of arrival.
    """
    budget = enforcer(max_concurrency_per_backend=places, **money)
    tasks: list[asyncio.Task[None]] = []
    events: list[asyncio.Event] = []
    order: list[int] = []
    for action, number in actions:
        chosen = number % len(tasks) if tasks else None
        if action == "arrive":
            events.append(asyncio.Event())
            tasks.append(asyncio.create_task(_hold(budget, events[-1], order, len(tasks))))
        elif action == "rest":
            for _ in range(3):
                await asyncio.sleep(0)
        elif chosen is not None:
            if action == "finish":
                events[chosen].set()
            else:
                tasks[chosen].cancel()
                if action == "cancel twice":
                    await asyncio.sleep(0)
                    tasks[chosen].cancel()
        assert 0 <= budget.in_flight <= places
        assert 0 <= budget.queued <= len(tasks)
    for event in events:
        event.set()
    if tasks:
        await asyncio.wait(tasks, timeout=5)

    assert all(task.done() for task in tasks)
    assert {type(task.exception()) for task in tasks if not task.cancelled()} <= {type(None), ValueError}
    assert (budget.in_flight, budget.queued) == (0, 0)
    assert order == sorted(order)
    async with asyncio.timeout(1):
        async with budget.lease():
            assert budget.in_flight == 1
