"""A daemon whose `/metrics` has everything that there can be."""

from __future__ import annotations

import asyncio
import socket
import urllib.request
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import pytest_asyncio

from tests.fakes.answers import delta, finish, plays, usage
from tests.fakes.backend import fake_backend
from tests.fakes.client import connected
from tests.fakes.daemon import daemon_process, make_config


class Scraped(NamedTuple):
    address: str
    """Where it serves `/metrics`: host and port."""
    socket_path: Path


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        return int(reserved.getsockname()[1])


@pytest.fixture
async def scraped(tmp_path: Path) -> AsyncIterator[Scraped]:
    """A daemon that can be scraped."""
    async with serving(tmp_path) as daemon:
        yield daemon


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def text(tmp_path_factory: pytest.TempPathFactory) -> str:
    """What one scrape of such a daemon gave."""
    async with serving(tmp_path_factory.mktemp("scraped")) as daemon:
        return await asyncio.to_thread(exposition, daemon)


@asynccontextmanager
async def serving(folder: Path) -> AsyncIterator[Scraped]:
    """A daemon with a plain backend and one with a program of its own, after one request."""
    port = free_port()
    async with fake_backend() as backend:
        backend.on("b", plays(delta("a"), delta("b"), finish(), usage()))
        launched = {"launch": {"command": "never-asked-for", "idle_stop_ms": 1000}}
        shared = {"budget": {"shared_max_concurrency": 5, "spend_usd_per_day": 1}}
        config = make_config({"b": shared, "c": launched}, backend, telemetry={"metrics": f"127.0.0.1:{port}"})
        config["ai_gateway"]["shared"] = {"sqlite": "quota.db", "timeout_ms": 5000}
        async with daemon_process(folder, config) as daemon, connected(daemon.socket_path) as client:
            await client.infer("b")
            assert (await client.answer())[-1]["type"] == "completed"
            yield Scraped(f"127.0.0.1:{port}", daemon.socket_path)


def exposition(scraped: Scraped) -> str:
    """One scrape."""
    with urllib.request.urlopen(f"http://{scraped.address}/metrics", timeout=10) as response:
        return str(response.read().decode())
