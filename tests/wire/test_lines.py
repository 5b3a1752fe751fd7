"""`LineCutter`: bytes in, lines out, whatever the reads."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.wire.lines import LineCutter


def lines_of(chunks: Iterable[bytes], limit: int = 100) -> list[bytes | None]:
    cutter = LineCutter(limit)
    return [line for chunk in chunks for line in cutter.feed(chunk)] + cutter.close()


def assert_lines(data: bytes, expected: list[bytes | None], limit: int = 100) -> None:
    """`data` gives the same lines whole, byte by byte, and cut in two anywhere."""
    assert lines_of([data], limit) == expected
    assert lines_of((data[i : i + 1] for i in range(len(data))), limit) == expected
    for cut in range(len(data)):
        assert lines_of([data[:cut], data[cut:]], limit) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"one\ntwo\n", [b"one", b"two"]),
        (b"one\r\ntwo\r\n", [b"one", b"two"]),
        (b"one\n\n\ntwo", [b"one", b"", b"", b"two"]),
        ("café\né\n".encode(), ["café".encode(), "é".encode()]),
        ("a\u2028b\u0085c\vd\n".encode(), ["a\u2028b\u0085c\vd".encode()]),
        (b"a\rb\n\r\n", [b"a\rb", b""]),
        (b"last\r", [b"last"]),
    ],
)
def test_lines_end_at_line_feeds_only(data: bytes, expected: list[bytes | None]) -> None:
    """A line ends at LF or CRLF, nowhere else, and a last one without an end is a line."""
    assert_lines(data, expected)


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_line_of_exactly_the_limit_is_taken(end: bytes) -> None:
    """The limit counts a line without its end."""
    assert_lines(b"12345" + end + b"ok" + end, [b"12345", b"ok"], limit=5)
    assert_lines(b"123456" + end + b"ok" + end, [None, b"ok"], limit=5)


def test_a_line_without_end_that_is_too_long_comes_out_as_none() -> None:
    """Also the last line of an input is checked against the limit."""
    assert_lines(b"ok\n1234567890", [b"ok", None], limit=5)
    assert_lines(b"123456", [None], limit=5)


def test_a_runaway_line_is_not_kept() -> None:
    """What is discarded takes no memory, however much of it comes, and the next line is taken."""
    cutter = LineCutter(10)
    seen: list[bytes | None] = []
    for _ in range(100):
        seen += cutter.feed(b"x" * 1000)
        assert len(cutter._partial) <= 11
    within = LineCutter(10)
    assert within.feed(b"x" * 11) == []
    assert within.feed(b"x") == [None]
    assert seen == [None]

    assert cutter.feed(b"x\nnext\n") == [b"next"]


@given(st.binary(max_size=60).map(lambda data: data.replace(b"\xff", b"\n").replace(b"\xfe", b"\r\n")), st.data())
def test_any_chunks_give_the_same_lines(data: bytes, draw: st.DataObject) -> None:
    """Where the input is split makes no difference, limit or no limit."""
    limit = draw.draw(st.integers(1, 20))
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(data)))))
    chunks = [data[a:b] for a, b in pairwise([0, *cuts, len(data)])]

    assert lines_of([data], limit) == lines_of(chunks, limit)
