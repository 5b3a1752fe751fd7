"""`decision`: who may begin, by limits that daemons share."""

from __future__ import annotations

import datetime as dt
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.quota import decision
from beluna_gateway.quota.decision import DAY, MINUTE, SECOND, SETTLE, Answer, ScopeState, Use, month_end, month_of
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
    take(state, "a", "b", places=2, rate=2)
    answer = take(state, "a", "b", "c", places=2, rate=2)

    assert (answer.granted, answer.reason) == (2, "places")
    assert state.next_start == NOW + SECOND


def test_an_answer_says_what_is_used_and_when():
    """Where all may begin there is nothing to wait for. What ends is added up, and a wait is whole microseconds."""
    state, limits = ScopeState(), Limits(places=2, tokens=7)
    granted = decision.take([state], [limits], ["a"], NOW, LEASE, known=True)
    assert granted == Answer(NOW, 0, "settling", 0, SETTLE, (Use(0, 0, 0, 0, 0, 0),))

    now = NOW + SETTLE
    assert decision.take([state], [limits], ["a"], now, LEASE, known=True) == Answer(
        now, 1, None, 0, 0, (Use(1, 0, 0, 0, 0, 0),)
    )
    for micros, estimated in ((5, 3), (7, 2)):
        uses = decision.end([state], [limits], (), now, micros=micros, estimated=estimated, tokens=1)
    assert uses == (Use(1, 1, 12, 5, 12, 5),)
    assert state.token_time == now + 2 * (MINUTE // 7)
    assert [decision.interval(rate) for rate in (1, 3, 2_000_000)] == [SECOND, 333_334, 1]


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
    """Also one that the store has forgotten: then others may be forgotten too, and nobody begins at once."""
    state = ScopeState()
    decision.renew([state], [Limits(places=1)], ["a"], NOW, LEASE)

    assert take(state, "b", at=NOW + SETTLE - 1, places=1).reason == "settling"
    decision.renew([state], [Limits(places=1)], ["a"], NOW + SETTLE, LEASE)
    assert take(state, "b", at=NOW + SETTLE, places=1).reason == "places"
    assert take(state, "b", at=NOW + SETTLE + LEASE - 1, places=1).reason == "places"


def test_a_renewal_of_nothing_is_a_question_only():
    """A scope that nobody has used stays new to all."""
    state = ScopeState()
    decision.renew([state], [Limits(places=1)], [], NOW, LEASE)

    assert take(state, "a", places=1).granted == 1


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
    assert take(state, "a", at=NOW + answer.wait - MINUTE // 1000, tokens=1000).reason == "tokens"
    assert take(state, "a", at=NOW + answer.wait, tokens=1000).granted == 1


@pytest.mark.parametrize(("limit", "wait"), [(7, 8_571_428), (1000, 60_000), (30_000_000, 2), (60_000_001, 1)])
def test_used_up_tokens_refuse_for_the_time_of_one_token(limit: int, wait: int):
    """In whole microseconds, and at least one."""
    state = ScopeState()
    decision.end([state], [Limits(tokens=limit)], (), NOW, micros=0, estimated=0, tokens=limit)
    told = take(state, "a", tokens=limit).wait

    assert (told, type(told)) == (wait, int)
    assert take(state, "a", at=NOW + 2 * MINUTE, tokens=limit).uses[0].tokens == 0
    assert take(state, "b").uses[0].tokens == 0


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


def test_months_are_those_of_the_calendar():
    """As the standard library counts them, from 1970 on, beyond the next year that is no leap year by 100 or 400."""
    epoch = dt.date(1970, 1, 1)
    for number in range(1970 * 12, 2405 * 12):
        first = (dt.date(number // 12, number % 12 + 1, 1) - epoch).days
        following = (dt.date((number + 1) // 12, (number + 1) % 12 + 1, 1) - epoch).days
        months = [month_of(first), month_of(following - 1), month_end(number) // DAY]

        assert months == [number, number, following]
        assert set(map(type, months)) == {int}


def test_after_the_store_was_emptied_nobody_begins_at_once():
    """Whoever knew the scope finds it missing: all are to tell what they hold first. A new one begins at once."""
    state = ScopeState()
    answer = take(state, "a", known=True, places=1)

    assert (answer.granted, answer.reason, answer.wait) == (0, "settling", SETTLE)
    assert take(state, "b", at=NOW + SETTLE - 1, places=1).reason == "settling"
    assert take(state, "b", at=NOW + SETTLE, places=1).granted == 1
    assert take(ScopeState(), "a", places=1).granted == 1


def test_a_clock_that_is_set_back_holds_up_nobody_for_long():
    """A rate that is used up, and the time after the store was emptied, end in their own time; no wait is longer."""
    state = ScopeState()
    assert take(state, "a", "b", "c", rate=2).granted == 2
    answer = take(state, "c", at=NOW - DAY, rate=2)

    assert (answer.granted, answer.reason) == (0, "rate")
    assert answer.wait <= 2 * SECOND
    assert take(state, "c", "d", at=NOW - DAY + SECOND // 2, rate=2).granted == 1

    emptied = ScopeState()
    take(emptied, "a", known=True)
    assert take(emptied, "a", at=NOW - DAY).wait == SETTLE
    assert take(emptied, "a", at=NOW - DAY + SETTLE).granted == 1

    full = ScopeState()
    take(full, "a", places=1)
    assert take(full, "b", at=NOW - DAY, places=1).wait == LEASE
