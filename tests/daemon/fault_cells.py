"""The cells of the fault matrix: what goes wrong at a backend, when, and how its request must end.

The kinds are those of protocol/README.md, "Error mapping".
"""

from __future__ import annotations

import asyncio
import gzip
import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from tests.fakes.backend import Exchange, Script
from tests.fakes.dialects import DIALECTS, Row

MANNERS = ("streamed", "whole", "retried")
"""A streamed answer; an unstreamed one; a streamed one with another attempt."""

LIMIT = 1000  # ms, for the one timer of a cell that is to fire; the others do not
RETRIED_LIMIT = 2500  # ms, where the next attempt must be answered within it, too
TRICKLE = 0.2  # seconds between two bytes: too slow for LIMIT, wherever it begins
LARGE = 5_000_000  # bytes of a request that no socket's buffer holds


@dataclass(frozen=True)
class Verdict:
    """How a request must end."""

    kind: str
    """`completed`, or the kind of its error."""
    retryable: bool = False
    timer: str = ""
    """Which one ends it, or its first attempt."""
    text: str | None = "Hello world"
    """What has been said by then; None: some beginning of it."""
    status: int | None = None
    """The backend's HTTP status."""
    attempts: int = 1
    """How many requests the backend gets."""


def complete(text: str = "Hello world") -> Verdict:
    return Verdict("completed", text=text)


def transient(text: str | None = "") -> Verdict:
    return Verdict("backend_transient", retryable=True, text=text)


def violation(text: str = "") -> Verdict:
    return Verdict("protocol_violation", text=text)


def timeout(timer: str, text: str = "") -> Verdict:
    return Verdict("timeout", retryable=True, timer=timer, text=text)


# --- the moments ---

STREAMED = {
    "before the head": "",
    "in the head": "",
    "after the head": "",
    "in the first event": "",
    "after content": "Hello",
    "in an event": "Hello",
    "after the end mark": "Hello world",
}
"""Moments of a streamed answer, and the text that has been said by then."""

WHOLE = ("before the head", "in the head", "after the head", "in the body", "at the end of the body")
"""Moments of an unstreamed answer. At the last one only the end of HTTP's framing is missing."""


