"""A backend whose host takes no connection: the queue of its listening socket is full, so nobody answers at all."""

from __future__ import annotations

import asyncio
import socket
from contextlib import ExitStack

import pytest


@pytest.fixture
async def deaf_port():
    """A port of loopback on which a connection is neither accepted nor refused."""
    with ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(16):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        await asyncio.sleep(0.05)
        yield listener.getsockname()[1]


async def test_connect_timeout(local, deaf_port):
    """`connect_timeout_ms` ends the attempt, named, retryable."""
    endpoint = f"http://127.0.0.1:{deaf_port}/v1"
    daemon = await local(endpoint=endpoint, reliability={"connect_timeout_ms": 150, "max_retries": 1})
    loop = asyncio.get_running_loop()
    async with daemon.client() as client:
        began = loop.time()
        await client.infer()
        error = await client.expect_failed("timeout")

    assert 0.3 <= loop.time() - began < 2  # two attempts
    assert error["retryable"] is True
    assert "connect_timeout_ms" in error["message"]


async def test_a_refused_connection_is_named_by_its_meaning(local):
    """In the words of the system, with the endpoint."""
    with socket.socket() as taken:  # bound and not listening: nobody else gets the port
        taken.bind(("127.0.0.1", 0))
        endpoint = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        daemon = await local(endpoint=endpoint, reliability={"max_retries": 0})
        async with daemon.client() as client:
            await client.infer()
            error = await client.expect_failed("backend_transient")

    assert error["message"] == f"no connection to {endpoint}: Connection refused"


@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_cancelled_while_connecting(local, deaf_port, way):
    """The attempt is given up at once; no descriptor stays."""
    endpoint = f"http://127.0.0.1:{deaf_port}/v1"
    reliability = {"connect_timeout_ms": 30_000, "request_timeout_ms": 30_000}
    daemon = await local(endpoint=endpoint, reliability=reliability, budget={"max_concurrency_per_backend": 1})
    async with daemon.client() as client:
        await client.infer()
        await client.expect("started")
        await asyncio.sleep(0.05)
        if way == "cancel":
            await client.cancel()
            await client.expect_failed("cancelled")
        else:
            client.close()
            async with asyncio.timeout(1):
                while daemon.gateway.status()[0]["in_flight"]:
                    await asyncio.sleep(0.005)
