"""README.md and docs/ are true: what they show was run, and what they name is there."""

import asyncio
import json
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from beluna_gateway import __version__
from beluna_gateway.commands.arguments import command_line
from beluna_gateway.config.settings import json_schema
from beluna_gateway.daemon import connection, server
from beluna_gateway.wire.server_frames import ServerFrame

from . import configuration_page
from .fakes.answers import DONE, event, plays
from .fakes.backend import FakeBackend, fake_backend
from .fakes.client import Frame
from .fakes.daemon import local_daemon, make_config, write_config

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text("utf-8")
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language: str) -> list[str]:
    """The README's code blocks of one language."""
    return re.findall(rf"```{language}\n(.*?)```", README, re.DOTALL)


SHOWN: list[Frame] = [json.loads(line) for line in blocks("json")[0].splitlines()]
"""The first answer that the README shows."""


# --- what it shows -------------------------------------------------------------------------------------------


def as_shown(backend: FakeBackend) -> None:
    """The backend says what the model said when the README was written."""
    metadata = SHOWN[-1]["backend_metadata"]
    common = {
        "id": metadata["response_id"],
        "model": metadata["model"],
        "system_fingerprint": metadata["system_fingerprint"],
    }
    deltas = [frame["delta"] for frame in SHOWN if frame["type"] == "output_text_delta"]
    choices: list[dict[str, Any]] = [{"index": 0, "delta": {"content": delta}} for delta in deltas]
    choices.append({"index": 0, "delta": {}, "finish_reason": SHOWN[-1]["finish_reason"]})
    usage = {"choices": [], "usage": SHOWN[-2]["usage"]["provider_usage_raw"]}
    backend.on("local", plays(*(event({**common, "choices": [choice]}) for choice in choices), event(usage), DONE))


def config(backend: FakeBackend) -> dict[str, Any]:
    """A configuration whose one backend bears the name and model of the shipped one."""
    return make_config({"local": {"default_model": SHOWN[0]["model"]}}, backend)


async def run(command: list[str], folder: Path) -> list[str]:
    """The lines that the command prints; it must succeed."""
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0
    return output.decode().splitlines()


@pytest.mark.skipif(shutil.which("socat") is None, reason="NOT CHECKED: socat is missing (Debian: apt install socat)")
async def test_the_socat_session_is_as_shown(tmp_path: Path) -> None:
    """Each command of the session gives the answer below it, to the letter."""
    commands = [block for block in blocks("sh") if "socat" in block]
    answers = [[json.loads(line) for line in block.splitlines()] for block in blocks("json")]
    assert len(commands) == len(answers)
    async with fake_backend() as backend, local_daemon(tmp_path, config(backend)):
        as_shown(backend)
        for command, expected in zip(commands, answers, strict=True):
            assert expected == [json.loads(line) for line in await run(["sh", "-c", command], tmp_path)]


async def test_the_gateway_can_be_embedded_as_shown(tmp_path: Path) -> None:
    """The first example runs as it stands."""
    async with fake_backend() as backend:
        as_shown(backend)
        write_config(tmp_path, config(backend))
        printed = await run([sys.executable, "-c", blocks("python")[0]], tmp_path)

    assert printed[0] == "The capital of France is Paris."
    assert printed[1].startswith("The capital of France is Paris. stop UsageStats(")


async def test_the_client_can_be_used_as_shown(tmp_path: Path) -> None:
    """The second example runs as it stands, against a daemon in the same folder."""
    async with fake_backend() as backend, local_daemon(tmp_path, config(backend)):
        as_shown(backend)
        printed = await run([sys.executable, "-c", blocks("python")[1]], tmp_path)

    assert len(printed) == len(SHOWN)
    assert "'type': 'completed'" in printed[-1]


def test_the_protocols_page_begins_with_the_same_session() -> None:
    """The session was run once, and is shown twice."""
    page = (ROOT / "protocol" / "README.md").read_text("utf-8")

    assert f"```json\n{blocks('json')[0]}```" in page
    assert next(block for block in blocks("sh") if "socat" in block) in page


def test_what_is_shown_as_json_is_what_the_daemon_writes() -> None:
    """Each line of a JSON block is a valid frame."""
    adapter = TypeAdapter[Any](ServerFrame)
    for block in blocks("json"):
        for line in block.splitlines():
            adapter.validate_json(line)


# --- what it names -------------------------------------------------------------------------------------------


