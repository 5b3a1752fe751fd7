"""What a backend may be asked: how many requests at a time, in which order, how many starts in a second."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.answers import DONE, delta, fails, finish, hang_up, plays, silent, text
from tests.fakes.client import infer, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {
    "b": {"budget": {"max_concurrency_per_backend": 2}},
    "one": {"budget": {"max_concurrency_per_backend": 1}},
    "other": {},
    "rate": {"budget": {"rate_smoothing_per_second": 2}},
    "frugal": {"budget": {"max_usage_tokens_per_request": 6}},
}


async def test_no_more_at_a_time_than_configured(stage):
    """At every moment the backend sees at most `max_concurrency_per_backend` requests, and all get their turn."""
    running, most = 0, 0

    async def script(exchange):
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.01)
        running -= 1
        await text("x")(exchange)

    stage.backend.on("b", script)
    clients = [await stage.client() for _ in range(4)]
    for client in clients:
        await client.send(*(infer("b", f"{number}") for number in range(10)))
    ends = [frames[-1]["type"] for client in clients for frames in (await client.answers(10)).values()]

    assert ends == ["completed"] * 40
    assert most == 2


async def test_the_queue_is_fair(stage):
    """Who came first is served first, across connections."""
    clients = [await stage.client() for _ in range(5)]
    gate = asyncio.Event()

    async def script(exchange):
        await gate.wait()
        await text("x")(exchange)

    stage.backend.on("one", script)
    for number, client in enumerate(clients):
        await client.infer("one", f"n-{number}", model=f"n-{number}")
        await stage.until("one", in_flight=1, queued=number)
    gate.set()
    for number, client in enumerate(clients):
        await client.answer(f"n-{number}")

    assert [exchange.json()["model"] for exchange in stage.backend.requests("one")] == [f"n-{n}" for n in range(5)]


async def test_waiting_requests_say_nothing(stage):
    """`started` comes with the place, not with the place in the queue; `status` counts both."""
    client = await stage.client()
    stage.backend.on("one", silent, text("second"))
    await client.infer("one", "1")
    await client.expect("started", "1")
    await client.infer("one", "2")
    await stage.until("one", in_flight=1, queued=1)
    await client.expect_nothing(0.05)
    await client.cancel("1")

    assert said((await client.answers(2))["2"]) == "second"


async def test_one_backend_does_not_wait_for_another(stage):
    """Places are counted per backend."""
    client = await stage.client()
    stage.backend.on("one", silent)
    stage.backend.on("other", text("here"))
    await client.infer("one", "stuck")
    await client.expect("started")
    await client.infer("other")

    assert said(await client.answer()) == "here"


@pytest.mark.parametrize("script", [fails(500), fails(400), hang_up, plays(delta("x")), text("x")])
async def test_a_place_is_given_back_however_the_request_ends(stage, script):
    """The next one does not wait."""
    client = await stage.client()
    stage.backend.on("one", script)
    for _ in range(3):
        await client.infer("one")
        await client.answer()

    status = await stage.status("one")
    assert (status["in_flight"], status["queued"]) == (0, 0)


async def test_cancelled_waiters_lose_their_turn_and_nothing_else(stage):
    """Of a queue of thirty every third is cancelled; the others are all served."""
    client = await stage.client()
    stage.backend.on("one", plays(0.05, delta("x"), finish(), DONE), text("x"))
    await client.send(*(infer("one", f"{number}") for number in range(30)))
    await client.send(*({"type": "cancel", "request_id": f"{number}"} for number in range(2, 30, 3)))

    frames = await client.answers(30)

    cancelled = {name for name, ones in frames.items() if ones[-1]["type"] == "failed"}
    assert cancelled == {f"{number}" for number in range(2, 30, 3)}
    assert all(len(frames[name]) == 1 for name in cancelled)
    assert len(stage.backend.requests("one")) == 20


async def test_starts_are_smoothed(stage):
    """A burst of one second's worth, then one start after the other at the configured rate, two in a second.

    How soon a start follows is left to the tests in virtual time (tests/pipeline/test_budget.py).
    """
    client = await stage.client()
    stage.backend.on("rate", text("x"))
    await client.send(*(infer("rate", f"{number}") for number in range(5)))
    await client.answers(5)

    times = [exchange.arrived for exchange in stage.backend.requests("rate")]
    assert times[4] - times[1] > 1.0  # 1.5, less what the second one was late


async def test_asking_for_too_many_tokens(stage):
    """`max_usage_tokens_per_request` is compared with what is asked for, before anything is sent."""
    client = await stage.client()
    stage.backend.on("frugal", text("x"))
    await client.infer("frugal", limits={"max_output_tokens": 7})
    assert "max_usage_tokens_per_request" in (await client.expect("failed"))["error"]["message"]
    await client.infer("frugal", limits={"max_output_tokens": 6})

    assert said(await client.answer()) == "x"
    assert [exchange.json()["max_tokens"] for exchange in stage.backend.requests("frugal")] == [6]


async def test_using_more_than_that_is_not_stopped(stage):
    """What the backend reports above the limit is accounted, not cut."""
    client = await stage.client()
    stage.backend.on("frugal", text("many", "words"))
    await client.infer("frugal")

    frames = await client.answer()

    assert frames[-1]["type"] == "completed"
    assert frames[-2]["usage"]["total_tokens"] == 8
