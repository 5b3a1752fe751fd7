"""HTTP as it may stand on the wire: whatever a backend makes of it is one answer, or one error, and never a mix."""

from __future__ import annotations

import asyncio
import gzip
import json
import zlib

import pytest

from tests.fakes.answers import DONE, FINISH, RESET, answers, delta, finish, plays, text, usage, whole
from tests.fakes.client import infer, said, user

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {"b": {}, "azure": {"endpoint": "http://127.0.0.1:{tcp}/azure/openai?api-version=2024-10-21&x=%20y"}}

ANSWER = delta("hello") + finish() + usage() + DONE
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
WITH_LENGTH = HEAD + b"Content-Length: %d\r\n\r\n%b" % (len(ANSWER), ANSWER)
IN_CHUNKS = HEAD + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (len(ANSWER), ANSWER)


def writes(*steps: bytes | float, cut: bool = False):
    """A script that writes bytes as they are, a head included."""

    async def script(exchange):
        for step in steps:
            if isinstance(step, bytes):
                await exchange.raw(step)
            else:
                await asyncio.sleep(step)
        if cut:
            exchange.cut()

    return script


async def answer(stage, *steps: bytes | float, cut: bool = False):
    """The frames of one request that is answered so."""
    client = await stage.client()
    stage.backend.on("b", writes(*steps, cut=cut))
    await client.infer("b")
    return await client.answer()


@pytest.mark.parametrize("response", [WITH_LENGTH, IN_CHUNKS], ids=["length", "chunked"])
async def test_a_response_may_come_byte_by_byte(stage, response):
    """How the bytes were cut makes no difference, in head, framing or body."""
    frames = await answer(stage, *(response[at : at + 1] for at in range(len(response))))

    assert said(frames) == "hello"
    assert frames[-1]["type"] == "completed"


async def test_a_burst_is_passed_on_before_the_next_one(stage):
    """Several pieces in one read are gathered for a moment, not until more comes."""
    client = await stage.client()
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(delta(text)), delta(text)) for text in ("one ", "two ", "three"))
    stage.backend.on("b", writes(HEAD + b"Transfer-Encoding: chunked\r\n\r\n", 0.02, chunks, 60.0))
    await client.infer("b")
    await client.expect("started")

    assert [(await client.frame())["delta"] for _ in range(3)] == ["one ", "two ", "three"]


@pytest.mark.parametrize("interim", [b"100 Continue\r\n\r\n", b"103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n"])
async def test_interim_responses_are_passed_over(stage, interim):
    """However many there are, the response is the first one from 200 on."""
    frames = await answer(stage, b"HTTP/1.1 " + interim, 0.02, b"HTTP/1.1 " + interim + WITH_LENGTH)

    assert said(frames) == "hello"
    assert frames[-1]["type"] == "completed"


async def test_a_body_may_end_with_its_connection(stage):
    """As HTTP/1.0 does it: no length, no chunks."""
    frames = await answer(stage, b"HTTP/1.0 200 OK\r\n\r\n" + delta("hello") + finish(), 0.02, cut=True)

    assert said(frames) == "hello"
    assert frames[-1]["type"] == "completed"


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 two hundred\r\n\r\n",
        HEAD + b"No colon\r\n\r\n",
        HEAD + b"Content-Length: many\r\n\r\n",
        HEAD + b"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        HEAD + b"X: " + b"x" * 70_000,
        b"HTTP/1.1 100 Continue\r\n\r\n" * 3000,
    ],
    ids=["ssh", "status", "header", "length", "two-lengths", "endless-header", "endless-interim"],
)
async def test_what_is_no_response_is_a_protocol_violation(stage, response):
    """Said at once, while the connection is still open."""
    frames = await answer(stage, response, 5.0)

    assert frames[-1]["error"]["kind"] == "protocol_violation"
    assert "HTTP" in frames[-1]["error"]["message"]


async def test_endless_framing_inside_a_body_is_refused(stage):
    """A chunk's extension that never ends holds neither memory nor the request."""
    start = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
    frames = await answer(stage, start, 0.02, b"5;x=" + b"x" * 70_000, 5.0)

    assert frames[-1]["error"]["kind"] == "protocol_violation"


