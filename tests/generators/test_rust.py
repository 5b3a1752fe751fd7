"""Rust: the structs that quicktype makes, and the example client."""

from __future__ import annotations

import json
import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.wire.ndjson import decode

from ..examples.conversations import CONVERSATIONS
from .conftest import NUMBERED, PROTOCOL, cargo, generate, programs, used

pytestmark = pytest.mark.timeout(200)  # a compiler, on a machine that may be busy


@pytest.fixture(scope="session")
def example(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example client, built from a copy of its folder."""
    folder = tmp_path_factory.mktemp("rust") / "rust"
    shutil.copytree(PROTOCOL / "examples" / "rust", folder, ignore=shutil.ignore_patterns("target"))
    target = programs() / "target"
    cargo(folder, target, "build")
    return target / "debug" / "ask"


def test_the_structs_are_pleasant(tmp_path: Path) -> None:
    """They have the names of the protocol and compile; what they write is taken, what the daemon writes is read."""
    folder = tmp_path / "rust"
    shutil.copytree(Path(__file__).parent / "rust", folder, ignore=shutil.ignore_patterns("target"))
    found = programs("npm-installed", "node_modules/.bin/quicktype")
    generate("quicktype", tmp_path, found / "node_modules" / ".bin")
    shutil.move(tmp_path / "frames.rs", folder / "src")
    text = (folder / "src" / "frames.rs").read_text()
    assert NUMBERED.findall(text) == []
    assert "pub value: Option<serde_json::Value>," in text
    cargo(folder, found / "target", "build")

    mine, answers, back = used([str(found / "target" / "debug" / "use_frames")], tmp_path)

    for line in mine:
        decode(line)
    assert len(mine) == 2
    assert [known(json.loads(line)) for line in back] == [known(json.loads(line)) for line in answers]


def known(frame: dict[str, Any]) -> Any:
    """Without what the structs have no place for: the difference of null and missing, and a model's other keys."""
    if frame["type"] == "model_list":
        frame["models"] = [{"id": model["id"]} for model in frame["models"]]
    return _without_nulls(frame)


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(inner) for name, inner in value.items() if inner is not None}
    return [_without_nulls(inner) for inner in value] if isinstance(value, list) else value


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.__name__)
async def test_the_example(
    conversation: Callable[[Sequence[str], Path], Awaitable[None]], example: Path, tmp_path: Path
) -> None:
    """It does what its README says, as the name of the conversation tells."""
    await conversation([str(example)], tmp_path)
