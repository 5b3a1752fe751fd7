"""What `beluna-gateway check` finds out.

Offline: whatever `serve` would refuse, and which credentials and programs are missing; nothing is contacted, started or
changed. Otherwise each backend is asked too, and whether it has its default model.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from ..adapters import ADAPTERS
from ..config.settings import HTTP_DIALECTS, BackendProfile, CommandCredential, Config, profiles
from ..daemon.metrics_endpoint import check_listen
from ..daemon.sockets import check_path, is_served
from ..errors import GatewayError
from ..pipeline.budget import BudgetEnforcer
from ..pipeline.clients import ClientTable
from ..pipeline.credentials import CredentialResolver
from ..processes.child_process import configured_program
from ..telemetry.redaction import Redactor

STORE_MILLISECONDS = 2000
SERVICE_CREDENTIALS = Path("/run/credentials/beluna-gateway.service")
"""Where systemd keeps the credentials of the running service (systemd.exec(5)); only root and the service may look."""


@dataclass(frozen=True, slots=True)
class CheckedBackend:
    """What was found out about one backend, in sentences without secrets."""

    id: str
    dialect: str
    timeouts_ms: Mapping[str, int]
    credential: str
    program: str | None
    """The program that the daemon starts for it."""
    probe: str
    default_model: str
    model: str
    """Whether the backend has its default model."""
    ready: bool
    """Whether requests to it will work, as far as was looked."""
    ok: bool
    """Whether nothing speaks against a restart: offline that it is not ready does not, for the daemon starts."""

    def lines(self) -> list[str]:
        """What it is, and below that what was found out, for people."""
        timeouts = "/".join(map(str, self.timeouts_ms.values()))
        state = "ok" if self.ready else "not yet" if self.ok else "NOT OK"
        found = {"credential": self.credential, "program": self.program, "probe": self.probe, "model": self.model}
        return [
            f"{state:9}{self.id}: {self.dialect}, {self.default_model}, {timeouts} ms¹",
            *(f"{'':9}{name:12}{text}" for name, text in found.items() if text not in (None, NOT_ASKED)),
        ]


@dataclass(frozen=True, slots=True)
class CheckedStore:
    """What was found out about the store of the shared limits."""

    store: str
    """`shared.url` or `shared.sqlite`."""
    found: str
    limits: tuple[dict[str, Any], ...]
    """What is used of each shared limit, as in a `status` frame, with the backend's id."""
    ok: bool

    def line(self) -> str:
        """For people."""
        used = "".join(
            f"; {one['backend_id']}{' ' + one['client'] if 'client' in one else ''} {one['setting']}: "
            f"{one['used']:g} of {one['limit']:g}"
            for one in self.limits
        )
        return f"{self.store}: {self.found}{used}"


FOOTNOTE = "¹ to connect / to the first event / of silence / for the whole request"
NOT_ASKED = "not asked"


