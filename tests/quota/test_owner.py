"""`QuotaOwner` and its queues, with a store in memory: order, cancels, an absent store, and the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
from structlog.testing import capture_logs

from beluna_gateway.config.settings import Budget
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.budget import BudgetEnforcer
from beluna_gateway.quota import decision
from beluna_gateway.quota.decision import ScopeState
from beluna_gateway.quota.limits import Limits, Scope
from beluna_gateway.quota.owner import OPEN_SECONDS, QuotaOwner
from beluna_gateway.quota.queue import MAX_GIVEN_BACK, QuotaQueue
from beluna_gateway.quota.store import Command, End, QuotaStore, Renew, Reply, StoreAway, Take

from ..fakes.clock import virtual_time

START = 1_764_184_450_000_000


class MemoryStore(QuotaStore):
    """Decides by `decision`, takes `delay` for it, and may be away."""

    kind = "memory"
    setting = "shared.url"
    poll_seconds = 1.0

    def __init__(self, states: dict[Scope, ScopeState] | None = None) -> None:
        self.states = {} if states is None else states
        self.exchanges: list[Sequence[Command]] = []
        self.counted: dict[tuple[Scope, ...], int] = {}
        self.delay = 0.001
        self.away = False
        self.loses_answers = False
        self.closed = 0

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        self.exchanges.append(commands)
        await asyncio.sleep(self.delay)
        if self.away:
            raise StoreAway("connection refused")
        replies = [self._do(command) for command in commands]
        if self.loses_answers:
            raise StoreAway("connection reset")
        return replies

    def _do(self, command: Command) -> Reply:
        now = START + int(asyncio.get_running_loop().time() * 1e6)
        states = [self.states.setdefault(scope, ScopeState()) for scope in command.scopes]
        limits = [scope.limits for scope in command.scopes]
        match command:
            case Take(_, ids, known):
                return decision.take(states, limits, ids, now, 15_000_000, known=known)
            case Renew(_, ids):
                return decision.renew(states, limits, ids, now, 15_000_000)
            case End(scopes, ids, number, micros, estimated, tokens):
                if self.counted.get(scopes, 0) >= number:
                    micros = estimated = tokens = 0
                self.counted[scopes] = number
                return decision.end(states, limits, ids, now, micros=micros, estimated=estimated, tokens=tokens)

    async def close(self) -> None:
        self.closed += 1


@asynccontextmanager
async def owner(store: MemoryStore, daemon: str = "d", **options: Any) -> AsyncIterator[QuotaOwner]:
    built = QuotaOwner(store, daemon, **{"lease_seconds": 15.0, "timeout_seconds": 0.05, "refuses": True, **options})
    built.start()
    try:
        yield built
    finally:
        await built.close()


def backend(**limits: Any) -> tuple[Scope, ...]:
    return (Scope("b", None, Limits(**limits)),)


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(60):
        while not condition():
            await asyncio.sleep(0.001)


async def begin(queue: QuotaQueue, count: int = 1) -> list[asyncio.Task[str]]:
    tasks = [asyncio.create_task(queue.acquire()) for _ in range(count)]
    await asyncio.sleep(0)
    return tasks


@virtual_time
async def test_requests_of_one_moment_are_asked_for_in_one_command():
    """Twenty that come together cost one exchange, and all begin."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=40))
        await asyncio.gather(*(queue.acquire() for _ in range(20)))

        takes = [command for commands in store.exchanges for command in commands if isinstance(command, Take)]
        assert [len(take.ids) for take in takes] == [20]
        assert built.held == 20


@virtual_time
async def test_places_are_given_in_order_of_arrival():
    """Each that is given back goes to the one who has waited longest, at once and not at the next poll."""
    async with owner(MemoryStore()) as built:
        queue = built.queue(backend(places=1))
        order = []

        async def request(number: int) -> None:
            lease = await queue.acquire()
            order.append(number)
            await asyncio.sleep(0.01)
            queue.release(lease)

        began = asyncio.get_running_loop().time()
        await asyncio.gather(*map(request, range(10)))

        assert order == list(range(10))
        assert asyncio.get_running_loop().time() - began < 0.2


@virtual_time
async def test_only_the_head_asks_while_it_waits():
    """A hundred who wait cost no more exchanges than one: the slow poll."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=1))
        await queue.acquire()
        tasks = await begin(queue, 100)
        await asyncio.sleep(0.1)
        before = len(store.exchanges)
        await asyncio.sleep(3)

        assert len(store.exchanges) - before < 10
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)


@virtual_time
async def test_the_head_comes_when_it_was_told():
    """Refused for the rate it asks again exactly then: 30 starts at 10 a second take two seconds."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(rate=10))
        began = asyncio.get_running_loop().time()
        await asyncio.gather(*(queue.acquire() for _ in range(30)))

        assert asyncio.get_running_loop().time() - began == pytest.approx(2.0, abs=0.1)
        assert len(store.exchanges) < 30


