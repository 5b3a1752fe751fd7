"""Requests, and the daemon itself, as Prometheus metrics."""

from __future__ import annotations

import asyncio
import os
import platform
import re
from typing import Any, get_args

import pytest

from beluna_gateway import __version__
from beluna_gateway.canonical import UsageStats
from beluna_gateway.errors import ErrorKind
from beluna_gateway.telemetry.metrics import MetricsSink
from beluna_gateway.telemetry.records import RequestRecord
from beluna_gateway.telemetry.service import ServiceCounters

BACKEND = {"id": "local", "in_flight": 2, "queued": 1, "breaker": "open"}
CLIENT = {"name": "core", "connections": 3, "in_flight": 2, "queued": 1}
WHO = 'backend_id="local",client="core"'


def record(**fields: Any) -> RequestRecord:
    defaults = {"backend_id": "local", "model": "m", "model_is_configured": True, "client": "core"}
    return RequestRecord("r", {}, 0.0, **{**defaults, "outcome": "completed", **fields})


def make_sink(**status: Any) -> MetricsSink:
    """The metrics of a daemon with one backend, one model and one client."""
    frame = {"backends": [BACKEND], "clients": [CLIENT], **status}
    return MetricsSink(lambda: frame, lambda: {"local": ("m",)}, ServiceCounters())


def exposition(sink: MetricsSink) -> str:
    """One scrape."""
    return asyncio.run(sink.scrape()).decode()


def samples(sink: MetricsSink) -> dict[str, float]:
    """The exposition without comments and buckets: name with labels → value."""
    lines = exposition(sink).splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#") and "_bucket" not in line)
    return {name.removeprefix("beluna_gateway_"): float(value) for name, _, value in pairs}


# --- requests ------------------------------------------------------------------------------------------------


def test_requests_are_counted_by_backend_model_client_and_outcome():
    """Each request that ended is counted once, under what became of it; its duration too."""
    sink = make_sink()
    for outcome in ("completed", "cancelled", "cancelled", "rate_limited"):
        sink.finished(record(outcome=outcome, duration=2.0))

    counted = samples(sink)

    for outcome, number in (("completed", 1), ("cancelled", 2), ("rate_limited", 1), ("timeout", 0)):
        assert counted[f'requests_total{{{WHO},model="m",outcome="{outcome}"}}'] == number
    labels = 'backend_id="local",model="m",outcome="cancelled"'
    assert counted[f"request_duration_seconds_count{{{labels}}}"] == 2
    assert counted[f"request_duration_seconds_sum{{{labels}}}"] == 4


def test_series_exist_from_the_start():
    """Before the first request every outcome, kind of token and histogram of a configured model is there, with 0."""
    counted = samples(make_sink())

    for outcome in ("completed", *get_args(ErrorKind)):
        assert counted[f'requests_total{{{WHO},model="m",outcome="{outcome}"}}'] == 0
    for kind in ("input", "output", "cached_input", "cache_write_input", "reasoning"):
        assert counted[f'tokens_total{{{WHO},kind="{kind}",model="m"}}'] == 0
    for name in ("first_output_seconds", "time_per_output_token_seconds"):
        assert counted[f'{name}_count{{backend_id="local",model="m"}}'] == 0
    for name in ("cancel_seconds_count", "retries_total", "usage_unreported_total"):
        assert counted[f'{name}{{backend_id="local"}}'] == 0
    assert counted[f'cost_usd_total{{{WHO},model="m"}}'] == 0
    durations = {name: value for name, value in counted.items() if name.startswith("request_duration_seconds_count")}
    assert durations == {'request_duration_seconds_count{backend_id="local",model="m",outcome="completed"}': 0}


def test_the_text_of_each_metric_is_a_sentence():
    """What a person reads in a query's editor."""
    lines = [line.split(" ", 3) for line in exposition(make_sink()).splitlines() if line.startswith("# HELP beluna_")]

    assert len(lines) >= 20
    for _, _, name, text in lines:
        assert re.fullmatch(r"([A-Z](?!X)|\d ).*[a-z]\.", text), name


@pytest.mark.parametrize("outcome", ["completed", "invalid_request"])
def test_a_request_without_a_backend_has_no_names(outcome: Any):
    """One that was refused before any was chosen; none of its labels is a name of something."""
    sink = make_sink()
    for fields in ({}, {"model": "m"}, {"model_is_configured": True}):
        who = {"backend_id": None, "model": None, "client": None, "model_is_configured": False}
        sink.finished(record(**{**who, "outcome": outcome, **fields}))

    counted = samples(sink)

    assert counted[f'requests_total{{backend_id="",client="",model="",outcome="{outcome}"}}'] == 3


def test_first_output_is_timed_by_backend_and_model():
    """Once for each request that had output."""
    sink = make_sink()
    sink.finished(record(first_output_after=0.5))
    sink.finished(record())
    counted = samples(sink)

    assert counted['first_output_seconds_sum{backend_id="local",model="m"}'] == 0.5
    assert counted['first_output_seconds_count{backend_id="local",model="m"}'] == 1


