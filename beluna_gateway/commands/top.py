"""`beluna-gateway top`: a picture of the daemon in the terminal, again and again."""

from __future__ import annotations

import argparse
import shlex
import sys

from .lookup import socket_path, tell_no_daemon
from .outcome import OK, UNAVAILABLE, complain, is_of_output


def run(options: argparse.Namespace) -> int:
    """Runs the command; returns its exit status."""
    try:
        from .top_loop import top
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] != "rich":
            raise
        complain(f"top needs rich, the extra `top` of this package; install it: {_installer()} rich")
        return UNAVAILABLE
    path = socket_path(options)
    if isinstance(path, int):
        return path
    import asyncio
    import signal

    async def run() -> None:
        drawing = asyncio.ensure_future(top(path, options.every, once=options.once))
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, drawing.cancel)
        await drawing

    try:
        asyncio.run(run())
    except asyncio.CancelledError:
        return 128 + signal.SIGTERM
    except OSError as error:
        if is_of_output(error):
            raise
        return tell_no_daemon(path, error)
    return OK


def _installer() -> str:
    """The command that installs a package where this program is: environments that uv has made have no pip."""
    from importlib.util import find_spec

    python = shlex.quote(sys.executable)
    return f"{python} -m pip install" if find_spec("pip") else f"uv pip install --python {python}"