async def test_framing_may_add_up(stage):
    """Chunk sizes that come in reads of their own are counted between two pieces of the body, not over all of it."""
    size = b"%x;%b\r\n" % (len(delta("a")), b"x" * 2000)
    chunk: list[bytes | float] = [size, 0.001, delta("a") + b"\r\n", 0.001]
    end = b"%x\r\n%b\r\n0\r\n\r\n" % (len(finish()), finish())
    frames = await answer(stage, HEAD + b"Transfer-Encoding: chunked\r\n\r\n", *(chunk * 50), end)

    assert said(frames) == "a" * 50
    assert frames[-1]["type"] == "completed"


@pytest.mark.parametrize("response", [WITH_LENGTH, IN_CHUNKS], ids=["length", "chunked"])
@pytest.mark.parametrize("surplus", [WITH_LENGTH, b"HTTP/1.1 408 Request Timeout\r\n\r\n", b"what?"])
@pytest.mark.parametrize("pause", [0.0, 0.05], ids=["at-once", "later"])
async def test_what_comes_after_a_response_is_never_taken_for_the_next_one(stage, response, surplus, pause):
    """The answer is complete, and the connection is not used again."""
    client = await stage.client()
    stage.backend.on("b", writes(response, pause, surplus), text("clean"))
    await client.infer("b", "first")
    first = await client.answer("first")
    await asyncio.sleep(0.1)
    await client.infer("b", "second")
    second = await client.answer("second")

    assert (said(first), said(second)) == ("hello", "clean")
    assert first[-1]["type"] == second[-1]["type"] == "completed"
    one, two = stage.backend.requests("b")
    assert one.connection != two.connection
    await one.closed()


async def test_a_response_that_says_close_is_the_last_on_its_connection(stage):
    """`Connection: close` is heeded before the backend gets round to closing."""
    client = await stage.client()
    stage.backend.on("b", writes(WITH_LENGTH.replace(b"OK\r\n", b"OK\r\nConnection: close\r\n")))
    for _ in range(2):
        await client.infer("b")
        assert said(await client.answer()) == "hello"

    one, two = stage.backend.requests("b")
    assert one.connection != two.connection
    await one.closed()


async def test_a_large_request_arrives_whole(stage):
    """Also one that goes in many pieces, and as fast as it is read."""
    client = await stage.client()
    stage.backend.on("b", text("read"))
    long = "".join(f"{number}," for number in range(900_000))
    await client.send(infer("b", messages=user(long)))

    assert said(await client.answer()) == "read"
    exchange = await stage.backend.request("b")
    assert exchange.json()["messages"][-1]["content"] == long


async def test_an_answer_that_comes_before_the_request_is_sent_counts(stage):
    """A backend may refuse a large body without reading it; its connection is not used again."""
    client = await stage.client()
    body = b'{"error":{"message":"too large"}}'
    refusal = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    stage.backend.on("b", writes(refusal, 5.0), read_body=False)
    await client.send(infer("b", messages=user("x" * 7_900_000)))

    error = (await client.answer())[-1]["error"]
    assert (error["provider_http_status"], error["kind"]) == (413, "invalid_request")
    exchange = await stage.backend.request("b")
    await exchange.hung_up()


@pytest.mark.parametrize("size", [300_000, 5_000_000])
async def test_an_answer_counts_though_the_backend_breaks_the_connection_after_it(stage, size):
    """Whoever refuses a body without reading it and closes gets no second request: the refusal is read, however the
    rest of the request fails."""
    client = await stage.client()
    body = b'{"error":{"message":"too large"}}'
    refusal = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    stage.backend.on("b", writes(refusal, cut=True), read_body=False)
    await client.send(infer("b", messages=user("x" * size)))

    error = (await client.answer())[-1]["error"]
    assert (error["provider_http_status"], error["kind"], error["retryable"]) == (413, "invalid_request", False)
    assert "too large" in error["message"]
    assert len(stage.backend.requests("b")) == 1


async def test_an_answer_that_is_complete_leaves_its_connection_for_the_next_one(stage):
    """After `[DONE]` the connection is not closed: HTTP's own end is waited for, in the background."""
    client = await stage.client()
    stage.backend.on("b", plays(ANSWER, 0.2, FINISH), text("again"))
    await client.infer("b", "first")
    assert (await client.answer("first"))[-1]["type"] == "completed"
    one = await stage.backend.request("b")
    with pytest.raises(TimeoutError):
        await one.closed(0.4)
    await client.infer("b", "second")

    assert said(await client.answer("second")) == "again"
    assert (await stage.backend.request("b", 1)).connection == one.connection


