"""SIGTERM ends the daemon within its grace, whatever is going wrong at that moment: a row for each accident."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, ExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from tests.fakes.answers import SILENCE, delta, endless, event, one_byte, plays, silent, tool_delta
from tests.fakes.backend import FakeBackend, Script
from tests.fakes.client import Client, connected, infer
from tests.fakes.daemon import DaemonProcess, make_config

from .test_accidents import FULL, GONE, STUCK, with_a_bad_log

GRACE = 0.3
PATIENCE = 20.0
"""Seconds above the grace: one for the clients' last frames, the others for a machine whose cores are busy."""

Accident = Callable[[DaemonProcess, FakeBackend, Client], AbstractAsyncContextManager[None]]
ACCIDENTS: dict[str, Accident] = {}


def accident(happens: Accident) -> Accident:
    """A row of the table. SIGTERM comes inside its block."""
    ACCIDENTS[happens.__name__] = happens
    return happens


# --- clients ---


async def flood(client: Client, data: bytes) -> None:
    """Sends as much as is taken, and reads nothing of what comes."""
    with suppress(ConnectionError):
        await client.send_bytes(data)


@asynccontextmanager
async def flooding(client: Client, data: bytes) -> AsyncIterator[None]:
    client.stop_reading()
    sending = asyncio.create_task(flood(client, data))
    await asyncio.sleep(0.05)  # some of it is being worked on
    yield
    sending.cancel()
    await asyncio.wait([sending])


@accident
def a_frame_of_a_million_mistakes(daemon, backend, client):
    return flooding(client, b'{"type":"infer","messages":[' + b"1," * 3_900_000 + b"1]}\n")


@accident
def frames_of_many_messages(daemon, backend, client):
    message = json.dumps({"role": "user", "parts": [{"text": {"text": "x"}}]}).encode()
    return flooding(client, (b'{"type":"infer","messages":[' + b",".join([message] * 130_000) + b"]}\n") * 3)


@accident
def lines_that_are_no_frames(daemon, backend, client):
    return flooding(client, b"[1,2]\n" * 500_000)


@accident
@asynccontextmanager
async def a_client_that_does_not_read(daemon, backend, client):
    backend.on("b", endless)
    client.stop_reading()
    await client.infer("b")
    await backend.request("b")
    yield


@accident
@asynccontextmanager
async def clients_that_say_nothing(daemon, backend, client):
    async with AsyncExitStack() as stack:
        for _ in range(250):
            await stack.enter_async_context(connected(daemon.socket_path))
        yield


# --- backends ---


@asynccontextmanager
async def answered(backend: FakeBackend, client: Client, script: Script) -> AsyncIterator[None]:
    """A request that is being answered so."""
    backend.on("b", script)
    await client.infer("b")
    await backend.request("b")
    await asyncio.sleep(0.05)
    yield


def again_and_again(piece: bytes) -> Script:
    """The same piece as fast as it is taken."""

    async def script(exchange: Any) -> None:
        await exchange.head()
        while True:
            await exchange.send(piece)
            await asyncio.sleep(0)

    return script


@accident
def a_silent_backend(daemon, backend, client):
    return answered(backend, client, silent)


@accident
def half_a_status_line(daemon, backend, client):
    return answered(backend, client, one_byte)


@accident
def silence_in_an_event(daemon, backend, client):
    return answered(backend, client, plays(delta("x"), b'data: {"cho', SILENCE))


@accident
def empty_data_lines_without_end(daemon, backend, client):
    return answered(backend, client, again_and_again(b"data:\n" * 5000))


@accident
def tool_calls_without_end(daemon, backend, client):
    calls = b"".join(tool_delta(n, "{}", call_id=f"c{n}", name="f") for n in range(900))
    return answered(backend, client, again_and_again(calls))


@accident
def arguments_without_end(daemon, backend, client):
    return answered(
        backend, client, plays(tool_delta(0, '{"', call_id="c", name="f"), *[tool_delta(0, "x" * 9000)] * 900)
    )


@accident
def an_event_of_empty_arrays(daemon, backend, client):
    return answered(backend, client, plays(event([[]] * 900_000), SILENCE))


@accident
@asynccontextmanager
async def no_end_of_the_handshake(daemon, backend, client):
    await client.infer("tls")
    while not backend.connections:
        await asyncio.sleep(0.005)
    yield


