"""The daemon under test: as a process of its own, or in the loop of the test."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from beluna_gateway.config.loading import load_config
from beluna_gateway.config.settings import Config
from beluna_gateway.daemon.server import Daemon
from beluna_gateway.gateway import AIGateway

from .backend import PATIENCE, FakeBackend
from .client import Client, connected

RELIABILITY = {
    "request_timeout_ms": int(PATIENCE * 3000),
    "idle_timeout_ms": int(PATIENCE * 3000),
    "connect_timeout_ms": int(PATIENCE * 3000),
    "max_retries": 0,
    "backoff_base_ms": 10,
    "backoff_max_ms": 20,
    "breaker_failure_threshold": 1000,
}
"""Nothing happens by itself, unless a test's own backend says so."""

Settings = Mapping[str, Any]


def make_config(backends: Mapping[str, Settings], fake: FakeBackend | None = None, **sections: Any) -> dict[str, Any]:
    """A configuration as a dictionary. Each backend is `openai_compatible` at `fake`, unless its settings differ.

    Args:
        backends: By id; the first one is the default. Each may give any key of a backend; in its `endpoint`, `{tcp}`
            and `{tls}` stand for the fake's ports and `{unix}` for its socket.
        fake: Where they are reached.
        sections: Further top-level sections.
    """
    return {
        "ai_gateway": {
            "default_backend": next(iter(backends)),
            "reliability": RELIABILITY,
            "backends": [
                {
                    "id": name,
                    "dialect": "openai_compatible",
                    "credential": {"type": "none"},
                    "default_model": "fake-model",
                    **settings,
                    "endpoint": _endpoint(settings.get("endpoint", "http://127.0.0.1:{tcp}/" + name), fake),
                }
                for name, settings in backends.items()
            ],
        },
        **sections,
    }


def _endpoint(text: str, fake: FakeBackend | None) -> str:
    if fake is None:
        return text.replace("{tcp}", "9")
    known = {"{tcp}": fake.port, "{tls}": fake.tls_port, "{unix}": fake.unix_path}
    for word, value in known.items():
        text = text.replace(word, str(value))
    return text


def write_config(folder: Path, config: Any) -> Path:
    """The file in `folder`."""
    path = folder / "beluna.jsonc"
    path.write_text(config if isinstance(config, str) else json.dumps(config, indent=1))
    return path


def clean_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a program under test: nothing from outside that could change it but where its code is."""
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR", "PYTHONPATH") if name in os.environ}
    return {**kept, "PYTHONWARNINGS": "default", "PYTHONUNBUFFERED": "1", **(extra or {})}


class DaemonProcess:
    """`python -m beluna_gateway serve`. Its log is in `log()`.

    Args:
        folder: Holds its config; the socket will be there too.
        config: A dictionary, or the text of the file.
        environment: Variables beside the usual ones.
        launcher: A command that runs the daemon's, which is appended.
        options: For `Popen`.
    """

    def __init__(
        self,
        folder: Path,
        config: Any,
        environment: Mapping[str, str] | None = None,
        launcher: Sequence[str] = (),
        **options: Any,
    ) -> None:
        self.folder = folder
        self.config_path = write_config(folder, config)
        self.socket_path = folder / "beluna.sock"
        self.log_path = folder / "log"
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*launcher, sys.executable, "-m", "beluna_gateway", "serve", "--config", str(self.config_path)],
                env=clean_environment(environment),
                cwd=folder,
                **{"stdin": subprocess.DEVNULL, "stdout": log, "stderr": log, **options},
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    def log(self) -> str:
        """What it has written so far."""
        return self.log_path.read_text()

    def descriptors(self) -> list[str]:
        """What it has open."""
        found = []
        for entry in Path(f"/proc/{self.pid}/fd").iterdir():
            try:
                found.append(str(entry.readlink()))
            except FileNotFoundError:
                continue
        return sorted(found)

    def resident_bytes(self) -> int:
        """Its memory."""
        return int(Path(f"/proc/{self.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    async def serving(self) -> DaemonProcess:
        """Waits until it accepts connections."""
        async with asyncio.timeout(20):
            while not _answers(self.socket_path):
                assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log()}"
                await asyncio.sleep(0.005)
        return self

    async def ended(self, patience: float = PATIENCE) -> int:
        """Waits for its end; the exit status."""
        async with asyncio.timeout(patience):
            while (status := self.process.poll()) is None:
                await asyncio.sleep(0.005)
        return status

    async def stop(self, number: int = signal.SIGTERM) -> int:
        """Sends a signal, and waits for the end."""
        self.process.send_signal(number)
        return await self.ended()

    def kill(self) -> None:
        """Whatever happened, it is gone afterwards."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()

    def complaints(self) -> list[str]:
        """Lines of the log that a daemon in good health does not write."""
        words = ("Traceback", "Warning", "never retrieved", "never awaited", "Exception", '"bug"', "socket.send()")
        return [line for line in self.log().splitlines() if any(word in line for word in words)]


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        try:
            probe.connect(os.fspath(path))
        except OSError:
            return False
        return True


@asynccontextmanager
async def daemon_process(
    folder: Path, config: Any, environment: Mapping[str, str] | None = None, **options: Any
) -> AsyncIterator[DaemonProcess]:
    """A daemon that accepts connections. Killed at the end if it is still there; its log is printed, for a failure."""
    daemon = DaemonProcess(folder, config, environment, **options)
    try:
        yield await daemon.serving()
    finally:
        daemon.kill()
        sys.stdout.write(daemon.log())
    assert daemon.complaints() == []


@asynccontextmanager
async def local_daemon(folder: Path, config: dict[str, Any], **options: Any) -> AsyncIterator[LocalDaemon]:
    """A daemon in this very loop, over a real socket: quick to start, for tests that need no process."""
    checked: Config = load_config(write_config(folder, config))
    async with AIGateway(checked, folder, **options) as gateway:
        daemon = Daemon(checked, folder, gateway)
        serving = asyncio.create_task(daemon.serve())
        path = folder / checked.socket_path
        while not path.exists() and not serving.done():
            await asyncio.sleep(0)
        try:
            yield LocalDaemon(daemon, gateway, path)
        finally:
            daemon.stop("the test is over")
            daemon.stop("at once")
            await serving


class LocalDaemon:
    """What `local_daemon` gives."""

    def __init__(self, daemon: Daemon, gateway: AIGateway, path: Path) -> None:
        self.daemon = daemon
        self.gateway = gateway
        self.socket_path = path

    @asynccontextmanager
    async def client(self) -> AsyncIterator[Client]:
        """A client of it."""
        async with connected(self.socket_path) as client:
            yield client
