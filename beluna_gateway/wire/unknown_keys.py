"""Takes most unknown keys out of a large frame before it is validated.

pydantic makes an object of a kilobyte for each unknown key. So that a line with a million of them costs no more than a
right one, each object of a frame keeps only so many that the rejection can name `MOST_MISTAKES` and say that there are
more. A small line has too few to matter, and is validated as it is.
"""

from __future__ import annotations

from functools import cache
from itertools import islice
from typing import Any

from ..schemas.nested_models import models_in
from .frames import MOST_MISTAKES, Shape

_Shapes = tuple[type[Shape], ...]
"""The shapes that may stand at one place."""


def take_out_unknown_keys(frame: dict[str, Any], shape: type[Shape]) -> list[Any]:
    """Removes unknown keys from `frame`, which is to be a `shape`, and from the objects in it that have a shape, except
    the first `MOST_MISTAKES` + 1 of each object. Objects of any form (schemas, options, states) stay as they are.

    Returns:
        The values that were removed: freeing them may take long.
    """
    taken: list[Any] = []
    waiting: list[tuple[Any, _Shapes]] = [(frame, (shape,))]
    while waiting:
        value, shapes = waiting.pop()
        if isinstance(value, list):
            waiting.extend((item, shapes) for item in value)
        elif isinstance(value, dict):
            known, inside = _known(shapes)
            if len(value) > MOST_MISTAKES:
                unknown = (key for key in value if key not in known)
                taken += map(value.pop, [*islice(unknown, MOST_MISTAKES + 1, None)])
            waiting.extend((value[key], inner) for key, inner in inside.items() if key in value)
    return taken


@cache
def _known(shapes: _Shapes) -> tuple[frozenset[str], dict[str, _Shapes]]:
    """The keys of some shapes, and the shapes of the values under those of them that have any."""
    fields = [(field.alias or name, field) for shape in shapes for name, field in shape.model_fields.items()]
    inside = {key: tuple(models_in(field.annotation, Shape)) for key, field in fields}
    return frozenset(key for key, _ in fields), {key: inner for key, inner in inside.items() if inner}
