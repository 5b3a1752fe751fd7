"""What is told about a request: one record at every exit, one line in the log, and no secret in it."""

from __future__ import annotations

import asyncio
import json
import time
from typing import Any

import pytest
import structlog

from beluna_gateway.canonical import OutputTextDelta, Usage, UsageStats
from beluna_gateway.config.settings import Telemetry
from beluna_gateway.errors import GatewayError
from beluna_gateway.telemetry.logging import LogSink, configure_logging
from beluna_gateway.telemetry.records import RequestRecord
from beluna_gateway.telemetry.redaction import Redactor

from ..fakes.adapter import END, SILENCE, Client, stage, text, transient
from ..fakes.clock import virtual_time

FAILING = GatewayError("backend_permanent", "no credit", provider_code="insufficient_quota")

EXITS: list[tuple[str, dict[str, Any], list[Any], dict[str, Any]]] = [
    ("completed", {}, text("a"), {"attempts": 1, "finish_reason": "stop", "error": None}),
    ("backend_permanent", {}, [FAILING], {"attempts": 1, "error": "no credit", "provider_code": "insufficient_quota"}),
    ("internal", {}, [ValueError("a bug")], {"attempts": 1, "error": "a bug in the gateway: ValueError('a bug')"}),
    ("internal", {}, [], {"attempts": 1}),
    ("timeout", {"limits": {"max_request_time_ms": 5}}, [SILENCE], {"attempts": 1}),
    ("invalid_request", {"messages": []}, text(), {"attempts": 0, "backend_id": None, "model": None}),
    ("invalid_request", {"backend_id": "c"}, text(), {"attempts": 0, "backend_id": None, "dialect": None}),
    ("budget_exceeded", {"limits": {"max_output_tokens": 999}}, text(), {"attempts": 0, "backend_id": "b"}),
]


@pytest.mark.parametrize(("outcome", "fields", "script", "expected"), EXITS)
def test_each_request_has_one_record(outcome: str, fields: Any, script: list[Any], expected: dict[str, Any]):
    """However a request ends, it is told once, with what is known of it by then."""

    @virtual_time
    async def run() -> None:
        async with stage(script, budget={"max_usage_tokens_per_request": 9}) as played:
            await played.ask(metadata={"k": "v"}, request_id="r5", **fields)
        (record,) = played.records

        assert (record.outcome, record.request_id, record.metadata) == (outcome, "r5", {"k": "v"})
        if record.backend_id is not None:
            assert (record.backend_id, record.dialect, record.model) == ("b", "ollama", "m")
        assert {name: getattr(record, name) for name in expected} == expected
        assert played.backend.failures == (outcome != "completed" and record.backend_id is not None)

    run()


@pytest.mark.parametrize("where", ["answering", "queued", "between attempts"])
def test_a_cancelled_request_has_one_record(where: str):
    """A client that goes is told of as `cancelled`, wherever its request was, and never as the backend's failure."""

    @virtual_time
    async def run() -> None:
        script: list[Any] = (
            [transient(retry_after_ms=9000)] if where == "between attempts" else [OutputTextDelta("a"), SILENCE]
        )
        async with stage(script, budget={"max_concurrency_per_backend": 1}) as played:
            tasks = [played.begin(Client()) for _ in range(2 if where == "queued" else 1)]
            await asyncio.sleep(1)
            tasks[-1].cancel()
            await asyncio.wait([tasks[-1]])
            (record,) = played.records

            assert (record.outcome, record.error, record.attempts) == ("cancelled", None, 0 if where == "queued" else 1)
            assert played.backend.failures == 0
            for task in tasks:
                task.cancel()
            await asyncio.wait(tasks)

    run()


@virtual_time
async def test_the_errors_of_earlier_attempts_are_kept():
    """They stand beside the outcome, redacted first and cut to length after that."""
    redactor = Redactor()
    redactor.learn("sk-secret")
    long = "x" * 270 + "sk-secret"
    async with stage([transient("sk-secret")], [transient(long)], text("a"), redactor=redactor) as played:
        await played.ask()
    (record,) = played.records

    assert (record.outcome, record.attempts) == ("completed", 3)
    assert record.attempt_errors[0] == "backend_transient: <redacted>"
    assert len(record.attempt_errors[1]) <= 300
    assert "sk-" not in record.attempt_errors[1]


