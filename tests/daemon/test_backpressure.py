"""A client that does not read slows itself, and nobody else; what is kept for it is bounded."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from beluna_gateway.daemon.connection import INPUT_HIGH_WATER
from tests.fakes.answers import CUT, DONE, delta, endless, finish, plays, text, usage
from tests.fakes.backend import PATIENCE
from tests.fakes.client import infer, said
from tests.fakes.daemon import local_daemon, make_config

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {
    "b": {"budget": {"max_concurrency_per_backend": 300}},
    "one": {"budget": {"max_concurrency_per_backend": 1}},
    "idle": {"reliability": {"idle_timeout_ms": 150}},
}


async def stuck(stage: Any, name: str, number: int = 0) -> Any:
    """Waits until the backend can write no more; gives its exchange."""
    exchange = await stage.backend.request(name, number)
    before = -1
    while before != exchange.sent:
        before = exchange.sent
        await asyncio.sleep(0.15)
    return exchange


async def test_the_backend_is_not_read_faster_than_the_client_reads(stage):
    """The backend soon cannot write any more, and the daemon keeps little of what it wrote."""
    client, other = await stage.client(), await stage.client()
    before = stage.daemon.resident_bytes()
    stage.backend.on("b", endless, endless, endless, text("next"))
    client.stop_reading()
    await client.send(*(infer("b", f"{number}") for number in range(3)))
    exchanges = [await stuck(stage, "b", number) for number in range(3)]

    assert stage.daemon.resident_bytes() - before < 30_000_000
    await other.infer("b")
    assert said(await other.answer(patience=3)) == "next"
    sent = [exchange.sent for exchange in exchanges]
    client.read_on()
    for _ in range(100):
        await client.frame()
    async with asyncio.timeout(5):
        while any(exchange.sent == earlier for exchange, earlier in zip(exchanges, sent, strict=True)):
            await client.frame()


async def test_a_slow_reader_loses_nothing(stage):
    """Every byte of a long answer arrives, in order, with stops on the way."""
    client = await stage.client()
    pieces = [f"{number}," for number in range(40_000)]
    stage.backend.on(
        "b", plays(*(b"".join(map(delta, pieces[at : at + 500])) for at in range(0, 40_000, 500)), finish(), DONE)
    )
    client.stop_reading()
    await client.infer("b")
    await stuck(stage, "b")
    client.read_on()

    frames = await client.answer()

    assert said(frames) == "".join(pieces)
    assert frames[-1]["type"] == "completed"


async def test_a_cut_answer_is_delivered_up_to_the_cut(stage):
    """What had come before the connection broke reaches a client that reads late; an end mark among it counts."""
    client = await stage.client()
    body = b"".join(delta("x" * 100) for _ in range(6000))
    stage.backend.on("b", plays(body + finish() + usage(), CUT))
    client.stop_reading()
    await client.infer("b")
    await stuck(stage, "b")
    client.read_on()

    frames = await client.answer()

    assert len(said(frames)) == 600_000
    assert [frame["type"] for frame in frames[-2:]] == ["usage", "completed"]


async def test_waiting_for_the_client_is_not_the_backends_silence(stage):
    """The idle timer stands still while the client does not read."""
    client = await stage.client()
    body = b"".join(delta("x" * 100) for _ in range(8000))
    stage.backend.on("idle", plays(body, finish(), DONE))
    client.stop_reading()
    await client.infer("idle")
    await stuck(stage, "idle")
    await asyncio.sleep(0.5)
    client.read_on()

    assert (await client.answer())[-1]["type"] == "completed"


async def test_the_total_time_runs_on(stage):
    """When it is over, permit and connection are free, although the client still does not read; later it learns why."""
    client, other = await stage.client(), await stage.client()
    stage.backend.on("one", endless, text("next"))
    client.stop_reading()
    await client.infer("one", limits={"max_request_time_ms": 1000})
    await (await stage.backend.request("one")).closed(3)
    await other.infer("one")

    assert said(await other.answer()) == "next"
    client.read_on()
    error = (await client.answer())[-1]["error"]
    assert (error["kind"], error["retryable"]) == ("timeout", False)
    assert "max_request_time_ms" in error["message"]


async def test_others_on_the_same_connection_wait_and_end(stage):
    """Short answers beside a stuck one are complete once the client reads."""
    client = await stage.client()
    stage.backend.on("one", endless)
    stage.backend.on("b", text("short"))
    client.stop_reading()
    await client.infer("one", "long")
    await stuck(stage, "one")
    await client.send(*(infer("b", f"{number}") for number in range(20)), {"type": "cancel", "request_id": "long"})
    client.read_on()

    frames = await client.answers(21)

    assert frames["long"][-1]["error"]["kind"] == "cancelled"
    assert all(said(frames[f"{number}"]) == "short" for number in range(20))


async def test_a_client_that_only_writes_fills_no_memory(stage):
    """Refusals, too, are kept up to a bound; beyond it the client's own lines are not read."""
    client = await stage.client()
    before = stage.daemon.resident_bytes()
    client.stop_reading()
    taken = 0
    try:
        async with asyncio.timeout(0.7):
            while taken < 40_000_000:
                await client.send_bytes(b"x\n" * 20_000)
                taken += 40_000
    except TimeoutError:
        pass

    assert stage.daemon.resident_bytes() - before < 30_000_000
    client.close()


