"""`AttemptTimer`: each timer alone fires, names itself, and leaves cancellation from outside alone."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from beluna_gateway.config.settings import Reliability
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.timers import AttemptTimer

from ..fakes.clock import VirtualLoop, virtual_time

LONG = 60_000


def settings(**shorter: int) -> Reliability:
    long: Any = dict.fromkeys(("connect_timeout_ms", "request_timeout_ms", "idle_timeout_ms"), LONG)
    return Reliability(**{**long, **shorter})


async def expired(limits: Reliability, attempt: Callable[[AttemptTimer], Awaitable[None]]) -> tuple[str, float]:
    """The message of the timeout that ended `attempt`, and after how many seconds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(GatewayError) as caught, AttemptTimer(limits) as timer:
        await attempt(timer)
    assert (caught.value.kind, caught.value.retryable) == ("timeout", True)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    return caught.value.message, loop.time() - begun


async def forever() -> None:
    await asyncio.get_running_loop().create_future()


@virtual_time
async def test_no_connection():
    """Without a connection `connect_timeout_ms` ends the attempt."""

    async def attempt(timer: AttemptTimer) -> None:
        timer.connecting()
        await forever()

    message, seconds = await expired(settings(connect_timeout_ms=20), attempt)

    assert message == "no connection to the backend within 20 ms (reliability.connect_timeout_ms)"
    assert seconds == pytest.approx(0.02, abs=0.001)


@virtual_time
async def test_no_first_event():
    """With a connection only `request_timeout_ms` runs, counted from the attempt's start."""

    async def attempt(timer: AttemptTimer) -> None:
        timer.connecting()
        await asyncio.sleep(0.03)
        timer.connected()
        await forever()

    message, seconds = await expired(settings(connect_timeout_ms=50, request_timeout_ms=60), attempt)

    assert message == "no first event from the backend within 60 ms (reliability.request_timeout_ms)"
    assert seconds == pytest.approx(0.06, abs=0.001)


@virtual_time
async def test_the_first_event_counts_while_connecting():
    """Where `request_timeout_ms` is the shorter one, it ends the attempt also before there is a connection."""

    async def attempt(timer: AttemptTimer) -> None:
        timer.connecting()
        await forever()

    message, _ = await expired(settings(request_timeout_ms=20), attempt)

    assert "reliability.request_timeout_ms" in message


@virtual_time
async def test_silence():
    """From the first event on `idle_timeout_ms` runs, anew from each further one."""

    pauses: tuple[float, ...] = ()

    async def attempt(timer: AttemptTimer) -> None:
        timer.connecting()
        timer.connected()
        for pause in pauses:
            await asyncio.sleep(pause)
            timer.progressed()
        await forever()

    for pauses in ((0.02, 0.02, 0.02, 0.02), (0.02, 0.04), (0.04, 0.02, 0.049)):
        message, seconds = await expired(settings(idle_timeout_ms=50, request_timeout_ms=70), attempt)

        assert message == "the backend was silent for 50 ms (reliability.idle_timeout_ms)"
        assert seconds == pytest.approx(sum(pauses) + 0.05, abs=0.001)


@virtual_time
async def test_a_client_that_does_not_read_is_no_silence():
    """While suspended no timer runs; afterwards the silence is counted from its end."""

    async def attempt(timer: AttemptTimer) -> None:
        timer.connecting()
        timer.progressed()
        timer.suspended()
        await asyncio.sleep(0.06)
        timer.progressed()
        await forever()

    message, seconds = await expired(settings(idle_timeout_ms=30), attempt)

    assert "reliability.idle_timeout_ms" in message
    assert seconds == pytest.approx(0.09, abs=0.001)


@virtual_time
async def test_a_shorter_limit_than_the_one_that_runs():
    """An idle timeout that ends before the timer that is set fires at its own time."""

    async def attempt(timer: AttemptTimer) -> None:
        timer.connecting()
        timer.connected()
        timer.progressed()
        await forever()

    message, seconds = await expired(settings(idle_timeout_ms=20), attempt)

    assert "idle_timeout_ms" in message
    assert seconds == pytest.approx(0.02, abs=0.001)


@virtual_time
async def test_an_attempt_that_ends_in_time_leaves_no_timer():
    """Leaving the block normally, or by an error of its own, ends all timers."""
    limits = settings(connect_timeout_ms=10, request_timeout_ms=10, idle_timeout_ms=10)
    with AttemptTimer(limits) as timer:
        timer.connecting()
        timer.progressed()
    await asyncio.sleep(1)

    async def failing() -> None:
        with AttemptTimer(limits) as timer:
            timer.connecting()
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        await failing()
    await asyncio.sleep(1)


@virtual_time
async def test_without_a_connection_to_make_no_timer_runs():
    """An attempt that never says that it connects is not timed."""
    with AttemptTimer(settings(connect_timeout_ms=1, request_timeout_ms=1)):
        await asyncio.sleep(0.01)


@virtual_time
async def test_cancellation_stays_cancellation():
    """A cancel from outside leaves the block as what it is, also where it meets the timeout."""
    entered = asyncio.Event()

    async def attempt(milliseconds: int) -> None:
        with AttemptTimer(settings(connect_timeout_ms=milliseconds)) as timer:
            timer.connecting()
            entered.set()
            await forever()

    plain = asyncio.create_task(attempt(LONG))
    await entered.wait()
    plain.cancel()
    await asyncio.wait([plain])
    assert plain.cancelled()

    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    both = asyncio.create_task(attempt(1))
    await asyncio.sleep(0)
    loop.call_later(0.001, both.cancel)
    loop.now += 0.005  # both are due in the same turn of the loop
    await asyncio.wait([both])
    assert both.cancelled()


@virtual_time
async def test_an_outer_timeout_is_not_taken_for_ours():
    """`asyncio.timeout` around the block still works, and the block's own error does not hide it."""

    async def attempt() -> None:
        async with asyncio.timeout(0.01):
            with AttemptTimer(settings()) as timer:
                timer.connecting()
                await forever()

    with pytest.raises(TimeoutError):
        await attempt()


@virtual_time
async def test_a_stream_of_events_sets_few_timers():
    """A thousand events in a thousand moments cost a handful of the loop's timers."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    with AttemptTimer(settings()) as timer:
        timer.connecting()
        timer.connected()
        timer.progressed()
        before = loop.timers_set
        for _ in range(1000):
            loop.now += 0.05
            timer.progressed()
            await asyncio.sleep(0)

        assert loop.timers_set - before <= 1
