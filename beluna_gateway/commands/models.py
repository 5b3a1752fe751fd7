"""`beluna-gateway models`: the models of a backend."""

from __future__ import annotations

import argparse
import asyncio
import json

from ..telemetry.terminal import printable, printable_json
from .ask import list_models
from .lookup import is_unicode, socket_path, tell_no_daemon
from .outcome import FAILED, OK, USAGE, complain


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    path = socket_path(options)
    if isinstance(path, int):
        return path
    if options.backend is not None and not is_unicode(options.backend):
        complain("--backend is not UTF-8")
        return USAGE
    try:
        frame = asyncio.run(list_models(path, options.backend))
    except OSError as error:
        return tell_no_daemon(path, error)
    if options.json:
        print(printable_json(json.dumps(frame, ensure_ascii=False)))
    if frame["type"] != "model_list":
        if not options.json:
            complain(f"{frame['error']['kind']}: {frame['error']['message']}")
        return FAILED
    if not options.json:
        for model in frame["models"]:
            print(printable(model["id"]))
    return OK
