"""The same questions to every HTTP dialect, through the whole gateway and over real sockets.

A new dialect gets a row in `DIALECTS` (tests/fakes/dialects.py) and meets all of them before it has a test of its own.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.config.settings import HTTP_DIALECTS
from tests.fakes.answers import CUT, RESET, answers, plays, silent
from tests.fakes.backend import Exchange, FakeBackend, Script, fake_backend
from tests.fakes.client import Client, Frame, said
from tests.fakes.daemon import local_daemon, make_config
from tests.fakes.dialects import DIALECTS

SECRET = "canary-7f3a/+key"
TOOL = {"name": "get_weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}


every_dialect = pytest.mark.parametrize("dialect", DIALECTS)


@asynccontextmanager
async def asked(
    folder: Path, dialect: str, *scripts: Script, **reliability: Any
) -> AsyncIterator[tuple[Client, FakeBackend]]:
    """A client of a daemon with one backend of that dialect, which answers by `scripts`."""
    async with fake_backend() as backend:
        settings = {
            "b": {
                "dialect": dialect,
                "credential": {"type": "inline_token", "token": SECRET},
                "reliability": {"max_retries": 0, **reliability},
            }
        }
        backend.on("b", *scripts)
        async with local_daemon(folder, make_config(settings, backend)) as daemon, daemon.client() as client:
            yield client, backend


async def outcome(folder: Path, dialect: str, script: Script, **fields: Any) -> list[Frame]:
    """All frames of one request."""
    async with asked(folder, dialect, script) as (client, _):
        await client.infer("b", **fields)
        return await client.answer()


def test_every_http_dialect_is_asked():
    """The table has a row for each HTTP dialect that a configuration may name."""
    assert set(DIALECTS) == HTTP_DIALECTS


@every_dialect
async def test_text(tmp_path, dialect):
    """A streamed text comes as its deltas, then usage, then `completed`, and nothing else."""
    frames = await outcome(tmp_path, dialect, DIALECTS[dialect].answer())

    kinds = ["started", "output_text_delta", "output_text_delta", "usage", "completed"]
    assert kinds == [frame["type"] for frame in frames]
    assert said(frames) == "Hello world"
    usage = frames[-2]["usage"]
    assert (usage["input_tokens"], usage["output_tokens"], usage["total_tokens"]) == (7, 2, 9)
    assert frames[-1]["finish_reason"] == "stop"


@every_dialect
async def test_unstreamed_text(tmp_path, dialect):
    """With `stream` false the same answer comes as one delta."""
    frames = await outcome(tmp_path, dialect, answers(200, DIALECTS[dialect].whole), stream=False)

    assert [frame["type"] for frame in frames] == ["started", "output_text_delta", "usage", "completed"]
    assert said(frames) == "Hello world"


@every_dialect
async def test_tool_call(tmp_path, dialect):
    """A call has one id in all its frames, its name in the first, and is ready with what its deltas said."""
    row = DIALECTS[dialect]
    script = plays(row.play(*row.beginning, *row.call, *row.call_end))
    frames = await outcome(tmp_path, dialect, script, tools=[TOOL])

    deltas = [frame for frame in frames if frame["type"] == "tool_call_delta"]
    (ready,) = [frame["call"] for frame in frames if frame["type"] == "tool_call_ready"]
    assert "get_weather" == deltas[0]["name"] == ready["name"]
    assert {ready["id"]} == {frame["call_id"] for frame in deltas}
    assert "".join(frame["arguments_delta"] for frame in deltas) == ready["arguments_json"]
    assert json.loads(ready["arguments_json"]) == {"city": "Paris"}
    assert (ready["status"], frames[-1]["finish_reason"]) == ("ready", "tool_calls")


@every_dialect
@pytest.mark.parametrize("ending", [CUT, RESET], ids=["close", "reset"])
async def test_cut_stream_is_never_complete(tmp_path, dialect, ending):
    """An answer that stops before its end mark fails, after what it had said."""
    row = DIALECTS[dialect]
    frames = await outcome(tmp_path, dialect, plays(row.play(*row.beginning, *row.text), ending))

    assert said(frames) == "Hello world"
    assert frames[-1]["type"] == "failed"
    assert (frames[-1]["error"]["kind"], frames[-1]["error"]["retryable"]) == ("backend_transient", True)


@every_dialect
@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (302, "backend_permanent"),
        (400, "invalid_request"),
        (401, "authentication"),
        (403, "authorization"),
        (408, "timeout"),
        (429, "rate_limited"),
        (500, "backend_transient"),
        (529, "backend_transient"),
    ],
)
async def test_status_decides_the_kind(tmp_path, dialect, status, kind):
    """The same HTTP status is the same kind of error from every backend."""
    frames = await outcome(tmp_path, dialect, answers(status, {"error": {"message": "no", "code": "word"}}))

    error = frames[-1]["error"]
    assert (kind, status, "word") == (error["kind"], error["provider_http_status"], error["provider_code"])


@every_dialect
@pytest.mark.parametrize("stream", [True, False])
async def test_broken_body(tmp_path, dialect, stream):
    """What is no JSON object where the dialect says one is a protocol violation."""
    row = DIALECTS[dialect]
    script = plays(row.play([1, 2])) if stream else answers(200, b"[1, 2")
    frames = await outcome(tmp_path, dialect, script, stream=stream)

    assert frames[-1]["error"]["kind"] == "protocol_violation"


@every_dialect
async def test_error_inside_the_answer(tmp_path, dialect):
    """An error event in mid-stream ends the request by its code, after what was said."""
    row = DIALECTS[dialect]
    frames = await outcome(tmp_path, dialect, plays(row.play(*row.beginning, row.text[0], row.busy)))

    assert said(frames) == "Hello"
    assert (frames[-1]["error"]["kind"], frames[-1]["error"]["retryable"]) == ("rate_limited", True)


@every_dialect
async def test_error_after_a_preamble_is_retried(tmp_path, dialect):
    """An error before the first output leads to another attempt, and the client sees one answer."""
    row = DIALECTS[dialect]
    failing = plays(row.play(*row.beginning, row.busy))
    async with asked(tmp_path, dialect, failing, row.answer(), max_retries=1) as (client, backend):
        await client.infer("b")
        frames = await client.answer()

        assert len(backend.requests("b")) == 2
    assert [frame["type"] for frame in frames].count("started") == 1
    assert (said(frames), frames[-1]["type"]) == ("Hello world", "completed")


@every_dialect
async def test_silence_is_timed_whatever_fills_it(tmp_path, dialect):
    """Events without content do not keep a dead stream alive."""
    row = DIALECTS[dialect]

    async def pings(exchange: Exchange) -> None:
        await plays(row.play(*row.beginning, *row.text), *(row.silence, 0.05) * 200)(exchange)

    async with asked(tmp_path, dialect, pings, idle_timeout_ms=300) as (client, _):
        await client.infer("b")
        error = await client.expect_failed("timeout")

    assert "idle_timeout_ms" in error["message"]


@every_dialect
@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("way", ["cancel", "disconnect"])
async def test_cancel_closes_the_connection(tmp_path, dialect, stream, way):
    """A client that cancels or goes away has the backend's connection closed, though the backend is silent."""
    async with asked(tmp_path, dialect, silent) as (client, backend):
        await client.infer("b", stream=stream)
        exchange = await backend.request("b")
        if way == "cancel":
            await client.cancel()
            await client.expect_failed("cancelled")
        else:
            client.close()

        await exchange.closed(patience=2)


