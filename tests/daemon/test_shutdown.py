"""How the daemon ends: `exit`, signals, and what becomes of requests in flight. Each test has a process of its own."""

from __future__ import annotations

import asyncio
import signal
from contextlib import asynccontextmanager

import pytest

from beluna_gateway.daemon.connection import daemon_stopping
from beluna_gateway.errors import GatewayError
from tests.fakes.answers import DONE, SILENCE, delta, endless, finish, plays, silent, text
from tests.fakes.client import Client, Frame, connected, infer, said
from tests.fakes.daemon import DaemonProcess, daemon_process, make_config

GRACE_MS = 800


@pytest.fixture
def running(tmp_path, backend):
    """``async with running(server settings) as (daemon, client)``."""

    @asynccontextmanager
    async def start(**server):
        config = make_config({"b": {}}, backend, server={"shutdown_grace_ms": GRACE_MS, **server})
        async with daemon_process(tmp_path, config) as daemon, connected(daemon.socket_path) as client:
            yield daemon, client

    return start


async def stop(daemon: DaemonProcess, client: Client, how: str | signal.Signals) -> None:
    """Tells the daemon to stop."""
    if isinstance(how, signal.Signals):
        daemon.process.send_signal(how)
    else:
        await client.send({"type": how})


async def nobody_answers(daemon: DaemonProcess) -> None:
    """Waits until a new connection is refused."""
    async with asyncio.timeout(5):
        while True:
            try:
                async with connected(daemon.socket_path):
                    await asyncio.sleep(0.005)
            except OSError:
                return


def stopping(frame: Frame) -> bool:
    """Whether a terminal frame says that the daemon is stopping, and that the request may be sent again."""
    error = frame["error"]
    return (error["kind"], error["message"], error["retryable"]) == ("internal", "the daemon is stopping", True)


ENDS = pytest.mark.parametrize("how", ["exit", signal.SIGTERM, signal.SIGINT])


@ENDS
async def test_an_idle_daemon_ends_at_once(running, how):
    """Status 0, connections closed, the socket file gone, and nothing left beside it."""
    async with running(shutdown_grace_ms=60_000) as (daemon, client):
        await stop(daemon, client, how)

        assert await daemon.ended() == 0
        await client.expect_end()
        assert sorted(path.name for path in daemon.folder.iterdir()) == ["backend.sock", "beluna.jsonc", "log"]


@ENDS
async def test_requests_in_flight_may_finish(running, backend, how):
    """They have `shutdown_grace_ms`, also those that wait for their place; the daemon ends after the last one."""
    async with running() as (daemon, client):
        backend.on("b", plays(delta("a"), 0.2, delta("b"), finish(), DONE))
        await client.infer("b")
        await backend.request("b")
        await stop(daemon, client, how)

        assert said(await client.answer()) == "ab"
        await client.expect_end()
        assert await daemon.ended() == 0


async def test_after_the_grace_time_they_are_ended(running, backend):
    """`failed`, kind `internal`, retryable, to each; the backend's connection is closed; exit status 0."""
    async with running() as (daemon, client):
        loop = asyncio.get_running_loop()
        backend.on("b", silent)
        await client.send(infer("b", "1"), infer("b", "2"))
        exchanges = [await backend.request("b", number) for number in range(2)]
        began = loop.time()
        await stop(daemon, client, "exit")

        frames = await client.answers(2)

        assert [stopping(one[-1]) for one in frames.values()] == [True, True]
        assert GRACE_MS / 1000 - 0.05 <= loop.time() - began < GRACE_MS / 1000 + 2
        await client.expect_end()
        for exchange in exchanges:
            await exchange.closed()
        assert await daemon.ended() == 0


@pytest.mark.parametrize(("first", "second"), [("exit", signal.SIGTERM), (signal.SIGTERM, signal.SIGINT)])
async def test_a_second_signal_does_not_wait(running, backend, first, second):
    """It ends at once what is in flight."""
    async with running(shutdown_grace_ms=60_000) as (daemon, client):
        backend.on("b", silent)
        await client.infer("b")
        exchange = await backend.request("b")
        await stop(daemon, client, first)
        await asyncio.sleep(0.2)
        assert daemon.process.poll() is None
        daemon.process.send_signal(second)

        assert stopping((await client.answer())[-1])
        assert await daemon.ended(patience=5) == 0
        await exchange.closed()


