"""Questions to the daemon, and its answers, each frame checked against the protocol's schema."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema

from beluna_gateway.wire.frame_schemas import server_frame_schema

from ..fakes.client import Frame, connected

_FRAME = jsonschema.Draft202012Validator(server_frame_schema())

CITY: Frame = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Frame = {"name": "get_weather", "description": "Current weather of a city", "input_schema": CITY}
ZONE: Frame = {"type": "object", "properties": {"timezone": {"type": "string"}}, "required": ["timezone"]}
TIME: Frame = {"name": "get_time", "description": "The time in a time zone", "input_schema": ZONE}


def says(role: str, text: str, **more: Any) -> Frame:
    """A message of one text part."""
    return {"role": role, "parts": [{"text": {"text": text}}], **more}


@dataclass(frozen=True)
class Answer:
    """All frames of one request."""

    frames: list[Frame]

    def of(self, kind: str) -> list[Frame]:
        return [frame for frame in self.frames if frame["type"] == kind]

    def _only(self, kind: str) -> Frame:
        found = self.of(kind)
        assert len(found) == 1, self.frames
        return found[0]

    @property
    def text(self) -> str:
        return "".join(frame["delta"] for frame in self.of("output_text_delta"))

    @property
    def json(self) -> Any:
        """The text as JSON."""
        return json.loads(self.text)

    @property
    def reasoning(self) -> str:
        return "".join(frame["delta"] for frame in self.of("reasoning_delta"))

    @property
    def calls(self) -> list[Frame]:
        """The calls that became ready."""
        return [frame["call"] for frame in self.of("tool_call_ready")]

    @property
    def called(self) -> list[tuple[str, Any]]:
        """The names and arguments of the calls that became ready."""
        return [(call["name"], json.loads(call["arguments_json"])) for call in self.calls]

    @property
    def usage(self) -> Frame:
        usage: Frame = self._only("usage")["usage"]
        return usage

    @property
    def completed(self) -> Frame:
        return self._only("completed")

    @property
    def finish_reason(self) -> Any:
        return self.completed["finish_reason"]

    @property
    def error(self) -> Frame:
        error: Frame = self._only("failed")["error"]
        return error


async def ask(socket: Path, backend_id: str, *messages: Frame | str, **fields: Any) -> Answer:
    """One request; a string is a user's message. The order of the frames is checked, too."""
    turns = [says("user", message) if isinstance(message, str) else message for message in messages]
    async with connected(socket) as client:
        await client.infer(backend_id, messages=turns, **fields)
        frames = await client.answer(patience=100)
    for frame in frames:
        _FRAME.validate(frame)
    types = [frame["type"] for frame in frames]
    assert types[0] == "started" or types == ["failed"], types
    assert types[-1] in ("completed", "failed"), types
    for call in Answer(frames).calls:
        deltas = [frame for frame in frames if frame["type"] == "tool_call_delta" and frame["call_id"] == call["id"]]
        assert call["arguments_json"] == ("".join(delta["arguments_delta"] for delta in deltas) or "{}")
    return Answer(frames)
