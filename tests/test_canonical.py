"""What the canonical types have in common."""

from __future__ import annotations

from dataclasses import field

from beluna_gateway.canonical import immutable


@immutable
class Point:
    x: int
    y: tuple[int, ...] = ()
    hidden: str = field(default="s3cret", repr=False)


@immutable
class Other:
    x: int
    y: tuple[int, ...] = ()
    hidden: str = field(default="s3cret", repr=False)


def test_an_immutable_value_is_like_a_frozen_dataclass():
    """It has the same text, is equal to what has the same class and values, and can be a key."""
    assert repr(Point(1, (2,))) == "Point(x=1, y=(2,))"
    assert Point(1) == Point(1)
    assert Point(1) != Point(1, (2,))
    assert Point(1) != Point(1, hidden="")
    other: object = Other(1)
    assert Point(1) != other
    assert {Point(1): "found"}[Point(1)] == "found"
