"""What a request gets: its frames in order, and company on the same connection."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.fakes.answers import DONE, delta, finish, plays, text, tool_delta, usage, whole
from tests.fakes.client import Frame, infer, said

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS: dict[str, dict[str, str]] = {"b": {}, "other": {}}
SETTINGS = {"server": {"max_in_flight_per_connection": 3}}
ENVIRONMENT = {"PYTHONASYNCIODEBUG": "1"}


def types(frames: list[Frame]) -> list[str]:
    """The frames' types."""
    return [frame["type"] for frame in frames]


# --- the frames of one answer ---


async def test_a_streamed_answer(stage):
    """`started`, the text as it comes, `usage`, `completed`: each with exactly the fields of the contract."""
    client = await stage.client()
    first = {"id": "id-1", "model": "fake-2", "choices": [{"index": 0, "delta": {"content": "Hel"}}]}
    stage.backend.on("b", plays(b"data: " + json.dumps(first).encode() + b"\n\n", delta("lo"), finish(), usage(), DONE))
    await client.infer("b")

    assert await client.answer() == [
        {"type": "started", "request_id": "r", "backend_id": "b", "model": "fake-model"},
        {"type": "output_text_delta", "request_id": "r", "delta": "Hel"},
        {"type": "output_text_delta", "request_id": "r", "delta": "lo"},
        {
            "type": "usage",
            "request_id": "r",
            "usage": {
                "input_tokens": 3,
                "output_tokens": 5,
                "total_tokens": 8,
                "provider_usage_raw": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
            },
        },
        {
            "type": "completed",
            "request_id": "r",
            "finish_reason": "stop",
            "backend_metadata": {"response_id": "id-1", "model": "fake-2"},
        },
    ]


async def test_an_unstreamed_answer(stage):
    """With `stream` false the backend is asked not to stream, and the frames are the same with one delta."""
    client = await stage.client()
    stage.backend.on("b", whole("Hello"))
    await client.infer("b", stream=False)

    assert types(frames := await client.answer()) == ["started", "output_text_delta", "usage", "completed"]
    assert said(frames) == "Hello"
    assert stage.backend.requests("b")[0].json()["stream"] is False


async def test_two_tool_calls_at_once(stage):
    """Interleaved fragments are glued by the backend's index; a call without an id gets one of its own."""
    client = await stage.client()
    stage.backend.on(
        "b",
        plays(
            tool_delta(0, "", call_id="one", name="look"),
            tool_delta(1, '{"b"', name="find"),
            tool_delta(0, '{"a":1}'),
            tool_delta(1, ":2}"),
            finish("tool_calls"),
            DONE,
        ),
    )
    tools = [{"name": name, "input_schema": {"type": "object"}} for name in ("look", "find")]
    await client.infer("b", tools=tools)

    frames = await client.answer()

    ready = [frame["call"] for frame in frames if frame["type"] == "tool_call_ready"]
    assert [(call["name"], call["arguments_json"], call["status"]) for call in ready] == [
        ("look", '{"a":1}', "ready"),
        ("find", '{"b":2}', "ready"),
    ]
    assert ready[0]["id"] == "one"
    assert len({call["id"] for call in ready}) == 2
    for call in ready:
        deltas = [f for f in frames if f["type"] == "tool_call_delta" and f["call_id"] == call["id"]]
        assert call["arguments_json"] == "".join(f["arguments_delta"] for f in deltas)
        assert call["name"] == deltas[0]["name"]
    assert frames[-1]["finish_reason"] == "tool_calls"


async def test_a_request_without_an_id_gets_a_uuid(stage):
    """A missing or null `request_id` becomes a UUIDv7, a new one each."""
    client = await stage.client()
    stage.backend.on("b", text("x"))
    await client.send(infer("b", None), {**infer("b"), "request_id": None})

    frames = await client.answers(2)

    assert len(frames) == 2
    assert all(isinstance(name, str) and len(name) == 36 and name[14] == "7" for name in frames)


async def test_null_stands_for_a_missing_option(stage):
    """Every optional field may be null; `backend_id` and `model` then come from the configuration."""
    client = await stage.client()
    stage.backend.on("b", text("x"))
    names = ("backend_id", "model", "sampling", "enable_thinking", "provider_options")
    limits = {"max_output_tokens": None, "max_request_time_ms": None}
    await client.send({**infer(), **dict.fromkeys(names), "limits": limits})

    assert (await client.answer())[0]["model"] == "fake-model"


async def test_metadata_is_never_sent(stage):
    """`metadata` is for the log, where it stands, and not for the backend."""
    client = await stage.client()
    stage.backend.on("b", text("x"))
    await client.infer("b", metadata={"agent": "canary-of-metadata"})
    await client.answer()

    seen = stage.backend.requests("b")[0]
    assert "canary-of-metadata" not in repr(seen.header_list) + seen.target + seen.body.decode()
    await stage.logged("canary-of-metadata")


