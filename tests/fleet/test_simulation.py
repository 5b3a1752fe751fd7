"""200 daemons in virtual time, with the real script in a real Redis: limits hold, and the store has little to do.

`python -m tests.fleet.test_simulation` prints the figures of docs/fleet.md.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py

from beluna_gateway.quota.limits import Limits, Scope
from beluna_gateway.quota.owner import QuotaOwner
from beluna_gateway.quota.redis_store import SCRIPT, RedisStore, _reply
from beluna_gateway.quota.store import Command, QuotaStore, Reply, Take

from ..fakes.clock import VirtualLoop
from .server import RedisServer, needs_redis, redis_server

pytestmark = needs_redis

START = 1_764_184_450_000_000
DAEMONS = 200
SECONDS = 10.0
ROUND_TRIP = 0.001


async def _no_password(refused: str | None) -> None:
    return None


class SimulatedStore(QuotaStore):
    """The real script in the real server, called at once while virtual time stands still; the way there takes time."""

    kind = "redis"
    setting = "shared.url"
    poll_seconds = RedisStore.poll_seconds

    def __init__(self, world: World, daemon: str) -> None:
        self._world = world
        self._packer = RedisStore(
            world.server.url, _no_password, None, Path(), "sim", 15_000_000, daemon, world.microseconds
        )

    async def exchange(self, commands: Sequence[Command]) -> list[Reply]:
        await asyncio.sleep(ROUND_TRIP / 2)
        replies = [_reply(command, self._world.call(self._packer._packed(command), command)) for command in commands]
        await asyncio.sleep(ROUND_TRIP / 2)
        return replies

    async def close(self) -> None:
        pass


@dataclass
class World:
    """What all daemons have in common."""

    server: RedisServer
    scope: Scope
    calls: int = 0
    takes: int = 0
    now: int = 0
    peak: int = 0
    busy: float = 0.0
    starts: list[float] = field(default_factory=list)
    owners: dict[str, QuotaOwner] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._client = redis_py.Redis(port=self.server.port, decode_responses=True, protocol=2)
        self._client.script_load(SCRIPT)
        self._news = self._client.pubsub(ignore_subscribe_messages=True)

    def microseconds(self) -> int:
        return START + int(asyncio.get_running_loop().time() * 1_000_000)

    def add(self, daemon: str) -> QuotaOwner:
        owner = QuotaOwner(SimulatedStore(self, daemon), daemon, lease_seconds=15.0, timeout_seconds=5.0, refuses=True)
        self._news.subscribe("sim:wake", f"sim:wake:{daemon}")
        self.owners[daemon] = owner
        return owner

    def call(self, packed: tuple[Any, ...], command: Command) -> Any:
        self.calls += 1
        self.takes += isinstance(command, Take)
        reply = self._client.execute_command(*packed)
        while (message := self._news.get_message(timeout=0)) is not None:
            daemon = message["channel"].removeprefix("sim:wake").lstrip(":")
            if daemon:
                owner = self.owners[daemon]
                asyncio.get_running_loop().call_later(ROUND_TRIP / 2, owner.place_is_free, message["data"])
        return reply

    def close(self) -> None:
        self._news.close()
        self._client.close()


async def _request(world: World, owner: QuotaOwner, seconds: float) -> None:
    queue = owner.queue((world.scope,))
    lease = await queue.acquire()
    loop = asyncio.get_running_loop()
    world.starts.append(loop.time())
    world.now += 1
    world.peak = max(world.peak, world.now)
    await asyncio.sleep(seconds)
    world.busy += seconds
    world.now -= 1
    queue.release(lease)


async def _client(world: World, owner: QuotaOwner, ends: float, seconds: float, pause: float) -> None:
    """One after the other, as fast as it is let."""
    loop = asyncio.get_running_loop()
    await asyncio.sleep(random.random())
    while loop.time() < ends:
        await _request(world, owner, seconds * random.uniform(0.5, 1.5))
        await asyncio.sleep(pause * random.random())


async def _play(world: World, clients: int, seconds: float, pause: float) -> float:
    """Begins all daemons and their clients, and returns after `SECONDS` and the last request; how long that was."""
    loop = asyncio.get_running_loop()
    began = loop.time()
    owners = [world.add(f"d{number}") for number in range(DAEMONS)]
    for owner in owners:
        owner.start()
    await asyncio.gather(
        *(_client(world, owner, began + SECONDS, seconds, pause) for owner in owners for _ in range(clients))
    )
    lasted = loop.time() - began
    for owner in owners:
        await owner.close()
    return lasted


def simulate(server: RedisServer, limits: Limits, clients: int, seconds: float, pause: float) -> tuple[World, float]:
    """One run."""
    random.seed(1)
    server.call("FLUSHALL")
    world = World(server, Scope("b", None, limits))
    try:
        with asyncio.Runner(loop_factory=VirtualLoop) as runner:
            lasted = runner.run(_play(world, clients, seconds, pause))
        assert server.call("ZCARD", "sim:{b}:all:leases") == 0
    finally:
        world.close()
    return world, lasted


CASES = {
    "places, all wanted: 400 clients for 100 places": (Limits(places=100), 2, 0.5, 0.0),
    "places, half of them wanted": (Limits(places=400), 1, 0.5, 1.0),
    "rate, four times as many as 100 a second": (Limits(rate=100), 2, 0.5, 1.0),
    "places and rate and money": (Limits(places=100, rate=300, day=10**9), 2, 0.5, 0.0),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as running:
        yield running


@pytest.mark.parametrize("case", CASES)
def test_limits_hold_with_200_daemons(server: RedisServer, case: str):
    """Never over a limit, never far below one that is wanted, and a few calls for each request."""
    limits, clients, seconds, pause = CASES[case]
    world, lasted = simulate(server, limits, clients, seconds, pause)

    if limits.places is not None:
        assert world.peak <= limits.places
        if "all wanted" in case:
            assert world.busy / lasted > 0.9 * limits.places
    if limits.rate is not None:
        allowed, last = float(limits.rate), world.starts[0]
        for at in sorted(world.starts):
            allowed = min(limits.rate, allowed + (at - last) * limits.rate) - 1
            last = at
            assert allowed > -2  # an answer takes a moment to arrive
        if limits.places is None:
            assert len(world.starts) / lasted > 0.9 * limits.rate
    renewals = DAEMONS * (lasted / 5 + 2)
    assert world.calls < 5 * len(world.starts) + renewals


def _print() -> None:
    with tempfile.TemporaryDirectory() as folder, redis_server(Path(folder)) as server:
        for case, (limits, clients, seconds, pause) in CASES.items():
            world, lasted = simulate(server, limits, clients, seconds, pause)
            sys.stdout.write(
                f"| {case} | {world.peak} | {len(world.starts) / lasted:.0f} | {world.calls / lasted:.0f} | "
                f"{world.calls / len(world.starts):.1f} | {world.busy / lasted:.0f} |\n"
            )


if __name__ == "__main__":
    _print()
