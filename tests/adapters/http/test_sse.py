"""`SseParser`: server-sent events by the HTML standard, whatever the reads."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.http.payloads import DONE_MARK
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
        (b"data: a\r\n\r\ndata: b\n\ndata: c\r\rdata: d\n\n", [b"a", b"b", b"c", b"d"]),
        (b"data: a\ndata\ndata: c\n\n", [b"a\n\nc"]),
        (b": comment\n\nevent: ping\n\nid: 1\nretry: 5\n\n", []),
        (b"event: x\ndata: one\nid: 3\n\n", [b"one"]),
        (b": OPENROUTER PROCESSING\n\ndata: one\n: in between\n\n", [b"one"]),
        (b"\n\n\ndata: one\n\n\n\n", [b"one"]),
        (b"\xef\xbb\xbfdata: one\n\n", [b"one"]),
        ("data: é\u2028\u0085\v\n\n".encode(), ["é\u2028\u0085\v".encode()]),
        (b"data: [DONE]\n\n", [b"[DONE]"]),
        (b"data: one\n\n[DONE]\n\n", [b"one", b"[DONE]"]),
        (b"data: one\n[DONE] \n", [b"one", b"[DONE]"]),
        (b'{"a":1}\n[DONE]', [b'{"a":1}', b"[DONE]"]),
        (b"data: \n\ndata:\n\ndata\n\ndata: one\n\n", [b"one"]),
        (b"datas: no\ndat: no\nother\n\n", []),
        (b'data: {"a": "b: c"}\n\n', [b'{"a": "b: c"}']),
    ],
)
def test_events_by_the_standard(data: bytes, expected: list[bytes]) -> None:
    """Each rule of section 9.2.6 that can happen here, split anywhere."""
    assert_events(data, expected)


@pytest.mark.parametrize("data", [b"data: one", b"data: one\n", b"data: one\r\n", b"data: one\nda"])
def test_an_event_without_its_blank_line_comes_out_at_the_close_only(data: bytes) -> None:
    """It may be cut: it is not given out before the answer has ended."""
    parser = SseParser(1000)

    assert parser.feed(data) == []
    assert parser.close() == [b"one"]
    assert_events(data, [b"one"])


@pytest.mark.parametrize(
    "data",
    [
        b": keepalive\n\n",
        b"\n\n\r\n",
        b"event: ping\n\n",
        b"data: null\n\n",
        b"data:null\ndata: null \n\n",
        b"event: ping\ndata: 2024-04-07 20:20:50.554328\n\n",
        b"event: heartbeat\ndata: 1\n\n",
        b'event:keepalive\r\ndata: "x"\r\n\r\n',
        b"event: keep-alive\ndata: null\n\n",
        b"id: 7\nretry: 10\n\n",
        b"data:\n\n",
        b"data: \n\n",
        b"data\n\n",
        b"data:  \t\n\n",
        b"data: \ndata:\n\n",
        b"data: : keepalive\n\n",
        b"data::\n\n",
        b"\xef\xbb\xbf",
        b"data: []\n\n",
        b"[INFO] an unknown field\n\n",
        b"{an unknown field, too\n",
    ],
)
@pytest.mark.parametrize("close", [b"", b"data: {}\n\n"])
def test_silence_does_not_come_out(data: bytes, close: bytes) -> None:
    """Comments, blank lines, names alone, and data that is empty or a comment are no payloads, wherever they stand."""
    assert_events(data + close, [b"{}"] * bool(close))


@pytest.mark.parametrize("data", [b"data: [DONE]", b"data:[DONE]", b"data: [DONE] ", b"data:  [DONE]\t"])
def test_done_comes_out_as_its_mark(data: bytes) -> None:
    """With any white space around it, with and without its blank line; the mark is one object."""
    for ending in (b"\n\n", b"\n", b""):
        (payload,) = events_of(data + ending)

        assert payload is DONE_MARK


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b'error: {"code":503,"message":"Loading model"}\n\n', [b'{"error":{"code":503,"message":"Loading model"}}']),
        (b"error: Loading model\n\n", [b'{"error":"Loading model"}']),
        (b'error: {"code":5}', [b'{"error":{"code":5}}']),
        (b"event: error\ndata: Loading model\n\ndata: x\n\n", [b'{"error":"Loading model"}', b"x"]),
        (b'event: error\ndata: {"message":"m"}\n\n', [b'{"error":{"message":"m"}}']),
        (b'event: error\ndata: {"error":{"code":5}}\n\n', [b'{"error":{"code":5}}']),
        (b'event: error\ndata: {"type":"error","x":1}\n\n', [b'{"type":"error","x":1}']),
        (b'event: error\ndata: {"message":"m\n\n', [b'{"message":"m']),
        (b'event: error\ndata:  {"message":"m\n\n', [b' {"message":"m']),
        (b'data: {"a":1}\ndata: {"b":2}\ndata: [DONE]\n', [b'{"a":1}', b'{"b":2}', b"[DONE]"]),
        (b'data:  {"a":1}\ndata:  {"b":2}\ndata:  [DONE] \n', [b' {"a":1}', b' {"b":2}', b"[DONE]"]),
        (b"data: {}\ndata: a\ndata: {}\n\n", [b"{}\na\n{}"]),
        (b'data: {"a":\ndata: {"b":2}\ndata: }\n\n', [b'{"a":\n{"b":2}\n}']),
        (b'data: {"a":1\ndata: }\ndata: {"b":2}\n\n', [b'{"a":1\n}\n{"b":2}']),
        (b'event: error\ndata: {"message":"m","code":5}\n\n', [b'{"message":"m","code":5}']),
        # the type stands in the event's name only
        (b'event: response.done\ndata: {"a":1}\n\n', [b'{"type":"response.done","a":1}']),
        (b'event: response.done\ndata: {"a":{"type":"b"}}\n\n', [b'{"type":"response.done","a":{"type":"b"}}']),
        (b'event: response.done\ndata: {"a":"response.done"}\n\n', [b'{"type":"response.done","a":"response.done"}']),
        (b'event: response.done\ndata: {"a":1,"type":"b"}\n\n', [b'{"a":1,"type":"b"}']),
        (b'event: response.done\n\ndata: {"a":1}\n\n', [b'{"a":1}']),
        (b"event: response.done\ndata: [DONE]\n\n", [b"[DONE]"]),
        (b"event: response.done\ndata: {a\n\n", [b"{a"]),
        (b'event: message\ndata: {"a":1}\n\n', [b'{"a":1}']),
        (b'event: ping\ndata: {"a":1}\n\nevent: ping\ndata: [DONE]\n\n', [b'{"type":"ping","a":1}', b"[DONE]"]),
        (b"event: ping\n\ndata: x\n\n", [b"x"]),
        (b'data: {"a":1}\ndata: null\ndata: {"b":2}\n\n', [b'{"a":1}', b'{"b":2}']),
        (b"data: null\ndata: [DONE]\n\n", [b"[DONE]"]),
        (b'data: {"a":\ndata: null\ndata: }\n\n', [b'{"a":\nnull\n}']),
        (b'data: {"a":1}\n\n{"error":{"code":429}}\n\n', [b'{"a":1}', b'{"error":{"code":429}}']),
        (b'data: {"a":1}\n{"error":1}\ndata: {"b":1}\n\n', [b'{"a":1}', b'{"error":1}', b'{"b":1}']),
        (b'{\n "error": {\n "message": "}\\"{"\n\n }\n}\n', [b'{\n "error": {\n "message": "}\\"{"\n\n }\n}']),
        (b'{"error":1', []),
        (b'{"error":1\ndata: {}\n\n', [b"{}"]),
        (b'data: [{"error":{"code":1}}]\n\n', [b'{"error":{"code":1}}']),
        ('data: [{"a":1},\ndata: {"b":"é"}]\n\n'.encode(), [b'{"a":1}', '{"b":"é"}'.encode()]),
        (b"data: [1, [2]]\n\n", [b"1", b"[2]"]),
        (b'data: [{"a":1}, {\n\n', [b'[{"a":1}, {']),
        (b'[{"a":1},{"b":2}]', [b'{"a":1}', b'{"b":2}']),
        (b'[{\n"a":1\n}\n,\n{\n"b":[\n2\n]\n}\n]\n', [b'{"a":1}', b'{"b":[2]}']),
        (b'[\n{"a":1},\n{"b":2},{"c":3}\n]', [b'{"a":1}', b'{"b":2}', b'{"c":3}']),
    ],
)
def test_errors_and_json_without_data(data: bytes, expected: list[bytes]) -> None:
    """What real servers write outside of `data:` comes out as payloads, an array by its elements."""
    assert_events(data, expected)


def test_an_array_of_chunks_streams() -> None:
    """Each element of a pretty-printed array comes out when it is whole, not at the array's end."""
    parser = SseParser(1000)

    assert parser.feed(b'[{\n  "a": 1\n}\n') == [b'{"a":1}']
    assert parser.feed(b',\r\n{\n  "b": 1\n}\n') == [b'{"b":1}']
    assert parser.feed(b"]") == parser.close() == []


