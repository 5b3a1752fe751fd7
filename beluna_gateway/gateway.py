"""`AIGateway`: takes a request from its frame to its last event.

`AIGateway.infer` is the whole way, one line for each step: frame → request normaliser → router → the client's rights →
credentials → capabilities → budget → reliability (timers, circuit breaker, retries: `_attempts`) → adapter →
verification, where the request asks for it → response normaliser.
The steps are the modules of `pipeline/`; each knows its own rule and none of the others.
"""

from __future__ import annotations

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import asdict
from functools import partial
from http import HTTPStatus
from itertools import count
from pathlib import Path
from traceback import format_exception
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack, get_args, overload

import structlog

from .adapters.base import Call
from .canonical import (
    CanonicalRequest,
    Completed,
    Embedding,
    Failed,
    JsonObject,
    ModelList,
    Operation,
    OperationResult,
    ResolvedCredential,
    TokenCount,
)
from .config.settings import Config
from .errors import GatewayError, forget_frames, invalid_request
from .event_stream import EventStream, InferenceResult, collect
from .live_backends import AdapterFactory, BackendChanges, InEffect, LiveBackend, LiveConfiguration
from .pipeline.budget import BudgetEnforcer, NarrowedBudget
from .pipeline.capabilities import CapabilityGuard
from .pipeline.clients import ClientTable, Origin
from .pipeline.credentials import CredentialResolver
from .pipeline.operation_response import OperationResponse
from .pipeline.price_list import PriceList
from .pipeline.reliability import retry_delay
from .pipeline.request_normalizer import RequestNormalizer
from .pipeline.response_normalizer import EventSink, ResponseNormalizer
from .pipeline.router import SelectedBackend
from .pipeline.timers import AttemptTimer, Deadlines, TotalTimer
from .pipeline.verification import HeldAnswer, OutputVerification, wants_verification
from .processes.schema_judge import judge
from .requests import CountTokensRequest, EmbedRequest, InferRequest, ModelsRequest
from .telemetry.records import RequestRecord, TelemetrySink
from .telemetry.redaction import Redactor
from .wire.frames import CountTokens, Embed, Infer, Models, OperationFrame, RequestFrame
from .wire.ndjson import RejectedLine, validated
from .worker import Large, Worker, value_of

MESSAGE_CHARACTERS = 2000
"""The longest `error.message` (protocol/README.md, "Error mapping")."""


