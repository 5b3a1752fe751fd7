"""Runs a command: `serve`, `ask`, `check` or another one of `commands/`, where `arguments.py` says what each takes.

A command is imported when it is run, so `--version` and `--help` do not load the gateway.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections.abc import Callable, Sequence

from .commands.arguments import command_line
from .commands.outcome import FAILED, complain, is_of_output
from .commands.starter import find_config


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
    options = command_line().parse_args(arguments)
    options.named_config = options.config
    if options.config is None:
        options.config = find_config(os.environ)
    try:
        status = _command(options.command)(options)
        sys.stdout.flush()
    except KeyboardInterrupt:
        return 130
    except OSError as error:
        if not is_of_output(error):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # what is left is not tried again
        if not isinstance(error, BrokenPipeError):  # `… | head` knows why
            complain(f"cannot write to standard output: {error.strerror}")
        return FAILED
    return status


def _command(name: str) -> Callable[[argparse.Namespace], int]:
    match name:
        case "serve":
            from .commands.serve import run
        case "ask":
            from .commands.ask import run
        case "check":
            from .commands.check import run
        case "models":
            from .commands.models import run
        case "reload":
            from .commands.reload import run
        case "status":
            from .commands.status import run
        case "top":
            from .commands.top import run
        case "schema":
            from .commands.schema import run
        case "init":
            from .commands.init import run
        case "completion":
            from .commands.completion import run
        case _:
            raise ValueError(f"there is no command {name!r}")
    return run


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
