"""Four timers, each of which fires alone and names itself; and what does not keep them from it."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from tests.fakes.answers import (
    DONE,
    PING,
    SILENCE,
    delta,
    event,
    finish,
    one_byte,
    plays,
    silent,
    slow_headers,
    tool_delta,
    usage,
)
from tests.fakes.client import Client, Frame, infer, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 120  # ms; for what is to fire
AMPLE = 600  # ms; for what is not, also on a busy machine

BACKENDS = {
    "first": {"reliability": {"request_timeout_ms": LIMIT}},
    "idle": {"reliability": {"idle_timeout_ms": LIMIT}},
    "total": {"budget": {"max_request_time_ms": LIMIT}},
    "connect": {"reliability": {"connect_timeout_ms": LIMIT}, "endpoint": "https://127.0.0.1:{tcp}/connect"},
    "connect-late": {"reliability": {"request_timeout_ms": LIMIT}, "endpoint": "https://127.0.0.1:{tcp}/connect"},
    "first-ample": {"reliability": {"request_timeout_ms": AMPLE}},
    "idle-ample": {"reliability": {"idle_timeout_ms": AMPLE}},
    "many": {},
    "b": {"budget": {"max_concurrency_per_backend": 1}},
}

NAMES = {"first": "request_timeout_ms", "idle": "idle_timeout_ms", "total": "max_request_time_ms"}
EMPTY_DELTA = event({"choices": [{"index": 0, "delta": {"content": ""}}]})
ROLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": None}}]})


def for_ever(*pieces: bytes, every: float = 0.02) -> list[Any]:
    """The pieces again and again."""
    return [step for _ in range(500) for piece in pieces for step in (piece, every)]


async def expect_timeout(
    stage: Any, client: Client, backend_id: str, name: str, *, retryable: bool = True, **fields: Any
) -> list[Frame]:
    """The request must fail by that timer, neither too early nor much too late; gives its frames."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    await client.infer(backend_id, **fields)
    frames = await client.answer()
    took = loop.time() - began
    error = frames[-1]["error"]
    assert (error["kind"], error["retryable"]) == ("timeout", retryable), error
    assert name in error["message"]
    assert str(LIMIT) in error["message"]
    assert LIMIT / 1000 - 0.02 <= took < LIMIT / 1000 + 2
    return frames


@pytest.mark.parametrize(
    "script",
    [
        silent,
        one_byte,
        slow_headers,
        plays(SILENCE),
        plays(*for_ever(PING)),
        plays(*for_ever(b"\n\n", b":\n")),
        plays(*for_ever(EMPTY_DELTA)),
        plays(ROLE, SILENCE),
        plays(*for_ever(event({"choices": [], "usage": None}))),
        plays(b'data: {"choices":[{"index":0,"del', SILENCE),
        plays(*for_ever(b"data: ")),
        plays(b'data: {"choices":[]}\n', SILENCE),
    ],
    ids=[
        "accept",
        "one-byte",
        "slow-headers",
        "headers",
        "pings",
        "blank",
        "empty-deltas",
        "role",
        "no-choices",
        "half-event",
        "endless-half-event",
        "no-blank-line",
    ],
)
async def test_no_first_event(stage, script):
    """Whatever has no content is silence: the first event must come within `request_timeout_ms`."""
    client = await stage.client()
    stage.backend.on("first", script)

    frames = await expect_timeout(stage, client, "first", NAMES["first"])

    assert [frame["type"] for frame in frames] == ["started", "failed"]
    assert frames[-1]["error"]["backend_id"] == "first"
    await (await stage.backend.request("first")).closed()


@pytest.mark.parametrize("script", [silent, plays(b'{"choices":', SILENCE), plays(*for_ever(b" "))])
async def test_no_unstreamed_answer(stage, script):
    """An unstreamed answer is its own first event."""
    client = await stage.client()
    stage.backend.on("first", script)

    await expect_timeout(stage, client, "first", NAMES["first"], stream=False)
    await (await stage.backend.request("first")).closed()


@pytest.mark.parametrize(
    "after",
    [
        [SILENCE],
        for_ever(PING),
        for_ever(EMPTY_DELTA),
        for_ever(event({"choices": []})),
        [usage(), SILENCE],
        [delta("x")[:-1], SILENCE],
        for_ever(b"data: "),
    ],
    ids=["silence", "pings", "empty-deltas", "no-choices", "early-usage", "half-event", "endless-half-event"],
)
async def test_silence_between_events(stage, after):
    """After content the next must come within `idle_timeout_ms`; what came is delivered."""
    client = await stage.client()
    stage.backend.on("idle", plays(delta("some"), *after))

    frames = await expect_timeout(stage, client, "idle", NAMES["idle"])

    assert said(frames) == "some"
    await (await stage.backend.request("idle")).closed()


