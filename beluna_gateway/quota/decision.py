"""Who may begin, by the limits that daemons share: state and time in, decision out.

For stores that are no Redis, and the oracle of the tests for `quota.lua`, which decides likewise, step by step: whoever
changes one changes the other. Times are microseconds since 1970 (integers below 2^53, exact in Lua too), money is in
micro-dollars.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from .limits import Limits, Reason

SECOND = 1_000_000
MINUTE = 60 * SECOND
DAY = 86_400 * SECOND
SETTLE = 3 * SECOND // 2
"""After the store was emptied nobody gets a place for so long: daemons connect again and tell what they hold."""
MAX_TOLD = SECOND
"""By so much at most an asker is told to come later than a start may be free, so that askers come one by one."""


@dataclass(slots=True)
class ScopeState:
    """What is used of one scope's limits."""

    leases: dict[str, int] = field(default_factory=dict)
    """Id → when it expires."""
    next_start: int = 0
    """GCRA's theoretical arrival time: the next start may come one second before it at the earliest."""
    next_told: int = 0
    """When the next one that is refused for the rate is to ask again."""
    token_time: int = 0
    """When all tokens that were used are allowed again, at one minute's worth per minute."""
    day: int = 0
    """Days since 1970 of `day_micros`."""
    day_micros: int = 0
    day_estimated: int = 0
    """How much of `day_micros` is estimated."""
    month: int = 0
    """Year × 12 + month, of `month_micros`."""
    month_micros: int = 0
    month_estimated: int = 0
    born: int | None = None
    """When a daemon that knew this scope found it missing; 0: it was new to all; None: nobody has asked yet."""

    def json(self) -> dict[str, Any]:
        """As `from_json` takes it."""
        return asdict(self)

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> Self:
        """See `json`."""
        return cls(**fields)

    def roll(self, now: int) -> None:
        """Drops what has expired, and begins another day and month.

        Where the store's clock was set back (a failover, a host that wakes up), a rate that was used up stays so for a
        second, and not until the clock is where it was.
        """
        for lease_id in [lease_id for lease_id, expiry in self.leases.items() if expiry <= now]:
            del self.leases[lease_id]
        day = now // DAY
        if day != self.day:
            self.day, self.day_micros, self.day_estimated = day, 0, 0
        month = month_of(day)
        if month != self.month:
            self.month, self.month_micros, self.month_estimated = month, 0, 0
        self.next_start = min(self.next_start, now + SECOND)
        if self.born is not None:
            self.born = min(self.born, now)


@dataclass(frozen=True, slots=True)
class Use:
    """What is used of one scope's limits, for people."""

    places: int
    tokens: int
    day_micros: int
    day_estimated: int
    month_micros: int
    month_estimated: int


@dataclass(frozen=True, slots=True)
class Answer:
    """To `take`: the first `granted` ids have their leases; the next one was refused for `reason`, if there was one."""

    now: int
    granted: int
    reason: Reason | None
    scope: int
    """Which scope refused, as an index."""
    wait: int
    """Microseconds until it makes sense to ask again."""
    uses: tuple[Use, ...]
    """Of each scope."""


def take(
    states: Sequence[ScopeState], limits: Sequence[Limits], ids: Sequence[str], now: int, lease: int, *, known: bool
) -> Answer:
    """Takes leases in all scopes for the first of `ids`, each in all scopes or in none, until one is refused.

    An id that has its lease already is granted without being counted again: it was asked for by a call whose answer was
    lost.

    Args:
        states: Of each scope; changed.
        limits: Of each scope.
        ids: In the order in which they are to be granted.
        now: Microseconds since 1970.
        lease: How long a lease lasts.
        known: The asker has used these scopes before, so one that is not there has been lost.
    """
    for state in states:
        state.roll(now)
        if state.born is None:
            state.born = now if known else 0
    granted = 0
    refusal = _refused_for_all(states, limits, now)
    if refusal is None:
        for lease_id in ids:
            if all(lease_id in state.leases for state in states):
                granted += 1
                continue
            refusal = _refused(states, limits, now, lease)
            if refusal is not None:
                break
            for state, own in zip(states, limits, strict=True):
                state.leases[lease_id] = now + lease
                if own.rate is not None:
                    state.next_start = max(state.next_start, now) + interval(own.rate)
            granted += 1
    reason, scope, wait = refusal or (None, 0, 0)
    return Answer(now, granted, reason, scope, wait, tuple(map(used, states, limits, [now] * len(states))))


