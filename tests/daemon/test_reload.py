"""Reloading the configuration of a real daemon: by SIGHUP, by the command, and as systemd sees it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import stat
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.fakes.answers import DONE, delta, finish, plays, silent, text
from tests.fakes.backend import PATIENCE
from tests.fakes.client import Client, connected, said
from tests.fakes.daemon import DaemonProcess, clean_environment, daemon_process, make_config, write_config

from .test_systemd import Manager, handing_over, listening

HELD = 0.6
"""Seconds that a held answer pauses: longer than a reload, shorter than any timer."""


def slow(word: str) -> Any:
    """An answer that says something, pauses and goes on."""
    return plays(delta(word), HELD, delta(" end"), finish(), DONE)


async def reloads(client: Client) -> dict[str, Any]:
    """What `status` says of the reloads."""
    answer = (await client.status())["reloads"]
    assert isinstance(answer, dict)
    return answer


async def reload(daemon: DaemonProcess, config: Any) -> dict[str, Any]:
    """Writes the file and has it read; what `status` says of the reloads afterwards."""
    if config is not None:
        write_config(daemon.folder, config)
    async with connected(daemon.socket_path) as client, asyncio.timeout(PATIENCE):
        before = await reloads(client)
        daemon.process.send_signal(signal.SIGHUP)
        while True:
            after = await reloads(client)
            if not after["running"] and after["ok"] + after["failed"] > before["ok"] + before["failed"]:
                return after
            await asyncio.sleep(0.005)


async def logged(daemon: DaemonProcess, event: str, count: int = 1) -> list[dict[str, Any]]:
    """The lines of the log with that event, once there are so many."""
    async with asyncio.timeout(PATIENCE):
        while True:
            lines = [json.loads(line) for line in daemon.log().splitlines() if line.startswith("{")]
            found = [line for line in lines if event in line["event"]]
            if len(found) >= count:
                return found
            await asyncio.sleep(0.005)


# --- requests ----------------------------------------------------------------------------------------------------


async def test_no_request_is_lost(tmp_path, backend):
    """An answer under way goes on from the backend where it began, and the next request goes where the file says."""
    backend.on("old", slow("old"))
    backend.on("new", text("new"))
    async with (
        daemon_process(tmp_path, make_config({"old": {}}, backend)) as daemon,
        connected(daemon.socket_path) as client,
    ):
        await client.infer(request_id="first")
        await client.expect("started")
        await client.expect("output_text_delta")
        outcome = await reload(daemon, make_config({"new": {}}, backend))
        await client.infer(request_id="second")
        frames = await client.answers(2)

        assert (outcome["ok"], outcome["failed"], outcome["last_error"]) == (1, 0, None)
        assert said(frames["first"]) == " end"
        assert said(frames["second"]) == "new"
        assert [frames[name][-1]["type"] for name in ("first", "second")] == ["completed", "completed"]
        status = await client.status()
        assert [entry["id"] for entry in status["backends"]] == ["new"]
        (line,) = await logged(daemon, "reloaded")
        assert line["backends"] == {
            "added": ["new"],
            "changed": [],
            "removed": ["old"],
            "unchanged": [],
        }
        assert await daemon.stop() == 0


async def test_connections_of_unchanged_backends_are_kept_and_of_changed_ones_closed(tmp_path, backend):
    """The pool of an unchanged backend is used on; that of a changed one is closed when its last request has ended."""
    backend.on("kept", text("a"))
    backend.on("changed", text("a"))
    both: dict[str, Any] = {"kept": {}, "changed": {}}
    async with (
        daemon_process(tmp_path, make_config(both, backend)) as daemon,
        connected(daemon.socket_path) as client,
    ):
        for name in both:
            await client.infer(name)
            await client.answer()
        await reload(daemon, make_config({**both, "changed": {"default_model": "other"}}, backend))
        for name in both:
            await client.infer(name)
            await client.answer()
        (first, second), (third, fourth) = backend.requests("kept"), backend.requests("changed")

        assert first.connection is second.connection
        assert third.connection is not fourth.connection
        assert fourth.json()["model"] == "other"


async def test_a_wrong_file_changes_nothing_and_says_what_is_wrong(tmp_path, backend):
    """Each mistake is a line of the log with its place; requests go on, and the corrected file is taken."""
    backend.on("b", text("a"))
    good = make_config({"b": {}}, backend)
    wrong = {**good, "telemetrie": {}, "server": {"max_connections": 0}}
    async with (
        daemon_process(tmp_path, good) as daemon,
        connected(daemon.socket_path) as client,
    ):
        failed = await reload(daemon, wrong)
        await client.infer("b")
        answer = await client.answer()
        unreadable = await reload(daemon, "{ ai_gateway: ")
        corrected = await reload(daemon, good)

        assert said(answer) == "a"
        assert (failed["ok"], failed["failed"]) == (0, 1)
        assert "telemetrie: unknown key" in failed["last_error"]
        mistakes = [line["mistake"] for line in await logged(daemon, "mistake in", 3)]
        assert any(mistake.startswith("telemetrie: unknown key") for mistake in mistakes[:2])
        assert "server.max_connections: found 0, expected at least 1" in mistakes[:2]
        assert "line 1" in unreadable["last_error"]
        assert len(await logged(daemon, "reload failed", 2)) == 2
        assert (corrected["ok"], corrected["failed"], corrected["last_error"]) == (1, 2, None)
        (line,) = await logged(daemon, "reloaded")
        assert line["backends"]["unchanged"] == ["b"]


async def test_a_file_that_is_gone(tmp_path, backend):
    """It is a failure like another one."""
    async with daemon_process(tmp_path, make_config({"b": {}}, backend)) as daemon:
        daemon.config_path.unlink()
        outcome = await reload(daemon, None)

        assert "cannot read" in outcome["last_error"]
        assert await daemon.stop() == 0


async def test_a_file_that_blocks_holds_up_neither_requests_nor_the_end(tmp_path, backend):
    """A FIFO without a writer stands for a network drive that does not answer."""
    backend.on("b", text("a"))
    async with (
        daemon_process(tmp_path, make_config({"b": {}}, backend)) as daemon,
        connected(daemon.socket_path) as client,
    ):
        daemon.config_path.unlink()
        os.mkfifo(daemon.config_path)
        daemon.process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE):
            while not (await reloads(client))["running"]:
                await asyncio.sleep(0.005)
        await client.infer("b")
        assert said(await client.answer()) == "a"
        assert await daemon.stop() == 0


async def test_sighup_upon_sighup(tmp_path, backend):
    """However many come and at whatever moment, the daemon serves, and the last state of the file is in effect."""
    backend.on("b", text("a"))
    async with (
        daemon_process(tmp_path, make_config({"b": {}}, backend)) as daemon,
        connected(daemon.socket_path) as client,
    ):
        for number in range(30):
            write_config(tmp_path, make_config({"b": {"default_model": f"m{number}"}}, backend))
            daemon.process.send_signal(signal.SIGHUP)
            await asyncio.sleep(0.001 * (number % 4))
            if number % 5 == 0:
                await client.infer("b", f"r{number}")
                assert said(await client.answer(f"r{number}")) == "a"
        async with asyncio.timeout(PATIENCE):
            while (status := await client.status())["backends"][0]["default_model"] != "m29":
                await asyncio.sleep(0.005)
        assert status["reloads"]["failed"] <= 29  # of files half written, if any
        assert await daemon.stop() == 0


# --- what is reloaded, section by section ------------------------------------------------------------------------


async def test_server_settings(tmp_path, backend):
    """Limits count at once, for the connections that are open too; the length of a line for new ones."""
    backend.on("b", silent)
    plain = make_config({"b": {}}, backend)
    limits = {"max_in_flight_per_connection": 1, "allow_exit": False, "max_connections": 2, "max_frame_bytes": 200}
    async with (
        daemon_process(tmp_path, plain) as daemon,
        connected(daemon.socket_path) as client,
    ):
        await client.infer("b", "r1")
        await client.infer("b", "r2")
        await backend.request("b")
        await reload(daemon, {**plain, "server": limits})
        await client.expect("started")
        await client.expect("started")
        await client.infer("b", "r3", metadata={"long": "x" * 300})
        refused = await client.expect("rejected", "r3")
        await client.send({"type": "exit"})
        kept = await client.expect("rejected")
        async with connected(daemon.socket_path) as second:
            await second.infer("b", "r4", metadata={"long": "x" * 300})
            long = await second.expect("rejected")
            async with connected(daemon.socket_path) as third:
                many = await third.expect("rejected")

        assert "max_in_flight_per_connection" in refused["error"]["message"]
        assert "allow_exit" in kept["error"]["message"]
        assert "200 bytes" in long["error"]["message"]
        assert "max_connections" in many["error"]["message"]


async def test_what_needs_a_restart_is_said(tmp_path, backend):
    """`socket_path` and `server.socket_mode` stay as they are; the log names them with both values, each time."""
    plain = make_config({"b": {}}, backend)
    async with daemon_process(tmp_path, plain) as daemon:
        changed = {**plain, "socket_path": "other.sock", "server": {"socket_mode": "0666"}}
        for _ in range(2):
            outcome = await reload(daemon, changed)
        lines = await logged(daemon, "needs a restart", 4)

        assert (outcome["ok"], outcome["failed"]) == (2, 0)
        assert [line["setting"] for line in lines] == ["socket_path", "server.socket_mode"] * 2
        assert (lines[0]["in_effect"], lines[0]["configured"]) == ("beluna.sock", "other.sock")
        assert stat.S_IMODE(daemon.socket_path.stat().st_mode) == 0o600
        assert not (tmp_path / "other.sock").exists()
        await reload(daemon, plain)
        await logged(daemon, "reloaded", 3)
        assert len(await logged(daemon, "needs a restart")) == 4


async def test_level_and_format_of_the_log(tmp_path, backend):
    """They count from the next line on, for every part of the daemon."""
    backend.on("b", text("a"))
    plain = make_config({"b": {}}, backend)
    async with (
        daemon_process(tmp_path, plain) as daemon,
        connected(daemon.socket_path) as client,
    ):
        for request_id, telemetry in [("r0", {}), ("r1", {"log_level": "error"}), ("r2", {"log_format": "console"})]:
            await reload(daemon, {**plain, "telemetry": telemetry})
            await client.infer("b", request_id)
            await client.answer(request_id)
        async with asyncio.timeout(PATIENCE):
            while "r2" not in daemon.log():
                await asyncio.sleep(0.005)
        lines = daemon.log().splitlines()

        assert any(line.startswith("{") and '"r0"' in line for line in lines)
        assert not any("r1" in line for line in lines)
        assert any(not line.startswith("{") and "r2" in line for line in lines)


async def scrape(path: Path) -> str:
    """The metrics."""
    async with (
        aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(path))) as session,
        session.get("http://localhost/metrics") as response,
    ):
        return await response.text()


async def test_metrics_begin_move_and_end(tmp_path, backend):
    """The endpoint follows the file, its counters go on, and the number of reloads is one of them."""
    backend.on("b", text("a"))
    plain = make_config({"b": {}}, backend)
    async with (
        daemon_process(tmp_path, plain) as daemon,
        connected(daemon.socket_path) as client,
    ):
        await reload(daemon, {**plain, "telemetry": {"metrics": "./one.sock"}})
        await client.infer("b")
        await client.answer()
        await reload(daemon, {**plain, "telemetry": {"metrics": "./one.sock"}, "unknown": 1})
        first = await scrape(tmp_path / "one.sock")
        await reload(daemon, {**plain, "telemetry": {"metrics": {"listen": "./two.sock"}}})
        second = await scrape(tmp_path / "two.sock")

        assert 'outcome="completed"} 1.0' in first
        assert 'beluna_gateway_reloads_total{result="ok"} 1.0' in first
        assert 'beluna_gateway_reloads_total{result="failed"} 1.0' in first
        assert 'outcome="completed"} 1.0' in second
        assert not (tmp_path / "one.sock").exists()
        await reload(daemon, plain)
        assert not (tmp_path / "two.sock").exists()


async def test_the_mode_of_the_metrics_socket(tmp_path, backend):
    """A reload that changes only `socket_mode` gives the socket that is there another mode."""
    plain = make_config({"b": {}}, backend)
    modes = []
    async with daemon_process(tmp_path, {**plain, "telemetry": {"metrics": "./m.sock"}}) as daemon:
        for mode in ("0660", "0600"):
            await reload(daemon, {**plain, "telemetry": {"metrics": {"listen": "./m.sock", "socket_mode": mode}}})
            modes.append(stat.S_IMODE((tmp_path / "m.sock").stat().st_mode))

    assert modes == [0o660, 0o600]


async def test_metrics_that_cannot_be_served_are_a_mistake(tmp_path, backend):
    """All or nothing: the backends of that file do not come into effect either."""
    plain = make_config({"b": {}}, backend)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        async with daemon_process(tmp_path, plain) as daemon:
            outcome = await reload(daemon, {**make_config({"c": {}}, backend), "telemetry": {"metrics": address}})
            async with connected(daemon.socket_path) as client:
                status = await client.status()

            assert address in outcome["last_error"]
            assert [entry["id"] for entry in status["backends"]] == ["b"]


async def test_spans_follow_the_file(tmp_path, backend):
    """Another collector gets the spans of the requests that come; the one before gets what it had been promised."""
    seen: dict[str, int] = {}

    async def collect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        name = head.split(b" ")[1].split(b"/")[1].decode()
        length = int(
            next(line for line in head.split(b"\r\n") if line.lower().startswith(b"content-length")).split()[1]
        )
        await reader.readexactly(length)
        seen[name] = seen.get(name, 0) + 1
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
        writer.close()
        await writer.wait_closed()

    backend.on("b", text("a"))
    plain = make_config({"b": {}}, backend)
    async with await asyncio.start_server(collect, "127.0.0.1", 0) as collector:
        port = collector.sockets[0].getsockname()[1]
        async with (
            daemon_process(tmp_path, plain) as daemon,
            connected(daemon.socket_path) as client,
        ):
            for name in ("one", "two"):
                otlp = {"endpoint": f"http://127.0.0.1:{port}/{name}"}
                assert (await reload(daemon, {**plain, "telemetry": {"otlp": otlp}}))["last_error"] is None
                await client.infer("b")
                await client.answer()
            assert (await reload(daemon, plain))["last_error"] is None
            async with asyncio.timeout(PATIENCE):
                while len(seen) < 2:
                    await asyncio.sleep(0.01)

    assert seen == {"one": 1, "two": 1}


# --- model servers -----------------------------------------------------------------------------------------------

MODEL_SERVER = """
import http.server, json, sys, time
port, word = int(sys.argv[1]), sys.argv[2]
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        for text in (word, " end"):
            self.wfile.write(b"data: %s\\n\\n" % json.dumps({"choices": [{"delta": {"content": text}}]}).encode())
            time.sleep(0.5)
        self.wfile.write(b'data: {"choices": [{"delta": {}, "finish_reason": "stop"}]}\\n\\ndata: [DONE]\\n\\n')
    def log_message(self, *_):
        pass