@pytest.mark.parametrize(
    ("request_id", "sent"), [("plain-1 !~", True), ("é", False), ("a\nb", False), ("x" * 128, True)]
)
async def test_the_request_id_goes_with_it(stage, request_id, sent):
    """`X-Request-Id` carries the id where it is printable ASCII, and nothing that could break a header."""
    client = await stage.client()
    stage.backend.on("b", text("x"))
    await client.infer("b", request_id)
    await client.answer(request_id)

    assert (request_id if sent else None) == stage.backend.requests("b")[0].headers.get("x-request-id")


# --- company ---


async def test_many_requests_on_one_connection(stage):
    """Requests run side by side; frames of different ones interleave, those of one are in order."""
    client = await stage.client()
    gates = [asyncio.Event() for _ in range(3)]
    numbers = iter(range(3))

    async def script(exchange):
        number = next(numbers)
        await exchange.head()
        await exchange.send(delta(f"{exchange.json()['model']}-"))
        await gates[number].wait()
        await exchange.send(delta("end") + finish() + DONE)
        await exchange.finish()

    stage.backend.on("b", script)
    for name in "xyz":
        await client.infer("b", name, model=name)
        await stage.backend.request("b", "xyz".index(name))
    begun = [await client.frame() for _ in range(6)]
    assert {"x", "y", "z"} == {frame["request_id"] for frame in begun}
    for name in "zxy":
        gates["xyz".index(name)].set()

        assert said(await client.answer(name)) == "end"


async def test_the_same_id_on_two_connections(stage):
    """Ids belong to their connection: two clients may use the same one at the same time."""
    one, two = await stage.client(), await stage.client()
    stage.backend.on("b", plays(0.05, delta("first"), finish(), DONE), text("second"))
    await one.infer("b")
    await stage.backend.request("b")
    await two.infer("b")

    assert said(await two.answer()) == "second"
    assert said(await one.answer()) == "first"


async def test_an_id_in_flight_is_rejected_and_the_stream_goes_on(stage):
    """A second request with an id that is in flight has no effect; afterwards the id is free again."""
    client = await stage.client()
    stage.backend.on("b", plays(0.1, delta("one"), finish(), DONE), text("two"))
    await client.send(infer("b"), infer("b"))

    frames = {frame["type"]: frame for frame in (await client.frame(), await client.frame())}
    assert frames.keys() == {"started", "rejected"}
    assert (frames["rejected"]["request_id"], frames["rejected"]["error"]["kind"]) == ("r", "invalid_request")
    assert said(await client.answer()) == "one"
    assert len(stage.backend.requests("b")) == 1
    await client.infer("b")
    assert said(await client.answer()) == "two"


async def test_an_id_is_free_with_its_terminal_frame(stage):
    """The very next line may use the id again, also after a failure."""
    client = await stage.client()
    await client.send(infer("nobody"))
    await client.expect_failed("invalid_request")
    await client.send(infer("nobody"))
    await client.expect_failed("invalid_request")


async def test_too_many_in_flight(stage):
    """What goes beyond `max_in_flight_per_connection` is rejected; another connection has a count of its own."""
    client, other = await stage.client(), await stage.client()
    stage.backend.on("b", plays(0.1, delta("x"), finish(), DONE))
    await client.send(*(infer("b", name) for name in "abcd"))
    await other.infer("b")

    frames = await client.answers(4)

    assert types(frames["d"]) == ["rejected"]
    assert frames["d"][0]["error"]["kind"] == "budget_exceeded"
    assert [frames[name][-1]["type"] for name in "abc"] == ["completed"] * 3
    assert (await other.answer())[-1]["type"] == "completed"


# --- status ---


async def test_status(stage):
    """One frame with exactly the fields of the contract, counting what is going on."""
    client = await stage.client()
    stage.backend.on("b", plays(delta("x"), 10.0))
    before = await stage.status("b")
    await client.infer("b")
    await stage.backend.request("b")

    frame = await stage.house.watcher.status()

    counts = {"type", "protocol", "version", "pid", "uptime_ms", "connections", "in_flight"}
    assert counts | {"backends", "clients", "reloads"} == set(frame)
    assert (1, stage.daemon.pid, 2, 1) == tuple(frame[k] for k in ("protocol", "pid", "connections", "in_flight"))
    assert list(BACKENDS) == [backend["id"] for backend in frame["backends"]]
    assert frame["backends"][0] == {
        "id": "b",
        "dialect": "openai_compatible",
        "default_model": "fake-model",
        "in_flight": 1,
        "max_concurrency": 8,
        "queued": 0,
        "breaker": "closed",
        "requests": before["requests"] + 1,
        "failures": before["failures"],
        "used_tokens": before["used_tokens"],
        "output_tokens": before["output_tokens"],
        "cost_usd": before["cost_usd"],
    }
