"""`beluna-gateway serve`: the daemon, and the signals that come while it starts and ends."""

from __future__ import annotations

import argparse
import os
from typing import NoReturn

from .lookup import load
from .outcome import CANNOT_CREATE, OK, WRONG_CONFIG, complain
from .plain_log import import_structlog


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    import gc
    import signal

    gc.set_threshold(0)  # what is loaded stays; the daemon sets it (daemon/garbage.py) once it serves
    early: list[int] = []
    # Not SIG_IGN, which programs that the daemon starts would inherit.
    signal.signal(signal.SIGHUP, lambda number, _: early.append(number))
    config = load(options.config)
    if isinstance(config, int):
        return config
    ends = (signal.SIGTERM, signal.SIGINT)
    for number in ends:  # not before: a handler in Python may wait for the end of a read, and a file may not answer
        signal.signal(number, _end_at_once)
    import asyncio

    import uvloop

    import_structlog()
    from ..daemon.service import MissingExtra, Service
    from ..daemon.sockets import SocketError
    from ..telemetry.logging import LogSettings, logging_to
    from ..telemetry.redaction import Redactor

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
        complain(str(error))
        return WRONG_CONFIG
    except SocketError as error:
        complain(str(error))
        return CANNOT_CREATE
    return OK


def _end_at_once(_number: int, _frame: object) -> NoReturn:
    """Handles SIGTERM and SIGINT while there is nothing yet that would have to be closed."""
    raise SystemExit(OK)
