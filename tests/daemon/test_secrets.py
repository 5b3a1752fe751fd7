"""Canary secrets in every credential slot: they reach the backend, and no output of ours, in whatever form."""

from __future__ import annotations

import asyncio
import base64
import json
from typing import Any
from urllib.parse import quote, quote_plus

import pytest
import pytest_asyncio

from tests.fakes.answers import answers, delta, event, fails, plays, reset
from tests.fakes.client import said

pytestmark = pytest.mark.asyncio(loop_scope="module")

CANARIES = {
    "inline": "canary-inline/+ä='\"&%",
    "env": "canary-env-7f3a",
    "file": "canary-file-90210",
    "systemd": "canary-systemd-4711",
}
CREDENTIALS: dict[str, dict[str, str]] = {
    "inline": {"type": "inline_token", "token": CANARIES["inline"]},
    "env": {"type": "env", "var": "BELUNA_TEST_CANARY"},
    "file": {"type": "file", "path": "{house}/secret"},
    "systemd": {"type": "file", "path": "from-systemd"},
}
HTTP_DIALECTS = ("openai_compatible", "openai_responses", "anthropic", "gemini", "ollama")
BACKENDS: dict[str, dict[str, Any]] = {
    "warm": {},
    **{f"{slot}": {"credential": credential} for slot, credential in CREDENTIALS.items()},
    **{
        dialect: {"dialect": dialect, "credential": {"type": "inline_token", "token": f"canary-of-{dialect}"}}
        for dialect in HTTP_DIALECTS
    },
    "refused": {"credential": CREDENTIALS["inline"], "endpoint": "http://127.0.0.1:9/v1"},
    "missing": {"credential": {"type": "file", "path": "not-there"}},
    "blank": {"credential": {"type": "env", "var": "BELUNA_TEST_BLANK"}},
}
SETTINGS = {"telemetry": {"log_level": "debug", "metrics": "./metrics.sock"}}
ENVIRONMENT = {
    "BELUNA_TEST_CANARY": f" {CANARIES['env']}\n",
    "BELUNA_TEST_BLANK": " ",
    "CREDENTIALS_DIRECTORY": "{house}/credentials",
}


@pytest_asyncio.fixture(scope="module", loop_scope="module", autouse=True)
async def files(house):
    """The secrets that stand in files."""
    folder = house.daemon.folder
    (folder / "secret").write_text(CANARIES["file"] + "\n")
    (folder / "credentials").mkdir()
    (folder / "credentials" / "from-systemd").write_text(CANARIES["systemd"])
    (folder / "from-systemd").write_text("canary-of-the-wrong-folder")


def forms(secret: str) -> set[str]:
    """How a secret may look in a text."""
    encoded = base64.b64encode(secret.encode()).decode()
    in_json = json.dumps(secret)[1:-1]
    return {
        secret,
        quote(secret, safe=""),
        quote_plus(secret),
        encoded,
        encoded.rstrip("="),
        in_json,
        repr(secret)[1:-1],
    }


async def outputs(stage: Any, frames: Any) -> str:
    """Everything that the daemon has said: frames, log, metrics, status."""
    reader, writer = await asyncio.open_unix_connection(stage.daemon.folder / "metrics.sock")
    writer.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    metrics = (await reader.read()).decode()
    assert "200 OK" in metrics
    writer.close()
    await writer.wait_closed()
    status = await stage.house.watcher.status()
    log: str = stage.daemon.log()
    return json.dumps(frames, ensure_ascii=False) + log + metrics + json.dumps(status)


def repeats(secret: str) -> dict[str, Any]:
    """Backends that repeat the secret wherever they can."""
    every = " ".join(sorted(forms(secret)))
    error = {"message": f"wrong key: {every}", "code": secret, "type": every, "status": secret, "param": secret}
    return {
        "body": answers(401, {"error": error}),
        "text": answers(500, every.encode()),
        "header": fails(429, every, every, WWW_Authenticate=quote(secret), Retry_After=quote(secret)),
        "redirect": fails(302, Location=f"http://127.0.0.1:9/?key={quote(secret)}"),
        "in-stream": plays(event({"error": error})),
        "long": answers(400, {"error": {"message": "x" * 1990 + secret}}),
        "no-json": plays(b"data: " + secret.encode() + b"\n\n" + secret.encode() + b"\n"),
        "reset": reset,
    }


