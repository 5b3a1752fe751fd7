"""docs/clients.md: types its commands into a shell, against a daemon with scripted backends.

`python -m tests.client_page` writes what comes back into the page; `tests/test_client_page.py` compares.
"""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from .fakes.answers import DONE, SILENCE, event, fails, plays
from .fakes.backend import Exchange, FakeBackend, Script, fake_backend
from .fakes.daemon import clean_environment, local_daemon, make_config

PAGE = Path(__file__).resolve().parents[1] / "docs" / "clients.md"
STEP = re.compile(r"```(sh|bash)\n(.*?)```\n\n```json\n(.*?)```", re.DOTALL)
PROGRAM = re.compile(r"```python\n(.*?)```", re.DOTALL)

_VARIES = {"pid": 4711, "uptime_ms": 81_000, "version": "0.2.0", "name": "1000"}
"""What differs from run to run in `status`, and what the page shows in its place."""


def _chunk(delta: dict[str, Any], reason: str | None = None) -> bytes:
    choice = {"index": 0, "delta": delta, "finish_reason": reason}
    return event({"id": "chatcmpl-1", "choices": [choice]})


def _usage(prompt: int, completion: int) -> bytes:
    counts = {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion}
    return event({"id": "chatcmpl-1", "choices": [], "usage": counts})


def _says(*deltas: str, reason: str = "stop", prompt: int = 14) -> Script:
    """An answer of text."""
    chunks = (_chunk({"content": delta}) for delta in deltas)
    return plays(*chunks, _chunk({}, reason), _usage(prompt, len(deltas)), DONE)


def _calls() -> Script:
    """An answer that is a call, in three pieces."""
    first = {"index": 0, "id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": ""}}
    rest = ({"index": 0, "function": {"arguments": piece}} for piece in ('{"city":', '"Paris"}'))
    chunks = (_chunk({"tool_calls": [call]}) for call in (first, *rest))
    return plays(*chunks, _chunk({}, "tool_calls"), _usage(61, 15), DONE)


def _thinks() -> Script:
    """Reasoning, then text."""
    thought = (_chunk({"reasoning_content": piece}) for piece in ("221 is 13", " times 17."))
    return plays(*thought, _chunk({"content": "No: 13 · 17."}), _chunk({}, "stop"), _usage(12, 24), DONE)


SCRIPTS: dict[str, Script] = {
    "first": _says("The", " capital", " of France", " is Paris", "."),
    "typo": fails(500),
    "a": _says("a"),
    "b": _says("b"),
    "long": plays(_chunk({"content": "Once"}), SILENCE),
    "busy": fails(429, code="rate_limit_exceeded", message="slow down", **{"Retry-After": "60"}),
    "turn-1": _calls(),
    "turn-2": _says("It rains,", " at 9 °C.", prompt=84),
    "think": _thinks(),
    "file": _says("It is", " empty."),
    "city": _says('{"name":"Paris",', '"people":2048472}'),
    "wrong": _says('{"people":', '"many"}'),
    "short": _says("Once", " upon", " a", " time", ",", reason="length"),
    "q1": _says("The", " capital", " of France", " is Paris", "."),
}
"""What the backend answers, by the request's id."""


async def _by_id(exchange: Exchange) -> None:
    await SCRIPTS[exchange.headers["x-request-id"]](exchange)


def _config(backend: FakeBackend) -> dict[str, Any]:
    thinker = {"default_model": "qwen3-8b", "openai_compatible": {"thinking": "reasoning_effort"}}
    return make_config({"openai": {"default_model": "gpt-5.4-mini"}, "qwen": thinker}, backend)


async def played(page: str) -> tuple[str, list[str]]:
    """The page with what comes back now, and what its program prints."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with fake_backend() as backend, local_daemon(folder, _config(backend)):
            for route in ("openai", "qwen"):
                backend.on(route, _by_id)
            steps = list(STEP.finditer(page))
            answers = [_shown(await _output(["bash", "-c", step[2]], folder)) for step in steps]
            programs = [(await _output([sys.executable, "-c", text], folder)) for text in PROGRAM.findall(page)]
    rest = iter(answers)
    return STEP.sub(lambda step: f"```{step[1]}\n{step[2]}```\n\n```json\n{next(rest)}```", page), programs


async def _output(command: list[str], folder: Path) -> str:
    environment = clean_environment({"LC_ALL": "C.UTF-8"})  # the order of `sort`
    process = await asyncio.create_subprocess_exec(*command, cwd=folder, env=environment, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    return output.decode()


def _shown(output: str) -> str:
    return "".join(_line(line) for line in output.splitlines())


def _line(line: str) -> str:
    """As the daemon wrote it, but for what varies."""
    frame = json.loads(line)
    if frame["type"] == "status":
        frame |= {key: _VARIES[key] for key in ("pid", "uptime_ms", "version")}
        frame["clients"][0]["name"] = _VARIES["name"]
        return json.dumps(frame, separators=(",", ":"), ensure_ascii=False) + "\n"
    return line + "\n"


if __name__ == "__main__":
    PAGE.write_text(asyncio.run(played(PAGE.read_text("utf-8")))[0], "utf-8")