async def test_the_query_of_an_endpoint_is_kept(stage):
    """As Azure's version of its API is given."""
    client = await stage.client()
    stage.backend.on("azure", text("hello"))
    await client.infer("azure")

    assert said(await client.answer()) == "hello"
    exchange = await stage.backend.request("azure")
    assert exchange.target == "/azure/openai/chat/completions?api-version=2024-10-21&x=%20y"


@pytest.mark.parametrize("coding", ["identity", "Identity", "", " ", "identity, identity", "UTF-8"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_an_answer_that_says_it_is_not_compressed_is_taken(stage, coding, stream):
    """Case makes no difference, and an empty header says nothing, nor does one that names a charset."""
    client = await stage.client()
    named = {"Content-Encoding": coding}
    answer = json.dumps({"choices": [{"message": {"content": "hello"}, "finish_reason": "stop"}]}).encode()
    stage.backend.on("b", plays(ANSWER if stream else answer, headers=named))
    await client.infer("b", stream=stream)

    assert said(await client.answer()) == "hello"


@pytest.mark.parametrize("coding", ["gzip", "br", "ZSTD", "identity, deflate"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_compressed_answer_is_refused_by_name(stage, coding, stream):
    """It was not asked for; which coding it was stands in the message."""
    client = await stage.client()
    stage.backend.on("b", plays(b"\x1f\x8b", headers={"Content-Encoding": coding}), whole("not to be heard"))
    await client.infer("b", stream=stream)

    error = await client.expect_failed("protocol_violation")
    assert coding.split()[-1].lower() in error["message"]
    assert not error["retryable"]


@pytest.mark.parametrize(("coding", "compress"), [("GZip", gzip.compress), ("deflate", zlib.compress)])
async def test_a_compressed_error_body_is_read(stage, coding, compress):
    """The provider's own text and wait are found in it."""
    client = await stage.client()
    details = [{"@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "90s"}]
    body = compress(json.dumps({"error": {"message": "slow down", "code": "busy", "details": details}}).encode())
    stage.backend.on("b", answers(400, body, {"Content-Encoding": coding}))
    await client.infer("b")

    error = await client.expect_failed("invalid_request")
    assert "slow down" in error["message"]
    assert (error["provider_code"], error["retry_after_ms"]) == ("busy", 90_000)


async def test_an_error_body_that_cannot_be_read_says_so(stage):
    """The status counts, and the message has no binary in it."""
    client = await stage.client()
    stage.backend.on("b", answers(400, b"\x8b\x00\x80\xff", {"Content-Encoding": "br"}))
    await client.infer("b")

    error = await client.expect_failed("invalid_request")
    assert "Content-Encoding br" in error["message"]


async def test_an_endless_error_body_is_not_read(stage):
    """Its beginning is enough for the message; the rest stays with the backend, which sees its connection closed."""
    client = await stage.client()

    async def script(exchange):
        await exchange.head(400, {"Content-Type": "application/json"})
        await exchange.send(b'{"error":{"message":"the beginning ')
        while True:
            await exchange.send(b"x" * 65_536)

    stage.backend.on("b", script)
    await client.infer("b")

    assert "the beginning" in (await client.expect_failed("invalid_request"))["message"]
    exchange = await stage.backend.request("b")
    await exchange.closed()
    assert exchange.sent < 20_000_000


async def test_a_response_without_a_body_is_a_protocol_violation(stage):
    """204 has no place for an answer, and asking again would not help."""
    frames = await answer(stage, b"HTTP/1.1 204 No Content\r\n\r\n")

    assert frames[-1]["error"]["kind"] == "protocol_violation"


async def test_what_goes_on_after_a_complete_answer_is_not_kept(stage):
    """After `[DONE]` only HTTP's own end is waited for, and not for long."""
    client = await stage.client()
    flood = [b": " + b"x" * 60_000 + b"\n\n"] * 20
    stage.backend.on("b", plays(ANSWER, *flood, 5.0), text("clean"))
    await client.infer("b", "first")
    assert (await client.answer("first"))[-1]["type"] == "completed"
    await client.infer("b", "second")

    assert said(await client.answer("second")) == "clean"
    await (await stage.backend.request("b")).closed(3)


async def test_a_reset_is_no_end_of_a_body(stage):
    """A body that ends with its connection has ended only where that was closed properly."""
    client = await stage.client()
    stage.backend.on(
        "b", plays(b'{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}', RESET, framing="close")
    )
    await client.infer("b", stream=False)

    assert (await client.answer())[-1]["error"]["kind"] == "backend_transient"
