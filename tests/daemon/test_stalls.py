"""The event loop goes on while a large frame is decoded, checked, normalised and encoded."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

import pytest

from beluna_gateway.daemon.connection import is_large
from tests.fakes.answers import answers, text
from tests.fakes.client import infer, user

from .test_large_frames import HEAD, MESSAGE, ONE, WRONG, many, many_keys

RIGHT: dict[str, Callable[[int], bytes]] = {
    "right messages": lambda size: many(MESSAGE, size),
    "free JSON": lambda size: many(b"[]", size, ONE + b'"provider_options":{"a":[', b"]}}"),
    "right metadata": lambda size: many_keys(b'"v"', size, ONE + b'"metadata":{', b"}}"),
    "messages to be counted": lambda size: many(MESSAGE, size, HEAD.replace(b"infer", b"count_tokens")),
    "texts to be embedded": lambda size: many(b'"x"', size, b'{"type":"embed","request_id":"r","inputs":['),
}


@pytest.mark.parametrize("kind", [*RIGHT, *WRONG])
async def test_a_large_frame_holds_up_nobody(local, backend, kind):
    """While 2 MB are decoded and encoded the event loop goes on all the time, however long it takes."""
    backend.on("b", answers(200, b'{"input_tokens":1,"data":[]}') if "to be" in kind else text("done"))
    line = {**RIGHT, **WRONG}[kind](2_000_000)
    daemon = await local()
    async with daemon.client() as client:
        await client.status()
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0.005)
                turns += 1

        counting = asyncio.create_task(count())
        loop = asyncio.get_running_loop()
        began = loop.time()
        await client.send_bytes(line)
        while (await client.frame(patience=120))["type"] not in ("rejected", "completed", "failed", "token_count"):
            pass
        seconds = loop.time() - began
        counting.cancel()

    # One call of the parser, or one run of the garbage collector, would leave it a handful of turns.
    assert turns >= seconds / 0.1 - 1


def test_a_small_frame_needs_no_thread():
    """What most clients send is served where it is read."""
    usual: dict[str, Any] = infer(
        messages=user("A long text, as people write it. " * 1500),
        tools=[
            {"name": f"t{n}", "input_schema": {"type": "object", "properties": {"a": {"type": "string"}}}}
            for n in range(50)
        ],
    )

    assert not is_large(json.dumps(usual).encode())
    assert is_large(many(MESSAGE, 60_000))
    assert is_large(b" " * 70_000)
