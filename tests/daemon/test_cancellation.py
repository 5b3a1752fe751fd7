"""A request that nobody wants any more is gone at once: in whatever phase it is, however the client went."""

from __future__ import annotations

import asyncio
import json
import socket
from time import monotonic
from types import SimpleNamespace
from typing import Any

import pytest

from beluna_gateway.canonical import Started
from beluna_gateway.daemon.connection import Request
from beluna_gateway.pipeline.clients import Origin
from beluna_gateway.wire.frames import Infer
from tests.fakes.answers import (
    DONE,
    SILENCE,
    delta,
    endless,
    fails,
    finish,
    one_byte,
    plays,
    silent,
    slow_headers,
    text,
)
from tests.fakes.backend import Script
from tests.fakes.client import infer, said, user
from tests.fakes.leavers import WAYS, leaver

pytestmark = pytest.mark.asyncio(loop_scope="module")

ONE_AT_A_TIME = {"max_concurrency_per_backend": 1, "max_request_time_ms": 40_000}
SLOW = {"request_timeout_ms": 30_000, "idle_timeout_ms": 30_000, "connect_timeout_ms": 30_000}
BACKENDS = {
    "b": {"budget": ONE_AT_A_TIME, "reliability": SLOW},
    "unix": {"budget": ONE_AT_A_TIME, "reliability": SLOW, "endpoint": "unix:{unix}:/unix"},
    "tls": {"budget": ONE_AT_A_TIME, "reliability": SLOW, "endpoint": "https://127.0.0.1:{tcp}/tls"},
    "rate": {"budget": {**ONE_AT_A_TIME, "rate_smoothing_per_second": 1}, "reliability": SLOW},
    "retry": {"budget": ONE_AT_A_TIME, "reliability": {**SLOW, "max_retries": 3}},
}

AT_ONCE = 1.0


# --- phases: each brings a request there, and returns the exchanges whose connection must be closed ---


async def waiting_for_a_permit(stage, client):
    stage.backend.on("b", silent)
    holder = await stage.client()
    await holder.infer("b", "holder")
    await stage.backend.request("b")
    await client.send(infer("b"))
    await stage.until("b", queued=1)
    yield []
    await stage.until("b", queued=0)
    await holder.cancel("holder")
    await holder.expect_failed("cancelled", "holder")
    assert len(stage.backend.requests("b")) == 1


async def waiting_for_a_rate_token(stage, client):
    stage.backend.on("rate", text("x"))
    first = await stage.client()
    await first.infer("rate")
    await first.answer()
    await client.send(infer("rate"))
    await stage.until("rate", queued=1)
    yield []
    await stage.until("rate", queued=0)
    assert len(stage.backend.requests("rate")) == 1


async def waiting_for_a_retry(stage, client):
    stage.backend.on("retry", fails(503, Retry_After="20"))
    await client.send(infer("retry"))
    await stage.backend.request("retry")
    await asyncio.sleep(0.05)
    yield []
    await stage.until("retry", in_flight=0)
    assert len(stage.backend.requests("retry")) == 1


async def connecting(stage, client):
    """The handshake of TLS, with a server that has none."""
    await client.send(infer("tls"))
    while not stage.backend.connections:
        await asyncio.sleep(0.005)
    (connection,) = stage.backend.connections
    yield [connection]


def at_backend(script: Script, name: str = "b", **fields: Any) -> Any:
    """A phase in which the backend has got the request and answers with `script`."""

    async def phase(stage, client):
        stage.backend.on(name, script)
        await client.send(infer(name, **fields))
        exchange = await stage.backend.request(name)
        await asyncio.sleep(0.03)
        yield [exchange]

    return phase


async def body_not_read(stage, client):
    """A body that is larger than what the kernel takes, and a backend that reads none of it."""
    stage.backend.on("b", silent, read_body=False)
    await client.send(infer("b", messages=user("x" * 7_900_000)))
    exchange = await stage.backend.request("b")
    await asyncio.sleep(0.05)
    yield []
    await exchange.hung_up()


