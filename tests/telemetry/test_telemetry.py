"""What is told about a request: one record at every exit, one line in the log, and no secret in it."""

from __future__ import annotations

import asyncio
import gc
import json
import logging as standard
import os
import pty
import subprocess
import sys
import threading
import time
import warnings
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Any

import pytest
import structlog

from beluna_gateway.canonical import Completed, OutputTextDelta, Usage, UsageStats
from beluna_gateway.config.settings import Telemetry
from beluna_gateway.errors import GatewayError
from beluna_gateway.telemetry import logging
from beluna_gateway.telemetry.logging import LogSink, logging_to
from beluna_gateway.telemetry.records import RequestRecord
from beluna_gateway.telemetry.redaction import Redactor

from ..fakes.adapter import END, SILENCE, Client, stage, text, transient
from ..fakes.clock import virtual_time
from ..fakes.daemon import clean_environment, make_config

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
    """Around what logs: sends it to a file, and has the lines afterwards."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.touch()
        self.settings = Telemetry(log_level="info")
        self.text = ""

    def __enter__(self) -> None:
        redactor = Redactor()
        redactor.learn("sk-secret")
        self._stack = ExitStack()
        file = self._stack.enter_context(self.path.open("wb"))
        self._stack.enter_context(logging_to(file.fileno(), self.settings, redactor))

    def __exit__(self, *_: object) -> None:
        self._stack.close()
        self.text = self.path.read_text()

    @property
    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.text.splitlines()]


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(tmp_path / "log")


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


def test_levels_and_formats(log: Log):
    """Below the level nothing is logged; `console` is for people, and redacted all the same."""
    log.settings = Telemetry(log_level="error", log_format="console")
    with log:
        structlog.get_logger().warning("not said")
        structlog.get_logger().error("said sk-secret")

    assert "not said" not in log.text
    assert "said <redacted>" in log.text


@pytest.mark.parametrize("log_format", ["auto", "json", "console"])
def test_the_format_auto(log_format: str):
    """`auto` is `console` at a terminal; each of the others is itself there, too."""
    terminal, theirs = pty.openpty()
    settings = Telemetry.model_validate({"log_format": log_format})
    with logging_to(theirs, settings, Redactor()):
        structlog.get_logger().info("said")
    os.close(theirs)
    text = os.read(terminal, 4096).decode()
    os.close(terminal)

    assert text.startswith("{") == (log_format == "json")


def test_the_format_auto_where_there_is_no_terminal(log: Log):
    """A file and a pipe get JSON."""
    log.settings = Telemetry(log_format="auto")
    with log:
        structlog.get_logger().info("said")

    assert [line["event"] for line in log.lines] == ["said"]


def test_the_journal_learns_the_priority_of_each_line(log: Log, monkeypatch: pytest.MonkeyPatch):
    """By a prefix, also of the further lines of a traceback."""
    there = log.path.stat()
    monkeypatch.setenv("JOURNAL_STREAM", f"{there.st_dev}:{there.st_ino}")
    log.settings = Telemetry(log_level="debug", log_format="console")
    with log:
        for level in ("debug", "info", "warning", "error", "critical"):
            structlog.get_logger().log(standard.getLevelNamesMapping()[level.upper()], "said")
        try:
            raise ValueError("a bug")
        except ValueError:
            structlog.get_logger().exception("failed")

    lines = log.text.splitlines()
    assert [line[:3] for line in lines[:5]] == ["<7>", "<6>", "<4>", "<3>", "<2>"]
    assert len(lines) > 7
    assert {line[:3] for line in lines[5:]} == {"<3>"}


@pytest.mark.parametrize("value", ["", "1:2", "x", "{dev}:{ino}0", "{dev}", " {dev}:{ino}", "9" * 5000 + ":1"])
def test_another_stream_than_the_journals_gets_no_priorities(log: Log, monkeypatch: pytest.MonkeyPatch, value: str):
    """`JOURNAL_STREAM` is inherited by whatever a service starts, so device and inode have to agree."""
    there = log.path.stat()
    monkeypatch.setenv("JOURNAL_STREAM", value.format(dev=there.st_dev, ino=there.st_ino))
    with log:
        structlog.get_logger().info("said")

    assert log.text.startswith("{")


def test_control_characters_do_not_reach_a_terminal(log: Log):
    """In the format `console` they are escapes in every field and key; only a traceback keeps its lines."""
    log.settings = Telemetry(log_format="console")
    with log:
        try:
            raise ValueError("\x1b[1m")
        except ValueError:
            structlog.get_logger().exception("\x1b[2J\n", model="\x1b]0;x\x07", metadata={"\x1b": ["\x9b"]})

    assert not set(log.text) & {"\x1b", "\x07", "\x9b", "\r"}
    assert r"\x1b[2J\n" in log.text
    assert log.text.count("\n") > 3


def test_a_traceback_is_pythons_own_whatever_is_installed(log: Log):
    """rich, which structlog prefers where it is there, changes nothing, and nobody is warned of anything."""
    log.settings = Telemetry(log_format="console")
    with log:
        try:
            raise ValueError("a bug")
        except ValueError:
            structlog.get_logger().exception("failed")

    assert log.text.count("failed") == 1
    assert "Traceback (most recent call last):\n" in log.text
    assert log.text.endswith("ValueError: a bug\n")
    assert "Warning" not in log.text


@pytest.mark.parametrize("foreign", ["rich", "better_exceptions"])
def test_what_structlog_could_use_is_not_imported(tmp_path: Path, foreign: str):
    """A daemon neither waits for rich nor keeps it in memory because it is installed for `top`."""
    (tmp_path / f"{foreign}.py").write_text(f"raise SystemExit('{foreign} was imported')")
    (tmp_path / "beluna.jsonc").write_text(json.dumps(make_config({"b": {}})))
    environment = clean_environment({"PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])})
    command = [sys.executable, "-m", "beluna_gateway", "check", "--offline"]
    result = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)

    assert (result.returncode, result.stderr) == (0, "")


def test_large_values_are_cut(log: Log):
    """A client's metadata of megabytes makes a line of kilobytes; a secret at the cut is redacted, not halved."""
    edge = "x" * (logging.MAX_VALUE_CHARACTERS - 4)
    with log:
        LogSink().finished(record(metadata={"a": "y" * 1_000_000, "b": edge + "sk-secret" * 2, "c": "sk-secret"}))
        LogSink().finished(record(metadata={f"key-{number}": "v" for number in range(100_000)}))
        LogSink().finished(record(attempt_errors=["e"] * 100_000))

    assert len(log.text) < 4 * logging.MAX_VALUE_CHARACTERS
    assert "sk-" not in log.text
    assert log.lines[0]["metadata"]["c"] == "<redacted>"
    assert len(log.lines[1]["metadata"]) == len(log.lines[2]["attempt_errors"]) == logging.MAX_ITEMS


