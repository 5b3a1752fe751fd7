"""The timers: each fires alone, names itself, waits for what can be read, and leaves other cancellations alone."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import uvloop

from beluna_gateway.config.settings import Reliability
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.timers import (
    LAST_POLLS,
    PAUSE_SECONDS,
    ROUNDING_SECONDS,
    AttemptTimer,
    Deadlines,
    TotalTimer,
)

from ..fakes.clock import VirtualLoop, virtual_time

LONG = 60_000


def settings(**shorter: int) -> Reliability:
    long: Any = dict.fromkeys(("connect_timeout_ms", "request_timeout_ms", "idle_timeout_ms"), LONG)
    return Reliability(**{**long, **shorter})


async def expired(
    limits: Reliability, attempt: Callable[[AttemptTimer], Awaitable[None]], cancelling: int = 0
) -> tuple[str, float]:
    """The message of the timeout that ended `attempt`, and after how many seconds."""
    loop = asyncio.get_running_loop()
    begun = loop.time()
    with pytest.raises(GatewayError) as caught, AttemptTimer(Deadlines(), limits) as timer:
        await attempt(timer)
    assert (caught.value.kind, caught.value.retryable) == ("timeout", True)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == cancelling
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
    with AttemptTimer(Deadlines(), limits) as timer:
        timer.connecting()
        timer.progressed()
    await asyncio.sleep(1)

    async def failing() -> None:
        with AttemptTimer(Deadlines(), limits) as timer:
            timer.connecting()
            raise ValueError("own")

    with pytest.raises(ValueError, match="own"):
        await failing()
    await asyncio.sleep(1)


@virtual_time
async def test_without_a_connection_to_make_no_timer_runs():
    """An attempt that never says that it connects is not timed."""
    with AttemptTimer(Deadlines(), settings(connect_timeout_ms=1, request_timeout_ms=1)):
        await asyncio.sleep(0.01)


@virtual_time
async def test_cancellation_stays_cancellation():
    """A cancel from outside leaves the block as what it is, also where it meets the timeout."""
    entered = asyncio.Event()

    async def attempt(milliseconds: int) -> None:
        with AttemptTimer(Deadlines(), settings(connect_timeout_ms=milliseconds)) as timer:
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
    for turns in range(LAST_POLLS + 2):  # the last ones: in the turn in which the timer cancels, and in the one after
        both = asyncio.create_task(attempt(1))
        await asyncio.sleep(0)
        loop.now += 0.005
        for _ in range(turns):
            await asyncio.sleep(0)
        both.cancel()
        await asyncio.wait([both])
        assert both.cancelled() or turns > LAST_POLLS


@virtual_time
async def test_an_outer_timeout_is_not_taken_for_ours():
    """`asyncio.timeout` around the block still works, and the block's own error does not hide it."""

    async def attempt() -> None:
        async with asyncio.timeout(0.01):
            with AttemptTimer(Deadlines(), settings()) as timer:
                timer.connecting()
                await forever()

    with pytest.raises(TimeoutError):
        await attempt()


@pytest.mark.parametrize(
    ("total", "connect", "name"),
    [(10, 50, "max_request_time_ms"), (50, 10, "connect_timeout_ms"), (10, 10, "max_request_time_ms")],
    ids=["outer first", "inner first", "both in one turn"],
)
def test_timers_inside_each_other(total: int, connect: int, name: str):
    """The one whose time is over names itself; where both are due at once, the request's total time is what counts."""

    async def request() -> None:
        deadlines = Deadlines()
        with (
            TotalTimer(deadlines, total / 1000),
            AttemptTimer(deadlines, settings(connect_timeout_ms=connect)) as timer,
        ):
            timer.connecting()
            await forever()

    @virtual_time
    async def run() -> None:
        with pytest.raises(GatewayError, match=name) as caught:
            await request()

        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        assert caught.value.retryable == (name != "max_request_time_ms")
        await asyncio.sleep(1)

    run()


@virtual_time
async def test_a_total_time_outlives_the_attempts_inside_it():
    """An attempt that timed out leaves the request's own timer running, which ends a later attempt."""
    ended: list[str] = []
    deadlines = Deadlines()

    async def attempt(milliseconds: int) -> None:
        with AttemptTimer(deadlines, settings(connect_timeout_ms=milliseconds)) as timer:
            timer.connecting()
            await forever()

    async def request() -> None:
        with TotalTimer(deadlines, 0.05):
            try:
                await attempt(20)
            except GatewayError as error:
                ended.append(error.message)
            await attempt(1000)

    with pytest.raises(GatewayError, match="max_request_time_ms"):
        await request()
    assert len(ended) == 1
    assert "connect_timeout_ms" in ended[0]


