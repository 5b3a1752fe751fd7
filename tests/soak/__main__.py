"""`make soak`: ten thousand requests, cancelled, left, stuck or hit by faults at random; then nothing may be left.

One daemon, one backend that misbehaves, forty clients. Afterwards the daemon must be where it was: no request, no place
taken, no descriptor, no memory; and each backend must answer the next request. `python -m tests.soak COUNT SEED`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

from tests.fakes import answers
from tests.fakes.answers import BAD_CHUNK, CUT, DONE, RESET, SILENCE, delta, fails, finish, plays, text, usage
from tests.fakes.backend import Exchange, FakeBackend, Script, fake_backend
from tests.fakes.client import TERMINAL, Client, connected, infer, said, user
from tests.fakes.daemon import DaemonProcess, daemon_process, make_config

WORKERS = 40
MEGABYTE = 1_000_000
MOST_GROWTH = 20  # MB, from the third fifth to the last: by then the allocator has its size, give or take 7 MB

RETRIES = {"max_retries": 2, "backoff_base_ms": 5, "backoff_max_ms": 20}
BACKENDS: dict[str, dict[str, Any]] = {
    "quick": {},
    "unix": {"endpoint": "unix:{unix}:/unix"},
    "faulty": {"reliability": {**RETRIES, "idle_timeout_ms": 100, "request_timeout_ms": 150}},
    "breaking": {"reliability": {**RETRIES, "breaker_failure_threshold": 3, "breaker_open_ms": 30}},
    "narrow": {"budget": {"max_concurrency_per_backend": 1}},
    "smoothed": {"budget": {"rate_smoothing_per_second": 200}},
    "tls": {"endpoint": "https://127.0.0.1:{tcp}/tls", "reliability": {"connect_timeout_ms": 50}},
}

SCRIPTS: list[Script] = [
    text("quick"),
    plays(*[step for _ in range(50) for step in (delta("tick"), 0.002)], finish(), usage(), DONE),
    plays(delta("x"), finish(), SILENCE),
    plays(delta("x" * 500) * 400, finish(), DONE),
    plays(delta("x"), SILENCE),
    plays(SILENCE),
    answers.silent,
    answers.one_byte,
    answers.endless,
]
FAULTS: list[Script] = [
    *SCRIPTS,
    answers.hang_up,
    answers.reset,
    plays(delta("x"), RESET),
    plays(delta("x"), CUT),
    plays(BAD_CHUNK),
    plays(b"data: x\n\n", 0.01),
    fails(503),
    fails(429, retry_after_ms="15"),
    fails(400),
]


class Soak:
    """The run."""

    def __init__(self, daemon: DaemonProcess, backend: FakeBackend, dice: random.Random) -> None:
        self.daemon = daemon
        self.backend = backend
        self.dice = dice
        self.ends: Counter[str] = Counter()

    def script(self, choices: list[Script]) -> Script:
        """Another one each time."""

        async def any_of(exchange: Exchange) -> None:
            await self.dice.choice(choices)(exchange)

        return any_of

    async def run(self, count: int) -> None:
        """Plays `count` requests."""
        for name in BACKENDS:
            self.backend.on(name, self.script(FAULTS if name in ("faulty", "breaking") else SCRIPTS))
        await asyncio.gather(*(self.work(count // WORKERS) for _ in range(WORKERS)))

    async def work(self, count: int) -> None:
        """One client after the other, each with some requests, until `count` have been made."""
        while count > 0:
            requests = min(count, self.dice.randint(1, 8))
            async with connected(self.daemon.socket_path) as client:
                await self.one_client(client, requests)
            count -= requests

    async def one_client(self, client: Client, requests: int) -> None:
        names = [f"{number}" for number in range(requests)]
        frames = []
        for name in names:
            body = "x" * self.dice.choice([5] * 15 + [2_000_000])
            time = {"max_request_time_ms": self.dice.choice([30, 1000])}
            stream = self.dice.random() < 0.8
            backend = self.dice.choice(list(BACKENDS))
            frames.append(infer(backend, name, messages=user(body), stream=stream, limits=time))
        await client.send(*frames)
        manner = self.dice.choice(["stay", "stay", "leave", "stuck", "half-close"])
        if manner == "stuck":
            client.stop_reading()
        if manner == "half-close":
            client.half_close()
        else:
            for name in self.dice.choices(names, k=self.dice.randint(0, 2 * requests)):
                await asyncio.sleep(self.dice.random() * 0.02)
                await client.cancel(name)
        if manner == "stay" or (manner == "half-close" and self.dice.random() < 0.5):
            await self.hear(client, names)
        else:
            await asyncio.sleep(self.dice.random() * 0.05)
            self.ends["left"] += requests

    async def hear(self, client: Client, names: list[str]) -> None:
        """Every request has one end, and nothing after it."""
        waiting = set(names)
        while waiting:
            frame = await client.frame(30)
            name = frame["request_id"]
            if frame["type"] == "rejected":  # a cancel that came too late
                continue
            assert name in waiting, f"after its end: {frame}"
            if frame["type"] in TERMINAL:
                waiting.discard(name)
                self.ends[frame.get("error", {}).get("kind", "completed")] += 1

    async def rest(self, watcher: Client, open_before: int) -> None:
        """Nothing is left."""
        await self.backend.reset()
        deadline = monotonic() + 20
        while True:
            status = await watcher.status()
            taken = [b for b in status["backends"] if b["in_flight"] or b["queued"]]
            extra = len(self.daemon.descriptors()) - open_before
            if not taken and not status["in_flight"] and status["connections"] == 1 and extra <= 0:
                return
            assert monotonic() < deadline, f"left: {taken}, {extra} descriptors, {status}"
            await asyncio.sleep(0.05)


async def soak(count: int, seed: int) -> None:
    """One run.

    Raises:
        AssertionError: Something was left.
    """
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with fake_backend(folder / "backend.sock") as backend:
            config = make_config(BACKENDS, backend, server={"max_connections": 1000}, telemetry={"log_level": "error"})
            # glibc gives large blocks back at once, so that what is resident is what is held.
            malloc = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            async with daemon_process(folder, config, malloc) as daemon, connected(daemon.socket_path) as watcher:
                run = Soak(daemon, backend, random.Random(seed))
                await watcher.status()
                sizes: list[float] = []
                for part in (count // 5,) * 5:
                    began = monotonic()
                    await run.run(part)
                    if not sizes:  # by now everything is loaded and every pool has its size
                        await backend.reset()
                        await asyncio.sleep(1)
                        open_before = len(daemon.descriptors())
                    await run.rest(watcher, open_before)
                    sizes.append(daemon.resident_bytes() / MEGABYTE)
                    sys.stdout.write(f"{part} requests, {monotonic() - began:.0f} s, {sizes[-1]:.0f} MB\n")
                sys.stdout.write("".join(f"  {number:6} {end}\n" for end, number in run.ends.most_common()))
                assert sizes[-1] - sizes[2] < MOST_GROWTH, f"memory grew: {sizes}"
                await asyncio.sleep(0.1)  # the open window of a breaker
                for name in BACKENDS.keys() - {"tls"}:
                    backend.on(name, text("after all"))
                    await watcher.infer(name)
                    assert said(await watcher.answer()) == "after all", name
                assert await daemon.stop() == 0


if __name__ == "__main__":
    asyncio.run(soak(int((sys.argv[1:] or ["10000"])[0]), int((sys.argv[2:] or [str(random.randrange(10**6))])[0])))
    sys.stdout.write("nothing is left\n")
