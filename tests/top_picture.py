"""Draws docs/top.svg: `beluna-gateway top` after a minute of a daemon's life. `python -m tests.top_picture` writes it.

The `status` frames are a real daemon's, which is asked by four clients and asks scripted backends; only time is made
up, one second from each frame to the next, and who connects, because a test has one uid.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

from rich._export_format import CONSOLE_SVG_FORMAT
from rich.console import Console
from rich.terminal_theme import TerminalTheme

from beluna_gateway.commands.top_screen import screen
from beluna_gateway.commands.top_view import HISTORY_SAMPLES, Sample, View, view

from .fakes.answers import DONE, SILENCE, delta, fails, finish, plays, usage
from .fakes.backend import FakeBackend, fake_backend
from .fakes.client import Client, Frame
from .fakes.daemon import local_daemon, make_config

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "top.svg"
WIDTH, HEIGHT = 118, 25
UPTIME = 11_640.0

CLIENTS = ("core", "notes", "voice", "nightly")
_MODELS = {"openai": "gpt-5.4-mini", "anthropic": "claude-haiku-4-5", "gemini": "gemini-2.5-flash", "local": "qwen3-8b"}
_STREAMS = {"openai": 5, "gemini": 2, "local": 5}
"""Requests that are under way at the end; `local` has two places, so the others wait."""

_THEME = TerminalTheme(
    (17, 21, 28),
    (201, 209, 217),
    [
        *((17, 21, 28), (255, 123, 114), (126, 211, 137), (227, 179, 65)),
        *((121, 162, 247), (188, 140, 255), (86, 200, 216), (201, 209, 217)),
    ],
    [
        *((74, 82, 94), (255, 160, 150), (150, 230, 160), (240, 200, 100)),
        *((150, 185, 255), (210, 170, 255), (120, 220, 235), (240, 246, 252)),
    ],
)


def config(backend: FakeBackend) -> dict[str, Any]:
    """Four backends, of which three cost money, and four clients."""
    price = {"input_per_mtok": 2.5, "output_per_mtok": 10}
    backends: dict[str, Any] = {
        name: {"default_model": model, **({} if name == "local" else {"pricing": {model: price}})}
        for name, model in _MODELS.items()
    }
    backends["local"]["budget"] = {"max_concurrency_per_backend": 2}
    backends["anthropic"]["reliability"] = {"breaker_failure_threshold": 3}
    clients = [{"name": name, "uids": [1000 + index]} for index, name in enumerate(CLIENTS)]
    return make_config(backends, backend, server={"clients": clients})


async def samples() -> list[Sample]:
    """A daemon's minute."""
    uids = iter([1000, 1001, 1002, 1003, 1000])  # the last one asks for `status`
    async with AsyncExitStack() as stack:
        stack.enter_context(patch("beluna_gateway.daemon.connection.peer_uid", lambda _: next(uids)))
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        backend = await stack.enter_async_context(fake_backend())
        daemon = await stack.enter_async_context(local_daemon(folder, config(backend)))
        clients = [await stack.enter_async_context(daemon.client()) for _ in CLIENTS]
        watcher = await stack.enter_async_context(daemon.client())
        frames = []
        for second in range(HISTORY_SAMPLES):
            for index, (name, tokens) in enumerate(_answers(second)):
                backend.on(name, plays(delta("x"), finish(), usage(4 * tokens, tokens), DONE))
                await _ask(clients[(second + index) % 3], name)
            if second == HISTORY_SAMPLES - 4:
                backend.on("anthropic", *[fails(503)] * 3)
                for _ in range(3):
                    await _ask(clients[1], "anthropic")
            frames.append(await watcher.status())
        await _leave_under_way(clients, backend)
        while (frame := await watcher.status())["in_flight"] < sum(_STREAMS.values()) or _waiting(frame) < 3:
            await asyncio.sleep(0)
        frames[-1] = frame
        return [
            Sample(float(at), {**frame, "version": "0.2.0", "pid": 4711, "uptime_ms": int((UPTIME + at) * 1000)})
            for at, frame in enumerate(frames)
        ]


def _answers(second: int) -> Iterator[tuple[str, int]]:
    """The answers that end in this second: their backends, and their tokens. Waves, so that there is a curve."""
    wave = abs((second * 7) % 46 - 23) + (second * second) % 17
    for index in range(1 + wave // 9):
        name = ("openai", "local", "anthropic", "openai", "gemini")[(second + index) % 5]
        yield name, 20 + 9 * wave + 13 * index


async def _ask(client: Client, name: str) -> None:
    await client.infer(name, "r")
    await client.answer()


async def _leave_under_way(clients: list[Client], backend: FakeBackend) -> None:
    for name, count in _STREAMS.items():
        backend.on(name, *[plays(delta("x"), SILENCE)] * count)
        for number in range(count):
            await clients[number % len(clients)].infer(name, f"{name}-{number}")


def _waiting(frame: Frame) -> int:
    return sum(backend["queued"] for backend in frame["backends"])


def picture(shown: View) -> str:
    """As SVG."""
    console = Console(
        record=True, width=WIDTH, height=HEIGHT, file=io.StringIO(), highlight=False, color_system="truecolor"
    )
    console.print(screen(shown, WIDTH, HEIGHT))
    # Some renderers take away spaces at the beginning of a text, and with them the alignment of numbers.
    template = CONSOLE_SVG_FORMAT.replace("<svg ", '<svg xml:space="preserve" ', 1)
    return console.export_svg(title="beluna-gateway top", theme=_THEME, unique_id="top", code_format=template)


def plain(shown: View) -> str:
    """As `--once` prints it."""
    console = Console(width=WIDTH, file=io.StringIO(), highlight=False, color_system=None)
    with console.capture() as captured:
        console.print(screen(shown, WIDTH, HEIGHT))
    return captured.get()


async def drawn() -> View:
    """What the picture shows."""
    played = await samples()
    return view(played, played[-1].at)


if __name__ == "__main__":
    PICTURE.write_text(picture(asyncio.run(drawn())), "utf-8")
