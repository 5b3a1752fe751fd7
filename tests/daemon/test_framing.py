"""Lines: bounded, strict, and never the end of anything but themselves."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.fakes.answers import text
from tests.fakes.client import infer, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

LIMIT = 4096
SETTINGS = {"server": {"max_frame_bytes": LIMIT}}


async def refused(client, line: bytes, *, ids=(None,)):
    """Sends a line, which must be rejected as invalid, and then a good one, which must be answered."""
    await client.send_bytes(line + b"\n")
    frame = await client.expect("rejected")
    assert frame["request_id"] in ids
    assert frame["error"]["kind"] == "invalid_request"
    assert frame["error"]["retryable"] is False
    await client.status()
    return frame["error"]["message"]


def padded(size: int) -> bytes:
    """A `status` line of exactly that many bytes."""
    line = b'{"type":"status"}'
    return line + b" " * (size - len(line))


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
async def test_a_line_of_exactly_the_limit_is_taken(stage, end):
    """`max_frame_bytes` counts the line without its end, and is itself allowed."""
    client = await stage.client()
    await client.send_bytes(padded(LIMIT) + end)

    await client.expect("status")


@pytest.mark.parametrize("end", [b"\n", b"\r\n"], ids=["lf", "crlf"])
async def test_a_line_above_the_limit_is_rejected(stage, end):
    """One byte more is refused, once, and the next line is served."""
    client = await stage.client()
    await client.send_bytes(padded(LIMIT + 1) + end + padded(20) + b"\n")

    frame = await client.expect("rejected")

    assert frame["request_id"] is None
    assert "max_frame_bytes" in frame["error"]["message"]
    await client.expect("status")


async def test_an_endless_line_is_rejected_before_it_ends_and_not_kept(stage):
    """The refusal comes as soon as the limit is passed, and the rest of the line takes no memory."""
    client = await stage.client()
    await client.send_bytes(b"x" * (2 * LIMIT))
    await client.expect("rejected")
    before = stage.daemon.resident_bytes()
    for _ in range(64):
        await client.send_bytes(b"x" * 1_000_000)
    await client.expect_nothing()
    await client.send_bytes(b"\n" + padded(20) + b"\n")

    await client.expect("status")

    assert stage.daemon.resident_bytes() - before < 16_000_000


@pytest.mark.parametrize(
    "line",
    [
        b"\xef\xbb\xbf" + padded(20),
        '{"type":"status"}'.encode("utf-16"),
        '{"type":"exit"}'.encode("utf-16-le"),
        '{"type":"exit"}'.encode("utf-32-be"),
        b'{"type":"status","x":"\xff"}',
        b'{"type":"status"',
        b'{"type":"status"}}',
        b"{'type':'status'}",
        b'{"type":"status",}',
        b"hello",
        b"[]",
        b'"status"',
        b"null",
        b"1",
        b"{}",
        b'{"type":null}',
        b'{"type":"Status"}',
        b'{"type":"hello"}',
        b'{"type":["status"]}',
        b'{"type":"status","extra":1}',
        b'{"type":"exit","request_id":"r"}'.replace(b'"r"', b"1"),
        b'{"type":"cancel"}',
        b'{"type":"cancel","request_id":null}',
        b'{"type":"cancel","request_id":""}',
        b"\x00" * 20,
    ],
)
async def test_a_bad_line_is_rejected_and_the_connection_goes_on(stage, line):
    """Whatever is no valid frame gets one `rejected`, in whatever encoding `exit` may hide."""
    await refused(await stage.client(), line)


@pytest.mark.parametrize(
    "value",
    ["NaN", "Infinity", "-Infinity", "1e400", "-1e400", "1" * 400 + ".0", '"\\ud800"', '"\\udc00x"', "01", "+1"],
)
@pytest.mark.parametrize("place", ["sampling", "provider_options"])
async def test_what_is_no_json_value_is_rejected_at_any_depth(stage, value, place):
    """Numbers that no float can hold and lone surrogates are refused, also where free JSON is allowed."""
    body = '"sampling":{"temperature":%s}' if place == "sampling" else '"provider_options":{"a":[{"b":%s}]}'
    head = json.dumps(infer("b"))[:-1]

    await refused(await stage.client(), f"{head},{body % value}}}".encode(), ids=(None, "r"))


@pytest.mark.parametrize("depth", [100, 200])
async def test_deep_nesting_is_taken_to_the_limit(stage, depth):
    """A frame may be nested 200 deep."""
    client = await stage.client()
    stage.backend.on("b", text("deep"))
    line = json.dumps(infer("b", provider_options={"deep": 0}))
    nested = "[" * (depth - 2) + "]" * (depth - 2)
    await client.send_bytes(line.replace('"deep": 0', f'"deep": {nested}').encode() + b"\n")

    assert said(await client.answer()) == "deep"
    assert json.dumps(stage.backend.requests("b")[0].json()["deep"]).count("[") == depth - 2


@pytest.mark.parametrize("depth", [201, 1900])
async def test_deeper_nesting_is_rejected(stage, depth):
    """201 deep is refused, and so is what would exhaust a stack."""
    line = json.dumps(infer("b", provider_options={"deep": 0}))
    nested = "[" * (depth - 2) + "]" * (depth - 2)
    await refused(await stage.client(), line.replace('"deep": 0', f'"deep":{nested}').encode(), ids=(None, "r"))


async def test_blank_lines_are_skipped(stage):
    """Empty lines and lines of spaces are nothing."""
    client = await stage.client()
    await client.send_bytes(b"\n\r\n   \n\t\n" + padded(20) + b"\n\n")

    await client.expect("status")
    await client.expect_nothing()


async def test_a_last_line_without_its_end_is_a_line(stage):
    """What `printf` without `\\n` sends is served."""
    client = await stage.client()
    stage.backend.on("b", text("hello"))
    await client.send_bytes(json.dumps(infer("b")).encode())
    client.half_close()

    assert said(await client.answer()) == "hello"
    await client.expect_end()


async def test_a_line_may_come_byte_by_byte(stage):
    """How the bytes were cut makes no difference, also within a character."""
    client = await stage.client()
    stage.backend.on("b", text("été"))
    line = json.dumps(infer("b", messages=[{"role": "user", "parts": [{"text": {"text": "é𝄞"}}]}]), ensure_ascii=False)
    for byte in line.encode() + b"\r\n":
        await client.send_bytes(bytes([byte]))
        await asyncio.sleep(0)

    assert said(await client.answer()) == "été"
    assert stage.backend.requests("b")[0].json()["messages"] == [{"role": "user", "content": "é𝄞"}]


async def test_line_ends_of_unicode_are_no_line_ends(stage):
    """U+2028 and U+0085 inside a string do not cut a line, in either direction."""
    client = await stage.client()
    odd = "a\u2028b\u0085c\u2029d\x0be"
    stage.backend.on("b", text(odd))
    line = json.dumps(infer("b", messages=[{"role": "user", "parts": [{"text": {"text": odd}}]}]), ensure_ascii=False)
    await client.send_bytes(line.replace("\x0b", "\\u000b").encode() + b"\n")

    assert said(await client.answer()) == odd


async def test_a_bad_line_disturbs_no_stream(stage):
    """Refusals go between the frames of a request that is under way, which ends as if nothing had been."""
    client, other = await stage.client(), await stage.client()
    gate = asyncio.Event()

    async def script(exchange):
        await gate.wait()
        await text("ended")(exchange)

    stage.backend.on("b", script)
    await client.infer("b")
    await other.infer("b", "o")
    await client.expect("started")
    await client.send_bytes(b"garbage\n" + b"x" * (3 * LIMIT) + b'\n{"type":"cancel","request_id":"unknown"}\n')
    assert [(await client.expect("rejected"))["request_id"] for _ in range(3)] == [None, None, "unknown"]
    gate.set()

    assert said(await client.answer()) == "ended"
    assert said(await other.answer("o")) == "ended"


async def test_of_two_equal_keys_the_last_one_counts(stage):
    """A repeated key is no second frame and no error."""
    client = await stage.client()
    await client.send_bytes(b'{"type":"exit","type":"status"}\n')

    await client.expect("status")
