"""The command line: `serve`, `ask`, `check` and the other commands. Assembles the parts and runs them.

Each command imports what it needs itself, so `--version` and `--help` do not load the gateway.
"""

from __future__ import annotations

import argparse
import errno
import io
import json
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from .commands.starter import FILE_NAME, VARIABLE, config_places, find_config
from .telemetry.journal import is_journal, with_priority
from .telemetry.terminal import counted, printable, printable_json
from .version import __version__

if TYPE_CHECKING:
    from .config.loading import ConfigError, ConfigUnreadable
    from .config.settings import Config

# sysexits.h
OK, FAILED, USAGE, UNREADABLE, UNAVAILABLE, CANNOT_CREATE, WRONG_CONFIG = 0, 1, 64, 66, 69, 73, 78


EFFORTS = ("off", "minimal", "low", "medium", "high", "xhigh", "max")
"""The words of `reasoning.effort` in a request."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command.

    Returns:
        The exit status: 0; 1 where the command failed; 64, 66, 69, 73, 78 as in sysexits.h.
    """
    _open_standard_descriptors()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a terminal that is not UTF-8 gets escapes, not a traceback
            stream.reconfigure(errors="backslashreplace")
    # Otherwise pydantic searches the metadata of every installed package for plugins, at least 10 ms of each start.
    os.environ.setdefault("PYDANTIC_DISABLE_PLUGINS", "__all__")
    options = _parser().parse_args(arguments)
    options.named_config = options.config
    if options.config is None:
        options.config = find_config(os.environ)
    try:
        status: int = options.run(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if not _is_of_output(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again
        if not isinstance(error, BrokenPipeError):  # `… | head` knows why
            _complain(f"cannot write to standard output: {error.strerror}")
        return FAILED
    return status


def _is_of_output(error: OSError) -> bool:
    """Whether standard output took no more: no connection to a daemon fails with one of these."""
    return error.errno in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


def _open_standard_descriptors() -> None:
    """Opens those of the descriptors 0, 1 and 2 that were closed at start on /dev/null.

    Otherwise the next socket or file would get such a number: a client's connection could become standard error, and
    libuv aborts the process when it closes one of the three.
    """
    for number, (name, mode) in enumerate([("stdin", "r"), ("stdout", "w"), ("stderr", "w")]):
        try:
            os.fstat(number)
        except OSError:
            opened = os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
            setattr(sys, name, os.fdopen(opened, mode, closefd=False))


def _complain(text: str) -> None:
    """Prints to standard error what went wrong; where that takes nothing, the exit status still tells."""
    text = f"beluna-gateway: {printable(text, keep=chr(10))}"
    if is_journal(2):
        text = with_priority(text, "error")
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


class _Parser(argparse.ArgumentParser):
    """Ends with the status of sysexits.h for wrong arguments, where argparse has 2."""

    def error(self, message: str) -> NoReturn:
        self.print_usage(sys.stderr)
        _complain(message)
        self.exit(USAGE)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """Refuses unknown arguments here, so that the usage shown with them is the command's own."""
        options, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return options, unknown


_CONFIG_HELP = (
    f"default: the first of ${VARIABLE}, ./{FILE_NAME}, {FILE_NAME} in $XDG_CONFIG_HOME/beluna-gateway (~/.config) and "
    "in /etc/beluna-gateway"
)


def _parser(complete_files: Any = None) -> argparse.ArgumentParser:
    """The command line. `complete_files` is what shtab wants to find at options whose values are files."""

    def path_argument(parser: argparse.ArgumentParser, name: str, **options: Any) -> None:
        vars(parser.add_argument(name, type=Path, **options))["complete"] = complete_files

    parser = _Parser(prog="beluna-gateway", description="One Unix socket for every model call.")
    parser.add_argument("--version", action="version", version=f"beluna-gateway {__version__}")
    path_argument(parser, "--config", metavar="FILE", help=_CONFIG_HELP)
    parser.set_defaults(run=_serve)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", description="without one: serve")

    def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text)
        # SUPPRESS: otherwise its default would replace a --config before the command
        path_argument(added, "--config", default=argparse.SUPPRESS, metavar="FILE", help=_CONFIG_HELP)
        added.set_defaults(run=run)
        return added

    command("serve", _serve, "run the daemon")

    ask = command("ask", _ask, "ask one question through the daemon and print the answer as it streams")
    ask.add_argument("question", nargs="?", default="-", help="the question; `-` or nothing: read it from stdin")
    path_argument(ask, "--socket", help="the daemon's socket; default: the configuration's socket_path")
    ask.add_argument("--backend", help="the backend's id; default: default_backend")
    ask.add_argument("--model", help="default: the backend's default_model")
    ask.add_argument("--system", help="a system prompt")
    ask.add_argument("--max-output-tokens", type=int, metavar="N", help="stop the answer there")
    ask.add_argument("--effort", choices=EFFORTS, help="how much the model is to reason")
    path_argument(
        ask,
        "--file",
        action="append",
        metavar="PATH",
        help="an image or another file beside the question; may be repeated",
    )
    ask.add_argument("--json", action="store_true", help="print the frames as they come")

    check = command("check", _check, "check the configuration and the credentials, and probe each backend")
    check.add_argument("--backend", help="only this one")
    check.add_argument("--offline", action="store_true", help="only what `serve` would refuse; nothing is contacted")
    check.add_argument("--json", action="store_true", help="print one JSON object")

    models = command("models", _models, "list a backend's models")
    path_argument(models, "--socket", help="the daemon's socket; default: the configuration's socket_path")
    models.add_argument("--backend", help="the backend's id; default: default_backend")
    models.add_argument("--json", action="store_true", help="print the frame as it comes")

    reload = command("reload", _reload, "have the daemon read its configuration again; requests in flight go on")
    path_argument(reload, "--socket", help="the daemon's socket; default: the configuration's socket_path")

    status = command("status", _status, "print the daemon's state: backends, breakers, requests")
    path_argument(status, "--socket", help="default: the configuration's socket_path")
    status.add_argument("--json", action="store_true", help="print the frame as it comes")

    top = command("top", _top, "watch the daemon in the terminal: requests, tokens, breakers, money")
    path_argument(top, "--socket", help="the daemon's socket; default: the configuration's socket_path")
    top.add_argument("--every", type=_seconds, default=1.0, metavar="SECONDS", help="between two pictures; default: 1")
    top.add_argument("--once", action="store_true", help="print one picture as plain text and end")

    schema = command("schema", _schema, "print a JSON Schema")
    schema.add_argument("which", nargs="?", choices=["config", "client", "server"], default="config")

    init = command("init", _init, "write a first configuration, with comments; nothing that is there is overwritten")
    path_argument(init, "folder", nargs="?", help="default: this one")
    init.add_argument("--systemd", action="store_true", help="for a service of the system: also write the units")

    completion = command("completion", _completion, "print a script that completes this command in a shell")
    completion.add_argument("shell", choices=["bash", "zsh", "fish"])
    return parser


def _seconds(text: str) -> float:
    """The value of `--every`."""
    with suppress(ValueError):
        seconds = float(text)
        if 0.05 <= seconds <= 3600:
            return seconds
    raise argparse.ArgumentTypeError(f"{text} is not between 0.05 and 3600")


def _load(path: Path) -> Config | int:
    """The configuration, or the exit status after its mistakes were printed."""
    from .config.loading import ConfigError, ConfigUnreadable, load_config

    try:
        return load_config(path)
    except (ConfigUnreadable, ConfigError) as error:
        return _refused(error, path)


def _refused(error: ConfigUnreadable | ConfigError, path: Path) -> int:
    """Tells what is wrong with the configuration; the exit status."""
    from .config.loading import ConfigUnreadable

    if isinstance(error, ConfigUnreadable):
        _complain(f"{error}{_where_looked(path)}")
        return UNREADABLE
    _complain(str(error))
    return WRONG_CONFIG


def _where_looked(path: Path) -> str:
    """Why it was `path` that was read, where it is missing and nobody named it."""
    places = config_places(os.environ)
    if path != places[0] or path.exists():
        return ""
    if len(places) == 1:
        return f" (${VARIABLE})"
    return f"; looked for in {', '.join(map(str, places))}; `beluna-gateway init` writes one"


# --- serve ---------------------------------------------------------------------------------------------------


def _import_structlog() -> None:
    """Imports structlog as it is where neither rich (the extra `top`) nor better-exceptions is installed.

    It would import them for tracebacks, which the log does not use: rich costs 25 ms of each start and 4.5 MB.
    """
    hidden: dict[str, Any] = dict.fromkeys({"rich", "better_exceptions"} - sys.modules.keys())
    sys.modules.update(hidden)
    import structlog  # noqa: F401

    for name in hidden:
        del sys.modules[name]


def _serve(options: argparse.Namespace) -> int:
    import gc
    import signal

    gc.set_threshold(0)  # what is loaded stays; the daemon sets it (daemon/garbage.py) once it serves
    early: list[int] = []
    # Not SIG_IGN, which programs that the daemon starts would inherit.
    signal.signal(signal.SIGHUP, lambda number, _: early.append(number))
    config = _load(options.config)
    if isinstance(config, int):
        return config
    ends = (signal.SIGTERM, signal.SIGINT)
    for number in ends:  # not before: a handler in Python may wait for the end of a read, and a file may not answer
        signal.signal(number, _end_at_once)
    import asyncio

    import uvloop

    _import_structlog()
    from .daemon.service import MissingExtra, Service
    from .daemon.sockets import SocketError
    from .telemetry.logging import LogSettings, logging_to
    from .telemetry.redaction import Redactor

    redactor = Redactor()

    async def run(log: LogSettings) -> None:
        for number in ends:
            signal.signal(number, lambda number, _: early.append(number))
        async with Service(options.config, config, redactor, log) as service:
            if signal.SIGHUP in early:  # after the file was read, perhaps
                service.daemon.reload()
            for wanted in set(early).intersection(ends):
                service.daemon.stop(signal.Signals(wanted).name)
            await service.daemon.serve()
        for late in (*ends, signal.SIGHUP):  # nothing is left that they could end, and no program is started
            signal.signal(late, signal.SIG_IGN)

    try:
        with (
            logging_to(2, config.telemetry, redactor, colors=os.isatty(2)) as log,
            asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner,
        ):
            runner.run(run(log))
    except MissingExtra as error:
        _complain(str(error))
        return WRONG_CONFIG
    except SocketError as error:
        _complain(str(error))
        return CANNOT_CREATE
    return OK


def _end_at_once(_number: int, _frame: object) -> NoReturn:
    """Handles SIGTERM and SIGINT while there is nothing yet that would have to be closed."""
    raise SystemExit(OK)


# --- ask and status ------------------------------------------------------------------------------------------


def _socket_path(options: argparse.Namespace) -> Path | int:
    if options.socket is not None:
        return Path(options.socket)
    config = _load(options.config)
    if isinstance(config, int):
        if config == WRONG_CONFIG:
            _complain("a daemon that runs goes on with what it has; --socket PATH asks it without this file")
        return config
    folder: Path = options.config.absolute().parent
    return folder / config.socket_path


def _no_daemon(path: Path, error: OSError) -> int:
    from .commands.no_daemon import why_not

    _complain(why_not(path, error))
    return UNAVAILABLE


def _ask(options: argparse.Namespace) -> int:
    path = _socket_path(options)
    if isinstance(path, int):
        return path
    question = _question(options)
    if isinstance(question, int):
        return question
    import asyncio

    from .commands.ask import UnreadableFile, ask_daemon, file_parts

    try:
        files = file_parts(options.file or ())
    except UnreadableFile as error:
        _complain(str(error))
        return UNREADABLE
    try:
        ok, remark = asyncio.run(ask_daemon(path, question, files, options))
    except OSError as error:
        if _is_of_output(error):
            raise
        return _no_daemon(path, error)
    if remark:
        _complain(remark)
    return OK if ok else FAILED


def _question(options: argparse.Namespace) -> str | int:
    """The question, or the exit status after it was told what is wrong with the arguments."""
    question = options.question
    if question == "-":
        data = sys.stdin.buffer.read()
        try:
            question = data.decode()
        except UnicodeDecodeError as error:
            _complain(f"the question is not UTF-8: byte {error.start} is 0x{data[error.start]:02x}")
            return USAGE
    for name, text in (("the question", question), *((f"--{n}", getattr(options, n)) for n in _ASK_TEXTS)):
        if text is not None and not _is_unicode(text):
            _complain(f"{name} is not UTF-8")
            return USAGE
    if not question.strip():
        _complain("the question is empty")
        return USAGE
    return str(question)


_ASK_TEXTS = ("backend", "model", "system")


def _is_unicode(text: str) -> bool:
    """Whether an argument was UTF-8: bytes that were not are halves of surrogate pairs (PEP 383)."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _status(options: argparse.Namespace) -> int:
    path = _socket_path(options)
    if isinstance(path, int):
        return path
    import asyncio

    try:
        frame = asyncio.run(_ask_status(path))
    except OSError as error:
        return _no_daemon(path, error)
    if options.json:
        print(json.dumps(frame))
        return OK
    print(
        f"beluna-gateway {frame['version']}, pid {frame['pid']}, up {frame['uptime_ms'] / 1000:.0f} s, "
        f"{counted(frame['connections'], 'connection')}, {counted(frame['in_flight'], 'request')} in flight"
    )
    counts = ("in_flight", "queued", "requests", "failures", "used_tokens")
    _print_rows(("id", "dialect", "default_model", "breaker", *counts), frame["backends"])
    if clients := frame.get("clients"):  # missing where the daemon is older than this program
        print()
        _print_rows(("name", "connections", *counts), clients)
    return OK


def _print_rows(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    _print_table([columns, *([str(row[name]) for name in columns] for row in rows)])


async def _ask_status(path: Path) -> dict[str, Any]:
    from .client import connect
    from .commands.no_daemon import status_of

    async with connect(path) as client:
        return await status_of(client)


def _top(options: argparse.Namespace) -> int:
    try:
        from .commands.top import top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        _complain(f"top needs rich, the extra `top` of this package; install it: {_installer()} rich")
        return UNAVAILABLE
    path = _socket_path(options)
    if isinstance(path, int):
        return path
    import asyncio
    import signal

    async def run() -> None:
        drawing = asyncio.ensure_future(top(path, options.every, once=options.once))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drawing.cancel)
        await drawing

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except OSError as error:
        if _is_of_output(error):
            raise
        return _no_daemon(path, error)
    return OK


def _installer() -> str:
    """The command that installs a package where this program is: environments that uv has made have no pip."""
    from importlib.util import find_spec

    python = shlex.quote(sys.executable)
    return f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"


def _models(options: argparse.Namespace) -> int:
    path = _socket_path(options)
    if isinstance(path, int):
        return path
    if options.backend is not None and not _is_unicode(options.backend):
        _complain("--backend is not UTF-8")
        return USAGE
    import asyncio

    from .commands.ask import list_models

    try:
        frame = asyncio.run(list_models(path, options.backend))
    except OSError as error:
        return _no_daemon(path, error)
    if options.json:
        print(printable_json(json.dumps(frame, ensure_ascii=False)))
    if frame["type"] != "model_list":
        if not options.json:
            _complain(f"{frame['error']['kind']}: {frame['error']['message']}")
        return FAILED
    if not options.json:
        for model in frame["models"]:
            print(printable(model["id"]))
    return OK


def _reload(options: argparse.Namespace) -> int:
    path = _socket_path(options)
    if isinstance(path, int):
        return path
    import asyncio

    from .commands.reload import NotReloaded, WrongFile, reload_daemon

    try:
        pid = asyncio.run(reload_daemon(path))
    except NotReloaded as error:
        _complain(str(error))
        return FAILED
    except WrongFile as error:
        _complain(f"not reloaded, the daemon goes on as before: {error}")
        return WRONG_CONFIG
    except OSError as error:
        return _no_daemon(path, error)
    print(f"reloaded (pid {pid})")
    return OK


# --- check ---------------------------------------------------------------------------------------------------


def _check(options: argparse.Namespace) -> int:
    from .config.loading import ConfigError, ConfigUnreadable, load_config

    report: dict[str, Any] = {"config": str(options.config), "valid": False, "ok": False}
    try:
        config = load_config(options.config)
    except (ConfigUnreadable, ConfigError) as error:
        if not options.json:
            return _refused(error, options.config)
        print(json.dumps({**report, "mistakes": list(getattr(error, "mistakes", [str(error)]))}))
        return UNREADABLE if isinstance(error, ConfigUnreadable) else WRONG_CONFIG
    known = [backend.id for backend in config.ai_gateway.backends]
    if options.backend is not None and options.backend not in known:
        _complain(f"{options.backend!r} is not configured; configured are {', '.join(known)}")
        return USAGE
    import asyncio
    from dataclasses import asdict

    _import_structlog()
    from .commands.check import FOOTNOTE, Check
    from .daemon.service import MissingExtra, import_extras
    from .daemon.sockets import SocketError
    from .telemetry.logging import logging_to
    from .telemetry.redaction import Redactor

    redactor = Redactor()
    check = Check(config, options.config.absolute().parent, redactor, os.environ)
    status, mistakes = OK, []
    try:
        import_extras(config)
        check.check_sockets()
    except (MissingExtra, SocketError) as error:
        status = WRONG_CONFIG if isinstance(error, MissingExtra) else CANNOT_CREATE
        mistakes = [str(error)]
    log = config.telemetry.model_copy(update={"log_format": "auto"})
    with logging_to(2, log, redactor, colors=os.isatty(2)):
        rows = asyncio.run(check.backends(options.backend, offline=options.offline))
        store = asyncio.run(check.store(offline=options.offline or bool(mistakes)))
    if status == OK and not (all(row.ok for row in rows) and (store is None or store.ok)):
        status = FAILED
    if options.json:
        socket = {"path": str(check.socket_path), "served": check.served}
        report |= {"valid": not mistakes, "ok": status == OK, "mistakes": mistakes, "offline": options.offline}
        report |= {"socket": socket, "backends": [asdict(row) for row in rows]}
        report |= {} if store is None else {"shared": asdict(store)}
        print(printable_json(json.dumps(report, ensure_ascii=False)))
        return status
    print(printable(f"{options.config}: {'not ' if mistakes else ''}valid"))
    for mistake in mistakes:
        _complain(mistake)
    print(printable(f"socket: {check.socket_path}, {'in use by the daemon or systemd' if check.served else 'free'}"))
    of_store = [] if store is None else [store.line()]
    for line in (*of_store, *(line for row in rows for line in row.lines()), FOOTNOTE):
        print(printable(line))
    return status


def _schema(options: argparse.Namespace) -> int:
    from .config.settings import json_schema
    from .wire.frame_schemas import client_frame_schema, server_frame_schema

    schema = {"config": json_schema, "client": client_frame_schema, "server": server_frame_schema}[options.which]()
    print(json.dumps(schema, indent=2))
    return OK


# --- init and completion ---------------------------------------------------------------------------------------------


def _init(options: argparse.Namespace) -> int:
    from .commands.starter import CannotWrite, hidden_from_service, next_steps, write_starter

    if options.folder is not None and options.named_config is not None:
        _complain("init takes a folder or --config, not both")
        return USAGE
    config = options.named_config or config_places(os.environ)[0]
    if options.folder is not None:
        config = options.folder / FILE_NAME
    try:
        files = write_starter(config, systemd=options.systemd)
    except CannotWrite as error:
        _complain(str(error))
        return CANNOT_CREATE
    for file in files:
        print(printable(f"wrote {file}"))
    print("next:")
    for step in next_steps(files, systemd=options.systemd):
        print(printable(f"  {step}"))
    if options.systemd and (programs := hidden_from_service()) is not None:
        _complain(f"the service cannot see {programs}, where this is installed: install it in /opt, for example")
    return OK


def _completion(options: argparse.Namespace) -> int:
    try:
        import shtab
    except ImportError as error:
        _complain(f"completion: {error}; it needs the extra `completion` of this package, which is shtab")
        return UNAVAILABLE
    print(shtab.complete(_parser(complete_files=shtab.FILE), options.shell))
    return OK


def _print_table(cells: Sequence[Sequence[str]]) -> None:
    rows = [[printable(cell) for cell in row] for row in cells]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
