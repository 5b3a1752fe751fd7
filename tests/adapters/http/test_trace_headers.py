"""The caller's trace goes on to the backend where the configuration says so, and nowhere else."""

from __future__ import annotations

from pathlib import Path

import pytest

from beluna_gateway.gateway import AIGateway
from tests.fakes.answers import answers, text
from tests.fakes.backend import fake_backend
from tests.fakes.config import backend, config, load

TRACE = {"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=1"}
MESSAGES = [{"role": "user", "parts": [{"text": {"text": "hello"}}]}]


@pytest.mark.parametrize("propagate", [True, False])
async def test_the_callers_trace_is_sent_on_where_configured(tmp_path: Path, propagate: bool):
    """`telemetry.propagate_trace` makes headers of `metadata.traceparent` and `metadata.tracestate`."""
    async with fake_backend() as server:
        server.on("b", text("ok"))
        settings = config(
            backend(dialect="openai_compatible", endpoint=server.url("b")), telemetry={"propagate_trace": propagate}
        )
        async with AIGateway(load(tmp_path, settings), tmp_path) as gateway:
            await gateway.infer_once({"messages": MESSAGES, "metadata": {**TRACE, "team": "red"}})
        headers = (await server.request("b")).headers

    assert {name: headers.get(name) for name in TRACE} == (TRACE if propagate else dict.fromkeys(TRACE))
    assert "team" not in headers


@pytest.mark.parametrize("propagate", [True, False])
async def test_that_of_a_count_too(tmp_path: Path, propagate: bool):
    """`count_tokens` has the metadata of an inference; `embed` and `models` have none, and send no trace."""
    async with fake_backend() as server:
        server.on("b", answers(200, b'{"input_tokens":3}'), answers(200, b'{"data":[{"embedding":[1]}]}'))
        settings = config(
            backend(dialect="openai_responses", endpoint=server.url("b")), telemetry={"propagate_trace": propagate}
        )
        async with AIGateway(load(tmp_path, settings), tmp_path) as gateway:
            assert await gateway.count_tokens({"messages": MESSAGES, "metadata": {**TRACE, "team": "red"}}) == 3
            await gateway.embed(inputs=["a"])
        counted, embedded = [request.headers for request in server.requests("b")]

    assert {name: counted.get(name) for name in TRACE} == (TRACE if propagate else dict.fromkeys(TRACE))
    assert "team" not in counted
    assert not {*TRACE} & {*embedded}
