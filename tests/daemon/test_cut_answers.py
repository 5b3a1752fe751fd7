"""Where an answer ends: what is complete, what was cut, and what becomes of the connection."""

from __future__ import annotations

import asyncio

import pytest

from tests.fakes.answers import BAD_CHUNK, CUT, DONE, RESET, delta, fails, finish, plays, text, tool_delta, usage, whole
from tests.fakes.client import said

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest.mark.parametrize("end", [RESET, CUT, BAD_CHUNK], ids=["reset", "eof", "bad-chunk"])
@pytest.mark.parametrize(
    "before",
    [
        [],
        [b": comment\n\n"],
        [delta("some")],
        [delta("some") + delta("more")],
        [delta("some") + b'data: {"choi'],
        [delta("some") + b'data: {"choices":[]}\n'],
        [tool_delta(0, '{"a":1}', call_id="1", name="look")],
        [usage()],
    ],
    ids=["headers", "comment", "text", "more", "half-event", "no-blank-line", "tool-call", "usage"],
)
async def test_a_cut_stream_is_a_failure(stage, before, end):
    """Whatever came, without an end mark the answer is `failed`, with what came before it and nothing after."""
    client = await stage.client()
    stage.backend.on("b", plays(*before, end))
    await client.infer("b")

    frames = await client.answer()

    assert frames[-1]["type"] == "failed"
    assert (frames[-1]["error"]["kind"], frames[-1]["error"]["retryable"]) == ("backend_transient", True)
    assert not {"completed", "tool_call_ready"} & {frame["type"] for frame in frames}
    if end != RESET:  # which may overtake
        assert said(frames) == "".join(t for t in ("some", "more") if any(t.encode() in piece for piece in before))
    await client.expect_nothing(0.02)


@pytest.mark.parametrize("framing", ["chunked", "close", "9999"])
async def test_a_proper_end_without_an_end_mark_is_a_failure(stage, framing):
    """HTTP's own end of the body does not make an answer complete."""
    client = await stage.client()
    stage.backend.on("b", plays(delta("some"), *([CUT] if framing == "9999" else []), framing=framing))
    await client.infer("b")

    assert (await client.expect_failed("backend_transient"))["retryable"] is True


@pytest.mark.parametrize("end", [RESET, CUT, BAD_CHUNK], ids=["reset", "eof", "bad-chunk"])
async def test_an_unstreamed_answer_that_is_cut(stage, end):
    """Half a body is transient, not a violation."""
    client = await stage.client()
    stage.backend.on("b", plays(b'{"choices":[{"mess', end))
    await client.infer("b", stream=False)

    assert (await client.expect_failed("backend_transient"))["retryable"] is True


@pytest.mark.parametrize(
    "ending", [[], [CUT], [RESET], [DONE], [usage(), CUT]], ids=["fin", "cut", "rst", "done", "use"]
)
async def test_after_the_end_mark_the_answer_is_complete(stage, ending):
    """With a `finish_reason` an answer is proven, however the connection ends."""
    client = await stage.client()
    stage.backend.on("b", plays(delta("all"), finish(), *ending))
    await client.infer("b")

    frames = await client.answer()

    assert (said(frames), frames[-1]["type"]) == ("all", "completed")


async def test_connections_are_used_again(stage):
    """A second request goes over the first one's connection, also where `[DONE]` came before the body's own end."""
    client = await stage.client()
    stage.backend.on(
        "b", text("one"), plays(delta("two"), finish(), DONE, 0.05), whole("three"), fails(500), text("five")
    )
    for stream in (True, True, False, True, True):
        await client.infer("b", stream=stream)
        await client.answer()
        await asyncio.sleep(0.1)

    assert {exchange.connection for exchange in stage.backend.requests("b")} == {
        stage.backend.requests("b")[0].connection
    }


async def test_a_connection_that_failed_is_not_used_again(stage):
    """What is left of a broken answer is never taken for another one's."""
    client = await stage.client()
    stage.backend.on("b", plays(delta("a"), b"data: no json\n\n", delta("left over"), 0.5), text("clean"))
    await client.infer("b")
    await client.expect_failed("protocol_violation")
    await client.infer("b")

    assert said(await client.answer()) == "clean"
    first, second = stage.backend.requests("b")
    assert first.connection != second.connection
    await first.closed()