@virtual_time
async def test_cancels_at_any_moment_lose_no_place():
    """Before the exchange, during it and after it: when all are gone nothing is held in the store."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=3))
        for step in range(60):
            tasks = await begin(queue, 5)
            await asyncio.sleep(step * 0.0001)
            for task in tasks:
                task.cancel()
            for task in tasks:
                with suppress(asyncio.CancelledError):
                    queue.release(await task)
        await asyncio.sleep(0.1)

        assert (built.held, built.waits) == (0, 0)
        assert store.states[queue.scopes[0]].leases == {}


@virtual_time
async def test_without_the_store_requests_are_refused_at_once():
    """The first one waits for the answer, the next ones do not; a second later the store is asked again."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=5))
        await queue.acquire()
        store.away = True
        with pytest.raises(GatewayError) as caught:
            await queue.acquire()
        asked = len(store.exchanges)
        with pytest.raises(GatewayError):
            await queue.acquire()

        assert (caught.value.kind, caught.value.retryable, caught.value.retry_after_ms) == (
            "budget_exceeded",
            True,
            1000,
        )
        assert "shared.url" in caught.value.message
        assert len(store.exchanges) == asked
        store.away = False
        await asyncio.sleep(OPEN_SECONDS + 0.01)
        await queue.acquire()


@virtual_time
async def test_without_the_store_requests_pass_where_the_configuration_says_so():
    """They are told to the store when it is back, as leases and as money."""
    store = MemoryStore()
    store.away = True
    async with owner(store, refuses=False) as built:
        queue = built.queue(backend(places=1, day=1000))
        first, second = await queue.acquire(), await queue.acquire()
        queue.release(second)
        queue.settle(5, 0, 0)
        store.away = False
        await until(lambda: bool(built.up))

        state = store.states[queue.scopes[0]]
        assert list(state.leases) == [first]
        assert state.day_micros == 5


@virtual_time
async def test_money_is_counted_once_although_the_answer_is_lost():
    """What may have been counted is sent again with its number."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(day=1000))
        lease = await queue.acquire()
        store.loses_answers = True
        queue.release(lease)
        queue.settle(7, 0, 0)
        await until(lambda: built.up is False)
        queue.settle(1, 0, 0)
        store.loses_answers = False
        await until(lambda: bool(built.up) and queue.is_idle)

        assert store.states[queue.scopes[0]].day_micros == 8


@virtual_time
async def test_a_lease_whose_answer_was_lost_is_given_back():
    """The request was refused, so nobody has it."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=5))
        await asyncio.sleep(0.01)
        store.loses_answers = True
        with pytest.raises(GatewayError):
            await queue.acquire()
        assert len(store.states[queue.scopes[0]].leases) == 1
        store.loses_answers = False
        await until(lambda: bool(built.up) and queue.is_idle)

        assert store.states[queue.scopes[0]].leases == {}


@virtual_time
async def test_leases_are_renewed_also_in_an_empty_store():
    """Within a third of a lease a store that has lost everything knows again what is held."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=5))
        lease = await queue.acquire()
        await asyncio.sleep(60)
        assert list(store.states[queue.scopes[0]].leases) == [lease]
        store.states.clear()
        await asyncio.sleep(5.1)

        assert list(store.states[queue.scopes[0]].leases) == [lease]


@virtual_time
async def test_spent_money_refuses_all_who_wait():
    """Each gets the time to the end of the window, and where the limit stands."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue((Scope("b", "notes", Limits(day=1000)), *backend(places=10)))
        queue.settle(1000, 0, 0)
        results = await asyncio.gather(*(queue.acquire() for _ in range(5)), return_exceptions=True)

        for error in results:
            assert isinstance(error, GatewayError)
            assert error.kind == "budget_exceeded"
            assert error.message == (
                "client 'notes' at backend 'b': $0.001000 of the $0.001 of a UTC day are spent "
                "(server.clients[].budget.shared_spend_usd_per_day)"
            )
            assert 0 < (error.retry_after_ms or 0) <= 86_400_000


@virtual_time
async def test_a_release_lets_another_queue_of_the_backend_in():
    """A client with limits of its own and everyone else share the backend's places."""
    async with owner(MemoryStore()) as built:
        everyone = built.queue(backend(places=1))
        client = built.queue((Scope("b", "notes", Limits(places=5)), *backend(places=1)))
        lease = await everyone.acquire()
        [task] = await begin(client)
        await asyncio.sleep(0.01)
        began = asyncio.get_running_loop().time()
        everyone.release(lease)
        await task

        assert asyncio.get_running_loop().time() - began < 0.01


