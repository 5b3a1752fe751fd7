"""`beluna-gateway check`: what an operator is told before a restart, and by which exit status."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.daemon.sockets import SocketError, check_path, is_served
from tests.fakes.answers import answers, fails, plays
from tests.fakes.commands import Outcome, commands, run
from tests.fakes.daemon import daemon_process, make_config, write_config

ROOT = Path(__file__).resolve().parents[2]

__all__ = ["commands"]  # a fixture of each test here


async def checked(folder: Path, config: Any, *arguments: str, **environment: str) -> tuple[Outcome, dict[str, Any]]:
    """What `check --json` does with a configuration in `folder`."""
    path = write_config(folder, config)
    outcome = await run("check", "--json", "--config", path, *arguments, environment=environment)
    return outcome, json.loads(outcome.out)


def by_id(report: dict[str, Any]) -> dict[str, Any]:
    return {backend["id"]: backend for backend in report["backends"]}


# --- offline ---


@pytest.mark.parametrize("name", ["beluna.jsonc", "systemd/beluna.jsonc"])
async def test_the_shipped_files_pass_offline(name):
    """Status 0, though no key is there: the daemon starts with them."""
    outcome = await run("check", "--offline", "--config", ROOT / name, environment={"PATH": "/usr/bin:/bin"})

    assert outcome.status == 0, outcome.out + outcome.err
    assert f"{ROOT / name}: valid" in outcome.out
    assert "is missing" in outcome.out


async def test_offline_contacts_nobody(tmp_path, backend):
    """No backend, no program and no credential command sees anything of it."""
    touched = tmp_path / "touched"
    touch = ["/usr/bin/touch", str(touched)]
    config = make_config(
        {
            "b": {},
            "launched": {"launch": {"command": touch[0], "args": touch[1:]}},
            "command": {"credential": {"type": "command", "command": touch}},
            "proxy": {
                "proxy": f"http://127.0.0.1:{backend.port}",
                "proxy_credential": {"type": "command", "command": touch},
            },
        },
        backend,
    )
    outcome, report = await checked(tmp_path, config, "--offline")

    assert (outcome.status, report["ok"], report["valid"]) == (0, True, True)
    assert by_id(report)["command"]["credential"] == "from a command, which was not started"
    assert backend.requests("b") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["backend.sock", "beluna.jsonc"]


async def test_offline_names_what_will_be_missing(tmp_path):
    """A credential and a program, with status 0: requests to those backends will fail, the daemon starts."""
    config = make_config(
        {
            "key": {"credential": {"type": "env", "var": "NOT_THERE"}},
            "program": {"launch": {"command": "no-such-server --port 1"}},
            "fine": {},
        }
    )
    outcome, report = await checked(tmp_path, config, "--offline")
    found = by_id(report)

    assert outcome.status == 0
    assert {name: backend["ready"] for name, backend in found.items()} == {"key": False, "program": False, "fine": True}
    assert found["key"]["credential"] == "the environment variable NOT_THERE is missing"
    assert "'no-such-server --port 1' is not installed" in found["program"]["program"]
    assert "belong into `args`" in found["program"]["program"]


@pytest.mark.parametrize("what", ["file", "link", "long", "unwritable", "under a file"])
async def test_offline_finds_what_serve_would_refuse_about_the_socket(tmp_path, what):
    """Status 73 and the reason, of both."""
    path = tmp_path / "beluna.sock"
    match what:
        case "file":
            path.touch()
        case "link":
            path.symlink_to("elsewhere")
        case "long":
            path = tmp_path / ("x" * 108)
        case "unwritable":
            path = Path("/proc/beluna.sock")
        case _:
            (tmp_path / "file").touch()
            path = tmp_path / "file" / "beluna.sock"
    config = make_config({"b": {}}, socket_path=str(path))

    outcome, report = await checked(tmp_path, config, "--offline")
    served = await run("serve", "--config", tmp_path / "beluna.jsonc")

    if what == "unwritable" and os.access("/proc", os.W_OK):  # root: only the attempt tells
        assert served.status == 73
        return
    assert (outcome.status, served.status) == (73, 73)
    assert (report["ok"], report["valid"]) == (False, False)
    assert report["mistakes"][0].startswith("cannot listen on ")


async def test_offline_finds_an_address_for_metrics_that_is_taken(tmp_path):
    """Status 73, as of `serve`."""
    with closing(socket.create_server(("127.0.0.1", 0))) as other:
        listen = f"127.0.0.1:{other.getsockname()[1]}"
        config = make_config({"b": {}}, telemetry={"metrics": listen})
        outcome, report = await checked(tmp_path, config, "--offline")

    assert outcome.status == 73
    assert report["mistakes"] == [f"cannot listen on {listen}: Address already in use"]


async def test_offline_finds_a_missing_extra(tmp_path):
    """Status 78, as of `serve`."""
    (tmp_path / "opentelemetry.py").write_text("raise ImportError('no opentelemetry')")
    config = make_config({"b": {}}, telemetry={"otlp": {"endpoint": "http://127.0.0.1:1"}})
    path = os.pathsep.join([str(tmp_path), str(ROOT)])

    outcome, report = await checked(tmp_path, config, "--offline", PYTHONPATH=path)

    assert outcome.status == 78
    assert "beluna-gateway[otlp]" in report["mistakes"][0]


async def test_a_wrong_configuration_as_json(tmp_path):
    """Status 78 or 66, and every mistake in the object; nothing on standard error."""
    outcome, report = await checked(tmp_path, {"ai_gateway": {"backends": []}, "sever": 1}, "--offline")
    missing = await run("check", "--json", "--config", tmp_path / "nowhere")

    assert (outcome.status, outcome.err, missing.status, missing.err) == (78, "", 66, "")
    assert len(report["mistakes"]) >= 3
    assert "sever: unknown key; did you mean 'server'?" in report["mistakes"]
    assert json.loads(missing.out)["valid"] is False


# --- asking the backends ---


def models(*ids: str) -> Any:
    return answers(200, {"data": [{"id": name} for name in ids]})


async def test_a_default_model_that_the_backend_has_not(tmp_path, backend):
    """Status 1, and the name that was probably meant; where nothing can be told that is said, with status 0."""
    backend.on("b", models("fake-models", "other"))
    backend.on("c", models("fake-model"))
    backend.on("d", answers(200, {}))
    backend.on("e", answers(200, b"<html>"))

    outcome, report = await checked(tmp_path, make_config({"b": {}, "c": {}, "d": {}, "e": {}}, backend))
    alone = await run("check", "--config", tmp_path / "beluna.jsonc", "--backend", "d")

    assert outcome.status == 1
    assert {name: (row["ok"], row["model"]) for name, row in by_id(report).items()} == {
        "b": (False, "not listed; did you mean 'fake-models'?"),
        "c": (True, "listed"),
        "d": (True, "cannot tell: the backend lists no models"),
        "e": (True, "cannot tell: the backend lists no models"),
    }
    assert alone.status == 0
    assert "cannot tell" in alone.out


@pytest.mark.parametrize(("dialect", "path"), [("anthropic", "/v1/models/m"), ("gemini", "/v1beta/models/m")])
async def test_a_model_that_only_its_own_name_finds(tmp_path, backend, dialect, path):
    """Anthropic resolves aliases, and Gemini has models that it does not list: the model itself is asked for."""
    listed = answers(200, {"data": [{"id": "other"}], "models": [{"name": "models/other"}]})
    statuses = {}
    for status in (200, 404, 429):
        config = make_config({f"b{status}": {"dialect": dialect, "default_model": "m"}}, backend)
        backend.on(f"b{status}", listed, answers(status, {}))
        outcome, report = await checked(tmp_path, config)
        statuses[status] = (outcome.status, report["backends"][0]["model"].partition(":")[0])
        assert backend.requests(f"b{status}")[1].target == f"/b{status}{path}"

    assert statuses == {
        200: (0, "known by this name"),
        404: (1, "not listed; it lists 'other'"),
        429: (0, "cannot tell"),
    }


async def test_a_list_that_breaks_off_says_nothing_about_the_rest(tmp_path, backend):
    """Where a later page fails, a model may have been on it."""
    first = answers(200, {"models": [{"name": "models/other"}], "nextPageToken": "x"})
    for name, rest in (("whole", answers(200, {"models": [{"name": "models/m"}]})), ("broken", fails(500))):
        backend.on(name, first, rest, fails(404))
        config = make_config({name: {"dialect": "gemini", "default_model": "m"}}, backend)
        outcome, report = await checked(tmp_path, config)
        told = report["backends"][0]["model"]
        assert (outcome.status, told.partition(":")[0]) == (0, "listed" if name == "whole" else "cannot tell")


async def test_messages_are_whole(tmp_path, backend):
    """A provider's text is not cut where it says what to do."""
    backend.on("b", fails(403, None, "x" * 500 + " and then ask your administrator"))

    outcome, report = await checked(tmp_path, make_config({"b": {}}, backend))

    assert outcome.status == 1
    assert "and then ask your administrator" in report["backends"][0]["probe"]


