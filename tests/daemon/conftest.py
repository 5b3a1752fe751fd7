"""Fixtures for tests that talk to the daemon.

`house`: one daemon process and one fake backend for a module, made from its `BACKENDS` and `SETTINGS`.
`stage`: the same for one test: a clean fake backend, clients on demand; afterwards the daemon must be at rest.
`local`: a daemon in the test's own loop, with a config of the test's own.

Tests that use `house` or `stage` share the module's loop: ``pytestmark = pytest.mark.asyncio(loop_scope="module")``.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from tests.fakes.answers import text
from tests.fakes.backend import FakeBackend, fake_backend
from tests.fakes.client import Client, Frame, connected
from tests.fakes.daemon import DaemonProcess, LocalDaemon, daemon_process, local_daemon, make_config


class House:
    """A daemon process, its fake backend, and a connection that watches it."""

    def __init__(self, daemon: DaemonProcess, backend: FakeBackend, watcher: Client) -> None:
        self.daemon = daemon
        self.backend = backend
        self.watcher = watcher
        self.open_at_rest: list[str] = []

    async def at_rest(self) -> None:
        """Every request is over, every place given back, every connection closed."""
        try:
            async with asyncio.timeout(5):
                while (left := await self._left()) != ([], []):
                    await asyncio.sleep(0.01)
        except TimeoutError:
            raise AssertionError(f"the daemon does not come to rest: {left}") from None

    async def _left(self) -> tuple[list[str], list[str]]:
        status = await self.watcher.status()
        counts = {"connections": status["connections"] - 1, "in_flight": status["in_flight"]}
        for backend in status["backends"]:
            counts |= {f"{backend['id']}.{name}": backend[name] for name in ("in_flight", "queued")}
        extra = self.daemon.descriptors()
        for name in self.open_at_rest:
            if _kind(name) in (kinds := [_kind(other) for other in extra]):
                extra.pop(kinds.index(_kind(name)))
        return [f"{name}: {value}" for name, value in counts.items() if value], extra


def _kind(name: str) -> str:
    return name.partition(":")[0]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    """The module's daemon and fake backend.

    `BACKENDS`: id → settings; `SETTINGS`: sections of the config; `ENVIRONMENT`: variables. `{house}` in them stands
    for the folder of the config.
    """
    folder = tmp_path_factory.mktemp("house")
    backends = getattr(request.module, "BACKENDS", {"b": {}})
    settings = getattr(request.module, "SETTINGS", {})
    async with fake_backend(folder / "backend.sock") as backend:
        config = make_config(backends, backend, **settings)
        environment = dict(getattr(request.module, "ENVIRONMENT", {}))
        config, environment = json.loads(json.dumps([config, environment]).replace("{house}", str(folder)))
        async with daemon_process(folder, config, environment) as daemon, connected(daemon.socket_path) as watcher:
            house = House(daemon, backend, watcher)
            first = next(iter(backends))
            backend.on(first, text("warm"))
            await watcher.infer(first, "warm-up")  # what is loaded late is loaded now
            await watcher.answer("warm-up")
            await backend.reset()
            await asyncio.sleep(0.05)
            house.open_at_rest = daemon.descriptors()
            yield house


class Stage:
    """One test's view of a `House`."""

    def __init__(self, house: House, clients: AsyncExitStack) -> None:
        self.daemon = house.daemon
        self.backend = house.backend
        self.house = house
        self._clients = clients

    async def client(self) -> Client:
        """A new connection, closed after the test."""
        return await self._clients.enter_async_context(connected(self.daemon.socket_path))

    async def status(self, backend_id: str) -> Frame:
        """One backend's entry in a `status` frame."""
        frame = await self.house.watcher.status()
        return next(entry for entry in frame["backends"] if entry["id"] == backend_id)

    async def until(self, backend_id: str, **values: Any) -> None:
        """Waits until a backend's entry in `status` has these values."""
        async with asyncio.timeout(10):
            while not values.items() <= (await self.status(backend_id)).items():
                await asyncio.sleep(0.005)

    async def logged(self, words: str) -> None:
        """Waits until the daemon's log has these words."""
        async with asyncio.timeout(10):
            while words not in self.daemon.log():
                await asyncio.sleep(0.005)


@pytest_asyncio.fixture(loop_scope="module")
async def stage(house: House) -> AsyncIterator[Stage]:
    """The module's daemon for one test; afterwards nothing of the test is left in it."""
    printed = len(house.daemon.log())
    try:
        async with AsyncExitStack() as clients:
            yield Stage(house, clients)
        await house.backend.reset()
        await house.at_rest()
    finally:
        sys.stdout.write(house.daemon.log()[printed:])  # shown where the test fails


Local = Callable[..., Awaitable[LocalDaemon]]


@pytest.fixture
async def backend(tmp_path: Path) -> AsyncIterator[FakeBackend]:
    """A fake backend in the test's own loop."""
    async with fake_backend(tmp_path / "backend.sock") as fake:
        yield fake


@pytest.fixture
async def local(tmp_path: Path, backend: FakeBackend) -> AsyncIterator[Local]:
    """``await local(reliability={…}, budget={…}, **sections)``: a daemon in this loop with one backend, `b`."""
    async with AsyncExitStack() as stack:

        async def start(
            backends: dict[str, Any] | None = None, server: dict[str, Any] | None = None, **own: Any
        ) -> LocalDaemon:
            config = make_config(backends or {"b": own}, backend, server=server or {})
            return await stack.enter_async_context(local_daemon(tmp_path, config))

        yield start
