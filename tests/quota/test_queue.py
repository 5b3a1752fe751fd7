"""`QuotaQueue` without its owner's task: which commands go out, and what their answers do."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from itertools import count
from typing import Any, Self

import pytest

from beluna_gateway.errors import GatewayError
from beluna_gateway.quota.decision import Answer, Use
from beluna_gateway.quota.limits import Limits, Reason, Scope
from beluna_gateway.quota.queue import ASK_AT_ONCE, IDS_AT_ONCE, MAX_GIVEN_BACK, QuotaQueue
from beluna_gateway.quota.store import Command, End, Renew, Take

from ..fakes.clock import virtual_time

SCOPES = (Scope("b", None, Limits(places=100, tokens=1000, day=1000, month=1000)),)
USE = Use(1, 2, 3, 4, 5, 6)


class Owner:
    """Counts what it is told."""

    refuses = True
    is_away = False
    poll_seconds = 2.0

    def __init__(self) -> None:
        self.woken = 0
        self.freed = 0

    def refusal(self) -> GatewayError:
        return GatewayError("budget_exceeded", "the store is away")

    def wake(self) -> None:
        self.woken += 1

    def released(self, queue: QuotaQueue) -> None:
        assert queue.scopes == SCOPES
        self.freed += 1


class Waiting:
    """A queue, and the requests that wait in it."""

    def __init__(self, requests: int = 0) -> None:
        self.owner = Owner()
        self.queue = QuotaQueue(self.owner, SCOPES, (f"{number}" for number in count()))
        self.tasks = [asyncio.create_task(self.queue.acquire()) for _ in range(requests)]

    async def __aenter__(self) -> Self:
        await asyncio.sleep(0)
        return self

    async def __aexit__(self, *_: object) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    def commands(self, now: float = 0.0, *, renew: bool = False, take: bool = False) -> list[Command]:
        return list(self.queue.commands(now, renew=renew, take=take))

    def ask(self, granted: int, reason: Reason | None = None, wait: int = 0, now: float = 0.0) -> Take:
        """Sends all that waits, and answers that so many may begin."""
        *_, command = self.commands(now, take=True)
        assert isinstance(command, Take)
        self.queue.replied(command, Answer(0, granted, reason, 0, wait, (USE,)), now)
        return command

    async def outcomes(self) -> list[Any]:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return [_outcome(task) for task in self.tasks]


def _outcome(task: asyncio.Task[str]) -> Any:
    """Its lease or its error; None: it waits still, or was cancelled."""
    if not task.done() or task.cancelled():
        return None
    return task.exception() or task.result()


@virtual_time
async def test_the_first_of_a_queue_are_asked_for():
    """So many in one command, in order; from its first answer on the queue says that it knows its scopes."""
    async with Waiting(ASK_AT_ONCE + 2) as waiting:
        assert waiting.queue.waits == ASK_AT_ONCE + 2
        assert waiting.ask(1) == Take(SCOPES, tuple(f"{number}" for number in range(ASK_AT_ONCE)), known=False)
        assert waiting.ask(0).known
        assert await waiting.outcomes() == ["0"] + [None] * (ASK_AT_ONCE + 1)
        assert (list(waiting.queue.held), waiting.queue.uses, waiting.queue.waits) == (["0"], (USE,), ASK_AT_ONCE + 1)


@virtual_time
async def test_what_has_ended_is_told_first_and_again_until_it_is_answered():
    """With one number, so that it is counted once; what ends meanwhile goes out after it, with the next number."""
    async with Waiting(1) as waiting:
        queue = waiting.queue
        waiting.ask(1)
        queue.release("0")
        queue.settle(10, 4, 100)
        queue.settle(1, 1, 1)
        waiting.tasks.append(asyncio.create_task(queue.acquire()))
        await asyncio.sleep(0)
        first, *others = waiting.commands(renew=True, take=True)

        assert first == End(SCOPES, ("0",), 1, micros=11, estimated=5, tokens=101)
        assert others == [Renew(SCOPES, ()), Take(SCOPES, ("1",), known=True)]
        queue.settle(0, 0, 7)
        queue.settle(2, 0, 0)
        assert (queue.unsettled_micros, queue.has_more(0.0)) == (13, True)
        assert waiting.commands() == [first]
        queue.replied(Renew(SCOPES, ()), (USE,), 1.0)
        assert waiting.commands() == [first]
        queue.replied(first, (USE,), 2.0)
        assert (queue.uses, queue.told_at) == ((USE,), 2.0)
        assert waiting.commands() == [End(SCOPES, (), 2, micros=2, estimated=0, tokens=7)]
        assert (waiting.owner.freed, waiting.owner.woken, queue.unsettled_micros) == (1, 6, 2)


@virtual_time
async def test_a_queue_is_idle_once_all_is_told():
    """Not while something is held, waited for, to be told, or told without an answer."""
    async with Waiting(1) as waiting:
        queue, idle = waiting.queue, []
        idle.append(queue.is_idle)
        waiting.ask(1)
        idle.append(queue.is_idle)
        queue.release("0")
        idle.append(queue.is_idle)
        [end] = waiting.commands()
        idle.append(queue.is_idle)
        queue.replied(end, (USE,), 0.0)
        idle.append(queue.is_idle)
        queue.settle(0, 0, 1)
        idle.append(queue.is_idle)

        assert idle == [False, False, False, False, True, False]


@virtual_time
async def test_commands_carry_a_thousand_ids_each():
    """Of leases that are renewed and that are given back; of the latter the oldest are forgotten, and expire."""
    async with Waiting() as waiting:
        queue = waiting.queue
        assert waiting.commands(renew=True) == [Renew(SCOPES, ())]
        ids = [f"{number}" for number in range(MAX_GIVEN_BACK + 1)]
        queue.held.update(dict.fromkeys(ids[: IDS_AT_ONCE + 1]))
        renewed = waiting.commands(renew=True)
        for lease_id in ids:
            queue.release(lease_id)
        [end] = waiting.commands()

        assert renewed == [Renew(SCOPES, tuple(ids[:IDS_AT_ONCE])), Renew(SCOPES, (ids[IDS_AT_ONCE],))]
        assert isinstance(end, End)
        assert end.ids == tuple(ids[1 : IDS_AT_ONCE + 1])
        queue.replied(end, (USE,), 0.0)
        [end] = waiting.commands()
        assert isinstance(end, End)
        assert end.ids[0] == ids[IDS_AT_ONCE + 1]


@pytest.mark.parametrize(
    ("reason", "wait", "earliest", "latest"),
    [
        (None, 0, 0.0, 0.0),
        ("rate", 250_000, 10.25, 10.25),
        ("settling", 1_500_000, 11.5, 11.5),
        ("places", 15_000_000, 11.0, 13.0),
        ("places", 500_000, 10.501, 10.501),
    ],
)
def test_the_head_asks_when_it_makes_sense(reason: Reason | None, wait: int, earliest: float, latest: float):
    """As long as the store says; for a place at about the poll's time, or when a lease ends, if that is sooner."""

    @virtual_time
    async def ask() -> None:
        async with Waiting(1) as waiting:
            queue = waiting.queue
            waiting.ask(0, reason, wait, now=10.0)

            assert queue.blocked_by == reason
            assert earliest - 1e-9 <= queue.ask_at <= latest + 1e-9
            assert waiting.commands(queue.ask_at - 0.001, take=True) == [] or reason is None
            assert not queue.has_more(queue.ask_at - 0.001)
            assert queue.has_more(queue.ask_at)
            queue.ask_now()
            assert queue.has_more(0.0) == (reason in (None, "places"))

    ask()


