"""The models that stand in a field's type."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeVar, get_args

M = TypeVar("M")


def models_in(annotation: Any, base: type[M]) -> Iterator[type[M]]:
    """The classes derived from `base` in a type: itself, and those in its unions, lists and objects."""
    if isinstance(annotation, type) and issubclass(annotation, base):
        yield annotation
    for argument in get_args(annotation):
        yield from models_in(argument, base)
