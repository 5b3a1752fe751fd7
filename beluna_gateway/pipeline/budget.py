"""Per-backend limits: token cap, deadline, concurrency, start rate, money; and those that daemons share.

A lease is taken with `async with`; leaving the block in any way releases it.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any

from ..canonical import CanonicalRequest, Operation, UsageStats
from ..config.settings import Budget, Pricing
from ..errors import GatewayError
from .pricing import ListedCost
from .spending import Call, Charge, SpendingMeter

if TYPE_CHECKING:
    from aiolimiter import AsyncLimiter

    from ..quota.limits import Scope
    from ..quota.local import LocalSpend
    from ..quota.owner import QuotaOwner
    from ..quota.queue import QuotaQueue


class BudgetEnforcer:
    """The limits of one backend, and what is in use of them.

    Args:
        budget: The limits.
        backend_id: The backend.
        client: The client whose own limits at this backend these are; None: they are everyone's.
        quota: Where the limits are kept that daemons share; None: there is no such place.
    """

    def __init__(
        self, budget: Budget, backend_id: str, client: str | None = None, quota: QuotaOwner | None = None
    ) -> None:
        self._budget = budget
        self._backend_id = backend_id
        self._client = client
        self.slot = BudgetLease(self)
        """Entered by each request."""
        self.places = asyncio.Semaphore(budget.max_concurrency_per_backend)
        self.starts: AsyncLimiter | None = None
        if budget.rate_smoothing_per_second is not None:
            from aiolimiter import AsyncLimiter  # only configurations that smooth pay for the import

            self.starts = AsyncLimiter(budget.rate_smoothing_per_second, 1.0)
        self.in_flight = 0
        self.queued = 0
        self.used = Used()
        self.quota = quota
        self.scope: Scope | None = None
        """What of these limits daemons share."""
        self.spend: LocalSpend | None = None
        if budget.spend_usd_per_day is not None or budget.spend_usd_per_month is not None:
            from ..quota.local import LocalSpend  # only configurations with such limits pay for the import

            self.spend = LocalSpend(budget, backend_id, client)
        if quota is not None:
            from ..quota.limits import Scope, shared_limits

            if limits := shared_limits(budget):
                self.scope = Scope(backend_id, client, limits)

    def check(self, request: CanonicalRequest | Operation) -> None:
        """Refuses a request that asks for more output tokens than the token cap.

        Raises:
            GatewayError: `budget_exceeded`.
        """
        limit = self._budget.max_usage_tokens_per_request
        asked = request.max_output_tokens if isinstance(request, CanonicalRequest) else None
        if limit is not None and asked is not None and asked > limit:
            whose, setting = "a request", "budget"
            if self._client is not None:
                whose, setting = f"a request of client {self._client!r}", "server.clients[].budget"
            raise GatewayError(
                "budget_exceeded",
                f"limits.max_output_tokens: {asked} is more than the {limit} that {whose} to backend "
                f"{self._backend_id!r} may use ({setting}.max_usage_tokens_per_request)",
            )

    def seconds(self, request: CanonicalRequest | Operation) -> float:
        """The time for the whole request in seconds: what it asks for, at most what is configured."""
        limit = self._budget.max_request_time_ms
        return min(limit, request.max_request_time_ms or limit) / 1000

    def lease(self) -> AbstractAsyncContextManager[Account | None]:
        """Around a request: ``async with budget.lease() as account: …``; see `Account`, None where nothing is to be
        settled.

        Raises:
            GatewayError: On entering: `budget_exceeded`.
        """
        if self.scope is None and self.spend is None:
            return self.slot
        return AccountLease(self)

    def limits_in_use(self) -> list[dict[str, Any]]:
        """What is used of the limits of money and of those that daemons share, for `status` frames."""
        found = [] if self.spend is None else list(self.spend.status())
        if self.quota is not None and self.scope is not None:
            found += self.quota.status_of(self.scope)
        return found

    @property
    def max_concurrency(self) -> int:
        """How many requests may have a place at the same time."""
        return self._budget.max_concurrency_per_backend

    def account(self, usage: UsageStats) -> None:
        """Counts what the backend reported. Usage above the cap stops nothing: the tokens are spent."""
        self.used.add(usage)


class NarrowedBudget:
    """A backend's limits together with one client's own at it."""

    __slots__ = ("_backend", "_own")

    def __init__(self, own: BudgetEnforcer, backend: BudgetEnforcer) -> None:
        self._own = own
        self._backend = backend

    def check(self, request: CanonicalRequest | Operation) -> None:
        """See `BudgetEnforcer`."""
        self._own.check(request)
        self._backend.check(request)

    def seconds(self, request: CanonicalRequest | Operation) -> float:
        """See `BudgetEnforcer`."""
        return min(self._own.seconds(request), self._backend.seconds(request))

    def lease(self) -> AbstractAsyncContextManager[Account | None]:
        """See `BudgetEnforcer`. The client's own slot comes first: its queue must not hold slots of the backend."""
        both = self._own, self._backend
        if any(one.scope is not None or one.spend is not None for one in both):
            return AccountLease(*both)
        return self._local_lease()

    @asynccontextmanager
    async def _local_lease(self) -> AsyncIterator[None]:
        async with self._own.slot, self._backend.slot:
            yield


