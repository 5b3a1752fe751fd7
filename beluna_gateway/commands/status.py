"""`beluna-gateway status`: the state of a daemon, printed once."""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..client import connect
from ..telemetry.terminal import counted, printable
from .lookup import socket_path, tell_no_daemon
from .no_daemon import status_of
from .outcome import OK


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    path = socket_path(options)
    if isinstance(path, int):
        return path
    try:
        frame = asyncio.run(_ask_status(path))
    except OSError as error:
        return tell_no_daemon(path, error)
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
    async with connect(path) as client:
        return await status_of(client)


def _print_table(cells: Sequence[Sequence[str]]) -> None:
    rows = [[printable(cell) for cell in row] for row in cells]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
