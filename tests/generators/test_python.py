"""Python: the pydantic models that datamodel-code-generator makes."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest

from beluna_gateway.wire.ndjson import decode

from .conftest import NUMBERED, generate, programs, run, used


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the generated modules, and `use_frames.py`."""
    folder = tmp_path_factory.mktemp("python")
    generate("datamodel-codegen", folder, programs("pip-installed", "venv/bin/datamodel-codegen") / "venv" / "bin")
    shutil.copy(Path(__file__).parent / "use_frames.py", folder)
    return folder


def test_the_models_are_pleasant(models: Path) -> None:
    """They have the names of the protocol, and a type checker knows each field (`use_frames.py`)."""
    for side in ("client", "server"):
        text = (models / f"{side}.py").read_text()
        assert NUMBERED.findall(text) == []
        assert f"{side.title()}Frame = TypeAliasType(" in text
        assert 'JsonValue = TypeAliasType("JsonValue", Annotated[Any' in text
    run([sys.executable, "-m", "mypy", "--strict", "--config-file=", "client.py", "server.py", "use_frames.py"], models)


def test_what_they_write_is_taken_and_what_the_daemon_writes_is_read(models: Path) -> None:
    """Frames made of the models are frames to the daemon; each answer of the transcripts goes through and back."""
    mine, answers, back = used([sys.executable, "-W", "error", "use_frames.py"], models)

    for line in mine:
        decode(line)
    assert len(mine) == 5
    assert [json.loads(line) for line in back] == [json.loads(line) for line in answers]
