"""Several daemons, one real `redis-server`, one backend that records who is there at once, and when they began."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.quota.decision import DAY, SECOND
from beluna_gateway.quota.limits import Limits, Scope
from beluna_gateway.quota.redis_store import RedisStore
from beluna_gateway.quota.store import End

from ..fakes.answers import delta, finish, usage
from ..fakes.backend import Exchange, FakeBackend, fake_backend
from ..fakes.certificate import write_certificate
from ..fakes.client import Client, connected, infer
from ..fakes.daemon import DaemonProcess, daemon_process, make_config
from .server import RedisServer, needs_redis, redis_server

pytestmark = [needs_redis, pytest.mark.timeout(120)]

LEASES = "beluna:{b}:all:leases"
STATE = "beluna:{b}:all:state"
PRICE = {"fake-model": {"input_per_mtok": 1, "output_per_mtok": 2}}
"""A request with the fake's 3 tokens in and 5 out costs 13 micro-dollars."""
COST = 13


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    with redis_server(tmp_path) as server:
        yield server


class Recorder:
    """What the backend saw."""

    def __init__(self, backend: FakeBackend, hold: float = 0.05) -> None:
        self.now = self.peak = 0
        self.started: list[float] = []
        self.completed = 0
        self.hold = hold
        backend.on("b", *[self._serve] * 20_000)

    async def _serve(self, exchange: Exchange) -> None:
        self.now += 1
        self.peak = max(self.peak, self.now)
        self.started.append(time.monotonic())
        try:
            await exchange.head()
            await exchange.send(delta("a"))
            await asyncio.wait([exchange.closed_by_peer], timeout=self.hold)
            if not exchange.is_closed:
                self.completed += 1
                await exchange.send(finish())
                await exchange.send(usage())
                await exchange.finish()
        finally:
            self.now -= 1

    def excess(self, rate: int) -> float:
        """By how many starts the worst stretch of time is over the rate and its burst of a second's worth."""
        allowed, worst, last = float(rate), float("inf"), self.started[0]
        for at in sorted(self.started):
            allowed = min(rate, allowed + (at - last) * rate) - 1
            worst, last = min(worst, allowed), at
        return -worst


class Fleet:
    """The daemons, with a client each."""

    def __init__(self, daemons: list[DaemonProcess], clients: list[Client], recorder: Recorder) -> None:
        self.daemons = daemons
        self.clients = clients
        self.recorder = recorder

    async def ask(self, requests: int, prefix: str = "r") -> Counter[str]:
        """So many requests at each daemon at once; how they ended."""
        return sum(await asyncio.gather(*(_ask(client, requests, prefix) for client in self.clients)), Counter())


async def _ask(client: Client, requests: int, prefix: str = "r") -> Counter[str]:
    await client.send(*(infer("b", f"{prefix}{number}") for number in range(requests)))
    frames = await client.answers(requests, patience=90)
    return Counter(end["error"]["kind"] if end["type"] == "failed" else end["type"] for *_, end in frames.values())


@asynccontextmanager
async def fleet(
    folder: Path,
    redis: RedisServer,
    count: int,
    *,
    hold: float = 0.05,
    shared: dict[str, Any] | None = None,
    environments: Sequence[Mapping[str, str]] = ({}, {}, {}, {}, {}),
    **limits: Any,
) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        backend = await stack.enter_async_context(fake_backend())
        recorder = Recorder(backend, hold)
        budget = {"max_request_time_ms": 90_000, "max_concurrency_per_backend": 64, **limits}
        daemons, clients = [], []
        for number, environment in zip(range(count), environments, strict=False):
            home = folder / f"daemon{number}"
            home.mkdir()
            config = make_config({"b": {"budget": budget, "pricing": PRICE}}, backend)
            # A machine whose cores are busy answers late.
            config["ai_gateway"]["shared"] = {"url": redis.url, "timeout_ms": 2000, "lease_ms": 3000, **(shared or {})}
            daemons.append(await stack.enter_async_context(daemon_process(home, config, environment)))
            clients.append(await stack.enter_async_context(connected(daemons[-1].socket_path)))
        yield Fleet(daemons, clients, recorder)


