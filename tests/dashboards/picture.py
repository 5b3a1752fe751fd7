"""Draws docs/dashboard.png: the Grafana dashboard after six minutes of a daemon's life.

`.venv/bin/python -m tests.dashboards.picture`, as root, writes it. Everything but Grafana itself is real: a daemon, its
clients under uids of their own (which only root may give them), a Prometheus server that scrapes the daemon and answers
each query of the dashboard. `picture.jsx` draws the panels with Grafana's own components, the npm packages
`@grafana/ui` and `@grafana/data`, by what `dashboards/grafana.json` says: places, titles, units, thresholds.

Needs Debian's packages prometheus, chromium-headless-shell, fonts-inter and pngquant, and Node.js with npm.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

from tests.fakes.answers import DONE, answers, delta, fails, finish, plays, usage
from tests.fakes.backend import Exchange, FakeBackend, fake_backend
from tests.fakes.client import TERMINAL, Client
from tests.fakes.daemon import DaemonProcess, make_config, write_config

from .conftest import free_port
from .prometheus import Prometheus, prometheus
from .queries import DASHBOARD, PANELS, with_variables

ROOT = Path(__file__).resolve().parents[2]
PICTURE = ROOT / "docs" / "dashboard.png"
SCRIPT = Path(__file__).with_name("picture.jsx")

SCRAPE_SECONDS = 5
RATE_INTERVAL = f"{4 * SCRAPE_SECONDS}s"
"""Grafana's `$__rate_interval` for this scrape interval, which is also the step of the queries here."""

CLIENTS = {"core": 1000, "notes": 1001, "voice": 1002, "nightly": 1003}
STRANGER = 1999
PACKAGES = {
    "@grafana/data": "13.2.2",
    "@grafana/schema": "13.2.2",
    "@grafana/ui": "13.2.2",
    "esbuild": "0.28.2",
    "react": "19.3.1",
    "react-dom": "19.3.1",
    "rxjs": "7.8.2",
}
WIDTH = 1400
ROW_HEIGHT = 38
"""Pixels of a unit of height in `gridPos`, as in Grafana."""
COLORS = 40


# --- a daemon's life -----------------------------------------------------------------------------------------


def config(backend: FakeBackend, metrics_port: int, model_port: int) -> dict[str, Any]:
    """Five backends with prices, limits and programs, and four clients."""
    price = {"input_per_mtok": 2.5, "output_per_mtok": 10}
    shared = {"shared_max_concurrency": 4, "shared_spend_usd_per_day": 4}
    environment = {"PYTHONPATH": str(ROOT)}
    program = {"command": sys.executable, "args": ["-m", "tests.dashboards.picture", "--serve", str(model_port)]}
    backends: dict[str, Any] = {
        "openai": {"default_model": "gpt-5.4-mini", "pricing": {"gpt-5.4-mini": price}, "budget": shared},
        "anthropic": {"default_model": "claude-haiku-4-5", "pricing": {"claude-haiku-4-5": price}},
        "gemini": {"default_model": "gemini-2.5-flash"},
        "local": {
            "default_model": "qwen3-8b",
            "endpoint": f"http://127.0.0.1:{model_port}/local",
            "budget": {"max_concurrency_per_backend": 2},
            "launch": {**program, "env": environment},
        },
        "large": {"default_model": "qwen3-32b", "launch": {**program, "idle_stop_ms": 60_000}},
    }
    clients: list[dict[str, Any]] = [{"name": name, "uids": [uid]} for name, uid in CLIENTS.items()]
    clients[1]["budget"] = {"max_concurrency_per_backend": 1}
    clients[3]["budget"] = {"spend_usd_per_day": 1}
    made = make_config(
        backends,
        backend,
        server={"clients": clients, "socket_mode": "0666"},
        telemetry={"metrics": f"127.0.0.1:{metrics_port}"},
    )
    made["ai_gateway"]["shared"] = {"sqlite": "quota.db", "timeout_ms": 5000}
    made["ai_gateway"]["reliability"] = {"max_retries": 2, "breaker_failure_threshold": 5, "breaker_open_ms": 10_000}
    return made


