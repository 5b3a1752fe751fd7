"""The log: structured lines, secrets taken out, one line per request, written by `LogWriter`.

What a processor of a log line raises is logged in its place: no call of the log raises.
"""

from __future__ import annotations

import logging
import os
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping
from contextlib import contextmanager
from itertools import islice
from types import TracebackType
from typing import Any

import structlog

from ..config.settings import Telemetry
from .journal import is_journal, with_priority
from .log_writer import LogWriter
from .records import RequestRecord
from .redaction import Redactor
from .terminal import printable

MAX_VALUE_CHARACTERS = 16 * 1024
"""Longer texts in a log line are cut: a client's `metadata` may have megabytes."""

MAX_ITEMS = 100
"""More entries of a list or an object in a log line are left out."""

CLOSE_SECONDS = 1.0
"""How long the end of the process may wait for log lines to be written."""


class LogSink:
    """The `TelemetrySink` of the log: one line per request.

    Args:
        settings: The log's; None: it logs everything.
    """

    def __init__(self, settings: LogSettings | None = None) -> None:
        self._log = structlog.get_logger("beluna_gateway.request")
        self._settings = settings

    def finished(self, record: RequestRecord) -> None:
        """Logs at level info what completed or was cancelled, at level warning what failed."""
        failed = record.outcome not in ("completed", "cancelled")
        if not failed and self._settings is not None and self._settings.level > logging.INFO:
            return
        fields: dict[str, Any] = {
            "request_id": record.request_id,
            "backend_id": record.backend_id,
            "model": record.model,
            "outcome": record.outcome,
            "attempts": record.attempts,
            "duration_ms": round(record.duration * 1000),
        }
        if record.client is not None:
            fields["client"] = record.client
            fields["uid"] = record.uid
        if record.first_output_after is not None:
            fields["first_output_ms"] = round(record.first_output_after * 1000)
        if record.usage is not None:
            fields["input_tokens"] = record.usage.input_tokens
            fields["output_tokens"] = record.usage.output_tokens
            if record.usage.cost is not None:
                fields["cost_usd"] = record.usage.cost
        for name in ("finish_reason", "error", "provider_code", "attempt_errors", "metadata"):
            if value := getattr(record, name):
                fields[name] = value
        if failed:
            self._log.warning("request", **fields)
        else:
            self._log.info("request", **fields)


class LogSettings:
    """The level and format of the log, which a reload may change.

    Args:
        settings: Those to begin with.
        terminal: Whether people read along: the format `auto` is then `console`.
    """

    def __init__(self, settings: Telemetry, *, terminal: bool) -> None:
        self._terminal = terminal
        self.change(settings)

    def change(self, settings: Telemetry) -> None:
        """From the next line on."""
        self.level = logging.getLevelNamesMapping()[settings.log_level.upper()]
        self.as_json = settings.log_format == "json" or (settings.log_format == "auto" and not self._terminal)


@contextmanager
def logging_to(
    descriptor: int, settings: Telemetry, redactor: Redactor, *, colors: bool = False
) -> Iterator[LogSettings]:
    """While the block runs, everything that is logged in this process goes to `descriptor`, one line per event.

    That is structlog, the standard library's `logging` and `warnings`, and exceptions that nobody catches in a
    destructor or a thread. Leaving the block waits at most `CLOSE_SECONDS` for lines that are not yet written.

    Where the descriptor is systemd's journal, each line begins with its priority, which the journal takes off.

    Args:
        descriptor: A file descriptor, usually 2.
        settings: Level and format; what the block gets changes them.
        redactor: Takes secrets out of every text.
        colors: Whether the format `console` may use colours.
    """
    current = LogSettings(settings, terminal=os.isatty(descriptor))
    render = _renderer(current, redactor, colors=colors, priorities=is_journal(descriptor))

    def filtered(logger: object, method: str, event: _Event) -> str:
        if _LEVELS[method] < current.level:
            raise structlog.DropEvent
        return render(logger, method, event)

    def lost_line(number: int) -> str:
        return render(None, "warning", {"event": "log lines were lost", "lost": number})

    writer = LogWriter(descriptor, lost_line)
    structlog.configure(
        processors=[filtered],
        # Loggers are kept by those who use them, with the level that they have here: `filtered` knows the one of now.
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG),
        logger_factory=lambda *_: _QueueLogger(writer),
        cache_logger_on_first_use=True,
    )
    handler = _StandardHandler()
    root = logging.getLogger()
    root.addHandler(handler)
    before = sys.unraisablehook, threading.excepthook
    sys.unraisablehook, threading.excepthook = _unraisable, _thread_failed
    logging.captureWarnings(capture=True)
    try:
        yield current
    finally:
        logging.captureWarnings(capture=False)
        sys.unraisablehook, threading.excepthook = before
        root.removeHandler(handler)
        structlog.reset_defaults()
        writer.close(CLOSE_SECONDS)


