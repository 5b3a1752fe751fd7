"""`beluna-gateway top`: asks the daemon for its `status` again and again, and draws it.

Needs rich (the extra `top`). Time and terminal are here; what the picture says is in `top_view`, how it looks in
`top_screen`.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import time
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from pathlib import Path

from rich.console import Console
from rich.live import Live

from ..client import connect
from .no_daemon import status_of, why_not
from .top_screen import screen
from .top_view import HISTORY_SAMPLES, Lost, Sample, view

ANSWER_SECONDS = 5.0
"""A daemon that takes longer for a `status` frame counts as lost: it answers at once, whatever else it does."""

PLAIN_SIZE = (120, 50)
"""Columns and lines of a plain picture where neither a terminal nor `$COLUMNS` says otherwise."""


async def top(path: Path, every: float, *, once: bool) -> None:
    """Draws until it is cancelled; with `once`, or where standard output is no terminal, one picture.

    Args:
        path: The daemon's socket.
        every: Seconds between two pictures.
        once: Whether to draw one picture only, of plain text. The daemon is asked twice for it: a rate takes time.

    Raises:
        OSError: Nobody answers at `path`, at the first time. Later that is shown, and tried again.
    """
    console = Console(highlight=False)
    async with aclosing(_statuses(path, every)) as statuses:
        if once or not console.is_terminal or console.is_dumb_terminal:
            await _draw_once(statuses)
        else:
            await _draw(statuses, console)


async def _statuses(path: Path, every: float) -> AsyncGenerator[Sample | Lost, None]:
    """The daemon's status, every so many seconds, or that it is lost, across its restarts."""
    answered = lost = None
    while True:
        try:
            async with connect(path) as client:
                while True:
                    frame = await status_of(client, ANSWER_SECONDS)
                    answered, lost = Sample(time.monotonic(), frame), None
                    yield answered
                    await asyncio.sleep(every)
        except OSError as error:
            if answered is None:
                raise
            lost = Lost(answered.at, why_not(path, error))
        yield lost
        await asyncio.sleep(every)


async def _draw_once(statuses: AsyncGenerator[Sample | Lost, None]) -> None:
    samples: list[Sample] = []
    while len(samples) < 2:
        answer = await anext(statuses)
        if isinstance(answer, Lost):
            raise ConnectionError(answer.why)
        samples.append(answer)
    width, _ = shutil.get_terminal_size(PLAIN_SIZE)
    plain = Console(highlight=False, color_system=None, force_terminal=False, width=width)
    plain.print(screen(view(samples, samples[-1].at), width))


async def _draw(statuses: AsyncGenerator[Sample | Lost, None], console: Console) -> None:
    # Before the screen is taken: without a daemon its error message is all that there is to see.
    answer = await anext(statuses)
    samples = deque([answer] if isinstance(answer, Sample) else [], maxlen=HISTORY_SAMPLES)
    loop = asyncio.get_running_loop()
    # The alternate screen: what was on the terminal before is there again afterwards, also after SIGTERM.
    with Live(console=console, screen=True, auto_refresh=False) as live:

        def draw() -> None:
            lost = answer if isinstance(answer, Lost) else None
            shown = view(list(samples), time.monotonic(), lost)
            live.update(screen(shown, console.width, console.height), refresh=True)

        def suspend() -> None:
            live.stop()
            os.kill(os.getpid(), signal.SIGSTOP)
            live.start()
            draw()

        handlers = {signal.SIGWINCH: draw, signal.SIGTSTP: suspend}
        for number, handler in handlers.items():
            loop.add_signal_handler(number, handler)
        try:
            draw()
            async for answer in statuses:
                if isinstance(answer, Sample):
                    samples.append(answer)
                draw()
        finally:
            for number in handlers:
                loop.remove_signal_handler(number)
