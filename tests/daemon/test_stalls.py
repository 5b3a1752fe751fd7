"""The event loop goes on while a large frame is decoded, checked, normalised and encoded."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from typing import Any

import pytest

from beluna_gateway.adapters.operations.base import OperationDecoder
from beluna_gateway.daemon.connection import is_large
from beluna_gateway.wire.ndjson import FrameEncoder
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


def vectors(numbers: int) -> list[list[float]]:
    return [[position / 7 + row for position in range(numbers)] for row in range(2)]


def embedded(numbers: int) -> dict[str, Any]:
    data = [{"index": index, "embedding": vector} for index, vector in enumerate(vectors(numbers))]
    return {"data": data, "usage": {"prompt_tokens": 2, "total_tokens": 2}}


async def test_a_large_answer_is_decoded_and_encoded_off_the_event_loop(local, backend, monkeypatch):
    """Vectors of hundreds of kilobytes go through the thread of large frames, and come as small ones do."""
    seen: list[tuple[str, str]] = []

    def note(owner: type, name: str) -> None:
        function = getattr(owner, name)

        def noting(*args: Any) -> Any:
            seen.append((name, threading.current_thread().name))
            return function(*args)

        monkeypatch.setattr(owner, name, noting)

    note(OperationDecoder, "feed_whole")
    note(FrameEncoder, "result")
    daemon = await local()
    async with daemon.client() as client:
        for numbers, thread in ((10, "MainThread"), (10_000, "large frames")):
            backend.on("b", answers(200, embedded(numbers)))
            await client.send({"type": "embed", "request_id": "r", "inputs": ["a", "b"]})
            frame = await client.frame(patience=60)

            assert (frame["type"], frame["vectors"]) == ("embedding", vectors(numbers))
            assert frame["usage"]["input_tokens"] == 2
            assert seen == [("feed_whole", thread), ("result", thread)]
            seen.clear()


async def test_a_large_answer_that_waits_to_be_decoded_can_be_cancelled(local, backend):
    """It ends at once, with one terminal frame."""
    backend.on("b", answers(200, embedded(10_000)))
    daemon = await local()
    worker, busy = daemon.daemon.worker, threading.Event()
    async with daemon.client() as client:
        other = asyncio.create_task(worker.run(busy.wait))
        await client.send({"type": "embed", "request_id": "r", "inputs": ["a", "b"]})
        async with asyncio.timeout(20):
            while worker._jobs.qsize() == 0:
                await asyncio.sleep(0.01)
        await client.send({"type": "cancel", "request_id": "r"})
        frame = await client.frame()
        busy.set()
        await other

        assert (frame["type"], frame["error"]["kind"]) == ("failed", "cancelled")
        await client.expect_nothing()
