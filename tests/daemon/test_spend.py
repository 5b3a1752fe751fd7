"""Limits of money, in a daemon: counted since its start, and in a file that daemons share."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.config.loading import load_config
from beluna_gateway.config.settings import Shared
from beluna_gateway.daemon.service import MissingExtra, import_store

from ..fakes.answers import delta, finish, plays, usage
from ..fakes.backend import fake_backend
from ..fakes.client import Client
from ..fakes.daemon import LocalDaemon, local_daemon, make_config, write_config

PRICE = {"fake-model": {"input_per_mtok": 1, "output_per_mtok": 2}}
"""A request with the fake's 3 tokens in and 5 out costs 13 micro-dollars."""
ANSWER = plays(delta("a"), finish(), usage())


@asynccontextmanager
async def daemon(folder: Path, shared: dict[str, Any] | None = None, **sections: Any) -> AsyncIterator[LocalDaemon]:
    budget = sections.pop("budget", {})
    folder.mkdir(exist_ok=True)
    async with fake_backend() as backend:
        backend.on("b", *[ANSWER] * 20)
        config = make_config({"b": {"pricing": PRICE, "budget": budget}}, backend, **sections)
        if shared is not None:
            config["ai_gateway"]["shared"] = {"timeout_ms": 5000, **shared}
        async with local_daemon(folder, config) as running:
            yield running


async def outcome(client: Client, request_id: str) -> dict[str, Any]:
    await client.infer("b", request_id)
    frame = (await client.answer(request_id))[-1]
    return frame["error"] if frame["type"] == "failed" else frame


async def test_a_limit_of_a_day_counts_since_the_start(tmp_path: Path):
    """Refused once it is spent, with the time to the end of the day; `status` says what is used of it."""
    async with daemon(tmp_path, budget={"spend_usd_per_day": 0.00002}) as running, running.client() as client:
        assert [(await outcome(client, name))["type"] for name in "ab"] == ["completed", "completed"]
        error = await outcome(client, "c")

        assert (error["kind"], error["retryable"]) == ("budget_exceeded", False)
        assert error["message"] == (
            "backend 'b': $0.000026 of the $2e-05 of a UTC day are spent (budget.spend_usd_per_day)"
        )
        assert 0 < error["retry_after_ms"] <= 86_400_000
        [backend] = (await client.status())["backends"]
        assert backend["limits"] == [
            {"setting": "spend_usd_per_day", "used": 0.000026, "limit": 0.00002, "estimated": 0.0}
        ]
    async with daemon(tmp_path, budget={"spend_usd_per_day": 0.00002}) as running, running.client() as client:
        assert (await outcome(client, "a"))["type"] == "completed"


async def test_a_limit_in_a_file_survives_a_restart(tmp_path: Path):
    """And is another daemon's, too."""
    shared = {"sqlite": str(tmp_path / "quota.db")}
    budget = {"shared_spend_usd_per_day": 0.00002, "shared_max_concurrency": 3}
    async with daemon(tmp_path / "a", shared, budget=budget) as running, running.client() as client:
        assert [(await outcome(client, name))["type"] for name in "ab"] == ["completed", "completed"]
        async with asyncio.timeout(10):
            while (await client.status())["shared"]["leases"]:
                await asyncio.sleep(0.01)
    async with daemon(tmp_path / "b", shared, budget=budget) as running, running.client() as client:
        error = await outcome(client, "a")
        assert error["kind"] == "budget_exceeded"
        assert "budget.shared_spend_usd_per_day" in error["message"]
        status = await client.status()
        assert status["shared"] == {"store": "sqlite", "up": True, "leases": 0, "waiting": 0}
        assert {entry["setting"]: entry["used"] for entry in status["backends"][0]["limits"]} == {
            "shared_max_concurrency": 0,
            "shared_spend_usd_per_day": 0.000026,
        }