@virtual_time
async def test_usage_is_what_the_backend_said():
    """Reported usage, also of a request that was cancelled after it; nothing reported is None and never an estimate."""
    usage = UsageStats(0, 0, 0)
    async with stage([OutputTextDelta("a"), Usage(usage), SILENCE]) as played:
        task = played.begin(Client())
        await asyncio.sleep(1)
        task.cancel()
        await asyncio.wait([task])
        played.adapter.attempts = [text("a")]
        await played.ask()

    assert [record.usage for record in played.records] == [usage, None]


def test_times_are_told():
    """How long it took to the first output, and to the end; no output has no time."""

    async def run() -> list[RequestRecord]:
        async with stage([0.01, OutputTextDelta("a"), 0.01, END], [FAILING]) as played:
            await played.ask()
            await played.ask()
            return played.records

    begun = time.monotonic()
    with_output, without = asyncio.run(run())

    assert with_output.first_output_after is not None
    assert 0.009 <= with_output.first_output_after < with_output.duration <= time.monotonic() - begun
    assert without.first_output_after is None


# --- the log -------------------------------------------------------------------------------------------------


class Log:
    """Around what logs: configures logging, and has the lines as objects afterwards."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def __enter__(self) -> None:
        redactor = Redactor()
        redactor.learn("sk-secret")
        configure_logging(Telemetry(log_level="info"), redactor)

    def __exit__(self, *_: object) -> None:
        structlog.reset_defaults()
        self.lines = [json.loads(line) for line in self._capsys.readouterr().err.splitlines()]


@pytest.fixture
def log(capsys: pytest.CaptureFixture[str]) -> Log:
    return Log(capsys)


def record(**fields: Any) -> RequestRecord:
    return RequestRecord("r1", **{"metadata": {}, "started_at": 0.0, **fields})


def test_one_line_for_each_request(log: Log):
    """What is known stands in the line, what is not does not; times are whole milliseconds."""
    done = record(
        outcome="completed",
        backend_id="b",
        model="m",
        attempts=1,
        duration=1.2344,
        first_output_after=0.05,
        finish_reason="refusal",
        metadata={"k": "v"},
        usage=UsageStats(3, 4, cost=0.5),
    )
    with log:
        LogSink().finished(done)
    (line,) = log.lines

    assert {key: line[key] for key in line if key != "timestamp"} == {
        "event": "request",
        "level": "info",
        "request_id": "r1",
        "outcome": "completed",
        "attempts": 1,
        "backend_id": "b",
        "model": "m",
        "duration_ms": 1234,
        "first_output_ms": 50,
        "finish_reason": "refusal",
        "input_tokens": 3,
        "output_tokens": 4,
        "cost_usd": 0.5,
        "metadata": {"k": "v"},
    }


@pytest.mark.parametrize(
    ("outcome", "level"),
    [("completed", "info"), ("cancelled", "info"), ("timeout", "warning"), ("internal", "warning")],
)
def test_only_failures_are_warnings(log: Log, outcome: str, level: str):
    """A client that changed its mind is no warning."""
    with log:
        LogSink().finished(record(outcome=outcome))

    assert [line["level"] for line in log.lines] == [level]


def test_no_secret_gets_into_the_log(log: Log):
    """Whatever is logged, at every depth and in tracebacks: known secrets are replaced."""
    told = {"error": "sk-secret", "attempt_errors": ["a sk-secret"], "metadata": {"sk-secret": "sk-secret"}}
    with log:
        LogSink().finished(record(outcome="internal", **told))
        try:
            raise ValueError("sk-secret")
        except ValueError:
            nested = {"a": [{"b": ("sk-secret",)}]}
            structlog.get_logger().exception("sk-secret", nested=nested, error=ValueError("sk-secret"))

    assert len(log.lines) == 2
    assert "sk-secret" not in json.dumps(log.lines)
    assert "<redacted>" in log.lines[1]["exception"]


def test_levels_and_formats(capsys: pytest.CaptureFixture[str]):
    """Below the level nothing is said; `console` is for eyes, and redacted all the same."""
    redactor = Redactor()
    redactor.learn("sk-secret")
    try:
        configure_logging(Telemetry(log_level="error", log_format="console"), redactor)
        structlog.get_logger().warning("not said")
        structlog.get_logger().error("said sk-secret")
    finally:
        structlog.reset_defaults()
    written = capsys.readouterr()

    assert "not said" not in written.err
    assert "said <redacted>" in written.err
    assert written.out == ""