http.server.ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
"""


async def test_a_changed_model_server_takes_the_place_of_the_old_one(tmp_path):
    """The answer of the old one comes to its end; then that stops, the new one starts on its port and answers."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]

    def launching(word: str) -> Any:
        args = ["-I", "-S", "-c", MODEL_SERVER, str(port), word]
        launch = {"command": sys.executable, "args": args}
        return make_config({"b": {"endpoint": f"http://127.0.0.1:{port}/v1", "launch": launch}})

    async with (
        daemon_process(tmp_path, launching("old")) as daemon,
        connected(daemon.socket_path) as client,
    ):
        await client.infer("b", "first")
        await client.expect("started")
        assert (await client.expect("output_text_delta", patience=20))["delta"] == "old"
        outcome = await reload(daemon, launching("new"))
        await client.infer("b", "second")
        frames = await client.answers(2, patience=20)

        assert outcome["ok"] == 1
        assert (said(frames["first"]), frames["first"][-1]["type"]) == (" end", "completed")
        assert (said(frames["second"]), frames["second"][-1]["type"]) == ("new end", "completed")
        assert not await logged(daemon, "model_server_already_running", 0)
        assert await daemon.stop() == 0


# --- systemd -----------------------------------------------------------------------------------------------------


async def test_systemd_sees_each_reload_begin_and_end(tmp_path, backend):
    """`RELOADING=1` with `MONOTONIC_USEC`, then `READY=1`: where the file is right and where it is wrong."""
    plain = make_config({"b": {}}, backend)
    manager = Manager(str(tmp_path / "notify"))
    with closing(manager.channel):
        daemon = DaemonProcess(tmp_path, plain, {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        try:
            assert (await manager.told())[0] == "READY=1"
            for config in (plain, "{", plain):
                write_config(tmp_path, config)
                daemon.process.send_signal(signal.SIGHUP)
                begin = await manager.told()
                assert begin[0] == "RELOADING=1"
                assert begin[1].startswith("MONOTONIC_USEC=")
                assert (await manager.told())[0] == "READY=1"
            assert await daemon.stop() == 0
            assert (await manager.told())[0] == "STOPPING=1"
            assert daemon.complaints() == []
        finally:
            daemon.kill()


async def test_of_a_socket_from_systemd_a_restart_changes_nothing(tmp_path, backend):
    """Path and mode are the `.socket` unit's: the log says that, and not that a restart would help."""
    path = tmp_path / "unit.sock"
    plain = make_config({"b": {}}, backend)
    with listening(path) as listener:
        daemon = DaemonProcess(tmp_path, plain, **handing_over(listener))
    try:
        async with connected(path) as client:
            await client.status()
            daemon.socket_path = path
            await reload(daemon, {**plain, "server": {"socket_mode": "0666"}})
        (line,) = await logged(daemon, "systemd made the socket")
        assert line["setting"] == "server.socket_mode"
        assert await daemon.stop() == 0
    finally:
        daemon.kill()


# --- the command -------------------------------------------------------------------------------------------------


async def command(*arguments: object) -> tuple[int | None, str, str]:
    """Runs `beluna-gateway reload`: status, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "beluna_gateway", "reload", *map(str, arguments)),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=clean_environment(),
    )
    async with asyncio.timeout(30):
        out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_command_reloads_and_says_so(tmp_path, backend):
    """Status 0 and the process id, once the new configuration is in effect."""
    async with daemon_process(tmp_path, make_config({"b": {}}, backend)) as daemon:
        write_config(tmp_path, make_config({"c": {}}, backend))
        outcome = await command("--config", daemon.config_path)
        async with connected(daemon.socket_path) as client:
            status = await client.status()

    assert outcome == (0, f"reloaded (pid {daemon.pid})\n", "")
    assert [entry["id"] for entry in status["backends"]] == ["c"]


@pytest.mark.parametrize("by", ["--config", "--socket"])
async def test_the_command_tells_the_mistakes_of_a_wrong_file(tmp_path, backend, by):
    """Status 78 and each mistake, whether the command or the daemon finds them."""
    async with daemon_process(tmp_path, make_config({"b": {}}, backend)) as daemon:
        write_config(tmp_path, {**make_config({"b": {}}, backend), "unknwon": 1})
        status, out, err = await command(by, daemon.config_path if by == "--config" else daemon.socket_path)

    assert (status, out) == (78, "")
    assert "unknwon: unknown key" in err


async def test_the_command_without_a_daemon(tmp_path):
    """Status 69, and how to start one."""
    status, out, err = await command("--socket", tmp_path / "nobody.sock")

    assert (status, out) == (69, "")
    assert "no daemon answers" in err


@pytest.mark.parametrize("pid", [1, 2**22 + 1])
async def test_the_command_signals_nobody_but_a_daemon(tmp_path, pid):
    """A process id that means another process here, or none, gets no SIGHUP: it would end a program."""
    status = {"type": "status", "version": "9", "pid": pid, "reloads": {"ok": 0, "failed": 0, "running": False}}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(json.dumps(status).encode() + b"\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "a.sock"):
        outcome, out, err = await command("--socket", tmp_path / "a.sock")

    assert (outcome, out) == (1, "")
    assert f"process {pid}" in err


async def test_the_command_and_a_daemon_of_before(tmp_path):
    """A daemon that cannot reload would say nothing of the outcome: it gets no SIGHUP either."""
    status = {"type": "status", "version": "0.2.0", "pid": os.getpid()}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        writer.write(json.dumps(status).encode() + b"\n")
        await reader.read()
        writer.close()

    async with await asyncio.start_unix_server(serve, tmp_path / "a.sock"):
        outcome, out, err = await command("--socket", tmp_path / "a.sock")

    assert (outcome, out) == (1, "")
    assert "0.2.0" in err
