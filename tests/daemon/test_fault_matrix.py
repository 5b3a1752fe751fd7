"""Every dialect × every fault of a backend × the moment at which it happens, over real sockets.

Each cell (`fault_cells.py`) has a backend of its own in one daemon, whose circuit opens at the first counted failure.
The cells are played at once, then their backends are asked again. A cell holds where the request had exactly one
terminal frame, of the right kind and in time, was tried as often as it must be, gave its place back, left the breaker
as it must be, and the next request is answered in full.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.backend import PATIENCE, FakeBackend, Script, fake_backend
from tests.fakes.certificate import write_certificate
from tests.fakes.client import TERMINAL, Client, Frame, connected, infer, said, user
from tests.fakes.daemon import daemon_process, make_config
from tests.fakes.dialects import DIALECTS

from .fault_cells import LARGE, LIMIT, MANNERS, RETRIED_LIMIT, Cell, Response, cells_of, writes

COUNTED = {"backend_transient", "rate_limited", "timeout"}
RELIABILITY = {
    "request_timeout_ms": 60_000,
    "idle_timeout_ms": 60_000,
    "connect_timeout_ms": 60_000,
    "max_retries": 0,
    "breaker_failure_threshold": 1,
    "breaker_open_ms": 10,
}
RETRIED = {"max_retries": 1, "backoff_base_ms": 1, "breaker_failure_threshold": 1000}


@dataclass
class Outcome:
    """What came of a cell."""

    frames: list[Frame] = field(default_factory=list)
    seconds: float = 0.0
    attempts: int = 0
    status: Frame = field(default_factory=dict)
    next_frames: list[Frame] = field(default_factory=list)
    next_status: Frame = field(default_factory=dict)


# --- the play ---


class Play:
    """All cells of one dialect, streamed or whole, over one connection of a client.

    Args:
        cells: What is played.
        fake: Where their backends are.
        client: The connection.
    """

    def __init__(self, cells: list[Cell], fake: FakeBackend, client: Client) -> None:
        self.cells = {cell.id: cell for cell in cells}
        self.outcomes = {name: Outcome() for name in self.cells}
        self.fake = fake
        self.client = client
        self._clock = asyncio.get_running_loop().time
        self._asked: dict[str, float] = {}
        self._status: Frame = {}
        self._arrived = asyncio.Condition()

    async def play(self, after_faults: Callable[[], Awaitable[None]]) -> None:
        """All faults at once; then the same backends one after the other, since a fault's timer is short for them."""
        hearing = asyncio.create_task(self._hear())
        try:
            for cell in self.cells.values():
                await self._ask(cell, "x" * (LARGE if cell.large else 5))
            await self._until(lambda: all(_ended(outcome.frames) for outcome in self.outcomes.values()))
            for name, entry in (await self._at_rest()).items():
                self.outcomes[name].status = entry
                self.outcomes[name].attempts = len(self.fake.requests(name))
            await after_faults()
            for cell in self.cells.values():
                await self._ask(cell, "again")
                await self._until(partial(_ended, self.outcomes[cell.id].next_frames))
            for name, entry in (await self._at_rest()).items():
                self.outcomes[name].next_status = entry
        finally:
            hearing.cancel()
            await asyncio.wait([hearing])

    async def _ask(self, cell: Cell, text: str) -> None:
        """A request of the cell's name, so that frames which come too late get to the cell as well."""
        self._asked[cell.id] = self._clock()
        await self.client.send(infer(cell.id, cell.id, messages=user(text), stream=cell.stream))

    async def _hear(self) -> None:
        while True:
            frame = await self.client.frame(PATIENCE * 6)
            if frame["type"] == "status":
                self._status = frame
            else:
                self._take(self.outcomes[frame["request_id"]], frame)
            async with self._arrived:
                self._arrived.notify_all()

    def _take(self, outcome: Outcome, frame: Frame) -> None:
        frames = outcome.next_frames if outcome.status else outcome.frames
        frames.append(frame)
        if frames is outcome.frames and _ended(frames):
            outcome.seconds = self._clock() - self._asked[frame["request_id"]]

    async def _until(self, done: Callable[[], bool]) -> None:
        """Waits for it, and not for ever: what has not come is found by the test."""
        with suppress(TimeoutError):
            async with asyncio.timeout(PATIENCE), self._arrived:
                await self._arrived.wait_for(done)

    async def _at_rest(self) -> dict[str, Frame]:
        """Each backend's entry in `status`, as soon as nothing is in use and every circuit lets an attempt through."""
        deadline = self._clock() + PATIENCE
        while True:
            self._status = {}
            await self.client.send({"type": "status"})
            await self._until(lambda: bool(self._status))
            entries = {entry["id"]: entry for entry in self._status["backends"] if entry["id"] in self.cells}
            if not any(e["in_flight"] or e["queued"] or e["breaker"] == "open" for e in entries.values()):
                return entries
            if self._clock() > deadline:
                return entries


def _ended(frames: list[Frame]) -> bool:
    return bool(frames) and frames[-1]["type"] in TERMINAL


