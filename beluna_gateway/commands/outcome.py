"""How a command ends: its exit status, and what it says on standard error."""

from __future__ import annotations

import errno
import sys
from contextlib import suppress

from ..telemetry.journal import is_journal, with_priority
from ..telemetry.terminal import printable

# sysexits.h
OK, FAILED, USAGE, UNREADABLE, UNAVAILABLE, CANNOT_CREATE, WRONG_CONFIG = 0, 1, 64, 66, 69, 73, 78


def complain(text: str) -> None:
    """Prints to standard error what went wrong; where that takes nothing, the exit status still tells."""
    text = f"beluna-gateway: {printable(text, keep=chr(10))}"
    if is_journal(2):
        text = with_priority(text, "error")
    with suppress(OSError):
        print(text, file=sys.stderr, flush=True)


def is_of_output(error: OSError) -> bool:
    """Whether standard output took no more: no connection to a daemon fails with one of these."""
    return error.errno in (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)
