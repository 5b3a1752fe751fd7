"""What a request held is freed with it, and the garbage collector, which has nothing to find, hardly ever runs."""

from __future__ import annotations

import asyncio
import gc
import weakref

import pytest

from beluna_gateway.daemon import garbage
from beluna_gateway.daemon.garbage import RareCollection
from tests.fakes.answers import CUT, SILENCE, delta, fails, plays, silent, text, whole
from tests.fakes.backend import PATIENCE
from tests.fakes.client import user

COURSES = {
    "completed": (text("x"), "hear"),
    "unstreamed": (whole("x"), "hear"),
    "refused": (fails(400), "hear"),
    "retried": (fails(500), "hear"),
    "cut": (plays(delta("x"), CUT), "hear"),
    "first-event": (plays(SILENCE), "hear"),
    "idle": (plays(delta("x"), SILENCE), "hear"),
    "cancelled": (silent, "cancel"),
    "cancelled-mid-stream": (plays(delta("x"), SILENCE), "cancel"),
    "left": (silent, "close"),
    "left-mid-stream": (plays(delta("x"), SILENCE), "close"),
}


@pytest.mark.parametrize("course", COURSES)
async def test_a_request_leaves_no_cycles(local, backend, course):
    """However it ends, reference counts alone free what was made for it."""
    script, end = COURSES[course]
    reliability = {"request_timeout_ms": 100, "idle_timeout_ms": 100} if end == "hear" else {}
    if course == "retried":
        reliability |= {"max_retries": 2, "backoff_base_ms": 1, "breaker_failure_threshold": 99}
    daemon = await local(reliability=reliability)
    backend.on("b", script)

    async def play():
        async with daemon.client() as client:
            number = len(backend.requests("b"))
            await client.infer("b", messages=user("x" * 10_000), stream=course != "unstreamed")
            if end == "hear":
                await client.answer()
                return
            exchange = await backend.request("b", number)
            if "mid-stream" in course:
                await client.expect("started")
                await client.expect("output_text_delta")
            if end == "close":
                client.close()
            else:
                await client.cancel()
                await client.answer()
            await exchange.closed()

    await play()
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        await play()
        await backend.reset()
        gc.collect()
        left = [item for item in gc.garbage if type(item).__module__.startswith("beluna_gateway")]
        assert left == []
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()


class Knot:
    """An object that only the collector frees."""

    def __init__(self) -> None:
        self.itself = self


async def test_cycles_are_freed_once_no_request_is_under_way(monkeypatch):
    """And not before; one look is enough for many requests."""
    monkeypatch.setattr(garbage, "IDLE_SECONDS", 0.001)
    monkeypatch.setattr(garbage, "WORTHWHILE", -1)
    looks = []
    under_way = True

    def busy() -> bool:
        looks.append(under_way)
        return under_way

    collection = RareCollection(busy)
    with collection.running():
        knot = weakref.ref(Knot())
        collection.request_ended()
        collection.request_ended()
        while len(looks) < 3:
            await asyncio.sleep(0.001)
        assert knot() is not None
        under_way = False
        async with asyncio.timeout(PATIENCE):
            while knot() is not None:
                await asyncio.sleep(0.001)
        assert looks.count(False) == 1


async def test_nothing_is_looked_for_where_no_objects_have_become_more(monkeypatch):
    """A request that leaves nothing costs no collection."""
    monkeypatch.setattr(garbage, "IDLE_SECONDS", 0.0)
    collection = RareCollection(lambda: pytest.fail("looked"))
    with collection.running():
        gc.collect(0)
        collection.request_ended()
        await asyncio.sleep(0.01)


async def test_cycles_are_freed_under_load_too(monkeypatch):
    """The bound that holds where requests never pause."""
    monkeypatch.setattr(garbage, "ALLOCATIONS", 1000)
    with RareCollection(lambda: True).running():
        knot = weakref.ref(Knot())
        held: list[list[int]] = [[] for _ in range(3000)]
        assert knot() is None
        held.clear()


async def test_the_collector_is_left_as_it_was():
    """By the tests that follow, for example; only what was loaded stays set aside."""
    before = gc.get_threshold()
    with RareCollection(lambda: False).running():
        assert gc.get_threshold() == (garbage.ALLOCATIONS, garbage.OLDER, garbage.OLDER)
        assert gc.get_freeze_count() > 0
    assert gc.get_threshold() == before