@asynccontextmanager
async def backends(cells: list[Cell], folder: Path) -> AsyncIterator[tuple[FakeBackend, dict[str, Any], list[Any]]]:
    """The fake, the daemon's `backends`, and the servers that begin to answer after the faults."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "tls.pem")
    async with fake_backend(tls=context) as fake:
        with ExitStack() as sockets:
            settings, later = {}, []
            for cell in cells:
                endpoint = f"{cell.endpoint}/{cell.id}"
                if "{own}" in endpoint:
                    listener = sockets.enter_context(socket.socket())
                    listener.bind(("127.0.0.1", 0))
                    if cell.accepts:
                        listener.listen()
                    endpoint = endpoint.replace("{own}", str(listener.getsockname()[1]))
                    later.append(fake.serving(listener, context if endpoint.startswith("https") else None))
                settings[cell.id] = {
                    "dialect": cell.dialect,
                    "endpoint": endpoint,
                    "reliability": reliability(cell),
                    "budget": {"max_concurrency_per_backend": 1},
                }
                scripts = [good(cell)] if "{own}" in cell.endpoint else [cell.script, good(cell)]
                fake.on(cell.id, *scripts, read_body=cell.reads_request)
            yield fake, settings, later


def reliability(cell: Cell) -> dict[str, int]:
    """One short timer at most."""
    wanted = RELIABILITY | (RETRIED if cell.retried else {})
    if cell.verdict.timer:
        wanted[cell.verdict.timer] = limit(cell)
    return wanted


def limit(cell: Cell) -> int:
    """Of that timer, in ms."""
    # A retry, and the TLS handshake of the next request, must be done within it on a busy machine too.
    return RETRIED_LIMIT if cell.retried or cell.verdict.timer == "connect_timeout_ms" else LIMIT


def good(cell: Cell) -> Script:
    """A whole answer in its dialect."""
    return writes(Response(DIALECTS[cell.dialect], cell.stream, "chunked").bytes)


PLAYS = [(dialect, manner) for dialect in DIALECTS for manner in MANNERS]
AT_ONCE = 5  # so that neither side needs a thousand descriptors


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plays(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Play]:
    """What came of every cell."""
    folder = tmp_path_factory.mktemp("matrix")
    certificate = write_certificate(folder / "tls.pem")
    rows = {key: cells_of(*key) for key in PLAYS}
    done: dict[tuple[str, str], Play] = {}
    places = asyncio.Semaphore(AT_ONCE)

    async def play(key: tuple[str, str], fake: FakeBackend, later: list[Any], path: Path) -> None:
        async with places, connected(path) as client, AsyncExitStack() as servers:

            async def serve() -> None:
                for server in later:
                    await servers.enter_async_context(server)

            done[key] = Play(rows[key], fake, client)
            await done[key].play(serve)

    async with AsyncExitStack() as stack:
        made = {key: await stack.enter_async_context(backends(rows[key], folder)) for key in PLAYS}
        settings: dict[str, Any] = {}
        for fake, own, _ in made.values():
            for name, backend in own.items():
                settings[name] = _at(backend, fake)
        environment = {"SSL_CERT_FILE": str(certificate)}
        async with daemon_process(folder, make_config(settings), environment) as daemon:
            path = daemon.socket_path
            await asyncio.gather(*(play(key, fake, later, path) for key, (fake, _, later) in made.items()))
            assert await daemon.stop() == 0
    return done


def _at(backend: dict[str, Any], fake: FakeBackend) -> dict[str, Any]:
    endpoint = backend["endpoint"].replace("{tcp}", str(fake.port)).replace("{tls}", str(fake.tls_port))
    return {**backend, "endpoint": endpoint}


# --- what must hold ---


def mistakes(cell: Cell, outcome: Outcome) -> Iterator[str]:
    """What is not as it must be."""
    verdict, frames, status, after = cell.verdict, outcome.frames, outcome.status, outcome.next_status
    kinds = [frame["type"] for frame in frames]
    if sum(kind in TERMINAL for kind in kinds) != 1 or not _ended(frames) or kinds.count("started") != 1:
        yield f"not one beginning and one end: {frames}"
        return
    last = frames[-1]
    error = last.get("error", {})
    message = error.get("message", "")
    found = (error.get("kind", last["type"]), error.get("retryable", False), error.get("provider_http_status"))
    if found != (verdict.kind, verdict.retryable, verdict.status) or (error and verdict.timer not in message):
        yield f"{found}: {message}"
    if said(frames) != verdict.text and not (verdict.text is None and "Hello world".startswith(said(frames))):
        yield f"said {said(frames)!r}"
    if outcome.seconds > PATIENCE or (verdict.timer and outcome.seconds < limit(cell) / 1000 - 0.02):
        yield f"after {outcome.seconds:.2f} s"
    if outcome.attempts != verdict.attempts:
        yield f"{outcome.attempts} attempts"
    breaker = "half_open" if verdict.kind in COUNTED and not cell.retried else "closed"
    if (status["in_flight"], status["queued"], status["breaker"], status["requests"]) != (0, 0, breaker, 1):
        yield f"left: {status}"
    if not _ended(outcome.next_frames) or said(outcome.next_frames) != "Hello world":
        yield f"the next request: {outcome.next_frames}"
    if (after["in_flight"], after["queued"], after["breaker"], after["requests"]) != (0, 0, "closed", 2):
        yield f"left by the next request: {after}"


@pytest.mark.asyncio(loop_scope="module")
@pytest.mark.parametrize(("dialect", "manner"), PLAYS)
async def test_every_fault_has_one_end_of_the_right_kind(plays, dialect, manner):
    """And leaves nothing behind: no place taken, the circuit as it must be, the next request answered in full."""
    play = plays[dialect, manner]

    assert {
        cell.fault: wrong for name, cell in play.cells.items() if (wrong := [*mistakes(cell, play.outcomes[name])])
    } == {}
