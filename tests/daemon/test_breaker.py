"""The circuit breaker of a backend: what opens it, what a half-open one lets through, what closes it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.answers import CUT, SILENCE, delta, fails, plays, silent, text
from tests.fakes.backend import Exchange
from tests.fakes.client import Client, infer, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

OPEN_MS = 250
BREAKER = {"breaker_failure_threshold": 3, "breaker_open_ms": OPEN_MS}
NAMES = [f"b{number}" for number in range(40)]
BACKENDS = {
    "warm": {},
    **{name: {"reliability": BREAKER, "budget": {"max_concurrency_per_backend": 50}} for name in NAMES},
    "timers": {"reliability": {**BREAKER, "request_timeout_ms": 100, "idle_timeout_ms": 100}},
    "retrying": {"reliability": {**BREAKER, "max_retries": 5, "backoff_base_ms": 300, "backoff_max_ms": 300}},
    "long": {"reliability": {**BREAKER, "breaker_open_ms": 60_000}},
}
ENVIRONMENT = {"PYTHONASYNCIODEBUG": "1"}
_fresh = iter(NAMES)


@pytest.fixture
def name():
    """A backend with a breaker that nobody has used."""
    return next(_fresh)


async def fail(client: Client, name: str, times: int = 3) -> None:
    for _ in range(times):
        await client.infer(name)
        assert (await client.answer())[-1]["type"] == "failed"


async def opened(stage: Any, name: str) -> Any:
    """Opens the circuit; gives the client that did."""
    client = await stage.client()
    stage.backend.on(name, fails(503))
    await fail(client, name)
    await stage.until(name, breaker="open")
    return client


async def half_open(stage: Any, name: str) -> Any:
    client = await opened(stage, name)
    await stage.until(name, breaker="half_open")
    return client


@pytest.mark.parametrize(
    "failure",
    [fails(503), fails(429), fails(408), fails(409), plays(CUT), plays(delta("x"), 0.02, CUT)],
    ids=["503", "429", "408", "409", "cut", "cut-late"],
)
async def test_consecutive_counted_failures_open_it(stage, name, failure):
    """At the threshold, and not before, requests are refused without reaching the backend; they learn how long."""
    client = await stage.client()
    stage.backend.on(name, failure)
    await fail(client, name, 2)
    assert (await stage.status(name))["breaker"] == "closed"
    await fail(client, name, 1)
    assert (await stage.status(name))["breaker"] == "open"

    await client.infer(name)
    frame = await client.expect("failed", "r")

    assert (frame["error"]["kind"], frame["error"]["retryable"], frame["error"]["backend_id"]) == (
        "circuit_open",
        False,
        name,
    )
    assert 1 <= frame["error"]["retry_after_ms"] <= OPEN_MS
    assert len(stage.backend.requests(name)) == 3


@pytest.mark.parametrize("script", [silent, plays(delta("x"), SILENCE)], ids=["first-event", "idle"])
async def test_timeouts_of_an_attempt_count(stage, script):
    """No first event and silence are failures of the backend."""
    client = await stage.client()
    stage.backend.on("timers", script)
    if (await stage.status("timers"))["breaker"] != "closed":
        await stage.until("timers", breaker="half_open")
        stage.backend.on("timers", text("closes"))
        await client.infer("timers")
        await client.answer()
        stage.backend.on("timers", script)
    await fail(client, "timers")

    assert (await stage.status("timers"))["breaker"] == "open"


@pytest.mark.parametrize(
    "harmless",
    [fails(400), fails(401), fails(402), fails(404), fails(418), plays(b"data: x\n\n")],
    ids=["400", "401", "402", "404", "418", "violation"],
)
async def test_other_failures_neither_count_nor_reset(stage, name, harmless):
    """They leave the count as it is: two counted, any number of these, and a third counted failure opens."""
    client = await stage.client()
    stage.backend.on(name, fails(503))
    await fail(client, name, 2)
    stage.backend.on(name, harmless)
    await fail(client, name, 4)
    assert (await stage.status(name))["breaker"] == "closed"
    stage.backend.on(name, fails(503))
    await fail(client, name, 1)

    assert (await stage.status(name))["breaker"] == "open"


async def test_success_resets_the_count(stage, name):
    """Failures count only in a row."""
    client = await stage.client()
    for _ in range(3):
        stage.backend.on(name, fails(503))
        await fail(client, name, 2)
        stage.backend.on(name, text("fine"))
        await client.infer(name)
        assert said(await client.answer()) == "fine"

    assert (await stage.status(name))["breaker"] == "closed"


async def test_cancel_disconnect_and_total_time_do_not_count(stage, name):
    """What the client does, and its own deadline, say nothing about the backend."""
    stage.backend.on(name, silent)
    for number in range(2):
        client, other = await stage.client(), await stage.client()
        await client.infer(name)
        await other.infer(name)
        await stage.backend.request(name, 3 * number + 1)
        await client.cancel()
        await client.expect_failed("cancelled")
        other.close()
        await client.infer(name, limits={"max_request_time_ms": 100})
        await client.expect_failed("timeout")

    assert (await stage.status(name))["breaker"] == "closed"


async def test_exactly_one_probe_among_many(stage, name):
    """A half-open circuit lets one attempt through, whoever else asks; its success closes the circuit for all."""
    client = await half_open(stage, name)
    others_are_refused = asyncio.Event()

    async def probe(exchange: Exchange) -> None:
        await others_are_refused.wait()
        await text("probe")(exchange)

    stage.backend.on(name, probe, text("after"))
    clients = [await stage.client() for _ in range(10)]
    for one in clients:
        await one.send(*(infer(name, f"{number}") for number in range(30)))
    await stage.until(name, requests=3 + 300)
    others_are_refused.set()

    answers = [frames for one in clients for frames in (await one.answers(30)).values()]

    assert len(stage.backend.requests(name)) == 4
    assert [said(frames) for frames in answers if frames[-1]["type"] == "completed"] == ["probe"]
    refused = [frames for frames in answers if frames[-1]["type"] == "failed"]
    assert len(refused) == 299
    assert all(len(frames) == 1 and frames[0]["error"]["kind"] == "circuit_open" for frames in refused)
    assert all(frames[0]["error"]["retry_after_ms"] >= 1 for frames in refused)
    await client.infer(name)
    assert said(await client.answer()) == "after"
    assert (await stage.status(name))["breaker"] == "closed"


async def test_a_failed_probe_opens_it_anew(stage, name):
    """One counted failure is enough, for another whole window."""
    client = await half_open(stage, name)
    await client.infer(name)
    await client.expect_failed("backend_transient")

    assert (await stage.status(name))["breaker"] == "open"
    await client.infer(name)
    assert (await client.expect_failed("circuit_open"))["retry_after_ms"] > OPEN_MS / 2


@pytest.mark.parametrize("end", ["cancel", "close", "400", "401", "violation", "total"])
async def test_a_probe_that_says_nothing_gives_its_place_on(stage, name, end):
    """After a cancel, a disconnect, an uncounted failure or the total time the next request is the probe."""
    client = await half_open(stage, name)
    leaver = await stage.client()
    scripts = {"400": fails(400), "401": fails(401), "violation": plays(b"data: x\n\n")}
    stage.backend.on(name, scripts.get(end, silent))
    limits = {"limits": {"max_request_time_ms": 100}} if end == "total" else {}
    await leaver.infer(name, **limits)
    await stage.backend.request(name, 3)
    if end == "cancel":
        await leaver.cancel()
    if end == "close":
        leaver.close()
    else:
        assert (await leaver.answer())[-1]["type"] == "failed"
    await stage.until(name, in_flight=0, breaker="half_open")
    stage.backend.on(name, text("closes"))
    await client.infer(name)

    assert said(await client.answer()) == "closes"
    assert (await stage.status(name))["breaker"] == "closed"


async def test_a_late_success_is_ignored(stage, name):
    """An attempt that began before the circuit opened does not close it when it ends well."""
    client, early = await stage.client(), await stage.client()
    gate = asyncio.Event()

    async def late(exchange):
        await gate.wait()
        await text("late")(exchange)

    stage.backend.on(name, late, fails(503))
    await early.infer(name)
    await stage.backend.request(name)
    await fail(client, name)
    assert (await stage.status(name))["breaker"] == "open"
    gate.set()

    assert said(await early.answer()) == "late"
    assert (await stage.status(name))["breaker"] == "open"


async def test_a_late_failure_is_ignored(stage, name):
    """Nor does one that ends badly open a circuit that has been closed since."""
    client, early = await stage.client(), await stage.client()
    gate = asyncio.Event()

    async def late(exchange):
        await gate.wait()
        await fails(503)(exchange)

    stage.backend.on(name, late, fails(503), fails(503), fails(503), text("closes"))
    await early.infer(name)
    await stage.backend.request(name)
    await fail(client, name)
    await stage.until(name, breaker="half_open")
    await client.infer(name)
    assert said(await client.answer()) == "closes"
    stage.backend.on(name, fails(503))
    await fail(client, name, 2)
    gate.set()
    await early.expect_failed("backend_transient")

    assert (await stage.status(name))["breaker"] == "closed"


async def test_it_opens_while_a_request_waits_for_its_next_attempt(stage):
    """That request ends at once, with the error of its own last attempt."""
    client, others = await stage.client(), await stage.client()
    loop = asyncio.get_running_loop()
    stage.backend.on("retrying", fails(429, Retry_After="30"), fails(503, Retry_After="60"))
    began = loop.time()
    await client.infer("retrying", limits={"max_request_time_ms": 40_000})
    await stage.backend.request("retrying")
    for number in range(2):
        await others.infer("retrying", limits={"max_request_time_ms": 50})
        await others.answer()
        assert len(stage.backend.requests("retrying")) == number + 2

    error = await client.expect_failed("rate_limited")

    assert error["provider_http_status"] == 429
    assert loop.time() - began < 3


async def test_an_attempt_that_opens_it_is_the_last(stage):
    """Retries of one request count like any other attempts, and stop where they open the circuit."""
    client = await stage.client()
    await stage.until("retrying", breaker="half_open")
    stage.backend.on("retrying", fails(503))
    await client.infer("retrying")

    await client.expect_failed("backend_transient")
    assert len(stage.backend.requests("retrying")) == 1


async def test_one_backend_is_nothing_to_another(stage, name):
    """Each has its own circuit; a request for one that is open is not served by another."""
    client = await opened(stage, "long")
    stage.backend.on(name, text("here"))
    await client.infer(name)
    assert said(await client.answer()) == "here"
    await client.infer("long")

    await client.expect_failed("circuit_open")
