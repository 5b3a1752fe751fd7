"""What happens around a daemon and must not stop it: a log that takes nothing, closed descriptors, signals, locks."""

from __future__ import annotations

import asyncio
import fcntl
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from beluna_gateway.daemon.sockets import HangupWatch
from tests.fakes.answers import silent, text
from tests.fakes.client import connected, said
from tests.fakes.daemon import DaemonProcess, clean_environment, daemon_process, local_daemon, make_config

# --- a log that takes nothing ---

STUCK, GONE, FULL = "its reader has stopped", "its reader has gone", "the disk is full"


@asynccontextmanager
async def with_a_bad_log(folder: Path, config: dict[str, Any], kind: str) -> AsyncIterator[DaemonProcess]:
    """A daemon whose standard error is of that kind."""
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    if kind == GONE:
        os.close(reading)
    elif kind == FULL:
        os.close(writing)
        writing = os.open("/dev/full", os.O_WRONLY)
    try:
        daemon = DaemonProcess(folder, config, stderr=writing)
    finally:
        os.close(writing)
    try:
        yield await daemon.serving()
    finally:
        daemon.kill()
        if kind != GONE:
            os.close(reading)


@pytest.mark.parametrize("how", ["exit", signal.SIGTERM])
@pytest.mark.parametrize("kind", [STUCK, GONE, FULL])
async def test_a_log_that_takes_nothing(tmp_path, backend, kind, how):
    """Requests are served and counted, and the daemon stops as it always does."""
    backend.on("b", text("hello"))
    config = make_config({"b": {}}, backend, telemetry={"metrics": "./metrics.sock"})
    async with with_a_bad_log(tmp_path, config, kind) as daemon:
        async with connected(daemon.socket_path) as client:
            for number in range(100):
                await client.infer("b", f"{number}", metadata={"k": "x" * 1000})
                assert said(await client.answer(f"{number}")) == "hello"
            assert (await client.status())["in_flight"] == 0
        metrics = await scrape(tmp_path / "metrics.sock")
        labels = f'backend_id="b",client="{os.getuid()}",model="fake-model",outcome="completed"'
        assert f"beluna_gateway_requests_total{{{labels}}} 100.0" in metrics
        if how == "exit":
            async with connected(daemon.socket_path) as client:
                await client.send({"type": "exit"})
                await client.expect_end()
        else:
            daemon.process.terminate()
        assert await daemon.ended() == 0
    assert not daemon.socket_path.exists()


async def test_a_second_signal_with_a_log_that_takes_nothing(tmp_path, backend):
    """Also with a request in flight it ends what is left at once."""
    backend.on("b", silent)
    config = make_config({"b": {}}, backend, server={"shutdown_grace_ms": 60_000})
    async with with_a_bad_log(tmp_path, config, GONE) as daemon, connected(daemon.socket_path) as client:
        await client.infer("b")
        await backend.request("b")
        daemon.process.terminate()
        await asyncio.sleep(0.1)
        daemon.process.terminate()
        await client.expect_failed("internal")
        assert await daemon.ended() == 0


async def test_a_log_reader_that_goes_on(tmp_path, backend):
    """What was lost meanwhile is counted in the log; what was not is in it."""
    backend.on("b", text("hello"))
    reading, writing = os.pipe()
    fcntl.fcntl(writing, fcntl.F_SETPIPE_SZ, 4096)
    with closing(os.fdopen(reading, "rb", buffering=0)) as log:
        daemon = DaemonProcess(tmp_path, make_config({"b": {}}, backend), stderr=writing)
        os.close(writing)
        try:
            async with connected((await daemon.serving()).socket_path) as client:
                for number in range(150):
                    await client.infer("b", f"{number}", metadata={"k": "x" * 10_000})
                    await client.answer(f"{number}")
                await asyncio.to_thread(read_until, log, b"log lines were lost")
                await client.infer("b", "late")
                await client.answer("late")
                await asyncio.to_thread(read_until, log, b'"late"')
            assert await daemon.stop() == 0
        finally:
            daemon.kill()


def read_until(log: Any, words: bytes) -> None:
    data = b""
    while words not in data:
        data = data[-100:] + log.read(65536)


async def scrape(path: Path) -> str:
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(connector=connector) as session, session.get("http://x/metrics") as response:
        return await response.text()


# --- a daemon that does not get to run ---


async def test_clients_queue_while_the_process_stands_still(tmp_path, backend):
    """Five hundred of them connect meanwhile, none is refused, and each is answered afterwards."""
    with ExitStack() as stack:
        async with daemon_process(
            tmp_path, make_config({"b": {}}, backend, server={"max_connections": 1000})
        ) as daemon:
            daemon.process.send_signal(signal.SIGSTOP)
            try:
                clients = [stack.enter_context(socket.socket(socket.AF_UNIX)) for _ in range(500)]
                for client in clients:
                    client.setblocking(False)  # it says at once where the queue is full
                    client.connect(str(daemon.socket_path))
                    client.send(b'{"type":"status"}\n')
            finally:
                daemon.process.send_signal(signal.SIGCONT)
            for client in clients:
                client.setblocking(True)
                assert await asyncio.to_thread(client.recv, 20) == b'{"type":"status","pr'
            assert await daemon.stop() == 0


# --- descriptors ---