async def test_the_lines_of_a_client_that_does_not_read_are_not_read(tmp_path):
    """Above `INPUT_HIGH_WATER` bytes of answers the daemon stops reading; what it keeps is little more than that."""
    async with local_daemon(tmp_path, make_config({"b": {}})) as daemon, daemon.client() as client:
        await client.status()
        client.stop_reading()
        writing = asyncio.create_task(client.send_bytes(b"x\n" * 40_000))
        (connection,) = daemon.daemon._connections
        async with asyncio.timeout(PATIENCE):
            while connection.transport.get_write_buffer_size() <= INPUT_HIGH_WATER:
                await asyncio.sleep(0)
        await asyncio.sleep(0.05)

        assert not connection.transport.is_reading()
        waiting = connection.transport.get_write_buffer_size()
        assert INPUT_HIGH_WATER < waiting < INPUT_HIGH_WATER + 1000
        client.read_on()
        for _ in range(40_000):
            await client.expect("rejected")
        await writing


async def test_a_client_that_only_writes_is_served_once_it_reads(stage):
    """Not one of ten thousand lines is lost or answered twice."""
    client = await stage.client()
    client.stop_reading()
    writing = asyncio.create_task(
        client.send_bytes(b"".join(b'{"type":"cancel","request_id":"%d"}\n' % number for number in range(10_000)))
    )
    await asyncio.sleep(0.3)
    client.read_on()

    for number in range(10_000):
        assert (await client.frame())["request_id"] == f"{number}"
    await writing


async def test_one_that_only_writes_and_half_closes(stage):
    """The last line counts although the client read nothing until its own end."""
    client = await stage.client()
    stage.backend.on("b", text("last"))
    client.stop_reading()
    lines = b"x\n" * 20_000 + json.dumps(infer("b")).encode()
    writing = asyncio.create_task(client.send_bytes(lines))
    await asyncio.sleep(0.3)
    client.read_on()
    await writing
    client.half_close()

    for _ in range(20_000):
        await client.expect("rejected")
    assert said(await client.answer()) == "last"
    await client.expect_end()


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_large_answer_to_a_client_that_is_gone(stage, stream):
    """A client that leaves while the daemon holds frames for it leaves nothing behind."""
    client = await stage.client()
    body = json.dumps({"choices": [{"index": 0, "message": {"content": "x" * 3_000_000}, "finish_reason": "stop"}]})
    stage.backend.on("b", endless if stream else plays(body.encode(), framing=str(len(body))))
    client.stop_reading()
    await client.infer("b", stream=stream)
    await stuck(stage, "b")
    client.close()
