"""The parsers of streams, read by read: what one read leaves behind is there for the next one, and only then."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters.base import MAX_JSON_VALUES
from beluna_gateway.adapters.http.ndjson import NdjsonParser
from beluna_gateway.adapters.http.payloads import DONE_MARK, BrokenStream
from beluna_gateway.adapters.http.sse import SseParser
from beluna_gateway.errors import GatewayError


def sse(*chunks: bytes, limit: int = 1000) -> list[bytes]:
    parser = SseParser(limit)
    return [event for chunk in chunks for event in parser.feed(chunk)] + parser.close()


def ndjson(*chunks: bytes, limit: int = 1000) -> list[bytes]:
    parser = NdjsonParser(limit)
    return [payload for chunk in chunks for payload in parser.feed(chunk)] + parser.close()


def byte_by_byte(data: bytes) -> list[bytes]:
    return [data[i : i + 1] for i in range(len(data))]


# --- one read with several events ---


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'data: {"a": 1}\n\ndata: {"b": 2}\n\n', [b'{"a": 1}', b'{"b": 2}']),
        (b"data: {}\n\ndata: [DONE]\n\n", [b"{}", DONE_MARK]),
        (b"data: {}\n\ndata: : keepalive\n\n", [b"{}"]),
        (b'data: {}\n\ndata: {"a":1}\n\ndata: [DONE]\n\n', [b"{}", b'{"a":1}', DONE_MARK]),
        (b"data: {}\n\ndata: [DONE]\n\ndata: {}\n\n", [b"{}", DONE_MARK, b"{}"]),
        (b"data: {}\n\ndata: : keepalive\n\ndata: [DONE]\n\n", [b"{}", DONE_MARK]),
        (b'data: {"a":\ndata: 1}\n\n', [b'{"a":\n1}']),
        (b"data: {}\rdata: x\n\n", [b"{}\nx"]),
        (b"data: {}\r\rdata: {}\n\n", [b"{}", b"{}"]),
        (b"data: a\r\ndata: b\r\n\r\n", [b"a\nb"]),
    ],
)
def test_events_that_begin_with_an_object_are_the_same_in_any_reads(data: bytes, expected: list[bytes]) -> None:
    """One read, two, or a read for each byte; and `[DONE]` after an object is the mark."""
    in_two = [sse(data[:cut], data[cut:]) for cut in range(len(data))]
    for events in (sse(data), sse(*byte_by_byte(data)), *in_two):
        assert events == expected
        assert [event is DONE_MARK for event in events] == [event == DONE_MARK for event in expected]


# --- a read that begins with an event, after one that ended in the middle of something ---


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ([b"data: {}\n\n: c"], [], [b"{}"]),
        ([b"data: one\n"], [], [b'one\n{"m":1}']),
        ([b"event: error\n"], [b"data: x\n\n"], [b'{"error":{"m":1}}', b"x"]),
        ([b'{"a":1\n'], [b"}\n"], [b'{"m":1}']),
        ([b"data: {}\n\n"], [b"\xef\xbb\xbfdata: x\n\n"], [b"{}", b'{"m":1}']),
        ([b"\xef\xbb"], [], []),
        ([b": c\r"], [b"\n"], [b'{"m":1}']),
    ],
)
def test_an_event_in_a_read_of_its_own_is_not_taken_by_itself(
    before: list[bytes], after: list[bytes], expected: list[bytes]
) -> None:
    """It belongs to what the earlier reads began: a comment, an event, its name, a bare object, a byte order mark."""
    assert sse(*before, b'data: {"m":1}\n\n', *after) == expected


# --- limits ---


def test_an_event_of_exactly_the_limit_is_taken() -> None:
    """Each time anew: an event begins at nothing."""
    events = b"event: x\ndata: 5678\ndata: 0\n\n" * 3

    assert sse(*byte_by_byte(events), limit=17) == [b"5678\n0"] * 3
    with pytest.raises(GatewayError, match=r"more than 16 bytes \(reliability\.max_event_bytes\)"):
        sse(*byte_by_byte(events), limit=16)


def test_a_line_above_the_limit_names_it() -> None:
    """The message has the number, so that a person knows what to raise."""
    with pytest.raises(GatewayError, match=r"^the backend sent one line of more than 10 bytes \(reliability\.max_eve"):
        ndjson(b"x" * 12, limit=10)


# --- bare JSON ---


def test_what_ends_a_bare_array_leaves_its_whole_elements() -> None:
    """An array whose end never came has given what was whole; what is cut off does not come out."""
    for array in (b'[{"a":1},\n{"b":2},\n', b'[{"a":1},\n{"b":2},\n{"c":\n'):
        assert sse(array + b"data: x\n\n") == [b'{"a":1}', b'{"b":2}', b"x"]
        assert sse(b"data: y\n\n" + array) == [b"y", b'{"a":1}', b'{"b":2}']


def test_brackets_in_strings_open_nothing() -> None:
    """Nor close anything, also behind an escaped quote."""
    assert sse(b'{"a": "[{\\"["\n}\n{"b":1}\n') == [b'{"a": "[{\\"["\n}', b'{"b":1}']
    assert sse(b'[\n{"a": "}]\\\\"}\n, 2]\n') == [b'{"a":"}]\\\\"}', b"2"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_pretty_printed_object_among_lines_is_one_payload(end: bytes) -> None:
    """A proxy writes its errors over several lines; what stands before and after them is a line each."""
    data = end.join([b'{"a":1}', b"{", b'  "error": "x"', b"}", b'{"b":2}', b""])
    payloads = ndjson(data)

    assert payloads == ndjson(*byte_by_byte(data))
    assert [payload.replace(b"\r", b"").replace(b"\n", b"") for payload in payloads] == [
        b'{"a":1}',
        b'{  "error": "x"}',
        b'{"b":2}',
    ]


def test_a_pretty_printed_array_among_lines_gives_its_elements() -> None:
    """Each as soon as it is whole."""
    parser = NdjsonParser(1000)

    assert parser.feed(b'[\n{"a": 1},\n') == [b'{"a":1}']
    assert parser.feed(b"{\n") == []
    assert parser.feed(b'"b": 2}\n') == [b'{"b":2}']
    assert parser.feed(b']\n{"c":3}\n') == [b'{"c":3}']
    assert parser.close() == []
    assert ndjson(b'[{\n"a": 1\n}]\n') == [b'{"a":1}']


def test_a_byte_order_mark_is_left_out_at_the_start_only() -> None:
    """In the middle it is a part of what a line says."""
    assert ndjson(b'\xef\xbb\xbf{"a":1}\n\xef\xbb\xbf{"b":2}\n') == [b'{"a":1}', b'\xef\xbb\xbf{"b":2}']
    assert ndjson(b"{}\n\xef\xbb\xbf{}") == [b"{}", b"\xef\xbb\xbf{}"]
    assert ndjson(b'{"a":"\xef\xbb\xbf') == [b'{"a":"\xef\xbb\xbf']


# --- where nothing can be read any further ---


@pytest.mark.parametrize("kind", [SseParser, NdjsonParser])
def test_what_came_before_a_line_above_the_limit_comes_out(kind: type[SseParser | NdjsonParser]) -> None:
    """In one read with it as in reads of its own."""
    begin = b"data: " if kind is SseParser else b""
    end = b"\n\n" if kind is SseParser else b"\n"
    data = begin + b"{}" + end + begin + b"[1,2]" + end + begin + b"x" * 20 + end
    for chunks in ([data], byte_by_byte(data), [data[:30], data[30:]]):
        parser = kind(16)
        payloads: list[bytes] = []
        try:
            for chunk in chunks:
                payloads += parser.feed(chunk)
        except BrokenStream as broken:
            payloads += [*broken.payloads, broken.message.encode()]

        *before, why = payloads
        assert before == [b"{}", b"1", b"2"]
        assert b"more than 16 bytes (reliability.max_event_bytes)" in why


@pytest.mark.parametrize("kind", [SseParser, NdjsonParser])
def test_what_came_before_a_last_line_that_cannot_be_read_comes_out(kind: type[SseParser | NdjsonParser]) -> None:
    """A line without its end, with an array of more values than any answer has."""
    parser = kind(2 * MAX_JSON_VALUES)
    payloads = parser.feed(b'data: {"a":1}\n' if kind is SseParser else b'{"a":1}\n')
    payloads += parser.feed(b"[" * (MAX_JSON_VALUES + 1))
    with pytest.raises(BrokenStream, match=f"more than {MAX_JSON_VALUES} values") as broken:
        parser.close()

    assert payloads + broken.value.payloads == [b'{"a":1}']
    assert broken.value.kind == "protocol_violation"


@pytest.mark.parametrize("line", [b": " + b"c" * 20, b"id: " + b"c" * 20, b"data: 1\n: " + b"c" * 10])
def test_every_line_counts_against_the_limit(line: bytes) -> None:
    """Also one that says nothing: whether it comes in one read makes no difference."""
    for chunks in ([line + b"\n\n"], byte_by_byte(line + b"\n\n")):
        with pytest.raises(BrokenStream, match="more than 16 bytes"):
            sse(*chunks, limit=16)