@pytest.mark.parametrize(
    "steps",
    [
        [delta("x")],
        [tool_delta(0, "", call_id="1", name="look"), *[tool_delta(0, " ")] * 4],
        [event({"choices": [{"index": 0, "delta": {"reasoning_content": "hm"}}]})],
    ],
    ids=["text", "tool-call", "reasoning"],
)
async def test_content_keeps_the_idle_timer_from_firing(stage, steps):
    """A stream may last much longer than the idle time; reasoning that nobody asked for is content too."""
    client = await stage.client()
    slow = [step for piece in (steps * 5)[:5] for step in (piece, AMPLE / 1000 / 4)]
    stage.backend.on("idle-ample", plays(*slow, finish("length"), DONE))
    await client.infer("idle-ample")

    assert (await client.answer())[-1]["type"] == "completed"


async def test_a_late_first_event_is_no_matter_for_the_idle_timer(stage):
    """Until the first event only `request_timeout_ms` runs."""
    client = await stage.client()
    stage.backend.on("idle", plays(LIMIT / 1000 * 2, delta("late"), finish(), DONE))
    await client.infer("idle")

    assert said(await client.answer()) == "late"


async def test_a_first_event_ends_the_first_timer(stage):
    """After the first event only `idle_timeout_ms` runs."""
    client = await stage.client()
    stage.backend.on("first-ample", plays(delta("x"), AMPLE / 1000 * 1.2, delta("y"), finish(), DONE))
    await client.infer("first-ample")

    assert said(await client.answer()) == "xy"


@pytest.mark.parametrize("script", [silent, plays(*for_ever(delta("x"))), plays(*for_ever(PING))])
async def test_the_total_time(stage, script):
    """`max_request_time_ms` ends a request also while it makes progress; that is not retryable."""
    client = await stage.client()
    stage.backend.on("total", script)

    await expect_timeout(stage, client, "total", NAMES["total"], retryable=False)
    await (await stage.backend.request("total")).closed()


async def test_a_request_may_ask_for_less_time_and_not_for_more(stage):
    """`limits.max_request_time_ms` counts up to the configured most."""
    client = await stage.client()
    stage.backend.on("total", silent)
    await expect_timeout(
        stage, client, "total", NAMES["total"], retryable=False, limits={"max_request_time_ms": 3_600_000}
    )
    stage.backend.on("b", silent)
    await expect_timeout(stage, client, "b", NAMES["total"], retryable=False, limits={"max_request_time_ms": LIMIT})


async def test_waiting_for_a_place_takes_from_the_total_time(stage):
    """Time over in the queue: `failed` alone, before dispatch, and the place in the queue is given up."""
    client, holder = await stage.client(), await stage.client()
    stage.backend.on("b", silent)
    await holder.infer("b", "holder")
    await stage.backend.request("b")

    frames = await expect_timeout(
        stage, client, "b", NAMES["total"], retryable=False, limits={"max_request_time_ms": LIMIT}
    )

    assert [frame["type"] for frame in frames] == ["failed"]
    await stage.until("b", queued=0, in_flight=1)


async def test_no_connection_in_time(stage):
    """A server that accepts and never finishes the handshake of TLS."""
    client = await stage.client()

    await expect_timeout(stage, client, "connect", "connect_timeout_ms")
    while stage.backend.connections:
        await asyncio.sleep(0.01)


async def test_connecting_takes_from_the_time_to_the_first_event(stage):
    """Where `request_timeout_ms` is the shorter one, it fires first."""
    await expect_timeout(stage, await stage.client(), "connect-late", "request_timeout_ms")


AFTER_THE_END_MARK: dict[str, tuple[list[Any], bool]] = {
    "nothing": ([SILENCE], False),
    "usage": ([usage(), SILENCE], True),
    "late-usage": ([0.3, usage(), SILENCE], True),
    "usage-and-pings": ([usage(), *for_ever(PING)], True),
    "all": ([0.2, usage(), 0.2, DONE], True),
    "too-late": ([2.5, usage(), DONE], False),
}


async def test_after_the_end_mark_there_is_one_second(stage):
    """Usage is waited for, `[DONE]` and the end of the stream are not; then the connection is dropped."""
    client = await stage.client()
    loop = asyncio.get_running_loop()

    async def script(exchange):
        after, _ = AFTER_THE_END_MARK[exchange.json()["model"]]
        await plays(delta("all"), finish(), *after)(exchange)

    stage.backend.on("many", script)
    began = loop.time()
    await client.send(*(infer("many", name, model=name) for name in AFTER_THE_END_MARK))

    answers = await client.answers(len(AFTER_THE_END_MARK))

    assert loop.time() - began < 2
    for name, (_, has_usage) in AFTER_THE_END_MARK.items():
        assert answers[name][-1]["type"] == "completed", name
        assert ("usage" in [frame["type"] for frame in answers[name]]) == has_usage, name
    for exchange in stage.backend.requests("many"):
        if exchange.json()["model"] != "all":
            await exchange.closed(3)


async def test_done_ends_the_answer_at_once(stage):
    """After `[DONE]` nothing is waited for, although the server keeps the response open; its connection is dropped."""
    client = await stage.client()
    loop = asyncio.get_running_loop()
    stage.backend.on("b", plays(delta("all"), finish(), usage(), DONE, SILENCE))
    began = loop.time()
    await client.infer("b")

    assert (await client.answer())[-1]["type"] == "completed"
    assert loop.time() - began < 0.7
    await (await stage.backend.request("b")).closed(3)
