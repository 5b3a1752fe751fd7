"""Judges a text by a JSON Schema in a process of its own, which is killed where it takes too long.

Run as a program it reads the schema, a line break and the text from standard input, and prints `{"mistake"}` or
`{"unusable"}`.
"""

from __future__ import annotations

import asyncio
import json
import os
import resource
import sys
from contextlib import suppress

from ..errors import GatewayError
from ..wire.verdict import UnusableSchemaError, mistake
from .child_process import ChildProcess, clean_environment

LIMIT_SECONDS = 10.0
"""Longest time for one verdict."""

MEMORY_BYTES = 2 * 1024**3
"""Address space of the process."""


async def judge(schema: bytes, text: str) -> str | None:
    """As `wire.verdict.mistake`, without holding up the event loop.

    Args:
        schema: As JSON, in one line.
        text: What is judged.

    Raises:
        UnusableSchemaError: As `mistake`.
        GatewayError: `timeout` after `LIMIT_SECONDS`; `internal` where the process ended without a verdict.
    """
    env = clean_environment({"PYTHONPATH": os.pathsep.join(filter(None, sys.path))})
    child = ChildProcess(sys.executable, ["-m", __name__], env=env, stdin=True, stdout=True, stop_after=0.0)
    try:
        async with asyncio.timeout(LIMIT_SECONDS), child:
            with suppress(ConnectionError):  # it died: its output says so
                child.stdin.write(schema + b"\n" + text.encode())
                await child.stdin.drain()
            child.stdin.close()
            answer = await child.stdout.read()
            await child.wait()
    except TimeoutError:
        raise GatewayError(
            "timeout", f"the answer could not be judged by the schema within {LIMIT_SECONDS:.0f} s; simplify the schema"
        ) from None
    try:
        verdict = json.loads(answer)
    except ValueError:
        raise GatewayError(
            "internal", f"judging the answer by the schema ended with {child.ending}: {child.stderr_tail[-300:]}"
        ) from None
    if "unusable" in verdict:
        raise UnusableSchemaError(verdict["unusable"])
    said: str | None = verdict["mistake"]
    return said


def _main() -> None:
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    schema, _, text = sys.stdin.buffer.read().partition(b"\n")
    try:
        verdict = {"mistake": mistake(json.loads(schema), text.decode())}
    except UnusableSchemaError as error:
        verdict = {"unusable": str(error)}
    json.dump(verdict, sys.stdout)


if __name__ == "__main__":
    _main()