def test_buckets_are_the_same_for_every_histogram_of_seconds():
    """Those of the table, which reach from the fastest to the slowest model; the library's own end at ten seconds."""
    bounds = set(re.findall(r'request_duration_seconds_bucket\{[^}]*le="([^"]+)"', exposition(make_sink())))

    assert {"0.05", "60.0", "+Inf"} <= bounds


def test_series_exist_before_anybody_has_connected():
    """Where no client is known yet, they are those of the user that the daemon runs as."""
    counted = samples(make_sink(clients=[]))

    labels = f'backend_id="local",client="{os.getuid()}",model="m",outcome="timeout"'
    assert counted[f"requests_total{{{labels}}}"] == 0


def test_a_scrape_adds_nothing():
    """The series of the second scrape are those of the first."""
    sink = make_sink()

    assert samples(sink).keys() == samples(sink).keys()


def test_reported_usage_is_added_up():
    """Tokens and cost are what the backend reported, an explicit zero included."""
    sink = make_sink()
    usage = UsageStats(10, 5, 15, cached_input_tokens=0, cost=0.25)
    sink.finished(record(usage=usage))
    sink.finished(record(usage=usage))

    counted = samples(sink)

    assert counted[f'tokens_total{{{WHO},kind="input",model="m"}}'] == 20
    assert counted[f'tokens_total{{{WHO},kind="output",model="m"}}'] == 10
    assert counted[f'tokens_total{{{WHO},kind="cached_input",model="m"}}'] == 0
    assert counted[f'cost_usd_total{{{WHO},model="m"}}'] == 0.5
    assert counted['usage_unreported_total{backend_id="local"}'] == 0


def test_missing_usage_is_counted_and_not_made_up():
    """A completed request without usage shows as such; a failed one is not expected to have any."""
    sink = make_sink()
    sink.finished(record())
    for _ in range(2):
        sink.finished(record(outcome="timeout"))

    counted = samples(sink)

    assert counted['usage_unreported_total{backend_id="local"}'] == 1
    assert not any(value for name, value in counted.items() if name.startswith("tokens_total"))


def test_attempts_after_the_first_are_retries():
    """A request with three attempts has two retries, one with two has one."""
    sink = make_sink()
    for attempts, retries in ((3, 2), (1, 2), (2, 3), (0, 3)):
        sink.finished(record(attempts=attempts))

        assert samples(sink)['retries_total{backend_id="local"}'] == retries


def test_the_time_of_a_cancel():
    """A request that was cancelled is observed with the time that closing the backend took, and no other is."""
    sink = make_sink()
    sink.finished(record(outcome="cancelled", cancel_seconds=0.25))
    sink.finished(record())

    counted = samples(sink)

    assert counted['cancel_seconds_count{backend_id="local"}'] == 1
    assert counted['cancel_seconds_sum{backend_id="local"}'] == 0.25


USAGE = UsageStats(1, 11, 12)
PER_TOKEN: list[tuple[dict[str, Any], float | None]] = [
    ({}, 0.2),
    ({"usage": UsageStats(1, 21, 22, reasoning_tokens=10)}, 0.2),
    ({"usage": UsageStats(1, 21, 22, reasoning_tokens=10), "reasoning_first": True}, 0.1),
    ({"usage": UsageStats(1, 1, 2)}, None),
    ({"usage": UsageStats(1, None, None)}, None),
    ({"usage": None}, None),
    ({"streamed": False}, None),
    ({"outcome": "timeout"}, None),
    ({"first_output_after": None}, None),
]


@pytest.mark.parametrize(("fields", "seconds"), PER_TOKEN, ids=[str(fields)[:60] for fields, _ in PER_TOKEN])
def test_time_per_output_token(fields, seconds):
    """The time after the first output, by the tokens after it; reasoning that came before it does not count."""
    sink = make_sink()
    ended = record(**{"duration": 3.0, "first_output_after": 1.0, "usage": USAGE, **fields})
    sink.finished(ended)

    counted = samples(sink)

    labels = '{backend_id="local",model="m"}'
    assert ended.seconds_per_output_token == (None if seconds is None else pytest.approx(seconds))
    assert counted[f"time_per_output_token_seconds_count{labels}"] == (seconds is not None)
    assert counted[f"time_per_output_token_seconds_sum{labels}"] == pytest.approx(seconds or 0)


def test_labels_are_configured_names_only():
    """A client cannot make new time series: neither its model name nor its metadata are labels."""
    sink = make_sink()
    for name in ("canary", "canary-2"):
        sink.finished(record(model=name, model_is_configured=False))
    refused = RequestRecord("r", {"user": "canary"}, 0.0, model="canary", outcome="invalid_request", client="core")
    sink.finished(refused)

    assert "canary" not in exposition(sink)
    assert samples(sink)[f'requests_total{{{WHO},model="other",outcome="completed"}}'] == 2


# --- the daemon ----------------------------------------------------------------------------------------------