class AIGateway:
    """Serves inference requests, from the socket or from a program that embeds it.

    Use as ``async with AIGateway(config) as gateway:``; leaving the block ends connections and child processes, and
    requests with them. A gateway belongs to the event loop in which it was made.

    Args:
        config: From `load_config`.
        folder: What relative paths of the configuration are relative to.
        adapters: Dialect name → factory of its adapter; the real ones by default.
        telemetry: Sinks that get a record of each request that ended.
        redactor: Learns every secret; shared with the log.
        clock: Monotonic seconds, for circuit breakers and durations.
    """

    def __init__(
        self,
        config: Config,
        folder: Path | None = None,
        *,
        adapters: Mapping[str, AdapterFactory] | None = None,
        telemetry: Iterable[TelemetrySink] = (),
        redactor: Redactor | None = None,
        clock: Callable[[], float] = time.monotonic,  # the time of uvloop's loop has whole milliseconds
    ) -> None:
        if adapters is None:
            from .adapters import ADAPTERS

            adapters = ADAPTERS
        self._loop = asyncio.get_running_loop()
        self._closed = False
        self._clock = clock
        self._deadlines = Deadlines()
        self._redactor = redactor or Redactor()
        self._request_normalizer = RequestNormalizer()
        self._credentials = CredentialResolver(self._redactor)
        self._capabilities = CapabilityGuard()
        self._prices = PriceList()
        self.telemetry: list[TelemetrySink] = list(telemetry)
        self._log = structlog.get_logger("beluna_gateway")
        self.worker: Worker | None = None
        """Decodes large answers; the daemon's. A program that embeds the gateway has none: the thread would take the
        program's own objects from the garbage collector."""
        self._live = LiveConfiguration(config, folder or Path.cwd(), adapters, clock, self._credentials, self._aside)

    @property
    def backends(self) -> Mapping[str, LiveBackend]:
        """The backends that new requests use, by id."""
        return self._live.in_effect.backends

    @property
    def clients(self) -> ClientTable:
        """The clients of new requests."""
        return self._live.in_effect.clients

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._closed = True
        async with AsyncExitStack() as stack:
            stack.callback(self._deadlines.close)
            stack.push_async_callback(self._credentials.close)
            stack.push_async_exit(self._live)

    async def start(self) -> None:
        """Starts model servers that are to run before the first request (`launch`), and loads the default backend's
        adapter and the model of inference. Optional: otherwise the first request does it.
        """
        await self._live.start()
        Infer.model_rebuild()  # 6 ms

    def reload(self, config: Config) -> BackendChanges:
        """Puts `config` into effect for the requests that begin from now on; those in flight end as they began.

        A backend whose settings have not changed keeps its connections, circuit breaker, budget, counters and programs.

        Raises:
            Exception: An adapter of the new configuration cannot be made. Then nothing has changed.
        """
        return self._live.reload(config)

    # --- one request -----------------------------------------------------------------------------------------

    def infer(
        self, frame: Infer | Large, request_id: str, sink: EventSink, origin: Origin | None = None
    ) -> Coroutine[Any, Any, None]:
        """Serves one request: writes its events to `sink`, the last one is terminal. To be awaited; raises nothing.

        Cancelling it cancels the request: when it has returned, the backend's connection is closed. A cancelled request
        gets no terminal event from here; the caller knows that it cancelled.

        The request keeps to the configuration that is in effect at this call, also where it first runs after a reload.
        A large one keeps to that which is in effect when it has been normalised, off the event loop; its caller closes
        it.
        """
        asked = value_of(frame)
        record = RequestRecord(request_id, asked.metadata, self._clock(), streamed=asked.stream)
        response = ResponseNormalizer(sink, asked.include_reasoning, self._clock, self._later)
        return self._serve(
            self._request_normalizer.normalize, frame, response, record, origin or Origin(), self._live.in_effect
        )

    def perform(
        self, frame: OperationFrame | Large, request_id: str, origin: Origin | None = None
    ) -> Coroutine[Any, Any, OperationResult]:
        """Serves one request that is no inference: embeddings, a count of tokens, a list of models. To be awaited.

        Cancelling it cancels the request, and it keeps to its configuration, both as with `infer`.

        Raises:
            GatewayError: The request failed.
        """
        return self._perform(frame, request_id, origin or Origin(), self._live.in_effect)

    async def _perform(
        self, frame: OperationFrame | Large, request_id: str, origin: Origin, in_effect: InEffect
    ) -> OperationResult:
        asked: OperationFrame = value_of(frame)
        metadata = asked.metadata if isinstance(asked, CountTokens) else {}
        record = RequestRecord(request_id, metadata, self._clock(), streamed=False, operation=asked.type)
        del asked
        response = OperationResponse(self._clock)
        normalize = self._request_normalizer.normalize_operation
        await self._serve(normalize, frame, response, record, origin, in_effect)
        result = response.terminal
        if isinstance(result, Failed):
            raise result.error
        assert result is not None  # noqa: S101 - `_serve` leaves no request without its end
        return result

    async def _serve(
        self,
        normalize: Callable[[Any, str], CanonicalRequest | Operation],
        frame: RequestFrame | Large,
        response: ResponseNormalizer | OperationResponse,
        record: RequestRecord,
        origin: Origin,
        in_effect: InEffect,
    ) -> None:
        """The whole way of a request; see the module's docstring."""
        backend = account = None
        try:
            if origin.cancelled_at is not None:  # before this first step: the cancellation comes with the next one
                await asyncio.sleep(0)
            large = frame if type(frame) is Large else None
            if large is None:
                request = normalize(frame, record.request_id)
            else:
                await large.step(lambda asked: normalize(asked, record.request_id))
                request = large.value
                # Nobody has entered the backends of the one before: they may be closed.
                in_effect = self._live.in_effect
                origin.move_to(in_effect.clients)
            del frame  # 4 KB or more, for as long as the answer takes
            selected = in_effect.router.select(request)
            backend = in_effect.backends[selected.profile.id]
            del in_effect
            backend.enter()
            record.backend_id, record.model = backend.id, selected.model
            record.model_is_configured = selected.model in backend.models
            record.dialect = backend.dialect
            budget = self._budget_for(origin, backend)
            with TotalTimer(self._deadlines, budget.seconds(request)) as total:
                credential = await self._credentials.resolve(selected.profile)
                prepare = partial(self._prepare, backend, selected.model, budget)
                request, call = await _run(prepare, request, credential, large)
                verification = self._verification(request, selected)
                response.price = backend.pricing.get(selected.model)
                if response.price is None and backend.listed_at is not None:
                    response.listed_cost = await self._prices.of_model(backend.listed_at, selected.model)
                backend.breaker.check()
                async with budget.lease() as account:
                    if account is not None:
                        call = account.watched(call, request)
                    if backend.predecessors:
                        await backend.wait_for_predecessors()
                    try:
                        await self._attempts(call, selected, backend, response, verification, record, total.at)
                    except GatewayError as error:
                        credential = await self._renewed(credential, error, selected, response)
                        request, call = await _run(prepare, request, credential, large)
                        if account is not None:
                            call = account.watched(call, request)
                        await self._attempts(call, selected, backend, response, verification, record, total.at)
        except GatewayError as error:
            response.fail(self._presentable(_closed() if self._closed else error, backend))
        except Exception as error:  # noqa: BLE001 - also a bug ends the request with one terminal event
            self._log.error("bug", request_id=record.request_id, exception=self._traceback(error))
            forget_frames(error)
            response.fail(self._presentable(GatewayError("internal", f"a bug in the gateway: {error!r}"), backend))
        finally:
            self._finish(record, response, backend, origin)
            if account is not None:
                account.settle(response.usage, record.outcome, response.price, response.listed_cost)
            if backend is not None:
                backend.leave()

    def _prepare(
        self,
        backend: LiveBackend,
        model: str,
        budget: BudgetEnforcer | NarrowedBudget,
        request: CanonicalRequest | Operation,
        credential: ResolvedCredential,
    ) -> tuple[CanonicalRequest | Operation, Call]:
        """The request as the backend can serve it, and encoded; or the error that says why it cannot."""
        request = self._capabilities.admit(request, backend.adapter.capabilities, backend.id)
        budget.check(request)
        if isinstance(request, CanonicalRequest):
            return request, backend.adapter.prepare(request, model, credential)
        return request, backend.adapter.prepare_operation(request, model, credential)

    async def _attempts(
        self,
        call: Call,
        selected: SelectedBackend,
        backend: LiveBackend,
        response: ResponseNormalizer | OperationResponse,
        verification: OutputVerification | None,
        record: RequestRecord,
        deadline: float,
    ) -> None:
        """Makes one attempt, and further ones as long as the retry rule and the circuit breaker allow."""
        settings = selected.profile.reliability
        last: GatewayError | None = None
        for attempt in count(1):
            try:
                with backend.breaker.attempt():
                    response.start(backend.id, selected.model)
                    record.attempts += 1
                    emit: ResponseNormalizer | OperationResponse | HeldAnswer = response
                    if verification is not None:
                        emit = HeldAnswer(response, verification)
                    with AttemptTimer(self._deadlines, settings) as timer:
                        await call.attempt(emit, timer)
                    emit.assert_ended()
                if isinstance(emit, HeldAnswer):
                    await emit.release()
                return
            except GatewayError as error:
                if last is not None and error.kind == "circuit_open":
                    raise last from None  # the circuit opened during the wait: this request's own error says more
                delay = retry_delay(
                    settings,
                    error,
                    attempt=attempt,
                    output_sent=response.output_sent,
                    seconds_left=deadline - self._loop.time(),
                )
                if delay is None or backend.breaker.state == "open":
                    raise
                last = error.replace()
                forget_frames(error)
            record.attempt_errors.append(self._redactor.redact(f"{last.kind}: {last.message}")[:300])
            await backend.wait_for_retry(delay)

    def _verification(
        self, request: CanonicalRequest | Operation, selected: SelectedBackend
    ) -> OutputVerification | None:
        if not wants_verification(request):
            return None
        return OutputVerification(request, selected.profile.reliability.max_event_bytes, judge)

    async def _renewed(
        self,
        refused: ResolvedCredential,
        error: GatewayError,
        selected: SelectedBackend,
        response: ResponseNormalizer | OperationResponse,
    ) -> ResolvedCredential:
        """The credential for one more try after `error`; raises `error` again where there is none."""
        newer = None
        if error.provider_http_status == HTTPStatus.UNAUTHORIZED and not response.output_sent:
            newer = await self._credentials.renewed(selected.profile, refused)
        if newer is None:
            raise error
        forget_frames(error)
        return newer

    async def _aside(self, function: Callable[[], R]) -> R:
        """See `Aside`."""
        return function() if self.worker is None else await self.worker.run(function)

    def _later(self, function: Callable[[], None]) -> None:
        """Runs `function` after the event loop's next I/O poll and its callbacks."""
        self._loop.call_soon(self._loop.call_soon, function)

    @staticmethod
    def _budget_for(origin: Origin, backend: LiveBackend) -> BudgetEnforcer | NarrowedBudget:
        """The limits of a request: the backend's, narrowed by its client's own.

        Raises:
            GatewayError: `authorization`, where the client may not ask this backend.
        """
        if origin.client is None:
            return backend.budget
        origin.client.check(backend.id)
        return origin.client.narrowed(backend.budget, backend.id)

    def _presentable(self, error: GatewayError, backend: LiveBackend | None) -> GatewayError:
        """`error` for the client: without secrets, then cut to length. `error` itself is not to be raised again."""
        forget_frames(error)
        code = error.provider_code
        message = self._redactor.redact(error.message)[:MESSAGE_CHARACTERS]
        return error.replace(
            # Lone surrogates, as of a file name that is no UTF-8, stand in no line: the request would have no end.
            message=message.encode(errors="backslashreplace").decode(),
            provider_code=None if code is None else self._redactor.redact(code),
            backend_id=error.backend_id or (None if backend is None else backend.id),
        )

    def _finish(
        self,
        record: RequestRecord,
        response: ResponseNormalizer | OperationResponse,
        backend: LiveBackend | None,
        origin: Origin,
    ) -> None:
        """Counts the request and reports it to the telemetry sinks, once, however it ended."""
        now = self._clock()
        record.duration = now - record.started_at
        record.uid = origin.uid
        if response.first_output_at is not None:
            record.first_output_after = response.first_output_at - record.started_at
            record.reasoning_first = response.reasoning_first
        record.usage = response.usage
        if response.usage is not None and backend is not None:
            backend.budget.account(response.usage)
        end = response.terminal
        failed = False
        if isinstance(end, Completed):
            reason = end.finish_reason
            record.outcome = "completed"
            record.finish_reason = reason if isinstance(reason, str) else reason.other
        elif isinstance(end, Failed):
            failed = True
            record.outcome, record.error = end.error.kind, end.error.message
            record.provider_code = end.error.provider_code
            if backend is not None:
                backend.failures += 1
        elif end is not None:
            record.outcome = "completed"
        elif origin.cancelled_at is not None:
            record.cancel_seconds = now - origin.cancelled_at
        if origin.client is not None:
            record.client = origin.client.name
            origin.client.ended(response.usage, failed=failed)
        for sink in self.telemetry:
            try:
                sink.finished(record)
            except Exception as error:  # noqa: BLE001 - the other sinks and the request do not depend on this one
                told = self._traceback(error)
                self._log.error("bug in a telemetry sink", sink=type(sink).__name__, exception=told)

    def _traceback(self, error: Exception) -> str:
        """As text: a program that embeds the gateway may have a log which shows local variables, prompts among them."""
        return self._redactor.redact("".join(format_exception(error)))

    # --- for programs that embed the gateway ------------------------------------------------------------------

    @overload
    def infer_stream(self, request: Infer | Mapping[str, Any], /) -> AbstractAsyncContextManager[EventStream]: ...
    @overload
    def infer_stream(self, **fields: Unpack[InferRequest]) -> AbstractAsyncContextManager[EventStream]: ...
    @asynccontextmanager
    async def infer_stream(self, *request: Infer | Mapping[str, Any], **fields: Any) -> AsyncIterator[EventStream]:
        """One inference as a stream of events: ``async with gateway.infer_stream(messages=[…]) as events: …``.

        Leaving the block cancels the request if it is still running. The backend is read no faster than the events are
        taken.

        Args:
            request: One `Infer` frame, or one mapping with the fields of one.
            fields: The fields one by one, for type checkers: see `InferRequest`.

        Raises:
            GatewayError: `invalid_request`, naming each field that is wrong.
        """
        self._check_usable()
        frame, request_id = _frame(Infer, request, fields)
        stream, origin = EventStream(), Origin()
        task = asyncio.create_task(self.infer(frame, request_id, stream, origin))
        task.add_done_callback(stream.close)
        try:
            yield stream
        finally:
            origin.cancelled_at = self._clock()
            cancel_begun(task)
            await asyncio.wait([task])

    @overload
    async def infer_once(self, request: Infer | Mapping[str, Any], /) -> InferenceResult: ...
    @overload
    async def infer_once(self, **fields: Unpack[InferRequest]) -> InferenceResult: ...
    async def infer_once(self, *request: Infer | Mapping[str, Any], **fields: Any) -> InferenceResult:
        """One inference as one result; its arguments are those of `infer_stream`.

        Raises:
            GatewayError: The request failed.
        """
        async with self.infer_stream(*request, **fields) as events:
            return await collect(events)

    @overload
    async def embed(self, request: Embed | Mapping[str, Any], /) -> Embedding: ...
    @overload
    async def embed(self, **fields: Unpack[EmbedRequest]) -> Embedding: ...
    async def embed(self, *request: Embed | Mapping[str, Any], **fields: Any) -> Embedding:
        """The vectors of texts.

        Args:
            request: One `Embed` frame, or one mapping with the fields of one.
            fields: The fields one by one: see `EmbedRequest`.

        Raises:
            GatewayError: The request failed.
        """
        result = await self._performed(Embed, request, fields)
        assert isinstance(result, Embedding)  # noqa: S101 - each operation has its one result
        return result

    @overload
    async def count_tokens(self, request: CountTokens | Mapping[str, Any], /) -> int: ...
    @overload
    async def count_tokens(self, **fields: Unpack[CountTokensRequest]) -> int: ...
    async def count_tokens(self, *request: CountTokens | Mapping[str, Any], **fields: Any) -> int:
        """The input tokens that an inference would have; see `embed` and `CountTokensRequest`."""
        result = await self._performed(CountTokens, request, fields)
        assert isinstance(result, TokenCount)  # noqa: S101
        return result.input_tokens

    async def models(self, *request: Models | Mapping[str, Any], **fields: Unpack[ModelsRequest]) -> list[JsonObject]:
        """The models of a backend, each with its `id`; see `embed` and `ModelsRequest`."""
        result = await self._performed(Models, request, fields)
        assert isinstance(result, ModelList)  # noqa: S101
        return result.models

    def _check_usable(self) -> None:
        if asyncio.get_running_loop() is not self._loop:
            raise GatewayError("internal", "the gateway belongs to another event loop: make one in each")
        if self._closed:
            raise _closed()

    async def _performed(
        self, kind: type[P], request: tuple[P | Mapping[str, Any], ...], fields: Mapping[str, Any]
    ) -> OperationResult:
        self._check_usable()
        frame, request_id = _frame(kind, request, fields)
        origin = Origin()
        try:
            return await self.perform(frame, request_id, origin)
        except asyncio.CancelledError:
            origin.cancelled_at = self._clock()
            raise

    def configured_models(self) -> dict[str, tuple[str, ...]]:
        """The models that the configuration names, by backend."""
        return {backend.id: backend.models for backend in self.backends.values()}

    def _limits(self, backend_id: str, budget: BudgetEnforcer) -> list[dict[str, Any]]:
        """What is used of a backend's limits of money and of those that daemons share, and of its clients'."""
        limits = budget.limits_in_use()
        for client in self.clients:
            limits += client.limits_in_use(backend_id)
        return limits

    def shared_status(self) -> dict[str, Any] | None:
        """The field `shared` of a `status` frame; None where nothing is shared."""
        quota = self._live.in_effect.quota
        return None if quota is None else quota.status()

    def status(self) -> list[dict[str, Any]]:
        """The backends of a `status` frame."""
        return [
            {
                "id": backend.id,
                "dialect": backend.profile.backend.dialect,
                "default_model": backend.profile.default_model,
                "in_flight": backend.budget.in_flight,
                "max_concurrency": backend.budget.max_concurrency,
                "queued": backend.budget.queued,
                "breaker": backend.breaker.state,
                "requests": backend.requests,
                "failures": backend.failures,
                **backend.budget.used.status(),
                **({"limits": limits} if (limits := self._limits(backend.id, backend.budget)) else {}),
                **({} if (program := backend.program) is None else {"program": asdict(program)}),
            }
            for backend in self.backends.values()
        ]


