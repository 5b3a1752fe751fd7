"""`AIGateway.reload`: what is exchanged, when, and what a request in flight sees of it. Time is virtual."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.canonical import Completed, OutputTextDelta, Started
from beluna_gateway.config.settings import BackendProfile, Config, profiles
from beluna_gateway.gateway import AIGateway
from beluna_gateway.live_backends import BackendChanges
from beluna_gateway.wire.frames import Infer

from .fakes.adapter import SILENCE, Client, ScriptedAdapter, text, transient
from .fakes.clock import virtual_time
from .fakes.config import backend, config

HELD: list[Any] = [OutputTextDelta("a"), 10.0, *text("b")]
"""An answer that takes ten seconds."""


class Adapter(ScriptedAdapter):
    """Notes when it is started."""

    started_at: float | None = None
    closed_at: float | None = None

    async def start(self) -> None:
        self.started_at = asyncio.get_running_loop().time()

    async def close(self) -> None:
        await super().close()
        self.closed_at = asyncio.get_running_loop().time()


def unmakeable(profile: BackendProfile) -> ScriptedAdapter:
    """Makes no adapter."""
    raise ValueError(f"no such dialect: {profile.backend.dialect}")


class House:
    """A gateway, and every adapter that it made, by the endpoint of its backend."""

    def __init__(self) -> None:
        self.scripts: dict[str, list[list[Any]]] = {}
        self.made: dict[str, list[Adapter]] = {}
        self.gateway: AIGateway

    def make(self, profile: BackendProfile) -> Adapter:
        endpoint = profile.backend.endpoint or ""
        adapter = Adapter(self.scripts.get(endpoint, [text("ok")]))
        self.made.setdefault(endpoint, []).append(adapter)
        return adapter

    def reload(self, *backends: Any, **gateway: Any) -> BackendChanges:
        return self.gateway.reload(Config.model_validate(config(*backends, gateway=gateway)))

    def begin(self, client: Client, **fields: Any) -> asyncio.Task[None]:
        request = {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}]}], **fields}
        return asyncio.create_task(self.gateway.infer(Infer.model_validate(request), "r", client))

    async def ask(self, **fields: Any) -> list[Any]:
        client = Client()
        await self.begin(client, **fields)
        return client.events


@asynccontextmanager
async def house(*backends: Any, scripts: dict[str, list[list[Any]]] | None = None) -> AsyncIterator[House]:
    """A gateway with those backends."""
    built = House()
    built.scripts = scripts or {}
    parsed = Config.model_validate(config(*backends))
    async with AIGateway(parsed, Path("/folder"), adapters={"ollama": built.make}) as built.gateway:
        yield built


# --- what is exchanged -----------------------------------------------------------------------------------------


@virtual_time
async def test_new_requests_use_the_new_configuration_and_those_in_flight_the_old_one():
    """A request that is answering ends at the backend where it began; the next one goes to the new one at once."""
    async with house(backend(endpoint="http://localhost/old"), scripts={"http://localhost/old": [HELD]}) as built:
        client = Client()
        task = built.begin(client)
        await asyncio.sleep(1)
        built.reload(backend(endpoint="http://localhost/new", default_model="m2"))

        assert (await built.ask())[0] == Started("b", "m2")
        assert [
            len(built.made[endpoint][0].prepared) for endpoint in ("http://localhost/old", "http://localhost/new")
        ] == [1, 1]
        await task
        assert client.events[0] == Started("b", "m")
        assert isinstance(client.events[-1], Completed)


@virtual_time
async def test_what_was_replaced_is_closed_with_its_last_request():
    """Not before the last of several has ended, and not later; without one, at once."""
    async with house(
        backend(endpoint="http://localhost/old"),
        backend(id="c", endpoint="http://localhost/unused"),
        scripts={"http://localhost/old": [HELD]},
    ) as built:
        await built.ask(backend_id="c")
        tasks = [built.begin(Client())]
        await asyncio.sleep(4)
        tasks.append(built.begin(Client()))
        await asyncio.sleep(1)
        built.reload(backend(endpoint="http://localhost/new"))
        await asyncio.sleep(0.01)
        (old,), (unused,) = built.made["http://localhost/old"], built.made["http://localhost/unused"]

        assert (old.closed, unused.closed) == (0, 1)
        await tasks[0]
        await asyncio.sleep(0.01)
        assert old.closed == 0
        await tasks[1]
        await asyncio.sleep(0.01)
        assert old.closed == 1
    assert (old.closed, unused.closed, len(built.made["http://localhost/unused"])) == (1, 1, 1)


@virtual_time
async def test_a_request_that_waits_for_a_place_keeps_its_backend():
    """It was accepted before the reload, so it is served by what stood in the file then."""
    one = {"budget": {"max_concurrency_per_backend": 1}}
    async with house(
        backend(endpoint="http://localhost/old", **one), scripts={"http://localhost/old": [HELD]}
    ) as built:
        tasks = [built.begin(Client()) for _ in range(3)]
        await asyncio.sleep(1)
        built.reload(backend(endpoint="http://localhost/new", **one))
        await asyncio.gather(*tasks)

        assert built.made["http://localhost/old"][0].begun == 3
        assert built.made["http://localhost/new"][0].begun == 0


@virtual_time
async def test_unchanged_backends_keep_everything():
    """Adapter, breaker, budget and counters are those of before, whatever else the reload changes."""
    failing = {"reliability": {"breaker_failure_threshold": 1, "max_retries": 0}}
    async with house(
        backend(),
        backend(id="c", endpoint="http://localhost/c", **failing),
        scripts={"http://localhost/c": [[transient()]]},
    ) as built:
        await built.ask(backend_id="c")
        before = built.gateway.backends["c"]
        changes = built.reload(
            backend(endpoint="http://localhost/new"), backend(id="c", endpoint="http://localhost/c", **failing)
        )

        assert changes == BackendChanges(added=(), changed=("b",), removed=(), unchanged=("c",))
        assert built.gateway.backends["c"] is before
        assert (before.breaker.state, before.requests, before.failures) == ("open", 1, 1)
        assert len(built.made["http://localhost/c"]) == 1
        assert built.made["http://localhost/c"][0].closed == 0


@virtual_time
async def test_a_changed_backend_has_a_new_breaker_and_a_new_budget():
    """Its circuit is closed and its places are free, and the late failure of an old request opens nothing."""
    keys = {"budget": {"max_concurrency_per_backend": 1}, "reliability": {"breaker_failure_threshold": 1}}
    old: list[Any] = [OutputTextDelta("a"), 10.0, transient()]
    async with house(
        backend(endpoint="http://localhost/old", **keys), scripts={"http://localhost/old": [old]}
    ) as built:
        task = built.begin(Client())
        await asyncio.sleep(1)
        built.reload(backend(endpoint="http://localhost/new", **keys))

        assert isinstance((await built.ask())[-1], Completed)
        await task
        assert built.gateway.backends["b"].breaker.state == "closed"


@virtual_time
async def test_added_and_removed_backends_and_the_default():
    """A removed backend is unknown to new requests, an added one known, and the default is the file's."""
    async with house(backend(), backend(id="c", endpoint="http://localhost/c")) as built:
        changes = built.reload(backend(id="d", endpoint="http://localhost/d"), backend(), default_backend="d")

        assert changes == BackendChanges(added=("d",), changed=(), removed=("c",), unchanged=("b",))
        assert (await built.ask())[0] == Started("d", "m")
        assert (await built.ask(backend_id="c"))[-1].error.kind == "invalid_request"
        assert [entry["id"] for entry in built.gateway.status()] == ["d", "b"]