def test_each_command_is_one() -> None:
    """The command line takes every `beluna-gateway …` that is shown, and each of its commands is in the table."""
    shown = [line for block in blocks("sh") for line in block.splitlines() if "beluna-gateway " in line]
    shown += re.findall(r"`(beluna-gateway [^`]+)`", README)
    taken = set()
    for line in shown:
        words = shlex.split(line)
        start = next((n for n, word in enumerate(words) if Path(word).name == "beluna-gateway"), None)
        if start is None or not {"pip", "venv", "systemctl"}.isdisjoint(words):
            continue
        options = command_line().parse_args(words[start + 1 :])
        taken.add(options.command)

    modules = (ROOT / "beluna_gateway" / "commands").glob("*.py")
    assert taken == {path.stem for path in modules if "def run(" in path.read_text("utf-8")}


def test_each_verb_of_make_is_there() -> None:
    """`make demo` and whatever else is named is a target of the Makefile."""
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    named = {verb for page in PAGES for verb in re.findall(r"[`\n]make ([a-z]+)[`\n]", page.read_text("utf-8"))}

    assert {"demo", "test", "help", "schema"} <= named <= targets


def test_each_extra_is_there() -> None:
    """An extra that is named exists, and nothing is claimed to be on an index."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    named = set(re.findall(r"extra(?:\]\(#without-a-clone\))? `([a-z]+)`", README))

    assert {"local", "copilot", "otlp", "prices", "top", "completion"} == named
    assert named <= extras.keys()
    assert all("'beluna-gateway[" not in page.read_text("utf-8") for page in PAGES)


def headings(page: Path) -> set[str]:
    """The headings of a page, as links name them."""
    found = re.findall(r"^#+ (.+)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in found}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_path_and_link_leads_somewhere(page: Path) -> None:
    """Files that are named are there, and so are the headings that are linked to."""
    text = page.read_text("utf-8")
    folders = "beluna_gateway|tests|protocol|systemd|docs"
    text_only = re.sub(r"https?://\S+|\]\([^)]*\)", "", text)
    for name, pattern in re.findall(rf"(?<![\w/.-])((?:{folders})/[\w./-]*)([<*]?)", text_only):
        assert pattern or (ROOT / name.rstrip(".")).exists(), name
    for target in re.findall(r"\]\(([^)]+)\)", text):
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        assert (page.parent / name).exists(), target
        if heading:
            assert heading in headings((page.parent / name) if name else page), target


@pytest.mark.parametrize("page", ["README.md", "docs/reliability.md"])
def test_each_test_that_shows_a_promise_is_there(page: str) -> None:
    """The tables of promises name tests that exist."""
    named = re.findall(r"`([\w/.]*)::(\w+)`", (ROOT / page).read_text("utf-8"))
    assert len(named) >= 10
    file = ""
    for path, test in named:
        file = path or file
        assert re.search(rf"^(?:async )?def {test}\(", (ROOT / file).read_text("utf-8"), re.MULTILINE), (
            f"{file}::{test}"
        )


def test_the_picture_shows_modules_that_are_there() -> None:
    """The way of a request is drawn with the names of the code."""
    [picture] = blocks("text")
    modules = ["gateway", *re.findall(r"(?:daemon|wire|pipeline)/\w+", picture)]

    assert len(modules) >= 12
    for module in modules:
        assert (ROOT / "beluna_gateway" / f"{module}.py").is_file(), module


def test_the_numbers_are_those_of_the_code() -> None:
    """What is said about waiting frames and last frames is what the constants say."""
    details = (ROOT / "protocol" / "README.md").read_text("utf-8")

    assert f"{connection.EVENTS_HIGH_WATER // 1024} KiB of frames wait" in details
    assert f"With {connection.INPUT_HIGH_WATER // 1024**2} MiB of answers waiting" in details
    assert server.FLUSH_SECONDS == 1
    assert "one second to take their last frames" in details


def test_the_configuration_page_is_current() -> None:
    """docs/configuration.md has every key with its default; `python -m tests.configuration_page` writes it."""
    text = configuration_page.PAGE.read_text("utf-8")

    assert text == configuration_page.rewritten(text)
    assert set(re.findall(r"<!-- table: (\w+) -->", text)) == {
        name for name in ["Config", *json_schema()["$defs"]] if not name.endswith("Credential")
    }


def test_the_changelog_knows_this_version() -> None:
    """The version that is running has its entry."""
    assert f"\n## {__version__}\n" in (ROOT / "CHANGELOG.md").read_text("utf-8")
