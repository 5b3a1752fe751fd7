"""The socket file: whose it is, who may use it, and what the daemon never touches. Each test has its own process."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.daemon.sockets import SocketError, listening_socket
from tests.fakes.client import connected
from tests.fakes.daemon import DaemonProcess, daemon_process, make_config

NO_SOCKET = 73
CONFIG = make_config({"b": {}})


async def refused(folder: Path, config: Any = None) -> str:
    """The daemon must not start: status 73, one line that names the path, and no traceback."""
    daemon = DaemonProcess(folder, config or CONFIG)
    try:
        assert await daemon.ended(20) == NO_SOCKET
    finally:
        daemon.kill()
    assert daemon.complaints() == []
    assert "beluna.sock" in daemon.log()
    return daemon.log()


def identity(path: Path) -> tuple[int, ...]:
    status = path.lstat()
    return status.st_ino, status.st_mode, status.st_mtime_ns


async def test_a_stale_socket_is_replaced(tmp_path):
    """A socket file that nobody answers on."""
    path = tmp_path / "beluna.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    async with daemon_process(tmp_path, CONFIG) as daemon:
        assert await daemon.stop() == 0
    assert not path.exists()


async def test_a_socket_that_answers_is_left_alone(tmp_path):
    """Another server keeps its file and its clients."""
    path = tmp_path / "beluna.sock"
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen(1)
        before = identity(path)

        assert "another daemon answers" in await refused(tmp_path)

        assert identity(path) == before
        other.accept()[0].close()


async def test_a_socket_whose_queue_is_full_is_left_alone(tmp_path):
    """A server that is busy is no server that is gone."""
    path = tmp_path / "beluna.sock"
    with socket.socket(socket.AF_UNIX) as other, socket.socket(socket.AF_UNIX) as waiting:
        other.bind(str(path))
        other.listen(0)
        waiting.connect(str(path))
        before = identity(path)

        assert "another daemon answers" in await refused(tmp_path)

        assert identity(path) == before


@pytest.mark.parametrize("kind", ["file", "folder", "symlink", "broken-symlink", "symlink-to-socket", "fifo"])
async def test_what_is_no_socket_is_left_alone(tmp_path, kind):
    """A regular file, a folder, a symbolic link to anything."""
    path, target = tmp_path / "beluna.sock", tmp_path / "target"
    if kind == "file":
        path.write_text("precious")
    elif kind == "folder":
        path.mkdir()
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        if kind == "symlink":
            target.write_text("precious")
        elif kind == "symlink-to-socket":
            with socket.socket(socket.AF_UNIX) as stale:
                stale.bind(str(target))
        path.symlink_to(target)
    before = identity(path)

    await refused(tmp_path)

    assert identity(path) == before
    if kind == "symlink":
        assert target.read_text() == "precious"
    if kind == "symlink-to-socket":
        assert target.is_socket()


async def test_a_path_that_is_too_long(tmp_path):
    """The operating system's limit is told in words."""
    deep = "d" * 100
    assert "107 bytes" in await refused(tmp_path, {**CONFIG, "socket_path": f"{deep}/beluna.sock"})


async def test_a_folder_that_cannot_be_made(tmp_path):
    """A file where a folder should be."""
    (tmp_path / "file").write_text("")
    await refused(tmp_path, {**CONFIG, "socket_path": "file/beluna.sock"})


@pytest.mark.parametrize("mode", ["0600", "0660"])
async def test_the_mode_is_never_wider(tmp_path, mode):
    """From its first moment on the file has exactly `socket_mode`, whatever the umask is."""
    path = tmp_path / "beluna.sock"
    seen = set()
    watching = threading.Event()

    def watch():
        while not watching.is_set():
            try:
                seen.add(stat.S_IMODE(path.lstat().st_mode))
            except FileNotFoundError:
                continue

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        config = {**CONFIG, "server": {"socket_mode": mode}}
        async with daemon_process(tmp_path, config, preexec_fn=lambda: os.umask(0)) as daemon:
            seen.add(stat.S_IMODE(path.lstat().st_mode))
            assert await daemon.stop() == 0
    finally:
        watching.set()
        watcher.join()
    assert seen == {int(mode, 8)}


@pytest.mark.parametrize("umask", [0, 0o022, 0o077, 0o777])
@pytest.mark.parametrize("mode", [0o600, 0o660, 0o777])
def test_the_mode_does_not_depend_on_the_umask(tmp_path, umask, mode):
    """The file has exactly `mode`, and the process keeps its umask, also where binding fails."""
    before = os.umask(umask)
    try:
        with listening_socket(tmp_path / "a.sock", mode):
            found = stat.S_IMODE((tmp_path / "a.sock").lstat().st_mode)
        with pytest.raises(SocketError), listening_socket(tmp_path / ("a" * 107), mode):
            pass
    finally:
        after = os.umask(before)

    assert (found, after) == (mode, umask)


async def test_missing_folders_are_made_for_the_owner_alone(tmp_path):
    """Each of them has mode 0700; one that exists is not changed."""
    (tmp_path / "there").mkdir(mode=0o755)
    config = {**CONFIG, "socket_path": "there/a/b/beluna.sock"}
    daemon = DaemonProcess(tmp_path, config, preexec_fn=lambda: os.umask(0o022))
    daemon.socket_path = tmp_path / "there/a/b/beluna.sock"
    try:
        await daemon.serving()
        modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("there", "there/a", "there/a/b")]
        assert modes == [0o755, 0o700, 0o700]
        assert await daemon.stop() == 0
    finally:
        daemon.kill()


async def test_an_absolute_path(tmp_path):
    """`socket_path` may point elsewhere."""
    folder = tmp_path / "elsewhere"
    daemon = DaemonProcess(tmp_path, {**CONFIG, "socket_path": str(folder / "other.sock")})
    daemon.socket_path = folder / "other.sock"
    try:
        await daemon.serving()
        assert await daemon.stop() == 0
    finally:
        daemon.kill()
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("instead", ["socket", "file", "nothing"])
async def test_only_its_own_file_is_removed(tmp_path, instead):
    """What stands at the path by the time of the exit may belong to somebody else."""
    async with daemon_process(tmp_path, CONFIG) as daemon:
        path = daemon.socket_path
        path.unlink()
        if instead == "file":
            path.write_text("precious")
        elif instead == "socket":
            with socket.socket(socket.AF_UNIX) as other:
                other.bind(str(path))
        assert await daemon.stop() == 0
        assert path.exists() == (instead != "nothing")


async def test_of_two_that_start_together_one_serves(tmp_path):
    """Six daemons for one stale path: one gets it, the others say so and leave it alone."""
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(tmp_path / "beluna.sock"))
    daemons = [DaemonProcess(tmp_path, CONFIG) for _ in range(6)]
    try:
        async with asyncio.timeout(30):
            while sum(daemon.process.poll() is None for daemon in daemons) > 1:
                await asyncio.sleep(0.02)
        (winner,) = [daemon for daemon in daemons if daemon.process.poll() is None]
        assert [daemon.process.poll() for daemon in daemons if daemon is not winner] == [NO_SOCKET] * 5
        async with connected((await winner.serving()).socket_path) as client:
            assert (await client.status())["pid"] == winner.pid
        assert await winner.stop() == 0
    finally:
        for daemon in daemons:
            daemon.kill()
    assert not (tmp_path / "beluna.sock").exists()