class Broken:
    """An object that cannot be written."""

    def __repr__(self) -> str:
        raise ValueError("broken")


def test_a_line_that_cannot_be_made_does_not_raise(log: Log):
    """Whatever is logged, the caller goes on, and the log says that a line is missing."""
    deep: list[Any] = []
    for _ in range(100_000):
        deep = [deep]
    with log:
        structlog.get_logger().info("x", value=Broken())
        structlog.get_logger().info("x", value=deep)
        structlog.get_logger().info("lone surrogate \ud800")

    assert [line["event"] for line in log.lines[:2]] == ["a log line could not be made"] * 2
    assert [line["error"] for line in log.lines[:2]] == ["ValueError", "RecursionError"]
    assert len(log.lines) == 3


def test_every_kind_of_collection_is_redacted(log: Log):
    """Tuples, sets, frozen sets and mappings, and sets in a tuple."""
    secret = "sk-secret"
    values = [(secret,), {secret}, frozenset({secret}), MappingProxyType({secret: 1}), ({secret},)]
    with log:
        for value in values:
            structlog.get_logger().info("x", value=value)

    shown = [["<redacted>"], ["<redacted>"], ["<redacted>"], {"<redacted>": 1}, [["<redacted>"]]]
    assert [line["value"] for line in log.lines] == shown


def test_other_logs_come_along(log: Log):
    """The standard library's loggers, warnings, and exceptions that nobody catches in threads and destructors."""

    class Destroyed:
        def __del__(self) -> None:
            raise ValueError("in a destructor sk-secret")

    def fails() -> None:
        raise ValueError("in a thread sk-secret")

    before = sys.unraisablehook, threading.excepthook, warnings.showwarning, list(standard.getLogger().handlers)
    with log:
        standard.getLogger("asyncio").error("told %s", "sk-secret")
        wrong = standard.LogRecord("asyncio", standard.ERROR, "", 0, "told %d", ("no number",), None)
        standard.getLogger().handlers[-1].handle(wrong)
        standard.getLogger("asyncio").debug("not said")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("careful sk-secret", stacklevel=1)
        thread = threading.Thread(target=fails, name="worker")
        thread.start()
        thread.join()
        Destroyed()
        gc.collect()
    texts = [json.dumps(line) for line in log.lines]
    assert [line["level"] for line in log.lines] == ["error", "error", "warning", "error", "error"]
    assert not any("sk-secret" in line for line in texts)
    expected = ["told <redacted>", "told %d", "careful", "in a thread", "in a destructor"]
    assert [words in line for words, line in zip(expected, texts, strict=True)] == [True] * 5
    assert log.lines[3]["where"] == "worker"
    after = sys.unraisablehook, threading.excepthook, warnings.showwarning, list(standard.getLogger().handlers)
    assert after == before


@virtual_time
async def test_sinks_do_not_depend_on_each_other(tmp_path: Path):
    """Each sink is called whatever another one did, and the request ends as it would have."""

    class Raises:
        def finished(self, record: RequestRecord) -> None:
            raise OSError("disk full")

    log = Log(tmp_path / "log")
    with log:
        async with stage(text("a")) as played:
            played.gateway.telemetry.insert(0, Raises())
            events = await played.ask()
    (record,) = played.records

    assert record.outcome == "completed"
    assert isinstance(events[-1], Completed)
    (line,) = log.lines
    assert (line["event"], line["sink"]) == ("bug in a telemetry sink", "Raises")
    assert "disk full" in line["exception"]
