"""The shared HTTP edge: all of aiohttp. Moves bytes between a backend and a dialect's two pure halves.

What aiohttp would do by itself and must not: no total timeout of its own, no redirects, no decompression, no cookies,
no proxy or credentials from the environment. Its exceptions end here, renamed to `GatewayError`.
"""

from __future__ import annotations

import asyncio
import fcntl
import io
import socket
import ssl
import struct
import termios
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager, nullcontext, suppress
from typing import TYPE_CHECKING, Any, cast

import aiohttp
from multidict import CIMultiDict
from pydantic import JsonValue
from pydantic_core import to_json
from yarl import URL

from .. import __version__
from ..canonical import CanonicalRequest, JsonObject, ResolvedCredential
from ..config import BackendProfile
from ..errors import GatewayError, cut_off, invalid_request, protocol_violation
from .base import BackendAdapter, Call, Emit, HttpDialect, SilenceTimer, overridden
from .http_answer import LATE_USAGE_SECONDS, Answer, ResponseTap
from .provider_errors import read_error_body, retry_after_ms

if TYPE_CHECKING:
    from ..model_server import ModelServer

PIECE_BYTES = 256 * 1024
"""A request body up to this is handed over in one piece."""

ERROR_BODY_BYTES = 64 * 1024
"""Of an answer that is no success: enough for every provider's message."""

ERROR_BODY_SECONDS = 1.0
"""How long that body may take, once the status is there."""


