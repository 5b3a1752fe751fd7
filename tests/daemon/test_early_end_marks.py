"""An end mark that is followed by content was not the end: the answer goes on, and ends with its body or `[DONE]`."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.answers import CUT, DONE, RESET, SILENCE, delta, event, finish, plays, usage
from tests.fakes.client import said

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {
    "b": {},
    "impatient": {"reliability": {"idle_timeout_ms": 300}},
    "gemini": {"dialect": "gemini"},
}


async def test_the_whole_text_comes(stage):
    """Text that follows an early end mark is delivered, however long it takes; the last mark's reason counts."""
    client = await stage.client()
    late = [step for text in ("b", "c", "d") for step in (0.5, delta(text))]
    stage.backend.on("b", plays(finish("stop"), delta("a"), *late, finish("length"), usage(), DONE))
    await client.infer("b")

    frames = await client.answer()

    assert said(frames) == "abcd"
    assert [frame["type"] for frame in frames[-2:]] == ["usage", "completed"]
    assert frames[-1]["finish_reason"] == "length"


async def test_every_chunk_of_gemini_may_have_a_finish_reason(stage):
    """Six chunks, each with `STOP`, are one answer."""
    client = await stage.client()

    def chunk(text: str) -> dict[str, Any]:
        return {"candidates": [{"content": {"role": "model", "parts": [{"text": text}]}, "finishReason": "STOP"}]}

    stage.backend.on("gemini", plays(*[step for text in "abcdef" for step in (event(chunk(text)), 0.2)]))
    await client.infer("gemini")

    frames = await client.answer()

    assert (said(frames), frames[-1]["finish_reason"]) == ("abcdef", "stop")


@pytest.mark.parametrize("end", [CUT, RESET])
async def test_cut_before_its_end_it_is_a_failure(stage, end):
    """Where the connection breaks after an answer has gone on, nobody knows what is missing."""
    client = await stage.client()
    stage.backend.on("b", plays(finish("stop"), delta("a"), finish("stop"), delta("b"), end))
    await client.infer("b")

    frames = await client.answer()

    assert said(frames) == "ab"
    assert (frames[-1]["type"], frames[-1]["error"]["kind"]) == ("failed", "backend_transient")


async def test_silent_before_its_end_it_is_a_timeout(stage):
    """An answer that has gone on is not completed by silence."""
    client = await stage.client()
    stage.backend.on("impatient", plays(finish("stop"), delta("a"), finish("stop"), SILENCE))
    await client.infer("impatient")

    frames = await client.answer()

    assert said(frames) == "a"
    assert (frames[-1]["type"], frames[-1]["error"]["kind"]) == ("failed", "timeout")
    assert "idle_timeout_ms" in frames[-1]["error"]["message"]


async def test_done_ends_it(stage):
    """`[DONE]` ends an answer that has gone on, although the connection stays open."""
    client = await stage.client()
    stage.backend.on("impatient", plays(finish("stop"), delta("a"), finish("stop"), DONE, SILENCE))
    await client.infer("impatient")

    frames = await client.answer()

    assert (said(frames), frames[-1]["type"]) == ("a", "completed")
