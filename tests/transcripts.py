"""Plays a file of `protocol/transcripts/` against the real daemon: a process of its own, with a scripted backend.

What the lines of such a file mean is said in protocol/README.md, "Transcripts".
"""

from __future__ import annotations

import json
from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from .fakes.answers import CUT, DONE, SILENCE, Fault, answers, event, plays
from .fakes.backend import FakeBackend, Script, fake_backend
from .fakes.client import Client, connected
from .fakes.daemon import DaemonProcess, LocalDaemon, daemon_process, local_daemon

MARKS = "><@$!#"


@dataclass
class Transcript:
    """One conversation."""

    name: str
    steps: list[tuple[str, str]]
    """Mark and rest of each line, in order; comments are left out."""
    varies: set[str] = field(default_factory=set)
    """Keys whose values differ from run to run."""

    @classmethod
    def read(cls, path: Path) -> Transcript:
        """The conversation in a file."""
        transcript = cls(path.stem, [])
        for line in path.read_bytes().decode("utf-8").split("\n"):
            mark, text = line[:1], line[2:]
            if mark == "#" and text.startswith("varies: "):
                transcript.varies = set(text.removeprefix("varies: ").split())
            elif line and mark != "#":
                assert mark in MARKS, f"{path.name}: {line}"
                assert line[1] == " ", f"{path.name}: {line}"
                transcript.steps.append((mark, text))
        return transcript

    def lines(self, mark: str) -> list[str]:
        """What stands on the lines with `mark`."""
        return [text for own, text in self.steps if own == mark]


async def play(transcript: Transcript, folder: Path) -> None:
    """Fails where the daemon says anything else than the transcript."""
    async with fake_backend() as backend:
        for name, scripts in _scripts(transcript.lines("@")).items():
            backend.on(name, *scripts)
        config = _config(backend, map(json.loads, transcript.lines("$")))
        # In this process, which is quicker, unless the conversation is about the daemon's own end.
        run = daemon_process if any("daemon ends" in text for text in transcript.lines("!")) else local_daemon
        async with run(folder, config) as daemon, connected(daemon.socket_path) as client:
            expected = _Ear(client, transcript.varies)
            for mark, text in transcript.steps:
                if mark == ">":
                    await client.send_bytes(text.encode() + b"\n")
                elif mark == "<":
                    await expected.hear(json.loads(text))
                elif mark == "!":
                    await _happens(text, client, backend, daemon)
            if "closed" not in transcript.lines("!"):
                client.half_close()
                await client.expect_end()
            assert not any(expected.unheard.values())


class _Ear:
    """Hears the frames of each request in order. Between requests the order is free."""

    def __init__(self, client: Client, varies: set[str]) -> None:
        self._client = client
        self._varies = varies
        self.unheard: defaultdict[str | None, deque[Any]] = defaultdict(deque)

    async def hear(self, expected: Any) -> None:
        request_id = expected.get("request_id")
        while not self.unheard[request_id]:
            frame = await self._client.frame()
            self.unheard[frame.get("request_id")].append(frame)
        heard = self.unheard[request_id].popleft()

        assert self._masked(expected) == self._masked(heard)

    def _masked(self, value: Any) -> Any:
        if isinstance(value, dict):
            return {key: "…" if key in self._varies else self._masked(item) for key, item in value.items()}
        return [self._masked(item) for item in value] if isinstance(value, list) else value


async def _happens(what: str, client: Client, backend: FakeBackend, daemon: DaemonProcess | LocalDaemon) -> None:
    if what == "half-close":
        client.half_close()
    elif what == "closed":
        await client.expect_end()
    elif what == "the backend's connection is closed":
        await (await backend.request("main")).closed()
    elif what == "the daemon ends with status 0":
        assert isinstance(daemon, DaemonProcess)
        assert await daemon.ended() == 0
    else:
        raise AssertionError(f"nobody knows what {what!r} means")


def _scripts(lines: Iterable[str]) -> dict[str, list[Script]]:
    scripts: defaultdict[str, list[Script]] = defaultdict(list)
    for line in lines:
        answer = json.loads(line)
        scripts[answer.get("backend", "main")].append(_script(answer))
    return scripts


def _script(answer: dict[str, Any]) -> Script:
    status = answer.get("status", 200)
    if "body" in answer:
        return answers(status, answer["body"], answer.get("headers"))
    events = [DONE if item == "[DONE]" else event(item) for item in answer["events"]]
    ends: dict[str, tuple[Fault, ...]] = {"end": (), "silence": (SILENCE,), "cut": (CUT,)}
    return plays(*events, *ends[answer.get("then", "end")], status=status, headers=answer.get("headers"))


def _config(backend: FakeBackend, changes: Iterable[Any]) -> Any:
    config: Any = {
        "socket_path": "beluna.sock",
        "ai_gateway": {
            "default_backend": "main",
            "backends": [
                {
                    "id": name,
                    "dialect": "openai_compatible",
                    "endpoint": backend.url(name),
                    "credential": {"type": "none"},
                    "default_model": "small",
                }
                for name in ("main", "other")
            ],
            "reliability": {"backoff_base_ms": 1},
        },
    }
    for change in changes:
        config = _laid_over(config, change)
    return config


def _laid_over(base: Any, change: Any) -> Any:
    """Objects by key, arrays by position."""
    if isinstance(base, dict) and isinstance(change, dict):
        return base | {key: _laid_over(base.get(key), value) for key, value in change.items()}
    if isinstance(base, list) and isinstance(change, list):
        return [_laid_over(*pair) for pair in zip(base, change, strict=False)] + base[len(change) :]
    return change