async def test_a_client_has_money_of_its_own(tmp_path: Path):
    """Its limit is its own alone, and named so."""
    clients = [{"name": "notes", "uids": [os.getuid()], "budget": {"spend_usd_per_month": 0.00001}}]
    async with daemon(tmp_path, server={"clients": clients}) as running, running.client() as client:
        assert (await outcome(client, "a"))["type"] == "completed"
        error = await outcome(client, "b")

        assert error["message"].startswith("client 'notes' at backend 'b': $0.000013 of the $1e-05 of a UTC month")
        assert "server.clients[].budget.spend_usd_per_month" in error["message"]


async def test_a_client_shares_money_of_its_own_with_itself_at_other_daemons(tmp_path: Path):
    """What it spent at one daemon is spent at the next one; it is told as the client's."""
    limits = {"shared_spend_usd_per_month": 0.00001}
    server = {"clients": [{"name": "notes", "uids": [os.getuid()], "budget": limits}]}
    shared = {"sqlite": str(tmp_path / "quota.db")}
    async with daemon(tmp_path / "a", shared, server=server) as running, running.client() as client:
        assert (await outcome(client, "a"))["type"] == "completed"
    async with daemon(tmp_path / "b", shared, server=server) as running, running.client() as client:
        error = await outcome(client, "b")

        assert error["message"].startswith("client 'notes' at backend 'b': $0.000013 of the $1e-05 of a UTC month")
        assert "server.clients[].budget.shared_spend_usd_per_month" in error["message"]


async def test_a_file_that_cannot_be_used_refuses(tmp_path: Path):
    """With its name, and retryable."""
    (tmp_path / "quota.db").write_text("something else" * 100)
    shared, budget = {"sqlite": str(tmp_path / "quota.db")}, {"shared_max_concurrency": 3}
    async with daemon(tmp_path / "a", shared, budget=budget) as running, running.client() as client:
        error = await outcome(client, "a")

        assert (error["kind"], error["retryable"], error["retry_after_ms"]) == ("budget_exceeded", True, 1000)
        assert "shared.sqlite" in error["message"]
        assert "file is not a database" in error["message"]


async def test_status_says_nothing_where_nothing_is_limited(tmp_path: Path):
    """It has neither field."""
    async with daemon(tmp_path) as running, running.client() as client:
        status = await client.status()

    assert "shared" not in status
    assert "limits" not in status["backends"][0]


async def test_a_reload_exchanges_the_store(tmp_path: Path):
    """A request in flight gives its lease back where it took it, new ones ask the new store."""
    async with fake_backend() as backend:
        config = make_config({"b": {"budget": {"shared_max_concurrency": 1}}}, backend)
        config["ai_gateway"]["shared"] = {"sqlite": "one.db", "timeout_ms": 5000}
        backend.on("b", plays(delta("a"), 30.0, finish(), usage()), ANSWER)
        async with local_daemon(tmp_path, config) as running, running.client() as client, running.client() as other:
            before = running.gateway._live.in_effect.quota
            assert before is not None
            await client.infer("b", "long")
            await client.expect("started", "long")
            running.gateway.reload(load_config(write_config(tmp_path, config)))
            assert running.gateway._live.in_effect.quota is before
            config["ai_gateway"]["shared"]["sqlite"] = "two.db"
            running.gateway.reload(load_config(write_config(tmp_path, config)))
            assert (await outcome(other, "new"))["type"] == "completed"
            assert (before.held, before.done) == (1, False)
            await client.cancel("long")
            await client.answer("long")
            async with asyncio.timeout(10):
                while not before.done:
                    await asyncio.sleep(0.01)


def test_a_missing_extra_is_named(monkeypatch):
    """Without the package, the person is told which extra to install; a file needs none."""
    monkeypatch.delattr("beluna_gateway.quota.redis_store", raising=False)
    monkeypatch.setitem(sys.modules, "beluna_gateway.quota.redis_store", None)

    import_store(Shared(sqlite="quota.db"))
    with pytest.raises(MissingExtra, match=r"ai_gateway\.shared\.url: .*beluna-gateway\[shared\]"):
        import_store(Shared(url="redis://127.0.0.1"))
