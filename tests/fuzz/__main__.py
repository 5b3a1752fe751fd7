"""`make fuzz`: every target for some time, guided by the coverage of the code under test.

`python -m tests.fuzz --seconds 60 [TARGET …]`. Inputs that reach new code are kept in `.fuzz/`, so that the next run
goes on where this one ended; an input that breaks a promise is kept in `tests/fuzz/corpus/TARGET/`, where
`tests/fuzz/test_corpus.py` replays it from then on. Where atheris (libFuzzer for Python) is not installed, inputs are
changed at random, without coverage.

`python -m tests.fuzz --repeatable` is for CI, which must not fail by chance: a fixed number of inputs, the same in each
run of the same code, made from what is committed. The digest in its output is of all inputs of a target. What breaks a
promise is kept in `.fuzz/found/`, outside of what the tests replay.

Either way the input that broke a promise is printed in base64.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CORPUS = Path(__file__).parent / "corpus"
KEPT = ROOT / ".fuzz"
MAX_BYTES = 32 * 1024
SEED = 1
INPUTS = 7000
"""How many inputs of a target are tried with `--repeatable`, where `INPUTS_OF` does not say otherwise."""
INPUTS_OF = {"configuration": 3000, "response": 30_000, "sse": 15_000, "ndjson": 15_000}


def main() -> int:
    """All targets, or those named, each in a process of its own."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("targets", nargs="*")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--seconds", type=int, default=60, help="for each target")
    how.add_argument("--repeatable", action="store_true", help="the same inputs in each run")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="targets at the same time")
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options = parser.parse_args()
    seconds = None if options.repeatable else options.seconds
    if options.alone:
        _fuzz(options.alone, seconds)
        return 0
    from .targets import TARGETS

    names = options.targets or list(TARGETS)
    how_long = "the same inputs in each run" if seconds is None else f"{seconds} s each"
    sys.stdout.write(f"{len(names)} targets, {how_long}, {_engine()}\n")
    with ThreadPoolExecutor(options.jobs) as pool:
        right = dict(zip(names, pool.map(lambda name: _run(name, seconds), names), strict=True))
    failed = [name for name in names if not right[name]]
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "no promise was broken\n")
    return 1 if failed else 0


