"""TypeScript: the types that json-schema-to-typescript makes, and the example client."""

from __future__ import annotations

import shutil
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from ..examples.conversations import CONVERSATIONS
from .conftest import NUMBERED, PROTOCOL, generate, programs, run

pytestmark = pytest.mark.timeout(200)  # a compiler, on a machine that may be busy


@pytest.fixture(scope="session")
def node_modules() -> Path:
    """What npm has installed."""
    return programs("npm-installed", "node_modules/.bin/json2ts", "node_modules/.bin/tsc") / "node_modules"


@pytest.fixture(scope="session")
def example(node_modules: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The example client, built in a copy of `protocol` as its README says."""
    copy = tmp_path_factory.mktemp("typescript") / "protocol"
    shutil.copytree(PROTOCOL, copy, ignore=shutil.ignore_patterns("node_modules", "target", "transcripts"))
    folder = copy / "examples" / "typescript"
    (folder / "node_modules").symlink_to(node_modules)
    run(["npm", "run", "build"], folder)
    return folder


def test_the_types_are_pleasant(node_modules: Path, tmp_path: Path) -> None:
    """Types have the names of the protocol; right frames are taken, and wrong ones are refused (`use_frames.ts`)."""
    generate("json2ts", tmp_path, node_modules / ".bin")
    texts = {side: (tmp_path / f"{side}.ts").read_text() for side in ("client", "server")}

    assert [NUMBERED.findall(text) for text in texts.values()] == [[], []]
    assert "export type ClientFrame =" in texts["client"]
    assert "export type ServerFrame =" in texts["server"]
    assert "export type JsonValue = null | boolean | number | string | JsonValue[] |" in texts["client"]
    shutil.copy(Path(__file__).parent / "use_frames.ts", tmp_path)
    run(
        f"{node_modules}/.bin/tsc --strict --noEmit --noUnusedLocals --module nodenext --target es2022 --types node "
        f"--typeRoots {node_modules}/@types --allowImportingTsExtensions use_frames.ts",
        tmp_path,
    )


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.__name__)
async def test_the_example(
    conversation: Callable[[Sequence[str], Path], Awaitable[None]], example: Path, tmp_path: Path
) -> None:
    """It does what its README says, as the name of the conversation tells."""
    await conversation(["node", str(example / "ask.js")], tmp_path)