class Used:
    """What requests have used, by what the backends reported."""

    __slots__ = ("cost_usd", "output_tokens", "tokens")

    def __init__(self) -> None:
        self.tokens = 0
        """In all: what a backend calls the total, else the sum of both sides."""
        self.output_tokens = 0
        self.cost_usd = 0.0
        """Of those requests whose price is known."""

    def add(self, usage: UsageStats) -> None:
        """Counts one request."""
        output = usage.output_tokens or 0
        total = usage.total_tokens
        self.tokens += total if total is not None else (usage.input_tokens or 0) + output
        self.output_tokens += output
        self.cost_usd += usage.cost or 0.0

    def status(self) -> dict[str, int | float]:
        """Its fields of a `status` frame. Money to a millionth of a millionth: the sum of floats has no more to say."""
        return {
            "used_tokens": self.tokens,
            "output_tokens": self.output_tokens,
            "cost_usd": round(self.cost_usd, 12),
        }


class BudgetLease:
    """A slot among the concurrent requests. Has no state of its own: any number of requests may enter one.

    Entering waits, in order of arrival, for a slot and then for the start rate; cancelling the wait releases the slot.
    """

    __slots__ = ("_budget",)

    def __init__(self, budget: BudgetEnforcer) -> None:
        self._budget = budget

    async def __aenter__(self) -> None:
        budget = self._budget
        budget.queued += 1
        try:
            await budget.places.acquire()
            try:
                if budget.starts is not None:
                    await budget.starts.acquire()
            except BaseException:
                budget.places.release()
                raise
        finally:
            budget.queued -= 1
        budget.in_flight += 1

    async def __aexit__(self, *_: object) -> None:
        self.give_back()

    def give_back(self) -> None:
        """The request has ended."""
        self._budget.in_flight -= 1
        self._budget.places.release()


class Account:
    """Where a request's money and tokens are counted once it has ended."""

    __slots__ = ("_queue", "_spends", "meter")

    def __init__(self, spends: Sequence[LocalSpend], queue: QuotaQueue | None) -> None:
        self._spends = spends
        self._queue = queue
        self.meter: SpendingMeter | None = None

    def watched(self, call: Call, request: CanonicalRequest | Operation) -> Call:
        """`call`, with what comes back counted, for an estimate."""
        if self.meter is None:
            self.meter = SpendingMeter(request)
        return self.meter.watched(call)

    def settle(self, usage: UsageStats | None, outcome: str, price: Pricing | None, listed: ListedCost | None) -> None:
        """Counts what the request has spent; see `SpendingMeter.charge`."""
        charge = Charge() if self.meter is None else self.meter.charge(usage, outcome, price, listed)
        for spend in self._spends:
            spend.settle(charge.micros, charge.estimated)
        if self._queue is not None:
            self._queue.settle(charge.micros, charge.estimated, charge.tokens)


class AccountLease:
    """A lease of one or two budgets whose money counts, or whose limits daemons share.

    The local slots come first, so that what waits for a shared one waits in one line, and holds none meanwhile.
    """

    __slots__ = ("_budgets", "_lease_id", "_queue", "_taken")

    def __init__(self, *budgets: BudgetEnforcer) -> None:
        self._budgets = budgets
        self._taken: list[BudgetLease] = []
        self._queue: QuotaQueue | None = None
        self._lease_id: str | None = None

    async def __aenter__(self) -> Account:
        budgets = self._budgets
        spends = [budget.spend for budget in budgets if budget.spend is not None]
        quota = next((budget.quota for budget in budgets if budget.scope is not None), None)
        if quota is not None:
            self._queue = quota.queue(budget.scope for budget in budgets if budget.scope is not None)
        try:
            for budget in budgets:
                lease = budget.slot
                await lease.__aenter__()
                self._taken.append(lease)
            for spend in spends:
                spend.check()
            if self._queue is not None:
                with _waiting(budgets):
                    self._lease_id = await self._queue.acquire()
        except BaseException:
            self._give_back()
            raise
        return Account(spends, self._queue)

    async def __aexit__(self, *_: object) -> None:
        self._give_back()

    def _give_back(self) -> None:
        if self._queue is not None and self._lease_id is not None:
            self._queue.release(self._lease_id)
        for lease in reversed(self._taken):
            lease.give_back()


@contextmanager
def _waiting(budgets: Sequence[BudgetEnforcer]) -> Iterator[None]:
    """Counts a request that has its local slots as one that waits."""
    for budget in budgets:
        budget.in_flight -= 1
        budget.queued += 1
    try:
        yield
    finally:
        for budget in budgets:
            budget.in_flight += 1
            budget.queued -= 1
