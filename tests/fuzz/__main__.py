"""`make fuzz`: every target for some time, guided by the coverage of the code under test.

`python -m tests.fuzz --seconds 60 [TARGET …]`. Inputs that reach new code are kept in `.fuzz/`, so that the next run
goes on where this one ended; an input that breaks a promise is kept in `tests/fuzz/corpus/TARGET/`, where
`tests/fuzz/test_corpus.py` replays it from then on. Where atheris (libFuzzer for Python) is not installed, inputs are
changed at random, without coverage.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import random
import re
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
KEPT = ROOT / ".fuzz"
MAX_BYTES = 32 * 1024


def main() -> int:
    """All targets, or those named, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at the same time")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.alone:
        _fuzz(options.alone, options.seconds)
        return 0
    from .targets import TARGETS

    names = options.targets or list(TARGETS)
    sys.stdout.write(f"{len(names)} targets, {options.seconds} s each, {_engine()}\n")
    with ThreadPoolExecutor(options.jobs) as pool:
        right = dict(zip(names, pool.map(lambda name: _run(name, options.seconds), names), strict=True))
    failed = [name for name in names if not right[name]]
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "no promise was broken\n")
    return 1 if failed else 0


def _run(name: str, seconds: int) -> bool:
    """One target; prints a line, and what went wrong."""
    command = [sys.executable, "-m", "tests.fuzz", "--alone", name, "--seconds", str(seconds)]
    done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    runs = re.findall(r"^#(\d+)\s+DONE|^Done (\d+) runs", done.stdout, re.MULTILINE)
    covered = re.findall(r"cov: (\d+)", done.stdout)
    count = next((text for text in (runs[-1] if runs else ()) if text), "?")
    sys.stdout.write(f"  {name:28} {count:>9} inputs  {covered[-1] if covered else '-':>6} edges\n")
    if done.returncode:
        sys.stdout.write(done.stdout[-6000:] + "\n")
    sys.stdout.flush()
    return done.returncode == 0


def _engine() -> str:
    return "guided by coverage" if find_spec("atheris") else "at random: atheris is not installed"


def _fuzz(name: str, seconds: int) -> None:
    """One target, in this process; ends with a status other than 0 where it found something."""
    if find_spec("atheris") is None:
        _at_random(name, seconds)
        return
    import atheris

    with atheris.instrument_imports(include=["beluna_gateway"]):
        from . import targets
    mutator = targets.mutator(name)

    def mutate(data: bytes, max_size: int, seed: int) -> bytes:
        dice = random.Random(seed)
        changed = mutator.mutate(data, dice) if dice.random() < 0.6 else atheris.Mutate(data, len(data))
        return bytes(changed[:max_size])

    kept, found = KEPT / name, CORPUS / name
    for folder in (kept, found):
        folder.mkdir(parents=True, exist_ok=True)
    for seed in targets.seeds(name):
        (kept / hashlib.sha256(seed).hexdigest()[:16]).write_bytes(seed)
    arguments = [
        sys.argv[0],
        f"-max_total_time={seconds}",
        f"-max_len={MAX_BYTES}",
        "-timeout=120",  # for what never ends; processor time is bounded by `targets.play`
        "-report_slow_units=120",
        "-rss_limit_mb=2000",
        f"-artifact_prefix={found}/",
        str(kept),
        str(found),
    ]
    atheris.Setup(arguments, lambda data: targets.play(name, data), custom_mutator=mutate)
    atheris.Fuzz()


def _at_random(name: str, seconds: int) -> None:
    from . import targets

    mutator, inputs = targets.mutator(name), targets.seeds(name)
    dice, end, count = random.Random(), time.monotonic() + seconds, 0
    while time.monotonic() < end:
        data = mutator.mutate(dice.choice(inputs), dice)[:MAX_BYTES]
        count += 1
        try:
            targets.play(name, data)
        except BaseException:
            path = CORPUS / name / f"crash-{hashlib.sha256(data).hexdigest()[:16]}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
            sys.stdout.write(f"kept as {path}\n")
            raise
    sys.stdout.write(f"Done {count} runs\n")


if __name__ == "__main__":
    sys.exit(main())
