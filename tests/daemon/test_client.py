"""The package's own client, and the gateway inside another program, against a real daemon and a real backend."""

from __future__ import annotations

import asyncio
from contextlib import aclosing

import pytest

from beluna_gateway.canonical import OutputTextDelta
from beluna_gateway.client import DaemonGone, connect
from beluna_gateway.config.loading import load_config
from beluna_gateway.errors import GatewayError
from beluna_gateway.gateway import AIGateway
from tests.fakes.answers import DONE, SILENCE, delta, fails, finish, plays, silent, text
from tests.fakes.client import said, user
from tests.fakes.daemon import make_config, write_config

# --- the client ---


async def test_two_answers_at_once(local, backend):
    """Each request is an iterator of its own frames."""
    daemon = await local()
    backend.on("b", text("a", "b"))
    async with connect(daemon.socket_path) as client:

        async def ask() -> str:
            return said([frame async for frame in client.infer(messages=user())])

        assert list(await asyncio.gather(ask(), ask())) == ["ab", "ab"]
        assert (await client.status())["connections"] == 1


async def test_leaving_the_iterator_cancels(local, backend):
    """Whoever stops listening lets the backend go; the connection stays usable."""
    daemon = await local()
    backend.on("b", plays(delta("x"), SILENCE), text("next"))
    async with connect(daemon.socket_path) as client:
        async with aclosing(client.infer(messages=user())) as answer:
            async for frame in answer:
                if frame["type"] == "output_text_delta":
                    break
        await (await backend.request("b")).closed()

        assert said([frame async for frame in client.infer(messages=user())]) == "next"


async def test_leaving_the_connection_cancels(local, backend):
    """The end of the block is the end of its requests."""
    daemon = await local()
    backend.on("b", silent)
    async with connect(daemon.socket_path) as client:

        async def ask() -> None:
            async for _ in client.infer(messages=user()):
                pass

        asking = asyncio.create_task(ask())
        exchange = await backend.request("b")
    await exchange.closed()
    with pytest.raises(DaemonGone):
        await asking


async def test_a_daemon_that_goes_away(local, backend):
    """`DaemonGone` for what is under way, and for everything asked afterwards."""
    daemon = await local()
    backend.on("b", silent)
    async with connect(daemon.socket_path) as client:
        frames = client.infer(messages=user())
        assert (await anext(frames))["type"] == "started"
        for connection in list(daemon.daemon._connections):
            connection.transport.abort()
        async with asyncio.timeout(5):
            with pytest.raises(DaemonGone):
                await anext(frames)
            for _ in range(3):
                with pytest.raises(DaemonGone):
                    await anext(client.infer(messages=user()))
                with pytest.raises(DaemonGone):
                    await client.status()


async def test_a_connection_that_is_refused(local):
    """Whoever is not let in learns why, whether it asks at once or later."""
    daemon = await local(server={"max_connections": 1})
    async with connect(daemon.socket_path), asyncio.timeout(5):
        for pause in (0.0, 0.1):
            async with connect(daemon.socket_path) as client:
                await asyncio.sleep(pause)
                (frame,) = [frame async for frame in client.infer(messages=user())]
                assert (frame["type"], frame["error"]["kind"]) == ("rejected", "budget_exceeded")
            async with connect(daemon.socket_path) as client:
                await asyncio.sleep(pause)
                with pytest.raises(DaemonGone, match="max_connections"):
                    await client.status()


async def test_places_of_connections_are_given_back(local):
    """With `max_connections` 2, a hundred may come one after the other."""
    daemon = await local(server={"max_connections": 2})
    for _ in range(100):
        async with connect(daemon.socket_path) as client:
            for _ in range(100):
                if (await client.status())["connections"] == 1:
                    break


# --- the gateway as a library ---


@pytest.fixture
async def gateway(tmp_path, backend):
    """An embedded gateway with one backend."""
    config = make_config({"b": {"budget": {"max_concurrency_per_backend": 1}}}, backend)
    async with AIGateway(load_config(write_config(tmp_path, config)), tmp_path) as gateway:
        yield gateway


REQUEST = {"messages": user()}


async def test_embedded(gateway, backend):
    """`infer_once` and `infer_stream` speak to a real backend without a socket of ours."""
    backend.on("b", text("Hel", "lo"))

    assert (await gateway.infer_once(REQUEST)).output_text == "Hello"
    async with gateway.infer_stream(REQUEST) as events:
        assert [event.delta async for event in events if isinstance(event, OutputTextDelta)] == ["Hel", "lo"]


@pytest.mark.parametrize(
    "script", [silent, plays(SILENCE), plays(delta("x"), SILENCE)], ids=["accept", "headers", "text"]
)
async def test_leaving_the_block_closes_the_backends_connection(gateway, backend, script):
    """At once; and the place is free."""
    backend.on("b", script, text("next"))
    async with gateway.infer_stream(REQUEST) as events:
        await anext(events)
        exchange = await backend.request("b")
        await asyncio.sleep(0.03)
    await exchange.closed(1)

    assert (await gateway.infer_once(REQUEST)).output_text == "next"


async def test_cancelling_infer_once_closes_the_backends_connection(gateway, backend):
    """The caller's cancel is the request's."""
    backend.on("b", silent, text("next"))
    asking = asyncio.create_task(gateway.infer_once(REQUEST))
    exchange = await backend.request("b")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await exchange.closed(1)

    assert (await gateway.infer_once(REQUEST)).output_text == "next"


async def test_an_embedded_failure(gateway, backend):
    """Failures are the one exception, with everything a frame would say."""
    backend.on("b", fails(401, "bad_key", "no"))
    with pytest.raises(GatewayError, match="no") as caught:
        await gateway.infer_once(REQUEST)

    assert (caught.value.kind, caught.value.backend_id, caught.value.provider_code) == (
        "authentication",
        "b",
        "bad_key",
    )


async def test_closing_the_gateway_right_after_an_answer(tmp_path, backend):
    """A response that the backend keeps open after `[DONE]` is closed with the gateway."""
    config = load_config(write_config(tmp_path, make_config({"b": {}}, backend)))
    async with AIGateway(config, tmp_path) as gateway:
        backend.on("b", plays(delta("x"), finish(), DONE, SILENCE))
        await gateway.infer_once(REQUEST)
        assert not backend.requests("b")[0].is_closed
    await backend.requests("b")[0].closed(0.5)


async def test_closing_the_gateway_under_a_request(tmp_path, backend):
    """It fails as one whose gateway is closed, and the backend's connection is closed."""
    config = load_config(write_config(tmp_path, make_config({"b": {"reliability": {"max_retries": 2}}}, backend)))
    async with AIGateway(config, tmp_path) as gateway:
        backend.on("b", silent)
        asking = asyncio.create_task(gateway.infer_once(REQUEST))
        exchange = await backend.request("b")
    with pytest.raises(GatewayError, match="the gateway is closed"):
        await asking
    await exchange.closed(1)


async def test_closing_the_gateway_closes_idle_connections(tmp_path, backend):
    """What was kept for the next request is closed with the gateway."""
    config = load_config(write_config(tmp_path, make_config({"b": {}}, backend)))
    async with AIGateway(config, tmp_path) as gateway:
        backend.on("b", text("x"))
        await gateway.infer_once(REQUEST)
        assert not backend.requests("b")[0].is_closed
    await backend.requests("b")[0].closed(1)