class _QueueLogger:
    """What structlog calls with a rendered line."""

    def __init__(self, writer: LogWriter) -> None:
        self.msg = self.log = self.debug = self.info = self.warning = self.error = self.critical = writer.write


class _StandardHandler(logging.Handler):
    """Passes records of the standard library's loggers on: asyncio's, aiohttp's, and `warnings`."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            text = record.getMessage()
        except Exception as error:  # noqa: BLE001 - arguments that do not fit the message
            text = f"{record.msg!r}, which cannot be formatted: {error!r}"
        log = structlog.get_logger("beluna_gateway")
        log.log(record.levelno, text.rstrip(), logger=record.name, exc_info=record.exc_info)


def _unraisable(found: sys.UnraisableHookArgs) -> None:
    """`sys.unraisablehook`: an exception in a destructor or a callback of C code."""
    text = found.err_msg or "Exception ignored"
    _log_exception(text, found.exc_value, found.exc_traceback, where=repr(found.object))


def _thread_failed(found: threading.ExceptHookArgs) -> None:
    """`threading.excepthook`: an exception that ended a thread."""
    name = found.thread.name if found.thread is not None else "?"
    _log_exception("Exception in a thread", found.exc_value, found.exc_traceback, where=name)


def _log_exception(text: str, error: BaseException | None, traceback: TracebackType | None, where: str) -> None:
    exc_info = None if error is None else (type(error), error, traceback)
    structlog.get_logger("beluna_gateway").error(text, where=where, exc_info=exc_info)


_Event = MutableMapping[str, Any]
_LEVELS = {name.lower(): level for name, level in logging.getLevelNamesMapping().items()}


def _renderer(
    settings: LogSettings, redactor: Redactor, *, colors: bool, priorities: bool
) -> Callable[[object, str, _Event], str]:
    """The processor that makes a line of an event, and never raises."""
    steps: Iterable[structlog.typing.Processor] = (
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    )
    json_line = structlog.processors.JSONRenderer()
    # Said explicitly: where rich is installed structlog would prefer it, and before 26.1 warn of each exception that
    # `format_exc_info` has made a text of.
    plain = structlog.dev.plain_traceback
    text_lines = structlog.dev.ConsoleRenderer(colors=colors, exception_formatter=plain)

    def line(logger: object, method: str, event: _Event) -> str:
        for step in steps:
            event = step(logger, method, event)  # type: ignore[assignment]  # only renderers return something else
        cleaned = {key: _cleaned(value, redactor) for key, value in event.items()}
        if settings.as_json:
            text = str(json_line(logger, method, cleaned))
        else:
            shown = {key: _shown(value, "\n\t" if key == "exception" else "") for key, value in cleaned.items()}
            text = str(text_lines(logger, method, shown))
        return with_priority(text, event["level"]) if priorities else text

    def render(logger: object, method: str, event: _Event) -> str:
        try:
            return line(logger, method, event)
        except Exception as error:  # noqa: BLE001 - a value whose repr raises, for example
            return line(logger, "error", {"event": "a log line could not be made", "error": type(error).__name__})

    return render


def _cleaned(value: Any, redactor: Redactor) -> Any:
    """`value` without secrets, cut to what a log line may hold."""
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        pairs = islice(value.items(), MAX_ITEMS)
        return {_text(str(key), redactor): _cleaned(item, redactor) for key, item in pairs}
    if isinstance(value, list | tuple | set | frozenset):
        return [_cleaned(item, redactor) for item in islice(value, MAX_ITEMS)]
    return _text(value if isinstance(value, str) else repr(value), redactor)  # as the renderer would write it


def _text(text: str, redactor: Redactor) -> str:
    if len(text) <= MAX_VALUE_CHARACTERS:
        return redactor.redact(text)
    # A secret that begins before the cut is seen whole: redacting comes before cutting.
    seen = redactor.redact(text[: MAX_VALUE_CHARACTERS + redactor.longest_form])
    return seen[:MAX_VALUE_CHARACTERS] + "…"


def _shown(value: Any, keep: str) -> Any:
    """A cleaned value for a terminal."""
    if isinstance(value, str):
        return printable(value, keep)
    return printable(repr(value)) if isinstance(value, dict | list) else value
