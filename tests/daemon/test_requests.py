"""What a request gets: its frames in order, `rejected` or `failed`, and company on the same connection."""

from __future__ import annotations

import asyncio
import json

import pytest

from tests.fakes.answers import DONE, delta, finish, plays, text, tool_delta, usage, whole
from tests.fakes.client import Frame, infer, said, user

pytestmark = pytest.mark.asyncio(loop_scope="module")

BACKENDS = {
    "b": {},
    "no-secret": {"credential": {"type": "env", "var": "BELUNA_TEST_UNSET"}},
    "frugal": {"budget": {"max_usage_tokens_per_request": 10}},
    "plain": {"capabilities": {"tool_calls": False, "json_mode": False, "vision": False, "streaming": False}},
}
SETTINGS = {"server": {"max_in_flight_per_connection": 3}}


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


# --- rejected ---

TOOL = {"name": "look", "input_schema": {"type": "object"}}


@pytest.mark.parametrize(
    "fields",
    [
        {"extra": 1},
        {"messages": None},
        {"messages": {}},
        {"messages": [{"role": "user", "parts": None}]},
        {"messages": [{"role": "User", "parts": []}]},
        {"messages": [{"role": "user"}]},
        {"messages": [{"role": "user", "parts": [], "extra": 1}]},
        {"messages": [{"role": "user", "parts": [{"text": "hello"}]}]},
        {"messages": [{"role": "user", "parts": [{"type": "text", "text": "hello"}]}]},
        {"messages": [{"role": "user", "parts": [{"text": {"text": "a"}, "json": {"value": 1}}]}]},
        {"messages": [{"role": "user", "parts": [{"text": {"text": "a", "extra": 1}}]}]},
        {"messages": [{"role": "user", "parts": [{"text": {"text": 1}}]}]},
        {"messages": [{"role": "user", "parts": [{"json": {}}]}]},
        {"messages": [{"role": "user", "parts": [{"audio": {}}]}]},
        {"messages": [{"role": "assistant", "parts": [], "tool_calls": [{"id": "1", "name": "n"}]}]},
        {"messages": [{"role": "assistant", "parts": [], "provider_state": []}]},
        {"tools": None},
        {"tools": [{"name": "x"}]},
        {"tools": [{**TOOL, "input_schema": []}]},
        {"tools": [{**TOOL, "strict": True}]},
        {"tool_choice": None},
        {"tool_choice": "any"},
        {"tool_choice": {"specific": "look"}},
        {"tool_choice": {"specific": {"name": "look"}, "other": 1}},
        {"output_mode": None},
        {"output_mode": "json"},
        {"output_mode": {"json_schema": {"name": "x"}}},
        {"limits": None},
        {"limits": {"max_output_tokens": 0}},
        {"limits": {"max_output_tokens": -1}},
        {"limits": {"max_output_tokens": 1.0}},
        {"limits": {"max_output_tokens": "1"}},
        {"limits": {"max_output_tokens": True}},
        {"limits": {"max_request_time_ms": 0}},
        {"limits": {"tokens": 1}},
        {"metadata": None},
        {"metadata": {"a": 1}},
        {"stream": None},
        {"stream": 1},
        {"stream": "true"},
        {"sampling": {"temperature": "hot"}},
        {"sampling": {"stop": "x"}},
        {"sampling": {"seed": 1.5}},
        {"sampling": {"top_k": 1}},
        {"enable_thinking": 1},
        {"include_reasoning": None},
        {"provider_options": []},
        {"backend_id": 1},
        {"model": 1},
    ],
    ids=json.dumps,
)
async def test_what_a_schema_can_say_is_rejected(stage, fields):
    """A frame of the wrong shape is no request: `rejected` alone, with its id, and nothing reaches a backend."""
    client = await stage.client()
    stage.backend.on("b", text("not to be seen"))
    await client.send({**infer("b"), **fields})

    frame = await client.expect("rejected", "r")

    assert tuple(frame["error"][k] for k in ("kind", "retryable", "backend_id")) == ("invalid_request", False, None)
    assert next(iter(fields)) in frame["error"]["message"]
    await client.expect_nothing(0.005)
    assert stage.backend.requests("b") == []


@pytest.mark.parametrize("request_id", ["", "x" * 129, 1, ["r"]], ids=repr)
async def test_an_id_that_is_none_is_rejected_without_one(stage, request_id):
    """An id that breaks its own rule cannot name the refusal."""
    client = await stage.client()
    await client.send({**infer("b"), "request_id": request_id})

    assert (await client.expect("rejected"))["request_id"] is None


