"""Requests that wait for leases of shared limits, and the leases that this daemon has.

A request never touches the store: it puts itself into a queue, and the owner of the store sends everything that waits
in one exchange. So a request that is cancelled can neither break an exchange nor lose a place: what it may have been
given stands on the list of what is to be given back, and goes out with the next one.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Iterable, Iterator
from itertools import count
from math import inf
from typing import Literal, Protocol

from ..errors import GatewayError
from .decision import Answer, Use
from .limits import MICROS, Reason, Scope
from .reports import over_limit
from .store import Command, End, Renew, Reply, Take

ASK_AT_ONCE = 64
"""How many of a queue are asked for in one command. The rest cannot be let in before them."""
MAX_GIVEN_BACK = 10_000
"""How many ids of leases wait to be given back; of older ones the leases expire. Money and tokens are sums: they need
no more place however many requests they are of."""
IDS_AT_ONCE = 1_000


class Owner(Protocol):
    """Who talks to the store, as its queues see it."""

    refuses: bool
    """Whether requests are refused while the store is away."""

    @property
    def is_away(self) -> bool:
        """Whether the store is known not to answer."""

    @property
    def poll_seconds(self) -> float:
        """See `QuotaStore`."""

    def refusal(self) -> GatewayError:
        """For requests, while the store is away."""

    def wake(self) -> None:
        """Something is to be sent."""

    def released(self, queue: QuotaQueue) -> None:
        """A place is free again."""


class QuotaQueue:
    """Requests that ask for the same scopes, in order of arrival, and the leases that this daemon has of them.

    Args:
        owner: Talks to the store.
        scopes: Of one backend.
        ids: Of leases.
    """

    def __init__(self, owner: Owner, scopes: tuple[Scope, ...], ids: Iterator[str]) -> None:
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
