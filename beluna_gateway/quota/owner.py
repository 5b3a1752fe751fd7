"""The one task that talks to a store of shared limits, and the queues of requests that wait for it.

A request never touches the store: it puts itself into a queue, and the owner sends everything that waits in one
exchange. So a request that is cancelled can neither break an exchange nor lose a place: what it may have been given
stands on the list of what is to be given back, and goes out with the next one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from itertools import count
from math import inf
from typing import Any, Literal

import structlog

from ..errors import GatewayError
from .decision import SETTLE, Answer, Use
from .limits import MICROS, SETTINGS, Reason, Scope
from .store import Command, End, QuotaStore, Renew, Reply, StoreAway, Take

ASK_AT_ONCE = 64
"""How many of a queue are asked for in one command. The rest cannot be let in before them."""
MAX_GIVEN_BACK = 10_000
"""How many ids of leases wait to be given back; of older ones the leases expire. Money and tokens are sums: they need
no more place however many requests they are of."""
IDS_AT_ONCE = 1_000
OPEN_SECONDS = 1.0
"""For so long nobody asks a store that did not answer."""
LOG_SECONDS = 60.0
CLOSE_SECONDS = 1.0
SETTLE_SECONDS = SETTLE / MICROS


class QuotaQueue:
    """Requests that ask for the same scopes, in order of arrival, and the leases that this daemon has of them.

    Args:
        owner: Talks to the store.
        scopes: Of one backend.
        ids: Of leases.
    """

    def __init__(self, owner: QuotaOwner, scopes: tuple[Scope, ...], ids: Iterator[str]) -> None:
        self.scopes = scopes
        self.uses: tuple[Use, ...] = ()
        """What the store said last, at `told_at`."""
        self.told_at = -inf
        self.held: dict[str, None] = {}
        self.blocked_by: Reason | None = None
        """What the head of the queue waits for."""
        self.ask_at = 0.0
        """When it is to ask, on the event loop's clock."""
        self._owner = owner
        self._ids = ids
        self._waiting: dict[str, asyncio.Future[GatewayError | None]] = {}
        self._asked: tuple[str, ...] = ()
        self._known = False
        self._given_back: dict[str, None] = {}
        self._micros = self._estimated = self._tokens = 0
        self._numbers = count(1)
        self._unanswered: End | None = None

    @property
    def waits(self) -> int:
        """How many requests."""
        return len(self._waiting)

    @property
    def is_idle(self) -> bool:
        """Whether nothing is held, asked for or to be told."""
        return not (self.held or self._waiting or self._unanswered or self._has_ended)

    @property
    def unsettled_micros(self) -> int:
        """Money that the store has not counted yet, as far as is known."""
        return self._micros + (0 if self._unanswered is None else self._unanswered.micros)

    # --- for requests ----------------------------------------------------------------------------------------

    async def acquire(self) -> str:
        """Waits for a lease; its id.

        Raises:
            GatewayError: `budget_exceeded`.
        """
        lease_id = next(self._ids)
        if self._owner.is_away:
            if self._owner.refuses:
                raise self._owner.refusal()
            self.held[lease_id] = None  # the store is told when it is back
            return lease_id
        granted: asyncio.Future[GatewayError | None] = asyncio.get_running_loop().create_future()
        self._waiting[lease_id] = granted
        if self.ask_at == 0.0:
            self._owner.wake()
        try:
            refusal = await granted
        except BaseException:
            if self._waiting.pop(lease_id, None) is None:
                if lease_id in self.held:
                    self.release(lease_id)
            elif lease_id in self._asked:
                self._give_back(lease_id)
                self._owner.wake()
            raise
        if refusal is not None:
            raise refusal
        return lease_id

    def release(self, lease_id: str) -> None:
        """Gives a lease back."""
        self.held.pop(lease_id, None)
        self._give_back(lease_id)
        self._owner.released(self)

    def settle(self, micros: int, estimated: int, tokens: int) -> None:
        """Counts what a request has used: micro-dollars, how much of them is estimated, and tokens."""
        self._micros += micros
        self._estimated += estimated
        self._tokens += tokens
        self._owner.wake()

    # --- for the owner ---------------------------------------------------------------------------------------

    def commands(self, now: float, *, renew: bool, take: bool) -> Iterator[Command]:
        """What is to be sent: what has ended first, for its places may be what others wait for."""
        if self._unanswered is None and self._has_ended:
            ids = tuple(self._given_back)[:IDS_AT_ONCE]
            for lease_id in ids:
                del self._given_back[lease_id]
            self._unanswered = End(self.scopes, ids, next(self._numbers), self._micros, self._estimated, self._tokens)
            self._micros = self._estimated = self._tokens = 0
        if self._unanswered is not None:
            yield self._unanswered
        if renew:
            held = tuple(self.held)
            for begin in range(0, max(len(held), 1), IDS_AT_ONCE):
                yield Renew(self.scopes, held[begin : begin + IDS_AT_ONCE])
        if take and self._waiting and now >= self.ask_at:
            self._asked = tuple(self._waiting)[:ASK_AT_ONCE]
            yield Take(self.scopes, self._asked, self._known)

    def replied(self, command: Command, reply: Reply, now: float) -> None:
        """Takes the answer to one of `commands`."""
        self.told_at = now
        if isinstance(reply, Answer):
            self._answered(reply, now)
            return
        self.uses = reply
        if command is self._unanswered:
            self._unanswered = None

    def ask_now(self) -> None:
        """A place may be free."""
        if self.blocked_by == "places":
            self.ask_at = 0.0

    def has_more(self, now: float) -> bool:
        """Whether something is to be sent at once."""
        return self._has_ended or (bool(self._waiting) and now >= self.ask_at)

    def give_all_back(self) -> None:
        """For the end of the daemon."""
        self._given_back.update(self.held)
        self.held.clear()
        self.turn_away()

    def turn_away(self) -> None:
        """The store is away: those who wait are refused, or begin by the local limits alone."""
        waiting, self._waiting = self._waiting, {}
        asked, self._asked = self._asked, ()
        self.ask_at, self.blocked_by = 0.0, None
        refuses = self._owner.refuses
        if refuses:
            for lease_id in asked:  # it may have been given: the answer was lost
                if lease_id in waiting:
                    self._give_back(lease_id)
        for lease_id, granted in waiting.items():
            if granted.done():
                self._give_back(lease_id)
            elif refuses:
                granted.set_result(self._owner.refusal())
            else:
                self.held[lease_id] = None
                granted.set_result(None)

    def _answered(self, answer: Answer, now: float) -> None:
        self.uses, self._known = answer.uses, True
        asked, self._asked = self._asked, ()
        for lease_id in asked[: answer.granted]:
            granted = self._waiting.pop(lease_id, None)
            if granted is None:
                continue  # cancelled during the exchange, and on the list of what is given back
            if granted.done():
                self._give_back(lease_id)
            else:
                self.held[lease_id] = None
                granted.set_result(None)
        self.blocked_by, self.ask_at = answer.reason, 0.0
        seconds = answer.wait / MICROS
        match answer.reason:
            case None:
                pass
            case "rate" | "settling":
                self.ask_at = now + seconds
            case "places":
                poll = self._owner.poll_seconds * (0.5 + random.random())
                self.ask_at = now + min(poll, seconds + 0.001)
            case "tokens" | "day" | "month" as reason:
                self._refuse(asked[answer.granted :], reason, answer)

    def _refuse(self, asked: Iterable[str], reason: Literal["tokens", "day", "month"], answer: Answer) -> None:
        scope, use = self.scopes[answer.scope], answer.uses[answer.scope]
        milliseconds = -(-answer.wait // 1000)
        for lease_id in asked:
            granted = self._waiting.pop(lease_id, None)
            if granted is not None and not granted.done():
                granted.set_result(over_limit(scope, "shared_", reason, use, milliseconds))
        self.blocked_by = None

    def _give_back(self, lease_id: str) -> None:
        self._given_back[lease_id] = None
        if len(self._given_back) > MAX_GIVEN_BACK:
            del self._given_back[next(iter(self._given_back))]

    @property
    def _has_ended(self) -> bool:
        return bool(self._given_back or self._micros or self._tokens)


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
        """Begins to talk to the store, unless it has begun."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=f"owner of {self.store.setting}")

    def wake(self) -> None:
        """Something is to be sent."""
        if self._task is None:
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
            f"the store of the shared limits does not answer: {self.error} ({self.store.setting})",
            retryable=True,
            retry_after_ms=round(OPEN_SECONDS * 1000),
        )

    async def look(self, scopes: Iterable[Scope]) -> str:
        """Asks the store once what is used of `scopes`, in place of `start`; why it did not answer, or nothing."""
        for scope in scopes:
            self.queue([scope])
        await self._exchange(asyncio.get_running_loop().time())
        if self._task is None:
            await self.store.close()
        return self.error

    def retire(self) -> None:
        """Ends by itself once the last lease has been given back; no request may begin any more."""
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
        try:
            async with asyncio.timeout(CLOSE_SECONDS):
                await self.store.close()
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
            self._log.info("the store of the shared limits answers again", setting=self.store.setting)
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
                "the store of the shared limits does not answer",
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


def over_limit(
    scope: Scope, prefix: str, reason: Literal["tokens", "day", "month"], use: Use, milliseconds: int
) -> GatewayError:
    """`budget_exceeded` for money or tokens that are spent.

    Args:
        scope: Whose they are.
        prefix: Of the setting: `shared_`, or nothing.
        reason: Which limit.
        use: What has been used.
        milliseconds: Until requests may begin again.
    """
    whose = f"backend {scope.backend_id!r}"
    if scope.client is not None:
        whose = f"client {scope.client!r} at {whose}"
    limit = getattr(scope.limits, reason)
    setting = f"{scope.setting}.{prefix}{SETTINGS[reason]}"
    if reason == "tokens":
        found = f"{use.tokens} tokens of the {limit} of a minute are used"
    else:
        spent = use.day_micros if reason == "day" else use.month_micros
        found = f"${spent / MICROS:.6f} of the ${limit / MICROS:g} of a UTC {reason} are spent"
    return GatewayError(
        "budget_exceeded",
        f"{whose}: {found} ({setting})",
        retryable=reason == "tokens",
        retry_after_ms=max(milliseconds, 1),
    )


def listed(scope: Scope, use: Use, prefix: str) -> Iterator[dict[str, Any]]:
    """What is used of each limit of a scope, for `status` frames and metrics. Money in dollars."""
    amounts: Sequence[tuple[Reason, float, float]] = (
        ("places", use.places, 0),
        ("tokens", use.tokens, 0),
        ("day", use.day_micros / MICROS, use.day_estimated / MICROS),
        ("month", use.month_micros / MICROS, use.month_estimated / MICROS),
    )
    for reason, amount, estimated in amounts:
        limit = getattr(scope.limits, reason)
        if limit is None:
            continue
        entry: dict[str, Any] = {"setting": f"{prefix}{SETTINGS[reason]}"}
        if scope.client is not None:
            entry["client"] = scope.client
        money = reason in ("day", "month")
        entry.update(used=amount, limit=limit / MICROS if money else limit)
        if money:
            entry["estimated"] = estimated
        yield entry
