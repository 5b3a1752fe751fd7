"""The gateway inside of another program: `infer_stream` and `infer_once`."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from structlog.testing import capture_logs

from beluna_gateway.canonical import OutputTextDelta, Started, ToolCall, ToolCallReady, Usage, UsageStats
from beluna_gateway.errors import GatewayError
from beluna_gateway.event_stream import HIGH_WATER, InferenceResult
from beluna_gateway.gateway import AIGateway, new_request_id
from beluna_gateway.wire.frames import Infer

from .fakes.adapter import END, SILENCE, stage, text, transient
from .fakes.clock import virtual_time

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}]}]}


@virtual_time
async def test_a_stream_of_events():
    """Every event, in order, and the iteration ends after the last one."""
    async with stage(text("a", "b")) as played, played.gateway.infer_stream(REQUEST) as events:
        assert [event async for event in events] == [Started("b", "m"), OutputTextDelta("a"), OutputTextDelta("b"), END]


@virtual_time
async def test_a_whole_answer():
    """Text, calls, usage and the end in one result; fields or a frame may be given."""
    call = ToolCall("c", "t", "{}", {})
    async with stage([OutputTextDelta("a"), ToolCallReady(call), Usage(UsageStats(1, 2)), END]) as played:
        expected = InferenceResult("a", "", (call,), UsageStats(1, 2), "stop", {})

        assert await played.gateway.infer_once(REQUEST) == expected
        assert await played.gateway.infer_once(Infer.model_validate({"type": "infer", **REQUEST})) == expected


@virtual_time
async def test_a_failure_is_raised():
    """What fails, fails as the one exception; so does a request of the wrong shape, which names its mistake."""
    async with stage([GatewayError("backend_permanent", "no")]) as played:
        with pytest.raises(GatewayError, match="no") as caught:
            await played.gateway.infer_once(REQUEST)
        assert caught.value.backend_id == "b"
        with pytest.raises(GatewayError, match="messages") as caught:
            await played.gateway.infer_once({"messages": "hello"})
        assert caught.value.kind == "invalid_request"


@virtual_time
async def test_a_request_without_an_id_gets_one():
    """Each gets its own UUIDv7; one that has an id keeps it."""
    async with stage() as played:
        await played.gateway.infer_once(REQUEST)
        await played.gateway.infer_once({**REQUEST, "request_id": "mine"})
    made, kept = (record.request_id for record in played.records)

    assert (len(made), made[14], kept) == (36, "7", "mine")
    assert new_request_id() != new_request_id()


@pytest.mark.parametrize("after", [0, 1, 2])
def test_leaving_the_block_is_the_cancel(after: int):
    """Whoever walks away before the end has nothing left running, however far it was."""

    @virtual_time
    async def run() -> None:
        async with stage([OutputTextDelta("a"), SILENCE]) as played:
            async with played.gateway.infer_stream(REQUEST) as events:
                for _ in range(after):
                    await anext(events)
            played.assert_free()
            assert [record.outcome for record in played.records] == ["cancelled"]

    run()


@virtual_time
async def test_a_cancelled_program_cancels_its_requests():
    """`infer_once` that is cancelled leaves nothing behind, also while it waits for another attempt."""
    async with stage([transient(retry_after_ms=10_000)]) as played:
        asking = asyncio.create_task(played.gateway.infer_once(REQUEST))
        await asyncio.sleep(1)
        asking.cancel()
        await asyncio.wait([asking])

        assert asking.cancelled()
        played.assert_free()


@virtual_time
async def test_the_backend_is_not_read_faster_than_the_events_are_taken():
    """A program that takes its time holds a bounded number of events."""
    keys: Any = {"budget": {"max_request_time_ms": 10**9}}
    taken = 0
    async with (
        stage([OutputTextDelta("x")] * 2000 + [END], **keys) as played,
        played.gateway.infer_stream(REQUEST) as events,
    ):
        async for _ in events:
            taken += 1
            if taken % 100 == 1:
                await asyncio.sleep(1)
                assert len(events._events) <= HIGH_WATER

    assert taken == 2002


@virtual_time
@pytest.mark.parametrize("request_", [None, "hello", 5, [], [("messages", [])], ["messages"], b"{}"], ids=repr)
async def test_what_is_no_mapping_is_a_wrong_request(request_: Any):
    """Whatever a program passes in place of a request is refused as one, by the one exception."""
    async with stage() as played:
        for method in (played.gateway.infer_once, played.gateway.embed, played.gateway.count_tokens):
            with pytest.raises(GatewayError, match=r"the request: found a .*, expected a mapping") as caught:
                await method(request_)
            assert caught.value.kind == "invalid_request"


def test_a_gateway_belongs_to_its_event_loop():
    """In another one it says so, and nothing is begun."""
    gateways: list[AIGateway] = []

    async def make() -> None:
        async with stage() as played:
            gateways.append(played.gateway)

    async def use() -> None:
        with pytest.raises(GatewayError, match="another event loop"):
            await gateways[0].infer_once(REQUEST)
        with pytest.raises(GatewayError, match="another event loop"):
            await gateways[0].models()

    asyncio.run(make())
    asyncio.run(use())


@virtual_time
async def test_a_gateway_whose_block_has_been_left():
    """It serves nothing any more, and starts no program again."""
    async with stage() as played:
        pass
    for method in (played.gateway.infer_once, played.gateway.count_tokens):
        with pytest.raises(GatewayError, match="the gateway is closed") as caught:
            await method(REQUEST)
        assert (caught.value.kind, caught.value.retryable) == ("internal", True)
    assert played.records == []


async def test_the_log_of_a_bug_has_no_prompt():
    """Only the text of its traceback: a program's own log may show the local variables of an exception."""
    with capture_logs() as logged:
        async with stage([ValueError("a bug")]) as played:
            with pytest.raises(GatewayError, match="a bug in the gateway"):
                await played.gateway.infer_once(
                    {"messages": [{"role": "user", "parts": [{"text": {"text": "PROMPT"}}]}]}
                )
    (line,) = (line for line in logged if line["event"] == "bug")

    assert "exc_info" not in line
    assert line["exception"].endswith("ValueError: a bug\n")
    assert "PROMPT" not in str(line)
