"""`server.clients` at the daemon's socket: who may connect, who may ask what, and where the name stands."""

from __future__ import annotations

import asyncio
import json
import os
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.client import connect
from beluna_gateway.config.settings import Config
from beluna_gateway.worker import Large, Worker
from tests.fakes.answers import DONE, delta, finish, plays, silent, text
from tests.fakes.backend import PATIENCE, FakeBackend
from tests.fakes.client import connected, user
from tests.fakes.daemon import DaemonProcess, LocalDaemon, daemon_process, local_daemon, make_config

ME = os.getuid()
NOBODY = 2**32 - 2


@asynccontextmanager
async def daemon(
    folder: Path, backend: FakeBackend, *clients: dict[str, Any], **server: Any
) -> AsyncIterator[LocalDaemon]:
    """A daemon with the backends `b` and `c`, and these clients."""
    settings = {**({"clients": list(clients)} if clients else {}), **server}
    async with local_daemon(folder, make_config({"b": {}, "c": {}}, backend, server=settings)) as started:
        yield started


async def test_a_uid_that_no_client_has_is_refused(tmp_path, backend):
    """It hears `rejected`, `authorization`, and the end, as with `allowed_uids`; it is counted."""
    async with (
        daemon(tmp_path, backend, {"name": "core", "uids": [NOBODY]}) as started,
        connected(started.socket_path) as client,
    ):
        refused = await client.expect("rejected")
        await client.expect_end()

    assert refused["error"]["kind"] == "authorization"
    assert refused["error"]["message"] == f"uid {ME} may not connect (server.clients)"
    assert started.daemon.counters.refused == {"uid": 1}


async def test_only_its_backends(tmp_path, backend):
    """A backend that the client may not ask is `failed`, `authorization`, and is not asked; the other one answers."""
    backend.on("b", text("hello"))
    async with (
        daemon(tmp_path, backend, {"name": "core", "uids": [ME], "backends": ["b"]}) as started,
        connected(started.socket_path) as client,
    ):
        await client.infer("c")
        error = await client.expect_failed("authorization")
        await client.infer("b")
        answer = await client.answer()

    assert (error["backend_id"], error["retryable"]) == ("c", False)
    assert answer[-1]["type"] == "completed"


async def test_the_default_backend_is_no_exception(tmp_path, backend):
    """A request that names no backend is refused where the client may not ask the default one."""
    async with (
        daemon(tmp_path, backend, {"name": "core", "uids": [ME], "backends": ["c"]}) as started,
        connected(started.socket_path) as client,
    ):
        await client.infer()
        error = await client.expect_failed("authorization")

    assert error["backend_id"] == "b"


async def test_its_own_budget(tmp_path, backend):
    """Asking for more tokens than the client may is `budget_exceeded`."""
    budget = {"max_usage_tokens_per_request": 10}
    async with (
        daemon(tmp_path, backend, {"name": "core", "uids": [ME], "budget": budget}) as started,
        connected(started.socket_path) as client,
    ):
        await client.infer("b", limits={"max_output_tokens": 11})
        error = await client.expect_failed("budget_exceeded")

    assert "client 'core'" in error["message"]


async def test_its_name_stands_in_status(tmp_path, backend):
    """Each configured client has an entry, with what it does and has used."""
    clients = ({"name": "core", "uids": [ME]}, {"name": "notes", "uids": [NOBODY]})
    backend.on("b", text("hello"))
    async with daemon(tmp_path, backend, *clients) as started, connected(started.socket_path) as client:
        await client.infer("b")
        await client.answer()
        status = await client.status()

    core, notes = status["clients"]
    assert core == {
        "name": "core",
        "connections": 1,
        "in_flight": 0,
        "queued": 0,
        "requests": 1,
        "failures": 0,
        **{key: status["backends"][0][key] for key in ("used_tokens", "output_tokens", "cost_usd")},
    }
    assert (notes["name"], notes["connections"], notes["requests"]) == ("notes", 0, 0)


async def test_without_a_list_its_name_is_the_uid(tmp_path, backend):
    """`status` names the uids that have connected."""
    async with daemon(tmp_path, backend) as started, connected(started.socket_path) as client:
        status = await client.status()

    assert [one["name"] for one in status["clients"]] == [str(ME)]


def logged(started: DaemonProcess, event: str) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in started.log().splitlines()]
    return [line for line in lines if line["event"] == event]


async def test_its_name_stands_in_the_log(tmp_path, backend):
    """Name and uid are in the line of each request, and of each rejected line; a flood of those is a few lines."""
    backend.on("b", text("hello"))
    config = make_config({"b": {}}, backend, server={"clients": [{"name": "core", "uids": [ME]}]})
    async with daemon_process(tmp_path, config) as started, connected(started.socket_path) as client:
        await client.infer("b")
        await client.answer()
        for _ in range(25):
            await client.send({"type": "infer", "request_id": "x", "typo": "a secret of the client"})
            await client.expect("rejected")
        assert await started.stop() == 0
        (request,) = logged(started, "request")
        rejected = logged(started, "line rejected")

    assert (request["client"], request["uid"]) == ("core", ME)
    assert len(rejected) == 11
    first = {name: rejected[0][name] for name in ("client", "uid", "request_id", "kind", "level")}
    assert first == {"client": "core", "uid": ME, "request_id": "x", "kind": "invalid_request", "level": "warning"}
    assert "typo: unknown field" in rejected[0]["error"]
    assert rejected[-1]["suppressed"] == 15
    assert "a secret of the client" not in started.log()


