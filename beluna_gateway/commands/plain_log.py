"""structlog for the commands that log."""

from __future__ import annotations

import sys
from typing import Any


def import_structlog() -> None:
    """Imports structlog as it is where neither rich (the extra `top`) nor better-exceptions is installed.

    It would import them for tracebacks, which the log does not use: rich costs 25 ms of each start and 4.5 MB.
    """
    hidden: dict[str, Any] = dict.fromkeys({"rich", "better_exceptions"} - sys.modules.keys())
    sys.modules.update(hidden)
    import structlog  # noqa: F401

    for name in hidden:
        del sys.modules[name]