# --- failed ---


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "user", "parts": []}]}, "messages[0].parts"),
        ({"messages": [{"role": "assistant", "parts": []}]}, "messages[0].parts"),
        ({"messages": [{"role": "tool", "parts": [{"text": {"text": "x"}}]}]}, "tool_call_id"),
        ({"messages": [{**user()[0], "tool_call_id": "1"}]}, "tool_call_id"),
        ({"messages": [{**user()[0], "tool_name": "x"}]}, "tool_name"),
        ({"messages": [{**user()[0], "tool_calls": []}]}, "tool_calls"),
        ({"messages": [{**user()[0], "provider_state": {}}]}, "provider_state"),
        ({"messages": [{"role": "user", "parts": [{"image_url": {"url": "file:///etc/passwd"}}]}]}, "url"),
        ({"messages": [{"role": "user", "parts": [{"image_url": {"url": "ftp://host/x"}}]}]}, "url"),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "parts": [],
                        "tool_calls": [{"id": "1", "name": "look", "arguments_json": "[]"}],
                    }
                ]
            },
            "arguments_json",
        ),
        (
            {
                "messages": [
                    {
                        "role": "assistant",
                        "parts": [],
                        "tool_calls": [{"id": "1", "name": "look", "arguments_json": "{}"}],
                    },
                    {"role": "tool", "parts": [{"text": {"text": "x"}}], "tool_call_id": "2", "tool_name": "look"},
                ]
            },
            "messages[1].tool_call_id",
        ),
        (
            {
                "messages": [
                    {
                        "role": "tool",
                        "parts": [{"image_url": {"url": "https://host/x"}}],
                        "tool_call_id": "1",
                        "tool_name": "look",
                    }
                ]
            },
            "image_url",
        ),
        ({"tools": [TOOL, TOOL]}, "tools[1].name"),
        ({"tools": [{**TOOL, "input_schema": {"$ref": "#"}}]}, "unsupported keyword"),
        ({"tools": [{**TOOL, "input_schema": {"type": "nothing"}}]}, "tools[0].input_schema"),
        ({"tool_choice": {"specific": {"name": "look"}}}, "tool_choice"),
        ({"output_mode": {"json_schema": {"name": "x", "schema": {"type": 1}}}}, "output_mode"),
        ({"backend_id": "nobody"}, "nobody"),
        ({"backend_id": ""}, "backend_id"),
        ({"provider_options": {"stream": False}}, "provider_options.stream"),
        ({"provider_options": {"messages": []}}, "provider_options.messages"),
        ({"provider_options": {"stream_options": {"include_usage": False}}}, "provider_options.stream_options"),
    ],
)
async def test_what_takes_understanding_fails(stage, fields, named):
    """`failed` alone, kind `invalid_request`, naming the place; nothing reaches a backend."""
    client = await stage.client()
    stage.backend.on("b", text("not to be seen"))
    await client.send({**infer("b"), **fields})

    frame = await client.expect("failed", "r")

    assert frame["error"]["kind"] == "invalid_request"
    assert named in frame["error"]["message"]
    assert stage.backend.requests("b") == []


@pytest.mark.parametrize(
    ("backend_id", "fields", "kind", "named"),
    [
        ("no-secret", {}, "authentication", "BELUNA_TEST_UNSET"),
        ("frugal", {"limits": {"max_output_tokens": 11}}, "budget_exceeded", "max_output_tokens"),
        ("plain", {"tools": [TOOL], "stream": False}, "unsupported_capability", "tool"),
        ("plain", {"output_mode": "json_object", "stream": False}, "unsupported_capability", "json"),
        ("plain", {}, "unsupported_capability", "stream"),
        ("b", {"enable_thinking": True}, "unsupported_capability", "enable_thinking"),
    ],
)
async def test_refused_before_dispatch_is_failed_alone(stage, backend_id, fields, kind, named):
    """Credential, budget and capability end in `failed` without `started`, and name the backend."""
    client = await stage.client()
    await client.infer(backend_id, **fields)

    error = (await client.expect("failed", "r"))["error"]

    assert (kind, False, backend_id) == (error["kind"], error["retryable"], error["backend_id"])
    assert named in error["message"]
    assert stage.backend.requests(backend_id) == []


async def test_provider_options_are_merged(stage):
    """Objects are merged at every depth, everything else is added as it is."""
    client = await stage.client()
    stage.backend.on("b", text("x"))
    await client.infer("b", provider_options={"top_k": 5, "stream_options": {"extra": [1]}, "deep": {"er": None}})
    await client.answer()

    body = stage.backend.requests("b")[0].json()
    assert body["stream_options"] == {"include_usage": True, "extra": [1]}
    assert (body["top_k"], body["deep"]) == (5, {"er": None})


# --- status ---


async def test_status(stage):
    """One frame with exactly the fields of the contract, counting what is going on."""
    client = await stage.client()
    stage.backend.on("b", plays(delta("x"), 10.0))
    before = await stage.status("b")
    await client.infer("b")
    await stage.backend.request("b")

    frame = await stage.house.watcher.status()

    assert {"type", "protocol", "version", "pid", "uptime_ms", "connections", "in_flight", "backends"} == set(frame)
    assert (1, stage.daemon.pid, 2, 1) == tuple(frame[k] for k in ("protocol", "pid", "connections", "in_flight"))
    assert list(BACKENDS) == [backend["id"] for backend in frame["backends"]]
    assert frame["backends"][0] == {
        "id": "b",
        "dialect": "openai_compatible",
        "default_model": "fake-model",
        "in_flight": 1,
        "queued": 0,
        "breaker": "closed",
        "requests": before["requests"] + 1,
        "failures": before["failures"],
    }
