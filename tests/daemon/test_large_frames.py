"""Large frames: decoded, checked and encoded beside everything else, in order, and given up with their client."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from tests.fakes.answers import text
from tests.fakes.client import infer, said, user

pytestmark = pytest.mark.asyncio(loop_scope="module")

MESSAGE = b'{"role":"user","parts":[{"text":{"text":"x"}}]}'
HEAD = b'{"type":"infer","request_id":"r","messages":['


def many(item: bytes, size: int, head: bytes = HEAD, tail: bytes = b"]}") -> bytes:
    """A line of about `size` bytes that repeats `item`."""
    return head + b",".join([item] * (size // (len(item) + 1))) + tail + b"\n"


def many_keys(value: bytes, size: int, head: bytes, tail: bytes) -> bytes:
    """A line of about `size` bytes with different keys."""
    return head + b",".join(b'"key%d":%b' % (number, value) for number in range(size // 14)) + tail + b"\n"


ONE = HEAD + MESSAGE + b"],"
WRONG: dict[str, Callable[[int], bytes]] = {
    "messages": lambda size: many(b"1", size),
    "parts": lambda size: many(b"1", size, HEAD + b'{"role":"user","parts":[', b"]}]}"),
    "tools": lambda size: many(b"1", size, ONE + b'"tools":['),
    "stop": lambda size: many(b"1", size, ONE + b'"sampling":{"stop":[', b"]}}"),
    "unknown fields": lambda size: many_keys(b"1", size, ONE, b"}"),
    "unknown fields of a message": lambda size: many_keys(b"1", size, HEAD + b'{"role":"user",', b"}]}"),
    "metadata": lambda size: many_keys(b"1", size, ONE + b'"metadata":{', b"}}"),
    "no JSON at the end": lambda size: many(MESSAGE, size, tail=b',"\xff"]}'),
    "not closed": lambda size: many(MESSAGE, size, tail=b""),
    "too deep": lambda size: ONE + b'"provider_options":{"a":' + b"[" * size + b"\n",
}


@pytest.mark.parametrize("kind", WRONG)
async def test_a_wrong_frame_costs_time_and_memory_in_proportion(stage, kind):
    """Four megabytes of mistakes are refused in seconds, in a short message, and in bounded memory."""
    client = await stage.client()
    await client.send_bytes(WRONG[kind](4_000_000))

    frame = await client.expect("rejected", patience=60)

    assert frame["error"]["kind"] == "invalid_request"
    assert len(frame["error"]["message"]) < 1500
    assert stage.daemon.resident_bytes() < 800_000_000


async def test_a_large_request_reaches_its_backend_whole(stage):
    """What goes out is what a small request would send, byte for byte."""
    client = await stage.client()
    stage.backend.on("b", text("small"), text("large"))
    options: dict[str, Any] = {"a": [{"b": [number, None, 1.5, "é"]} for number in range(20_000)], "empty": {}}
    await client.infer("b", "small", provider_options={"a": options["a"][:3], "empty": {}})
    await client.answer("small")
    await client.infer("b", "large", messages=user("x") * 3000, provider_options=options)

    assert said(await client.answer("large", patience=60)) == "large"
    small, large = (exchange.json() for exchange in stage.backend.requests("b"))
    assert large["a"] == options["a"]
    assert large["messages"] == small["messages"][:0] + [{"role": "user", "content": "x"}] * 3000
    assert small.keys() == large.keys()


async def test_lines_after_a_large_frame_are_served_after_it(stage):
    """`cancel` right behind a large `infer` cancels it; a `status` behind that is answered last."""
    client = await stage.client()
    await client.send_bytes(many(MESSAGE, 1_000_000) + b'{"type":"cancel","request_id":"r"}\n{"type":"status"}\nx\n')

    frames = [await client.frame(patience=60) for _ in range(3)]

    assert sorted(frame["type"] for frame in frames) == ["failed", "rejected", "status"]
    assert next(frame for frame in frames if frame["type"] == "failed")["error"]["kind"] == "cancelled"
    assert [frame["type"] for frame in frames if frame["type"] != "failed"] == ["status", "rejected"]


async def test_a_large_frame_before_a_half_close_is_answered(stage):
    """The last line counts, although it is served long after the end of the input."""
    client = await stage.client()
    stage.backend.on("b", text("last"))
    await client.send_bytes(many(MESSAGE, 1_000_000).rstrip(b"\n"))
    client.half_close()

    assert said(await client.answer(patience=60)) == "last"
    await client.expect_end()


async def test_a_client_that_leaves_ends_the_decoding(stage):
    """Nothing of it goes on or is left behind; the daemon is soon free for the next large frame."""
    leaving, client = await stage.client(), await stage.client()
    stage.backend.on("b", text("next"))
    await leaving.send_bytes(many(MESSAGE, 4_000_000))
    leaving.close()
    await client.send_bytes(many(MESSAGE, 200_000))

    assert said(await client.answer(patience=60)) == "next"
    assert len(stage.backend.requests("b")) == 1


async def test_many_small_lines_hold_up_nobody(stage):
    """A client with ten thousand lines takes turns with one that has a single line."""
    busy, other = await stage.client(), await stage.client()
    await busy.send_bytes(b'{"type":"status"}\n' * 10_000)
    await other.send_bytes(b'{"type":"status"}\n')
    await other.expect("status")
    answered = 0
    for _ in range(10_000):
        await busy.expect("status")
        answered += 1

    assert answered == 10_000


async def test_what_a_large_request_made_is_freed(stage):
    """Eight large frames one after another leave no more memory taken than two."""
    client = await stage.client()
    sizes: list[int] = []
    for number in range(8):
        stage.backend.on("b", text("x"))
        line = json.loads(many(MESSAGE, 500_000))
        await client.send(infer("b", f"r{number}", messages=line["messages"]))
        assert said(await client.answer(f"r{number}", patience=60)) == "x"
        sizes.append(stage.daemon.resident_bytes())

    assert sizes[-1] - sizes[1] < 40_000_000  # six that stay would take 120 MB