async def until(condition: Any, seconds: float = 20) -> None:
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.02)


@pytest.mark.parametrize("count", [2, 5])
async def test_places_are_never_exceeded_and_are_used(tmp_path: Path, redis: RedisServer, count: int):
    """All requests are served, the peak is the limit exactly, and the places are not left empty for long."""
    async with fleet(tmp_path, redis, count, shared_max_concurrency=8) as running:
        began = time.monotonic()
        assert await running.ask(400 // count) == {"completed": 400}
        seconds = time.monotonic() - began

        assert running.recorder.peak == 8
        assert 400 * 0.05 / seconds / 8 > 0.3, f"{seconds} s"
        await until(lambda: redis.call("ZCARD", LEASES) == 0)


async def test_the_rate_is_never_exceeded_and_is_used(tmp_path: Path, redis: RedisServer):
    """Starts of five daemons together keep to 40 a second with a burst of a second's worth."""
    async with fleet(tmp_path, redis, 5, hold=0, shared_rate_per_second=40) as running:
        assert await running.ask(32) == {"completed": 160}
        starts = sorted(running.recorder.started)

        # What the network does between the daemon and the backend may bring a few starts together.
        assert running.recorder.excess(40) < 4
        assert starts[-1] - starts[0] < 6  # 3 where nobody else wants the processor


async def test_places_of_a_killed_daemon_come_back(tmp_path: Path, redis: RedisServer):
    """Within a lease after kill -9 another daemon has all places."""
    async with fleet(tmp_path, redis, 2, hold=60, shared_max_concurrency=4) as running:
        await running.clients[0].send(*(infer("b", f"k{number}") for number in range(4)))
        await until(lambda: running.recorder.now == 4)
        running.recorder.hold = 0
        asked = asyncio.create_task(_ask(running.clients[1], 4))
        await asyncio.sleep(0.2)
        assert not asked.done()
        running.daemons[0].process.send_signal(signal.SIGKILL)
        began = time.monotonic()
        assert await asked == {"completed": 4}

        assert time.monotonic() - began < 3 + 1


async def test_a_store_that_stands_still_for_30_seconds(tmp_path: Path, redis: RedisServer):
    """Requests are refused at once while it does; afterwards they are served, and never over the limit."""
    async with fleet(tmp_path, redis, 2, shared={"timeout_ms": 200}, shared_max_concurrency=3) as running:
        assert await running.ask(10) == {"completed": 20}
        running.recorder.hold = 45
        await running.clients[0].send(*(infer("b", f"long{number}") for number in range(2)))
        await until(lambda: running.recorder.now == 2)
        running.recorder.hold = 0.05
        redis.pause()
        began = time.monotonic()
        assert await _ask(running.clients[1], 5) == {"budget_exceeded": 5}
        assert await _ask(running.clients[1], 50) == {"budget_exceeded": 50}
        assert time.monotonic() - began < 2
        await asyncio.sleep(30 - (time.monotonic() - began))
        redis.resume()
        await asyncio.sleep(1.5)
        running.recorder.peak = 0
        assert await _ask(running.clients[1], 20) == {"completed": 20}

        assert running.recorder.peak == 3


async def test_a_store_that_comes_back_empty(tmp_path: Path, redis: RedisServer):
    """Killed and started again without its data: no request is served over the limit."""
    async with fleet(tmp_path, redis, 3, hold=8, shared_max_concurrency=3) as running:
        await asyncio.gather(*(client.send(infer("b", "long")) for client in running.clients))
        await until(lambda: running.recorder.now == 3)
        running.recorder.hold = 0.02
        redis.kill()
        redis.start()
        await asyncio.sleep(1.5)
        counts = await asyncio.gather(*(_ask_beside(client, 5) for client in running.clients))

        assert sum(counts) == 18
        assert running.recorder.peak == 3


async def _ask_beside(client: Client, requests: int) -> int:
    await client.send(*(infer("b", f"r{number}") for number in range(requests)))
    frames = await client.answers(requests + 1, patience=60)
    return sum(answer[-1]["type"] == "completed" for answer in frames.values())


async def test_scripts_and_connections_that_are_taken_away(tmp_path: Path, redis: RedisServer):
    """SCRIPT FLUSH and CLIENT KILL again and again, and no request notices."""
    async with fleet(tmp_path, redis, 2, shared_max_concurrency=8) as running:
        asked = asyncio.create_task(running.ask(150))
        while not asked.done():
            redis.call("SCRIPT", "FLUSH")
            await asyncio.sleep(0.1)
            redis.call("CLIENT", "KILL", "TYPE", "normal")
            redis.call("CLIENT", "KILL", "TYPE", "pubsub")
            await asyncio.sleep(0.1)

        assert await asked == {"completed": 300}
        assert running.recorder.peak <= 8
        await until(lambda: redis.call("ZCARD", LEASES) == 0)


async def test_ten_thousand_cancels(tmp_path: Path, redis: RedisServer):
    """At any moment of a request: afterwards nothing is held, and requests are served as before."""
    async with fleet(tmp_path, redis, 2, hold=0.01, shared_max_concurrency=16) as running:

        async def cancel(client: Client, half: int) -> None:
            for batch in range(50):
                names = [f"{half}.{batch}.{number}" for number in range(100)]
                await client.send(*(infer("b", name) for name in names))
                await asyncio.sleep(batch % 10 * 0.002)
                await client.send(*({"type": "cancel", "request_id": name} for name in names))
                await client.answers(100, patience=30)

        await asyncio.gather(*(cancel(client, half) for half, client in enumerate(running.clients)))
        await until(lambda: redis.call("ZCARD", LEASES) == 0, seconds=3)

        assert running.recorder.peak <= 16
        assert await running.ask(5) == {"completed": 10}


@pytest.mark.parametrize(("on_failure", "outcome"), [("refuse", "budget_exceeded"), ("local", "completed")])
async def test_without_the_store(tmp_path: Path, redis: RedisServer, on_failure: str, outcome: str):
    """Requests are refused, or pass by the local limits; `status` says that the store is away, and when it is back."""
    async with fleet(tmp_path, redis, 1, shared={"on_failure": on_failure}, shared_spend_usd_per_day=1) as running:
        [client] = running.clients
        await _store_is_up(client)
        redis.kill()
        assert await _ask(client, 10) == {outcome: 10}
        assert (await client.status())["shared"]["up"] is False
        redis.start()
        await _store_is_up(client)
        await asyncio.sleep(0.2)

        spent = 10 * COST if outcome == "completed" else 0
        assert int(redis.call("HGET", STATE, "day_micros") or 0) == spent


async def _store_is_up(client: Client) -> None:
    async with asyncio.timeout(10):
        while not (await client.status())["shared"]["up"]:
            await asyncio.sleep(0.05)


async def test_money_is_counted_to_the_micro_dollar(tmp_path: Path, redis: RedisServer):
    """A thousand requests of five daemons; two are killed after they have told theirs."""
    async with fleet(tmp_path, redis, 5, hold=0, shared_spend_usd_per_day=10) as running:
        assert await running.ask(100, "a") == {"completed": 500}
        await until(lambda: redis.call("HGET", STATE, "day_micros") == str(500 * COST))
        for daemon in running.daemons[:2]:
            daemon.process.send_signal(signal.SIGKILL)
        rest = Fleet(running.daemons[2:], running.clients[2:], running.recorder)
        answers = await asyncio.gather(
            _ask(rest.clients[0], 166, "b"), *(_ask(one, 167, "b") for one in rest.clients[1:])
        )
        assert sum(answers, Counter()) == {"completed": 500}

        await until(lambda: redis.call("HGET", STATE, "day_micros") == str(1000 * COST))
        assert redis.call("HGET", STATE, "month_micros") == str(1000 * COST)
        assert redis.call("HGET", STATE, "day_estimated") == "0"


async def test_spent_money_is_refused_by_all(tmp_path: Path, redis: RedisServer):
    """To the end of the UTC day, whichever daemon spent it; a cancel is charged by an estimate."""
    async with fleet(tmp_path, redis, 2, hold=20, shared_spend_usd_per_day=0.000_01) as running:
        first, second = running.clients
        await first.infer("b")
        await until(lambda: running.recorder.now == 1)
        await first.expect("started")
        await first.cancel()
        await first.answer()
        await until(lambda: int(redis.call("HGET", STATE, "day_estimated") or 0) > 0)
        running.recorder.hold = 0
        await _ask(second, 1)
        await until(lambda: int(redis.call("HGET", STATE, "day_micros") or 0) > 10)
        await second.infer("b", "refused")
        error = await second.expect_failed("budget_exceeded", "refused")

        assert not error["retryable"]
        assert 0 < error["retry_after_ms"] <= 86_400_000
        assert "budget.shared_spend_usd_per_day" in error["message"]


async def test_the_days_money_ends_with_the_day(tmp_path: Path, redis: RedisServer):
    """What was spent yesterday no daemon counts; what is spent today each does, and the next day it is over for all.

    The day is the store's: the clock of one of the daemons is three days ahead, and changes nothing.
    """
    (tmp_path / "sitecustomize.py").write_text(AHEAD)
    ahead = {"PYTHONPATH": os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])}
    limit: dict[str, Any] = {"shared_spend_usd_per_day": 2 * COST / 1e6, "shared_max_concurrency": 2}
    async with fleet(tmp_path, redis, 2, hold=0, environments=({}, ahead), **limit) as running:
        await _spend(redis, 10 * COST, days_ago=1)
        assert await running.ask(1, "a") == {"completed": 2}
        await until(lambda: redis.call("HGET", STATE, "day_micros") == str(2 * COST))
        assert await running.ask(1, "b") == {"budget_exceeded": 2}
        redis.call("HINCRBY", STATE, "day", -1)  # as the store finds it tomorrow
        assert await running.ask(1, "c") == {"completed": 2}
        await until(lambda: redis.call("HGET", STATE, "day_micros") == str(2 * COST))


