"""The HTTP adapter: sends what a dialect encodes, and feeds the response to the dialect's decoder.

Unlike general HTTP clients it follows no redirects, keeps no cookies, takes no proxy or credentials from the
environment, does not ask for compression, and does not send a request again by itself.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, nullcontext, suppress
from functools import partial
from http import HTTPStatus
from typing import TYPE_CHECKING

from ...canonical import CanonicalRequest, ModelList, Operation, ResolvedCredential
from ...config.settings import is_azure
from ...config.tls_files import system_context
from ...errors import GatewayError, invalid_request, protocol_violation
from ...telemetry.service import ProgramStatus
from ...telemetry.trace_context import TraceContext, trace_context
from ...wire import json_pieces
from ..base import (
    BackendAdapter,
    Call,
    Emit,
    HttpDialect,
    HttpRequest,
    ModelAnswer,
    ResponseDecoder,
    SilenceTimer,
    overridden,
    parse_object,
)
from ..decoding.error_waits import wait_ms, with_wait
from ..decoding.provider_errors import read_error_body
from ..encoding.provider_options import merge_options
from .answer import Answer
from .compression import decompressed
from .connections import BrokenExchange, ConnectionPool
from .exchange import Exchange
from .request_head import RequestHeads, base_url, head_of_get

if TYPE_CHECKING:
    from ...processes.model_server import ModelServer

ERROR_BODY_BYTES = 64 * 1024
"""The most bytes that are read of an error body, and of its text: enough for every provider's message."""

MAX_LIST_BYTES = 16 * 1024 * 1024
"""Of a page of models for `probe_model`; the longest seen is OpenRouter's, with less than 1 MiB."""

ERROR_BODY_SECONDS = 1.0
"""How long an error body may take, once its status is there."""