class HttpAdapter(BackendAdapter):
    """One HTTP backend: a dialect, a pool of connections and, with `launch`, the server it talks to."""

    def __init__(self, dialect: HttpDialect) -> None:
        profile = dialect.profile
        self._dialect = dialect
        self._profile = profile
        self._base, self._unix_path = base_url(profile.backend.endpoint or "")
        self._session: aiohttp.ClientSession | None = None
        self._ending: set[_Response] = set()
        """Complete answers whose responses have not ended."""
        self._server = self._launched()
        self._stream_headers = _headers(_ACCEPT[dialect.framing])
        self._whole_headers = _headers("application/json")
        self._urls: dict[str, URL] = {}
        self.capabilities = overridden(dialect.capabilities, profile)

    async def start(self) -> None:
        if self._server is not None:
            await self._server.start()

    def prepare(self, request: CanonicalRequest, model: str, credential: ResolvedCredential) -> Call:
        wanted = self._dialect.encode(request, model)
        if request.tool_choice == "required" and not request.tools:
            raise invalid_request("tool_choice: 'required', but there are no tools")
        if request.provider_options:
            merge_options(wanted.body, request.provider_options)
        headers = (self._stream_headers if request.stream else self._whole_headers).copy()
        if request.request_id.isascii() and request.request_id.isprintable():
            headers["X-Request-Id"] = request.request_id
        headers.update(wanted.headers)
        headers.update(self._profile.backend.headers)
        if credential.secret is not None:
            headers.update(self._dialect.auth_headers(credential.secret))
        return HttpCall(self, self._dialect, request, self._url(wanted.path), headers, to_json(wanted.body))

    async def probe(self, credential: ResolvedCredential) -> str:
        headers = {"Accept-Encoding": "identity"}
        if credential.secret is not None:
            headers |= self._dialect.auth_headers(credential.secret)
        url = self._url(self._dialect.probe_path)
        async with self.serving(), self.response("GET", url, headers, None) as response:
            if not 200 <= response.status < 300:
                raise await self.failure(response)
            return f"HTTP {response.status} from {self._dialect.probe_path}"

    async def close(self) -> None:
        for response in self._ending:
            response.close()
        async with AsyncExitStack() as stack:
            if self._server is not None:
                stack.push_async_callback(self._server.close)
            if self._session is not None:
                stack.push_async_callback(self._session.close)

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Around every use of a server that we launch: waits until it is ready, and keeps it from an idle stop."""
        return _NOTHING if self._server is None else _serving(self._server)

    @asynccontextmanager
    async def response(self, method: str, url: URL, headers: Any, body: bytes | None) -> AsyncIterator[_Response]:
        """One exchange. Leaving the block before the response has ended closes its connection: that is the cancel.

        Raises:
            GatewayError: For everything that aiohttp may raise, here or inside the block.
        """
        if self._session is None:
            self._session = self._open_session()
        response: _Response | None = None
        # A large body goes in pieces, so that others have their turn in between.
        data = io.BytesIO(body) if body is not None and len(body) > PIECE_BYTES else body
        try:
            response = cast(
                _Response, await self._session.request(method, url, headers=headers, data=data, allow_redirects=False)
            )
            yield response
        except (aiohttp.ClientError, OSError, UnicodeError) as error:
            raise rename(error, self._profile) from error
        finally:
            if response is not None and not response.closed:
                self._let_go(response)

    def _let_go(self, response: _Response) -> None:
        """At once, unless the answer is complete: then the end of the response has a moment to come, so that the
        connection can be used again. Nobody waits for that.
        """
        if not response.complete:
            response.close()
            return

        def time_is_up() -> None:
            self._ending.discard(response)
            response.close()

        self._ending.add(response)
        asyncio.get_running_loop().call_later(LATE_USAGE_SECONDS, time_is_up)

    async def failure(self, response: aiohttp.ClientResponse) -> GatewayError:
        """The error for an answer that is no success. Its status decides, whatever becomes of the body."""
        body = bytearray()
        with suppress(TimeoutError, aiohttp.ClientError, OSError):
            async with asyncio.timeout(ERROR_BODY_SECONDS):
                while len(body) < ERROR_BODY_BYTES and (chunk := await response.content.readany()):
                    body += chunk
        return self._dialect.error(
            response.status, read_error_body(bytes(body[:ERROR_BODY_BYTES])), _retry_after(response)
        )

    def _launched(self) -> ModelServer | None:
        launch = self._profile.backend.launch
        if launch is None:
            return None
        from ..model_server import ModelServer  # only configurations that launch something pay for the import

        async def answers() -> bool:
            async with self.response("GET", self._base.origin().with_path(launch.ready_path), {}, None) as response:
                return response.status == 200

        endpoint = self._profile.backend.endpoint or ""
        return ModelServer(launch, endpoint, answers, backend_id=self._profile.id, folder=self._profile.folder)

    def _url(self, path: str) -> URL:
        """`path`, which may have a query of its own, below the endpoint, which may have one too (Azure's version)."""
        url = self._urls.get(path)
        if url is None:
            name, _, query = path.partition("?")
            url = self._base.with_path(self._base.path.rstrip("/") + name, encoded=False, keep_query=True)
            url = url.update_query(query) if query else url
            if len(self._urls) < _MOST_URLS:  # Gemini has the model in it, which a client chooses
                self._urls[path] = url
        return url

    def _open_session(self) -> aiohttp.ClientSession:
        reliability = self._profile.reliability
        connector: aiohttp.BaseConnector = (
            aiohttp.TCPConnector(limit=0, ttl_dns_cache=60)
            if self._unix_path is None
            else aiohttp.UnixConnector(self._unix_path, limit=0)
        )
        return aiohttp.ClientSession(
            connector=connector,
            response_class=_Response,
            cookie_jar=aiohttp.DummyCookieJar(),
            auto_decompress=False,
            # ceil_threshold: aiohttp rounds timeouts above it up to whole seconds; we want them as configured.
            timeout=aiohttp.ClientTimeout(
                total=None, connect=reliability.connect_timeout_ms / 1000, ceil_threshold=1e9
            ),
            read_bufsize=64 * 1024,
        )


class HttpCall:
    """One request, encoded; see `Call`."""

    __slots__ = ("_adapter", "_body", "_dialect", "_headers", "_limit", "_request", "_url")

    def __init__(
        self,
        adapter: HttpAdapter,
        dialect: HttpDialect,
        request: CanonicalRequest,
        url: URL,
        headers: CIMultiDict[str],
        body: bytes,
    ) -> None:
        self._adapter = adapter
        self._dialect = dialect
        self._request = request
        self._url = url
        self._headers = headers
        self._body = body
        self._limit = dialect.profile.reliability.max_event_bytes

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        async with self._adapter.serving():
            timer.connected()  # aiohttp times the connecting itself
            async with self._adapter.response("POST", self._url, self._headers, self._body) as response:
                if not 200 <= response.status < 300:
                    raise await self._adapter.failure(response)
                if response.headers.get("Content-Encoding", "identity") != "identity":
                    raise protocol_violation("the backend compressed its answer, although it was asked not to")
                decoder = self._dialect.decoder(self._request)
                answer = Answer(decoder, self._dialect.framing, self._limit, emit, timer)
                with ResponseTap(response) as tap:
                    response.complete = await answer.read(tap, self._request.stream)


_ACCEPT = {"sse": "text/event-stream", "ndjson": "application/x-ndjson"}
_MOST_URLS = 64
_NOTHING = nullcontext()


def _headers(accept: str) -> CIMultiDict[str]:
    """What every request to a backend has, before the dialect and the configuration say more."""
    return CIMultiDict(
        {
            "Content-Type": "application/json",
            "Accept": accept,
            "Accept-Encoding": "identity",
            "User-Agent": f"beluna-gateway/{__version__}",
        }
    )


@asynccontextmanager
async def _serving(server: ModelServer) -> AsyncIterator[None]:
    async with server.in_use():
        await server.ready()
        yield


class _Response(aiohttp.ClientResponse):
    """Closing it aborts the connection: what is still to be sent or received is of no use any more."""

    complete = False
    """The answer is all there; only HTTP's own end of the response may be missing."""

    def close(self) -> None:
        # aiohttp's own close() would first flush the rest of a request body, which a stuck backend never reads.
        if self.connection is not None and self.connection.transport is not None:
            _reset_if_unsent(self.connection.transport)
            self.connection.transport.abort()
        super().close()


def _reset_if_unsent(transport: asyncio.Transport) -> None:
    """Has the connection end with RST where the kernel still holds bytes of ours: a FIN would come after them, which is
    never, where the backend does not read.
    """
    raw = transport.get_extra_info("socket")
    unsent = bytearray(4)
    with suppress(OSError):
        fcntl.ioctl(raw.fileno(), termios.TIOCOUTQ, unsent)
        if any(unsent):
            raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _read(content: aiohttp.StreamReader) -> bytes:
    """Some bytes. What came before the connection broke is handed out first; aiohttp would drop it."""
    try:
        return await content.readany()
    except (aiohttp.ClientError, OSError):
        if content._buffer:  # noqa: SLF001
            return content._read_nowait(-1)  # noqa: SLF001
        raise


def base_url(endpoint: str) -> tuple[URL, str | None]:
    """The URL that a dialect's paths are appended to, and the Unix socket that it is reached by, if it is.

    ``unix:/path`` may be followed by a path on that server: ``unix:/run/llama.sock:/v1``.
    """
    if endpoint.startswith("unix:"):
        socket_path, _, path = endpoint.removeprefix("unix:").partition(":")
        return URL("http://localhost" + path), socket_path
    return URL(endpoint), None


def merge_options(body: JsonObject, options: JsonObject, at: str = "provider_options") -> None:
    """Merges a request's `provider_options` into `body`, objects at every depth.

    Raises:
        GatewayError: `invalid_request`, where a key is one that the gateway has set for this request.
    """
    for key, value in options.items():
        if key not in body:
            body[key] = value
            continue
        own: JsonValue = body[key]
        if not isinstance(own, dict) or not isinstance(value, dict):
            raise invalid_request(
                f"{at}.{key}: the gateway sets this itself for this request, it may not be overridden"
            )
        merge_options(own, value, f"{at}.{key}")


def _retry_after(response: aiohttp.ClientResponse) -> int | None:
    milliseconds = response.headers.get("retry-after-ms")  # OpenAI's and Azure's finer twin
    if milliseconds is not None and milliseconds.strip().isdecimal():
        return int(milliseconds)
    return retry_after_ms(response.headers.get("Retry-After"), time.time())


def rename(error: Exception, profile: BackendProfile) -> GatewayError:
    """Aiohttp's and the system's exceptions → ours."""
    endpoint = profile.backend.endpoint
    if isinstance(error, aiohttp.ServerTimeoutError | TimeoutError):
        limit = profile.reliability.connect_timeout_ms
        return GatewayError(
            "timeout", f"no connection to {endpoint} within {limit} ms (reliability.connect_timeout_ms)", retryable=True
        )
    if isinstance(error, UnicodeError):  # from the codec for international host names
        return GatewayError(
            "backend_transient", f"no connection to {endpoint}: no host has such a name", retryable=True
        )
    if isinstance(error, aiohttp.ClientConnectorCertificateError | ssl.SSLCertVerificationError):
        return GatewayError("backend_permanent", f"the TLS certificate of {endpoint} is not accepted: {error}")
    if isinstance(error, aiohttp.ClientConnectorError):
        if isinstance(error.os_error, ssl.SSLCertVerificationError):
            return GatewayError(
                "backend_permanent", f"the TLS certificate of {endpoint} is not accepted: {error.os_error}"
            )
        return GatewayError("backend_transient", f"no connection to {endpoint}: {error.os_error}", retryable=True)
    if isinstance(
        error, aiohttp.ClientPayloadError | aiohttp.ServerDisconnectedError | aiohttp.ClientOSError | OSError
    ):
        return cut_off(f"the connection to {endpoint} was cut: {error}")
    if isinstance(error, aiohttp.ClientResponseError):
        return protocol_violation(f"{endpoint} does not speak HTTP as it should: {error.message}")
    return GatewayError("backend_permanent", f"the exchange with {endpoint} failed: {type(error).__name__}: {error}")