class Check:
    """One check of a configuration that was loaded.

    Args:
        config: The configuration.
        folder: Its file's folder.
        redactor: Learns the secrets.
        environment: Where credentials are looked for.
    """

    def __init__(self, config: Config, folder: Path, redactor: Redactor, environment: Mapping[str, str]) -> None:
        self._config = config
        self._folder = folder
        self._redactor = redactor
        if "CREDENTIALS_DIRECTORY" not in environment and SERVICE_CREDENTIALS.is_dir():
            environment = {**environment, "CREDENTIALS_DIRECTORY": str(SERVICE_CREDENTIALS)}
        self._credentials = CredentialResolver(redactor, environment)
        self.socket_path = folder / config.socket_path
        self.served = is_served(self.socket_path)
        """The daemon, or systemd for it, listens there."""

    def check_sockets(self) -> None:
        """Looks whether `serve` could listen: for clients, and for whoever reads metrics.

        Raises:
            SocketError: It could not.
        """
        check_path(self.socket_path)
        metrics = self._config.telemetry.metrics
        if metrics is not None and not self.served:  # otherwise the one who listens there is ours
            check_listen(metrics if isinstance(metrics, str) else metrics.listen, self._folder)

    async def backends(self, only: str | None = None, *, offline: bool) -> list[CheckedBackend]:
        """Each backend, or `only` one, side by side."""
        wanted = [profile for profile in profiles(self._config, self._folder).values() if only in (None, profile.id)]
        try:
            return list(await asyncio.gather(*(self._backend(profile, offline=offline) for profile in wanted)))
        finally:
            await self._credentials.close()

    async def store(self, *, offline: bool) -> CheckedStore | None:
        """The store of the shared limits: whether it answers, and what is used of them; None where there is none."""
        settings = self._config.ai_gateway.shared
        if settings is None:
            return None
        name = "shared.url" if settings.url is not None else "shared.sqlite"
        if offline:
            return CheckedStore(name, NOT_ASKED, (), ok=True)
        from ..quota.opening import open_quota

        secret = partial(self._credentials.secret, settings.credential, self._folder, "ai_gateway.shared")
        # A person waits longer than a request.
        patient = settings.model_copy(update={"timeout_ms": max(settings.timeout_ms, STORE_MILLISECONDS)})
        quota = open_quota(patient, self._folder, secret)
        budgets = {profile.id: profile.budget for profile in profiles(self._config, self._folder).values()}
        enforcers = [BudgetEnforcer(budget, name, quota=quota) for name, budget in budgets.items()]
        scopes = [enforcer.scope for enforcer in enforcers if enforcer.scope is not None]
        clients = ClientTable(self._config.server, budgets, quota=quota)
        scopes += [scope for client in clients for name in budgets if (scope := client.shared_scope(name)) is not None]
        try:
            error = await quota.look(scopes)
        finally:
            await quota.close()
            await self._credentials.close()
        if error:
            return CheckedStore(name, self._said(f"cannot be used: {error}"), (), ok=False)
        used = ({"backend_id": scope.backend_id, **one} for scope in scopes for one in quota.status_of(scope))
        return CheckedStore(name, "answers", tuple(used), ok=True)

    async def _backend(self, profile: BackendProfile, *, offline: bool) -> CheckedBackend:
        limits = profile.reliability
        program, installed = _program(profile)
        found = CheckedBackend(
            id=profile.id,
            dialect=profile.backend.dialect,
            timeouts_ms={
                "connect": limits.connect_timeout_ms,
                "first_event": limits.request_timeout_ms,
                "idle": limits.idle_timeout_ms,
                "request": profile.budget.max_request_time_ms,
            },
            credential="",
            program=program,
            probe=NOT_ASKED,
            default_model=profile.default_model,
            model=NOT_ASKED,
            ready=installed,
            ok=True,
        )
        credentials = (profile.backend.credential, profile.backend.proxy_credential)
        if offline and any(isinstance(one, CommandCredential) for one in credentials):
            return replace(found, credential="from a command, which was not started")
        try:
            credential = await self._credentials.resolve(profile)
        except GatewayError as error:
            return replace(found, credential=self._said(error.message.partition(": ")[2]), ready=False, ok=offline)
        found = replace(found, credential="none needed" if credential.secret is None else "found")
        if offline:
            return found
        of_daemon = self.served and profile.backend.launch is not None
        if of_daemon:  # which starts the server: two of them would be in each other's way
            profile = replace(profile, backend=profile.backend.model_copy(update={"launch": None}))
        adapter = ADAPTERS[profile.backend.dialect](profile)
        try:
            async with asyncio.timeout(profile.budget.max_request_time_ms / 1000):
                seen, answer = await adapter.probe_model(credential, profile.default_model)
        except GatewayError as error:
            said = self._said(f"{error.kind}: {error.message}")
            if of_daemon and error.provider_http_status is None:
                return replace(
                    found, probe=f"does not run now; the daemon starts it ({said})", ready=installed, ok=installed
                )
            return replace(found, probe=said, ready=False, ok=False)
        except TimeoutError:
            return replace(found, probe="timeout: no answer within the total time", ready=False, ok=False)
        finally:
            await adapter.close()
        model = self._said(answer.text)
        has_model = answer.known is not False
        return replace(found, probe=f"ok: {seen}", model=model, ready=has_model, ok=has_model)

    def _said(self, text: str) -> str:
        return self._redactor.redact(text)


def _program(profile: BackendProfile) -> tuple[str | None, bool]:
    """The program that the daemon starts for a backend (None where there is none), or why it cannot; and which of the
    two it is.
    """
    settings = profile.backend
    if settings.launch is not None:
        setting, command = "launch.command", settings.launch.command
    elif settings.dialect in HTTP_DIALECTS:
        return None, True
    else:
        from ..adapters.copilot.adapter import DEFAULT

        setting, command = "copilot.command", (settings.copilot or DEFAULT).command
    try:
        return configured_program(command, profile.folder, setting), True
    except GatewayError as error:
        return error.message, False
