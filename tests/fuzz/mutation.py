"""Changes inputs of the fuzz targets at random: as bytes, and as the JSON that stands in their lines.

A mutator of bytes alone hardly ever gets past a JSON parser; this one changes values, keys and their number.
"""

from __future__ import annotations

import json
import random
from typing import Any

PREFIXES = (b"data: ", b"data:", b"")
ODD_BYTES = (
    b"\n",
    b"\r",
    b"\r\n",
    b"\n\n",
    b"\x00",
    b"\xff",
    b"\xef\xbb\xbf",
    b":",
    b"data:",
    b"[",
    b'"',
    b"HTTP/1.1 100 \r\n\r\n",
    b"\r\nContent-Length: 3",
    b"\r\nTransfer-Encoding: chunked",
    b"data: [DONE]\n\n",
    b"e999",
)
ODD_VALUES: tuple[Any, ...] = (
    None,
    True,
    False,
    0,
    -1,
    0.5,
    2**53,
    2**64,
    -(2**63),
    1e308,
    float("inf"),
    10**400,
    "",
    " ",
    "null",
    "None",
    "stop",
    "error",
    "[DONE]",
    "\ud800",
    "\x00\x1b[31m",
    "é" * 30,
    "9" * 5000,
    "{",
    '{"a":1}',
    [],
    {},
    [[]],
    [None],
    {"": None},
)


class Mutator:
    """Changes inputs.

    Args:
        seeds: Where the keys and values come from that are put into others.
    """

    def __init__(self, seeds: list[bytes]) -> None:
        self._seeds = seeds
        texts = [text for seed in seeds for text in (seed, *seed.split(b"\n"))]
        values = [value for text in texts if (value := _json_of(text)[1]) is not None]
        self._nodes = [node for value in values for node in _nodes(value)] or [None]
        self._keys = sorted({key for node in self._nodes if isinstance(node, dict) for key in node}) or ["a"]

    def mutate(self, data: bytes, dice: random.Random) -> bytes:
        """`data` with one to three changes."""
        for _ in range(dice.randint(1, 3)):
            data = self._json(data, dice) if dice.random() < 0.7 else self._bytes(data, dice)
        return data

    def _bytes(self, data: bytes, dice: random.Random) -> bytes:
        start, end = sorted(dice.randint(0, len(data)) for _ in range(2))
        how = dice.randint(0, 5)
        if how == 0:
            return data[:start]
        if how == 1:
            return data[:start] + data[end:]
        if how == 2:
            return data[:end] + data[start:end] * dice.choice([1, 1, 2, 50]) + data[end:]
        if how == 3:
            return data[:start] + bytes([dice.randrange(256)]) + data[start + 1 :]
        if how == 4:
            return data[:start] + dice.choice(ODD_BYTES) + data[start:]
        return data[:start] + dice.choice(self._seeds)[dice.randint(0, 200) :]

    def _json(self, data: bytes, dice: random.Random) -> bytes:
        """The JSON of all or of one line changed at one place; bytes changed where there is none."""
        prefix, value = _json_of(data)
        if value is not None:
            return prefix + _dumped(self._changed(value, dice))
        lines = data.split(b"\n")
        for number in dice.sample(range(len(lines)), min(len(lines), 8)):
            prefix, value = _json_of(lines[number])
            if value is None:
                continue
            how = dice.randint(0, 9)
            if how == 0:
                lines.insert(number, lines[number])
            elif how == 1:
                del lines[number]
            elif how == 2:
                lines[number] = prefix + _dumped(dice.choice(self._nodes))
            else:
                lines[number] = prefix + _dumped(self._changed(value, dice))
            return b"\n".join(lines)
        return self._bytes(data, dice)

    def _changed(self, value: Any, dice: random.Random) -> Any:
        if value and dice.random() < 0.8:
            if isinstance(value, dict):
                return self._changed_object(dict(value), dice)
            if isinstance(value, list):
                return self._changed_array(list(value), dice)
        return dice.choice(ODD_VALUES) if dice.random() < 0.7 else dice.choice(self._nodes)

    def _changed_object(self, value: dict[str, Any], dice: random.Random) -> dict[str, Any]:
        key = dice.choice(list(value))
        how = dice.randint(0, 9)
        if how == 0:
            del value[key]
        elif how == 1:
            value[dice.choice(self._keys)] = value.pop(key)
        elif how == 2:
            value[dice.choice(self._keys)] = dice.choice(self._nodes)
        else:
            value[key] = self._changed(value[key], dice)
        return value

    def _changed_array(self, value: list[Any], dice: random.Random) -> list[Any]:
        place = dice.randrange(len(value))
        how = dice.randint(0, 9)
        if how == 0:
            del value[place]
        elif how == 1:
            value[place:place] = [value[place]] * dice.choice([1, 2, 100])
        elif how == 2:
            value.append(dice.choice(self._nodes))
        else:
            value[place] = self._changed(value[place], dice)
        return value


def _json_of(line: bytes) -> tuple[bytes, Any]:
    """What stands before the JSON of a line, and its value: an object or array, else None."""
    for prefix in PREFIXES:
        if line.startswith(prefix):
            try:
                value = json.loads(line[len(prefix) :])
            except (ValueError, RecursionError):
                return prefix, None
            return prefix, value if isinstance(value, dict | list) else None
    raise AssertionError("every line begins with nothing")


def _dumped(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False)
    return text.replace("Infinity", "1e999").encode("utf-8", "surrogatepass")


def _nodes(value: Any) -> list[Any]:
    """`value` and all that is in it."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return [value, *(node for child in inside for node in _nodes(child))]
