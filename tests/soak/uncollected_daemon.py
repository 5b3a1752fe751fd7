"""The daemon as `python -m beluna_gateway`, without a garbage collector; it tells what it holds at SIGUSR1.

To the file that SOAK_REPORT names it writes the bytes that are resident, once free memory has been given back to the
system, and what only the collector would free: the number of objects in unreachable reference cycles, by their types.
"""

from __future__ import annotations

import ctypes
import gc
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path

from beluna_gateway.cli import main
from beluna_gateway.daemon.garbage import RareCollection

LIBC = ctypes.CDLL(None)


def report(*_: object) -> None:
    """Handles the signal, inside the running loop."""
    LIBC.malloc_trim(0)
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    gc.set_debug(gc.DEBUG_SAVEALL)
    gc.collect()
    gc.set_debug(0)
    types = Counter(f"{type(found).__module__}.{type(found).__qualname__}" for found in gc.garbage)
    held = {"resident": resident, "objects": len(gc.garbage), "types": dict(types.most_common(10))}
    gc.garbage.clear()
    gc.collect()
    path = Path(os.environ["SOAK_REPORT"])
    written = path.with_suffix(".new")
    written.write_text(json.dumps(held))
    written.replace(path)


if __name__ == "__main__":
    gc.disable()
    RareCollection.request_ended = lambda self: None  # type: ignore[method-assign]  # which would collect when idle
    signal.signal(signal.SIGUSR1, report)
    sys.exit(main(sys.argv[sys.argv.index("beluna_gateway") + 1 :]))
