"""One request and its attempts: what is tried again, what time and the breaker say to it. Time is virtual."""

from __future__ import annotations

import asyncio
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beluna_gateway.canonical import Completed, Failed, OutputTextDelta, ReasoningDelta, Started
from beluna_gateway.errors import GatewayError

from .fakes.adapter import END, SILENCE, Client, Stage, stage, text, transient
from .fakes.clock import virtual_time

STARTED = Started("b", "m")


def now() -> float:
    return asyncio.get_running_loop().time()


# --- attempts ------------------------------------------------------------------------------------------------


@virtual_time
async def test_a_failure_before_output_is_tried_again():
    """`Started` comes once, nothing of the failed attempt is seen, and the waits are those of the rule."""
    async with stage([transient()], [0.0, transient()], text("ok")) as played:
        begun = now()
        assert await played.ask() == [STARTED, OutputTextDelta("ok"), END]

        assert 0.8 * (0.2 + 0.4) <= now() - begun <= 1.2 * (0.2 + 0.4) + 0.01
        assert played.records[0].attempts == 3


@virtual_time
async def test_reasoning_that_nobody_sees_is_no_output():
    """A thought that the client did not ask for does not stand in the way of another attempt; one it sees does."""
    thinking: list[Any] = [ReasoningDelta("hm"), transient()]
    async with stage(thinking, text("ok")) as played:
        assert await played.ask() == [STARTED, OutputTextDelta("ok"), END]
    async with stage(thinking, text("ok")) as played:
        before, error = await played.failure(include_reasoning=True)

        assert (before, error.kind, played.adapter.begun) == ([STARTED, ReasoningDelta("hm")], "backend_transient", 1)


@virtual_time
async def test_a_retry_after_past_the_deadline_fails_at_once():
    """Who cannot wait so long is told so, and for how long it would have been."""
    async with stage([transient(retry_after_ms=46_000)]) as played:
        begun = now()
        before, error = await played.failure()

        assert (before, error.retry_after_ms, played.adapter.begun) == ([STARTED], 46_000, 1)
        assert now() - begun < 0.01


_ends = st.sampled_from(["done", "transient", "permanent", "bug", "cut"])
_scripts = st.lists(st.tuples(st.lists(st.sampled_from(["", "a", "b"]), max_size=3), _ends), min_size=1, max_size=6)


@given(_scripts, st.integers(0, 3), st.booleans())
@settings(max_examples=40)
def test_attempts_are_bounded_and_nothing_is_said_twice(
    scripts: list[tuple[list[str], str]], max_retries: int, stream: bool
):
    """Never more than 1 + max_retries attempts, none after output; and the client's text is that of one attempt."""
    ends: dict[str, Any] = {
        "done": END,
        "transient": transient(),
        "permanent": GatewayError("invalid_request", "no"),
        "bug": ValueError(),
    }
    played_scripts = [[*map(OutputTextDelta, pieces), *([ends[end]] if end in ends else [])] for pieces, end in scripts]

    @virtual_time
    async def run() -> None:
        async with stage(
            *played_scripts, reliability={"max_retries": max_retries, "breaker_failure_threshold": 99}
        ) as played:
            events = await played.ask(stream=stream)
            begun = played.adapter.begun

        said = "".join(event.delta for event in events if isinstance(event, OutputTextDelta))
        tried = [scripts[min(number, len(scripts) - 1)] for number in range(begun)]
        assert 1 <= begun <= 1 + max_retries
        assert all("".join(pieces) == "" and end == "transient" for pieces, end in tried[:-1])
        assert said == "".join(tried[-1][0])
        assert events[0] == STARTED
        assert events.count(STARTED) == 1
        assert isinstance(events[-1], Completed if tried[-1][1] == "done" else Failed)
        assert sum(isinstance(event, Completed | Failed) for event in events) == 1

    run()


# --- time ----------------------------------------------------------------------------------------------------


