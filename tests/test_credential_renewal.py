"""A 401 and what comes after it: a command's newer secret is tried once, everything else is the answer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from beluna_gateway.canonical import OutputTextDelta, Started
from beluna_gateway.errors import GatewayError

from .fakes.adapter import END, stage, text

STARTED = Started("b", "m")
REFUSED = GatewayError("authentication", "expired", provider_http_status=401)


def counting(folder: Path) -> dict[str, Any]:
    """A command that prints another secret each time."""
    return {"type": "command", "command": ["sh", "-c", f"echo x >> {folder}/n; echo sk-$(wc -l < {folder}/n)"]}


async def test_a_newer_secret_is_tried_once(tmp_path: Path):
    """The command is asked once more after a 401, and the client sees one answer."""
    async with stage([REFUSED], text("ok"), credential=counting(tmp_path)) as played:
        assert await played.ask() == [STARTED, OutputTextDelta("ok"), END]

        assert [credential.secret for _, _, credential in played.adapter.prepared] == ["sk-1", "sk-2"]
        assert played.records[0].attempts == 2


async def test_a_second_401_is_the_answer(tmp_path: Path):
    """Where the newer secret is refused, too, the request fails; the next request asks the command anew."""
    async with stage([REFUSED], credential=counting(tmp_path)) as played:
        before, error = await played.failure()

        assert (before, error.kind, played.adapter.begun) == ([STARTED], "authentication", 2)


async def test_the_same_secret_is_not_sent_again(tmp_path: Path):
    """A command that has nothing newer does not make the provider refuse it twice."""
    async with stage([REFUSED], credential={"type": "command", "command": ["echo", "sk-1"]}) as played:
        before, error = await played.failure()

        assert (before, error.kind, played.adapter.begun) == ([STARTED], "authentication", 1)


async def test_a_401_of_another_credential_is_the_answer():
    """A variable or a file is read for each request already."""
    async with stage([REFUSED], credential={"type": "inline_token", "token": "sk-1"}) as played:
        before, error = await played.failure()

        assert (before, error.kind, played.adapter.begun) == ([STARTED], "authentication", 1)


async def test_nothing_is_sent_again_after_output(tmp_path: Path):
    """A refusal in the middle of an answer ends it."""
    async with stage([OutputTextDelta("a"), REFUSED], credential=counting(tmp_path)) as played:
        before, _ = await played.failure()

        assert (before, played.adapter.begun) == ([STARTED, OutputTextDelta("a")], 1)


async def test_a_failing_command_fails_the_request_only():
    """The backend is not asked, and its circuit breaker counts nothing."""
    async with stage(credential={"type": "command", "command": ["false"]}) as played:
        before, error = await played.failure()

        assert (before, error.kind, played.adapter.begun) == ([], "authentication", 0)
