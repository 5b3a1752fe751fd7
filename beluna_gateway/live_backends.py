"""The configured backends with what outlives a request, and how a reload exchanges them.

A request takes what is in effect once, as it begins, and keeps to it until it ends. What a reload replaces is closed
when its last request has ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Mapping
from contextlib import AsyncExitStack
from functools import cached_property, partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self
from weakref import WeakSet

import structlog

from .adapters.base import Aside, BackendAdapter
from .canonical import immutable
from .config.settings import HTTP_DIALECTS, BackendProfile, Config, Shared, aliases, profiles
from .pipeline.budget import BudgetEnforcer
from .pipeline.clients import ClientTable
from .pipeline.credentials import CredentialResolver
from .pipeline.price_list import may_be_listed
from .pipeline.reliability import CircuitBreaker
from .pipeline.router import BackendRouter
from .telemetry.service import ProgramStatus

if TYPE_CHECKING:
    from .quota.owner import QuotaOwner

AdapterFactory = Callable[[BackendProfile], BackendAdapter]


class LiveBackend:
    """A configured backend with what outlives a request: its adapter, budget, circuit breaker and counters."""

    def __init__(
        self,
        profile: BackendProfile,
        make_adapter: AdapterFactory,
        clock: Callable[[], float],
        quota: QuotaOwner | None,
        aside: Aside,
    ) -> None:
        settings = profile.backend
        self.profile = profile
        self.id = profile.id
        self.dialect = settings.dialect
        self.pricing = settings.pricing
        self.listed_at = settings.endpoint if may_be_listed(settings.endpoint) else None
        """The endpoint, where a list of prices may know it."""
        self.users = 0
        """Requests that began with it and have not ended."""
        self.predecessors: set[asyncio.Task[None]] = set()
        """The ends of retired backends whose model server has the endpoint that this one's will have."""
        self._unused = asyncio.Event()
        self.budget = BudgetEnforcer(profile.budget, profile.id, quota=quota)
        self.breaker = CircuitBreaker(profile.reliability, clock)
        self.models = profile.models
        self.requests = 0
        self.failures = 0
        self._make_adapter = make_adapter
        self._aside = aside

    @cached_property
    def adapter(self) -> BackendAdapter:
        """Made on first use: its imports take most of the daemon's start-up time."""
        adapter = self._make_adapter(self.profile)
        adapter.aside = self._aside
        return adapter

    @property
    def has_adapter(self) -> bool:
        """Whether the adapter has been made, and so has to be closed."""
        return "adapter" in self.__dict__

    @property
    def program(self) -> ProgramStatus | None:
        """The program that the daemon runs for this backend; None where there is none."""
        if self.has_adapter:
            return self.adapter.program
        settings = self.profile.backend
        runs_one = settings.launch is not None or settings.dialect not in HTTP_DIALECTS
        return ProgramStatus("stopped", 0) if runs_one else None

    def enter(self) -> None:
        """A request begins."""
        self._unused.clear()
        self.users += 1
        self.requests += 1

    def leave(self) -> None:
        """A request has ended."""
        self.users -= 1
        if self.users == 0:
            self._unused.set()

    async def close(self) -> None:
        """Ends connections and child processes."""
        if self.has_adapter:
            await self.adapter.close()

    async def close_when_unused(self) -> None:
        """Waits for the last request, or for `stop_waiting`, before it closes. No request may begin any more."""
        if self.users:
            await self._unused.wait()
        await self.close()

    def stop_waiting(self) -> None:
        """`close_when_unused` waits for no request any more."""
        self._unused.set()

    def follow(self, predecessor: asyncio.Task[None]) -> None:
        """No attempt begins before `predecessor` is done."""
        self.predecessors.add(predecessor)
        predecessor.add_done_callback(self.predecessors.discard)

    async def wait_for_predecessors(self) -> None:
        """Returns when the model servers whose place this backend's takes have stopped: a server that is still there
        would look like one that somebody else runs.
        """
        if self.predecessors:
            await asyncio.wait(self.predecessors)

    async def wait_for_retry(self, seconds: float) -> None:
        """Waits for `seconds`, or until the circuit opens: the next attempt is then refused anyway."""
        opened = asyncio.Event()
        self.breaker.on_open.add(opened.set)
        try:
            async with asyncio.timeout(seconds):
                await opened.wait()
        except TimeoutError:
            pass
        finally:
            self.breaker.on_open.discard(opened.set)


