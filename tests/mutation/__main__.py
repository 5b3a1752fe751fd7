"""Runs the mutation tester over the pure modules, and says which mutants no test kills: `make mutants`.

For each group of `groups.py`, mutmut makes mutants in `.mutants/GROUP`, and runs for each one the group's tests that
call the mutated function, the fastest first. The killed mutants of an unchanged function are kept there for the next
run; `make clean` forgets them.
"""

from __future__ import annotations

import ast
import difflib
import json
import os
import re
import subprocess
import sys
import time
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from tests.mutation.groups import GROUPS, Group

ROOT = Path(__file__).resolve().parents[2]
WORK = ROOT / ".mutants"
SURVIVORS = Path(__file__).with_name("survivors.toml")

LEAST_PERCENT = 90
"""Of the mutants that are not equivalent; with fewer killed the run fails."""
KILLED = ("killed", "timed out")
TIMED_OUT = {-24, 24, 36, 152, 255}
COPIED = ("Makefile", "README.md", "beluna.jsonc", "beluna.schema.json", "docs", "protocol", "systemd", ".ci")
"""What the tests read beside the package and themselves."""


class Mutant(NamedTuple):
    function: str
    status: str
    change: str
    """The lines taken out and put in, as in a diff."""


class Reason(NamedTuple):
    """Why mutants survive; see survivors.toml."""

    words: str
    equivalent: bool
    function: re.Pattern[str]
    changes: list[re.Pattern[str]]


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in GROUPS]
    if unknown:
        sys.stderr.write(f"no group {', '.join(unknown)}; there are {', '.join(GROUPS)}\n")
        return 2
    reasons = _reasons()
    total: Counter[str] = Counter()
    for name in names or list(GROUPS):
        begin = time.monotonic()
        _run(name, GROUPS[name])
        counts: Counter[str] = Counter()
        for mutant in _mutants(name):
            reason = None if mutant.status in KILLED else _reason(mutant, reasons)
            counts["equivalent" if reason and reason.equivalent else mutant.status] += 1
            if mutant.status not in KILLED:
                _say(f"{mutant.function} {mutant.status}: {reason.words if reason else 'NO REASON IS KNOWN'}")
                _say(f"{mutant.change}\n")
        _say(f"== {name}: {_summary(counts)}, {time.monotonic() - begin:.0f} s\n")
        total += counts
    _say(_summary(total))
    return 0 if _share(total) >= LEAST_PERCENT else 1


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def _reasons() -> list[Reason]:
    return [
        Reason(one["reason"], one.get("equivalent", False), _pattern(one["function"]), [*map(_pattern, one["changes"])])
        for one in tomllib.loads(SURVIVORS.read_text())["survivor"]
    ]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(".*".join(map(re.escape, text.split("*"))), re.DOTALL)


def _reason(mutant: Mutant, reasons: list[Reason]) -> Reason | None:
    lines = mutant.change.splitlines()
    put_in = "\n".join(line[2:] for line in lines if line.startswith("+")) or "\n".join(line[2:] for line in lines)
    for reason in reasons:
        if reason.function.fullmatch(mutant.function) and any(one.fullmatch(put_in) for one in reason.changes):
            return reason
    return None