class Life:
    """What the clients ask and the backends answer, from now on for `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._begin = time.monotonic()
        self._seconds = seconds
        self._chance = random.Random(13)

    @property
    def passed(self) -> float:
        """The share of the time that is over."""
        return (time.monotonic() - self._begin) / self._seconds

    def script(self, backend: FakeBackend) -> None:
        """Has each backend answer in its way."""
        backend.on("openai", self._openai)
        backend.on("anthropic", self._anthropic)
        backend.on("gemini", self._gemini)

    async def _openai(self, exchange: Exchange) -> None:
        if self._chance.random() < 0.06:
            await fails(429, "rate_limit_exceeded")(exchange)
        else:
            await self._streams(exchange, 0.35, 0.012)

    async def _anthropic(self, exchange: Exchange) -> None:
        if 0.45 < self.passed < 0.62:
            await fails(503)(exchange)
        else:
            await self._streams(exchange, 0.6, 0.016)

    async def _gemini(self, exchange: Exchange) -> None:
        await self._streams(exchange, 0.25, 0.006, reported=self._chance.random() < 0.7)

    async def _streams(self, exchange: Exchange, wait: float, per_token: float, *, reported: bool = True) -> None:
        tokens = 30 + int(self._chance.lognormvariate(3.5, 0.7))  # not so few that a cancel would come too late
        used = [usage(int(self._chance.lognormvariate(6.5, 0.7)), tokens)] if reported else []
        steps: list[bytes | float] = [wait * self._chance.lognormvariate(0, 0.4)]
        for _ in range(0, tokens, 10):
            steps += [delta("ten tokens"), 10 * per_token * self._chance.uniform(0.7, 1.4)]
        await plays(*steps, finish(), *used, DONE)(exchange)

    async def local_model(self, exchange: Exchange) -> None:
        """The model server that the daemon starts."""
        await self._streams(exchange, 0.2, 0.02)

    async def asks(self, path: Path, name: str, backends: list[str], pause: float) -> None:
        """One connection of a client, which asks one thing after the other, more at some times than at others."""
        async with connected_as(CLIENTS[name], path) as client:
            while self.passed < 1:
                model = "gpt-5.4" if self._chance.random() < 0.03 else None
                await client.infer(self._chance.choice(backends), model=model)
                if name == "voice" and self._chance.random() < 0.25:
                    while (frame := await client.frame(60))["type"] == "started":
                        pass
                    if frame["type"] not in TERMINAL:
                        await client.cancel()
                        await client.answer()
                else:
                    await client.answer(patience=60)
                if name == "notes" and self._chance.random() < 0.02:
                    await client.send({"type": "infer", "request_id": "x", "message": "not the protocol"})
                    await client.expect("rejected")
                wave = 1.2 + math.sin(9 * self.passed)
                await asyncio.sleep(self._chance.expovariate(1 / pause) * wave)

    async def administers(self, daemon: DaemonProcess, right: dict[str, Any]) -> None:
        """Reloads, one of them of a wrong file; and somebody who may not connect tries it."""
        for share, file in ((0.25, right), (0.7, {**right, "mistake": True}), (0.8, right)):
            await self._until(share)
            write_config(daemon.folder, file)
            daemon.process.send_signal(signal.SIGHUP)
            async with connected_as(STRANGER, daemon.socket_path):
                await asyncio.sleep(0.1)

    async def _until(self, share: float) -> None:
        await asyncio.sleep(max(0.0, share - self.passed) * self._seconds)


@asynccontextmanager
async def connected_as(uid: int, path: Path) -> AsyncIterator[Client]:
    """A client that the daemon takes for that user's."""
    connection = socket.socket(socket.AF_UNIX)
    os.seteuid(uid)
    try:
        connection.connect(os.fspath(path))
    finally:
        os.seteuid(0)
    reader, writer = await asyncio.open_unix_connection(sock=connection)
    try:
        yield Client(reader, writer)
    finally:
        writer.transport.abort()


async def serve_model(port: int) -> None:
    """A model server with `/health`, until it is ended."""
    async with fake_backend() as backend:
        backend.on("health", answers(200))
        backend.on("local", Life(1).local_model)
        async with backend.serving(socket.create_server(("127.0.0.1", port))):
            await asyncio.get_running_loop().create_future()


# --- what Prometheus knows of it -----------------------------------------------------------------------------