class HttpAdapter(BackendAdapter):
    """One HTTP backend: a dialect, a pool of connections and, with `launch`, the server program behind it."""

    def __init__(self, dialect: HttpDialect) -> None:
        profile = dialect.profile
        self._dialect = dialect
        self._profile = profile
        self._base, self._unix_path = base_url(profile.backend.endpoint or "")
        self._pool: ConnectionPool | None = None
        self._server = self._launched()
        self._heads = RequestHeads(self._base, dialect)
        self._proxy_credential: str | None = None
        self.capabilities = overridden(dialect.capabilities, profile)

    @property
    def program(self) -> ProgramStatus | None:
        return None if self._server is None else self._server.status

    async def start(self) -> None:
        if self._base.scheme == "https" and self._profile.backend.tls is None:
            await asyncio.to_thread(system_context)  # the first connection would wait for it
        if self._server is not None:
            await self._server.start()

    def prepare(self, request: CanonicalRequest, model: str, credential: ResolvedCredential) -> Call:
        wanted = self._dialect.encode(request, model)
        if request.tool_choice == "required" and not request.tools:
            raise invalid_request("tool_choice: 'required', but there are no tools")
        merge_options(wanted.body, request.provider_options)
        decoder = partial(self._dialect.decoder, request, model)
        trace = self.trace_of(request.metadata)
        call = self.call(wanted, decoder, request.request_id, credential, stream=request.stream, trace=trace)
        encoded = [wanted]
        del wanted
        json_pieces.free(encoded)
        return call

    def prepare_operation(self, request: Operation, model: str, credential: ResolvedCredential) -> Call:
        from .operations import operation_call  # most daemons never need it

        return operation_call(self, self._dialect, request, model, credential)

    def trace_of(self, metadata: Mapping[str, str]) -> TraceContext | None:
        """The caller's trace, where the configuration says to send it on."""
        return trace_context(metadata) if self._profile.propagate_trace else None

    def call(
        self,
        wanted: HttpRequest,
        decoder: Callable[[], ResponseDecoder],
        request_id: str,
        credential: ResolvedCredential,
        *,
        stream: bool = False,
        method: str = "POST",
        trace: TraceContext | None = None,
    ) -> HttpCall:
        """One HTTP request and its answer, read by a fresh `decoder` in each attempt."""
        self._proxy_credential = credential.proxy
        body = b"" if method == "GET" else json_pieces.dump(wanted.body)
        length = None if method == "GET" else len(body)
        head = self._heads.write(wanted, request_id, credential.secret, length, stream=stream, trace=trace)
        return HttpCall(self, self._dialect, decoder, stream, head, body)

    async def probe(self, credential: ResolvedCredential) -> str:
        async with self.serving():
            seen, _ = await self._get(self._dialect.probe_path, credential)
        return seen

    async def probe_model(self, credential: ResolvedCredential, model: str) -> tuple[str, ModelAnswer]:
        from ..operations.model_lists import ModelPages, find_model  # for `check` only

        pages, listed = ModelPages(self._dialect.name, self._dialect.probe_path), ModelList([])
        async with self.serving():
            seen, body = await self._get(pages.path or "", credential)
            with suppress(GatewayError):  # reached it is, also where this is no list, or not all of one
                listed = pages.read(parse_object(body))
                while pages.path is not None:
                    _, body = await self._get(pages.path, credential)
                    listed = pages.read(parse_object(body))
            found = find_model(model, listed)
            if found.known is False and pages.path is not None:
                found = ModelAnswer(None, "cannot tell: the list of models could not be read to its end")
            if is_azure(self._profile.backend.endpoint):
                found = ModelAnswer(None, "cannot tell: Azure lists models, and requests name deployments")
            elif not found.known and (path := self._dialect.model_path(model)) is not None:
                found = await self._find(path, found, credential)
            return seen, found

    async def _find(self, path: str, found: ModelAnswer, credential: ResolvedCredential) -> ModelAnswer:
        """Asks for the model itself, which is not in the list."""
        try:
            await self._get(path, credential)
        except GatewayError as error:
            if error.provider_http_status == HTTPStatus.NOT_FOUND:
                return found
            return ModelAnswer(None, f"cannot tell: {error.kind}: {error.message}")
        return ModelAnswer(True, "known by this name")

    async def _get(self, path: str, credential: ResolvedCredential) -> tuple[str, bytes]:
        """What was seen, in a few words, and the body, up to `MAX_LIST_BYTES` of it.

        Raises:
            GatewayError: It was no success.
        """
        self._proxy_credential = credential.proxy
        body = bytearray()

        def collect(chunk: bytes) -> bool:
            body.extend(chunk)
            return len(body) > MAX_LIST_BYTES

        async with self.exchange(self._heads.plain(path, credential.secret)) as exchange:
            await exchange.head()
            if not 200 <= exchange.status < 300:
                raise await self.failure(exchange)
            with suppress(BrokenExchange):  # reached it is; a list that is cut tells nothing
                await exchange.until(collect)
            return f"HTTP {exchange.status} from {path.partition('?')[0]}", bytes(body)

    async def close(self) -> None:
        async with AsyncExitStack() as stack:
            if self._server is not None:
                stack.push_async_callback(self._server.close)
            if self._pool is not None:
                stack.push_async_callback(self._pool.close)

    def serving(self) -> AbstractAsyncContextManager[None]:
        """Surrounds every use of a launched server: waits until it is ready, and prevents its idle stop."""
        return _NOTHING if self._server is None else self._server.use()

    def exchange(self, head: bytes, body: bytes = b"") -> Exchange:
        """One request and its response: ``async with adapter.exchange(…) as exchange:``."""
        if self._pool is None:
            self._pool = ConnectionPool(self._base, self._unix_path, self._profile)
        self._pool.proxy_credential = self._proxy_credential
        return Exchange(self._pool, head, body)

    async def failure(self, exchange: Exchange) -> GatewayError:
        """The error for a response with a status other than 2xx. The status decides, also where its body breaks."""
        body = bytearray()

        def collect(chunk: bytes) -> bool:
            body.extend(chunk)
            return len(body) >= ERROR_BODY_BYTES

        with suppress(TimeoutError, BrokenExchange):
            async with asyncio.timeout(ERROR_BODY_SECONDS):
                await exchange.until(collect)
        error = read_error_body(decompressed(bytes(body), exchange.content_codings(), ERROR_BODY_BYTES))
        wait = wait_ms(
            error,
            time.time(),
            retry_after=exchange.header(b"retry-after"),
            milliseconds=(exchange.header(b"retry-after-ms"), exchange.header(b"x-ms-retry-after-ms")),
        )
        return self._dialect.error(exchange.status, error, wait)

    def _launched(self) -> ModelServer | None:
        launch = self._profile.backend.launch
        if launch is None:
            return None
        from ...processes.model_server import (
            ModelServer,  # imported only where a configuration launches a server
        )

        async def answers() -> bool:
            url = self._base.origin().with_path(launch.ready_path)
            async with self.exchange(head_of_get(url)) as exchange:
                await exchange.head()
                return exchange.status == 200

        endpoint = self._profile.backend.endpoint or ""
        return ModelServer(launch, endpoint, answers, folder=self._profile.folder)


class HttpCall:
    """One request, encoded; see `Call`."""

    __slots__ = ("_adapter", "_body", "_decoder", "_framing", "_head", "_limit", "_stream")

    def __init__(
        self,
        adapter: HttpAdapter,
        dialect: HttpDialect,
        decoder: Callable[[], ResponseDecoder],
        stream: bool,
        head: bytes,
        body: bytes,
    ) -> None:
        self._adapter = adapter
        self._framing = dialect.framing
        self._decoder = decoder
        self._stream = stream
        self._head = head
        self._body = body
        self._limit = dialect.max_event_bytes

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        async with self._adapter.serving():
            timer.connected()  # the pool has its own timer for connecting
            async with self._adapter.exchange(self._head, self._body) as exchange:
                # Created while the backend works on its answer.
                decoder = self._decoder()
                answer = Answer(decoder, self._framing, self._limit, emit, timer, self._adapter.aside)
                await exchange.head()
                if not 200 <= exchange.status < 300:
                    raise await self._adapter.failure(exchange)
                if codings := exchange.content_codings():
                    raise protocol_violation(
                        f"the backend compressed its answer (Content-Encoding {', '.join(codings)}), "
                        "although it was asked for identity"
                    )
                decoder.head(exchange.header)
                try:
                    exchange.complete = await answer.read(exchange, self._stream)
                except GatewayError as error:
                    if error.retry_at_ms is None:
                        raise
                    raise with_wait(error, time.time()) from error


_NOTHING = nullcontext()
