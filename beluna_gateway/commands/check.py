"""`beluna-gateway check`: what an operator wants to know before a restart, printed."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
from dataclasses import asdict
from typing import Any

from ..telemetry.terminal import printable, printable_json
from .lookup import refused
from .outcome import CANNOT_CREATE, FAILED, OK, UNREADABLE, USAGE, WRONG_CONFIG, complain
from .plain_log import import_structlog


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    from ..config.loading import ConfigError, ConfigUnreadable, load_config

    report: dict[str, Any] = {"config": str(options.config), "valid": False, "ok": False}
    try:
        config = load_config(options.config)
    except (ConfigUnreadable, ConfigError) as error:
        if not options.json:
            return refused(error, options.config)
        print(json.dumps({**report, "mistakes": list(getattr(error, "mistakes", [str(error)]))}))
        return UNREADABLE if isinstance(error, ConfigUnreadable) else WRONG_CONFIG
    known = [backend.id for backend in config.ai_gateway.backends]
    if options.backend is not None and options.backend not in known:
        complain(f"{options.backend!r} is not configured; configured are {', '.join(known)}")
        return USAGE
    import_structlog()
    from ..daemon.service import MissingExtra, import_extras
    from ..daemon.sockets import SocketError
    from ..telemetry.logging import logging_to
    from ..telemetry.redaction import Redactor
    from .backend_checks import FOOTNOTE, Check

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
        complain(mistake)
    print(printable(f"socket: {check.socket_path}, {'in use by the daemon or systemd' if check.served else 'free'}"))
    of_store = [] if store is None else [store.line()]
    for line in (*of_store, *(line for row in rows for line in row.lines()), FOOTNOTE):
        print(printable(line))
    return status
