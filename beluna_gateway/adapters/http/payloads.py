"""The payloads in one event or line, as a `ResponseDecoder` is fed them; the one place that defines what is silence.

Data without content never reaches a decoder: empty data, `null` (what a program in Go writes of no chunk: kilocode
3083), and data that begins with a colon (a comment that was wrapped into an event). `[DONE]` becomes `DONE_MARK`. An
array of chunks becomes its elements.
"""

from __future__ import annotations

import re

from pydantic_core import from_json, to_json

from ...errors import GatewayError, protocol_violation
from ...wire import strict_json
from ..base import check_json_size
from ..decoding.provider_errors import find_error

DONE_MARK = b"[DONE]"
"""The payload that the parsers give for `[DONE]`: always this object, so that it is recognised with ``is``."""

NOTHING = b"null"

BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class BrokenStream(GatewayError):
    """The bytes of an answer cannot be read any further.

    Args:
        error: Why.
        payloads: What the same read completed before that. The caller decodes them first, so that how the bytes are
            divided into reads makes no difference.
    """

    __slots__ = ("payloads",)

    def __init__(self, error: GatewayError, payloads: list[bytes]) -> None:
        super().__init__(error.kind, error.message)
        self.payloads = payloads


_STRINGS = re.compile(rb'"(?:[^"\\]++|\\.)*+"?')  # possessive: linear in the line, also where a string never ends


def payloads_of(data: bytes) -> list[bytes]:
    """The payloads in the data of one event, or in one line.

    Raises:
        GatewayError: `protocol_violation`, for an array with more values than any answer has.
    """
    text = data.strip()
    if not text or text == NOTHING or text.startswith(b":"):
        return []
    if text == DONE_MARK:
        return [DONE_MARK]
    if text.startswith(b"["):
        return _elements(text)
    return [data]


def _elements(data: bytes) -> list[bytes]:
    """The elements of an array, each as JSON; `data` itself where it is not JSON, which the decoder refuses."""
    check_json_size(data)
    try:
        elements = from_json(data, allow_inf_nan=False)
    except ValueError:
        return [data]
    return [strict_json.rewritten(element) for element in elements]


def parses(payload: bytes) -> bool:
    """Whether `payload` is complete JSON."""
    try:
        from_json(payload)
    except ValueError:
        return False
    return True


def may_be_cut(payload: bytes) -> bool:
    """Whether `payload`, which is not JSON, may be the beginning of an object, of an array or of `[DONE]`."""
    if not payload.lstrip().startswith((b"{", b"[")):
        return False
    try:
        from_json(payload, allow_partial=True)
    except ValueError:
        return DONE_MARK.startswith(payload.strip())
    return True


def with_type(payload: bytes, kind: bytes) -> bytes:
    """`payload` with `kind` as its `type`, where it is an object that has none."""
    if payload.startswith(b'{"type":'):  # the fast way for what most servers send
        return payload
    try:
        value = from_json(payload)
    except ValueError:
        return payload
    if not isinstance(value, dict) or "type" in value:
        return payload
    return strict_json.rewritten({"type": kind.decode("utf-8", "replace"), **value})


def error_payload(value: bytes) -> bytes:
    """The payload for an error outside the event's JSON: an SSE field ``error:``, or an ``event: error``."""
    value = value.strip()
    try:
        from_json(value)
    except ValueError:
        value = to_json(value.decode("utf-8", "replace"))
    return b'{"error":%b}' % value


def named_error(data: bytes) -> bytes:
    """The payload for the data of an ``event: error``: as it is where it says so itself, else as an error."""
    try:
        value = from_json(data)
    except ValueError:
        return data if data.lstrip().startswith(b"{") else error_payload(data)
    return data if isinstance(value, dict) and find_error(value) is not None else error_payload(data)


def values_of(body: bytes, limit: int) -> list[bytes]:
    """The JSON values of a body that has one after the other, each of which begins on a line of its own.

    Args:
        body: What is not one JSON value.
        limit: The most bytes of one value.

    Returns:
        The values, of which there are several; none where the body is not that.
    """
    bare, values = BareJson(limit), list[bytes]()
    for line in body.splitlines():
        if line.strip() and not (bare.open or bare.begins(line)):
            return []
        values += bare.feed(line)
    return values if len(values) > 1 and not bare.open and all(map(parses, values)) else []


