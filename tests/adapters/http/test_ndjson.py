"""`NdjsonParser`: a backend's lines, blank ones left out."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters.http.ndjson import NdjsonParser
from beluna_gateway.adapters.http.payloads import BrokenStream
from beluna_gateway.errors import GatewayError


def lines_of(*chunks: bytes, limit: int = 100) -> list[bytes]:
    parser = NdjsonParser(limit)
    return [line for chunk in chunks for line in parser.feed(chunk)] + parser.close()


def test_lines_are_the_same_wherever_the_bytes_are_split() -> None:
    """Whole, byte by byte and cut in two, an answer gives the same lines; blank ones do not come out."""
    data = '{"a":"é"}\n\n{"b":1}\r\n\r\n{"c":2}'.encode()
    expected = ['{"a":"é"}'.encode(), b'{"b":1}', b'{"c":2}']

    assert lines_of(data) == expected
    assert lines_of(*(data[i : i + 1] for i in range(len(data)))) == expected
    for cut in range(len(data)):
        assert lines_of(data[:cut], data[cut:]) == expected


@pytest.mark.parametrize(
    "field",
    [
        b"event: ping",
        b"data:",
        b"data: : keepalive",
        b"data: [DONE]",
        b"id: 1",
        b"retry: 5",
        b": ping",
        b"[DONE] ",
        b"null",
    ],
)
def test_fields_of_server_sent_events_are_read_as_there(field: bytes) -> None:
    """Some proxies keep a connection alive with them, whatever is sent over it."""
    done = [b"[DONE]"] * (b"DONE" in field)
    for data, expected in (
        (b'%b\n{"a":1}\n{"b":2}\n' % field, [*done, b'{"a":1}', b'{"b":2}']),
        (b'{"a":1}\n%b\n\n{"b":2}' % field, [b'{"a":1}', *done, b'{"b":2}']),
        (b'data: {"a":1}\n\n%b\r\n\r\ndata:{"b":2}\r\n' % field, [b'{"a":1}', *done, b'{"b":2}']),
    ):
        for size in (len(data), 1):
            assert lines_of(*(data[i : i + size] for i in range(0, len(data), size))) == expected


def test_errors_of_server_sent_events_are_errors() -> None:
    """In a field of their own, and in an event that is named so."""
    for error in (b"error: busy\n", b"event: error\ndata: busy\n\n"):
        assert lines_of(b'{"a":1}\n' + error) == [b'{"a":1}', b'{"error":"busy"}']


def test_an_event_among_the_lines_that_is_too_large_is_a_protocol_violation() -> None:
    """The lines before it come out."""
    parser = NdjsonParser(30)
    with pytest.raises(BrokenStream, match="max_event_bytes") as failure:
        parser.feed(b'{"a":1}\ndata: {"b":2}\n\n' + b"data: 0123456789\n" * 3)

    assert failure.value.payloads == [b'{"a":1}', b'{"b":2}']


def test_a_last_line_without_end_comes_out_at_the_close_only() -> None:
    """A line that has not ended may be cut: it is not given out before the answer has ended."""
    parser = NdjsonParser(100)

    assert parser.feed(b'{"a":1}') == []
    assert parser.close() == [b'{"a":1}']


@pytest.mark.parametrize("data", [b"x" * 11, b"x" * 11 + b"\n", b"ok\n" + b"x" * 500])
def test_a_line_above_the_limit_is_a_protocol_violation(data: bytes) -> None:
    """One event larger than max_event_bytes fails the answer, and the message names the setting."""
    with pytest.raises(GatewayError, match="max_event_bytes") as failure:
        lines_of(data, limit=10)

    assert failure.value.kind == "protocol_violation"
