"""`make bench`: what the gateway costs, beside the same client without it and beside the official SDK, in one run.

Three ways to the same upstream: *direct* (nothing parsed, the floor), *daemon* (this project), *openai* (the official
SDK in process). They take turns, repetition after repetition, so that a noisy machine is noisy for all; compare the
ratios, not the numbers. The daemon has one core to itself where there are two.

*sqlite* and *redis* are the daemon with the limits that daemons share in such a store (docs/fleet.md): one that is too
wide to bind of places, of starts and of money. Redis only where `redis-server` is installed; it has no core of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
SCENARIOS = {
    # name: (the upstream's scenario, concurrency, seconds)
    "first": ("n5-d1", 1, 1.5),
    "stream": ("n200-d0", 1, 1.5),
    "burst": ("n200-d0", 64, 2.0),
    "paced": ("n50-d20", 50, 3.0),
    "unstreamed": ("n100-d0!", 64, 1.5),
    "cancel": ("cancel", 1, 0.0),
}
WAYS = ("direct", "daemon", "sqlite", "redis", "openai")
STORES: dict[str, dict[str, Any] | None] = {
    "daemon": None,
    "sqlite": {"sqlite": "quota.db"},
    "redis": {"url": "redis://127.0.0.1:{port}"},
}
"""Way → `ai_gateway.shared` of its daemon."""


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--reps", type=int, default=3)
    parser.add_argument("--json", type=Path, help="write everything measured to this file")
    parser.add_argument("--scenarios", default=",".join(SCENARIOS))
    parser.add_argument("--ways", default=",".join(WAYS))
    options = parser.parse_args()
    ways = options.ways.split(",")
    if "redis" in ways and shutil.which("redis-server") is None:
        ways.remove("redis")
    with tempfile.TemporaryDirectory(prefix="beluna-bench-") as folder:
        results, facts = run(Path(folder), options.reps, options.scenarios.split(","), ways)
    print(table(results, facts))
    if options.json:
        options.json.write_text(json.dumps({"facts": facts, "results": results}, indent=1))


def run(
    folder: Path, reps: int, scenarios: list[str], ways: list[str]
) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Everything, `reps` times; per way and scenario a list of what was measured. And what is known of each daemon."""
    cores = sorted(os.sched_getaffinity(0))
    load_core, daemon_core = cores[0], cores[-1]
    with ExitStack() as stack:
        upstream = stack.enter_context(
            subprocess.Popen(pinned(load_core, HERE / "upstream.py"), stdout=subprocess.PIPE, text=True)
        )
        stack.callback(upstream.terminate)
        assert upstream.stdout is not None
        address = f"127.0.0.1:{upstream.stdout.readline().strip()}"
        redis = stack.enter_context(redis_server(folder)) if "redis" in ways else 0
        daemons, facts = {}, {}
        for way in ways:
            if way in STORES:
                home = folder / way
                home.mkdir()
                daemon, facts[way] = start_daemon(home, address, daemon_core, store(way, redis))
                daemons[way] = stack.enter_context(daemon)
                stack.callback(daemon.terminate)
        results: dict[str, Any] = {way: {scenario: [] for scenario in scenarios} for way in ways}
        for rep in range(reps):
            for scenario in scenarios:
                for way in ways:
                    kind, target, pid = way, address, None
                    if way in daemons:
                        kind, target, pid = "daemon", str(folder / way / "s"), daemons[way].pid
                    # The SDK works in the application's process: it gets the core that is the daemon's otherwise.
                    core = daemon_core if way == "openai" else load_core
                    results[way][scenario].append(drive(kind, target, address, scenario, core, pid))
                    print(f"\r{rep + 1}/{reps} {scenario} {way}          ", end="", file=sys.stderr, flush=True)
        print(file=sys.stderr)
    return results, facts


def store(way: str, redis: int) -> dict[str, Any] | None:
    """`ai_gateway.shared` of one of `STORES`; `redis` is the server's port."""
    settings: dict[str, Any] | None = json.loads(json.dumps(STORES[way]).replace("{port}", str(redis)))
    return settings