_ESCAPES = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}(?:\\u[dD][c-fC-F][0-9a-fA-F]{2})?|\\u[dD][c-fC-F][0-9a-fA-F]{2}|\\.", re.DOTALL
)
"""The escapes of a JSON text: pairs of surrogates, lone ones, and the beginning of any other."""
_MAX_JOINED = 128 * 1024
"""Bytes of a text whose escapes are looked through at once, some 20 ms."""
_LONE = 6  # bytes of one `\\uXXXX`


class SplitCharacters:
    """Joins characters beyond U+FFFF whose two surrogates a server wrote, as escapes, into two events.

    Gateways that count UTF-16 divide texts so (JavaScript, Java). Half a character is none, and makes a JSON text that
    cannot be read.
    """

    __slots__ = ("_high",)

    def __init__(self) -> None:
        self._high = b""  # the first half of a character, which ended a string

    def joined(self, payload: bytes, *, last: bool = False) -> bytes:
        """`payload` without halves; equal to it where it has none, or more than 128 KiB.

        A first half at the end of a string waits for a payload with a string that begins with the second, and is left
        out where none comes. Any other half is U+FFFD.

        Args:
            payload: A JSON text.
            last: No further payload follows.
        """
        if len(payload) > _MAX_JOINED:
            return payload

        def whole(escape: re.Match[bytes]) -> bytes:
            half = escape[0]
            if len(half) != _LONE:
                return half
            if half[3:4] in b"89abAB":
                if last or payload[escape.end() : escape.end() + 1] != b'"':
                    return _REPLACEMENT
                self._high = half
                return b""
            high, self._high = self._high, b""
            return high + half if high and payload[escape.start() - 1 : escape.start()] == b'"' else _REPLACEMENT

        return _ESCAPES.sub(whole, payload)


_REPLACEMENT = b"\\ufffd"


class BareJson:
    """Collects a JSON value that is written over several lines without the stream's framing.

    The elements of an array are given out as soon as they are complete, so that an answer that is one array of chunks
    is streamed.

    Args:
        limit: The most bytes of one value, or of one element of an array; more is a `protocol_violation`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._lines: list[bytes] = []
        self._size = 0
        self._depth = 0
        self._in_array = False
        self._passed_on = False  # elements of the value have been given out
        self.open = False
        """Whether a value has begun and not ended."""

    def begins(self, line: bytes) -> bool:
        """Whether `line` begins an object or array."""
        return line.lstrip()[:1] in (b"{", b"[") and line.strip() != DONE_MARK

    def feed(self, line: bytes) -> list[bytes]:
        """The payloads that `line` completes.

        Raises:
            GatewayError: `protocol_violation`, where a value is too large.
        """
        if not self.open:
            self.open = True
            self._in_array = line.lstrip().startswith(b"[")
            self._passed_on = False
            self._depth = 0
        self._lines.append(line)
        self._size += len(line) + 1
        if self._size > self._limit:
            raise protocol_violation(
                f"the backend sent one event of more than {self._limit} bytes (reliability.max_event_bytes)"
            )
        structure = _STRINGS.sub(b"", line)
        opened = structure.count(b"{") + structure.count(b"[")
        self._depth += opened - structure.count(b"}") - structure.count(b"]")
        if self._depth <= 0:
            self.open = False
            return self._take(last=True)
        return self._take(last=False) if self._in_array and self._depth == 1 else []

    def close(self) -> list[bytes]:
        """Gives out what was collected of a value that has not ended."""
        if not self.open:
            return []
        self.open = False
        return self._take(last=True)

    def _take(self, *, last: bool) -> list[bytes]:
        text = b"\n".join(self._lines).strip()
        self._lines.clear()
        self._size = 0
        if not self._passed_on and last:
            return payloads_of(text)
        # Elements of an array, without its brackets and the commas around them.
        text = text if self._passed_on else text.removeprefix(b"[")
        text = text.removesuffix(b"]") if last else text
        self._passed_on = True
        return payloads_of(b"[%b]" % text.strip(b", \t\r\n"))