@virtual_time
async def test_the_total_time():
    """A request ends when its time is over, whatever the backend does; it is not retryable and no failure of its."""
    drip = [step for _ in range(100) for step in (1.0, OutputTextDelta("x"))]
    keys: Any = {"budget": {"max_request_time_ms": 5000}, "reliability": {"breaker_failure_threshold": 1}}
    async with stage(drip, **keys) as played:
        begun = now()
        before, error = await played.failure()

        assert (error.kind, error.retryable) == ("timeout", False)
        assert error.message == "the request did not end within 5000 ms (max_request_time_ms)"
        assert now() - begun == pytest.approx(5, abs=0.01)
        assert len(before) == 5
        assert played.backend.breaker.state == "closed"
        _, error = await played.failure(limits={"max_request_time_ms": 700})
        assert "700 ms" in error.message


@virtual_time
async def test_time_over_while_waiting_for_a_place():
    """Who never got its place was never started: `Failed` alone."""
    async with stage([SILENCE], budget={"max_concurrency_per_backend": 1}) as played:
        first = played.begin(Client())
        await asyncio.sleep(1)
        before, error = await played.failure(limits={"max_request_time_ms": 100})

        assert (before, error.kind, error.retryable) == ([], "timeout", False)
        first.cancel()
        await asyncio.wait([first])


@virtual_time
async def test_a_client_that_does_not_read():
    """Its backend is not silent; but the total time runs on, and then everything is freed although it still does not
    read.
    """
    keys: Any = {"budget": {"max_request_time_ms": 60_000}, "reliability": {"idle_timeout_ms": 1000}}
    async with stage(text("a", "b"), **keys) as played:
        slow = Client()
        slow.reading.clear()
        task = played.begin(slow)
        await asyncio.sleep(30)
        slow.reading.set()
        await task
        assert slow.events == [STARTED, OutputTextDelta("a"), OutputTextDelta("b"), END]

        deaf, begun = Client(), now()
        deaf.reading.clear()
        await played.begin(deaf)
        assert now() - begun == pytest.approx(60, abs=0.01)
        assert isinstance(deaf.events[-1], Failed)
        assert "max_request_time_ms" in deaf.events[-1].error.message


@pytest.mark.parametrize(
    ("script", "timer", "attempts"),
    [([SILENCE], "request_timeout_ms", 3), ([OutputTextDelta("a"), SILENCE], "idle_timeout_ms", 1)],
    ids=["no first event", "silence"],
)
def test_a_timer_names_itself(script: list[Any], timer: str, attempts: int):
    """A silent backend is tried again where nothing has been said yet, and counts as a failure each time."""

    @virtual_time
    async def run() -> None:
        keys: Any = {"reliability": {"request_timeout_ms": 100, "idle_timeout_ms": 50, "breaker_failure_threshold": 3}}
        async with stage(script, **keys) as played:
            _, error = await played.failure()

            assert (error.kind, error.retryable, played.adapter.begun) == ("timeout", True, attempts)
            assert timer in error.message
            assert played.backend.breaker.state == ("open" if attempts == 3 else "closed")

    run()


# --- the breaker ---------------------------------------------------------------------------------------------


async def open_circuit(played: Stage) -> None:
    while played.backend.breaker.state == "closed":
        await played.ask()
    played.adapter.begun = 0


@virtual_time
async def test_an_open_circuit_refuses_before_dispatch():
    """`Failed` alone, with the time to come back, and the backend is left in peace."""
    async with stage([transient()], reliability={"breaker_failure_threshold": 4, "breaker_open_ms": 9000}) as played:
        await open_circuit(played)
        before, error = await played.failure()

        assert (before, error.kind, error.retryable, error.backend_id) == ([], "circuit_open", False, "b")
        assert 8000 < (error.retry_after_ms or 0) <= 9000
        assert played.adapter.begun == 0