# --- what stands around ---


@accident
@asynccontextmanager
async def a_credential_that_is_a_pipe(daemon, backend, client):
    os.mkfifo(daemon.folder / "secret")
    await client.infer("file")
    await client.expect_failed("authentication")
    yield


@accident
@asynccontextmanager
async def a_credential_command_that_hangs(daemon, backend, client):
    await client.infer("command")
    async with asyncio.timeout(10):
        while not (daemon.folder / "asked").exists():
            await asyncio.sleep(0.005)
    yield


@accident
@asynccontextmanager
async def idle_connections_to_the_metrics(daemon, backend, client):
    port = int((daemon.folder / "port").read_text())
    with ExitStack() as stack:
        for _ in range(300):
            idle = stack.enter_context(socket.socket())
            idle.setblocking(False)
            with suppress(BlockingIOError):
                idle.connect(("127.0.0.1", port))
        yield


@accident
@asynccontextmanager
async def a_reload_of_a_wrong_file(daemon, backend, client):
    daemon.config_path.write_text("{")
    for _ in range(20):
        daemon.process.send_signal(signal.SIGHUP)
    yield


@accident
@asynccontextmanager
async def a_reload_with_requests_in_flight(daemon, backend, client):
    async with answered(backend, client, silent):
        daemon.config_path.write_text(daemon.config_path.read_text().replace("fake-model", "other-model"))
        daemon.process.send_signal(signal.SIGHUP)
        yield


@accident
@asynccontextmanager
async def a_process_that_stood_still(daemon, backend, client):
    async with answered(backend, client, silent):
        daemon.process.send_signal(signal.SIGSTOP)
        await asyncio.sleep(0.5)
        daemon.process.send_signal(signal.SIGCONT)
        yield


@accident
@asynccontextmanager
async def a_socket_file_that_was_removed(daemon, backend, client):
    daemon.socket_path.unlink()
    yield


# --- the promise ---


def configuration(folder: Path, backend: FakeBackend) -> dict[str, Any]:
    """One daemon for all of them."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "port").write_text(str(port))
    hangs = "import pathlib, time; pathlib.Path('asked').touch(); time.sleep(60)"
    backends: dict[str, Any] = {
        "b": {},
        "tls": {"endpoint": "https://127.0.0.1:{tcp}/tls"},
        "file": {"credential": {"type": "file", "path": str(folder / "secret")}},
        "command": {"credential": {"type": "command", "command": [sys.executable, "-c", hangs], "timeout_ms": 60_000}},
    }
    server = {"shutdown_grace_ms": int(GRACE * 1000), "max_connections": 500}
    return make_config(backends, backend, server=server, telemetry={"metrics": f"127.0.0.1:{port}"})


@pytest.mark.parametrize("name", ACCIDENTS)
async def test_sigterm_ends_it_within_its_grace(tmp_path, backend, name):
    """Exit status 0, and no socket file is left."""
    daemon = DaemonProcess(tmp_path, configuration(tmp_path, backend))
    try:
        await daemon.serving()
        async with connected(daemon.socket_path) as client, ACCIDENTS[name](daemon, backend, client):
            began = time.monotonic()
            daemon.process.terminate()
            assert await daemon.ended(GRACE + PATIENCE) == 0, daemon.log()
            took = time.monotonic() - began
        sys.stdout.write(f"{took:.2f} s\n")
    finally:
        daemon.kill()
    assert daemon.complaints() == []
    assert not daemon.socket_path.exists()


@pytest.mark.parametrize("kind", [STUCK, GONE, FULL])
async def test_sigterm_with_a_bad_log_and_requests_in_flight(tmp_path, backend, kind):
    """The log cannot hold the end, also where there is something to wait for."""
    backend.on("b", silent)
    config = configuration(tmp_path, backend)
    async with with_a_bad_log(tmp_path, config, kind) as daemon, connected(daemon.socket_path) as client:
        await client.send(*(infer("b", f"{n}", metadata={"k": "x" * 1000}) for n in range(200)))
        await backend.request("b")
        daemon.process.terminate()
        assert await daemon.ended(GRACE + PATIENCE) == 0
    assert not daemon.socket_path.exists()