@virtual_time
async def test_what_cannot_be_made_changes_nothing():
    """An adapter that cannot be made for the new default backend leaves everything as it was."""
    async with house(backend()) as built:
        live = built.gateway._live
        live._adapters = {**live._adapters, "gemini": unmakeable}
        with pytest.raises(ValueError, match="no such dialect"):
            built.reload(backend(dialect="gemini"))

        assert isinstance((await built.ask())[-1], Completed)
        assert built.gateway.backends["b"].profile.backend.dialect == "ollama"


SAME: list[tuple[dict[str, Any], dict[str, Any], bool]] = [
    ({}, {}, True),
    ({}, {"reliability": {"max_retries": 2}}, True),
    ({}, {"reliability": {"max_retries": 3}}, False),
    ({}, {"credential": {"type": "env", "var": "KEY"}}, False),
    ({"capabilities": {}}, {"capabilities": {"json_mode": True}}, False),  # anthropic has none, unless the file says so
    ({"launch": {"command": "a"}}, {"launch": {"command": "a", "args": []}}, True),
    ({"launch": {"command": "a"}}, {"launch": {"command": "b"}}, False),
]


@pytest.mark.parametrize(("one", "other", "same"), SAME, ids=str)
def test_which_settings_are_the_same(one: dict[str, Any], other: dict[str, Any], same: bool):
    """A default that is written out changes nothing; a capability that is written out does."""
    first, second = (profiles(Config.model_validate(config(backend(**keys))), Path())["b"] for keys in (one, other))

    assert first.equals(second) is same


