"""docs/clients.md is true: its commands give the answers that it shows."""

from __future__ import annotations

import json
import shutil

import pytest
from pydantic import TypeAdapter

from beluna_gateway.wire.server_frames import ServerFrame

from . import client_page

PAGE = client_page.PAGE.read_text("utf-8")


@pytest.mark.skipif(shutil.which("socat") is None, reason="NOT CHECKED: socat is missing (Debian: apt install socat)")
async def test_each_command_gives_what_is_shown() -> None:
    """To the letter, typed one after the other; and the client in thirty lines prints its answer."""
    page, programs = await client_page.played(PAGE)

    assert page == PAGE
    assert programs == ["The capital of France is Paris.\n"]


def test_no_command_is_left_out() -> None:
    """Each command has an answer, each answer is of valid frames, and the last one of each request is there."""
    steps = list(client_page.STEP.finditer(PAGE))
    adapter = TypeAdapter[ServerFrame](ServerFrame)

    assert len(steps) == PAGE.count("```sh\n") + PAGE.count("```bash\n") == PAGE.count("```json\n")
    for step in steps:
        frames = [json.loads(line) for line in step[3].splitlines()]
        for frame in frames:
            adapter.validate_python(frame)
        ends = [frame.get("request_id") for frame in frames if frame["type"] in ("completed", "failed", "rejected")]
        assert sorted(ends) == sorted({frame["request_id"] for frame in frames if frame["type"] != "status"})
