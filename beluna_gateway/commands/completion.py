"""`beluna-gateway completion`: a script that completes the command line in a shell."""

from __future__ import annotations

import argparse

from .arguments import command_line
from .outcome import OK, UNAVAILABLE, complain


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    try:
        import shtab
    except ImportError as error:
        complain(f"completion: {error}; it needs the extra `completion` of this package, which is shtab")
        return UNAVAILABLE
    print(shtab.complete(command_line(complete_files=shtab.FILE), options.shell))
    return OK