@virtual_time
async def test_shared_settings_change_every_backend_that_has_them():
    """`ai_gateway.reliability` counts for the backends that do not name the key themselves."""
    own = backend(id="c", endpoint="http://localhost/c", reliability={"max_retries": 1})
    async with house(backend(), own) as built:
        changes = built.reload(backend(), own, reliability={"max_retries": 5})

        assert (changes.changed, changes.unchanged) == (("b",), ("c",))


# --- model servers ---------------------------------------------------------------------------------------------

LAUNCH = {"command": "server"}


@virtual_time
async def test_a_model_server_that_takes_anothers_place_is_started_after_its_end():
    """On the same endpoint the new server is started, and new requests are sent, once the old one has stopped."""
    async with house(backend(launch=LAUNCH), scripts={"http://127.0.0.1:1": [HELD]}) as built:
        task = built.begin(Client())
        await asyncio.sleep(1)
        built.reload(backend(launch=LAUNCH, default_model="m2"))
        asked = built.begin(second := Client())
        await asyncio.sleep(5)
        old, new = built.made["http://127.0.0.1:1"]
        assert (old.closed_at, new.started_at, second.events) == (None, None, [])
        await task
        await asked

        assert old.closed_at is not None
        assert new.started_at is not None
        assert old.closed_at <= new.started_at
        assert second.events[0] == Started("b", "m2")
        assert not built.gateway.backends["b"].predecessors


@virtual_time
async def test_a_model_server_on_another_endpoint_waits_for_nobody():
    """It is started at once, and serves while the old one still answers."""
    async with house(backend(launch=LAUNCH), scripts={"http://127.0.0.1:1": [HELD]}) as built:
        task = built.begin(Client())
        await asyncio.sleep(1)
        built.reload(backend(launch=LAUNCH, endpoint="http://127.0.0.1:2"))

        assert isinstance((await built.ask())[-1], Completed)
        assert built.made["http://127.0.0.1:2"][0].started_at is not None
        assert not task.done()
        await task


@virtual_time
async def test_a_request_that_waits_for_a_model_servers_place_can_be_cancelled():
    """Its own place is free again; the old server goes on."""
    async with house(backend(launch=LAUNCH), scripts={"http://127.0.0.1:1": [[SILENCE]]}) as built:
        first = built.begin(Client())
        await asyncio.sleep(1)
        built.reload(backend(launch=LAUNCH, default_model="m2"))
        second = built.begin(Client())
        await asyncio.sleep(1)
        second.cancel()
        await asyncio.wait([second])

        assert built.gateway.backends["b"].budget.in_flight == 0
        assert built.made["http://127.0.0.1:1"][0].closed == 0
        first.cancel()
        await asyncio.wait([first])


@virtual_time
async def test_three_reloads_in_a_row():
    """Of the two that were never used nothing is started, and the last one waits for the first."""
    async with house(backend(launch=LAUNCH), scripts={"http://127.0.0.1:1": [HELD]}) as built:
        task = built.begin(Client())
        await asyncio.sleep(1)
        for model in ("m2", "m3", "m4"):
            built.reload(backend(launch=LAUNCH, default_model=model))
        await task
        await asyncio.sleep(0.01)
        first, *unused, last = built.made["http://127.0.0.1:1"]

        assert [adapter.started_at for adapter in unused] == [None, None]
        assert first.closed_at is not None
        assert last.started_at is not None
        assert first.closed_at <= last.started_at


# --- the end ---------------------------------------------------------------------------------------------------


@virtual_time
async def test_leaving_the_gateway_closes_what_was_replaced_too():
    """Also where a request still uses it, and where a model server waits for its end; nothing is left running."""
    async with house(backend(launch=LAUNCH), scripts={"http://127.0.0.1:1": [[SILENCE]]}) as built:
        task = built.begin(Client())
        await asyncio.sleep(1)
        built.reload(backend(launch=LAUNCH, default_model="m2"))
        await asyncio.sleep(0.01)
    old, new = built.made["http://127.0.0.1:1"]
    assert (old.closed, new.closed, new.started_at) == (1, 1, None)
    task.cancel()
    await asyncio.wait([task])