@immutable
class InEffect:
    """What one configuration comes to. A request takes it once, as it begins, and keeps to it until it ends."""

    router: BackendRouter
    backends: Mapping[str, LiveBackend]
    clients: ClientTable
    quota: QuotaOwner | None = None
    """Keeps the limits that daemons share."""
    shared: Shared | None = None
    """What it was made from."""


@immutable
class BackendChanges:
    """What a reload made of the backends: their ids."""

    added: tuple[str, ...]
    changed: tuple[str, ...]
    removed: tuple[str, ...]
    unchanged: tuple[str, ...]


class LiveConfiguration:
    """What is in effect, and what a reload has replaced and not closed yet.

    Args:
        config: From `load_config`.
        folder: What relative paths of the configuration are relative to.
        adapters: Dialect name → factory of its adapter.
        clock: Monotonic seconds, for circuit breakers.
        credentials: Has the password of the store of shared limits.
        aside: For what takes long with large answers.
    """

    def __init__(
        self,
        config: Config,
        folder: Path,
        adapters: Mapping[str, AdapterFactory],
        clock: Callable[[], float],
        credentials: CredentialResolver,
        aside: Aside,
    ) -> None:
        self._folder = folder
        self._adapters = adapters
        self._clock = clock
        self._aside = aside
        self._log = structlog.get_logger("beluna_gateway")
        self._retiring: dict[LiveBackend, asyncio.Task[None]] = {}
        self._starting: set[asyncio.Task[None]] = set()
        self._credentials = credentials
        self._retired_quotas: WeakSet[QuotaOwner] = WeakSet()
        """Each is there as long as it has something to do, or a request that may come to it."""
        self.in_effect = self._configured(config, None)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._starting:
            task.cancel()
        async with AsyncExitStack() as stack:
            for backend in self.in_effect.backends.values():
                stack.push_async_callback(backend.close)
            for quota in (self.in_effect.quota, *self._retired_quotas):
                if quota is not None:
                    stack.push_async_callback(quota.close)
            for backend in self._retiring:
                backend.stop_waiting()
            if tasks := {*self._retiring.values(), *self._starting}:
                await asyncio.wait(tasks)

    async def start(self) -> None:
        """Starts model servers that are to run before the first request (`launch`), and loads the default backend's
        adapter. Optional: otherwise the first request does both.
        """
        if self.in_effect.quota is not None:
            self.in_effect.quota.start()
        for backend in self.in_effect.backends.values():
            if self._starts_early(self.in_effect, backend):
                await backend.adapter.start()

    def reload(self, config: Config) -> BackendChanges:
        """Puts `config` into effect for the requests that begin from now on; those in flight end as they began.

        A backend whose settings have not changed keeps its connections, circuit breaker, budget, counters and programs.
        The others are new; what they replace is closed when its last request has ended, and a model server that is to
        take the place of another one, on the same endpoint, is started after that.

        Raises:
            Exception: An adapter of the new configuration cannot be made. Then nothing has changed.
        """
        before = self.in_effect
        after = self._configured(config, before)
        new = [backend for backend in after.backends.values() if before.backends.get(backend.id) is not backend]
        start = [backend for backend in new if self._starts_early(after, backend)]
        for backend in start:
            _ = backend.adapter  # what may raise does so before anything has changed
        self.in_effect = after
        self._exchange_quota(before.quota, after.quota)
        for backend in before.backends.values():
            if after.backends.get(backend.id) is not backend:
                self._retire(backend)
        for backend in new:
            for retired, task in self._retiring.items():
                if _same_model_server(backend.profile, retired.profile):
                    backend.follow(task)
        for backend in start:
            self._start_later(backend)
        return BackendChanges(
            added=tuple(backend.id for backend in new if backend.id not in before.backends),
            changed=tuple(backend.id for backend in new if backend.id in before.backends),
            removed=tuple(name for name in before.backends if name not in after.backends),
            unchanged=tuple(name for name, backend in after.backends.items() if before.backends.get(name) is backend),
        )

    def _exchange_quota(self, before: QuotaOwner | None, after: QuotaOwner | None) -> None:
        if before is after:
            return
        if before is not None:
            before.retire()
            self._retired_quotas.add(before)
        if after is not None:
            after.start()

    def _quota(self, shared: Shared | None, before: InEffect | None) -> QuotaOwner | None:
        """The owner of the store that is configured, the one that is there where it is the same."""
        if before is not None and before.shared == shared:
            return before.quota
        if shared is None:
            return None
        from .quota.opening import open_quota  # only configurations with a store pay for the import

        secret = partial(self._credentials.secret, shared.credential, self._folder, "ai_gateway.shared")
        return open_quota(shared, self._folder, secret)

    def _starts_early(self, configured: InEffect, backend: LiveBackend) -> bool:
        return backend.id == configured.router.default_backend or backend.profile.backend.launch is not None

    def _retire(self, backend: LiveBackend) -> None:
        task = self._spawn(backend.close_when_unused(), backend.id)
        self._retiring[backend] = task
        task.add_done_callback(lambda _: self._retiring.pop(backend))

    def _start_later(self, backend: LiveBackend) -> None:
        async def start() -> None:
            await backend.wait_for_predecessors()
            if self.in_effect.backends.get(backend.id) is backend:
                await backend.adapter.start()

        task = self._spawn(start(), backend.id)
        self._starting.add(task)
        task.add_done_callback(self._starting.discard)

    def _spawn(self, work: Coroutine[None, None, None], backend_id: str) -> asyncio.Task[None]:
        async def guarded() -> None:
            try:
                await work
            except Exception:  # noqa: BLE001 - nobody waits for the outcome
                self._log.exception("bug in a reload", backend_id=backend_id)

        task = asyncio.create_task(guarded(), name=f"reload of backend {backend_id}")
        task.add_done_callback(lambda _: work.close())  # a task cancelled before its first step never awaits it
        return task

    def _configured(self, config: Config, before: InEffect | None) -> InEffect:
        """What `config` comes to, with those of the backends and clients of `before` that it does not change."""
        configured = profiles(config, self._folder)
        shared = config.ai_gateway.shared
        quota = self._quota(shared, before)
        backends = {}
        for profile in configured.values():
            backend = None if before is None else before.backends.get(profile.id)
            if backend is None or not backend.profile.equals(profile):
                backend = LiveBackend(profile, self._adapters[profile.backend.dialect], self._clock, quota, self._aside)
            backends[profile.id] = backend
        budgets = {profile.id: profile.budget for profile in configured.values()}
        clients = ClientTable(config.server, budgets, None if before is None else before.clients, quota)
        if config.without_effect:
            self._log.info("without effect: for Beluna core", settings=", ".join(config.without_effect))
        for profile in configured.values():
            if profile.reliability.retry_policy == "adapter_resumable" or _wants_resumable(profile):
                self._log.warning(
                    "without effect: no dialect can resume a stream",
                    backend_id=profile.id,
                    settings="retry_policy adapter_resumable, capabilities.resumable_streaming",
                )
        router = BackendRouter(configured, config.ai_gateway.default_backend, aliases(config))
        return InEffect(router, backends, clients, quota, shared)


def _same_model_server(one: BackendProfile, other: BackendProfile) -> bool:
    """Whether both launch a server for the same endpoint."""
    both_launch = one.backend.launch is not None and other.backend.launch is not None
    return both_launch and one.backend.endpoint == other.backend.endpoint


def _wants_resumable(profile: BackendProfile) -> bool:
    own = profile.backend.capabilities
    return own is not None and own.resumable_streaming
