"""`decision`: who may begin, by limits that daemons share."""

from __future__ import annotations

import datetime as dt
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.quota import decision
from beluna_gateway.quota.decision import DAY, MINUTE, SECOND, SETTLE, Answer, ScopeState, month_end, month_of
from beluna_gateway.quota.limits import Limits

NOW = 1_764_184_450_000_000
LEASE = 15 * SECOND


def take(state: ScopeState, *ids: str, at: int = NOW, known: bool = False, **limits: Any) -> Answer:
    return decision.take([state], [Limits(**limits)], ids, at, LEASE, known=known)


def spend(state: ScopeState, micros: int) -> None:
    decision.end([state], [Limits()], (), NOW, micros=micros, estimated=0, tokens=0)


def test_places_are_taken_in_order_until_there_are_none():
    """The first ones get theirs; the next one is told when a lease ends if nobody renews it."""
    answer = take(ScopeState(), "a", "b", "c", places=2)

    assert (answer.granted, answer.reason, answer.wait) == (2, "places", LEASE)


def test_an_id_that_has_its_lease_takes_no_second_place():
    """A call that is sent again, because its answer was lost, counts once, in the rate too."""
    state = ScopeState()
    take(state, "a", places=1, rate=1)
    answer = take(state, "a", "b", places=1, rate=1)

    assert (answer.granted, answer.reason) == (1, "places")
    assert state.next_start == NOW + SECOND


def test_all_scopes_or_none():
    """What one scope refuses is not counted in another."""
    client, backend = ScopeState(), ScopeState(leases={"other": NOW + LEASE})
    answer = decision.take(
        [client, backend], [Limits(places=5, rate=5), Limits(places=1)], ["a"], NOW, LEASE, known=False
    )

    assert (answer.granted, answer.reason, answer.scope) == (0, "places", 1)
    assert (client.leases, client.next_start) == ({}, 0)


def test_a_lease_that_nobody_renews_expires():
    """Its place is free after the lease's time, not before."""
    state = ScopeState()
    take(state, "a", places=1)

    assert take(state, "b", at=NOW + LEASE - 1, places=1).wait == 1
    assert take(state, "b", at=NOW + LEASE, places=1).granted == 1


def test_a_renewed_lease_stays():
    """Also one that the store has forgotten."""
    state = ScopeState()
    decision.renew([state], [Limits(places=1)], ["a"], NOW, LEASE)

    assert take(state, "b", at=NOW + LEASE - 1, places=1).reason == "places"


@given(
    rate=st.integers(1, 1000),
    gaps=st.lists(st.integers(0, 3 * SECOND), min_size=1, max_size=60),
    asked=st.integers(1, 30),
)
def test_the_rate_is_never_exceeded(rate, gaps, asked):
    """In no stretch of time are there more starts than its share and one second's worth."""
    state, now, number = ScopeState(), NOW, 0
    allowed, last = rate * SECOND, NOW  # a bucket of a second's worth, in millionths of a start
    for gap in gaps:
        now += gap
        ids = [f"{number + index}" for index in range(asked)]
        number += asked
        allowed = min(rate * SECOND, allowed + (now - last) * rate)
        allowed -= SECOND * take(state, *ids, at=now, rate=rate).granted
        last = now
        assert allowed >= 0


def test_a_start_after_the_wait_that_was_told_is_let_in():
    """One who waits exactly as long as it was told begins then, and the limit is used up."""
    state, now, begun = ScopeState(), NOW, 0
    for number in range(200):
        answer = take(state, f"{number}", at=now, rate=50)
        begun += answer.granted
        now += answer.wait
    assert begun == 125 == 50 + round((now - NOW) / SECOND * 50)


def test_several_who_wait_for_the_rate_are_told_different_times():
    """They come one by one, and not all for the one start that is free."""
    state = ScopeState()
    take(state, *map(str, range(10)), rate=10)
    told = [take(state, f"w{number}", rate=10).wait for number in range(5)]

    assert told == [100_000, 200_000, 300_000, 400_000, 500_000]


def test_tokens_refuse_until_enough_of_them_are_allowed_again():
    """The limit comes back evenly over a minute."""
    state = ScopeState()
    decision.end([state], [Limits(tokens=1000)], (), NOW, micros=0, estimated=0, tokens=1500)
    answer = take(state, "a", tokens=1000)

    assert (answer.granted, answer.reason, answer.uses[0].tokens) == (0, "tokens", 1500)
    assert answer.wait == MINUTE // 2 + MINUTE // 1000
    assert take(state, "a", at=NOW + answer.wait, tokens=1000).granted == 1


def test_money_refuses_to_the_end_of_the_day_or_month():
    """The wait ends with the UTC day or month, and then all of it is there again."""
    state = ScopeState()
    spend(state, 100)
    day, month = take(state, "a", day=100), take(state, "a", month=100)

    assert (day.reason, month.reason) == ("day", "month")
    assert dt.datetime.fromtimestamp((NOW + day.wait) / SECOND, dt.UTC) == dt.datetime(2025, 11, 27, tzinfo=dt.UTC)
    assert dt.datetime.fromtimestamp((NOW + month.wait) / SECOND, dt.UTC) == dt.datetime(2025, 12, 1, tzinfo=dt.UTC)
    assert take(state, "a", at=NOW + day.wait, day=100).granted == 1
    assert take(state, "b", at=NOW + month.wait, month=100).granted == 1
    assert take(ScopeState(), "a", day=1).granted == 1


@given(st.integers(0, 100_000))
def test_months_are_those_of_the_calendar(day):
    """As the standard library counts them."""
    date = dt.date(1970, 1, 1) + dt.timedelta(days=day)
    following = (date.replace(day=1) + dt.timedelta(days=32)).replace(day=1)

    assert month_of(day) == date.year * 12 + date.month - 1
    assert month_end(month_of(day)) == (following - dt.date(1970, 1, 1)).days * DAY


def test_after_the_store_was_emptied_nobody_begins_at_once():
    """Whoever knew the scope finds it missing: all are to tell what they hold first. A new one begins at once."""
    state = ScopeState()
    answer = take(state, "a", known=True, places=1)

    assert (answer.granted, answer.reason, answer.wait) == (0, "settling", SETTLE)
    assert take(state, "b", at=NOW + SETTLE - 1, places=1).reason == "settling"
    assert take(state, "b", at=NOW + SETTLE, places=1).granted == 1
    assert take(ScopeState(), "a", places=1).granted == 1
