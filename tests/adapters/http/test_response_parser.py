"""The framing of responses: whatever the network makes of a response's bytes, the result is the same."""

from __future__ import annotations

from itertools import pairwise
from typing import Any, NamedTuple

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.http.response_parser import MAX_FRAMING_BYTES, Phase, ResponseParser

HEAD = b"HTTP/1.1 200 OK\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"


class Result(NamedTuple):
    """All that a parser says about a response."""

    phase: Phase
    status: int
    body: bytes
    failure: tuple[str, str] | None
    reusable: bool
    headers: tuple[str | None, ...]
    codings: list[str]


def parse(*reads: bytes, eof: bool = False, reset: bool = False) -> Result:
    pieces: list[bytes] = []
    body = b""
    parser = ResponseParser(pieces)
    for read in reads:
        parser.feed(read)
        body += b"".join(pieces)
        pieces.clear()
    if eof or reset:
        parser.feed_eof(ConnectionResetError("reset") if reset else None)
    names = (b"x", b"content-length", b"retry-after") if parser.status else ()  # before its end a head means nothing
    headers = tuple(parser.header(name) for name in names)
    failure = parser.failure and (parser.failure.kind, parser.failure.reason)
    codings = parser.codings(b"content-encoding") if parser.status else []
    result = Result(parser.phase, parser.status, body, failure, parser.reusable, headers, codings)
    parser.close()
    return result


def divided(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(edges)]


# --- responses as they may be, and what is in them ---


class Response(NamedTuple):
    wire: bytes
    status: int
    body: bytes
    ends_with_connection: bool


TOKENS = st.text("abcXYZ-09", min_size=1, max_size=8)
VALUES = st.text('abc ,;=09"ä', max_size=12).map(str.strip)