async def client_stuck(stage, client):
    """The client reads nothing, until the backend cannot write any more."""
    stage.backend.on("b", endless)
    await client.send(infer("b"))
    exchange = await stage.backend.request("b")
    before = -1
    while before != exchange.sent:
        before = exchange.sent
        await asyncio.sleep(0.1)
    yield [exchange]


TICKS = plays(*[step for _ in range(2000) for step in (delta("tick"), 0.005)])

PHASES = {
    "permit": waiting_for_a_permit,
    "rate": waiting_for_a_rate_token,
    "retry": waiting_for_a_retry,
    "connecting": connecting,
    "body-not-read": body_not_read,
    "silent": at_backend(silent),
    "silent-unix": at_backend(silent, "unix"),
    "one-byte": at_backend(one_byte),
    "slow-headers": at_backend(slow_headers),
    "headers": at_backend(plays(SILENCE)),
    "error-body": at_backend(plays(b"{", SILENCE, status=500)),
    "mid-stream": at_backend(TICKS),
    "mid-stream-silent": at_backend(plays(delta("x"), SILENCE)),
    "unstreamed": at_backend(silent, stream=False),
    "unstreamed-mid-body": at_backend(plays(b'{"choi', SILENCE), stream=False),
    "late-usage": at_backend(plays(delta("x"), finish(), SILENCE)),
    "stuck": client_stuck,
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("phase", PHASES)
async def test_the_backend_is_let_go_at_once(stage, phase, way):
    """Its connection is closed well within a second, and its place is usable again."""
    async with leaver(way, stage.daemon.socket_path) as client:
        course = PHASES[phase](stage, client)
        exchanges = await anext(course)
        began = monotonic()
        await client.leave()
        for exchange in exchanges:
            await asyncio.wait_for(asyncio.shield(exchange.closed_by_peer), 5)
        assert await anext(course, None) is None
        assert monotonic() - began < AT_ONCE
        await client.see_the_end()

    successor = await stage.client()
    stage.backend.on("b", text("next"))
    await successor.infer("b")
    assert said(await successor.answer()) == "next"


async def test_one_of_many_is_cancelled(stage):
    """The others on the same connection go on."""
    client = await stage.client()
    stage.backend.on("b", plays(0.1, delta("one"), finish(), DONE), text("three"))
    await client.send(infer("b", "1"), infer("b", "2"), infer("b", "3"), {"type": "cancel", "request_id": "2"})

    frames = await client.answers(3)

    assert [frame["type"] for frame in frames["2"]] == ["failed"]
    assert frames["2"][0]["error"]["kind"] == "cancelled"
    assert frames["2"][0]["error"]["retryable"] is False
    assert (said(frames["1"]), said(frames["3"])) == ("one", "three")


async def test_cancel_names_only_requests_of_its_own_connection(stage):
    """An id that is not in flight here is rejected: unknown, ended, or another client's."""
    client, other = await stage.client(), await stage.client()
    stage.backend.on("b", plays(0.1, delta("x"), finish(), DONE))
    await other.infer("b")
    await client.cancel()
    await client.cancel("never")

    first, second = await client.expect("rejected", "r"), await client.expect("rejected", "never")
    assert first["error"]["kind"] == second["error"]["kind"] == "invalid_request"
    assert said(await other.answer()) == "x"
    await other.cancel()
    await other.expect("rejected", "r")


async def test_a_cancelled_id_is_free_again(stage):
    """Cancel, and use the id anew in the next line: two answers in order, each with one end."""
    client = await stage.client()
    stage.backend.on("b", silent, text("again"))
    await client.infer("b")
    await stage.backend.request("b")
    await client.cancel()
    await client.expect("started")
    await client.expect_failed("cancelled")
    await client.infer("b")

    assert said(await client.answer()) == "again"


async def test_cancel_twice(stage):
    """A second cancel hits either the same request or none; there is one `failed` either way."""
    client = await stage.client()
    stage.backend.on("b", silent)
    await client.infer("b")
    await stage.backend.request("b")
    await client.send(*[{"type": "cancel", "request_id": "r"}] * 3)

    frames = [await client.frame()]
    while frames[-1]["type"] != "failed":
        frames.append(await client.frame())

    await client.send({"type": "status"})
    while (frame := await client.frame())["type"] != "status":
        frames.append(frame)
    assert {"started", "failed", "rejected"} >= {frame["type"] for frame in frames}
    assert [frame["type"] for frame in frames].count("failed") == 1


async def test_cancel_in_the_same_write(stage):
    """A request that is cancelled before it began ends with `failed` alone, and never reaches a backend."""
    client = await stage.client()
    await client.send(infer("b"), {"type": "cancel", "request_id": "r"})

    frame = await client.frame()
    assert (frame["type"], frame["error"]["kind"]) == ("failed", "cancelled")
    await client.expect_nothing(0.02)
    assert stage.backend.requests("b") == []


async def test_a_request_that_is_cancelled_at_once_is_logged(stage):
    """Its line of the log says `cancelled`, as that of any other request does, in whatever phase it was cancelled."""
    client = await stage.client()
    await client.send(infer("b", "at-once"), {"type": "cancel", "request_id": "at-once"})
    await client.expect_failed("cancelled", "at-once")

    await stage.logged('"request_id": "at-once"')


async def test_half_close_alone_cancels_nothing(stage):
    """Requests go on after the client has ended its writing side; the connection is closed after the last frame."""
    client = await stage.client()
    stage.backend.on("b", plays(0.1, delta("one"), finish(), DONE), text("two"))
    await client.send(infer("b", "1"), infer("b", "2"))
    client.half_close()

    frames = await client.answers(2)

    assert (said(frames["1"]), said(frames["2"])) == ("one", "two")
    await client.expect_end()


async def test_half_close_without_requests(stage):
    """There is nothing to wait for."""
    client = await stage.client()
    client.half_close()

    await client.expect_end()


async def test_a_client_that_leaves_is_no_failure_of_the_backend(stage):
    """Cancel and disconnect are no failures in the counts, and the log calls them cancelled."""
    stage.backend.on("b", silent)
    before = await stage.status("b")
    for number in range(3):
        client = await stage.client()
        await client.infer("b", f"gone-{number}")
        await stage.backend.request("b", number)
        client.close()
        await stage.until("b", in_flight=0)

    after = await stage.status("b")
    assert after == {**before, "requests": before["requests"] + 3}
    await stage.logged('"gone-2"')
    assert all('"cancelled"' in line for line in stage.daemon.log().splitlines() if '"gone-' in line)


@pytest.mark.parametrize("half_close_first", [False, True])
async def test_clients_that_leave_at_once(stage, half_close_first):
    """Who hangs up before, while or after it is told that its request has started leaves nothing to complain of."""
    stage.backend.on("b", text("nobody hears this"))
    line = json.dumps(infer("b")).encode() + b"\n"
    for turns in range(300):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(stage.daemon.socket_path))
            client.sendall(line)
            if half_close_first:
                client.shutdown(socket.SHUT_WR)
            for _ in range(turns % 15):
                await asyncio.sleep(0)
    await stage.until("b", in_flight=0)

    assert stage.daemon.complaints() == []


async def test_a_frame_for_a_client_that_is_gone_is_dropped():
    """Between a client's end and the end of its requests a sink writes nothing and raises nothing."""

    class Gone:
        def is_closing(self) -> bool:
            return True

        def write(self, data: bytes) -> None:
            raise RuntimeError("the handler is closed")

    gateway: Any = SimpleNamespace(infer=lambda frame, request_id, sink, origin: asyncio.sleep(0))
    connection: Any = SimpleNamespace(transport=Gone(), loop=asyncio.get_running_loop())
    request = Request(connection, Infer.model_construct(type="infer", messages=[]), None, "r", gateway, Origin())

    request.write([Started("b", "m")])

    await asyncio.sleep(0.01)