def _run(name: str, seconds: int | None) -> bool:
    """One target; prints a line, and what went wrong."""
    how = ["--repeatable"] if seconds is None else ["--seconds", str(seconds)]
    command = [sys.executable, "-m", "tests.fuzz", "--alone", name, *how]
    folder = _found(name, seconds)
    before = set(folder.glob("*"))
    done = subprocess.run(
        command,
        cwd=ROOT,
        env=os.environ | {"PYTHONHASHSEED": "0"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    runs = re.findall(r"^#(\d+)\s+DONE|^Done (\d+) runs", done.stdout, re.MULTILINE)
    covered = re.findall(r"cov: (\d+)", done.stdout)
    digest = re.findall(r"^digest ([0-9a-f]+)$", done.stdout, re.MULTILINE)
    count = next((text for text in (runs[-1] if runs else ()) if text), "?")
    line = f"  {name:28} {count:>9} inputs  {covered[-1] if covered else '-':>6} edges"
    sys.stdout.write(f"{line}  {digest[-1]}\n" if digest else f"{line}\n")
    if done.returncode:
        sys.stdout.write(done.stdout[-6000:] + "\n")
        for path in sorted(set(folder.glob("*")) - before):
            sys.stdout.write(told(name, path))
    sys.stdout.flush()
    return done.returncode == 0


def told(name: str, path: Path) -> str:
    """An input that broke a promise, so that it can be tried again by whoever has only this text."""
    data = path.read_bytes()
    text = base64.b64encode(data[: 2 * MAX_BYTES]).decode()
    left_out = "" if len(data) <= 2 * MAX_BYTES else f", of which these are the first {2 * MAX_BYTES}"
    return (
        f"{len(data)} bytes broke a promise of {name}{left_out}; kept as {path}. To try them elsewhere:\n"
        f"  mkdir -p tests/fuzz/corpus/{name}\n"
        f"  base64 -d > tests/fuzz/corpus/{name}/{path.name} <<< {text}\n"
        f"  python -m pytest tests/fuzz/test_corpus.py -k {path.name}\n"
    )


def _found(name: str, seconds: int | None) -> Path:
    """Where inputs that break a promise are kept."""
    folder = KEPT / "found" / name if seconds is None else CORPUS / name
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _engine() -> str:
    return "guided by coverage" if find_spec("atheris") else "at random: atheris is not installed"


def _fuzz(name: str, seconds: int | None) -> None:
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

    found = _found(name, seconds)
    kept = KEPT / ("seeds" if seconds is None else "") / name
    kept.mkdir(parents=True, exist_ok=True)
    seeds = [kept / hashlib.sha256(seed).hexdigest()[:16] for seed in targets.seeds(name)]
    for path, seed in zip(seeds, targets.seeds(name), strict=True):
        path.write_bytes(seed)
    if seconds is None:
        # Listed one by one: the order of the files in a folder is not the same everywhere.
        inputs = kept / "inputs"
        inputs.write_text(",".join(map(str, [*dict.fromkeys(seeds), *sorted((CORPUS / name).glob("*"))])))
        how = [f"-runs={_inputs_of(name)}", f"-seed={SEED}", f"-seed_inputs=@{inputs}"]
        # What depends on addresses in memory or on time, as the digests of two runs show.
        how += ["-use_cmp=0", "-use_memmem=0", "-entropic=0", "-reload=0"]
        play = _digested(lambda data: targets.play(name, data), _inputs_of(name))
    else:
        how = [f"-max_total_time={seconds}", str(kept), str(found)]
        play = lambda data: targets.play(name, data)  # noqa: E731 - as short as the other one
    arguments = [
        sys.argv[0],
        f"-max_len={MAX_BYTES}",
        "-timeout=600",  # for what never ends; processor time is bounded by `targets.play`
        "-report_slow_units=600",
        "-rss_limit_mb=2000",
        f"-artifact_prefix={found}/",
        *how,
    ]
    atheris.Setup(arguments, play, custom_mutator=mutate)
    atheris.Fuzz()


def _inputs_of(name: str) -> int:
    """How many inputs of a target are tried with `--repeatable`."""
    return INPUTS_OF.get(name, INPUTS)


def _digested(play: Callable[[bytes], None], calls: int) -> Callable[[bytes], None]:
    """`play`, which after the last of `calls` prints a digest of everything that it was called with."""
    digest, count = hashlib.sha256(), 0

    def played(data: bytes) -> None:
        nonlocal count
        count += 1
        digest.update(b"%d:" % len(data) + data)
        play(data)
        if count == calls:
            sys.stdout.write(f"digest {digest.hexdigest()[:16]}\n")
            sys.stdout.flush()

    return played


def _at_random(name: str, seconds: int | None) -> None:
    from . import targets

    mutator, inputs = targets.mutator(name), targets.seeds(name)
    dice = random.Random(None if seconds is not None else SEED)
    end, count = time.monotonic() + (seconds or 0), 0
    play = _digested(lambda data: targets.play(name, data), _inputs_of(name) if seconds is None else 0)
    while count < _inputs_of(name) if seconds is None else time.monotonic() < end:
        data = mutator.mutate(dice.choice(inputs), dice)[:MAX_BYTES]
        count += 1
        try:
            play(data)
        except BaseException:
            (_found(name, seconds) / f"crash-{hashlib.sha256(data).hexdigest()[:16]}").write_bytes(data)
            raise
    sys.stdout.write(f"Done {count} runs\n")


if __name__ == "__main__":
    sys.exit(main())