def _run(name: str, group: Group) -> None:
    work = WORK / name
    work.mkdir(parents=True, exist_ok=True)
    for entry in ("beluna_gateway", "tests", *COPIED):
        link = work / entry
        if not link.is_symlink():
            link.symlink_to(ROOT / entry)
    settings = {
        "source_paths": ["beluna_gateway"],
        "only_mutate": [f"beluna_gateway/{module}" for module in group.modules],
        "also_copy": list(COPIED),
        "pytest_add_cli_args_test_selection": [f"tests/{test}" for test in group.tests],
        "pytest_add_cli_args": [
            "-p",
            "tests.mutation.plugin",
            "--hypothesis-profile=mutation",
            "-p",
            "no:cacheprovider",
        ],
        # Seconds of the clock, for mutants that wait for ever; for those that loop the plugin's own limit comes first.
        "timeout_multiplier": 3.0,
        "timeout_constant": 20.0,
    }
    table = "\n".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
    (work / "pyproject.toml").write_text(f"{(ROOT / 'pyproject.toml').read_text()}\n[tool.mutmut]\n{table}\n")
    _forget_survivors(work)
    jobs = os.environ.get("JOBS", str(os.cpu_count() or 1))
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    with (work / "output").open("w") as output:
        command = [sys.executable, "-m", "mutmut", "run", "--max-children", jobs]
        ended = subprocess.run(command, cwd=work, env=environment, stdout=output, stderr=subprocess.STDOUT, check=False)
    if ended.returncode:
        tail = "\n".join((work / "output").read_text(errors="replace").splitlines()[-40:])
        raise SystemExit(f"mutmut failed on {name}:\n{tail}")


def _forget_survivors(work: Path) -> None:
    """New tests may kill them; mutmut tries a mutant again only where its function has changed."""
    for meta in work.glob("mutants/beluna_gateway/**/*.meta"):
        kept = json.loads(meta.read_text())
        codes = kept["exit_code_by_key"]
        kept["exit_code_by_key"] = {name: code if _status(code) in KILLED else None for name, code in codes.items()}
        meta.write_text(json.dumps(kept))


def _mutants(name: str) -> Iterator[Mutant]:
    top = WORK / name / "mutants"
    for meta in sorted(top.glob("beluna_gateway/**/*.meta")):
        codes: dict[str, int | None] = json.loads(meta.read_text())["exit_code_by_key"]
        source = meta.with_suffix("").read_text()
        lines = source.split("\n")  # once: ast.get_source_segment does it for each function
        functions = {
            node.name: "\n".join(lines[node.lineno - 1 : node.end_lineno])
            for node in ast.walk(ast.parse(source))
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for mutant, code in codes.items():
            own = mutant.rpartition(".")[2]
            original = own.rpartition("__mutmut_")[0] + "__mutmut_orig"
            yield Mutant(_function(mutant), _status(code), _change(functions[original], functions[own]))


def _status(code: int | None) -> str:
    if code in (1, 3):
        return "killed"
    if code in TIMED_OUT:
        return "timed out"
    # 5 and 33: no test of the group calls the function. None: mutmut was stopped.
    return {0: "survived", 5: "untested", 33: "untested", None: "not run"}.get(code, f"ended with {code}")


def _change(original: str, mutated: str) -> str:
    lines = difflib.unified_diff(original.splitlines()[1:], mutated.splitlines()[1:], lineterm="", n=0)
    return "\n".join(f"{line[0]} {line[1:].strip()}" for line in lines if not line.startswith(("---", "+++", "@@")))


def _function(mutant: str) -> str:
    """`beluna_gateway.wire.ndjson.x__cut__mutmut_3` → `wire.ndjson._cut`; of a method, with its class."""
    module, _, own = mutant.rpartition("__mutmut_")[0].rpartition(".")
    # mutmut mangles a function as x_NAME and a method as xǁCLASSǁNAME.
    name = own[2:].replace("ǁ", ".")
    return f"{module.removeprefix('beluna_gateway.')}.{name}"


def _summary(counts: Counter[str]) -> str:
    killed, mutants = _killed_of(counts)
    uncounted = f"{counts['equivalent']} equivalent ones not counted"
    return f"{_share(counts):.1f} % killed: {killed} of {mutants} mutants ({uncounted})"


def _share(counts: Counter[str]) -> float:
    killed, mutants = _killed_of(counts)
    return 100 * killed / mutants if mutants else 100.0


def _killed_of(counts: Counter[str]) -> tuple[int, int]:
    return sum(counts[status] for status in KILLED), sum(counts.values()) - counts["equivalent"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