@virtual_time
async def test_times_to_ask_for_a_place_are_spread():
    """Between half the poll's time and one and a half: daemons do not ask all at once."""
    async with Waiting(1) as waiting:
        times = []
        for _ in range(100):
            waiting.queue.ask_at = 0.0
            waiting.ask(0, "places", 15_000_000)
            times.append(waiting.queue.ask_at)

        assert 1.0 <= min(times) < 1.5
        assert 2.5 < max(times) <= 3.0


@virtual_time
async def test_a_request_wakes_the_owner_unless_the_head_waits_for_its_time():
    """Behind a head that was told when to come another request costs no exchange."""
    async with Waiting(1) as waiting:
        waiting.ask(0, "rate", 250_000)
        waiting.tasks.append(asyncio.create_task(waiting.queue.acquire()))
        await asyncio.sleep(0)

        assert waiting.owner.woken == 1


@pytest.mark.parametrize("reason", ["tokens", "day", "month"])
def test_what_is_spent_refuses_all_that_asked(reason: Reason):
    """Also after some of them were cancelled; the time is rounded up, so that nobody comes too early."""

    @virtual_time
    async def ask() -> None:
        async with Waiting(5) as waiting:
            [command] = waiting.commands(take=True)
            for task in waiting.tasks[:3]:
                task.cancel()
            await asyncio.sleep(0)
            waiting.tasks[3].cancel()
            waiting.queue.replied(command, Answer(0, 2, reason, 0, 1_234_001, (USE,)), 0.0)
            *_, refused = await waiting.outcomes()

            assert (refused.kind, refused.retry_after_ms) == ("budget_exceeded", 1235)
            assert (waiting.queue.blocked_by, waiting.queue.ask_at) == (None, 0.0)

    ask()