_Prepared = tuple[CanonicalRequest | Operation, Call]


async def _run(
    prepare: Callable[[CanonicalRequest | Operation, ResolvedCredential], _Prepared],
    request: CanonicalRequest | Operation,
    credential: ResolvedCredential,
    large: Large | None,
) -> _Prepared:
    """Runs `prepare` here or, for a large request, off the event loop."""
    if large is None:
        return prepare(request, credential)
    return await large.use(partial(prepare, request, credential))


R = TypeVar("R")
F = TypeVar("F", Infer, CountTokens, Embed, Models)
P = TypeVar("P", CountTokens, Embed, Models)


def _closed() -> GatewayError:
    return GatewayError("internal", "the gateway is closed: its block has been left", retryable=True)


def _frame(kind: type[F], request: tuple[F | Mapping[str, Any], ...], fields: Mapping[str, Any]) -> tuple[F, str]:
    """The frame of one kind, from a frame, a mapping or fields; `invalid_request` where a line could not say it."""
    if len(request) == 1 and isinstance(request[0], kind):
        frame = request[0]
    else:
        for one in request:
            if not isinstance(one, Mapping):
                raise invalid_request(f"the request: found a {type(one).__name__}, expected a mapping")
        name = get_args(kind.model_fields["type"].annotation)[0]
        try:
            frame = validated(kind, {"type": name, **dict(*request), **fields})
        except RejectedLine as rejected:
            raise rejected.error from None
    from .wire.python_values import mistake  # a daemon never needs it

    if (why := mistake(frame)) is not None:
        raise invalid_request(why)
    return frame, frame.request_id or new_request_id()


def cancel_begun(task: asyncio.Task[None]) -> None:
    """Cancels a task that serves a request: now, or after its first step, which is scheduled, where it has not begun.
    A task that is cancelled before it never enters the gateway, which would report no such request.
    """
    if inspect.getcoroutinestate(task.get_coro()) == inspect.CORO_SUSPENDED:  # type: ignore[arg-type]  # it is one
        task.cancel()
    else:
        asyncio.get_running_loop().call_soon(task.cancel)


def new_request_id() -> str:
    """A UUIDv7."""
    from uuid_utils import uuid7  # here, because most clients name their requests

    return str(uuid7())
