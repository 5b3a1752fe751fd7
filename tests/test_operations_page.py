"""docs/operations.md is true where that can be seen without a systemd; `make systemd` runs its commands in one."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from beluna_gateway import __version__
from beluna_gateway.commands import outcome, starter
from beluna_gateway.commands.arguments import command_line
from beluna_gateway.config.loading import load_config
from beluna_gateway.config.settings import FileCredential

from .fakes import sandbox

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "operations.md").read_text("utf-8")
UNIT = {key: values[-1] for key, values in sandbox.settings(ROOT / "systemd" / "beluna-gateway.service").items()}
EXAMPLE = load_config(ROOT / "systemd" / "beluna.jsonc")


def commands() -> list[list[str]]:
    """The arguments of each `beluna-gateway …` of the page."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE, re.DOTALL)
    shown = [line for block in blocks for line in block.splitlines()] + re.findall(r"`([^`\n]+)`", PAGE)
    found = []
    for line in shown:
        words = shlex.split(line, comments=True)
        at = next((number for number, word in enumerate(words) if Path(word).name == "beluna-gateway"), None)
        if at is not None and words[at + 1 :] and not {"ln", "rm", "pip", "pipx", "uv", "journalctl"} & set(words[:at]):
            found.append(list(words[at + 1 :]))
    return found


@pytest.mark.parametrize("arguments", commands(), ids=" ".join)
def test_each_command_is_one(arguments: list[str]):
    """The command line takes it."""
    arguments = arguments[: arguments.index(">")] if ">" in arguments else arguments

    command_line().parse_args(arguments)


def test_the_page_installs_this_version():
    """And upgrades to another one."""
    versions = set(re.findall(r"beluna_gateway-([0-9.]+)-py3", PAGE))

    assert __version__ in versions
    assert len(versions) == 2


def test_the_page_says_what_the_units_say():
    """How long answers have, how soon a mended configuration is taken, and the keys' names."""
    names = [one.credential.path for one in EXAMPLE.ai_gateway.backends if isinstance(one.credential, FileCredential)]

    assert f"requests in flight have {EXAMPLE.server.shutdown_grace_ms // 1000} s to end" in PAGE
    assert f"within {UNIT['RestartSec'].removesuffix('s')} s the daemon starts" in PAGE
    assert f"LoadCredential={names[0]}:/etc/beluna-gateway/credentials/{names[0]}" in PAGE


def test_each_exit_status_of_check_is_named():
    """By the numbers of the code."""
    for status in (outcome.UNREADABLE, outcome.CANNOT_CREATE, outcome.WRONG_CONFIG, outcome.UNAVAILABLE):
        assert re.search(rf"\b{status}\b", PAGE)


def test_a_link_to_this_installation_is_what_the_unit_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """So that an upgrade is one link; without the link it is this installation's own folder."""
    programs = starter._programs()
    (tmp_path / "link").symlink_to(programs)
    monkeypatch.setattr(starter, "UNIT_PATH", str(tmp_path / "link"))

    assert starter._unit_path() == str(tmp_path / "link")
    (tmp_path / "link").unlink()
    assert starter._unit_path() == str(programs)
