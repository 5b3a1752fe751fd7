"""Requests as OpenTelemetry spans."""

from __future__ import annotations

import http.server
import sys
import threading
import time
from collections.abc import Iterator
from queue import Queue

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from beluna_gateway.canonical import UsageStats
from beluna_gateway.config.settings import Otlp
from beluna_gateway.daemon.service import MissingExtra, otlp_sink
from beluna_gateway.telemetry.records import RequestRecord

Received = Queue[tuple[str, bytes]]


@pytest.fixture
def collector() -> Iterator[tuple[str, Received]]:
    """A collector on loopback that keeps what it gets."""
    received: Received = Queue()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self):
            received.put((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *arguments):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}", received
        server.shutdown()
        thread.join()


def test_span_of_a_request_reaches_the_collector(collector):
    """Leaving the sink's block sends the spans of the requests that ended, with tokens and outcome."""
    endpoint, received = collector
    record = RequestRecord("r-1", {"team": "red"}, 0.0, "local", "ollama", "qwen", attempts=2, duration=1.5)
    record.outcome, record.finish_reason, record.usage = "completed", "stop", UsageStats(10, 5, 15, cost=0.5)
    with otlp_sink(Otlp(endpoint=endpoint)) as sink:
        sink.finished(record)
    path, body = received.get(timeout=5)

    assert path == "/v1/traces"
    for word in (
        b"chat qwen",
        b"r-1",
        b"gen_ai.usage.input_tokens",
        b"beluna.metadata.team",
        b"completed",
        b"beluna.cost_usd",
    ):
        assert word in body


def test_a_span_continues_the_callers_trace(collector):
    """`metadata.traceparent` names trace and parent; without it the span begins a trace of its own."""
    endpoint, received = collector
    trace, parent = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    with otlp_sink(Otlp(endpoint=endpoint)) as sink:
        sink.finished(RequestRecord("r-1", {"traceparent": f"00-{trace}-{parent}-01"}, 0.0))
    _, body = received.get(timeout=5)

    assert bytes.fromhex(trace) in body
    assert bytes.fromhex(parent) in body


def test_a_span_that_the_caller_does_not_sample_is_not_sent(collector):
    """The caller decides for its whole trace."""
    endpoint, received = collector
    with otlp_sink(Otlp(endpoint=endpoint)) as sink:
        sink.finished(RequestRecord("r-1", {"traceparent": f"00-{'a' * 32}-{'b' * 16}-00"}, 0.0))

    assert received.empty()


def test_a_span_has_the_times_of_its_request(collector):
    """It ends when the request ended and begins its duration before that."""
    endpoint, received = collector
    record = RequestRecord("r-3", {}, 0.0, "local", "ollama", "qwen", duration=1.5)
    before = time.time_ns()
    with otlp_sink(Otlp(endpoint=endpoint)) as sink:
        sink.finished(record)
        after = time.time_ns()
    _, body = received.get(timeout=5)
    request = ExportTraceServiceRequest.FromString(body)
    (span,) = request.resource_spans[0].scope_spans[0].spans

    assert before <= span.end_time_unix_nano <= after
    assert span.end_time_unix_nano - span.start_time_unix_nano == 1_500_000_000


def test_large_metadata_makes_a_small_span(collector):
    """A client's metadata of megabytes does not reach the collector as such."""
    endpoint, received = collector
    metadata = {"long": "x" * 100_000, **{f"key-{number}": "v" for number in range(1000)}}
    with otlp_sink(Otlp(endpoint=endpoint)) as sink:
        sink.finished(RequestRecord("r-4", metadata, 0.0))
    _, body = received.get(timeout=5)

    assert len(body) < 20_000
    assert b"beluna.metadata.key-1" in body


def test_failed_request_is_an_error_span(collector):
    """The error's kind and message are on the span."""
    endpoint, received = collector
    record = RequestRecord("r-2", {}, 0.0, "local", "ollama", "qwen", outcome="rate_limited", error="slow down")
    with otlp_sink(Otlp(endpoint=endpoint)) as sink:
        sink.finished(record)
    _, body = received.get(timeout=5)

    assert b"rate_limited" in body
    assert b"slow down" in body


def test_missing_extra_is_named(monkeypatch):
    """Without the packages, the person is told which extra to install."""
    monkeypatch.setitem(sys.modules, "beluna_gateway.telemetry.otlp", None)

    with pytest.raises(MissingExtra, match=r"beluna-gateway\[otlp\]"):
        otlp_sink(Otlp(endpoint="http://127.0.0.1:1"))
