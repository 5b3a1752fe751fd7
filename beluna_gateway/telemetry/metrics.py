"""Requests, and the daemon itself, as Prometheus metrics. docs/metrics.md describes each of them.

Label values come from the configuration only, so their number is bounded: a model that the configuration does not name
is `other`, and the clients are those of `server.clients`, or at most `MAX_UIDS` uids (`pipeline/clients.py`). What can
be counted is there from the start, with the value 0: a rate over a series that appears with its first event would miss
that event.

Names follow prometheus.io/docs/practices/naming.
"""

from __future__ import annotations

import asyncio
import os
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import product
from typing import Any, get_args

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from ..errors import ErrorKind
from ..version import __version__
from .records import RequestRecord
from .service import ProgramState, Refusal, ServiceCounters

OTHER_MODEL = "other"
"""The label of a model that the configuration does not name."""

_OUTCOMES = ("completed", *get_args(ErrorKind))
# Of rejected lines; another kind would appear with its first line.
_REJECTED_KINDS = ("invalid_request", "budget_exceeded", "authorization", "internal")
_TOKEN_KINDS = ("input", "output", "cached_input", "cache_write_input", "reasoning")
_BREAKER_STATES = ("closed", "half_open", "open")

_SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_TOKEN_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.5)
_CANCEL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)

Status = Mapping[str, Any]
"""The fields of a `status` frame."""