async def test_nothing_new_is_taken(running, backend):
    """While it stops, a new request is rejected as `internal`, retryable, and a new connection is refused."""
    async with running(shutdown_grace_ms=60_000) as (daemon, client):
        backend.on("b", plays(delta("a"), 1.0, finish(), DONE))
        await client.infer("b")
        await backend.request("b")
        await client.expect("started")
        await client.expect("output_text_delta")
        await stop(daemon, client, "exit")
        await client.infer("b", "late")

        assert stopping(await client.expect("rejected", "late"))
        await nobody_answers(daemon)
        assert (await client.expect("completed"))["finish_reason"] == "stop"
        assert await daemon.ended() == 0


async def test_cancel_works_until_the_end(running, backend):
    """A client may still cancel, which is `cancelled`; the daemon then has nothing to wait for."""
    async with running(shutdown_grace_ms=60_000) as (daemon, client):
        backend.on("b", silent)
        await client.infer("b")
        await backend.request("b")
        await stop(daemon, client, signal.SIGTERM)
        await asyncio.sleep(0.1)
        await client.cancel()

        await client.expect_failed("cancelled")
        assert await daemon.ended(patience=5) == 0


async def test_a_client_that_leaves_ends_the_wait(running, backend):
    """With the last client gone there is nothing to wait for either."""
    async with running(shutdown_grace_ms=60_000) as (daemon, client):
        backend.on("b", silent)
        await client.infer("b")
        await backend.request("b")
        await stop(daemon, client, signal.SIGTERM)
        client.close()

        assert await daemon.ended(patience=5) == 0


async def test_a_client_that_does_not_read_cannot_hold_it(running, backend):
    """After the grace time the daemon ends, whatever a client has not taken."""
    async with running(shutdown_grace_ms=200) as (daemon, client):
        backend.on("b", endless)
        client.stop_reading()
        await client.infer("b")
        await backend.request("b")
        await asyncio.sleep(0.2)
        await stop(daemon, client, signal.SIGTERM)

        assert await daemon.ended(patience=6) == 0


async def test_no_grace(running, backend):
    """`shutdown_grace_ms` 0 ends requests at once."""
    async with running(shutdown_grace_ms=0) as (daemon, client):
        backend.on("b", plays(delta("x"), SILENCE))
        await client.infer("b")
        await backend.request("b")
        await stop(daemon, client, "exit")

        assert stopping((await client.answer())[-1])
        assert await daemon.ended(patience=5) == 0


async def test_the_first_reason_is_told(local, backend):
    """A request that is cancelled and then overtaken by the shutdown is `cancelled`; the other way round `internal`."""
    daemon = await local(server={"shutdown_grace_ms": 60_000})
    backend.on("b", silent)
    async with daemon.client() as client:
        await client.send(infer("b", "1"), infer("b", "2"))
        for number in range(2):
            await backend.request("b", number)
        (connection,) = daemon.daemon._connections
        requests = connection._requests
        requests["1"].end(GatewayError("cancelled", "cancelled by the client"))
        connection.end_all(daemon_stopping())
        requests["2"].end(GatewayError("cancelled", "cancelled by the client"))

        frames = await client.answers(2)

    assert frames["1"][-1]["error"]["kind"] == "cancelled"
    assert stopping(frames["2"][-1])


async def test_exit_where_it_is_not_allowed(running, backend):
    """With `allow_exit` false the frame is rejected, kind `authorization`, and nothing else happens."""
    async with running(allow_exit=False) as (daemon, client):
        backend.on("b", text("still here"))
        await client.send({"type": "exit"})

        frame = await client.expect("rejected")
        assert (frame["request_id"], frame["error"]["kind"]) == (None, "authorization")
        await client.infer("b")
        assert said(await client.answer()) == "still here"
        assert await daemon.stop() == 0


async def test_exit_without_a_line_end(running):
    """`printf '{"type":"exit"}' | socat - UNIX-CONNECT:…`."""
    async with running() as (daemon, client):
        await client.send_bytes(b'{"type":"exit"}')
        client.half_close()

        await client.expect_end()
        assert await daemon.ended(patience=5) == 0


async def test_killed_and_started_again(tmp_path, backend):
    """The socket file that a killed daemon leaves is replaced by the next one."""
    config = make_config({"b": {}}, backend)
    async with daemon_process(tmp_path, config) as daemon:
        daemon.kill()
        assert daemon.socket_path.is_socket()
    async with daemon_process(tmp_path, config) as daemon, connected(daemon.socket_path) as client:
        await client.status()
        assert await daemon.stop() == 0
    assert not daemon.socket_path.exists()