@virtual_time
async def test_a_timer_that_fires_while_suspended():
    """It does nothing, sets no other timer, and `progressed` starts the count anew."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    set_meanwhile: list[int] = []

    async def attempt(timer: AttemptTimer) -> None:
        timer.connecting()
        timer.progressed()
        timer.suspended()
        before = loop.timers_set
        await asyncio.sleep(0.2)
        set_meanwhile.append(loop.timers_set - before)
        timer.progressed()
        await forever()

    message, seconds = await expired(settings(idle_timeout_ms=30), attempt)

    assert set_meanwhile == [1]  # the sleep's own
    assert "idle_timeout_ms" in message
    assert seconds == pytest.approx(0.23, abs=0.001)


@virtual_time
async def test_a_cancellation_from_before_is_none_of_the_blocks():
    """A task that was cancelled once and went on (to clean up, say) still gets a timeout as what it is."""

    async def cleaning_up() -> str:
        try:
            await forever()
        except asyncio.CancelledError:
            return (await expired(settings(connect_timeout_ms=20), connect, cancelling=1))[0]
        return "not cancelled"

    async def connect(timer: AttemptTimer) -> None:
        timer.connecting()
        await forever()

    task = asyncio.create_task(cleaning_up())
    await asyncio.sleep(0)
    task.cancel()

    assert "connect_timeout_ms" in await task


@virtual_time
async def test_suspended_at_the_last_moment():
    """A deadline that has passed has no effect if the gateway stops waiting for the backend before it takes effect."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    with AttemptTimer(Deadlines(), settings(idle_timeout_ms=30)) as timer:
        timer.connecting()
        timer.progressed()
        await asyncio.sleep(0)
        loop.now += 1
        await asyncio.sleep(0)
        timer.suspended()
        await asyncio.sleep(1)


class Reader(asyncio.Protocol):
    """Wakes whoever waits for the next bytes."""

    def __init__(self) -> None:
        self.came = asyncio.Event()

    def data_received(self, data: bytes) -> None:
        self.came.set()


@pytest.mark.parametrize("new_loop", [asyncio.SelectorEventLoop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
@pytest.mark.parametrize("timed", ["connect_timeout_ms", "idle_timeout_ms", "max_request_time_ms"])
def test_what_waits_is_read_before_a_timer_has_its_effect(new_loop: Any, timed: str):
    """The process stands still until long after the deadline, and what came meanwhile counts: also where a task hands
    it to another one.
    """

    async def run() -> None:
        loop = asyncio.get_running_loop()
        ours, theirs = socket.socketpair()
        transport, protocol = await loop.create_connection(Reader, sock=ours)
        limits = settings(**({timed: 50} if timed != "max_request_time_ms" else {}))
        handed_on = asyncio.Event()
        deadlines = Deadlines()

        async def hand_on() -> None:
            await protocol.came.wait()
            handed_on.set()

        helper = asyncio.create_task(hand_on())
        try:
            total = 0.05 if timed == "max_request_time_ms" else 60
            with TotalTimer(deadlines, total), AttemptTimer(deadlines, limits) as timer:
                timer.connecting()
                if timed == "idle_timeout_ms":
                    timer.progressed()
                await asyncio.sleep(0)
                time.sleep(0.2)  # the process is stopped
                theirs.sendall(b"x")
                await handed_on.wait()
                timer.progressed()
            await helper
        finally:
            transport.close()
            theirs.close()
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=new_loop) as runner:
        runner.run(run())


@virtual_time
async def test_a_stream_of_events_sets_few_timers():
    """A thousand events in a thousand moments cost a handful of the loop's timers."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    with AttemptTimer(Deadlines(), settings()) as timer:
        timer.connecting()
        timer.connected()
        timer.progressed()
        before = loop.timers_set
        for _ in range(1000):
            loop.now += 0.05
            timer.progressed()
            await asyncio.sleep(0)

        assert loop.timers_set - before <= 1


@virtual_time
async def test_requests_that_end_in_time_share_one_timer_of_the_loop():
    """A thousand requests after one another, and a thousand at once, cost the event loop a handful of timers."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    deadlines = Deadlines()

    def request() -> AbstractContextManager[object]:
        stack = ExitStack()
        stack.enter_context(TotalTimer(deadlines, 60))
        stack.enter_context(AttemptTimer(deadlines, settings())).connected()
        return stack

    before = loop.timers_set
    for _ in range(1000):
        loop.now += 0.01
        with request():
            pass
    with ExitStack() as together:
        for _ in range(1000):
            together.enter_context(request())

    assert loop.timers_set - before <= 2
    assert not deadlines.open
    deadlines.close()


@virtual_time
async def test_each_of_many_deadlines_takes_effect_at_its_time():
    """Also the shorter one that comes after a longer one; those that are due in one moment of `PAUSE_SECONDS` may wait
    for its end, so that a thousand of them do not cost a thousand looks at all of them.
    """
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualLoop)
    deadlines = Deadlines()
    ended: dict[int, float] = {}

    async def request(milliseconds: int) -> None:
        with pytest.raises(GatewayError, match=f"within {milliseconds} ms"), TotalTimer(deadlines, milliseconds / 1000):
            await forever()
        ended[milliseconds] = loop.time()

    begun, before = loop.time(), loop.timers_set
    await asyncio.gather(request(1000), *map(request, range(200, 600)), request(20))

    late = [seconds - begun - milliseconds / 1000 for milliseconds, seconds in ended.items()]
    assert len(ended) == 402
    assert min(late) >= -ROUNDING_SECONDS
    assert max(late) <= PAUSE_SECONDS + 0.001
    assert ended[20] - begun == pytest.approx(0.02, abs=0.001)
    assert loop.timers_set - before <= 0.4 / PAUSE_SECONDS + 5


@virtual_time
async def test_a_gateway_that_has_ended_leaves_no_timer():
    """`Deadlines.close` ends the one timer of the loop."""
    loop = asyncio.get_running_loop()
    deadlines = Deadlines()
    looked: list[float] = []
    with AttemptTimer(deadlines, settings(request_timeout_ms=10)) as timer:
        timer.due = lambda: looked.append(loop.time())  # type: ignore[method-assign]
        timer.connected()
        deadlines.close()
        await asyncio.sleep(1)

    assert deadlines.next_look == float("inf")
    assert not looked