@every_dialect
async def test_credential_is_sent_and_never_told(tmp_path, dialect):
    """The secret reaches the backend in a header only, and no error shows it, even if the backend repeats it."""

    async def parrot(exchange: Exchange) -> None:
        words = f"bad key {SECRET} in {json.dumps(exchange.headers)}"
        await answers(401, {"error": {"message": words, "code": SECRET}})(exchange)

    async with asked(tmp_path, dialect, parrot) as (client, backend):
        await client.infer("b")
        frames = await client.answer()
        exchange = await backend.request("b")

    assert any(SECRET in value for value in exchange.headers.values())
    assert SECRET not in exchange.target
    assert SECRET not in json.dumps(frames)
    assert "<redacted>" in frames[-1]["error"]["message"]


@every_dialect
async def test_connection_is_used_again(tmp_path, dialect):
    """A second request after a complete answer comes on the same connection."""
    async with asked(tmp_path, dialect, DIALECTS[dialect].answer()) as (client, backend):
        for _ in range(2):
            await client.infer("b")
            assert (await client.answer())[-1]["type"] == "completed"
        first, second = backend.requests("b")

        assert first.connection == second.connection


async def test_the_tier_that_served_may_stand_in_a_header(tmp_path):
    """Gemini says it there and in no event."""
    events = DIALECTS["gemini"].play(*DIALECTS["gemini"].text, *DIALECTS["gemini"].end)
    frames = await outcome(tmp_path, "gemini", plays(events, headers={"x-gemini-service-tier": "standard"}))

    assert frames[-2]["usage"]["service_tier"] == "standard"
