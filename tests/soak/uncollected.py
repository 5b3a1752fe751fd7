"""`make cycles`: requests that end in every way, in a daemon whose garbage collector is off; it must not grow.

What reference counts do not free, only the collector would. So the kinds of end are played in turn, and after each the
daemon looks for reference cycles, once, and tells what they hold. `python -m tests.soak.uncollected REQUESTS [KIND…]`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import ssl
import sys
import tempfile
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from itertools import cycle
from pathlib import Path
from typing import Any

from tests.fakes import answers
from tests.fakes.answers import BAD_CHUNK, CUT, SILENCE, delta, fails, plays, text, tool_delta, whole
from tests.fakes.backend import Exchange, FakeBackend, Script, fake_backend
from tests.fakes.certificate import write_certificate
from tests.fakes.client import TERMINAL, Client, connected, infer, user
from tests.fakes.daemon import DaemonProcess, make_config

from .__main__ import MEGABYTE, report_path

CLIENTS = 16
MOST_GROWTH = 5.0
"""MiB, from the end of the first tenth of a run to its end."""

COMPLETE = text("a", "b")

FAKES = Path(__file__).parents[1] / "fakes"


async def ask(client: Client, kind: Kind, name: str) -> str:
    """One request, and all of its answer."""
    await client.send(infer(kind.name, name, **kind.fields))
    return await end(client)


async def end(client: Client) -> str:
    """Waits for the end of a request; says which it was."""
    while (frame := await client.frame(30))["type"] not in (*TERMINAL, "rejected"):
        pass
    found: str = frame["error"]["kind"] if "error" in frame else frame["type"]
    return found


async def cancel(client: Client, kind: Kind, name: str) -> str:
    """One request, cancelled after its first delta."""
    await client.send(infer(kind.name, name))
    while (await client.frame(30))["type"] != "output_text_delta":
        pass
    await client.cancel(name)
    return await end(client)


async def cancel_early(client: Client, kind: Kind, name: str) -> str:
    """One request, cancelled before the backend has said anything."""
    await client.send(infer(kind.name, name), {"type": "cancel", "request_id": name})
    return await end(client)


async def leave(client: Client, kind: Kind, name: str) -> str:
    """One request, whose client leaves after the first delta."""
    await client.send(infer(kind.name, name))
    while (await client.frame(30))["type"] != "output_text_delta":
        pass
    client.close()
    return "left"


def alternately(*scripts: Script) -> Script:
    """One after the other, from the beginning again after the last one."""
    turn = cycle(scripts)

    async def script(exchange: Exchange) -> None:
        await next(turn)(exchange)

    return script


def says(line: bytes) -> Manner:
    """A line that is rejected."""

    async def rejected(client: Client, _kind: Kind, _name: str) -> str:
        await client.send_bytes(line)
        return await end(client)

    return rejected


async def twice(client: Client, kind: Kind, name: str) -> str:
    """Two requests with one id."""
    await client.send(infer(kind.name, name), infer(kind.name, name))
    return f"{await end(client)}, {await end(client)}"


@dataclass
class Kind:
    """A way in which a request ends, and the backend of its own that it takes."""

    name: str
    script: Script = COMPLETE
    play: Callable[[Client, Kind, str], Awaitable[str]] = ask
    settings: dict[str, Any] = field(default_factory=dict)
    fields: dict[str, Any] = field(default_factory=dict)
    share: float = 1.0
    """Of the requests that the others get: what takes long, or a program of its own, gets fewer."""


Manner = Callable[[Client, Kind, str], Awaitable[str]]

TIMES = {"request_timeout_ms": 30, "idle_timeout_ms": 30}
RETRIES = {"max_retries": 2, "backoff_base_ms": 1, "backoff_max_ms": 2, "breaker_failure_threshold": 1_000_000}


def kinds(folder: Path) -> list[Kind]:
    """All of them."""
    secret = folder / "secret"
    secret.write_text("sk-file")
    return [
        Kind("completed"),
        Kind("unstreamed", whole("all"), fields={"stream": False}),
        Kind("tools", plays(tool_delta(0, '{"a":1}', call_id="c", name="look"), answers.finish("tool_calls"))),
        Kind("error-500", fails(500)),
        Kind("error-400", fails(400)),
        Kind("error-body", answers.answers(500, b"x" * 500_000), share=0.3),
        Kind("error-inside", plays(delta("a"), answers.event({"error": {"message": "overloaded", "code": 529}}))),
        Kind("retried", alternately(fails(503), text("a")), settings={"reliability": RETRIES}, share=0.5),
        Kind("cut", plays(delta("a"), CUT)),
        Kind("hung-up", answers.hang_up),
        Kind("reset", answers.reset),
        Kind("bad-chunk", plays(delta("a"), BAD_CHUNK), share=0.5),
        Kind("no-http", plays(b"", headers={"Transfer-Encoding": "gzip"}, framing="3")),
        Kind("no-json", plays(b"data: x\n\n")),
        Kind("too-large", plays(delta("x" * 3000)), settings={"reliability": {"max_event_bytes": 2000}}),
        Kind("cancelled", plays(delta("a"), SILENCE), cancel),
        Kind("cancelled-early", answers.silent, cancel_early),
        Kind("left", plays(delta("a"), SILENCE), leave),
        Kind("refused", settings={"endpoint": "http://127.0.0.1:9/refused"}),
        Kind("unknown-host", settings={"endpoint": "http://host.invalid/unknown-host"}, share=0.3),
        Kind("tls-refused", settings={"endpoint": "https://127.0.0.1:{tls}/tls-refused"}, share=0.3),
        Kind(
            "tls",
            settings={"endpoint": "https://127.0.0.1:{tls}/tls", "tls": {"ca_file": str(folder / "server.pem")}},
        ),
        Kind("first-event", answers.silent, settings={"reliability": TIMES}, share=0.3),
        Kind("idle", plays(delta("a"), SILENCE), settings={"reliability": TIMES}, share=0.3),
        Kind("total", answers.silent, fields={"limits": {"max_request_time_ms": 30}}, share=0.3),
        Kind("large", fields={"messages": user("x" * 200_000)}, share=0.05),
        Kind("unsupported", fields={"include_annotations": True, "parallel_tool_calls": True}),
        Kind("line-too-long", play=says(b"x" * 3_000_000 + b"\n"), share=0.05),
        Kind("line-invalid", play=says(b'{"type":"infer"}\n')),
        Kind("line-no-json", play=says(b'{"type":\n')),
        Kind("line-twice", play=twice),
        Kind("secret-file", settings={"credential": {"type": "file", "path": str(secret)}}),
        Kind("secret-missing", settings={"credential": {"type": "env", "var": "NO_SUCH_VARIABLE"}}),
        Kind("secret-command", settings={"credential": {"type": "command", "command": ["echo", "sk"]}}, share=0.5),
        Kind("secret-command-fails", settings={"credential": {"type": "command", "command": ["false"]}}, share=0.02),
        Kind("copilot", settings=copilot(folder, "lsp_peer.py", "language_server"), share=0.1),
        Kind("copilot-cli", settings=copilot(folder, "copilot_cli_peer.py", "sdk"), share=0.1),
    ]


def copilot(folder: Path, script: str, protocol: str) -> dict[str, Any]:
    """The settings of a backend that is a program."""
    arguments = [str(FAKES / script), str(folder / script) + ".log"]
    return {
        "dialect": "github_copilot_sdk",
        "default_model": "copilot",
        "copilot": {"command": sys.executable, "args": arguments, "protocol": protocol},
    }


async def report(daemon: DaemonProcess) -> dict[str, Any]:
    """What the daemon holds; see `daemon_without_collector.py`."""
    path = report_path(daemon.folder)
    path.unlink(missing_ok=True)
    os.kill(daemon.pid, signal.SIGUSR1)
    async with asyncio.timeout(60):
        while not path.exists():
            await asyncio.sleep(0.005)
    found: dict[str, Any] = json.loads(path.read_text())
    return found


async def play(daemon: DaemonProcess, kind: Kind, requests: int) -> Counter[str]:
    """That many requests of one kind, by some clients; how they ended."""
    left = iter(range(requests))
    ends: Counter[str] = Counter()

    async def work() -> None:
        while (number := next(left, None)) is not None:
            async with connected(daemon.socket_path) as client:
                ends[await kind.play(client, kind, f"{number}")] += 1
                for _ in range(9):
                    if client.writer.is_closing() or (number := next(left, None)) is None:
                        break
                    ends[await kind.play(client, kind, f"{number}")] += 1

    await asyncio.gather(*(work() for _ in range(CLIENTS)))
    return ends


async def main(requests: int, only: list[str]) -> bool:
    """One run; whether nothing was left."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        played = [kind for kind in kinds(folder) if not only or kind.name in only]
        whole_share = sum(kind.share for kind in played)
        async with fake_backend(folder / "backend.sock", server_tls(folder)) as backend:
            daemon = started(folder, played, backend)
            try:
                await daemon.serving()
                for kind in played:  # by then everything is loaded and has its size
                    backend.on(kind.name, kind.script)
                    await play(daemon, kind, 2 * CLIENTS)
                before = (await report(daemon))["resident"] / MEGABYTE
                left = False
                for kind in played:
                    backend.on(kind.name, kind.script)
                    count = max(1, round(requests * kind.share / whole_share))
                    ends = await play(daemon, kind, count)
                    await backend.reset()
                    found = await report(daemon)
                    in_cycles = found["objects"] / count
                    left = left or in_cycles > 0.1
                    sys.stdout.write(
                        f"{kind.name:21}{count:6} requests{in_cycles:6.2f} objects in cycles each"
                        f"{found['resident'] / MEGABYTE:7.1f} MiB  {', '.join(sorted(ends))}"
                        f"  {found['types'] if in_cycles > 0.1 else ''}\n"
                    )
                    sys.stdout.flush()
                after = (await report(daemon))["resident"] / MEGABYTE
            finally:
                daemon.kill()
    sys.stdout.write(f"grew by {after - before:.1f} MiB\n")
    return after - before < MOST_GROWTH and not left


def server_tls(folder: Path) -> ssl.SSLContext:
    """That of the backend, whose certificate the kind `tls` accepts."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(write_certificate(folder / "server.pem"))
    return context


def started(folder: Path, played: list[Kind], backend: FakeBackend) -> DaemonProcess:
    """The daemon."""
    settings = {kind.name: kind.settings for kind in played}
    config = make_config(settings, backend, server={"max_frame_bytes": 2_000_000})
    for one in config["ai_gateway"]["backends"]:
        if "copilot" in one:
            del one["endpoint"]
    # glibc gives large blocks back at once, so that what is resident is what is held.
    malloc = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
    launcher = [sys.executable, str(Path(__file__).with_name("uncollected_daemon.py"))]
    return DaemonProcess(folder, config, {"SOAK_REPORT": str(report_path(folder)), **malloc}, launcher)


if __name__ == "__main__":
    ok = asyncio.run(main(int((sys.argv[1:] or ["50000"])[0]), sys.argv[2:]))
    sys.exit(0 if ok else "it grew")
