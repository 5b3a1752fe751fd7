"""A model server on a Unix socket, started by the first request and stopped when idle."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from beluna_gateway.client import connect

from .conftest import running_daemon


@pytest.mark.live
async def test_comes_and_goes(model_is_here, tmp_path):
    """The server is not there before the first request, answers it, is gone when idle, and comes again."""
    model = tmp_path / "model.sock"
    options = ["--port", "0", "--host", str(model), "--threads", "1", "--ctx", "512"]
    backend = {
        "id": "local",
        "dialect": "openai_compatible",
        "endpoint": f"unix:{model}:/v1",
        "credential": {"type": "none"},
        "default_model": "smollm2-135m-instruct",
        "launch": {"command": "python", "args": ["-m", "beluna_gateway.local_model", *options], "idle_stop_ms": 100},
    }
    config: dict[str, Any] = {"ai_gateway": {"default_backend": "local", "backends": [backend]}}
    question = {"role": "user", "parts": [{"text": {"text": "What is the capital of France?"}}]}
    with running_daemon(tmp_path, config):
        async with connect(tmp_path / "beluna.sock") as client:
            for _ in range(2):
                assert not model.exists()
                frames = [frame async for frame in client.infer(messages=[question], sampling={"temperature": 0.0})]
                assert frames[-1]["type"] == "completed"
                async with asyncio.timeout(20):
                    while model.exists():
                        await asyncio.sleep(0.02)
