"""docs/development.md is true: what it tells a developer to type works."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from beluna_gateway.commands.arguments import command_line

from .fakes.daemon import clean_environment

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "development.md").read_text("utf-8")
COMMANDS = [line for block in re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL) for line in block.splitlines()]


def words(command: str) -> list[str]:
    """A command of the page, with the Python that runs this test."""
    found = shlex.split(command)
    return [sys.executable if word == ".venv/bin/python" else word for word in found]


@pytest.mark.skipif(shutil.which("socat") is None, reason="NOT CHECKED: socat is missing (Debian: apt install socat)")
def test_the_generators_write_what_is_there(tmp_path: Path) -> None:
    """Each of them runs in a copy of the checkout, and changes nothing: the generated pages are current."""
    listed = re.findall(r"-m (tests\.[\w.]+)`", PAGE)
    commands = [command for command in COMMANDS if " -m tests." in command]
    assert sorted(listed) == sorted(command.split()[-1] for command in commands)
    copy = tmp_path / "checkout"
    ignored = shutil.ignore_patterns(".*", "__pycache__", "recordings", "corpus")
    shutil.copytree(ROOT, copy, ignore=ignored)

    for command in commands:
        environment = clean_environment({"PYTHONPATH": str(copy)})
        result = subprocess.run(words(command), cwd=copy, env=environment, capture_output=True, text=True, check=False)
        assert result.returncode == 0, result.stderr
    for page in sorted((ROOT / "docs").iterdir()):
        assert (copy / "docs" / page.name).read_bytes() == page.read_bytes(), page.name


def test_each_selection_of_tests_is_there() -> None:
    """The files and folders that pytest is given, and a recording for each `-k`."""
    recordings = {path.name for path in (ROOT / "tests" / "adapters" / "recordings").iterdir()}
    selections = [words(command)[3:] for command in COMMANDS if " -m pytest " in command]

    assert len(selections) >= 3
    for selection in selections:
        assert any(word.startswith("tests/") for word in selection)
        assert all((ROOT / word).exists() for word in selection if word.startswith("tests/"))
        if "-k" in selection:
            assert selection[selection.index("-k") + 1] in recordings


def test_every_other_command_is_one() -> None:
    """A verb of make, a command of the gateway, or a tool that the environment has."""
    verbs = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"`make ([a-z]+)", PAGE)) <= verbs
    for command in COMMANDS:
        program, *arguments = words(command)
        if program == "make":
            assert set(arguments) <= verbs
        elif program == ".venv/bin/beluna-gateway":
            command_line().parse_args(arguments)
        else:
            assert program == sys.executable
            assert arguments[1].partition(".")[0] in ("pytest", "ruff", "mypy", "tests")
