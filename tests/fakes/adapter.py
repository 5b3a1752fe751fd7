"""An adapter whose script is a list: what each attempt of a request sees, step by step."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from beluna_gateway.adapters.base import BackendAdapter, Call, Emit, SilenceTimer
from beluna_gateway.canonical import (
    BackendRawEvent,
    CanonicalRequest,
    Completed,
    GatewayEvent,
    OutputTextDelta,
    ResolvedCredential,
)
from beluna_gateway.config.settings import Capabilities, Config
from beluna_gateway.errors import GatewayError
from beluna_gateway.gateway import AIGateway
from beluna_gateway.telemetry.records import RequestRecord
from beluna_gateway.telemetry.redaction import Redactor
from beluna_gateway.wire.frames import Infer

from .config import backend, config

SILENCE = "silence"
END = Completed("stop", {})

Step = BackendRawEvent | list[BackendRawEvent] | BaseException | float | str
"""An event or a batch of them, an exception to raise, seconds to wait, or SILENCE."""


def text(*pieces: str) -> list[Step]:
    """An answer that goes well."""
    return [*map(OutputTextDelta, pieces), END]


def transient(message: str = "cut off", **fields: Any) -> GatewayError:
    """A failure after which another attempt may help."""
    return GatewayError("backend_transient", message, retryable=True, **fields)


class ScriptedAdapter(BackendAdapter):
    """Plays `attempts` one after the other, whoever asks; the last one again and again."""

    def __init__(self, attempts: Sequence[Sequence[Step]], *, refusal: GatewayError | None = None) -> None:
        self.capabilities = Capabilities(reasoning=True)
        self.attempts = list(attempts)
        self.refusal = refusal
        self.begun = 0
        self.running = 0
        self.closed = 0
        self.prepared: list[tuple[CanonicalRequest, str, ResolvedCredential]] = []

    def prepare(self, request: CanonicalRequest, model: str, credential: ResolvedCredential) -> Call:
        if self.refusal is not None:
            raise self.refusal
        self.prepared.append((request, model, credential))
        return _ScriptedCall(self)

    async def probe(self, credential: ResolvedCredential) -> str:
        return "scripted"

    async def close(self) -> None:
        self.closed += 1


class _ScriptedCall(Call):
    def __init__(self, adapter: ScriptedAdapter) -> None:
        self._adapter = adapter

    async def attempt(self, emit: Emit, timer: SilenceTimer) -> None:
        adapter = self._adapter
        script = adapter.attempts[min(adapter.begun, len(adapter.attempts) - 1)]
        adapter.begun += 1
        adapter.running += 1
        try:
            timer.connecting()
            await asyncio.sleep(0)
            timer.connected()
            for step in script:
                await _play(step, emit, timer)
        finally:
            adapter.running -= 1


async def _play(step: Step, emit: Emit, timer: SilenceTimer) -> None:
    if isinstance(step, BaseException):
        raise step
    if isinstance(step, float):
        await asyncio.sleep(step)
    elif isinstance(step, str):
        await asyncio.get_running_loop().create_future()
    else:
        await asyncio.sleep(0)
        emit(step if isinstance(step, list) else [step])
        timer.progressed()
        if emit.blocked:
            timer.suspended()
            await emit.drained()
            timer.progressed()


class Records:
    """A telemetry sink that keeps what it is told."""

    def __init__(self) -> None:
        self.records: list[RequestRecord] = []

    def finished(self, record: RequestRecord) -> None:
        self.records.append(record)


class Client:
    """An `EventSink` that may stop reading."""

    def __init__(self) -> None:
        self.events: list[GatewayEvent] = []
        self.reading = asyncio.Event()
        self.reading.set()

    def write(self, events: Sequence[GatewayEvent]) -> None:
        self.events.extend(events)

    @property
    def blocked(self) -> bool:
        return not self.reading.is_set()

    async def drained(self) -> None:
        await self.reading.wait()


class Stage:
    """A gateway with one scripted backend `b`."""

    def __init__(self, gateway: AIGateway, adapter: ScriptedAdapter, records: Records) -> None:
        self.gateway = gateway
        self.adapter = adapter
        self.records = records.records
        self.backend = gateway.backends["b"]

    def begin(self, client: Client, **fields: Any) -> asyncio.Task[None]:
        """Starts a request whose events go to `client`."""
        request = {"messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}]}], **fields}
        frame = Infer.model_validate({"type": "infer", **request})
        return asyncio.create_task(self.gateway.infer(frame, frame.request_id or "r1", client))

    async def ask(self, **fields: Any) -> list[GatewayEvent]:
        """Every event of one request."""
        client = Client()
        await self.begin(client, **fields)
        return client.events

    async def failure(self, **fields: Any) -> tuple[list[GatewayEvent], GatewayError]:
        """The events of a request that fails up to its end, and the error."""
        *before, last = await self.ask(**fields)
        error: GatewayError = getattr(last, "error", None) or GatewayError("internal", f"it did not fail: {last}")
        return before, error

    def assert_free(self) -> None:
        """Everything that was taken has been given back."""
        budget = self.backend.budget
        assert (budget.in_flight, budget.queued, self.adapter.running) == (0, 0, 0)
        assert self.backend.breaker.on_open == set()


@asynccontextmanager
async def stage(
    *attempts: Iterable[Step],
    refusal: GatewayError | None = None,
    redactor: Redactor | None = None,
    **keys: Any,
) -> AsyncIterator[Stage]:
    """A gateway whose backend plays `attempts`; `keys` are the backend's own configuration."""
    adapter = ScriptedAdapter([list(attempt) for attempt in attempts] or [text("hello")], refusal=refusal)
    records = Records()
    parsed = Config.model_validate(config(backend(**keys)))
    async with AIGateway(
        parsed, Path(), adapters={"ollama": lambda _profile: adapter}, telemetry=[records], redactor=redactor
    ) as gateway:
        played = Stage(gateway, adapter, records)
        yield played
        played.assert_free()
