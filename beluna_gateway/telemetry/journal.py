"""systemd's journal as the reader of standard error: whether it is, and how it learns a line's priority."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping

# sd-daemon(3): the priorities of syslog as a prefix of a line, which the journal takes off.
_PRIORITIES = {"debug": "<7>", "info": "<6>", "warning": "<4>", "error": "<3>", "critical": "<2>"}


def is_journal(descriptor: int, environment: Mapping[str, str] = os.environ) -> bool:
    """Whether `descriptor` is the stream to the journal that systemd opened for this service.

    systemd.exec(5), `JOURNAL_STREAM`: its device and inode, to be compared with the descriptor's, which may have been
    redirected since.
    """
    found = re.fullmatch(r"([0-9]{1,20}):([0-9]{1,20})", environment.get("JOURNAL_STREAM", ""))
    if found is None:
        return False
    try:
        there = os.fstat(descriptor)
    except OSError:
        return False
    return (there.st_dev, there.st_ino) == (int(found[1]), int(found[2]))


def with_priority(text: str, level: str) -> str:
    """`text` for the journal, of which each line is an entry of its own."""
    prefix = _PRIORITIES[level]
    return prefix + text.replace("\n", f"\n{prefix}")