@pytest.mark.parametrize("slot", CREDENTIALS)
@pytest.mark.parametrize("way", repeats(""))
async def test_a_secret_that_a_backend_repeats(stage, slot, way):
    """Whatever the backend does with it, the client, the log and the metrics see `<redacted>`."""
    client = await stage.client()
    secret = CANARIES[slot]
    stage.backend.on(slot, repeats(secret)[way])
    await client.infer(slot)

    frames = await client.answer()

    sent = stage.backend.requests(slot)[0].headers["authorization"]
    assert sent.encode("latin-1").decode() == f"Bearer {secret}"
    assert frames[-1]["type"] == "failed"
    said_in_all = await outputs(stage, frames)
    assert [form for form in forms(secret) if form in said_in_all] == []
    assert "canary-in" not in said_in_all.replace("canary-in-metadata", "")
    if way in ("body", "in-stream", "text"):
        assert "<redacted>" in frames[-1]["error"]["message"]


@pytest.mark.parametrize("dialect", HTTP_DIALECTS)
@pytest.mark.parametrize("way", ["body", "text", "in-stream", "redirect"])
async def test_every_dialect(stage, dialect, way):
    """Each sends its key in a header, never in the URL, and repeats nothing."""
    client = await stage.client()
    secret = f"canary-of-{dialect}"
    stage.backend.on(dialect, repeats(secret)[way])
    await client.infer(dialect)

    frames = await client.answer()

    seen = stage.backend.requests(dialect)[0]
    assert secret not in seen.target
    assert secret not in seen.body.decode()
    assert any(secret in value for value in seen.headers.values())
    assert frames[-1]["type"] == "failed"
    assert secret not in await outputs(stage, frames)


@pytest.mark.parametrize("backend_id", ["refused", "missing", "blank"])
async def test_no_use_of_it(stage, backend_id):
    """A connection that fails, and a credential that is missing, name everything but the secret."""
    client = await stage.client()
    await client.infer(backend_id)

    frames = await client.answer()

    assert frames[-1]["error"]["kind"] == ("backend_transient" if backend_id == "refused" else "authentication")
    said_in_all = await outputs(stage, frames)
    assert [form for form in forms(CANARIES["inline"]) if form in said_in_all] == []


async def test_a_rotated_secret_is_taken(stage):
    """A file is read for each request; the old secret stays known."""
    client = await stage.client()
    path = stage.daemon.folder / "secret"
    path.write_text("canary-file-rotated")
    try:
        stage.backend.on("file", fails(401, message=f"neither {CANARIES['file']} nor canary-file-rotated"))
        await client.infer("file")
        frames = await client.answer()
    finally:
        path.write_text(CANARIES["file"])

    assert stage.backend.requests("file")[0].headers["authorization"] == "Bearer canary-file-rotated"
    assert "canary-file" not in await outputs(stage, frames)


async def test_text_of_a_model_is_left_as_it_is(stage):
    """Redaction is for errors and logs: an answer is delivered byte by byte."""
    client = await stage.client()
    stage.backend.on(
        "env", plays(delta("the word <redacted> is fine"), event({"choices": [{"finish_reason": "stop"}]}))
    )
    await client.infer("env")

    assert said(await client.answer()) == "the word <redacted> is fine"


async def test_a_request_cannot_set_headers_through_its_id(stage):
    """Nothing of a frame becomes a header line."""
    client = await stage.client()
    stage.backend.on("warm", fails(400))
    await client.infer("warm", "a\r\nX-Injected: yes")
    await client.answer("a\r\nX-Injected: yes")

    assert "x-injected" not in stage.backend.requests("warm")[0].headers