@virtual_time
async def test_a_circuit_that_opens_ends_who_waits_for_another_attempt():
    """They end at once and with their own last error, not with the breaker's."""
    limits = {"max_retries": 3, "backoff_base_ms": 2000, "breaker_failure_threshold": 3}
    async with stage([transient("first")], [1.0, transient()], reliability=limits) as played:
        begun = now()
        waiting, others = Client(), [Client(), Client()]
        first = played.begin(waiting)
        await asyncio.sleep(0.1)
        rest = [played.begin(client) for client in others]
        await first

        assert now() - begun == pytest.approx(1.1, abs=0.01)
        assert isinstance(waiting.events[-1], Failed)
        assert waiting.events[-1].error.message == "first"
        await asyncio.wait(rest)


@virtual_time
async def test_a_circuit_that_others_opened_refuses_a_retry():
    """A request whose wait ends in the moment in which the circuit opens ends with its own error, too."""
    limits = {"max_retries": 3, "backoff_base_ms": 2000, "breaker_failure_threshold": 2, "breaker_open_ms": 60_000}
    async with stage([transient("own")], reliability=limits) as played:
        waiting, breaker = Client(), played.backend.breaker
        first = played.begin(waiting)
        await asyncio.sleep(1)
        breaker.on_open.clear()  # as if the wait had just ended
        with pytest.raises(GatewayError), breaker.attempt():
            raise transient("another request's")
        await first

        assert isinstance(waiting.events[-1], Failed)
        assert (waiting.events[-1].error.kind, waiting.events[-1].error.message) == ("backend_transient", "own")
        assert played.adapter.begun == 1


@virtual_time
async def test_a_request_that_opens_the_circuit_itself_does_not_wait():
    """Its last failure ends it at once: no attempt could follow within the open window."""
    limits = {"max_retries": 3, "backoff_base_ms": 2000, "breaker_failure_threshold": 2, "breaker_open_ms": 60_000}
    async with stage([transient("first")], [transient("second")], reliability=limits) as played:
        begun = now()
        _, error = await played.failure()

        assert (error.kind, error.message, played.adapter.begun) == ("backend_transient", "second", 2)
        assert now() - begun < 2.5
        assert played.records[0].attempt_errors == ["backend_transient: first"]


@virtual_time
async def test_requests_that_queued_before_the_circuit_opened():
    """They are refused when their turn comes, as any other: `Failed` alone."""
    keys: Any = {"budget": {"max_concurrency_per_backend": 1}}
    keys["reliability"] = {"breaker_failure_threshold": 1, "max_retries": 0}
    async with stage([1.0, transient()], **keys) as played:
        clients = [Client() for _ in range(4)]
        await asyncio.wait([played.begin(client) for client in clients])

        kinds = [getattr(client.events[-1], "error").kind for client in clients]  # noqa: B009
        assert kinds == ["backend_transient", *["circuit_open"] * 3]
        assert [len(client.events) for client in clients] == [2, 1, 1, 1]


@virtual_time
async def test_an_open_circuit_refuses_before_the_queue():
    """Who comes while it is open is not made to wait for a place first."""
    limits = {"breaker_failure_threshold": 1}
    async with stage([SILENCE], budget={"max_concurrency_per_backend": 1}, reliability=limits) as played:
        first = played.begin(Client())
        await asyncio.sleep(1)
        with pytest.raises(GatewayError), played.backend.breaker.attempt():
            raise transient()
        begun = now()
        before, error = await played.failure()

        assert (before, error.kind) == ([], "circuit_open")
        assert now() - begun < 0.01
        first.cancel()
        await asyncio.wait([first])


@virtual_time
async def test_a_probe_that_is_cancelled_gives_its_place_to_the_next():
    """After the open window one request is let through; its cancel wedges nothing."""
    async with stage([transient()], reliability={"breaker_failure_threshold": 4, "breaker_open_ms": 1}) as played:
        await open_circuit(played)
        played.adapter.attempts = [[SILENCE]]
        time.sleep(0.002)
        probe = played.begin(Client())
        await asyncio.sleep(1)
        _, error = await played.failure()
        probe.cancel()
        await asyncio.wait([probe])
        played.adapter.attempts = [text("ok")]

        assert (error.kind, played.adapter.begun) == ("circuit_open", 1)
        assert (await played.ask())[-1] == END
        assert played.backend.breaker.state == "closed"
