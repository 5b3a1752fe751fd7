"""What `beluna-gateway top` says of `status` frames."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.commands.top_view import RATE_SECONDS, LimitRow, Lost, Sample, view


def backend(name: str = "b", **fields: Any) -> dict[str, Any]:
    counts = {"in_flight": 0, "queued": 0, "requests": 0, "failures": 0, "used_tokens": 0, "output_tokens": 0}
    return {"id": name, "dialect": "ollama", "default_model": "m", "breaker": "closed", **counts, **fields}


def client(name: str = "c", **fields: Any) -> dict[str, Any]:
    counts = {"connections": 1, "in_flight": 0, "queued": 0, "requests": 0, "failures": 0, "used_tokens": 0}
    return {"name": name, **counts, **fields}


def sample(at: float, *rows: dict[str, Any], **fields: Any) -> Sample:
    frame = {"version": "1", "pid": 1, "uptime_ms": int(at * 1000) + 60_000, "connections": 1, "in_flight": 0}
    return Sample(at, {**frame, "backends": rows or (backend(),), **fields})


def test_what_is_now_is_the_newest_frames():
    """Requests, places, breakers and programs of each backend; a field that the daemon does not know is left out."""
    row = backend(in_flight=2, queued=3, max_concurrency=4, breaker="open", program={"state": "running", "starts": 1})
    seen = view([sample(0), sample(1, row, backend("old"), in_flight=5, clients=[client(queued=1, in_flight=2)])], 1)

    first, old = seen.backends
    assert (first.in_flight, first.places, first.queued, first.breaker, first.program) == (2, 4, 3, "open", "running")
    assert (old.places, old.program, old.cost_usd) == (None, None, None)
    assert (seen.in_flight, seen.queued, seen.clients[0].in_flight) == (5, 4, 2)


def test_one_frame_tells_no_rate():
    """It is unknown, which is not 0."""
    seen = view([sample(0)], 0)

    assert (seen.tokens_per_second, seen.curve) == (None, ())


def test_rates_are_means_over_the_last_seconds():
    """Of each backend and client; what is older than that does not count."""
    tokens = [0, 1000, 1000, 1300]
    times = [0.0, 1.0, 2.0, 1.0 + RATE_SECONDS]
    rows = [
        sample(at, backend(output_tokens=count), clients=[client(output_tokens=count)])
        for at, count in zip(times, tokens, strict=True)
    ]
    seen = view(rows, times[-1])

    assert seen.tokens_per_second == seen.backends[0].tokens_per_second == seen.clients[0].tokens_per_second
    assert seen.tokens_per_second == pytest.approx(300 / RATE_SECONDS)
    assert seen.curve == pytest.approx((1000.0, 0.0, 300 / (RATE_SECONDS - 1)))


def test_the_sum_is_that_of_the_backends():
    """Requests, failures, tokens and money; money that nobody tells is none, not 0."""
    one = backend("a", requests=3, failures=1, used_tokens=10, cost_usd=0.5)
    other = backend("b", requests=4, failures=2, used_tokens=20, cost_usd=0.25)
    seen = view([sample(0, one, other)], 0)

    assert (seen.requests, seen.failures, seen.used_tokens, seen.cost_usd) == (7, 3, 30, 0.75)
    assert view([sample(0)], 0).cost_usd is None


def test_new_failures_are_those_that_were_seen_to_happen():
    """Old ones are a number, new ones something to look at."""
    seen = view([sample(0, backend(failures=7)), sample(1, backend(failures=9))], 1)

    assert (seen.failures, seen.new_failures, seen.backends[0].new_failures) == (9, 2, 2)


def test_a_reload_that_sets_a_counter_to_0_is_no_decrease():
    """What came since then counts."""
    counts = [500, 700, 40, 60]
    seen = view([sample(at, backend(output_tokens=count)) for at, count in enumerate(counts)], 3)

    assert seen.curve == (200.0, 40.0, 20.0)


def test_a_backend_that_a_reload_brings_begins_with_it():
    """And one that it takes away is gone."""
    seen = view([sample(0, backend("old", output_tokens=9)), sample(1, backend("new", output_tokens=5))], 1)

    assert [row.name for row in seen.backends] == ["new"]
    assert seen.curve == (5.0,)


@pytest.mark.parametrize(
    "after", [{"pid": 2, "uptime_ms": 2000}, {"pid": 1, "uptime_ms": 2000}], ids=["another pid", "the same pid"]
)
def test_a_restarted_daemon_begins_anew(after):
    """Nothing is compared with what it was before, and it is said."""
    rows = [sample(0, backend(output_tokens=100)), sample(1, backend(output_tokens=200))]
    rows += [sample(2, backend(output_tokens=7), **after)]
    seen = view(rows, 2)

    assert (seen.tokens_per_second, seen.curve) == (None, ())
    assert "the daemon was started again 2 s ago" in seen.notes[0]


def test_a_lost_daemon_is_shown_as_it_was():
    """With the time since its last answer, and why."""
    seen = view([sample(5, backend(in_flight=2), in_flight=2)], 12.5, Lost(5, "it closed the connection"))

    assert (seen.lost_for, seen.why_lost, seen.in_flight) == (7.5, "it closed the connection", 2)
    assert view([sample(5)], 12.5).lost_for is None


def test_what_needs_a_look_is_said():
    """An open circuit, a program that fails, a reload that was refused."""
    rows = [backend("a", breaker="half_open"), backend("b", program={"state": "waiting", "starts": 9})]
    reloads = {"ok": 0, "failed": 1, "running": True, "last_error": "a.b: no\nc: no"}
    notes = view([sample(0, *rows, reloads=reloads)], 0).notes

    assert [note.partition(":")[0] for note in notes] == [
        "a reload of the configuration is under way",
        "the last reload changed nothing",
        "a",
        "b",
    ]
    assert notes[1].endswith("a.b: no c: no")
    assert view([sample(0)], 0).notes == ()


def test_limits_of_money_and_shared_ones_are_listed():
    """What is used of each, everyone's and a client's own."""
    limits = [{"setting": "spend", "used": 1.5, "limit": 20.0}, {"setting": "c", "client": "x", "used": 3, "limit": 4}]
    seen = view([sample(0, backend("a", limits=limits), backend("b"))], 0)

    assert seen.limits == (LimitRow("a", None, "spend", 1.5, 20.0), LimitRow("a", "x", "c", 3, 4))


def test_a_shared_store_is_shown_whatever_it_tells():
    """Its fields by their path; lists and what is null are passed over."""
    shared = {"reachable": True, "places": {"used": 3, "of": 40}, "spend": {"day": None}, "others": [1]}
    seen = view([sample(0, shared=shared)], 0)

    assert seen.shared == (("reachable", "yes"), ("places.used", "3"), ("places.of", "40"))
    assert seen.notes == ()
    assert view([sample(0, shared={"up": False})], 0).notes == (
        "the store that is shared with other daemons cannot be used",
    )
    assert view([sample(0)], 0).shared == ()
