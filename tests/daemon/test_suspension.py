"""The daemon's process is stopped for a while (SIGSTOP, a laptop that sleeps): what came meanwhile counts."""

from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import pytest

from tests.fakes.answers import DONE, delta, finish, plays, whole
from tests.fakes.client import said

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 1000  # ms
STOPPED = 1.6  # seconds
RELIABILITY = {"request_timeout_ms": LIMIT, "idle_timeout_ms": LIMIT, "breaker_failure_threshold": 1}
BACKENDS: dict[str, Any] = {
    "stream": {"reliability": RELIABILITY},
    "first": {"reliability": RELIABILITY},
    "whole": {"reliability": RELIABILITY},
    "total": {"budget": {"max_request_time_ms": LIMIT}},
}

ANSWERS = {
    "stream": plays(delta("a"), 0.3, *(step for _ in range(10) for step in (delta("b"), 0.02)), finish(), DONE),
    "first": plays(0.3, delta("a"), delta("b"), finish(), DONE),
    "whole": whole("ab"),
    "total": plays(0.3, delta("a"), finish(), DONE),
}


@pytest.mark.parametrize("name", ANSWERS)
async def test_what_came_while_the_process_was_stopped_is_no_silence(stage, name):
    """No timer ends an answer that is already there when the process goes on, and the breaker counts nothing."""
    client = await stage.client()
    stage.backend.on(name, ANSWERS[name])
    await client.infer(name, stream=name != "whole")
    await stage.backend.request(name)
    if name == "stream":
        await client.expect("started")
        await client.expect("output_text_delta")
    os.kill(stage.daemon.pid, signal.SIGSTOP)
    try:
        await asyncio.sleep(STOPPED)
    finally:
        os.kill(stage.daemon.pid, signal.SIGCONT)

    frames = await client.answer()
    assert frames[-1]["type"] == "completed", frames[-1]
    assert said(frames).startswith("b" if name == "stream" else "a")
    assert (await stage.status(name))["breaker"] == "closed"