@pytest.mark.parametrize("closed", ["0", "1", "2", "01", "12", "02", "012"])
async def test_descriptors_that_are_closed_at_start(tmp_path, backend, closed):
    """They are /dev/null, so that no connection gets their numbers; requests are served all the same."""
    closing_shell = "exec " + " ".join(f"{number}>&-" for number in closed) + '; exec "$@"'
    backend.on("b", text("hello"))
    config = make_config({"b": {}}, backend)
    async with (
        daemon_process(tmp_path, config, launcher=["sh", "-c", closing_shell, "sh"]) as daemon,
        connected(daemon.socket_path) as client,
    ):
        await client.infer("b")
        assert said(await client.answer()) == "hello"
        for number in closed:
            assert Path(f"/proc/{daemon.pid}/fd/{number}").readlink() == Path("/dev/null")
        assert await daemon.stop() == 0


# --- signals ---


async def test_a_signal_at_any_moment_of_the_start_leaves_no_file(tmp_path, backend):
    """SIGTERM ends a daemon that starts; SIGHUP does not; neither socket file is left behind."""
    config = make_config({"b": {}}, backend, telemetry={"metrics": "./metrics.sock"})
    for step in range(6):
        daemon = DaemonProcess(tmp_path, config)
        try:
            if step % 2:
                async with asyncio.timeout(20):  # as soon as there is a file
                    while not {"beluna.sock", "metrics.sock"} & {path.name for path in tmp_path.iterdir()}:
                        await asyncio.sleep(0)
                daemon.process.send_signal(signal.SIGHUP)
            else:
                await asyncio.sleep(step * 0.1)
            daemon.process.terminate()
            status = await daemon.ended()
            assert status in ((0,) if step % 2 else (0, -signal.SIGTERM))
        finally:
            daemon.kill()
        assert not {"beluna.sock", "metrics.sock"} & {path.name for path in tmp_path.iterdir()}


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP], ids=lambda order: order.name)
async def test_signals_until_its_last_moment(tmp_path, backend, order):
    """Whoever goes on sending signals to a daemon that stops gets status 0, and finds no file."""
    async with daemon_process(tmp_path, make_config({"b": {}}, backend)) as daemon:
        daemon.process.send_signal(signal.SIGTERM)
        async with asyncio.timeout(20):
            while daemon.process.poll() is None:
                daemon.process.send_signal(order)
                await asyncio.sleep(0.001)
        assert daemon.process.returncode == 0
        assert not daemon.socket_path.exists()


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT], ids=lambda order: order.name)
async def test_a_signal_while_the_configuration_is_read(tmp_path, order):
    """A file that does not answer holds up nobody who wants the daemon to end."""
    file = tmp_path / "fifo"
    os.mkfifo(file)
    command = [sys.executable, "-m", "beluna_gateway", "serve", "--config", str(file)]
    process = subprocess.Popen(command, env=clean_environment())
    try:
        async with asyncio.timeout(20):
            while not (writing := _open_for_writing(file)):  # once somebody reads
                await asyncio.sleep(0.01)
            while process.poll() is None:
                process.send_signal(order)
                await asyncio.sleep(0.05)
        assert process.returncode in (-order, 128 + order)
        os.close(writing)
    finally:
        process.kill()
        process.wait()


def _open_for_writing(fifo: Path) -> int | None:
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


# --- locks and socket files ---


async def test_a_lock_that_another_process_holds(tmp_path):
    """The start is given up after two seconds, with status 73 and the reason; also a shared lock is one."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        daemon = DaemonProcess(tmp_path, make_config({"b": {}}))
        try:
            assert await daemon.ended(30) == 73
        finally:
            daemon.kill()
    finally:
        os.close(descriptor)
    assert "lock" in daemon.log()
    assert str(tmp_path) in daemon.log()
    assert daemon.complaints() == []
    assert not daemon.socket_path.exists()


async def test_a_lock_that_is_released_in_time(tmp_path):
    """Another daemon that is just starting is waited for."""
    descriptor = os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        daemon = DaemonProcess(tmp_path, make_config({"b": {}}))
        try:
            async with asyncio.timeout(20):
                while str(tmp_path) not in daemon.descriptors():
                    await asyncio.sleep(0.005)
            await asyncio.sleep(0.2)
            assert not daemon.socket_path.exists()
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            await daemon.serving()
            assert await daemon.stop() == 0
        finally:
            daemon.kill()
    finally:
        os.close(descriptor)


async def test_a_socket_that_was_handed_over_stays(tmp_path, backend, monkeypatch):
    """With asyncio's own event loop, too, which deletes a Unix server's file from Python 3.13 on."""
    path = tmp_path / "unit.sock"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    listener.setblocking(False)
    monkeypatch.setattr("beluna_gateway.daemon.server.handed_over", lambda: [listener])
    (tmp_path / "beluna.sock").touch()  # what the helper waits for
    async with local_daemon(tmp_path, make_config({"b": {}}, backend)), connected(path) as client:
        await client.status()

    assert path.is_socket()


# --- the end ---


def test_a_connection_that_ends_after_the_watch_was_closed():
    """Its hang-up is forgotten as before: the last connections are lost only after the daemon has served."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        watch = HangupWatch()
        watch.watch(ours.fileno(), print)
        watch.close()

        watch.watch(theirs.fileno(), print)
        watch.forget(ours.fileno(), print)
