"""`make soak`: requests that are cancelled, left, stuck or hit by faults at random; then nothing may be left.

One daemon, one backend that misbehaves, forty clients, for minutes. Three requests of ten are cancelled; connections
come and go, some with garbage; every ten seconds the configuration changes, or is wrong, and SIGHUP is sent; nobody
reads the log for a fifth of the time. Afterwards the daemon must be where it was: no request, no place taken, no
descriptor, no task, no memory; and each backend must answer the next request. `python -m tests.soak SECONDS SEED`.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import threading
from collections import Counter
from pathlib import Path
from time import monotonic
from typing import Any

from tests.fakes import answers
from tests.fakes.answers import BAD_CHUNK, CUT, DONE, RESET, SILENCE, delta, fails, finish, plays, text, usage
from tests.fakes.backend import Exchange, FakeBackend, Script, fake_backend
from tests.fakes.client import TERMINAL, Client, connected, infer, said, user
from tests.fakes.daemon import DaemonProcess, make_config, write_config

WORKERS = 40
PARTS = 5  # of the time; after each the daemon comes to rest and is measured
STUCK_PART = 1  # in which nobody reads the log
CANCELLED = 0.3  # of the requests
RELOAD_SECONDS = 10.0
MEGABYTE = 1024 * 1024
MOST_GROWTH = 5  # MiB, from the end of the third part to the end of the last: by then everything has its size

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
GARBAGE = [b"", b"", b"\n", b"\xff\n", b'{"type":"infer"', b"[1,2]\n" * 99]


class Soak:
    """The run."""

    def __init__(self, daemon: DaemonProcess, backend: FakeBackend, dice: random.Random) -> None:
        self.daemon = daemon
        self.backend = backend
        self.dice = dice
        self.ends: Counter[str] = Counter()
        self.requests = 0
        self.cancels = 0
        self.visits = 0

    def script(self, choices: list[Script]) -> Script:
        """Another one each time."""

        async def any_of(exchange: Exchange) -> None:
            await self.dice.choice(choices)(exchange)

        return any_of

    async def run(self, seconds: float) -> None:
        """Plays requests for that long."""
        for name in BACKENDS:
            self.backend.on(name, self.script(FAULTS if name in ("faulty", "breaking") else SCRIPTS))
        end = monotonic() + seconds
        await asyncio.gather(self.visit(end), *(self.work(end) for _ in range(WORKERS)))

    async def work(self, end: float) -> None:
        """One client after the other, each with some requests."""
        while monotonic() < end:
            async with connected(self.daemon.socket_path) as client:
                await self.one_client(client, self.dice.randint(1, 8))

    async def one_client(self, client: Client, requests: int) -> None:
        self.requests += requests
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
            for name in names:
                if self.dice.random() < CANCELLED / 0.8:  # who has half-closed cannot cancel
                    await asyncio.sleep(self.dice.random() * 0.02)
                    await client.cancel(name)
                    self.cancels += 1
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

    async def visit(self, end: float) -> None:
        """Connections that come and go, some with half a line or garbage."""
        while monotonic() < end:
            async with connected(self.daemon.socket_path) as client:
                self.visits += 1
                await client.send_bytes(
                    self.dice.choice([b"", b"", b"\n", b"\xff\n", b'{"type":"infer"', b"[1,2]\n" * 99])
                )
            await asyncio.sleep(self.dice.random() * 0.02)

    async def rest(self, watcher: Client, at_rest: tuple[int, int] | None) -> tuple[int, int]:
        """Waits until nothing is left; the numbers of descriptors and tasks, which must not be above those before."""
        await self.backend.reset()
        deadline = monotonic() + 20
        while True:
            status = await watcher.status()
            taken = [b for b in status["backends"] if b["in_flight"] or b["queued"]]
            held = (len(self.daemon.descriptors()), await self.tasks())
            idle = not taken and not status["in_flight"] and status["connections"] == 1
            if idle and (at_rest is None or (held[0] <= at_rest[0] and held[1] <= at_rest[1])):
                return held
            assert monotonic() < deadline, f"left: {taken}, {held} descriptors and tasks after {at_rest}, {status}"
            await asyncio.sleep(0.05)

    async def tasks(self) -> int:
        """How many asyncio tasks the daemon has; see `watched.py`."""
        path = report_path(self.daemon.folder)
        path.unlink(missing_ok=True)
        os.kill(self.daemon.pid, signal.SIGUSR1)
        async with asyncio.timeout(10):
            while not path.exists():
                await asyncio.sleep(0.005)
        return int(path.read_text())


def report_path(folder: Path) -> Path:
    """Where the daemon reports."""
    return folder / "report"


async def reload_again_and_again(daemon: DaemonProcess, config: dict[str, Any]) -> None:
    """Every ten seconds another file and SIGHUP: a change of one backend, the first file again, a wrong one."""
    changed = json.loads(json.dumps(config))
    changed["ai_gateway"]["backends"][0]["default_model"] = "another-model"
    changed["ai_gateway"]["backends"][4]["budget"]["max_concurrency_per_backend"] = 2
    files: list[Any] = [changed, config, '{"ai_gateway": 1}']
    while True:
        for file in files:
            await asyncio.sleep(RELOAD_SECONDS)
            write_config(daemon.folder, file)
            os.kill(daemon.pid, signal.SIGHUP)


class LogReader:
    """Reads the daemon's standard error, a pipe, into a file, without the lines that every run is full of.

    `going` is cleared while nobody is to read.
    """

    def __init__(self, path: Path) -> None:
        self._reading, self.writing = os.pipe()
        self.going = threading.Event()
        self.going.set()
        self._path = path
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        with os.fdopen(self._reading, "rb", buffering=65536) as lines, self._path.open("ab", buffering=0) as log:
            for line in lines:
                self.going.wait()
                if not (line.startswith(b"{") and any(word in line for word in USUAL)) or b'"bug"' in line:
                    log.write(line)

    def close(self) -> None:
        """Waits for the end of the log, which comes when the daemon has gone."""
        self.going.set()
        self._thread.join()


USUAL = (b'"event": "request"', b'"event": "line rejected"')


async def soak(seconds: float, seed: int) -> None:
    """One run.

    Raises:
        AssertionError: Something was left.
    """
    sys.stdout.write(f"{seconds:.0f} s, seed {seed}\n")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        async with fake_backend(folder / "backend.sock") as backend:
            config = make_config(BACKENDS, backend, server={"max_connections": 1000})
            # glibc gives large blocks back at once, so that what is resident is what is held.
            malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
            environment = {"SOAK_REPORT": str(report_path(folder)), **malloc}
            launcher = [sys.executable, str(Path(__file__).with_name("watched.py"))]
            reader = LogReader(folder / "log")
            daemon = DaemonProcess(folder, config, environment, launcher, stderr=reader.writing)
            os.close(reader.writing)
            try:
                await daemon.serving()
                await play(Soak(daemon, backend, random.Random(seed)), config, reader, seconds)
            finally:
                daemon.kill()
                reader.close()
                sys.stdout.write(daemon.log())
            assert daemon.complaints() == []


async def play(run: Soak, config: dict[str, Any], reader: LogReader, seconds: float) -> None:
    """All parts, and what must hold after them."""
    async with connected(run.daemon.socket_path) as watcher:
        await watcher.status()
        sizes: list[float] = []
        at_rest: tuple[int, int] | None = None
        reloading = asyncio.create_task(reload_again_and_again(run.daemon, config))
        for part in range(PARTS):
            began, requests = monotonic(), run.requests
            if part == STUCK_PART:
                reader.going.clear()
            await run.run(seconds / PARTS)
            reader.going.set()
            held = await run.rest(watcher, at_rest)
            at_rest = at_rest or held
            await asyncio.sleep(2)  # a second after the last large frame its garbage is collected
            await run.tasks()  # has free memory given back
            sizes.append(run.daemon.resident_bytes() / MEGABYTE)
            sys.stdout.write(
                f"{run.requests - requests:6} requests in {monotonic() - began:.0f} s: {sizes[-1]:.1f} MiB, "
                f"{held[0]} descriptors, {held[1]} tasks\n"
            )
        reloading.cancel()
        reloads = (await watcher.status())["reloads"]
        sys.stdout.write(
            f"{run.cancels:6} cancels of {run.requests} requests\n"
            f"{run.visits:6} connections that came and went\n"
            f"{reloads['ok']:6} reloads, {reloads['failed']} more that were refused\n"
        )
        sys.stdout.write("".join(f"{number:6} {end}\n" for end, number in run.ends.most_common()))
        assert reloads["ok"], reloads
        assert sizes[-1] - sizes[STUCK_PART + 1] < MOST_GROWTH, f"memory grew: {sizes}"
        await asyncio.sleep(0.1)  # the open window of a breaker
        for name in BACKENDS.keys() - {"tls"}:
            run.backend.on(name, text("after all"))
            await watcher.infer(name)
            assert said(await watcher.answer()) == "after all", name
        assert await run.daemon.stop() == 0


if __name__ == "__main__":
    asyncio.run(soak(float((sys.argv[1:] or ["150"])[0]), int((sys.argv[2:] or [str(random.randrange(10**6))])[0])))
    sys.stdout.write("nothing is left\n")
