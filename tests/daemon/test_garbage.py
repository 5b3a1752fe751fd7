"""What a request held is freed with it: large bodies do not wait for the garbage collector."""

from __future__ import annotations

import gc

import pytest

from tests.fakes.answers import CUT, SILENCE, delta, fails, plays, silent, text, whole
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
