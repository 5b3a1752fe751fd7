"""The one task that talks to a store of shared limits, for all the queues of requests that wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import suppress
from itertools import count
from math import inf
from typing import Any

import structlog

from ..errors import GatewayError
from .decision import SETTLE, Use
from .limits import MICROS, Scope
from .queue import QuotaQueue
from .reports import listed
from .store import QuotaStore, StoreAway

OPEN_SECONDS = 1.0
"""For so long nobody asks a store that did not answer."""
LOG_SECONDS = 60.0
CLOSE_SECONDS = 1.0
SETTLE_SECONDS = SETTLE / MICROS


class QuotaOwner:
    """The task that owns a store's connection, and the queues before it. Nobody ever cancels it.

    Args:
        store: Where the limits are kept.
        daemon: This daemon, by a name that no other one has.
        lease_seconds: How long a lease lasts without being renewed.
        timeout_seconds: How long the store may take to answer.
        refuses: Whether requests are refused while it does not; otherwise only the local limits hold.
    """

    def __init__(
        self, store: QuotaStore, daemon: str, *, lease_seconds: float, timeout_seconds: float, refuses: bool
    ) -> None:
        self.refuses = refuses
        self.store = store
        self.queues: dict[tuple[Scope, ...], QuotaQueue] = {}
        self.up: bool | None = None
        """Whether the store answered when it was asked last; None: it has not been asked."""
        self.error = ""
        """Why it did not."""
        self._ids = (f"{daemon}.{number:x}" for number in count(1))
        self._lease_seconds = lease_seconds
        self._timeout_seconds = timeout_seconds
        self._log = structlog.get_logger("beluna_gateway")
        self._woken = asyncio.Event()
        self._stopped = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._ending = False
        self._stop_now = False
        self._renew_at = 0.0
        self._away_until = 0.0
        self._answered_at = inf
        self._take_from = 0.0
        self._logged_at = -inf
        store.place_is_free = self.place_is_free
        store.emptied = self.renew_now

    @property
    def is_away(self) -> bool:
        """Whether the store is known not to answer: nobody waits for it now."""
        return self._away_until != 0.0

    @property
    def held(self) -> int:
        """Leases of this daemon."""
        return sum(len(queue.held) for queue in self.queues.values())

    @property
    def waits(self) -> int:
        """Requests that wait for one."""
        return sum(queue.waits for queue in self.queues.values())

    @property
    def poll_seconds(self) -> float:
        """See `QuotaStore`."""
        return self.store.poll_seconds

    def queue(self, scopes: Iterable[Scope]) -> QuotaQueue:
        """The queue of requests that need leases of all `scopes`."""
        key = tuple(scope for scope in scopes if scope.limits)
        queue = self.queues.get(key)
        if queue is None:
            queue = self.queues[key] = QuotaQueue(self, key, self._ids)
        return queue

    def start(self) -> None:
        """Begins to talk to the store, unless it does, or has been closed."""
        if self.done and not self._stop_now:
            self._task = asyncio.create_task(self._run(), name=f"owner of {self.store.setting}")

    def wake(self) -> None:
        """Something is to be sent."""
        self.start()
        self._woken.set()

    def released(self, queue: QuotaQueue) -> None:
        """A place is free again: also for other queues of the same backend."""
        backend_id = queue.scopes[0].backend_id
        for other in self.queues.values():
            if other.blocked_by == "places" and other.scopes[0].backend_id == backend_id:
                other.ask_now()
        self.wake()

    def place_is_free(self, backend_id: str | None = None) -> None:
        """Another daemon has given places back at a backend; None: at any."""
        for queue in self.queues.values():
            if backend_id is None or queue.scopes[0].backend_id == backend_id:
                queue.ask_now()
        self.wake()

    def renew_now(self) -> None:
        """The store may have forgotten what this daemon holds."""
        self._renew_at = 0.0
        self.wake()

    def refusal(self) -> GatewayError:
        """For requests, while the store is away."""
        return GatewayError(
            "budget_exceeded",
            f"the store of the shared limits cannot be used: {self.error} ({self.store.setting})",
            retryable=True,
            retry_after_ms=round(OPEN_SECONDS * 1000),
        )

    async def look(self, scopes: Iterable[Scope]) -> str:
        """Asks the store once what is used of `scopes`, in place of `start`; why it did not answer, or nothing."""
        for scope in scopes:
            self.queue([scope])
        await self._exchange(asyncio.get_running_loop().time())
        if self._task is None:
            await self._close_store()
        return self.error

    def retire(self) -> None:
        """Ends by itself once the last lease has been given back.

        A request that began before, and waited for something else until now, makes it begin again.
        """
        self._ending = True
        if self._task is not None:
            self._woken.set()

    @property
    def done(self) -> bool:
        """Whether it has ended, or never begun."""
        return self._task is None or self._task.done()

    async def close(self) -> None:
        """Gives back what is held, tells what is to be settled, and ends."""
        self._ending = self._stop_now = True
        if self._task is not None:
            self._woken.set()
            self._stopped.set()
            await asyncio.wait([self._task])

    # --- the task --------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        while True:
            while not self._stop_now and not (self._ending and self._is_idle):
                try:
                    await self._wait(loop)
                    if not self._stop_now:
                        await self._exchange(loop.time())
                except Exception:  # noqa: BLE001 - nobody waits for this task, and there is no other one
                    self._log.exception("bug in the owner of the shared limits")
                    self._lose("a bug in the gateway, see the log")
            if self._stop_now:
                await self._say_goodbye(loop)
            await self._close_store()
            if self._stop_now or self._is_idle:  # otherwise a request has come meanwhile
                return

    async def _close_store(self) -> None:
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.store.close()
        except TimeoutError:
            self._log.warning("the store of the shared limits hangs; it is left as it is", setting=self.store.setting)
        except Exception:  # noqa: BLE001 - the daemon ends, or a reload has replaced this store
            self._log.exception("bug at the end of the store of the shared limits")

    @property
    def _is_idle(self) -> bool:
        return all(queue.is_idle for queue in self.queues.values())

    async def _wait(self, loop: asyncio.AbstractEventLoop) -> None:
        """Until there is something to send, or a time has come to ask again."""
        if self._away_until:
            await self._woken_before(self._away_until, only_stop=True)
            return
        if not self._woken.is_set():
            asks = (queue.ask_at for queue in self.queues.values() if queue.waits)
            await self._woken_before(min(self._renew_at, max(min(asks, default=inf), self._take_from)))
        self._woken.clear()

    async def _woken_before(self, at: float, *, only_stop: bool = False) -> None:
        """Returns at `at`, on the event loop's clock, or when woken; `only_stop`: only for the end."""
        with suppress(TimeoutError):
            async with asyncio.timeout_at(None if at == inf else at):
                await (self._stopped if only_stop else self._woken).wait()

    async def _exchange(self, now: float) -> bool:
        """Sends all that waits, and hands out the answers. Whether there was something to send."""
        renew = now >= self._renew_at
        may_be_forgotten = now - self._answered_at > self._lease_seconds / 2
        take = now >= self._take_from and not may_be_forgotten
        batch = [
            (queue, command)
            for queue in self.queues.values()
            for command in queue.commands(now, renew=renew, take=take)
        ]
        if not batch and not renew:
            return False
        try:
            async with asyncio.timeout(self._timeout_seconds):
                replies = await self.store.exchange([command for _, command in batch])
        except TimeoutError:
            await self.store.abandon()
            self._lose(f"no answer within {round(self._timeout_seconds * 1000)} ms (shared.timeout_ms)")
            return True
        except StoreAway as error:
            self._lose(str(error))
            return True
        now = asyncio.get_running_loop().time()
        if self.up is False:
            self._log.info("the store of the shared limits works again", setting=self.store.setting)
        self.up, self.error, self._away_until, self._answered_at = True, "", 0.0, now
        if renew:
            self._renew_at = now + self._lease_seconds / 3
        if may_be_forgotten:
            # Leases may have expired while nobody could renew them: first all daemons are to tell what they hold.
            self._take_from = now + SETTLE_SECONDS
        for (queue, command), reply in zip(batch, replies, strict=True):
            queue.replied(command, reply, now)
        if any(queue.has_more(now) for queue in self.queues.values()):
            self._woken.set()
        return True

    def _lose(self, why: str) -> None:
        """The store did not answer."""
        now = asyncio.get_running_loop().time()
        self.up, self.error, self._away_until = False, why, now + OPEN_SECONDS
        self._renew_at = 0.0
        if self._answered_at == inf:
            self._answered_at = now  # it was never there: nothing of ours is forgotten before that
        if now - self._logged_at >= LOG_SECONDS:
            self._logged_at = now
            self._log.warning(
                "the store of the shared limits cannot be used",
                setting=self.store.setting,
                error=why,
                requests="refused" if self.refuses else "pass by the local limits alone",
            )
        for queue in self.queues.values():
            queue.turn_away()

    async def _say_goodbye(self, loop: asyncio.AbstractEventLoop) -> None:
        """Leases and money of the last requests; those of requests that still run are given back, too."""
        for queue in self.queues.values():
            queue.give_all_back()
        ends = loop.time() + CLOSE_SECONDS
        self._take_from = self._renew_at = inf
        while await self._exchange(loop.time()) and self.up and loop.time() < ends:
            pass
        lost = sum(queue.unsettled_micros for queue in self.queues.values())
        if lost:
            self._log.warning("money that the store has not counted", usd=lost / MICROS, setting=self.store.setting)

    def status(self) -> dict[str, Any]:
        """Its part of a `status` frame."""
        return {"store": self.store.kind, "up": bool(self.up), "leases": self.held, "waiting": self.waits}

    def status_of(self, scope: Scope) -> list[dict[str, Any]]:
        """What is used of a scope's limits, as the store said last: at most a third of a lease ago."""
        newest: tuple[float, Use] = (-inf, Use(0, 0, 0, 0, 0, 0))
        for queue in self.queues.values():
            for one, use in zip(queue.scopes, queue.uses, strict=False):
                if one == scope:
                    newest = max(newest, (queue.told_at, use), key=lambda told: told[0])
        return list(listed(scope, newest[1], "shared_"))
