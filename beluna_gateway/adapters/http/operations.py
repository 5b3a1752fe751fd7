"""The calls of operations: embeddings, counts of tokens, lists of models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Protocol

from ...canonical import (
    BackendRawEvent,
    EmbeddingRequest,
    ModelListRequest,
    Operation,
    ResolvedCredential,
    TokenCountRequest,
)
from ...errors import GatewayError, unsupported
from ...telemetry.trace_context import TraceContext
from ...wire import json_pieces
from ..base import Call, Emit, HttpDialect, HttpRequest, ResponseDecoder, SilenceTimer
from ..operations.base import Operation as PreparedOperation
from ..operations.base import OperationDecoder
from ..operations.embeddings import EMBEDDINGS
from ..operations.model_lists import ModelPages
from ..operations.token_counts import TOKEN_COUNTS


class Edge(Protocol):
    """What an operation uses of the `HttpAdapter`."""

    def call(
        self,
        wanted: HttpRequest,
        decoder: Callable[[], ResponseDecoder],
        request_id: str,
        credential: ResolvedCredential,
        *,
        method: str = "POST",
        trace: TraceContext | None = None,
    ) -> Call:
        """One HTTP request and its unstreamed answer."""

    def trace_of(self, metadata: Mapping[str, str]) -> TraceContext | None:
        """The caller's trace, where it is sent on."""


def operation_call(
    adapter: Edge, dialect: HttpDialect, request: Operation, model: str, credential: ResolvedCredential
) -> Call:
    """See `BackendAdapter.prepare`."""
    if isinstance(request, ModelListRequest):
        return ModelListCall(adapter, dialect, request.request_id, credential)
    prepared = _prepared(dialect, request, model)
    decoder = partial(OperationDecoder, prepared.read)
    # Of these only a count has metadata, as the inference that it is about.
    trace = adapter.trace_of(request.inference.metadata) if isinstance(request, TokenCountRequest) else None
    call = adapter.call(prepared.request, decoder, request.request_id, credential, trace=trace)
    explain, encoded = prepared.explain, [prepared.request]
    del prepared
    json_pieces.free(encoded)
    return OperationCall(call, explain)


def _prepared(dialect: HttpDialect, request: EmbeddingRequest | TokenCountRequest, model: str) -> PreparedOperation:
    if isinstance(request, EmbeddingRequest):
        embed = EMBEDDINGS.get(dialect.name)
        if embed is None:
            raise unsupported(f"embed: the dialect {dialect.name!r} has no embeddings")
        return embed(dialect, request, model)
    count = TOKEN_COUNTS.get(dialect.name)
    if count is None:
        raise unsupported(f"count_tokens: the dialect {dialect.name!r} has no count of tokens")
    return count(dialect, request.inference, model)


class OperationCall:
    """One question and its answer; see `Call`."""

    def __init__(self, call: Call, explain: Callable[[GatewayError], GatewayError]) -> None:
        self._call = call
        self._explain = explain

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        try:
            await self._call.attempt(emit, timer)
        except GatewayError as error:
            raise self._explain(error) from error


class ModelListCall:
    """A list that is read page by page; see `Call`."""

    def __init__(self, adapter: Edge, dialect: HttpDialect, request_id: str, credential: ResolvedCredential) -> None:
        self._adapter = adapter
        self._dialect = dialect
        self._request_id = request_id
        self._credential = credential

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        pages, read = ModelPages(self._dialect.name, self._dialect.probe_path), _Pages()
        while pages.path is not None:
            asked = HttpRequest(pages.path, {})
            decoder = partial(OperationDecoder, pages.read)
            call = self._adapter.call(asked, decoder, self._request_id, self._credential, method="GET")
            await call.attempt(read, timer)
        emit(read.events[-1:])


class _Pages:
    """The `Emit` of the pages: what the last one says is the list."""

    blocked = False

    def __init__(self) -> None:
        self.events: list[BackendRawEvent] = []

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        self.events = list(events)

    async def drained(self) -> None:
        """Nobody reads before the last page."""