class MetricsSink:
    """The `TelemetrySink` behind `/metrics`. All costs are per request or per scrape.

    Args:
        status: The fields of a `status` frame; called at each scrape.
        models: The models that the configuration names, by backend; called at each scrape.
        service: What the daemon counts itself.
    """

    def __init__(
        self,
        status: Callable[[], Status],
        models: Callable[[], Mapping[str, Sequence[str]]],
        service: ServiceCounters,
    ) -> None:
        # Otherwise each counter and histogram has a second series, `…_created`, which the text format cannot use.
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._status = status
        self._models = models
        self._there: set[tuple[str, ...]] = set()
        self._scraping = asyncio.Lock()
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self._service = _Service(service)
        registry.register(self._service)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"beluna_gateway_{name}", text, labels, registry=registry)

        def histogram(name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
            return Histogram(f"beluna_gateway_{name}", text, labels, buckets=buckets, registry=registry)

        who = ("backend_id", "model", "client")
        self._requests = counter("requests_total", "Requests that ended, by outcome.", *who, "outcome")
        self._tokens = counter("tokens_total", "Tokens as the backend reported them.", *who, "kind")
        self._cost = counter("cost_usd_total", "US dollars, by the configured prices or the provider's own.", *who)
        self._retries = counter("retries_total", "Attempts after the first.", "backend_id")
        self._unreported = counter(
            "usage_unreported_total", "Completed requests for which no usage was reported.", "backend_id"
        )
        what = ("backend_id", "model")
        self._duration = histogram(
            "request_duration_seconds", "From acceptance to the terminal frame.", _SECONDS, *what, "outcome"
        )
        self._first_output = histogram("first_output_seconds", "From acceptance to the first output.", _SECONDS, *what)
        self._per_token = histogram(
            "time_per_output_token_seconds",
            "Mean time between two tokens after the first output, of each completed stream.",
            _TOKEN_SECONDS,
            *what,
        )
        self._cancel = histogram(
            "cancel_seconds",
            "From a cancel, a disconnect or the end of a shutdown's grace until the backend's connection was closed.",
            _CANCEL_SECONDS,
            "backend_id",
        )

    def finished(self, record: RequestRecord) -> None:
        """Counts the request."""
        backend_id = record.backend_id or ""
        model = (record.model or "") if record.model_is_configured else (OTHER_MODEL if backend_id else "")
        who = (backend_id, model, record.client or "")
        self._requests.labels(*who, record.outcome).inc()
        self._duration.labels(backend_id, model, record.outcome).observe(record.duration)
        if record.attempts > 1:
            self._retries.labels(backend_id).inc(record.attempts - 1)
        if record.first_output_after is not None:
            self._first_output.labels(backend_id, model).observe(record.first_output_after)
        if (seconds := record.seconds_per_output_token) is not None:
            self._per_token.labels(backend_id, model).observe(seconds)
        if record.cancel_seconds is not None:
            self._cancel.labels(backend_id).observe(record.cancel_seconds)
        usage = record.usage
        if usage is None:
            if record.outcome == "completed":
                self._unreported.labels(backend_id).inc()
            return
        for kind in _TOKEN_KINDS:
            if tokens := getattr(usage, f"{kind}_tokens"):
                self._tokens.labels(*who, kind).inc(tokens)
        if usage.cost is not None:
            self._cost.labels(*who).inc(usage.cost)

    async def scrape(self) -> bytes:
        """The answer to a scrape (Prometheus text format 0.0.4).

        It is written in a thread: with many models and clients that takes longer than a stream may wait.
        """
        async with self._scraping:
            return await asyncio.to_thread(self._exposition, self._status(), self._models())

    def _exposition(self, status: Status, configured: Mapping[str, Sequence[str]]) -> bytes:
        self._service.status = status
        # Before anybody has connected, the likeliest client: the user that the daemon runs as.
        clients = [client["name"] for client in status["clients"]] or [str(os.getuid())]
        for backend_id, models in configured.items():
            for model, client in product(models, clients):
                self._prepare(backend_id, model, client)
        return generate_latest(self._registry)

    def _prepare(self, backend_id: str, model: str, client: str) -> None:
        """Makes the series of this backend, model and client, where they are not there.

        Durations are made for completed requests only: a histogram has 17 series.
        """
        who = (backend_id, model, client)
        if who in self._there:
            return
        self._there.add(who)
        for outcome in _OUTCOMES:
            self._requests.labels(*who, outcome)
        for kind in _TOKEN_KINDS:
            self._tokens.labels(*who, kind)
        self._cost.labels(*who)
        self._duration.labels(backend_id, model, "completed")
        for histogram in (self._first_output, self._per_token):
            histogram.labels(backend_id, model)
        for metric in (self._retries, self._unreported, self._cancel):
            metric.labels(backend_id)


class _Service(Collector):
    """What is read at each scrape: the daemon's own counters, and the state of backends, clients and programs."""

    def __init__(self, counters: ServiceCounters) -> None:
        self.status: Status = {"backends": [], "clients": []}
        self._counters = counters

    def collect(self) -> Iterator[Metric]:
        """One family per metric."""
        yield InfoMetricFamily(
            "beluna_gateway_build",
            "The version of the gateway and of the Python that runs it.",
            {"version": __version__, "python": platform.python_version()},
        )
        yield from self._backends()
        yield from self._clients()
        yield from self._limits()
        refused = _counter("connections_refused", "Connections that were refused, by reason.", "reason")
        for reason in get_args(Refusal):
            refused.add_metric([reason], self._counters.refused[reason])
        yield refused
        reloads = _counter("reloads", "Reloads of the configuration, by result.", "result")
        for result in ("ok", "failed"):
            reloads.add_metric([result], self._counters.reloads[result])
        yield reloads
        yield GaugeMetricFamily(
            "beluna_gateway_config_is_current",
            "0 where the last reload failed, so that the daemon still uses the configuration before it.",
            float(self._counters.config_is_current),
        )

    def _backends(self) -> Iterator[Metric]:
        in_flight = _gauge("in_flight", "Requests that have a place.", "backend_id")
        queued = _gauge("queued", "Requests that wait for one.", "backend_id")
        breaker = _gauge("breaker", "1 for the state that the breaker is in.", "backend_id", "state")
        program = _gauge("program", "1 for the state that the backend's own program is in.", "backend_id", "state")
        starts = _counter("program_starts", "Starts of the backend's own program.", "backend_id")
        for backend in self.status["backends"]:
            name = backend["id"]
            in_flight.add_metric([name], backend["in_flight"])
            queued.add_metric([name], backend["queued"])
            for state in _BREAKER_STATES:
                breaker.add_metric([name, state], float(backend["breaker"] == state))
            if (its := backend.get("program")) is not None:
                for state in get_args(ProgramState):
                    program.add_metric([name, state], float(its["state"] == state))
                starts.add_metric([name], its["starts"])
        yield from (in_flight, queued, breaker, program, starts)

    def _limits(self) -> Iterator[Metric]:
        """Of money, and of what daemons share; without such settings there is nothing."""
        shared = self.status.get("shared")
        if shared is not None:
            store = ["store"]
            up = _gauge("shared_store_up", "1 where the store of the shared limits answers.", *store)
            leases = _gauge("shared_leases", "Shared places that this daemon has.", *store)
            waiting = _gauge("shared_waiting", "Requests of this daemon that wait for a shared place or start.", *store)
            for gauge, key in ((up, "up"), (leases, "leases"), (waiting, "waiting")):
                gauge.add_metric([shared["store"]], float(shared[key]))
            yield from (up, leases, waiting)
        labels = ("backend_id", "client", "setting")
        used = _gauge("limit_used", "Used of a limit: places, tokens of a minute, or US dollars.", *labels)
        limit = _gauge("limit", "The limit, in the same unit.", *labels)
        for backend in self.status["backends"]:
            for entry in backend.get("limits", ()):
                names = [backend["id"], entry.get("client", ""), entry["setting"]]
                used.add_metric(names, entry["used"])
                limit.add_metric(names, entry["limit"])
        if used.samples:
            yield from (used, limit)

    def _clients(self) -> Iterator[Metric]:
        connections = _gauge("connections", "Connections that are open.", "client")
        accepted = _counter("connections_accepted", "Connections that were accepted.", "client")
        in_flight = _gauge("client_in_flight", "Requests that have not ended, by client.", "client")
        queued = _gauge("client_queued", "Requests that wait for a place of the client's own.", "client")
        rejected = _counter("rejected_lines", "Lines that were rejected, by kind of error.", "client", "kind")
        for client in self.status["clients"]:
            name = client["name"]
            connections.add_metric([name], client["connections"])
            accepted.add_metric([name], self._counters.connections[name])
            in_flight.add_metric([name], client["in_flight"])
            queued.add_metric([name], client["queued"])
            seen = (kind for client_name, kind in self._counters.rejected if client_name == name)
            for kind in dict.fromkeys((*_REJECTED_KINDS, *seen)):
                rejected.add_metric([name, kind], self._counters.rejected[name, kind])
        yield from (connections, accepted, in_flight, queued, rejected)


def _gauge(name: str, text: str, *labels: str) -> GaugeMetricFamily:
    return GaugeMetricFamily(f"beluna_gateway_{name}", text, labels=labels)


def _counter(name: str, text: str, *labels: str) -> CounterMetricFamily:
    return CounterMetricFamily(f"beluna_gateway_{name}", text, labels=labels)
