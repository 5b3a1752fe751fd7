"""`SseParser`: server-sent events by the HTML standard, whatever the reads."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.http.sse import SseParser
from beluna_gateway.errors import GatewayError


def events_of(*chunks: bytes, limit: int = 1000) -> list[bytes]:
    parser = SseParser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.close()


def assert_events(data: bytes, expected: list[bytes]) -> None:
    """`data` gives the same events whole, byte by byte, and cut in two anywhere."""
    assert events_of(data) == expected
    assert events_of(*(data[i : i + 1] for i in range(len(data)))) == expected
    for cut in range(len(data)):
        assert events_of(data[:cut], data[cut:]) == expected


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", []),
        (b"data: one\n\ndata: two\n\n", [b"one", b"two"]),
        (b"data:one\n\n", [b"one"]),
        (b"data:  two spaces\n\n", [b" two spaces"]),
        (b"data: one\r\n\r\ndata: two\r\n\r\n", [b"one", b"two"]),
        (b"data: one\r\rdata: two\r\r", [b"one", b"two"]),
        (b"data: a\rdata: b\r\n\n", [b"a\nb"]),
        (b"data: a\ndata\ndata: c\n\n", [b"a\n\nc"]),
        (b": comment\n\nevent: ping\n\nid: 1\nretry: 5\n\n", []),
        (b"event: x\ndata: one\nid: 3\n\n", [b"one"]),
        (b": OPENROUTER PROCESSING\n\ndata: one\n: in between\n\n", [b"one"]),
        (b"\n\n\ndata: one\n\n\n\n", [b"one"]),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        ("data: é\u2028\u0085\v\n\n".encode(), ["é\u2028\u0085\v".encode()]),
        (b"data: [DONE]\n\n", [b"[DONE]"]),
        (b"data: \n\ndata:\n\ndata\n\ndata: one\n\n", [b"one"]),
        (b"datas: no\ndat: no\nother\n\n", []),
        (b'data: {"a": "b: c"}\n\n', [b'{"a": "b: c"}']),
    ],
)
def test_events_by_the_standard(data: bytes, expected: list[bytes]) -> None:
    """Each rule of section 9.2.6 that can happen here, split anywhere."""
    assert_events(data, expected)


@pytest.mark.parametrize("data", [b"data: one", b"data: one\n", b"data: one\r\n", b"data: one\nda"])
def test_an_event_without_its_blank_line_is_discarded(data: bytes) -> None:
    """An answer that was cut inside an event does not give that event."""
    assert_events(data, [])


@pytest.mark.parametrize(
    "data",
    [
        b"data: " + b"x" * 200 + b"\n\n",
        b"data: " + b"x" * 200,
        b"data: 0123456789\n" * 20,
        b": " + b"x" * 200,
    ],
)
def test_an_event_above_the_limit_is_a_protocol_violation(data: bytes) -> None:
    """One event larger than max_event_bytes fails the answer before it is kept; lines without end do, too."""
    for chunks in ([data], [data[i : i + 1] for i in range(len(data))]):
        with pytest.raises(GatewayError, match="max_event_bytes") as failure:
            events_of(*chunks, limit=100)

        assert failure.value.kind == "protocol_violation"


def test_many_small_events_in_one_read_are_no_large_one() -> None:
    """The limit is an event's, not a read's."""
    assert events_of(b"data: 0123456789\n\n" * 50, limit=20) == [b"0123456789"] * 50
    assert events_of(b"event: x\r\ndata: 0123456789\r\n\r\n" * 50, limit=30) == [b"0123456789"] * 50


_PIECES = st.sampled_from(
    [b"data: ", b"data:", b"data", b": c", b"event: x", b"a", "é".encode(), b" ", b"\n", b"\n\n", b"\r\n", b"\r", b"{}"]
)


@given(st.lists(_PIECES, max_size=25).map(b"".join), st.data())
def test_any_chunks_give_the_same_events(data: bytes, draw: st.DataObject) -> None:
    """The fast way for whole events and the slow way byte by byte agree on any input, and on any split of it."""
    cuts = sorted(draw.draw(st.sets(st.integers(0, len(data)))))
    chunks = [data[a:b] for a, b in pairwise([0, *cuts, len(data)])]

    slow = events_of(*(data[i : i + 1] for i in range(len(data))))
    assert events_of(data) == slow
    assert events_of(*chunks) == slow


@given(st.lists(st.binary(max_size=40), max_size=10))
def test_any_bytes_are_events_or_a_gateway_error(chunks: list[bytes]) -> None:
    """Garbage gives events or a `protocol_violation`, nothing else."""
    try:
        events = events_of(*chunks, limit=30)
    except GatewayError:
        return

    assert all(event and b"\r" not in event for event in events)
