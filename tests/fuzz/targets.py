"""What is fuzzed: functions that take bytes from outside, each with the errors that it may raise and what must hold.

Beside "no other exception" two things hold for every target: processor time and memory are linear in the input. An
input that is stretched (its middle repeated up to a quarter of a megabyte) tells linear from quadratic.
"""

from __future__ import annotations

import json
import resource
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import Any
from unittest.mock import patch
from uuid import UUID

from beluna_gateway.adapters.base import HttpDialect
from beluna_gateway.adapters.decoding import tool_calls
from beluna_gateway.adapters.decoding.provider_errors import read_error_body
from beluna_gateway.adapters.http.ndjson import NdjsonParser
from beluna_gateway.adapters.http.payloads import BrokenStream
from beluna_gateway.adapters.http.response_parser import ResponseParser
from beluna_gateway.adapters.http.sse import SseParser
from beluna_gateway.canonical import Failed, GatewayEvent, OperationResult, Started
from beluna_gateway.config.loading import ConfigError, load_config
from beluna_gateway.config.settings import HTTP_DIALECTS
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.request_normalizer import RequestNormalizer
from beluna_gateway.pipeline.response_normalizer import ResponseNormalizer
from beluna_gateway.wire import strict_json
from beluna_gateway.wire.frames import Infer
from beluna_gateway.wire.lines import LineCutter
from beluna_gateway.wire.ndjson import FrameEncoder, RejectedLine, decode
from tests.adapters import recorded
from tests.adapters.arbitrary import assert_in_order
from tests.adapters.recorded import recordings

from .mutation import Mutator

ROOT = Path(__file__).resolve().parents[2]
LIMIT = 1 << 20
STRETCHED = 256 * 1024
SEPARATORS = (b"\n\n", b"\n", b",", b"")
MOST_SECONDS, MOST_SECONDS_PER_MEGABYTE = 1.0, 16.0
TRIES = 3  # of what took too long: a busy machine may make anything slow once
MOST_CHARACTERS = 10_000  # of a message that names mistakes
MOST_BYTES, MOST_BYTES_PER_BYTE = 64 << 20, 400

Target = Callable[[bytes], None]


def client_lines(data: bytes) -> None:
    """What a client sends, as far as the provider's request: `rejected`, or a `GatewayError`."""
    cutter = LineCutter(LIMIT)
    half = len(data) // 2
    for line in [*cutter.feed(data[:half]), *cutter.feed(data[half:]), *cutter.close()]:
        if line is None:
            continue
        frame, said = None, ""
        try:
            frame = decode(line)
        except RejectedLine as rejected:
            said = str(rejected)
        assert len(said) < MOST_CHARACTERS, "a rejection repeats too much of its line"
        if isinstance(frame, Infer):
            with suppress(GatewayError):
                request = RequestNormalizer().normalize(frame, "fuzz")
                for name in HTTP_DIALECTS:
                    with suppress(GatewayError):
                        json.dumps(_dialect(name).encode(request, "model").body, allow_nan=False)


def configuration(data: bytes) -> None:
    """A configuration file: a `Config`, or a `ConfigError` whose mistakes are no endless text."""
    path = Path(_folder().name) / "beluna.jsonc"
    path.write_bytes(data)
    mistakes: tuple[str, ...] = ("none",)
    try:
        load_config(path)
    except ConfigError as error:
        mistakes = error.mistakes
    assert mistakes, "a mistake without a word"
    assert max(map(len, mistakes)) < MOST_CHARACTERS, "a mistake repeats too much of the file"


def response(data: bytes) -> None:
    """A backend's bytes: one response or why there is none, the same however they are cut into reads."""
    for error in (None, ConnectionResetError("reset")):
        assert _response([data], error) == _response(_pieces(data), error)


def sse(data: bytes) -> None:
    """Events are the same however the stream is cut into reads."""
    _same_however_cut(lambda: SseParser(_limit(data)), data)


def ndjson(data: bytes) -> None:
    """Lines are the same however the stream is cut into reads."""
    _same_however_cut(lambda: NdjsonParser(_limit(data)), data)


def error_body(data: bytes) -> None:
    """The body of an answer that is no success: an error of every dialect, with words."""
    for name in HTTP_DIALECTS:
        for status in (400, 429, 500):
            assert _dialect(name).error(status, read_error_body(data), None).message


