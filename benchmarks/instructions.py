"""What a request and a token cost in instructions, which repeat on any machine, however busy it is.

`python -m benchmarks.instructions`: a daemon of its own for each row, asked first a few times and then more often; the
difference is what the further requests cost, in user mode. `perf stat` counts where the processor's counters can be
read, else valgrind (callgrind), under which the daemon is fifty times slower; without either this says so and is done.
`--tree` measures other checkouts beside this one, as the commit before a change: `--tree . --tree ../before`.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import __main__ as bench

QUESTION = {"role": "user", "parts": [{"text": {"text": "Count to two hundred."}}]}
TOOLS = [
    {
        "name": f"tool_{name}",
        "description": f"Looks {name} up and says what is known about it.",
        "input_schema": {
            "type": "object",
            "properties": {
                "query": {"type": "string", "description": "What to look for."},
                "limit": {"type": "integer"},
            },
            "required": ["query"],
        },
    }
    for name in ("weather", "calendar", "files", "people")
]


def _agent_messages() -> list[dict[str, Any]]:
    """A conversation in its seventh round: what an agent sends in every request."""
    messages: list[dict[str, Any]] = [{"role": "system", "parts": [{"text": {"text": "You are an agent. " * 50}}]}]
    for number in range(7):
        call = {"id": f"call_{number}", "name": "tool_files", "arguments_json": '{"query":"notes","limit":3}'}
        result = {"role": "tool", "tool_call_id": call["id"], "tool_name": call["name"]}
        messages += (
            QUESTION,
            {"role": "assistant", "parts": [], "tool_calls": [call]},
            {**result, "parts": [{"json": {"value": {"found": ["a.txt", "b.txt"], "more": False}}}]},
        )
    return messages


@dataclass(frozen=True)
class Work:
    """Requests, one after another. `model` is a scenario of `upstream.py`."""

    requests: int
    model: str = "n20-d0"
    stream: bool = False
    agent: bool = False
    way: str = "daemon"
    """One of `STORES`: where its limits are kept."""

    @property
    def frame(self) -> bytes:
        frame = {"type": "infer", "request_id": "r", "model": self.model, "stream": self.stream}
        rest = {"messages": _agent_messages(), "tools": TOOLS} if self.agent else {"messages": [QUESTION]}
        return json.dumps({**frame, **rest}).encode() + b"\n"


# name: (less work, more work, how many times the row's unit is in the difference)
ROWS: dict[str, tuple[Work, Work, int]] = {
    "start and stop": (Work(0), Work(0), 1),
    "first request": (Work(0), Work(1), 1),
    "unstreamed request": (Work(1), Work(201), 200),
    "unstreamed request of an agent": (Work(1, agent=True), Work(51, agent=True), 50),
    "unstreamed request, SQLite": (Work(1, way="sqlite"), Work(201, way="sqlite"), 200),
    "unstreamed request, Redis": (Work(1, way="redis"), Work(201, way="redis"), 200),
    # One token every 10 ms: each arrives alone, also under valgrind.
    "streamed request of 10 tokens": (Work(1, "n10-d10", True), Work(21, "n10-d10", True), 20),
    "paced token": (Work(5, "n10-d10", True), Work(5, "n90-d10", True), 400),
}


class Perf:
    """`perf stat`: the processor's own counter."""

    name = "perf stat"

    def command(self, counts: Path) -> list[str]:
        return ["perf", "stat", "--field-separator=,", "--event=instructions:u", f"--output={counts}", "--"]

    def read(self, counts: Path) -> int | None:
        found = re.search(r"^(\d+),.*instructions", counts.read_text(), re.MULTILINE)
        return int(found[1]) if found else None


