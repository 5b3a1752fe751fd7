"""The heads of the requests to one backend: request line and headers, as bytes. No I/O.

Source: RFC 9112, "HTTP/1.1". Names and values have been checked before: neither holds a line end.
"""

from __future__ import annotations

from collections.abc import Mapping

from multidict import CIMultiDict
from yarl import URL

from ...telemetry.trace_context import TraceContext
from ...version import __version__
from ..base import HttpDialect, HttpRequest

MAX_BEGINNINGS = 16
"""How many beginnings of heads are kept: paths may hold what clients choose (Gemini's have the model), and secrets are
renewed."""

_ACCEPT = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}


class RequestHeads:
    """Writes the heads of the requests to one backend.

    All but the request's own headers is the same for most requests, and is kept as text: putting a dozen headers
    together takes as long as checking a request's capabilities, budget and circuit.

    Args:
        base: The URL of the backend, which paths are appended to.
        dialect: Its headers and those of its profile.
    """

    def __init__(self, base: URL, dialect: HttpDialect) -> None:
        self._base = base
        self._dialect = dialect
        self._configured = CIMultiDict(dialect.profile.backend.headers)
        self._beginnings: dict[tuple[object, ...], str] = {}

    def url(self, path: str) -> URL:
        """The URL of a dialect's `path`. Both it and the backend's URL may have a query (Azure's `api-version`)."""
        name, _, query = path.partition("?")
        url = self._base.with_path(self._base.path.rstrip("/") + name, encoded=False, keep_query=True)
        return url.update_query(query) if query else url

    def write(
        self,
        request: HttpRequest,
        request_id: str,
        secret: str | None,
        length: int | None,
        *,
        stream: bool = False,
        trace: TraceContext | None = None,
    ) -> bytes:
        """One head. Of two headers of one name the configured one counts.

        Args:
            request: Its path, and headers of its own.
            request_id: Sent as `X-Request-Id` where HTTP can carry it.
            secret: The backend's.
            length: Of the body in bytes; None asks by GET, without a body.
            stream: Whether a streamed answer is asked for.
            trace: The caller's.
        """
        kept = (request.path, length is None, stream, secret, *request.headers.items())
        head = self._beginnings.get(kept)
        if head is None:
            head = self._beginning(request, secret, get=length is None, stream=stream)
            if len(self._beginnings) >= MAX_BEGINNINGS:
                self._beginnings.clear()
            self._beginnings[kept] = head
        if request_id.isascii() and request_id.isprintable() and "X-Request-Id" not in self._configured:
            head = f"{head}X-Request-Id: {request_id}\r\n"
        if trace is not None:
            head += _lines({name: value for name, value in trace.headers.items() if name not in self._configured})
        return f"{head}\r\n".encode() if length is None else f"{head}Content-Length: {length}\r\n\r\n".encode()

    def _beginning(self, request: HttpRequest, secret: str | None, *, get: bool, stream: bool) -> str:
        headers = CIMultiDict(
            {
                "Content-Type": "application/json",
                "Accept": _ACCEPT[self._dialect.framing] if stream else "application/json",
                "Accept-Encoding": "identity",
                "User-Agent": f"beluna-gateway/{__version__}",
            }
        )
        headers.update(request.headers)
        headers.update(self._configured)
        if secret is not None:
            headers.update(self._dialect.auth_headers(secret))
        if get:
            del headers["Content-Type"]
        return _request_line("GET" if get else "POST", self.url(request.path), headers)

    def plain(self, path: str, secret: str | None) -> bytes:
        """The head of a GET that says nothing but who asks."""
        headers = CIMultiDict({"Accept-Encoding": "identity"})
        if secret is not None:
            headers.update(self._dialect.auth_headers(secret))
        return head_of_get(self.url(path), headers)


def base_url(endpoint: str) -> tuple[URL, str | None]:
    """The URL that a dialect's paths are appended to, and the path of its Unix socket, None for TCP.

    ``unix:/path`` may be followed by a path on that server: ``unix:/run/llama.sock:/v1``.
    """
    if endpoint.startswith("unix:"):
        socket_path, _, path = endpoint.removeprefix("unix:").partition(":")
        return URL("http://localhost" + path), socket_path
    return URL(endpoint), None


def head_of_get(url: URL, headers: CIMultiDict[str] | None = None) -> bytes:
    """The head of a GET."""
    return f"{_request_line('GET', url, headers or CIMultiDict())}\r\n".encode()


def _request_line(method: str, url: URL, headers: CIMultiDict[str]) -> str:
    """The first line of a head, with the lines of `headers`, and of `Host` where it is not among them."""
    headers.setdefault("Host", url.host_port_subcomponent or "")
    return f"{method} {url.raw_path_qs} HTTP/1.1\r\n{_lines(headers)}"


def _lines(headers: Mapping[str, str]) -> str:
    return "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
