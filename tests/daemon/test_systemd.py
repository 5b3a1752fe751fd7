"""What systemd expects: a socket handed over, readiness, stopping, and a watchdog that the event loop itself feeds."""

from __future__ import annotations

import asyncio
import socket
import sys
from contextlib import closing, contextmanager
from typing import Any

import pytest

from tests.fakes.answers import silent, text
from tests.fakes.client import connected, said
from tests.fakes.daemon import DaemonProcess, daemon_process, make_config

# As systemd does it: the socket is descriptor 3, and the variables name this very process.
HAND_OVER = """
import os, sys
os.dup2(int(sys.argv[1]), 3)
os.environ["LISTEN_PID"] = sys.argv[3] if sys.argv[3] != "own" else str(os.getpid())
os.environ["LISTEN_FDS"] = sys.argv[2]
os.execv(sys.argv[4], sys.argv[4:])
"""


def handing_over(listener: socket.socket, count: str = "1", pid: str = "own") -> dict[str, Any]:
    """Options for a `DaemonProcess` that gets `listener` from systemd."""
    number = listener.fileno()
    launcher = [sys.executable, "-c", HAND_OVER, str(number), count, pid]
    return {"launcher": launcher, "pass_fds": [number]}


@contextmanager
def listening(path):
    """What a `.socket` unit makes."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        yield listener


async def test_a_socket_that_is_handed_over_is_served(tmp_path, backend):
    """The daemon takes it instead of its `socket_path`, and leaves the file to whoever made it."""
    path = tmp_path / "unit.sock"
    with listening(path) as listener:
        daemon = DaemonProcess(tmp_path, make_config({"b": {}}, backend), **handing_over(listener))
    try:
        backend.on("b", text("hello"))
        async with connected(path) as client:
            await client.infer("b")
            assert said(await client.answer(patience=20)) == "hello"
        assert not daemon.socket_path.exists()
        assert await daemon.stop() == 0
        assert path.is_socket()
        assert daemon.complaints() == []
    finally:
        daemon.kill()


@pytest.mark.parametrize(("count", "pid"), [("1", "1"), ("0", "own"), ("x", "own"), ("", "own")])
async def test_what_is_meant_for_another_process_is_not_taken(tmp_path, count, pid):
    """With another pid, or without a count, the daemon makes its own socket."""
    with listening(tmp_path / "unit.sock") as listener:
        daemon = DaemonProcess(tmp_path, make_config({"b": {}}), **handing_over(listener, count, pid))
    try:
        await daemon.serving()
        assert await daemon.stop() == 0
    finally:
        daemon.kill()


@pytest.mark.parametrize("kind", ["not-listening", "tcp", "datagram", "file"])
async def test_what_is_no_listening_socket_is_refused(tmp_path, kind):
    """Status 73, and the message says which descriptor."""
    handed: Any
    if kind == "tcp":
        handed = socket.create_server(("127.0.0.1", 0))
    elif kind == "datagram":
        handed = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    elif kind == "not-listening":
        handed = socket.socket(socket.AF_UNIX)
    else:
        handed = (tmp_path / "file").open("w")
    with closing(handed):
        daemon = DaemonProcess(tmp_path, make_config({"b": {}}), **handing_over(handed))
    try:
        assert await daemon.ended(20) == 73
        assert "descriptor 3" in daemon.log()
        assert daemon.complaints() == []
    finally:
        daemon.kill()


class Manager:
    """The other end of `NOTIFY_SOCKET`."""

    def __init__(self, address: str) -> None:
        self.channel = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.channel.setblocking(False)
        self.channel.bind(address)

    async def told(self) -> list[str]:
        """The next message's assignments."""
        async with asyncio.timeout(20):
            data = await asyncio.get_running_loop().sock_recv(self.channel, 4096)
        return data.decode().split("\n")


@pytest.mark.parametrize("abstract", [False, True], ids=["path", "abstract"])
async def test_readiness_and_stopping(tmp_path, backend, abstract):
    """`READY=1` when it accepts, `STOPPING=1` when it takes nothing more, each with a status in words."""
    address = f"\0{tmp_path}" if abstract else str(tmp_path / "notify")
    manager = Manager(address)
    environment = {"NOTIFY_SOCKET": address.replace("\0", "@")}
    with closing(manager.channel):
        daemon = DaemonProcess(tmp_path, make_config({"b": {}}, backend), environment)
        try:
            first, *others = await manager.told()
            assert first == "READY=1"
            assert others[0].startswith("STATUS=")
            async with connected(daemon.socket_path) as client:
                backend.on("b", silent)
                await client.infer("b")
                await backend.request("b")
                daemon.process.terminate()
                assert (await manager.told())[0] == "STOPPING=1"
                assert daemon.process.poll() is None
                await client.cancel()
            assert await daemon.ended() == 0
        finally:
            daemon.kill()


async def test_the_watchdog_is_fed_at_half_its_time(tmp_path):
    """`WATCHDOG=1` comes from the event loop, twice in each `WATCHDOG_USEC`."""
    manager = Manager(str(tmp_path / "notify"))
    loop = asyncio.get_running_loop()
    environment = {"NOTIFY_SOCKET": str(tmp_path / "notify"), "WATCHDOG_USEC": "400000"}
    with closing(manager.channel):
        daemon = DaemonProcess(tmp_path, make_config({"b": {}}), environment)
        try:
            assert (await manager.told())[0] == "READY=1"
            assert await manager.told() == ["WATCHDOG=1"]
            await manager.told()  # the first interval holds the end of the start-up
            began = loop.time()
            for _ in range(4):
                assert await manager.told() == ["WATCHDOG=1"]
            assert 0.6 <= loop.time() - began < 1.6
            assert await daemon.stop() == 0
        finally:
            daemon.kill()


async def test_a_watchdog_for_another_process_is_not_fed(tmp_path):
    """`WATCHDOG_PID` says whose it is; a manager that does not listen is no reason to fail."""
    environment = {
        "NOTIFY_SOCKET": str(tmp_path / "nobody"),
        "WATCHDOG_USEC": "100000",
        "WATCHDOG_PID": "1",
    }
    async with daemon_process(tmp_path, make_config({"b": {}}), environment) as daemon:
        assert await daemon.stop() == 0