@st.composite
def responses(draw: st.DrawFn) -> Response:
    status = draw(st.sampled_from([200, 201, 400, 413, 429, 503]))
    lines = [f"{'X-' + draw(TOKENS)}: {draw(VALUES)}" for _ in range(draw(st.integers(0, 3)))]
    body = draw(st.binary(max_size=40))
    framing = draw(st.sampled_from(["length", "chunked", "close"]))
    if framing == "length":
        lines.append(f"Content-Length: {len(body)}")
        framed = body
    elif framing == "chunked":
        lines.append("Transfer-Encoding: chunked")
        framed = b"".join(
            b"%x%b\r\n%b\r\n" % (len(piece), draw(st.sampled_from([b"", b";a", b";a=b"])), piece)
            for piece in divided(body, draw(st.lists(st.integers(0, 40), max_size=4)))
            if piece
        )
        framed += draw(st.sampled_from([b"0\r\n\r\n", b"0\r\nX: trailer\r\nRetry-After: 7\r\n\r\n"]))
    else:
        framed = body
    interim = draw(st.sampled_from([b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 103 Hints\r\nX: y\r\n\r\n"]))
    draw(st.randoms()).shuffle(lines)
    head = "".join(f"{line}\r\n" for line in lines).encode("latin-1")
    wire = b"%bHTTP/1.1 %d Some Reason\r\n%b\r\n%b" % (interim, status, head, framed)
    return Response(wire, status, body, framing == "close")


CUTS = st.lists(st.integers(0, 400), max_size=12)


@given(response=responses(), cuts=CUTS)
def test_a_response_is_read_as_it_was_written(response: Response, cuts: list[int]) -> None:
    """Status, body and end, however it is divided into reads."""
    result = parse(*divided(response.wire, cuts), eof=response.ends_with_connection)

    assert (result.phase, result.status, result.body) == ("ended", response.status, response.body)
    assert result.failure is None
    assert result.reusable is not response.ends_with_connection


@given(response=responses(), cut=st.integers(0, 400), reset=st.booleans())
def test_a_cut_response_has_not_ended(response: Response, cut: int, reset: bool) -> None:
    """The end of the connection is the end of a response only where nothing else says where that is."""
    wire = response.wire[: cut % len(response.wire)]
    result = parse(wire, eof=not reset, reset=reset)

    if response.ends_with_connection and result.status and not reset:
        assert (result.phase, result.failure) == ("ended", None)
        assert response.body.startswith(result.body)
    elif result.phase == "ended":
        assert result.body == response.body  # only the chunks' last line end, or nothing, is missing
        assert not result.reusable
    else:
        assert result.phase == "failed"
        assert result.failure is not None
        assert result.failure[0] == "cut"


@st.composite
def damaged(draw: st.DrawFn) -> bytes:
    """Bytes that are nearly a response, or two."""
    wire = draw(responses()).wire + draw(st.sampled_from([b"", b"\r\n", b"HTTP/1.1 200 OK\r\n\r\n", b"x"]))
    for _ in range(draw(st.integers(0, 3))):
        at = draw(st.integers(0, len(wire)))
        new = draw(st.sampled_from([b"", b"\r", b"\n", b"\r\n", b":", b" ", b"0", b"f", b"\0", b"\xff", b"chunked"]))
        wire = wire[:at] + new + wire[at + draw(st.integers(0, 2)) :]
    return wire


@given(wire=damaged(), cuts=CUTS, eof=st.booleans())
def test_how_bytes_are_divided_never_matters(wire: bytes, cuts: list[int], eof: bool) -> None:
    """The same for a response that breaks the syntax: head, body, end and the error in words."""
    whole = parse(wire, eof=eof)

    assert parse(*divided(wire, cuts), eof=eof) == whole
    assert parse(*(wire[at : at + 1] for at in range(len(wire))), eof=eof) == whole


def _by_h11(wire: bytes) -> tuple[int, bytes] | None:
    """Status and body by another parser; None where it finds the response incomplete or broken."""
    connection = h11.Connection(h11.CLIENT)
    connection.send(h11.Request(method="GET", target="/", headers=[("Host", "x")]))
    connection.send(h11.EndOfMessage())
    connection.receive_data(wire)
    status, body = 0, b""
    try:
        while True:
            event: Any = connection.next_event()
            if event is h11.NEED_DATA:
                connection.receive_data(b"")
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                body += event.data
            elif isinstance(event, h11.EndOfMessage):
                return status, body
            elif not isinstance(event, h11.InformationalResponse):
                return None
    except (h11.RemoteProtocolError, RuntimeError):
        return None


@given(response=responses())
def test_h11_reads_the_same(response: Response) -> None:
    """A parser that shares no line with ours agrees about every valid response."""
    assert _by_h11(response.wire) == (response.status, response.body)


@given(wire=damaged())
def test_what_both_parsers_take_they_read_alike(wire: bytes) -> None:
    """A response that h11 takes too has the same status and body: no bytes are body here and framing there."""
    ours = parse(wire, eof=True)
    other = _by_h11(wire)

    if ours.phase == "ended" and other is not None:
        assert (ours.status, ours.body) == other


# --- what has rules of its own ---


@pytest.mark.parametrize("size", [1, 7, 4096, MAX_FRAMING_BYTES * 2])
@pytest.mark.parametrize("surplus", [0, 1])
@pytest.mark.parametrize("interim", [0, 500])
def test_a_head_has_a_limit(size: int, surplus: int, interim: int) -> None:
    """Interim responses count; the limit is exact, whatever the size of the reads."""
    begin = b"HTTP/1.1 100 Continue\r\n\r\n" * interim + HEAD + b"Content-Length: 3\r\nX: "
    end = b"\r\n\r\n"
    filler = b"x" * (MAX_FRAMING_BYTES - len(begin) - len(end) + surplus)
    wire = begin + filler + end + b"abc"
    result = parse(*(wire[at : at + size] for at in range(0, len(wire), size)))

    if surplus:
        assert (result.phase, result.status, result.failure) == (
            "failed",
            0,
            ("not_http", f"its head has more than {MAX_FRAMING_BYTES} bytes"),
        )
    else:
        assert (result.phase, result.body) == ("ended", b"abc")


@pytest.mark.parametrize("size", [1, 1000, 70_000])
def test_framing_between_two_pieces_has_a_limit(size: int) -> None:
    """Below it everything is read, also where it adds up; without end it is refused, and said to be no HTTP."""
    chunk = b"1;%b\r\na\r\n" % (b"x" * 60_000)
    head = CHUNKED.replace(b"\r\n", b"\r\nX: %b\r\n" % (b"x" * 60_000), 1)  # it counts by itself
    wire = head + chunk * 3 + b"0\r\n\r\n"
    assert parse(*(wire[at : at + size] for at in range(0, len(wire), size))).body == b"aaa"

    endless = CHUNKED + b"1\r\na\r\n1;" + b"x" * 300_000
    result = parse(*(endless[at : at + size] for at in range(0, len(endless), size)))
    assert result.failure is not None
    assert (result.phase, result.body, result.failure[0]) == ("failed", b"a", "not_http")


def test_after_a_failure_nothing_is_read() -> None:
    """What follows a head that is too long is no body."""
    result = parse(HEAD + b"X: " + b"x" * MAX_FRAMING_BYTES, b"\r\nContent-Length: 3\r\n\r\nabc", eof=True)

    assert (result.phase, result.status, result.body) == ("failed", 0, b"")


def test_the_last_of_repeated_headers_counts_and_lists_are_joined() -> None:
    """Names in any case; a trailer is no header."""
    head = b"x: 1\r\nX: 2\r\nContent-Encoding: GZip\r\ncontent-encoding: , br ,identity\r\n"
    trailer = b"0\r\nX: 3\r\nContent-Encoding: zstd\r\n\r\n"
    result = parse(HEAD + head + b"Transfer-Encoding: chunked\r\n\r\n" + trailer)

    assert (result.phase, result.headers[0], result.codings) == ("ended", "2", ["gzip", "br", "identity"])


def test_an_interim_response_leaves_no_headers() -> None:
    """Its headers are its own."""
    result = parse(b"HTTP/1.1 103 Early Hints\r\nX: 1\r\nContent-Encoding: gzip\r\n\r\n", CHUNKED)

    assert (result.phase, result.status, result.headers[0], result.codings) == ("body", 200, None, [])


@pytest.mark.parametrize(
    "coding", ["gzip", "gzip, chunked", "chunked, identity", "xchunked", "chunked\r\nTransfer-Encoding: identity"]
)
def test_a_transfer_coding_that_was_not_asked_for_is_refused(coding: str) -> None:
    """By name: its body is not what stands between the chunks, and its end is not known."""
    result = parse(HEAD + f"Transfer-Encoding: {coding}\r\n\r\n3\r\nabc\r\n0\r\n\r\n".encode(), eof=True)

    assert result.failure is not None
    assert (result.phase, result.failure[0], result.body) == ("failed", "not_http", b"")
    assert coding.split(",", maxsplit=1)[0].split("\r", maxsplit=1)[0] in result.failure[1]


@pytest.mark.parametrize("status", [b"204", b"304"])
def test_a_status_without_a_body_ends_with_its_head(status: bytes) -> None:
    """Whatever its headers say."""
    assert parse(b"HTTP/1.1 %b None\r\nX: 1\r\n\r\n" % status).phase == "ended"


@pytest.mark.parametrize(
    ("wire", "reusable"),
    [
        (HEAD + b"Content-Length: 1\r\n\r\na", True),
        (HEAD + b"Content-Length: 1\r\n\r\na\r\n", True),
        (HEAD + b"Content-Length: 1\r\n\r\nab", False),
        (HEAD + b"Connection: close\r\nContent-Length: 1\r\n\r\na", False),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 1\r\n\r\na", False),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na", True),
        ((HEAD + b"Content-Length: 1\r\n\r\na") * 2, False),
    ],
    ids=["plain", "line-end", "surplus", "close", "old", "old-but-kept", "twice"],
)
def test_which_responses_leave_their_connection_usable(wire: bytes, reusable: bool) -> None:
    """Not where the peer says so, and not where there is more than one response."""
    for reads in ([wire], [wire[at : at + 1] for at in range(len(wire))]):
        result = parse(*reads)
        assert (result.phase, result.body, result.reusable) == ("ended", b"a", reusable)

    assert not parse(wire, eof=True).reusable


@pytest.mark.parametrize("wire", [b"", b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 2"])
def test_no_response_at_all(wire: bytes) -> None:
    """A connection that ends before a response is a cut, and says that none came."""
    assert parse(wire, eof=True).failure == ("cut", "no response came")
    assert parse(wire, reset=True).failure == ("cut", "reset")


@pytest.mark.parametrize(
    "wire", [b"SSH-2.0-x\r\n", b"HTTP/1.1 099 No\r\n\r\n", b"HTTP/1.1 101 Up\r\nUpgrade: x\r\n\r\n"]
)
def test_what_is_no_response_says_why(wire: bytes) -> None:
    """A peer that speaks something else breaks the protocol: there is no use in asking again."""
    failure = parse(wire).failure
    assert failure is not None
    assert failure[0] == "not_http"
    assert failure[1]
