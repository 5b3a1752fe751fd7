"""The programs that make types of `protocol/*.schema.json`, and the compilers that judge them. `.ci/generators` gets
them and runs these tests; without it they say so and do not run.

What is run is what a reader of protocol/README.md and protocol/examples/README.md would type.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from .. import transcripts

PROTOCOL = Path(__file__).parents[2] / "protocol"
# Where `.ci/generators` put the programs. Not looked for elsewhere: whether these tests run is said, not found out.
PROGRAMS = os.environ.get("BELUNA_GENERATORS")
CRATES = os.environ.get("BELUNA_CRATES")
"""Where serde comes from: the folder of Debian's packages, or `crates.io`. Without it there is no Rust."""


def programs(*needed: str) -> Path:
    """The folder with everything, where those files are in it."""
    if PROGRAMS is None:
        pytest.skip("no generators: `make generators` downloads them and runs this")
    missing = [name for name in needed if not (Path(PROGRAMS) / name).exists()]
    if missing:
        pytest.skip(f"`make generators` could not download {' and '.join(missing)}")
    return Path(PROGRAMS)


def run(command: list[str] | str, folder: Path, **environment: str) -> str:
    """What a command, or a text for the shell, prints. It must succeed."""
    done = subprocess.run(
        command if isinstance(command, list) else ["bash", "-euo", "pipefail", "-c", command],
        cwd=folder,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, f"{command}: exit status {done.returncode}\n{done.stdout}"
    return done.stdout


def documented(program: str) -> str:
    """The commands of the README's section "Schemas" that run `program`."""
    section = (PROTOCOL / "README.md").read_text("utf-8").partition("\n## Schemas\n")[2].partition("\n## ")[0]
    found = [block for block in re.findall(r"```sh\n(.*?)```", section, re.DOTALL) if f"{program} --" in block]
    assert len(found) == 1, found
    return str(found[0])


def generate(program: str, folder: Path, path: Path) -> None:
    """Runs the README's commands in a folder with the schemas."""
    for schema in PROTOCOL.glob("*.schema.json"):
        shutil.copy(schema, folder)
    run(documented(program), folder, PATH=f"{path}:{os.environ['PATH']}")


def used(command: list[str], folder: Path) -> tuple[list[bytes], list[str], list[str]]:
    """Runs a program that writes frames of a client, and then each of the daemon's frames that it is given.

    Returns:
        What it wrote itself, what it was given (all answers of the transcripts), and what it wrote of that.
    """
    answers = [
        line
        for path in sorted((PROTOCOL / "transcripts").glob("*.ndjson"))
        for line in transcripts.Transcript.read(path).lines("<")
    ]
    done = subprocess.run(
        command, cwd=folder, input="\n".join(answers).encode(), stdout=subprocess.PIPE, timeout=60, check=True
    )
    mine, back = done.stdout.split(b"--\n")
    return mine.splitlines(), answers, back.decode().splitlines()


def cargo(folder: Path, target: Path, *arguments: str) -> str:
    """Runs cargo on the package in `folder`, with what it builds kept in `target`."""
    if CRATES is None:
        pytest.skip("no serde: `make generators` looks for it at crates.io and among Debian's packages")
    source = []
    if CRATES != "crates.io":
        source += ["--config", 'source.crates-io.replace-with="debian"']
        source += ["--config", f'source.debian.directory="{CRATES}"']
    return run(["cargo", *arguments, "--offline", "--quiet", *source], folder, CARGO_TARGET_DIR=str(target))


NUMBERED = re.compile(r"\b(?:interface|type|class|struct|enum) (\w*\d)\b|^(\w*\d) = TypeAliasType", re.MULTILINE)
"""Names that generators give to types which have no name of their own."""