def test_state_of_backends_and_clients_is_asked_at_each_scrape():
    """Running and waiting requests, breakers and programs are as they are at the moment of the scrape."""
    backend: dict[str, Any] = {**BACKEND, "program": {"state": "starting", "starts": 1}}
    sink = make_sink(backends=[backend])
    before = samples(sink)
    backend.update(breaker="closed", program={"state": "running", "starts": 2})
    after = samples(sink)

    assert before['in_flight{backend_id="local"}'] == 2
    assert before['queued{backend_id="local"}'] == 1
    assert before['breaker{backend_id="local",state="open"}'] == 1
    assert after['breaker{backend_id="local",state="open"}'] == 0
    assert after['breaker{backend_id="local",state="closed"}'] == 1
    assert before['program{backend_id="local",state="starting"}'] == 1
    assert after['program{backend_id="local",state="running"}'] == 1
    assert after['program_starts_total{backend_id="local"}'] == 2
    assert after['connections{client="core"}'] == 3
    assert after['client_in_flight{client="core"}'] == 2
    assert after['client_queued{client="core"}'] == 1


def test_a_backend_without_a_program_has_no_series_of_one():
    """Where the daemon starts nothing, nothing can be stopped."""
    assert not any(name.startswith("program") for name in samples(make_sink()))


def test_what_the_daemon_counts():
    """Connections, refusals, rejected lines and reloads, all there from the start."""
    service = ServiceCounters()
    sink = MetricsSink(lambda: {"backends": [], "clients": [CLIENT]}, dict, service)
    names = (
        'connections_accepted_total{client="core"}',
        'connections_refused_total{reason="uid"}',
        'connections_refused_total{reason="limit"}',
        'rejected_lines_total{client="core",kind="invalid_request"}',
        'reloads_total{result="ok"}',
        'reloads_total{result="failed"}',
    )
    before = samples(sink)
    service.connections["core"] += 2
    service.refused["uid"] += 3
    service.rejected["core", "invalid_request"] += 4
    service.rejected["core", "internal"] += 1
    service.rejected["other", "timeout"] += 1
    service.reloaded(ok=True)
    service.reloaded(ok=False)
    after = samples(sink)

    assert [before[name] for name in names] == [0] * 6
    assert [after[name] for name in names] == [2, 3, 0, 4, 1, 1]
    assert after['rejected_lines_total{client="core",kind="internal"}'] == 1
    assert not any('kind="timeout"' in name for name in after)
    assert (before["config_is_current"], after["config_is_current"]) == (1, 0)
    service.reloaded(ok=True)
    assert samples(sink)["config_is_current"] == 1


def test_build_and_process():
    """Version and Python are labels; CPU, memory, descriptors and start time are those of this process."""
    counted = samples(make_sink())

    assert counted[f'build_info{{python="{platform.python_version()}",version="{__version__}"}}'] == 1
    for name in ("cpu_seconds_total", "resident_memory_bytes", "open_fds", "max_fds", "start_time_seconds"):
        assert counted[f"process_{name}"] > 0


def test_no_series_of_creation_times():
    """`…_created` would double the number of series."""
    assert "_created" not in exposition(make_sink())


async def test_a_large_scrape_does_not_hold_up_the_event_loop():
    """With thousands of series a scrape takes long; meanwhile the loop goes on with everything else."""
    clients = [{**CLIENT, "name": f"client-{number}"} for number in range(20)]
    backends = [{**BACKEND, "id": f"backend-{number}"} for number in range(10)]
    models = {f"backend-{number}": ("a", "b", "c", "d", "e") for number in range(10)}
    sink = MetricsSink(lambda: {"backends": backends, "clients": clients}, lambda: models, ServiceCounters())
    turns = 0

    scrape = asyncio.create_task(sink.scrape())
    while not scrape.done():
        await asyncio.sleep(0)
        turns += 1
        if turns % 100 == 0:
            sink.finished(record())

    assert turns > 100
    assert len(scrape.result()) > 1_000_000


def test_limits_and_the_store_that_daemons_share_are_told():
    """Whether it answers, what this daemon has of it, and what is used of each limit, by client where it is one's."""
    limits = [
        {"setting": "shared_max_concurrency", "used": 3, "limit": 40},
        {"setting": "shared_spend_usd_per_day", "client": "core", "used": 0.5, "limit": 2.0, "estimated": 0.1},
    ]
    shared = {"store": "redis", "up": False, "leases": 3, "waiting": 1}
    counted = samples(make_sink(shared=shared, backends=[{**BACKEND, "limits": limits}]))

    places = 'backend_id="local",client="",setting="shared_max_concurrency"'
    money = 'backend_id="local",client="core",setting="shared_spend_usd_per_day"'
    assert counted['shared_store_up{store="redis"}'] == 0
    assert (counted['shared_leases{store="redis"}'], counted['shared_waiting{store="redis"}']) == (3, 1)
    assert (counted[f"limit_used{{{places}}}"], counted[f"limit{{{places}}}"]) == (3, 40)
    assert (counted[f"limit_used{{{money}}}"], counted[f"limit{{{money}}}"]) == (0.5, 2.0)
    assert not any(name.startswith(("shared_", "limit")) for name in samples(make_sink()))