AHEAD = """
import time
real = time.time_ns
time.time_ns = lambda: real() + 3 * 86_400_000_000_000
time.time = lambda: time.time_ns() / 1e9
"""


async def _spend(redis: RedisServer, micros: int, days_ago: int) -> None:
    """As a daemon that told it then."""
    at = time.time_ns() // 1000 - days_ago * DAY
    store = RedisStore(redis.url, _no_password, None, Path(), "beluna", 3 * SECOND, "before", lambda: at)
    try:
        await store.exchange([End((Scope("b", None, Limits(day=1)),), (), 1, micros, 0, 0)])
    finally:
        await store.close()
    assert redis.call("HGET", STATE, "day_micros") == str(micros)


async def _no_password(refused: str | None) -> None:
    return None


async def test_tls_and_acl(tmp_path: Path):
    """A user with the rights of docs/fleet.md, over TLS, trusted by `tls.ca_file`; a wrong password is told."""
    certificate = write_certificate(tmp_path / "cert.pem")
    page = (Path(__file__).resolve().parents[2] / "docs" / "fleet.md").read_text("utf-8")
    [rule] = [line.split() for line in page.splitlines() if "ACL SETUSER" in line]
    files = ("--tls-cert-file", "--tls-key-file", "--tls-ca-cert-file")
    options = [word for name in files for word in (name, str(certificate))]
    with redis_server(
        tmp_path, "--port", "0", "--tls-port", "{port}", "--tls-auth-clients", "no", *options,
        "--user", *(word.replace("PASSWORD", "secret") for word in rule[2:]),
    ) as server:  # fmt: skip
        shared = {
            "url": f"rediss://gateway@127.0.0.1:{server.port}",
            "credential": {"type": "inline_token", "token": "secret"},
            "tls": {"ca_file": str(certificate)},
        }
        async with fleet(tmp_path, server, 1, shared=shared, shared_max_concurrency=2) as running:
            assert await running.ask(6) == {"completed": 6}
            assert running.recorder.peak == 2
        shared["credential"] = {"type": "inline_token", "token": "wrong"}
        (tmp_path / "wrong").mkdir()
        async with fleet(tmp_path / "wrong", server, 1, shared=shared, shared_max_concurrency=2) as running:
            await running.clients[0].infer("b")
            error = await running.clients[0].expect_failed("budget_exceeded")
            assert "WRONGPASS" in error["message"] or "invalid username-password" in error["message"]
            assert "wrong" not in error["message"].replace("wrong:", "")
