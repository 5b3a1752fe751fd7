"""Another attempt follows only where nothing has been said, and never past the deadline."""

from __future__ import annotations

import asyncio
import json
from email.utils import formatdate
from itertools import pairwise
from time import time

import pytest

from tests.fakes.answers import (
    CUT,
    RESET,
    SILENCE,
    answers,
    delta,
    event,
    fails,
    hang_up,
    plays,
    reset,
    text,
    tool_delta,
    whole,
)
from tests.fakes.client import said

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {
    "b": {"reliability": {"max_retries": 2}},
    "backoff": {"reliability": {"max_retries": 3, "backoff_base_ms": 100, "backoff_max_ms": 200}},
    "first": {"reliability": {"max_retries": 1, "request_timeout_ms": 150}},
    "idle": {"reliability": {"max_retries": 2, "idle_timeout_ms": 150}},
    "refused": {"endpoint": "http://127.0.0.1:9/v1", "reliability": {"max_retries": 2}},
    "never": {"reliability": {"max_retries": 0}},
    "resumable": {"reliability": {"max_retries": 2, "retry_policy": "adapter_resumable"}},
}

PREAMBLE = event({"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}}]})


@pytest.mark.parametrize(
    "failure",
    [
        fails(408),
        fails(409),
        fails(425),
        fails(429),
        fails(500),
        fails(503),
        hang_up,
        reset,
        plays(CUT),
        plays(PREAMBLE, CUT),
        plays(PREAMBLE, RESET),
    ],
    ids=["408", "409", "425", "429", "500", "503", "eof", "rst", "no-event", "preamble", "p-rst"],
)
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_passing_failure_is_tried_again(stage, failure, stream):
    """Before the first output a retryable failure is not seen by the client: one `started`, one whole answer."""
    client = await stage.client()
    stage.backend.on("b", failure, failure, text("third") if stream else whole("third"))
    await client.infer("b", stream=stream)

    frames = await client.answer()

    assert [frame["type"] for frame in frames] == ["started", "output_text_delta", "usage", "completed"]
    assert said(frames) == "third"
    assert len(stage.backend.requests("b")) == 3


@pytest.mark.parametrize("answer", [plays(), answers(200, b""), answers(200, b"<html>")], ids=["fin", "empty", "html"])
@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_what_is_no_answer_is_not_asked_for_again(stage, answer, stream):
    """A body that is whole and holds no answer is a protocol violation, and stays one."""
    client = await stage.client()
    stage.backend.on("b", answer)
    await client.infer("b", stream=stream)

    assert (await client.expect_failed("protocol_violation"))["retryable"] is False
    assert len(stage.backend.requests("b")) == 1


async def test_an_error_event_before_the_first_output_is_tried_again(stage):
    """`overloaded` after a preamble is as good as a status."""
    client = await stage.client()
    stage.backend.on("b", plays(PREAMBLE, event({"error": {"message": "m", "code": "rate_limit_exceeded"}})), text("2"))
    await client.infer("b")

    assert [frame["type"] for frame in await client.answer()][:2] == ["started", "output_text_delta"]


@pytest.mark.parametrize("status", [300, 307, 400, 401, 402, 403, 404, 405, 413, 415, 418, 422, 451])
async def test_a_lasting_failure_is_not(stage, status):
    """What would fail again is tried once."""
    client = await stage.client()
    stage.backend.on("b", fails(status), text("not to be heard"))
    await client.infer("b")

    assert (await client.answer())[-1]["error"]["retryable"] is False
    assert len(stage.backend.requests("b")) == 1


@pytest.mark.parametrize(
    "failure",
    [fails(429, "insufficient_quota"), plays(delta("a"), b"data: x\n\n"), answers(200, b"<html>")],
    ids=["quota", "violation", "no-json"],
)
async def test_neither_is_a_spent_quota_or_a_violation(stage, failure):
    """Not retryable means not retried."""
    client = await stage.client()
    stage.backend.on("b", failure, text("not to be heard"))
    await client.infer("b", stream=False)

    assert (await client.answer())[-1]["error"]["retryable"] is False
    assert len(stage.backend.requests("b")) == 1


@pytest.mark.parametrize(
    "said_before",
    [delta("some"), tool_delta(0, "", call_id="1", name="look"), event({"choices": [{"delta": {"reasoning": "hm"}}]})],
    ids=["text", "tool-call", "reasoning"],
)
@pytest.mark.parametrize(
    "end",
    [CUT, RESET, event({"error": {"message": "m", "code": 503}}), SILENCE],
    ids=["eof", "rst", "error", "silence"],
)
async def test_nothing_is_said_twice(stage, said_before, end):
    """After an output or tool event the failure is the client's, told as retryable; there is no other attempt."""
    client = await stage.client()
    stage.backend.on("idle", plays(said_before, 0.02, end), text("not to be heard"))
    await client.infer("idle", include_reasoning=True)

    frames = await client.answer()

    assert [frame["type"] for frame in frames[-2:]][1] == "failed"
    assert len(frames) == 3
    assert frames[-1]["error"]["retryable"] is True
    assert len(stage.backend.requests("idle")) == 1


async def test_reasoning_that_is_not_delivered_has_not_been_said(stage):
    """An attempt of which the client has seen nothing may be repeated."""
    client = await stage.client()
    thought = event({"choices": [{"delta": {"reasoning": "hm"}}]})
    stage.backend.on("b", plays(thought, 0.02, CUT), text("second"))
    await client.infer("b")

    assert said(await client.answer()) == "second"


async def test_attempts_end(stage):
    """`max_retries` after the first, and the last error is the client's."""
    client = await stage.client()
    stage.backend.on("b", fails(500), fails(502), fails(503))
    await client.infer("b")

    assert (await client.expect_failed("backend_transient"))["provider_http_status"] == 503
    await asyncio.sleep(0.1)
    assert len(stage.backend.requests("b")) == 3


async def test_no_retries(stage):
    """`max_retries` 0 is one attempt."""
    client = await stage.client()
    stage.backend.on("never", fails(503), text("not to be heard"))
    await client.infer("never")

    await client.expect_failed("backend_transient")
    assert len(stage.backend.requests("never")) == 1


async def test_a_refused_connection_is_tried_again(stage):
    """Connecting is part of an attempt."""
    client = await stage.client()
    await client.infer("refused")

    await client.expect_failed("backend_transient")
    await stage.logged('"attempts": 3')


async def test_no_first_event_is_tried_again(stage):
    """`request_timeout_ms` is one attempt's time."""
    client = await stage.client()
    stage.backend.on("first", plays(SILENCE), text("second"))
    await client.infer("first")

    assert said(await client.answer()) == "second"
    await stage.backend.requests("first")[0].closed()


async def test_every_attempt_sends_the_same(stage):
    """Body and headers do not change from attempt to attempt."""
    client = await stage.client()
    stage.backend.on("b", fails(503), fails(503), text("x"))
    await client.infer("b")
    await client.answer()

    first, second, third = stage.backend.requests("b")
    assert first.body == second.body == third.body != b""
    assert first.header_list == second.header_list == third.header_list


async def test_resumable_changes_nothing(stage):
    """`adapter_resumable` is accepted, said to be without effect, and has none."""
    client = await stage.client()
    stage.backend.on("resumable", plays(delta("some"), 0.02, CUT), text("not to be heard"))
    await client.infer("resumable")

    assert said(await client.answer()) == "some"
    assert len(stage.backend.requests("resumable")) == 1
    assert "without effect" in stage.daemon.log()


# --- how long to wait ---


async def test_backoff_doubles_up_to_its_most(stage):
    """`backoff_base_ms`, twice that, and never more than `backoff_max_ms`, each ±20 %."""
    client = await stage.client()
    stage.backend.on("backoff", fails(503))
    await client.infer("backoff")
    await client.expect_failed("backend_transient")

    times = [exchange.arrived for exchange in stage.backend.requests("backoff")]
    waits = [later - earlier for earlier, later in pairwise(times)]
    assert len(waits) == 3
    for wait, expected in zip(waits, (0.1, 0.2, 0.2), strict=True):
        assert expected * 0.8 - 0.005 <= wait < expected * 1.2 + 0.5


@pytest.mark.parametrize(
    ("headers", "low"),
    [
        ({"Retry_After": "1"}, 1.0),
        ({"retry_after_ms": "300"}, 0.3),
        ({"x_ms_retry_after_ms": "300"}, 0.3),
        ({"retry_after_ms": "0", "Retry_After": "1"}, 1.0),
    ],
    ids=["seconds", "ms", "x-ms", "longest"],
)
async def test_a_longer_retry_after_wins(stage, headers, low):
    """The backend's own wait is kept where it is longer than the backoff."""
    client = await stage.client()
    stage.backend.on("b", fails(429, **headers), text("second"))
    await client.infer("b")

    assert said(await client.answer()) == "second"
    first, second = stage.backend.requests("b")
    assert low <= second.arrived - first.arrived < low + 0.8


async def test_a_retry_after_date(stage):
    """A date counts as the time until then."""
    client = await stage.client()
    stage.backend.on("b", fails(503, Retry_After=formatdate(time() + 2, usegmt=True)), text("second"))
    await client.infer("b")

    assert said(await client.answer()) == "second"
    first, second = stage.backend.requests("b")
    assert 0.8 <= second.arrived - first.arrived < 3


async def test_a_shorter_retry_after_does_not_hurry(stage):
    """`Retry-After` 0 does not undercut the backoff."""
    client = await stage.client()
    stage.backend.on("backoff", fails(429, Retry_After="0"), text("second"))
    await client.infer("backoff")
    await client.answer()

    first, second = stage.backend.requests("backoff")
    assert second.arrived - first.arrived >= 0.075


async def test_each_attempt_has_its_own_retry_after(stage):
    """What an earlier attempt said is not carried over to a later one, or into its error."""
    client = await stage.client()
    stage.backend.on("b", fails(503, retry_after_ms="200"), fails(503), fails(503))
    await client.infer("b")

    assert "retry_after_ms" not in await client.expect_failed("backend_transient")
    _, second, third = stage.backend.requests("b")
    assert third.arrived - second.arrived < 0.15


@pytest.mark.parametrize("after", ["60", formatdate(time() + 3600, usegmt=True)], ids=["seconds", "date"])
async def test_a_wait_past_the_deadline_is_not_begun(stage, after):
    """It fails at once, and the client is told when to come back."""
    client = await stage.client()
    loop = asyncio.get_running_loop()
    stage.backend.on("b", fails(429, Retry_After=after), text("not to be heard"))
    began = loop.time()
    await client.infer("b", limits={"max_request_time_ms": 20_000})

    error = await client.expect_failed("rate_limited")

    assert loop.time() - began < 2
    assert error["retry_after_ms"] >= 59_000
    assert len(stage.backend.requests("b")) == 1


@pytest.mark.parametrize("stream", [True, False], ids=["streamed", "whole"])
async def test_a_reset_time_inside_an_answer_is_waited_for(stage, stream):
    """OpenRouter's 429 may come with HTTP 200, and says there when the limit ends, in milliseconds of Unix time."""
    client = await stage.client()
    headers = {
        "X-RateLimit-Limit": "20",
        "X-RateLimit-Remaining": "0",
        "X-RateLimit-Reset": str(round(time() + 60) * 1000),
    }
    error = {"error": {"message": "Rate limit exceeded: m", "code": 429, "metadata": {"headers": headers}}}
    answer = plays(event(error)) if stream else answers(200, json.dumps(error).encode())
    stage.backend.on("b", answer, text("not to be heard"))
    await client.infer("b", stream=stream, limits={"max_request_time_ms": 20_000})

    failed = await client.expect_failed("rate_limited")

    assert failed["retryable"]
    assert 50_000 < failed["retry_after_ms"] <= 61_000
    assert len(stage.backend.requests("b")) == 1