class Callgrind:
    """valgrind: every instruction, executed one by one."""

    name = "valgrind --tool=callgrind"

    def command(self, counts: Path) -> list[str]:
        return ["valgrind", "--quiet", "--tool=callgrind", f"--callgrind-out-file={counts}"]

    def read(self, counts: Path) -> int | None:
        found = re.search(r"^totals: (\d+)", counts.read_text(), re.MULTILINE)
        return int(found[1]) if found else None


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.instructions", description=__doc__)
    parser.add_argument("--tree", type=Path, action="append", help="a checkout to measure; this one by default")
    parser.add_argument("--rows", default=";".join(ROWS), help="which rows, separated by semicolons")
    parser.add_argument("--keep", type=Path, help="a folder for the counter's files, for callgrind_annotate")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="beluna-bench-") as folder:
        counter = find_counter(Path(folder))
        if counter is None:
            print("instructions: neither perf's instructions:u nor valgrind is to be had here: nothing was counted")
            return
        rows = [row for row in options.rows.split(";") if ROWS[row][0].way != "redis" or shutil.which("redis-server")]
        kept = options.keep or Path(folder)
        kept.mkdir(parents=True, exist_ok=True)
        trees = options.tree or [Path(__file__).parent.parent]
        measured = [measure(counter, tree.resolve(), rows, kept / str(n)) for n, tree in enumerate(trees)]
    print(f"instructions in user mode, counted by {counter.name}")
    for row in measured[0]:
        numbers = [result[row] for result in measured]
        ratio = f"{numbers[0] / numbers[-1]:9.3f}" if len(numbers) > 1 else ""
        print(row.rjust(32), *(f"{number:15,.0f}" for number in numbers), ratio)


def find_counter(folder: Path) -> Perf | Callgrind | None:
    """The first counter that counts something here."""
    counter: Perf | Callgrind
    for counter in (Perf(), Callgrind()):
        counts = folder / "trial"
        command = [*counter.command(counts), "true"]
        if shutil.which(command[0]) is None:
            continue
        done = subprocess.run(command, check=False, capture_output=True)
        if done.returncode == 0 and counter.read(counts):
            return counter
    return None


def measure(counter: Perf | Callgrind, tree: Path, rows: Sequence[str], folder: Path) -> dict[str, float]:
    """Instructions per unit of each row, for the daemon of one checkout. As many daemons at a time as there are cores:
    that others are running changes no count.
    """
    folder.mkdir(exist_ok=True)
    works = list(dict.fromkeys(work for row in rows for work in ROWS[row][:2]))
    with ExitStack() as stack:
        upstream = stack.enter_context(
            subprocess.Popen([sys.executable, bench.HERE / "upstream.py"], stdout=subprocess.PIPE, text=True)
        )
        stack.callback(upstream.terminate)
        assert upstream.stdout is not None
        address = f"127.0.0.1:{upstream.stdout.readline().strip()}"
        redis = stack.enter_context(bench.redis_server(folder)) if any(work.way == "redis" for work in works) else 0
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            numbers = range(len(works))
            counts = pool.map(lambda n: count(counter, tree, works[n], address, folder / str(n), redis), numbers)
            counted = dict(zip(works, counts, strict=True))
    results = {}
    for row in rows:
        less, more, units = ROWS[row]
        results[row] = (counted[more] - (counted[less] if less != more else 0)) / units
    return results


def count(counter: Perf | Callgrind, tree: Path, work: Work, upstream: str, folder: Path, redis: int) -> int:
    """The instructions of one daemon from its start to its end, with `work` in between."""
    folder.mkdir(exist_ok=True)
    counts = folder / "counts"
    command = [
        *counter.command(counts),
        sys.executable,
        "-m",
        "beluna_gateway",
        "--config",
        str(bench.configured(folder, upstream, bench.store(work.way, redis))),
    ]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONHASHSEED": "0"}
    with subprocess.Popen(command, env=environment, cwd=tree) as daemon, connected(folder / "s", daemon) as client:
        settle(daemon.pid)
        for _ in range(work.requests):
            ask(client, work.frame)
        client.sendall(b'{"type":"exit"}\n')
        daemon.wait()
    counted = counter.read(counts)
    if not counted:
        sys.exit(f"{counter.name} counted nothing: {counts}")
    return counted


def connected(path: Path, daemon: subprocess.Popen[bytes]) -> socket.socket:
    while daemon.poll() is None:
        client = socket.socket(socket.AF_UNIX)
        if client.connect_ex(str(path)) == 0:
            return client
        client.close()
        time.sleep(0.01)
    sys.exit("the daemon did not start")


def settle(pid: int) -> None:
    """Returns when the daemon has loaded what it loads after it accepts."""
    used = -1.0
    while (now := bench.cpu_seconds(pid)) != used:
        used = now
        time.sleep(0.5)


def ask(client: socket.socket, frame: bytes) -> None:
    """One request, to its last frame."""
    client.sendall(frame)
    seen = b""
    while b'"type":"completed"' not in seen:
        data = client.recv(65536)
        if not data or b'"type":"failed"' in data:
            sys.exit(f"the daemon did not answer: {data.decode()}")
        seen = seen[-4096:] + data


if __name__ == "__main__":
    main()