class Response:
    """A response's bytes, and where in them each moment is.

    Args:
        row: The dialect.
        stream: Whether the answer is streamed.
        framing: `chunked`, `length` or `close`.
        extra: More header lines.
    """

    def __init__(self, row: Row, stream: bool, framing: str, extra: bytes = b"") -> None:
        if stream:
            pieces = [row.play(payload) for payload in (*row.beginning, *row.text)] + [row.play(*row.end)]
        else:
            pieces = [row.whole_body()]
        body, ends = b"", []
        for piece in pieces:
            body += b"%x\r\n%b\r\n" % (len(piece), piece) if framing == "chunked" else piece
            ends.append(len(body))
        kind = row.content_type if stream else b"application/json"
        how = {"chunked": b"Transfer-Encoding: chunked", "length": b"Content-Length: %d" % len(body), "close": b"X: y"}
        head = b"HTTP/1.1 200 OK\r\nContent-Type: %b\r\n%b%b\r\n\r\n" % (kind, extra, how[framing])
        self.bytes = head + body + (b"0\r\n\r\n" if framing == "chunked" else b"")
        self.body = b"".join(pieces)
        at = [len(head) + end for end in ends]
        self.offsets = {"before the head": 0, "in the head": len(head) // 2, "after the head": len(head)}
        if stream:
            self.offsets |= {
                "in the first event": (len(head) + at[0]) // 2,
                "after content": at[-3],
                "in an event": (at[-3] + at[-2]) // 2,
                "after the end mark": at[-1],
            }
        else:
            self.offsets |= {"in the body": (len(head) + at[0]) // 2, "at the end of the body": at[-1]}


# --- the cells ---


@dataclass(frozen=True)
class Cell:
    """One field of the matrix."""

    dialect: str
    stream: bool
    fault: str
    verdict: Verdict
    script: Script
    endpoint: str = "http://127.0.0.1:{tcp}"
    """`{own}` is a port of its own, which answers only after the fault."""
    accepts: bool = True
    """Whether the kernel accepts on that port meanwhile; else it refuses."""
    reads_request: bool = True
    large: bool = False
    retried: bool = False
    """Whether the backend has another attempt, and a breaker that does not open."""

    @property
    def id(self) -> str:
        """Of its backend and its requests."""
        manner = "retried" if self.retried else "streamed" if self.stream else "whole"
        return re.sub(r"[^A-Za-z0-9._-]+", "_", f"{self.dialect}-{manner}-{self.fault}")


def writes(*steps: bytes | float | str) -> Script:
    """Bytes as they are, pauses in seconds, and faults by name."""

    async def script(exchange: Exchange) -> None:
        for step in steps:
            if isinstance(step, bytes):
                await exchange.raw(step)
            elif isinstance(step, float):
                await asyncio.sleep(step)
            elif step == "reset":
                await asyncio.sleep(0.02)  # it may overtake what has not been read yet
                exchange.reset()
            elif step == "close":
                exchange.cut()
            elif step == "drop":
                exchange.drop()
            else:
                await exchange.silence()

    return script


def byte_by_byte(data: bytes, start: int, pause: float) -> Script:
    """The first `start` bytes at once, the others one by one."""

    async def script(exchange: Exchange) -> None:
        if start:
            await exchange.raw(data[:start])
        for number in range(start, len(data)):
            await asyncio.sleep(pause)
            await exchange.raw(data[number : number + 1])

    return script


def cut(stream: bool, moment: str, framing: str, how: str) -> Verdict:
    """The connection ends at that moment: `close` says nothing is missing only where the body ends with it."""
    if stream and moment == "after the end mark":
        return complete()
    if framing == "close" and how == "close" and moment not in ("before the head", "in the head"):
        if moment == "at the end of the body":
            return complete()
        if moment in ("after the head", "in the body"):
            return violation()  # HTTP says that this is all: nothing, or no JSON
    return transient(STREAMED[moment] if stream else "")


def stalled(stream: bool, moment: str) -> Verdict:
    """Nothing more comes from that moment on."""
    if stream and moment == "after the end mark":
        return complete()
    said_before = STREAMED[moment] if stream else ""
    return timeout("idle_timeout_ms" if said_before else "request_timeout_ms", said_before)


def cells_of(dialect: str, manner: str) -> list[Cell]:
    """All faults of one dialect in one manner."""
    cells = _cells(dialect, DIALECTS[dialect], manner != "whole")
    return list(cells if manner != "retried" else _retried(cells))


def _retried(cells: Iterator[Cell]) -> Iterator[Cell]:
    """Another attempt follows where that may help and nothing has been said."""
    for cell in cells:
        verdict = cell.verdict
        if "{own}" in cell.endpoint or verdict.text is None:
            continue  # the next attempt ends as the first; something may have been said
        if verdict.retryable and not verdict.text:
            verdict = replace(complete(), timer=verdict.timer, attempts=2)
        yield replace(cell, verdict=verdict, retried=True)


def _cells(dialect: str, row: Row, stream: bool) -> Iterator[Cell]:
    def cell(fault: str, verdict: Verdict, *steps: bytes | float | str, **more: Any) -> Cell:
        return Cell(dialect, stream, fault, verdict, **{"script": writes(*steps), **more})

    chunked = Response(row, stream, "chunked")
    for moment in STREAMED if stream else WHOLE:
        for framing, how, scheme in (
            ("chunked", "reset", "tcp"),
            ("chunked", "close", "tcp"),
            ("length", "close", "tcp"),
            ("close", "close", "tcp"),
            ("close", "reset", "tcp"),
            ("chunked", "drop", "tls"),
            ("close", "drop", "tls"),
            ("close", "close", "tls"),
        ):
            response = Response(row, stream, framing)
            if framing == "length" and moment == ("after the end mark" if stream else "at the end of the body"):
                continue  # nothing is missing
            yield cell(
                f"{scheme} {framing} {how} {moment}",
                cut(stream, moment, framing, how),
                *filter(None, [response.bytes[: response.offsets[moment]]]),
                how,
                endpoint="https://localhost:{tls}" if scheme == "tls" else "http://127.0.0.1:{tcp}",
            )
        start = chunked.offsets[moment]
        yield cell(f"stall {moment}", stalled(stream, moment), *filter(None, [chunked.bytes[:start]]), "silence")
        if moment != "at the end of the body":
            slow = byte_by_byte(chunked.bytes, start, TRICKLE)
            yield cell(f"trickle {moment}", stalled(stream, moment), script=slow)
    yield cell("byte by byte", complete(), script=byte_by_byte(chunked.bytes, 0, 0))
    yield from connecting(cell)
    yield from framings(cell, row, stream)
    yield from encodings(cell, row, stream)
    for surplus, name in ((chunked.bytes, "again"), (b"HTTP/1.1 408 Request Timeout\r\n\r\n", "a 408")):
        for pause in (0.0, 0.05):
            yield cell(f"{name} after {pause} s", complete(), chunked.bytes, pause, surplus, "silence")
    yield from too_early(cell, stream)


def connecting(cell: Any) -> Iterator[Cell]:
    """Faults before there is a connection."""
    yield cell("refused", replace(transient(), attempts=0), endpoint="http://127.0.0.1:{own}", accepts=False)
    stalls = replace(timeout("connect_timeout_ms"), attempts=0)
    yield cell("handshake stalls", stalls, endpoint="https://localhost:{own}")


def framings(cell: Any, row: Row, stream: bool) -> Iterator[Cell]:
    """HTTP that does not say what it does."""
    good = Response(row, stream, "length")
    plain = Response(row, stream, "close").bytes
    head, body = plain.removesuffix(good.body), good.body

    def with_headers(lines: bytes) -> bytes:
        return head.replace(b"X: y", lines)

    size = len(body)
    longer = with_headers(b"Content-Length: %d" % (size + 10)) + body
    yield cell("length too large, closed", complete() if stream else transient(), longer, "close")
    yield cell("length too large, stalls", complete() if stream else timeout("request_timeout_ms"), longer, "silence")
    shorter = with_headers(b"Content-Length: %d" % (size // 3)) + body
    yield cell("length too small", transient(None) if stream else violation(), shorter, "silence")
    for name, lines in {
        "length no number": b"Content-Length: many",
        "length negative": b"Content-Length: -5",
        "two lengths": b"Content-Length: %d\r\nContent-Length: 7" % size,
        "length and chunks": b"Content-Length: %d\r\nTransfer-Encoding: chunked" % size,
    }.items():
        yield cell(name, violation(), with_headers(lines) + body, "silence")
    chunks = with_headers(b"Transfer-Encoding: chunked")
    yield cell("no chunk", transient(), chunks, 0.02, b"this is no chunk\r\n", "silence")
    yield cell("no HTTP", violation(), b"SSH-2.0-OpenSSH_9.6\r\n", "silence")
    yield cell("endless header", violation(), b"HTTP/1.1 200 OK\r\nX: " + b"x" * 70_000, "silence")
    yield cell("no content", violation(), b"HTTP/1.1 204 No Content\r\n\r\n")
    yield cell("upgrade", violation(), b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n", "silence")
    yield cell("interim first", complete(), b"HTTP/1.1 100 Continue\r\n\r\n" + good.bytes)
    yield cell("HTTP/1.0", complete(), plain.replace(b"HTTP/1.1", b"HTTP/1.0"), "close")


def encodings(cell: Any, row: Row, stream: bool) -> Iterator[Cell]:
    """A body that is not written as it was asked for."""
    for word in (b"identity", b"Identity", b""):
        response = Response(row, stream, "chunked", b"Content-Encoding: %b\r\n" % word)
        yield cell(f"encoding '{word.decode()}'", complete(), response.bytes)
    packed = Response(row, stream, "close", b"Content-Encoding: gzip\r\n")
    head = packed.bytes.removesuffix(packed.body)
    yield cell("encoding gzip", violation(), head + gzip.compress(packed.body), "close")
    utf16 = Response(row, stream, "close")
    head = utf16.bytes.removesuffix(utf16.body)
    yield cell("UTF-16", violation(), head + utf16.body.decode().encode("utf-16"), "close")
    yield cell("Latin-1", violation(), head + utf16.body.replace(b"Hello", b"H\xe9llo"), "close")
    yield cell("HTML", violation(), head + b"<html><body>Bad gateway</body></html>", "close")


def too_early(cell: Any, stream: bool) -> Iterator[Cell]:
    """The backend answers a large request before it has read it."""
    body = b'{"error":{"message":"too large"}}'
    refusal = b"HTTP/1.1 413 Payload Too Large\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    verdict = Verdict("invalid_request", text="", status=413)
    if stream:  # one of both ways is enough for megabytes
        yield cell("413 early, stays open", verdict, refusal, "silence", large=True, reads_request=False)
        yield cell("413 early, closed", verdict, refusal, "close", large=True, reads_request=False)
        for how in ("close", "drop"):
            tls = {"endpoint": "https://localhost:{tls}"}
            yield cell(f"413 early, TLS {how}", verdict, refusal, how, large=True, reads_request=False, **tls)
    else:
        yield cell("413 early", verdict, refusal, "close", reads_request=False)