@contextmanager
def redis_server(folder: Path) -> Iterator[int]:
    """A `redis-server` without persistence; its port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no"]
    with subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL) as server:
        try:
            while True:
                with socket.socket() as probe:
                    if probe.connect_ex(("127.0.0.1", port)) == 0:
                        break
                time.sleep(0.01)
            yield port
        finally:
            server.terminate()


def configured(folder: Path, upstream: str, shared: dict[str, Any] | None = None) -> Path:
    """A configuration in `folder`, with the upstream as backend; its policies are on but too wide to bind."""
    backend = {
        "id": "bench",
        "dialect": "openai_compatible",
        "endpoint": f"http://{upstream}/v1",
        "credential": {"type": "none"},
        "default_model": "n5-d0",
    }
    budget: dict[str, Any] = {"max_concurrency_per_backend": 100_000}
    gateway: dict[str, Any] = {"default_backend": "bench", "backends": [backend], "budget": budget}
    if shared is not None:
        budget |= {"shared_max_concurrency": 100_000, "shared_rate_per_second": 100_000}
        budget["shared_spend_usd_per_day"] = 1_000_000
        gateway["shared"] = {"timeout_ms": 2000, **shared}
    config = folder / "beluna.jsonc"
    config.write_text(json.dumps({"socket_path": "s", "telemetry": {"log_level": "warning"}, "ai_gateway": gateway}))
    return config


def start_daemon(
    folder: Path, upstream: str, core: int, shared: dict[str, Any] | None = None
) -> tuple[subprocess.Popen[bytes], dict[str, Any]]:
    """The daemon on the upstream; how long it took to accept, and its memory."""
    config = configured(folder, upstream, shared)
    began = time.perf_counter()
    daemon = subprocess.Popen(
        ["taskset", "-c", str(core), sys.executable, "-m", "beluna_gateway", "--config", str(config)]
    )
    while True:
        with socket.socket(socket.AF_UNIX) as probe:
            if probe.connect_ex(str(folder / "s")) == 0:
                break
        if daemon.poll() is not None:
            sys.exit("the daemon did not start")
        time.sleep(0.002)
    started = time.perf_counter() - began
    time.sleep(1)
    return daemon, {"start_to_accepting_ms": round(started * 1000), "idle_mb": round(memory_mb(daemon.pid), 1)}


def drive(kind: str, target: str, upstream: str, scenario: str, core: int, daemon: int | None) -> dict[str, Any]:
    """One scenario with one kind of driver; the CPU of whoever stands between the application and the wire."""
    name, concurrency, seconds = SCENARIOS[scenario]
    before = 0.0 if daemon is None else cpu_seconds(daemon)
    arguments = [kind, target, name, str(concurrency), str(seconds), upstream]
    done = subprocess.run(pinned(core, HERE / "driver.py", *arguments), stdout=subprocess.PIPE, text=True, check=True)
    measured: dict[str, Any] = json.loads(done.stdout)
    measured["cpu_s"] = measured["client_cpu_s"] if daemon is None else cpu_seconds(daemon) - before
    if measured.get("tokens"):
        # CPU of warm-up included on both sides: the ratio is what counts.
        measured["cpu_us_per_token"] = measured["cpu_s"] / measured["tokens"] * 1e6
    return measured


def pinned(core: int, script: Path, *arguments: str) -> list[str]:
    return ["taskset", "-c", str(core), sys.executable, str(script), *arguments]


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mb(pid: int) -> float:
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1000


def table(results: dict[str, Any], facts: dict[str, dict[str, Any]]) -> str:
    """Medians, a row a way; the best of the repetitions where noise can only add."""

    def value(way: str, scenario: str, key: str, digits: int = 0) -> str:
        numbers = [m[key] for m in results[way].get(scenario, []) if m.get(key) is not None]
        return f"{statistics.median(numbers):.{digits}f}" if numbers else "-"

    head = (
        "way",
        "first token µs",
        "99 % below",
        "200 tokens µs",
        "tokens/s at 64",
        "CPU µs/token burst",
        "paced",
        "unstreamed/s",
        "CPU µs",
        "cancel ms",
    )
    cells = (
        ("first", "first_us", 0),
        ("first", "first_99_us", 0),
        ("stream", "total_us", 0),
        ("burst", "tokens_per_s", 0),
        ("burst", "cpu_us_per_token", 1),
        ("paced", "cpu_us_per_token", 1),
        ("unstreamed", "requests_per_s", 0),
        ("unstreamed", "cpu_us_per_token", 0),
        ("cancel", "cancel_ms", 2),
    )
    rows = [head, *((way, *(value(way, *cell) for cell in cells)) for way in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(head))]
    lines = ["  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in rows]
    for way, known in facts.items():
        lines.append(f"{way}: start to accepting {known['start_to_accepting_ms']} ms, idle {known['idle_mb']} MB")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
