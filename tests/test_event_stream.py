"""`EventStream` and `collect`: a request's events for a Python program."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.canonical import (
    Annotation,
    Completed,
    Failed,
    GatewayEvent,
    OutputTextDelta,
    ReasoningDelta,
    Started,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    Usage,
    UsageStats,
)
from beluna_gateway.errors import GatewayError
from beluna_gateway.event_stream import HIGH_WATER, EventStream, InferenceResult, collect

CITED = Annotation("url_citation", {}, url="https://h/", start=0, end=1)
CALL = ToolCall("c", "t", "{}", {})


def stream_of(*events: GatewayEvent) -> EventStream:
    stream = EventStream()
    if events:
        stream.write(events)
    stream.close()
    return stream


async def test_events_come_in_order_and_end():
    """What is written is read, in its order; a closed stream ends once it is empty."""
    events: list[GatewayEvent] = [Started("b", "m"), OutputTextDelta("a"), Completed("stop", {})]

    assert events == [event async for event in stream_of(*events)]
    assert [event async for event in stream_of()] == []


async def test_a_reader_waits_for_events():
    """Reading before anything is there waits, and is woken by a write and by the end."""
    stream = EventStream()
    reader = asyncio.ensure_future(collect_all(stream))
    await asyncio.sleep(0)
    stream.write([OutputTextDelta("a")])
    await asyncio.sleep(0)
    stream.write([OutputTextDelta("b")])
    stream.close()

    assert await reader == [OutputTextDelta("a"), OutputTextDelta("b")]


async def collect_all(stream: EventStream) -> list[GatewayEvent]:
    return [event async for event in stream]


@given(st.integers(1, 3 * HIGH_WATER))
async def test_the_backend_is_not_read_faster_than_the_program_reads(batch: int):
    """Beyond the high water mark the stream is blocked, until half of it has been read."""
    stream = EventStream()
    stream.write([OutputTextDelta("x")] * batch)
    assert stream.blocked == (batch >= HIGH_WATER)
    waiting = asyncio.ensure_future(stream.drained())
    await asyncio.sleep(0)
    assert waiting.done() != stream.blocked
    left = batch
    while stream.blocked:
        await anext(stream)
        left -= 1
    await waiting

    assert left == (batch if batch < HIGH_WATER else HIGH_WATER // 2 - 1)


async def test_a_whole_answer():
    """Text and reasoning are joined, finished calls, usage and the end are kept; deltas of calls are not."""
    result = await collect(
        stream_of(
            Started("b", "m"),
            ReasoningDelta("h"),
            OutputTextDelta("a"),
            ReasoningDelta("m"),
            ToolCallDelta("c", "t", "{}"),
            ToolCallReady(CALL),
            OutputTextDelta("b"),
            CITED,
            Usage(UsageStats(1, 2)),
            Completed("tool_calls", {"model": "m-1"}),
        )
    )

    assert result == InferenceResult("ab", "hm", (CALL,), UsageStats(1, 2), "tool_calls", {"model": "m-1"}, (CITED,))


async def test_a_failure_is_raised():
    """`Failed` becomes the exception that it holds, whatever came before it."""
    error = GatewayError("backend_transient", "cut off")
    with pytest.raises(GatewayError) as caught:
        await collect(stream_of(Started("b", "m"), OutputTextDelta("a"), Failed(error)))

    assert caught.value is error


async def test_a_stream_without_an_end_is_a_cancelled_request():
    """The gateway ends every request; only one that was cancelled leaves its stream without an end."""
    with pytest.raises(asyncio.CancelledError):
        await collect(stream_of(Started("b", "m")))
