"""The framing of one HTTP/1.1 response: bytes in; head, pieces of the body, and its end or failure out. No I/O.

llhttp, which Node.js uses, reads the syntax (httptools). This module adds what llhttp leaves to its caller: limits for
what is not body, a body that ends with the connection, and which responses leave their connection usable.
Source: RFC 9112, "HTTP/1.1".
"""

from __future__ import annotations

from typing import Literal, NamedTuple

import httptools

MAX_FRAMING_BYTES = 64 * 1024
"""The most bytes of a response's head, interim responses included, and of the framing between two pieces of a body."""


Phase = Literal["head", "body", "ended", "failed"]
"""Where in the response the parser stands."""


class Failure(NamedTuple):
    """Why there is no complete response."""

    kind: Literal["cut", "not_http"]
    """`cut`: it did not come to its end, another attempt may help. `not_http`: the peer breaks the protocol."""
    reason: str


class ResponseParser:
    """Parses one response. How its bytes are divided into reads makes no difference to the result.

    Args:
        body: Where the pieces of the body are appended, one per chunk and read; whoever delivers them empties it.
    """

    __slots__ = (
        "_body",
        "_framing_bytes",
        "_headers",
        "_keep_alive",
        "_llhttp",
        "_until_close",
        "failure",
        "on_body",
        "phase",
        "status",
    )

    def __init__(self, body: list[bytes]) -> None:
        self.phase: Phase = "head"
        self.status = 0
        """The response's status; 0 before its head is complete. Interim responses (1xx) are passed over."""
        self.failure: Failure | None = None
        """Set in the phase `failed`."""
        self.on_body = body.append  # called by llhttp
        self._body = body
        self._headers: dict[bytes, list[bytes]] = {}
        self._framing_bytes = 0
        self._keep_alive = False
        self._until_close = False
        self._llhttp = httptools.HttpResponseParser(self)

    @property
    def reusable(self) -> bool:
        """Whether the response has ended and left its connection usable for another one."""
        return self.phase == "ended" and self._keep_alive

    def header(self, name: bytes) -> str | None:
        """The value of a header, once `status` is set; the last one where it is repeated. `name` in lower case."""
        values = self._headers.get(name)
        return None if values is None else values[-1].decode("latin-1")

    def codings(self, name: bytes) -> list[str]:
        """The members of a list-valued header (`Content-Encoding`, `Transfer-Encoding`), in lower case, in order."""
        values = self._headers.get(name)
        if values is None:
            return []
        text = b",".join(values).decode("latin-1")
        return [member for part in text.split(",") if (member := part.strip().lower())]

    def feed(self, data: bytes) -> None:
        """Parses the next bytes of the connection."""
        if self.phase != "body":
            data = self._feed_outside_body(data)
            if not data:
                return
        try:
            self._llhttp.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reject(error)
        if self._body:
            self._framing_bytes = 0
        else:
            self._framing_bytes += len(data)
            if self._framing_bytes > MAX_FRAMING_BYTES:
                self._fail("not_http", f"more than {MAX_FRAMING_BYTES} bytes between two pieces of its body")

    def feed_eof(self, error: Exception | None = None) -> None:
        """Notes the end of the connection.

        Args:
            error: Why it ended; None for an orderly end, which also ends a body without a length of its own.
        """
        self._keep_alive = False
        if self.phase == "body" and self._until_close and error is None:
            self.phase = "ended"
        else:
            self._fail("cut", str(error or ("inside its response" if self.status else "no response came")))

    def close(self) -> None:
        """Breaks the reference cycle with llhttp's parser. Nothing can be fed afterwards."""
        del self._llhttp

    def _feed_outside_body(self, data: bytes) -> bytes:
        """Parses what belongs to the head, or comes after the end; returns the rest, which is body."""
        while data and self.phase == "head":
            allowed = MAX_FRAMING_BYTES - self._framing_bytes
            if not allowed:
                self._fail("not_http", f"its head has more than {MAX_FRAMING_BYTES} bytes")
                break
            piece, data = data[:allowed], data[allowed:]
            self._framing_bytes += len(piece)
            self._parse(piece)
        if self.phase == "body":
            self._framing_bytes = 0
            return data
        if data and self.phase == "ended":
            self._parse(data)
        return b""

    def _parse(self, data: bytes) -> None:
        try:
            self._llhttp.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade) as error:
            self._reject(error)

    def _reject(self, error: Exception) -> None:
        self._keep_alive = False
        if self.status:
            self._fail("cut", f"its body is broken: {error}")
        else:
            self._fail("not_http", str(error.__context__ or error))

    def _fail(self, kind: Literal["cut", "not_http"], reason: str) -> None:
        """Ends a response that has neither ended nor failed."""
        if self.phase in ("head", "body"):
            self.phase = "failed"
            self.failure = Failure(kind, reason)

    # --- called by llhttp; `on_body` is above --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self.phase == "ended":
            raise ValueError("there is more after the end of the response")

    def on_header(self, name: bytes, value: bytes) -> None:
        if self.phase == "head":  # else it is a trailer: nothing here reads those
            self._headers.setdefault(name.lower(), []).append(value)

    def on_headers_complete(self) -> None:
        status = self._llhttp.get_status_code()
        if 100 <= status < 200:
            self._headers.clear()
            return
        if status < 100:
            raise ValueError(f"there is no status {status}")
        headers = self._headers
        chunked = headers.get(b"transfer-encoding") == [b"chunked"]
        if not chunked and b"transfer-encoding" in headers:
            codings = self.codings(b"transfer-encoding")
            if codings not in ([], ["identity"], ["chunked"]):
                raise ValueError(f"its Transfer-Encoding {', '.join(codings)!r} is none that was asked for")
            chunked = "chunked" in codings
        self.status = status
        self.phase = "body"
        self._keep_alive = self._llhttp.should_keep_alive()
        self._until_close = not chunked and b"content-length" not in headers

    def on_message_complete(self) -> None:
        if self.phase == "body":  # else it was an interim response
            self.phase = "ended"
