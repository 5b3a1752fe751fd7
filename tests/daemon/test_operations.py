"""`embed`, `count_tokens` and `models` on the socket: one frame each, through the same pipeline as inference."""

from __future__ import annotations

from typing import Any

import pytest

from tests.fakes.answers import answers, fails, silent
from tests.fakes.client import Client, Frame, user

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS: dict[str, Any] = {
    "chat": {},
    "anthropic": {"dialect": "anthropic", "credential": {"type": "inline_token", "token": "sk-key"}},
    "gemini": {"dialect": "gemini"},
    "ollama": {"dialect": "ollama"},
    "retrying": {"reliability": {"max_retries": 1}},
    "impatient": {"reliability": {"request_timeout_ms": 200}},
    "narrow": {"budget": {"max_concurrency_per_backend": 1}},
    "priced": {"pricing": {"fake-model": {"input_per_mtok": 1000, "output_per_mtok": 0}}},
}
VECTORS = {"data": [{"index": 0, "embedding": [0.5, 1]}], "usage": {"prompt_tokens": 3, "total_tokens": 3}}


async def ask(client: Client, kind: str, backend_id: str, **fields: Any) -> Frame:
    await client.send({"type": kind, "request_id": "r", "backend_id": backend_id, **fields})
    return await client.frame()


async def test_embed_is_answered_by_one_frame(stage):
    """No `started`, no `usage` of its own: vectors and usage in one."""
    client = await stage.client()
    stage.backend.on("chat", answers(200, VECTORS))

    frame = await ask(client, "embed", "chat", inputs=["a"])

    assert frame == {
        "type": "embedding",
        "request_id": "r",
        "vectors": [[0.5, 1.0]],
        "usage": {
            "input_tokens": 3,
            "output_tokens": None,
            "total_tokens": 3,
            "provider_usage_raw": {"prompt_tokens": 3, "total_tokens": 3},
        },
    }
    await client.expect_nothing()


async def test_count_tokens_is_answered_by_one_frame(stage):
    """What an inference would send is counted; it has no limits."""
    client = await stage.client()
    stage.backend.on("anthropic", answers(200, {"input_tokens": 12}))

    assert await ask(client, "count_tokens", "anthropic", messages=user()) == {
        "type": "token_count",
        "request_id": "r",
        "input_tokens": 12,
    }
    request = await stage.backend.request("anthropic")
    assert (request.target, request.headers["x-api-key"]) == ("/anthropic/v1/messages/count_tokens", "sk-key")
    rejected = await ask(client, "count_tokens", "anthropic", messages=user(), limits={})
    assert rejected["error"]["message"] == "limits: unknown field"


async def test_models_reads_every_page(stage):
    """Page after page by GET, one frame at the end."""
    client = await stage.client()
    stage.backend.on(
        "anthropic",
        answers(200, {"data": [{"id": "a"}], "has_more": True, "last_id": "a"}),
        answers(200, {"data": [{"id": "b"}], "has_more": False, "last_id": "b"}),
    )

    frame = await ask(client, "models", "anthropic")

    assert frame == {"type": "model_list", "request_id": "r", "models": [{"id": "a"}, {"id": "b"}]}
    requests = [await stage.backend.request("anthropic", number) for number in (0, 1)]
    assert [(request.method, request.target, request.body) for request in requests] == [
        ("GET", "/anthropic/v1/models?limit=1000", b""),
        ("GET", "/anthropic/v1/models?limit=1000&after_id=a", b""),
    ]


@pytest.mark.parametrize(
    ("kind", "backend_id", "fields"),
    [
        ("embed", "anthropic", {"inputs": ["a"]}),
        ("count_tokens", "ollama", {"messages": user()}),
    ],
)
async def test_a_dialect_without_it_refuses(stage, kind: str, backend_id: str, fields: dict[str, Any]):
    """`unsupported_capability`, naming what was asked, and the backend is not."""
    client = await stage.client()

    frame = await ask(client, kind, backend_id, **fields)

    assert (frame["type"], frame["error"]["kind"]) == ("failed", "unsupported_capability")
    assert kind in frame["error"]["message"]
    assert stage.backend.requests(backend_id) == []


@pytest.mark.parametrize(
    ("fields", "kind", "words"),
    [
        ({"inputs": []}, "failed", "inputs: empty"),
        ({"inputs": [1]}, "rejected", "inputs[0]"),
        ({"inputs": ["a"], "dimensions": 0}, "rejected", "dimensions"),
        ({"inputs": ["a"], "backend_id": "nobody"}, "failed", "not configured"),
    ],
)
async def test_what_is_wrong_is_named(stage, fields: dict[str, Any], kind: str, words: str):
    """Shape by `rejected`, meaning by `failed`, as with `infer`."""
    client = await stage.client()

    frame = await ask(client, "embed", **{"backend_id": "chat", **fields})

    assert frame["type"] == kind
    assert words in frame["error"]["message"]


async def test_a_transient_failure_is_tried_again(stage):
    """The retry rule is that of `infer`."""
    client = await stage.client()
    stage.backend.on("retrying", fails(503), answers(200, VECTORS))

    assert (await ask(client, "embed", "retrying", inputs=["a"]))["type"] == "embedding"


async def test_the_timers_are_those_of_an_inference(stage):
    """A backend that says nothing ends in `timeout`, naming the setting."""
    client = await stage.client()
    stage.backend.on("impatient", silent)

    error = (await ask(client, "models", "impatient"))["error"]

    assert (error["kind"], "request_timeout_ms" in error["message"]) == ("timeout", True)


@pytest.mark.parametrize(("kind", "fields"), [("embed", {"inputs": ["a"]}), ("models", {})])
async def test_a_cancel_closes_the_backends_connection(stage, kind: str, fields: dict[str, Any]):
    """`failed`, `cancelled`, once the connection is closed."""
    client = await stage.client()
    stage.backend.on("chat", silent)
    await client.send({"type": kind, "request_id": "r", "backend_id": "chat", **fields})
    request = await stage.backend.request("chat")

    await client.cancel("r")

    assert (await client.frame())["error"]["kind"] == "cancelled"
    await request.closed()


async def test_a_client_that_leaves_cancels_it(stage):
    """As with `infer`."""
    client = await stage.client()
    stage.backend.on("chat", silent)
    await client.send({"type": "embed", "request_id": "r", "backend_id": "chat", "inputs": ["a"]})
    request = await stage.backend.request("chat")

    client.close()

    await request.closed()


async def test_it_takes_a_place_like_an_inference(stage):
    """Where one request may run, a second one waits for the first."""
    client = await stage.client()
    stage.backend.on("narrow", silent)
    await client.send({"type": "models", "request_id": "1", "backend_id": "narrow"})
    await stage.backend.request("narrow")
    await client.send({"type": "models", "request_id": "2", "backend_id": "narrow"})
    await stage.until("narrow", queued=1)

    await client.cancel("1")
    await client.cancel("2")

    assert {(await client.frame())["request_id"] for _ in range(2)} == {"1", "2"}


async def test_embeddings_have_a_price(stage):
    """By the input's tokens."""
    client = await stage.client()
    stage.backend.on("priced", answers(200, VECTORS))

    assert (await ask(client, "embed", "priced", inputs=["a"]))["usage"]["cost"] == pytest.approx(0.003)