@virtual_time
async def test_a_request_cancelled_as_its_answer_comes_gives_its_lease_back():
    """Whether it was cancelled just before the answer, or just after it."""
    async with Waiting(3) as waiting:
        waiting.tasks[0].cancel()
        waiting.ask(2)
        waiting.tasks[1].cancel()
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        [end] = waiting.commands()

        assert isinstance(end, End)
        assert sorted(end.ids) == ["0", "1"]
        assert list(waiting.queue.held) == []


@virtual_time
async def test_a_request_cancelled_during_the_exchange_gives_back_what_it_may_get():
    """One that was not asked for has nothing to give back; who waits behind it has its lease."""
    async with Waiting(2) as waiting:
        *_, take = waiting.commands(take=True)
        waiting.tasks.append(asyncio.create_task(waiting.queue.acquire()))
        await asyncio.sleep(0)
        woken = waiting.owner.woken
        for task in (waiting.tasks[0], waiting.tasks[2]):
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task
        waiting.queue.replied(take, Answer(0, 2, None, 0, 0, (USE,)), 0.0)

        assert await waiting.outcomes() == [None, "1", None]
        assert waiting.owner.woken == woken + 1
        assert waiting.commands() == [End(SCOPES, ("0",), 1, 0, 0, 0)]
        assert (list(waiting.queue.held), waiting.queue.waits) == (["1"], 0)


@pytest.mark.parametrize("refuses", [True, False])
def test_without_the_store_those_who_wait_are_turned_away_or_let_in(refuses: bool):
    """Refused ones that had been asked for give back what the store may have given; nobody waits for a time."""

    @virtual_time
    async def lose() -> None:
        async with Waiting(1) as waiting:
            waiting.owner.refuses = refuses
            queue = waiting.queue
            waiting.ask(0, "places", 15_000_000)
            waiting.commands(queue.ask_at, take=True)
            for _ in range(2):
                waiting.tasks.append(asyncio.create_task(queue.acquire()))
            await asyncio.sleep(0)
            waiting.tasks[2].cancel()
            queue.turn_away()
            assert (queue.blocked_by, queue.ask_at, queue.waits) == (None, 0.0, 0)
            outcomes = await waiting.outcomes()

            given_back = {lease for command in waiting.commands() if isinstance(command, End) for lease in command.ids}
            if refuses:
                assert [str(outcome) for outcome in outcomes[:2]] == [str(waiting.owner.refusal())] * 2
                assert (given_back, list(queue.held)) == ({"0", "2"}, [])
            else:
                assert outcomes[:2] == ["0", "1"]
                assert (given_back, list(queue.held)) == ({"2"}, ["0", "1"])

    lose()


@virtual_time
async def test_a_request_that_was_never_asked_for_has_nothing_to_give_back():
    """The store went away before it was asked."""
    async with Waiting(1) as waiting:
        waiting.queue.turn_away()
        [outcome] = await waiting.outcomes()

        assert isinstance(outcome, GatewayError)
        assert waiting.commands() == []


@pytest.mark.parametrize("refuses", [True, False])
def test_while_the_store_is_away_nobody_waits_for_it(refuses: bool):
    """A request is refused at once, or has its lease at once, which the store is told later."""

    @virtual_time
    async def come() -> None:
        async with Waiting() as waiting:
            waiting.owner.refuses, waiting.owner.is_away = refuses, True
            waiting.tasks.append(asyncio.create_task(waiting.queue.acquire()))
            await asyncio.sleep(0)
            [outcome] = await waiting.outcomes()

            assert outcome == "0" if not refuses else isinstance(outcome, GatewayError)
            assert list(waiting.queue.held) == ([] if refuses else ["0"])

    come()


@virtual_time
async def test_at_the_end_all_leases_are_given_back():
    """Those of requests that still run too; who still waits is refused."""
    async with Waiting(2) as waiting:
        waiting.ask(1)
        waiting.queue.give_all_back()
        outcomes = await waiting.outcomes()

        assert (outcomes[0], isinstance(outcomes[1], GatewayError)) == ("0", True)
        assert waiting.commands() == [End(SCOPES, ("0",), 1, 0, 0, 0)]
        assert waiting.queue.is_idle is False
        assert list(waiting.queue.held) == []