@virtual_time
async def test_after_a_long_absence_leases_are_told_before_any_is_taken():
    """Leases of other daemons may have expired meanwhile: they tell theirs first, within the breaker's second."""
    states: dict[Scope, ScopeState] = {}
    stores = [MemoryStore(states), MemoryStore(states)]
    async with owner(stores[0], "one") as one, owner(stores[1], "two") as two:
        first, second = one.queue(backend(places=2)), two.queue(backend(places=2))
        await first.acquire(), await first.acquire()
        for store in stores:
            store.away = True
        await asyncio.sleep(30)
        for store in stores:
            store.away = False
        await until(lambda: bool(two.up))
        [task] = await begin(second)
        await asyncio.sleep(5)

        assert len(states[backend(places=2)[0]].leases) == 2
        assert not task.done()
        task.cancel()
        await asyncio.wait([task])


@virtual_time
async def test_before_the_store_has_answered_nothing_is_used():
    """`status` shows the limits all the same."""
    async with owner(MemoryStore()) as built:
        [scope] = built.queue(backend(places=5)).scopes

        assert built.status_of(scope) == [{"setting": "shared_max_concurrency", "used": 0, "limit": 5}]


@virtual_time
async def test_the_end_gives_everything_back():
    """Leases and money are told before the store is closed."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=5, day=1000))
        await queue.acquire()
        queue.settle(3, 0, 0)
    state = store.states[queue.scopes[0]]

    assert (state.leases, state.day_micros, store.closed) == ({}, 3, 1)


@virtual_time
async def test_a_retired_owner_ends_with_its_last_lease():
    """A reload has replaced its store; what still runs is told to the end."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=5))
        lease = await queue.acquire()
        built.retire()
        await asyncio.sleep(20)
        assert not built.done
        queue.release(lease)
        await until(lambda: built.done)

        assert store.states[queue.scopes[0]].leases == {}


@virtual_time
async def test_a_request_that_comes_late_to_a_retired_owner_gets_its_lease():
    """It began before the reload, and waited for a local limit until after the owner had ended."""
    store = MemoryStore()
    async with owner(store) as built:
        queue = built.queue(backend(places=5))
        built.retire()
        await until(lambda: built.done)
        lease = await queue.acquire()
        assert list(store.states[queue.scopes[0]].leases) == [lease]
        queue.release(lease)
        await until(lambda: built.done)

        assert (store.states[queue.scopes[0]].leases, store.closed) == ({}, 2)


@virtual_time
async def test_an_absence_is_logged_once_a_minute():
    """And its end, once."""
    store = MemoryStore()
    store.away = True
    with capture_logs() as lines:
        async with owner(store) as built:
            await asyncio.sleep(150)
            store.away = False
            await until(lambda: bool(built.up))

    assert [line["event"].rpartition("shared limits ")[2] for line in lines] == ["cannot be used"] * 3 + ["works again"]
    assert (lines[0]["error"], lines[0]["requests"]) == ("connection refused", "refused")


@virtual_time
async def test_what_is_to_be_told_later_has_a_bound():
    """However many requests end while the store is away: their money is a sum, and the oldest leases expire."""
    store = MemoryStore()
    store.away = True
    async with owner(store, refuses=False) as built:
        queue = built.queue(backend(day=10**9))
        await until(lambda: built.is_away)
        for _ in range(MAX_GIVEN_BACK + 5):
            queue.release(await queue.acquire())
            queue.settle(3, 0, 0)
        store.away = False
        await until(lambda: bool(built.up) and queue.is_idle)

        ended = [command for commands in store.exchanges for command in commands if isinstance(command, End)]
        assert sum(len(ids) for ids in {command.number: command.ids for command in ended}.values()) <= MAX_GIVEN_BACK
        assert store.states[queue.scopes[0]].day_micros == 3 * (MAX_GIVEN_BACK + 5)


@virtual_time
async def test_the_local_place_comes_first():
    """A daemon never asks for more shared places than it has local ones."""
    store = MemoryStore()
    async with owner(store) as built:
        budget = BudgetEnforcer(Budget(max_concurrency_per_backend=2, shared_max_concurrency=5), "b", quota=built)

        async def request() -> None:
            async with budget.lease():
                await asyncio.sleep(1)

        requests = [asyncio.create_task(request()) for _ in range(5)]
        await asyncio.sleep(0.5)
        assert (built.held, built.waits, budget.in_flight, budget.queued) == (2, 0, 2, 3)
        await asyncio.wait(requests)

        takes = [command for commands in store.exchanges for command in commands if isinstance(command, Take)]
        assert max(len(take.ids) for take in takes) == 2
