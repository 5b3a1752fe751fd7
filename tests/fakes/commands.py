"""Commands of the package, run to their end or started."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from .daemon import clean_environment
from .forks import ForkServer


class Outcome:
    """What a command did."""

    def __init__(self, status: int | None, out: bytes, err: bytes) -> None:
        self.status = status
        self.out = out.decode()
        self.err = err.decode()


_FORKS: list[ForkServer] = []


@pytest.fixture(scope="module", autouse=True)
def commands() -> Iterator[None]:
    """Commands that `run` runs are forks of one process, where the module has this fixture."""
    with closing(ForkServer(clean_environment())) as server:
        _FORKS.append(server)
        yield
        _FORKS.clear()


async def run(
    *arguments: Any, stdin: bytes = b"", folder: Path | None = None, environment: dict[str, str] | None = None
) -> Outcome:
    """Runs a command to its end; whatever it does, it prints no traceback.

    Where a fork can do it, one does (`commands`); not where the start of Python matters.
    """
    status: int | None
    by_python = any(name.startswith("PYTHON") for name in environment or {})
    async with asyncio.timeout(30):
        if _FORKS and not by_python and not any(isinstance(one, bytes) for one in arguments):
            status, out, err = await _FORKS[0].run(
                [str(argument) for argument in arguments], stdin, folder, clean_environment(environment)
            )
        else:
            process = await start(*arguments, folder=folder, environment=environment)
            out, err = await process.communicate(stdin)
            status = process.returncode
    assert b"Traceback" not in err, err.decode()
    assert b"Warning" not in err, err.decode()
    return Outcome(status, out, err)


async def start(
    *arguments: Any, folder: Path | None = None, environment: dict[str, str] | None = None
) -> asyncio.subprocess.Process:
    """Starts a command."""
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "beluna_gateway",
        *(argument if isinstance(argument, bytes) else str(argument) for argument in arguments),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(environment),
        cwd=folder,
    )