def end(
    states: Sequence[ScopeState],
    limits: Sequence[Limits],
    ids: Sequence[str],
    now: int,
    *,
    micros: int,
    estimated: int,
    tokens: int,
) -> tuple[Use, ...]:
    """Gives leases back, and counts what their requests have used.

    Args:
        states: Of each scope; changed.
        limits: Of each scope.
        ids: Whose leases end.
        now: Microseconds since 1970.
        micros: What they cost, estimates included.
        estimated: How much of it is estimated.
        tokens: What they used.
    """
    for state, own in zip(states, limits, strict=True):
        state.roll(now)
        for lease_id in ids:
            state.leases.pop(lease_id, None)
        state.day_micros += micros
        state.day_estimated += estimated
        state.month_micros += micros
        state.month_estimated += estimated
        if own.tokens is not None:
            state.token_time = max(state.token_time, now) + tokens * MINUTE // own.tokens
    return tuple(map(used, states, limits, [now] * len(states)))


def renew(
    states: Sequence[ScopeState], limits: Sequence[Limits], ids: Sequence[str], now: int, lease: int
) -> tuple[Use, ...]:
    """Gives `ids` their leases for another `lease` microseconds, also where the store has forgotten them."""
    for state in states:
        if state.born is None and ids:
            state.born = now
        state.leases.update(dict.fromkeys(ids, now + lease))
        state.roll(now)
    return tuple(map(used, states, limits, [now] * len(states)))


def used(state: ScopeState, limits: Limits, now: int) -> Use:
    """What is used, after `ScopeState.roll`."""
    tokens = 0 if limits.tokens is None else max(state.token_time - now, 0) * limits.tokens // MINUTE
    return Use(
        len(state.leases),
        tokens,
        state.day_micros,
        state.day_estimated,
        state.month_micros,
        state.month_estimated,
    )


def month_of(day: int) -> int:
    """Year × 12 + month (from 0) of a day since 1970.

    By Howard Hinnant's "chrono-Compatible Low-Level Date Algorithms", which need nothing that Lua does not have.
    """
    shifted = day + 719_468
    era = shifted // 146_097
    of_era = shifted - era * 146_097
    year = (of_era - of_era // 1460 + of_era // 36_524 - of_era // 146_096) // 365
    of_year = of_era - (365 * year + year // 4 - year // 100)
    month = (5 * of_year + 2) // 153  # 0 is March
    return (year + era * 400) * 12 + month + 2


def month_end(month: int) -> int:
    """When the month after `month` (as `month_of` has it) begins."""
    year, number = divmod(month + 1 - 2, 12)  # from March on, as above
    era = year // 400
    of_era = (year - era * 400) * 365 + (year - era * 400) // 4 - (year - era * 400) // 100 + (153 * number + 2) // 5
    return (era * 146_097 + of_era - 719_468) * DAY


def interval(rate: int) -> int:
    """Microseconds between two starts, rounded up: never more than the limit."""
    return -(-SECOND // rate)


def _refused_for_all(
    states: Sequence[ScopeState], limits: Sequence[Limits], now: int
) -> tuple[Reason, int, int] | None:
    """The refusals that do not depend on how many ask."""
    for index, (state, own) in enumerate(zip(states, limits, strict=True)):
        if own.month is not None and state.month_micros >= own.month:
            return "month", index, month_end(state.month) - now
        if own.day is not None and state.day_micros >= own.day:
            return "day", index, (state.day + 1) * DAY - now
        if own.tokens is not None and state.token_time - now >= MINUTE:
            return "tokens", index, state.token_time - now - MINUTE + max(MINUTE // own.tokens, 1)
    for index, state in enumerate(states):
        if state.born and now < state.born + SETTLE:
            return "settling", index, state.born + SETTLE - now
    return None


def _refused(
    states: Sequence[ScopeState], limits: Sequence[Limits], now: int, lease: int
) -> tuple[Reason, int, int] | None:
    """Why one more may not begin now."""
    for index, (state, own) in enumerate(zip(states, limits, strict=True)):
        if own.places is not None and len(state.leases) >= own.places:
            return "places", index, min(*state.leases.values(), now + lease) - now
    for index, (state, own) in enumerate(zip(states, limits, strict=True)):
        if own.rate is not None:
            free = max(state.next_start, now) + interval(own.rate) - SECOND
            if free > now:
                told = min(max(state.next_told, free), free + MAX_TOLD)
                state.next_told = told + interval(own.rate)
                return "rate", index, told - now
    return None