async def test_a_list_that_does_not_end(tmp_path, backend):
    """It is waited for no longer than for a request."""
    backend.on("b", plays(b'{"data": [', 600.0))
    config = make_config({"b": {"budget": {"max_request_time_ms": 300}}}, backend)

    outcome, report = await checked(tmp_path, config)

    assert outcome.status == 1
    assert report["backends"][0]["probe"].startswith("timeout")


# --- beside a daemon that runs ---

SERVER = """
import http.server, sys
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"data": [{"id": "fake-model"}]}')
    def log_message(self, *_):
        pass
open(sys.argv[2] + "/starts", "a").write("x")
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def launching(folder: Path, idle_stop_ms: int | None) -> dict[str, Any]:
    """A backend whose server the daemon starts, and which leaves a mark at each start."""
    (folder / "server.py").write_text(SERVER)
    port = free_port()
    launch = {"command": sys.executable, "args": ["server.py", str(port), str(folder)], "idle_stop_ms": idle_stop_ms}
    return make_config({"b": {"endpoint": f"http://127.0.0.1:{port}", "launch": launch}})


async def test_a_server_is_started_for_the_check_and_the_log_is_not_in_the_way(tmp_path):
    """Without a daemon `check` starts it and stops it; what it logs goes to standard error."""
    outcome, report = await checked(tmp_path, launching(tmp_path, None))

    assert (outcome.status, report["backends"][0]["model"]) == (0, "listed")
    assert "model_server_starting" in outcome.err
    assert (tmp_path / "starts").read_text() == "x"


async def test_a_server_that_the_daemon_runs_is_used(tmp_path):
    """No second one is started, and the socket is not taken for a mistake."""
    config = launching(tmp_path, None)
    async with daemon_process(tmp_path, config) as daemon:
        while not (tmp_path / "starts").exists() or "model_server_ready" not in daemon.log():
            await asyncio.sleep(0.01)
        outcome, report = await checked(tmp_path, config)

    assert outcome.status == 0, outcome.out
    assert report["socket"] == {"path": str(tmp_path / "beluna.sock"), "served": True}
    assert (tmp_path / "starts").read_text() == "x"


async def test_a_server_that_the_daemon_will_start_is_left_to_it(tmp_path):
    """While nobody uses it, it does not run: that is said, and is no failure."""
    config = launching(tmp_path, 60_000)
    async with daemon_process(tmp_path, config):
        outcome, report = await checked(tmp_path, config)

    assert outcome.status == 0, outcome.out
    assert report["backends"][0]["probe"].startswith("does not run now; the daemon starts it")
    assert not (tmp_path / "starts").exists()


async def test_the_ports_of_the_daemon_that_runs_are_no_mistake(tmp_path):
    """Its metrics are where they are configured to be."""
    config = make_config({"b": {}}, telemetry={"metrics": f"127.0.0.1:{free_port()}"})
    async with daemon_process(tmp_path, config):
        outcome, report = await checked(tmp_path, config, "--offline")

    assert (outcome.status, report["mistakes"]) == (0, [])


async def test_credentials_of_the_unit(tmp_path, backend):
    """`$CREDENTIALS_DIRECTORY`, as systemd sets it for the service and an operator may for a check."""
    backend.on("b", models("fake-model"))
    (tmp_path / "credentials").mkdir()
    (tmp_path / "credentials" / "openai").write_text("canary-key\n")
    config = make_config({"b": {"credential": {"type": "file", "path": "openai"}}}, backend)

    without, _ = await checked(tmp_path, config)
    outcome, _ = await checked(tmp_path, config, CREDENTIALS_DIRECTORY=str(tmp_path / "credentials"))

    assert (without.status, outcome.status) == (1, 0)
    assert backend.requests("b")[0].headers["authorization"] == "Bearer canary-key"
    assert "canary-key" not in outcome.out + outcome.err


# --- sockets, without touching them ---


def test_a_socket_that_is_served_is_seen_without_a_connection(tmp_path):
    """Also by another name of its folder; not one that nobody listens on, nor one that is not there."""
    path = tmp_path / "a.sock"
    (tmp_path / "link").symlink_to(tmp_path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert not is_served(path)
        listener.listen()
        listener.setblocking(False)
        assert is_served(path)
        assert is_served(tmp_path / "link" / "a.sock")
        assert not is_served(tmp_path / "b.sock")
        with pytest.raises(BlockingIOError):
            listener.accept()
        check_path(path)
    assert not is_served(path)


def test_folders_that_will_be_made_are_no_mistake(tmp_path):
    """`serve` makes them."""
    check_path(tmp_path / "a" / "b" / "c.sock")
    with pytest.raises(SocketError, match="107 bytes"):
        check_path(tmp_path / ("x" * 120))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc")
def test_a_folder_in_which_nothing_can_be_created_is_a_mistake():
    """Whatever its permissions say, for root too."""
    for path in ("/proc/x.sock", "/proc/a/b/x.sock"):
        with pytest.raises(SocketError, match=f"cannot listen on {path}: .* /proc"):
            check_path(Path(path))


# --- the store of shared limits ---


async def test_the_store_of_shared_limits_is_asked(tmp_path, backend):
    """Whether it answers, and what is used of each limit, clients' own included; offline it is not touched."""
    config = make_config({"b": {"budget": {"shared_max_concurrency": 4}}}, backend)
    config["ai_gateway"]["shared"] = {"sqlite": "quota.db"}
    config["server"] = {"clients": [{"name": "n", "uids": [0], "budget": {"shared_spend_usd_per_day": 2}}]}
    _, offline = await checked(tmp_path, config, "--offline")
    assert not (tmp_path / "quota.db").exists()
    _, report = await checked(tmp_path, config)

    assert offline["shared"] == {"store": "shared.sqlite", "found": "not asked", "limits": [], "ok": True}
    assert report["shared"]["found"] == "answers"
    assert report["shared"]["limits"] == [
        {"backend_id": "b", "setting": "shared_max_concurrency", "used": 0, "limit": 4},
        {
            "backend_id": "b",
            "setting": "shared_spend_usd_per_day",
            "client": "n",
            "used": 0,
            "limit": 2,
            "estimated": 0,
        },
    ]


async def test_a_store_that_does_not_answer_fails_the_check(tmp_path, backend):
    """With its words."""
    (tmp_path / "quota.db").write_text("something else" * 100)
    config = make_config({"b": {"budget": {"shared_max_concurrency": 4}}}, backend)
    config["ai_gateway"]["shared"] = {"sqlite": "quota.db"}
    outcome, report = await checked(tmp_path, config)

    assert outcome.status != 0
    assert not report["ok"]
    assert "file is not a database" in report["shared"]["found"]
