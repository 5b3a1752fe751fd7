"""`beluna-gateway top` against a daemon."""

from __future__ import annotations

import asyncio
import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.fakes.answers import delta, plays
from tests.fakes.backend import PATIENCE, fake_backend
from tests.fakes.daemon import clean_environment, daemon_process, local_daemon, make_config

COMMAND = [sys.executable, "-m", "beluna_gateway", "top", "--every", "0.05"]
ALTERNATE_SCREEN, NORMAL_SCREEN = "\x1b[?1049h", "\x1b[?1049l"


class Terminal:
    """A terminal in which `top` runs."""

    def __init__(self, folder: Path, descriptor: int, theirs: int) -> None:
        self.said = ""
        self._descriptor = descriptor
        self.resize(24, 100)
        self.process = subprocess.Popen(
            [*COMMAND, "--socket", str(folder / "beluna.sock")],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env=clean_environment({"TERM": "xterm"}),
            cwd=folder,
            start_new_session=True,
        )

    def resize(self, lines: int, columns: int) -> None:
        """As if its window was."""
        fcntl.ioctl(self._descriptor, termios.TIOCSWINSZ, struct.pack("4H", lines, columns, 0, 0))

    async def shows(self, text: str) -> None:
        """Waits until it shows that, after what it showed before."""
        async with asyncio.timeout(PATIENCE):
            while text not in self.said:
                self.said += (await asyncio.to_thread(os.read, self._descriptor, 65536)).decode(errors="replace")
        self.said = self.said.partition(text)[2]

    async def ended(self) -> int:
        """Its exit status."""
        async with asyncio.timeout(PATIENCE):
            while (status := self.process.poll()) is None:
                await asyncio.sleep(0.01)
        return status


@asynccontextmanager
async def terminal(folder: Path) -> AsyncIterator[Terminal]:
    """A terminal; whatever happens, `top` is gone afterwards."""
    descriptor, theirs = pty.openpty()
    opened = Terminal(folder, descriptor, theirs)
    os.close(theirs)
    try:
        yield opened
    finally:
        opened.process.kill()
        opened.process.wait()
        os.close(descriptor)


async def test_it_survives_the_daemons_restart(tmp_path):
    """It says that the daemon is gone and that it is back; Ctrl-C gives the terminal back, with status 130."""
    config = make_config({"some-backend": {}})
    async with daemon_process(tmp_path, config) as daemon, terminal(tmp_path) as seen:
        await seen.shows(ALTERNATE_SCREEN)
        await seen.shows("some-backend")
        await daemon.stop()
        await seen.shows("no answer for")
        await seen.shows("no daemon answers at")
        async with daemon_process(tmp_path, config):
            await seen.shows("live")
            await seen.shows("was started again")
            seen.process.send_signal(signal.SIGINT)
            await seen.shows(NORMAL_SCREEN)
            assert await seen.ended() == 130


async def test_it_shows_what_is_under_way_and_follows_the_window(tmp_path):
    """A request of so many places; a wider window has room for the model; SIGTERM gives the terminal back."""
    async with fake_backend() as backend:
        backend.on("b", plays(delta("x"), "silence"))
        async with local_daemon(tmp_path, make_config({"b": {}}, backend)) as daemon, daemon.client() as client:
            await client.infer("b")
            await client.expect("started")
            async with terminal(tmp_path) as seen:
                await seen.shows("1/8")
                assert "fake-model" not in seen.said
                seen.resize(30, 140)
                seen.process.send_signal(signal.SIGWINCH)
                await seen.shows("fake-model")
                seen.process.send_signal(signal.SIGTERM)
                await seen.shows(NORMAL_SCREEN)
                assert await seen.ended() == 128 + signal.SIGTERM


async def test_it_can_be_suspended(tmp_path):
    """Ctrl-Z gives the terminal back to the shell; afterwards the picture is there again."""
    async with local_daemon(tmp_path, make_config({"some-backend": {}})), terminal(tmp_path) as seen:
        await seen.shows("some-backend")
        seen.process.send_signal(signal.SIGTSTP)
        await seen.shows(NORMAL_SCREEN)
        async with asyncio.timeout(PATIENCE):
            while " T " not in Path(f"/proc/{seen.process.pid}/stat").read_text():
                await asyncio.sleep(0.01)
        seen.process.send_signal(signal.SIGCONT)
        await seen.shows(ALTERNATE_SCREEN)
        await seen.shows("some-backend")


async def run(folder: Path, *arguments: str, **environment: str) -> tuple[int | None, str, str]:
    """Runs the command in `folder` without a terminal."""
    process = await asyncio.create_subprocess_exec(
        *COMMAND,
        *arguments,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=clean_environment(environment),
        cwd=folder,
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


@pytest.mark.parametrize("arguments", [["--once"], []])
async def test_one_plain_picture(tmp_path, arguments):
    """With `--once`, or where standard output is no terminal: text without colours and cursor movements, status 0."""
    async with local_daemon(tmp_path, make_config({"some-backend": {}})):
        status, out, err = await run(tmp_path, *arguments)

    assert (status, err) == (0, "")
    assert "some-backend" in out
    assert "0/8" in out
    assert "\x1b" not in out
    assert max(map(len, out.splitlines())) <= 120


async def test_nobody_to_watch(tmp_path):
    """Without a daemon it ends as the other commands do: status 69, and what to do."""
    status, out, err = await run(tmp_path, "--socket", "nobody.sock")

    assert (status, out) == (69, "")
    assert "no daemon answers at nobody.sock" in err


async def test_without_rich(tmp_path):
    """Where the extra is not installed, the message has the command that installs it."""
    (tmp_path / "rich.py").write_text("raise ModuleNotFoundError(name='rich')")
    status, out, err = await run(tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))

    assert (status, out) == (69, "")
    assert f"{sys.executable} -m pip install rich" in err


async def test_without_rich_and_without_pip(tmp_path):
    """As in an environment that uv has made."""
    (tmp_path / "sitecustomize.py").write_text("import sys; sys.modules.update(rich=None, pip=None)")
    status, _, err = await run(tmp_path, PYTHONPATH=os.pathsep.join([str(tmp_path), *sys.path]))

    assert status == 69
    assert f"uv pip install --python {sys.executable} rich" in err


@pytest.mark.parametrize("seconds", ["0", "nan", "soon", "1e9"])
async def test_a_pace_that_makes_no_sense(tmp_path, seconds):
    """Wrong arguments, status 64."""
    status, _, err = await run(tmp_path, "--every", seconds)

    assert status == 64
    assert "--every" in err
