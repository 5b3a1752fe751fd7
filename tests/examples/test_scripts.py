"""The example clients that need no compiler: Python, and bash with jq and socat."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from .conversations import CONVERSATIONS

EXAMPLES = Path(__file__).parents[2] / "protocol" / "examples"


@pytest.mark.parametrize("conversation", CONVERSATIONS, ids=lambda conversation: conversation.__name__)
@pytest.mark.parametrize("language", ["python", "bash"])
async def test_the_example(
    language: str, conversation: Callable[[Sequence[str], Path], Awaitable[None]], tmp_path: Path
) -> None:
    """It does what its README says, as the name of the conversation tells."""
    if language == "python":
        command = [sys.executable, str(EXAMPLES / "python" / "ask.py")]
    else:
        missing = [program for program in ("bash", "jq", "socat", "setsid") if shutil.which(program) is None]
        if missing:
            pytest.skip(f"the example in bash needs {' and '.join(missing)}, which this machine does not have")
        command = ["bash", str(EXAMPLES / "bash" / "ask.sh")]

    await conversation(command, tmp_path)
