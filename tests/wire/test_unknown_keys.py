"""`take_out_unknown_keys`: a large frame keeps what is known of it, and few keys that are not."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import Any

import pytest

from beluna_gateway.wire.frames import CLIENT_FRAMES, MOST_MISTAKES, Infer
from beluna_gateway.wire.json_pieces import in_pieces
from beluna_gateway.wire.ndjson import RejectedLine, decode
from beluna_gateway.wire.unknown_keys import take_out_unknown_keys

MANY = {f"unknown-{n}": n for n in range(100)}
SCHEMA = {"type": "object", "properties": {f"p{n}": {"type": "string"} for n in range(100)}, **MANY}
FRAME: dict[str, Any] = {
    "type": "infer",
    "messages": [
        {"role": "user", "parts": [{"text": {"text": "a"}}, {"json": {"value": MANY}}]},
        {"role": "user", "parts": [{"file": {"mime_type": "a/b", "data": ""}}, {"image_url": {"url": "http://a"}}]},
        {
            "role": "assistant",
            "parts": [],
            "tool_calls": [{"id": "c", "name": "n", "arguments_json": "{}"}],
            "provider_state": MANY,
        },
    ],
    "tools": [{"name": "t", "input_schema": SCHEMA}],
    "tool_choice": {"specific": {"name": "t"}},
    "output_mode": {"json_schema": {"name": "s", "schema": SCHEMA}},
    "metadata": dict.fromkeys(MANY, "x"),
    "limits": {"max_output_tokens": 1},
    "sampling": {"seed": 1},
    "cache": {"key": "k"},
    "route": {"kind": "alias", "capability": "chat", "alias": "a"},
    "reasoning": {"effort": "low"},
    "provider_options": MANY,
}

SHAPED = [
    [],
    ["messages", 0],
    ["messages", 0, "parts", 0],
    ["messages", 0, "parts", 0, "text"],
    ["messages", 0, "parts", 1, "json"],
    ["messages", 1, "parts", 0, "file"],
    ["messages", 1, "parts", 1, "image_url"],
    ["messages", 2, "tool_calls", 0],
    ["tools", 0],
    ["tool_choice"],
    ["tool_choice", "specific"],
    ["output_mode"],
    ["output_mode", "json_schema"],
    ["limits"],
    ["sampling"],
    ["cache"],
    ["route"],
    ["reasoning"],
]
"""Where objects stand in `FRAME` whose keys are known."""


def at(value: Any, path: list[Any]) -> Any:
    for step in path:
        value = value[step]
    return value


def test_a_right_frame_stays_as_it_is() -> None:
    """Objects of any form, too, however many keys they have."""
    frame = deepcopy(FRAME)

    assert take_out_unknown_keys(frame, Infer) == []
    assert frame == FRAME


@pytest.mark.parametrize("path", SHAPED, ids=lambda path: ".".join(map(str, path)) or "frame")
def test_unknown_keys_are_taken_out_wherever_they_stand(path: list[Any]) -> None:
    """The first ones stay, to be told; so do all that are known."""
    frame = deepcopy(FRAME)
    place = at(frame, path)
    before = dict(place)
    place |= {f"other-{n}": [n] for n in range(1000)}

    taken = take_out_unknown_keys(frame, Infer)

    assert place == before | {f"other-{n}": [n] for n in range(MOST_MISTAKES + 1)}
    assert taken == [[n] for n in range(MOST_MISTAKES + 1, 1000)]


@pytest.mark.parametrize("kind", CLIENT_FRAMES)
@pytest.mark.parametrize("number", [1, MOST_MISTAKES, MOST_MISTAKES + 1, 1000])
def test_a_large_frame_is_refused_as_a_small_one(kind: str, number: int) -> None:
    """In the same words, whether in pieces or in one go."""
    line = json.dumps({"type": kind, **{f"other-{n}": n for n in range(number)}}).encode()
    with pytest.raises(RejectedLine) as small:
        decode(line)
    with pytest.raises(RejectedLine) as large, in_pieces(lambda: None):
        decode(line)

    assert str(large.value) == str(small.value)


@pytest.mark.parametrize("value", [None, 5, "x", [[5, None, {"role": []}], 7], {"messages": [5]}])
def test_what_has_another_type_is_passed_over(value: Any) -> None:
    """The validation tells it."""
    frame = {**deepcopy(FRAME), "messages": value, "tools": value, "limits": value}
    before = deepcopy(frame)

    assert take_out_unknown_keys(frame, Infer) == []
    assert frame == before
