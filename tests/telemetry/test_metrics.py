"""Requests as Prometheus metrics."""

from __future__ import annotations

from typing import Any

from beluna_gateway.canonical import UsageStats
from beluna_gateway.telemetry.metrics import MetricsSink
from beluna_gateway.telemetry.records import RequestRecord


def record(**fields: Any) -> RequestRecord:
    return RequestRecord("r", {}, 0.0, backend_id="local", outcome=fields.pop("outcome", "completed"), **fields)


def samples(sink: MetricsSink) -> dict[str, float]:
    """The exposition without comments and buckets: name with labels → value."""
    lines = sink.exposition().decode().splitlines()
    pairs = (line.rpartition(" ") for line in lines if not line.startswith("#") and "_bucket" not in line)
    return {name.removeprefix("beluna_gateway_"): float(value) for name, _, value in pairs}


def test_requests_are_counted_by_backend_and_outcome():
    """Each request that ended is counted once, under what became of it."""
    sink = MetricsSink(list)
    for outcome in ("completed", "cancelled", "cancelled", "rate_limited"):
        sink.finished(record(outcome=outcome))

    counted = samples(sink)

    assert counted['requests_total{backend_id="local",outcome="completed"}'] == 1
    assert counted['requests_total{backend_id="local",outcome="cancelled"}'] == 2
    assert counted['requests_total{backend_id="local",outcome="rate_limited"}'] == 1
    assert counted['request_duration_seconds_count{backend_id="local"}'] == 4


def test_reported_usage_is_added_up():
    """Tokens and cost are what the backend reported, an explicit zero included."""
    sink = MetricsSink(list)
    usage = UsageStats(10, 5, 15, cached_input_tokens=0, cost=0.25)
    sink.finished(record(usage=usage))
    sink.finished(record(usage=usage))

    counted = samples(sink)

    assert counted['tokens_total{backend_id="local",kind="input"}'] == 20
    assert counted['tokens_total{backend_id="local",kind="output"}'] == 10
    assert counted['tokens_total{backend_id="local",kind="cached_input"}'] == 0
    assert counted['cost_usd_total{backend_id="local"}'] == 0.5
    assert 'tokens_total{backend_id="local",kind="reasoning"}' not in counted


def test_missing_usage_is_counted_and_not_made_up():
    """A completed request without usage shows as such; a failed one is not expected to have any."""
    sink = MetricsSink(list)
    sink.finished(record())
    sink.finished(record(outcome="timeout"))

    counted = samples(sink)

    assert counted['usage_unreported_total{backend_id="local"}'] == 1
    assert not any(name.startswith("tokens_total") for name in counted)


def test_attempts_after_the_first_are_retries():
    """A request with three attempts has two retries."""
    sink = MetricsSink(list)
    sink.finished(record(attempts=3))
    sink.finished(record(attempts=1))

    assert samples(sink)['retries_total{backend_id="local"}'] == 2


def test_state_of_backends_is_asked_at_each_scrape():
    """Running and waiting requests and the breaker are as they are at the moment of the scrape."""
    status: dict[str, Any] = {"id": "local", "in_flight": 2, "queued": 1, "breaker": "open"}
    sink = MetricsSink(lambda: [status])
    before = samples(sink)
    status["breaker"] = "closed"
    after = samples(sink)

    assert before['in_flight{backend_id="local"}'] == 2
    assert before['queued{backend_id="local"}'] == 1
    assert before['breaker{backend_id="local",state="open"}'] == 1
    assert after['breaker{backend_id="local",state="open"}'] == 0
    assert after['breaker{backend_id="local",state="closed"}'] == 1


def test_labels_are_configured_names_only():
    """A client cannot make new time series: neither its model name nor its metadata are labels."""
    sink = MetricsSink(list)
    sink.finished(RequestRecord("r", {"user": "canary"}, 0.0, backend_id="local", model="canary", outcome="completed"))

    assert "canary" not in sink.exposition().decode()
