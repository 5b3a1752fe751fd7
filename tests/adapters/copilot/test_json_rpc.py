"""JSON-RPC with Content-Length framing: the pure part."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.copilot.json_rpc import FrameParser, RpcError, encode, rpc_failure
from beluna_gateway.canonical import JsonObject
from beluna_gateway.errors import GatewayError

LIMIT = 1000


def messages_of(chunks) -> list[JsonObject]:
    parser = FrameParser(LIMIT)
    return [message for chunk in chunks for message in parser.feed(chunk)]


def assert_messages(data: bytes, expected: list[JsonObject]) -> None:
    """`data` gives the same messages whole, byte by byte, and cut in two anywhere."""
    assert messages_of([data]) == expected
    assert messages_of(data[i : i + 1] for i in range(len(data))) == expected
    for cut in range(len(data)):
        assert messages_of([data[:cut], data[cut:]]) == expected


def test_what_is_encoded_is_parsed_back():
    """Messages come out as they went in, however the bytes were split, `é` and U+2028 included."""
    sent: list[JsonObject] = [
        {"id": 1, "result": "é\u2028𝒳"},
        {},
        {"method": "m", "params": [None, 1.5, {"a": "\r\n\r\n"}]},
    ]

    assert_messages(b"".join(encode(message) for message in sent), sent)


def test_headers_besides_the_length_are_passed_over():
    """Header names have any case, blanks around values are allowed, and other headers mean nothing."""
    data = b'Content-Type: x; charset=utf-8\r\ncontent-length:  8 \r\n\r\n{"a": 1}'

    assert_messages(data, [{"a": 1}])


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"Debugger attached.\n", "no header"),
        (b"Warning: x\n", "no header"),
        (b"Debugger attached.\r\nContent-Length: 2\r\n\r\n{}", "no header"),
        (b"Content-Length: 2\n\n{}", "no header"),
        (b"Content-Type: x\r\n\r\n{}", "without a Content-Length"),
        (b"Content-Length: -2\r\n\r\n{}", "without a Content-Length"),
        (b"Content-Length: +2\r\n\r\n{}", "without a Content-Length"),
        (b"Content-Length: 1_0\r\n\r\n{}", "without a Content-Length"),
        (b"Content-Length: \r\n\r\n{}", "without a Content-Length"),
        (b"Content-Length: 1001\r\n\r\n", "max_event_bytes"),
        (b"Content-Length: " + b"9" * 5000 + b"\r\n\r\n", "max_event_bytes"),
        (b"X: " + b"x" * 5000, "a header of more than"),
        (b"Content-Length: 2\r\n\r\n{]", "not JSON"),
        (b"Content-Length: 2\r\n\r\n[]", "not an object"),
        (b'Content-Length: 3\r\n\r\n"\xff"', "not JSON"),
    ],
)
def test_what_is_no_frame_is_refused(data, said):
    """Noise, bad lengths, too much and bad JSON are a `protocol_violation` that says what was wrong."""
    with pytest.raises(GatewayError, match=said) as failure:
        messages_of([data])

    assert failure.value.kind == "protocol_violation"
    with pytest.raises(GatewayError):
        messages_of(data[i : i + 1] for i in range(len(data)))


@given(st.lists(st.binary(max_size=200), max_size=10))
def test_random_bytes_are_parsed_or_refused(chunks):
    """Whatever comes, there is no other outcome than messages or a `protocol_violation`."""
    kind = "protocol_violation"
    try:
        messages_of(chunks)
    except GatewayError as failure:
        kind = failure.kind

    assert kind == "protocol_violation"


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        (1000, "authentication", False),
        (1002, "backend_permanent", False),
        (1003, "authentication", False),
        (-32601, "backend_permanent", False),
        (-32602, "invalid_request", False),
        (-32603, "backend_transient", True),
        (-32800, "backend_transient", True),
        (-32801, "backend_transient", True),
        (-32802, "backend_transient", True),
        (4711, "backend_transient", True),
    ],
)
def test_error_codes(code, kind, retryable):
    """An error's code decides its kind, and is passed on with the program's words."""
    failure = rpc_failure(RpcError(code, "words"))

    assert (failure.kind, failure.retryable, failure.provider_code) == (kind, retryable, str(code))
    assert "words" in failure.message
