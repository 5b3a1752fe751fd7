"""What a program passes in place of JSON (`provider_options`, schemas, `json` parts), judged as strictly as a line.

A line has been parsed, so that nothing else than JSON is in it. A program's own values may be anything: an infinity, a
date, an object that holds itself.
"""

from __future__ import annotations

from typing import Any

from .frames import Shape
from .json_pieces import LARGEST_FLOAT, MAX_DEPTH


def mistake(value: Any) -> str | None:
    """Why no line can say `value`, a frame or JSON of Python's types, with the path of it; None where one can.

    A tuple is taken for an array.
    """
    level: list[tuple[str, Any]] = [("", value)]
    for _ in range(MAX_DEPTH + 1):
        below: list[tuple[str, Any]] = []
        for path, item in level:
            if isinstance(item, Shape):
                fields = type(item).model_fields
                below += [(_member(path, fields[name].alias or name), inner) for name, inner in item]
            elif isinstance(item, dict):
                if (key := next((key for key in item if not isinstance(key, str)), None)) is not None:
                    return f"{path}: found a key that is {_kind(key)}, expected a string"
                below += [(_member(path, key), inner) for key, inner in item.items()]
            elif isinstance(item, list | tuple):
                below += [(f"{path}[{position}]", inner) for position, inner in enumerate(item)]
            elif (why := _scalar_mistake(item)) is not None:
                return f"{path}: {why}"
        if not below:
            return None
        level = below
    return f"{level[0][0][:_PATH_CHARACTERS]}…: nested deeper than {MAX_DEPTH}, or in itself"


_PATH_CHARACTERS = 100


def _member(path: str, key: str) -> str:
    return f"{path}.{key}" if path else key


def _scalar_mistake(value: Any) -> str | None:
    if isinstance(value, str):
        try:
            value.isascii() or value.encode()
        except UnicodeEncodeError:
            return "found a lone surrogate, which no UTF-8 text has"
        return None
    if value is None or isinstance(value, bool):
        return None
    if not isinstance(value, int | float):
        return f"found {_kind(value)}, expected an object, an array, a string, a number, true, false or null"
    if isinstance(value, float) and not -LARGEST_FLOAT <= value <= LARGEST_FLOAT:
        return f"found {value}, expected a finite number"
    return None if -LARGEST_FLOAT <= value <= LARGEST_FLOAT else "found a number that is too large for a 64-bit float"


def _kind(value: Any) -> str:
    return f"a Python value of the type {type(value).__name__!r}"
