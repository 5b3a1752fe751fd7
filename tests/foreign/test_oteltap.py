"""OtelTap (PyPI): an OTLP/HTTP receiver in Rust. What it decodes is an opinion that is not ours on the spans we send.

What it is not faithful in (version 1.0.0): it prints spans only, without their resource, so `service.name` is not seen
here; it takes OTLP/HTTP in protobuf only.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any

import pytest

from ..fakes.answers import delta, fails, finish, plays, usage
from ..fakes.backend import fake_backend
from ..fakes.client import connected
from ..fakes.daemon import daemon_process, make_config
from .conftest import Receiver

pytestmark = [pytest.mark.live, pytest.mark.timeout(60)]


def attributes(span: dict[str, Any]) -> dict[str, Any]:
    """Name → value. OTLP's JSON writes a 64-bit integer as a string."""

    def plain(value: dict[str, Any]) -> Any:
        ((kind, content),) = value.items()
        if kind == "intValue":
            return int(content)
        return [plain(one) for one in content["values"]] if kind == "arrayValue" else content

    return {one["key"]: plain(one["value"]) for one in span["attributes"]}


async def test_the_spans_of_a_daemon(tmp_path: Path, oteltap: Receiver) -> None:
    """Each request is one span: an answer with its times, tokens and client, and a failure with its error."""
    clients = [{"name": "core", "uids": [os.getuid()]}]
    telemetry = {"otlp": {"endpoint": oteltap.url}}
    before = time.time_ns()
    async with fake_backend() as backend:
        backend.on("b", plays(delta("a"), delta("b"), finish(), usage(3, 5)), fails(429, "slow_down"))
        config = make_config({"b": {}}, backend, telemetry=telemetry, server={"clients": clients})
        async with daemon_process(tmp_path, config) as daemon, connected(daemon.socket_path) as client:
            await client.infer("b", "first", metadata={"team": "red"})
            assert (await client.answer("first"))[-1]["type"] == "completed"
            await client.infer("b", "second", model="other-model", stream=False)
            await client.expect_failed("rate_limited", "second")
            assert await daemon.stop() == 0  # which sends what is queued
        async with asyncio.timeout(10):
            while len(oteltap.spans()) < 2:
                await asyncio.sleep(0.05)
    first, second = sorted(oteltap.spans(), key=lambda span: int(span["startTimeUnixNano"]))
    answer, failure = attributes(first), attributes(second)

    assert (first["name"], second["name"]) == ("chat fake-model", "chat other-model")
    assert first["kind"] == second["kind"] == 3  # SPAN_KIND_CLIENT
    assert before < int(first["startTimeUnixNano"]) < int(first["endTimeUnixNano"]) < time.time_ns()
    expected = {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "openai",
        "gen_ai.request.model": "fake-model",
        "gen_ai.request.stream": True,
        "gen_ai.response.finish_reasons": ["stop"],
        "gen_ai.usage.input_tokens": 3,
        "gen_ai.usage.output_tokens": 5,
        "beluna.request_id": "first",
        "beluna.backend_id": "b",
        "beluna.client": "core",
        "beluna.uid": os.getuid(),
        "beluna.attempts": 1,
        "beluna.outcome": "completed",
        "beluna.metadata.team": "red",
    }
    assert {name: answer.get(name) for name in expected} == expected
    assert 0 < answer["gen_ai.response.time_to_first_chunk"] < 10
    assert failure["error.type"] == failure["beluna.outcome"] == "rate_limited"
    assert failure["gen_ai.request.stream"] is False
    assert second["status"]["code"] == 2  # STATUS_CODE_ERROR
    assert "slow_down" not in first["status"]["message"]
    assert "429" in second["status"]["message"]
