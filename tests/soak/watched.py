"""The daemon as `python -m beluna_gateway`, which tells how much it holds when it is asked by SIGUSR1.

It writes the number of its asyncio tasks to the file that SOAK_REPORT names, after it has collected garbage and given
free memory back to the system, so that what is resident then is what is held.
"""

from __future__ import annotations

import asyncio
import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

from beluna_gateway.cli import main


def report(*_: object) -> None:
    """Handles the signal, inside the running loop."""
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    path = Path(os.environ["SOAK_REPORT"])
    written = path.with_suffix(".new")
    written.write_text(str(len(asyncio.all_tasks())))
    written.replace(path)


if __name__ == "__main__":
    signal.signal(signal.SIGUSR1, report)
    sys.exit(main(sys.argv[sys.argv.index("beluna_gateway") + 1 :]))