def panel_answers(server: Prometheus, begin: float, end: float) -> dict[int, list[Any]]:
    """What each panel's queries give, by the panel's id. `begin` and `end` are in Unix time."""

    def answer(target: dict[str, Any]) -> Any:
        query = with_variables(target["expr"], RATE_INTERVAL)
        if target.get("instant"):
            return server.ask("query", query=query, time=end)["result"]
        return server.ask("query_range", query=query, start=begin, end=end, step=SCRAPE_SECONDS)["result"]

    return {panel["id"]: [answer(target) for target in panel["targets"]] for panel in PANELS}


async def lived(folder: Path, seconds: float) -> dict[str, Any]:
    """A daemon's life of that many seconds, as `picture.jsx` wants it."""
    folder.chmod(0o711)
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(fake_backend())
        settings = config(backend, free_port(), free_port())
        daemon = DaemonProcess(folder, settings)
        stack.callback(daemon.kill)
        await daemon.serving()
        target = settings["telemetry"]["metrics"]
        server = stack.enter_context(prometheus(folder, target, scrape_seconds=SCRAPE_SECONDS))
        begin = time.time()
        life = Life(seconds)
        life.script(backend)
        path = daemon.socket_path
        async with asyncio.TaskGroup() as tasks:
            for _ in range(3):
                tasks.create_task(life.asks(path, "core", ["openai", "anthropic"], 0.4))
                tasks.create_task(life.asks(path, "notes", ["openai", "gemini"], 1.0))
                tasks.create_task(life.asks(path, "nightly", ["local", "local", "openai"], 0.6))
            tasks.create_task(life.asks(path, "voice", ["anthropic", "gemini"], 0.8))
            tasks.create_task(life.administers(daemon, settings))
        end = time.time()
        answered = await asyncio.to_thread(panel_answers, server, begin, end)
    return {"begin": begin, "end": end, "answers": answered, "dashboard": DASHBOARD}


# --- the picture ---------------------------------------------------------------------------------------------


def draw(folder: Path, life: dict[str, Any]) -> None:
    """Writes the picture: a page in `folder`, which a browser shows."""
    empty = [panel["title"] for panel in PANELS if not any(life["answers"][panel["id"]])]
    if empty:
        raise SystemExit(f"Prometheus has no series for the panels {empty}: give the daemon traffic that shows in them")
    (folder / "life.json").write_text(json.dumps({**life, "width": WIDTH, "step": SCRAPE_SECONDS}))
    (folder / SCRIPT.name).write_bytes(SCRIPT.read_bytes())
    (folder / "page.html").write_text(_PAGE)
    (folder / "package.json").write_text(json.dumps({"private": True, "dependencies": PACKAGES}))
    run = partial(subprocess.run, cwd=folder, check=True)
    run(["npm", "install", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
    run(["node_modules/.bin/esbuild", SCRIPT.name, "--outfile=page.js", *_BUNDLE])
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in PANELS)
    window = f"--window-size={WIDTH},{rows * ROW_HEIGHT + 32}"
    run(["chromium-headless-shell", *_BROWSER, window, "--screenshot=page.png", (folder / "page.html").as_uri()])
    run(["pngquant", "--force", "--nofs", "--speed=1", f"--output={PICTURE}", str(COLORS), "page.png"])


_PAGE = """<!doctype html>
<meta charset="utf-8">
<link rel="stylesheet" href="page.css">
<div id="page"></div>
<script src="page.js"></script>
"""
_BUNDLE = ["--bundle", "--jsx=automatic", "--loader:.ttf=empty", '--define:process.env.NODE_ENV="production"']
_BROWSER = ["--no-sandbox", "--hide-scrollbars", "--virtual-time-budget=10000"]


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Draws docs/dashboard.png; see the module's docstring.")
    parser.add_argument("--minutes", type=float, default=6, help="how long the daemon lives (6)")
    parser.add_argument("--serve", type=int, metavar="PORT", help="be the model server that the daemon starts")
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve_model(options.serve))
        return
    if os.geteuid() != 0:
        raise SystemExit("the picture needs clients with uids of their own, which only root can have")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        draw(folder, asyncio.run(lived(folder, 60 * options.minutes)))


if __name__ == "__main__":
    main()
