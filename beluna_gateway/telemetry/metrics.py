"""Requests as Prometheus metrics. Label values come from the configuration only, so their number is bounded.

Names follow prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from .records import RequestRecord

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_BREAKER_STATES = ("closed", "half_open", "open")


class MetricsSink:
    """The `TelemetrySink` behind `/metrics`.

    Args:
        status: `AIGateway.status`, called at each scrape.
    """

    def __init__(self, status: Callable[[], list[dict[str, Any]]]) -> None:
        self._registry = CollectorRegistry()
        self._registry.register(_BackendState(status))
        registry = self._registry

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"beluna_gateway_{name}", text, ("backend_id", *labels), registry=registry)

        def histogram(name: str, text: str) -> Histogram:
            return Histogram(f"beluna_gateway_{name}", text, ("backend_id",), buckets=_SECONDS, registry=registry)

        self._requests = counter("requests_total", "Requests that ended, by outcome.", "outcome")
        self._retries = counter("retries_total", "Attempts after the first.")
        self._tokens = counter("tokens_total", "Tokens as the backend reported them.", "kind")
        self._unreported = counter("usage_unreported_total", "Completed requests for which no usage was reported.")
        self._cost = counter("cost_usd_total", "US dollars, by the configured prices.")
        self._duration = histogram("request_duration_seconds", "From acceptance to the terminal frame.")
        self._first_output = histogram("first_output_seconds", "From acceptance to the first output.")

    def finished(self, record: RequestRecord) -> None:
        """Counts the request."""
        backend_id = record.backend_id or ""
        self._requests.labels(backend_id, record.outcome).inc()
        self._duration.labels(backend_id).observe(record.duration)
        if record.attempts > 1:
            self._retries.labels(backend_id).inc(record.attempts - 1)
        if record.first_output_after is not None:
            self._first_output.labels(backend_id).observe(record.first_output_after)
        usage = record.usage
        if usage is None:
            if record.outcome == "completed":
                self._unreported.labels(backend_id).inc()
            return
        for kind in ("input", "output", "cached_input", "reasoning"):
            tokens = getattr(usage, f"{kind}_tokens")
            if tokens is not None:
                self._tokens.labels(backend_id, kind).inc(tokens)
        if usage.cost is not None:
            self._cost.labels(backend_id).inc(usage.cost)

    def exposition(self) -> bytes:
        """The answer to a scrape (Prometheus text format 0.0.4)."""
        return generate_latest(self._registry)


class _BackendState(Collector):
    """Gauges that are read at each scrape: requests running and waiting, and the states of the breakers."""

    def __init__(self, status: Callable[[], list[dict[str, Any]]]) -> None:
        self._status = status

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """One family per gauge."""
        in_flight = GaugeMetricFamily("beluna_gateway_in_flight", "Requests that have a place.", labels=["backend_id"])
        queued = GaugeMetricFamily("beluna_gateway_queued", "Requests that wait for one.", labels=["backend_id"])
        breaker = GaugeMetricFamily(
            "beluna_gateway_breaker", "1 for the state that the breaker is in.", labels=["backend_id", "state"]
        )
        for backend in self._status():
            in_flight.add_metric([backend["id"]], backend["in_flight"])
            queued.add_metric([backend["id"]], backend["queued"])
            for state in _BREAKER_STATES:
                breaker.add_metric([backend["id"], state], float(backend["breaker"] == state))
        yield in_flight
        yield queued
        yield breaker