async def test_a_refused_connection_is_logged(tmp_path, backend):
    """With the uid and the reason."""
    config = make_config({"b": {}}, backend, server={"clients": [{"name": "core", "uids": [NOBODY]}]})
    async with daemon_process(tmp_path, config) as started:
        async with connected(started.socket_path) as client:
            await client.expect("rejected")
        assert await started.stop() == 0
        refused = logged(started, "connection refused")

    assert {line["uid"] for line in refused} == {ME}
    assert refused[0]["error"] == f"uid {ME} may not connect (server.clients)"


async def test_rejected_lines_are_counted(tmp_path, backend):
    """By client and kind."""
    async with (
        daemon(tmp_path, backend, {"name": "core", "uids": [ME]}, allow_exit=False) as started,
        connected(started.socket_path) as client,
    ):
        for line in ({"type": "exit"}, {"type": "nonsense"}, {"type": "cancel", "request_id": "nobody"}):
            await client.send(line)
            await client.expect("rejected")

    assert started.daemon.counters.rejected == {("core", "authorization"): 1, ("core", "invalid_request"): 2}


async def test_a_reload_takes_a_client_away(tmp_path, backend):
    """Its request in flight is answered; a new one on the same connection is `rejected`, `authorization`."""
    backend.on("b", plays(delta("a"), 0.3, delta("b"), finish(), DONE))
    others = [{"name": "other", "uids": [NOBODY]}]
    async with (
        daemon(tmp_path, backend, {"name": "core", "uids": [ME]}) as started,
        connected(started.socket_path) as client,
    ):
        await client.infer("b", "one")
        await client.expect("started", "one")
        changed = Config.model_validate(make_config({"b": {}, "c": {}}, backend, server={"clients": others}))
        started.gateway.reload(changed)
        started.daemon.apply(changed)
        await client.infer("b", "two")
        frames = await client.answers(2)

    assert frames["one"][-1]["type"] == "completed"
    (rejected,) = frames["two"]
    assert (rejected["type"], rejected["error"]["kind"]) == ("rejected", "authorization")


class _Held:
    """Jobs for the daemon's worker that last until the test lets go of them."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker
        self._tasks: list[asyncio.Task[bool]] = []

    async def one(self) -> threading.Event:
        """One more, behind what the worker has to do; its event ends it."""
        let_go = threading.Event()
        job = Large(self._worker, None)
        self._tasks.append(asyncio.create_task(job.use(lambda: let_go.wait(PATIENCE))))
        await asyncio.sleep(0)  # now it is submitted
        job.close()
        return let_go


@pytest.mark.parametrize("may", [True, False], ids=["stays", "is taken away"])
async def test_a_large_frame_meets_the_client_of_the_configuration_that_it_meets(tmp_path, backend, may):
    """A reload while it is decoded: backends, rights and limits are all of the new one."""
    backend.on("new", text("hello"))
    client_of_both = {"name": "core", "uids": [ME], "budget": {"max_concurrency_per_backend": 3}}
    async with (
        daemon(tmp_path, backend, client_of_both) as started,
        connected(started.socket_path) as client,
        connected(started.socket_path) as other,
    ):
        hold = _Held(started.daemon.worker)
        before_decoding = await hold.one()
        await client.infer("new", "large", messages=user("x" * 100_000))
        await other.status()  # the line has been read
        before_normalising = await hold.one()
        before_decoding.set()
        async with asyncio.timeout(PATIENCE):
            while (await other.status())["in_flight"] == 0:
                pass
        clients = [client_of_both] if may else [{"name": "other", "uids": [NOBODY]}]
        changed = Config.model_validate(make_config({"b": {}, "new": {}}, backend, server={"clients": clients}))
        started.gateway.reload(changed)
        started.daemon.apply(changed)
        before_normalising.set()
        frames = await client.answer("large")

    if may:
        assert frames[-1]["type"] == "completed"
    else:
        assert frames[-1]["error"]["kind"] == "authorization"


@pytest.mark.parametrize("way", ["cancel", "close"])
async def test_the_time_of_a_cancel_is_measured(tmp_path, backend, way):
    """From the cancel, or the disconnect, until the backend's connection is closed: at once."""
    records: list[Any] = []

    class Sink:
        def finished(self, record: Any) -> None:
            records.append(record)

    backend.on("b", silent)
    config = make_config({"b": {}}, backend)
    async with (
        local_daemon(tmp_path, config, telemetry=[Sink()]) as started,
        connected(started.socket_path) as client,
    ):
        await client.infer("b")
        exchange = await backend.request("b")
        await client.cancel() if way == "cancel" else client.close()
        await exchange.closed()
    (record,) = records

    assert record.outcome == "cancelled"
    assert 0 <= record.cancel_seconds < 5


async def test_the_shipped_client_names_its_requests_uniquely(tmp_path, backend):
    """Two connections never use one id: in the log an id is one request."""
    backend.on("b", text("hello"), text("hello"), text("hello"), text("hello"))
    ids = []
    async with daemon(tmp_path, backend) as started:
        for _ in range(2):
            async with connect(started.socket_path) as client:
                for _ in range(2):
                    frames = [frame async for frame in client.infer(messages=user())]
                    ids.append(frames[-1]["request_id"])

    assert len(set(ids)) == len(ids) == 4
