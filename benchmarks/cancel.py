"""How long from a client's going away until the backend's connection is closed, in every phase of a request.

`python -m benchmarks.cancel`: one daemon, one scripted backend on loopback, each phase `--times` times; the median and
the worst, in milliseconds. In phases without a connection to close (waiting for a place, connecting) it is the time
until the daemon has given back what it held: its place in the queue, its socket.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

from tests.fakes.answers import SILENCE, delta, endless, plays, silent
from tests.fakes.backend import FakeBackend, fake_backend
from tests.fakes.client import Client, connected
from tests.fakes.daemon import DaemonProcess, daemon_process, make_config

Leave = Callable[[Client], Awaitable[None]]


async def disconnect(client: Client) -> None:
    client.close()


async def say_cancel(client: Client) -> None:
    await client.cancel()


class Bench:
    """The daemon and its backend."""

    def __init__(self, daemon: DaemonProcess, backend: FakeBackend) -> None:
        self.daemon = daemon
        self.backend = backend

    async def closed(
        self, leave: Leave, *, stream: bool = True, half_close: bool = False, stuck: bool = False
    ) -> float:
        """Asks, waits until the request has settled in its phase, leaves; seconds until the connection was closed."""
        number = len(self.backend.requests("b"))
        async with connected(self.daemon.socket_path) as client:
            if stuck:
                client.stop_reading()
            await client.infer("b", stream=stream)
            if half_close:
                client.half_close()
            exchange = await self.backend.request("b", number)
            await asyncio.sleep(0.3 if stuck else 0.05)
            left = asyncio.get_running_loop().time()
            await leave(client)
            return await exchange.closed() - left

    async def waiting(self, leave: Leave) -> float:
        """A request that waits for the one place of its backend."""
        async with connected(self.daemon.socket_path) as first, connected(self.daemon.socket_path) as second:
            await first.infer("narrow")
            await first.expect("started")
            await second.infer("narrow")
            await self._until(lambda queued: queued == 1)
            left = time.perf_counter()
            await leave(second)
            await self._until(lambda queued: queued == 0)
            return time.perf_counter() - left

    async def _until(self, reached: Callable[[int], bool]) -> None:
        async with connected(self.daemon.socket_path) as watcher:
            while True:
                backends = (await watcher.status())["backends"]
                if reached(next(backend["queued"] for backend in backends if backend["id"] == "narrow")):
                    return

    async def connecting(self, leave: Leave) -> float:
        """A request whose connection is never accepted: the backlog is full."""
        before = len(self.daemon.descriptors())
        async with connected(self.daemon.socket_path) as client:
            await client.infer("full")
            await client.expect("started")
            await asyncio.sleep(0.05)
            left = time.perf_counter()
            await leave(client)
            # The client's own connection is closed as well, or is not: only the backend's is counted.
            while len([name for name in self.daemon.descriptors() if "socket:" in name]) > before:
                await asyncio.sleep(0)
            return time.perf_counter() - left


async def measure(times: int) -> None:
    with tempfile.TemporaryDirectory(prefix="beluna-cancel-") as folder:
        async with AsyncExitStack() as stack:
            backend = await stack.enter_async_context(fake_backend())
            full = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
            fill = stack.enter_context(socket.socket())
            fill.connect(full.getsockname())  # takes the one seat of the backlog
            backends: dict[str, dict[str, Any]] = {
                "b": {},
                "narrow": {"budget": {"max_concurrency_per_backend": 1}},
                "full": {"endpoint": f"http://127.0.0.1:{full.getsockname()[1]}"},
            }
            config = make_config(backends, backend, telemetry={"log_level": "error"})
            daemon = await stack.enter_async_context(daemon_process(Path(folder), config))
            bench = Bench(daemon, backend)
            backend.on("narrow", silent)
            print(f"{'phase':34} {'median ms':>10} {'worst ms':>10}")
            for name, once in phases(bench).items():
                seconds = [await once() for _ in range(times)]
                print(f"{name:34} {statistics.median(seconds) * 1000:10.2f} {max(seconds) * 1000:10.2f}", flush=True)


def phases(bench: Bench) -> dict[str, Callable[[], Awaitable[float]]]:
    on = bench.backend.on
    flowing = plays(*[step for _ in range(500) for step in (delta("x"), 0.02)])
    then_silent = plays(delta("x"), SILENCE)

    async def with_script(script: object, leave: Leave, **how: bool) -> float:
        on("b", script)  # type: ignore[arg-type]
        return await bench.closed(leave, **how)

    return {
        "waiting for a place, disconnect": lambda: bench.waiting(disconnect),
        "waiting for a place, cancel": lambda: bench.waiting(say_cancel),
        "connecting, disconnect": lambda: bench.connecting(disconnect),
        "before the first byte, disconnect": lambda: with_script(silent, disconnect),
        "before the first byte, cancel": lambda: with_script(silent, say_cancel),
        "in mid-stream, disconnect": lambda: with_script(flowing, disconnect),
        "in mid-stream, cancel": lambda: with_script(flowing, say_cancel),
        "backend silent, disconnect": lambda: with_script(then_silent, disconnect),
        "client stuck, disconnect": lambda: with_script(endless, disconnect, stuck=True),
        "client stuck, cancel": lambda: with_script(endless, say_cancel, stuck=True),
        "after a half-close, disconnect": lambda: with_script(then_silent, disconnect, half_close=True),
        "unstreamed, disconnect": lambda: with_script(silent, disconnect, stream=False),
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=21)
    asyncio.run(measure(parser.parse_args().times))