@pytest.mark.parametrize(
    "data",
    [
        b"data: " + b"x" * 200 + b"\n\n",
        b"data: " + b"x" * 200,
        b"data: 0123456789\n" * 20,
        b"data: 0123456789\n" * 20 + b"\n",
        b"data:\n" * 200,
        b"data\n" * 200,
        b"{" + b'"a":1,\n' * 40,
        b"[[" + b'"a",\n' * 40,
        b": " + b"x" * 200,
    ],
)
def test_an_event_above_the_limit_is_a_protocol_violation(data: bytes) -> None:
    """One event larger than max_event_bytes fails the answer before it is kept; lines without end do, too."""
    for chunks in ([data], [data[i : i + 1] for i in range(len(data))]):
        with pytest.raises(GatewayError, match="max_event_bytes") as failure:
            events_of(*chunks, limit=100)

        assert failure.value.kind == "protocol_violation"


def test_an_event_is_too_large_before_its_last_line_is_whole() -> None:
    """What is kept of one event is never more than its limit, over its lines together."""
    parser = SseParser(20)
    parser.feed(b"data: 0123456\n")

    with pytest.raises(GatewayError, match="max_event_bytes"):
        parser.feed(b"data: 01")


def test_many_small_events_in_one_read_are_no_large_one() -> None:
    """The limit is an event's, not a read's."""
    assert events_of(b"data: 0123456789\n\n" * 50, limit=20) == [b"0123456789"] * 50
    assert events_of(b"event: x\r\ndata: 0123456789\r\n\r\n" * 50, limit=30) == [b"0123456789"] * 50


_FIELDS = [b"data: ", b"data:", b"data", b": c", b"event: x", b"event: error", b"error:", b"[DONE]"]
_EVENTS = [b"data: {}\n\n", b"data: [DONE]\n\n"]
_CHARACTERS = [
    b"a",
    "é".encode(),
    b" ",
    b"\n",
    b"\n\n",
    b"\r\n",
    b"\r",
    b"{}",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b'"',
    b"1",
]
_PIECES = st.sampled_from(_FIELDS + _EVENTS + _CHARACTERS)


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

    assert all(event.strip() for event in events)