def streamed(name: str) -> Target:
    """A streamed answer: events in their order and their end, or a `GatewayError`; the same however it is cut."""

    def target(data: bytes) -> None:
        limit = _limit(data)
        found = _decoded(name, [data], limit=limit)
        assert found == _decoded(name, _pieces(data), limit=limit)
        _decoded(name, [data], limit=limit, cut=True)

    return target


def whole(name: str) -> Target:
    """An unstreamed answer: events in their order and their end, or a `GatewayError`."""

    def target(data: bytes) -> None:
        _decoded(name, [data], limit=_limit(data), stream=False)

    return target


TARGETS: dict[str, Target] = {
    "client_lines": client_lines,
    "configuration": configuration,
    "response": response,
    "sse": sse,
    "ndjson": ndjson,
    "error_body": error_body,
    **{f"{name}_streamed": streamed(name) for name in sorted(HTTP_DIALECTS)},
    **{f"{name}_whole": whole(name) for name in sorted(HTTP_DIALECTS)},
}


def play(name: str, data: bytes) -> None:
    """One input of a target, within its time and memory; now and then, by its checksum, stretched as well."""
    _bounded(name, data)
    number = zlib.crc32(data)
    if data and number % 64 == 0:
        _bounded(name, stretched(data, SEPARATORS[number // 64 % len(SEPARATORS)]))


def play_stretched(name: str, data: bytes) -> None:
    """One input, stretched in each way."""
    for separator in SEPARATORS:
        _bounded(name, stretched(data, separator))


def stretched(data: bytes, separator: bytes) -> bytes:
    """`data` with some of what stands between its separators repeated: whole events, members of an array, or bytes."""
    parts = data.split(separator) if separator else [data[i : i + 1] for i in range(len(data))]
    quarter = len(parts) // 4
    middle = parts[quarter : len(parts) - quarter]
    size = len(separator.join(middle)) + len(separator)
    times = max(1, STRETCHED // max(size, 1))
    return separator.join([*parts[:quarter], *middle * times, *parts[len(parts) - quarter :]])


def seeds(name: str) -> list[bytes]:
    """Inputs that are right, to begin with."""
    if name == "client_lines":
        return [line.encode() for line in _said_by_clients()]
    if name == "configuration":
        return [path.read_bytes() for path in sorted((*ROOT.glob("*.jsonc"), *ROOT.glob("tests/config/*.jsonc")))]
    if name == "response":
        answers = [(r, "event-stream" if r.streamed else "json") for r in recordings()]
        return [head % kind.encode() + body for r, kind in answers for head, body in _framings(r.answer)]
    if name == "sse":
        return [r.answer for r in recordings() if (r.folder / "response.sse").exists()]
    if name == "ndjson":
        return [r.answer for r in recordings() if (r.folder / "response.ndjson").exists()]
    if name == "error_body":
        return [b'{"error":{"message":"no","code":"x"}}', *(r.answer for r in recordings() if r.status != 200)]
    dialect, _, manner = name.rpartition("_")
    of_dialect = [r for r in recordings() if r.dialect_name == dialect]
    found = [r.answer for r in of_dialect if r.streamed == (manner == "streamed")]
    return found or [r.answer for r in of_dialect]


def _framings(body: bytes) -> Iterator[tuple[bytes, bytes]]:
    """A head, and `body` behind it as HTTP frames it."""
    start = b"HTTP/1.1 200 OK\r\nContent-Type: text/%b\r\n"
    half = len(body) // 2
    chunks = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in (body[:half], body[half:]) if piece)
    yield start + b"Content-Length: %d\r\n\r\n" % len(body), body
    yield start + b"Transfer-Encoding: chunked\r\n\r\n", chunks + b"0\r\n\r\n"
    yield start + b"Connection: close\r\n\r\n", body


def mutator(name: str) -> Mutator:
    """Changes inputs of this target."""
    return Mutator(seeds(name))


def _bounded(name: str, data: bytes) -> None:
    memory = _peak()
    most_seconds = MOST_SECONDS + MOST_SECONDS_PER_MEGABYTE * len(data) / 1e6
    seconds = _seconds(name, data)
    grown = _peak() - memory  # of the process' peak: neither garbage from before nor other processes count
    for _ in range(TRIES - 1):
        if seconds >= most_seconds:
            seconds = _seconds(name, data)
    assert seconds < most_seconds, f"{seconds:.1f} s for {len(data)} bytes"
    assert grown < MOST_BYTES + MOST_BYTES_PER_BYTE * len(data), f"{grown} bytes of memory for {len(data)} bytes"


def _seconds(name: str, data: bytes) -> float:
    """The processor time that one input takes."""
    numbers = count(1)
    with patch.object(tool_calls, "uuid4", lambda: UUID(int=next(numbers))):  # the same input does the same each time
        began = time.process_time()
        TARGETS[name](data)
        return time.process_time() - began


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _same_however_cut(parser: Callable[[], SseParser | NdjsonParser], data: bytes) -> None:
    assert _payloads(parser(), [data]) == _payloads(parser(), _pieces(data))


def _response(chunks: list[bytes], error: Exception | None) -> tuple[Any, ...]:
    body: list[bytes] = []
    parser = ResponseParser(body)
    for chunk in chunks:
        parser.feed(chunk)
    reusable = parser.reusable
    parser.feed_eof(error)
    names = (b"content-type", b"content-encoding", b"retry-after")
    headers = [*map(parser.header, names), *parser.codings(b"content-encoding")] if parser.status else []
    kind = parser.failure and parser.failure.kind
    found = (parser.phase, parser.status, headers, b"".join(body), kind, reusable)
    parser.close()
    return found


def _payloads(parser: SseParser | NdjsonParser, chunks: list[bytes]) -> tuple[list[bytes], str | None]:
    found: list[bytes] = []
    kind: str | None = None
    try:
        for chunk in chunks:
            found += parser.feed(chunk)
        found += parser.close()
    except BrokenStream as error:
        found += error.payloads
        kind = error.kind
    assert kind in (None, "protocol_violation")
    return found, kind


class _Sink:
    """A client that reads at once."""

    blocked = False

    def __init__(self) -> None:
        self.events: list[GatewayEvent] = []

    def write(self, events: Sequence[GatewayEvent]) -> None:
        self.events.extend(events)

    async def drained(self) -> None:
        """Never called."""


def _decoded(
    name: str, chunks: list[bytes], *, limit: int, stream: bool = True, cut: bool = False
) -> tuple[list[Any], str | None]:
    """The frames of an answer, each of which is a line that a client can read, and the kind of its error."""
    request = _request()
    events, error = recorded.decode(_dialect(name), request, chunks, stream=stream, cut=cut, limit=limit)
    assert_in_order(events, error)
    sink = _Sink()
    ResponseNormalizer(sink, request.include_reasoning, time.monotonic, lambda call: call())(events)
    for line in FrameEncoder("fuzz").events(sink.events).splitlines():
        strict_json.parse(line)
    passed_on = [event for event in sink.events if not isinstance(event, Started | Failed | OperationResult)]
    frames = recorded.wire_events(passed_on, error, request)
    if error is not None:
        assert error.kind != "internal"
        assert error.message
    return frames, error.kind if error is not None else None


def _limit(data: bytes) -> int:
    """The most bytes of one event: now and then, by the checksum of `data`, so few that it matters."""
    number = zlib.crc32(data)
    return LIMIT if number % 4 else 16 + (number >> 2) % 1024


def _pieces(data: bytes) -> list[bytes]:
    """`data` in pieces of one size, which its checksum decides: at most 300 pieces."""
    size = max(1 + zlib.crc32(data) % 40, len(data) // 300)
    return [data[start : start + size] for start in range(0, len(data), size)]


@cache
def _folder() -> tempfile.TemporaryDirectory[str]:
    return tempfile.TemporaryDirectory()


@cache
def _dialect(name: str) -> HttpDialect:
    return recorded.dialect(name)


@cache
def _request() -> Any:
    return recorded.canonical(
        {
            "type": "infer",
            "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}],
            "include_reasoning": True,
            "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        }
    )


def _said_by_clients() -> Iterator[str]:
    for recording in recordings():
        yield json.dumps(json.loads((recording.folder / "request.json").read_text()), ensure_ascii=False)
    for path in sorted((ROOT / "protocol" / "transcripts").glob("*.ndjson")):
        for line in path.read_text().splitlines():
            if line.startswith(">"):
                yield line[1:].strip()
