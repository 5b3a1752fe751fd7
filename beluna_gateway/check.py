"""`beluna-gateway check`: each backend's credential and a probe of the backend itself."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from .adapters import ADAPTERS
from .config.settings import BackendProfile, Config, profiles
from .errors import GatewayError
from .pipeline.credentials import CredentialResolver
from .telemetry.redaction import Redactor


@dataclass(frozen=True, slots=True)
class CheckedBackend:
    """One row of the table."""

    profile: BackendProfile
    credential: str
    probe: str
    good: bool

    @property
    def cells(self) -> tuple[str, ...]:
        """Its columns, every effective timeout among them."""
        limits = self.profile.reliability
        total = self.profile.budget.max_request_time_ms
        timeouts = (limits.connect_timeout_ms, limits.request_timeout_ms, limits.idle_timeout_ms, total)
        dialect = self.profile.backend.dialect
        return (self.profile.id, dialect, "/".join(map(str, timeouts)), self.credential, self.probe)


async def check_backends(config: Config, folder: Path, only: str | None = None) -> list[CheckedBackend]:
    """Probes the configured backends side by side. A server that `launch` names is started for it, and stopped."""
    redactor = Redactor()
    wanted = [profile for profile in profiles(config, folder).values() if only in (None, profile.id)]
    return list(await asyncio.gather(*(_check(profile, redactor) for profile in wanted)))


async def _check(profile: BackendProfile, redactor: Redactor) -> CheckedBackend:
    credentials = CredentialResolver(redactor)
    try:
        credential = await credentials.resolve(profile)
    except GatewayError as error:
        return CheckedBackend(profile, error.message.partition(": ")[2], "not probed", good=False)
    finally:
        await credentials.close()
    state = "none needed" if credential.secret is None else "found"
    adapter = ADAPTERS[profile.backend.dialect](profile)
    try:
        async with asyncio.timeout(profile.budget.max_request_time_ms / 1000):
            seen = await adapter.probe(credential)
        return CheckedBackend(profile, state, f"ok: {seen}", good=True)
    except GatewayError as error:
        return CheckedBackend(profile, state, f"{error.kind}: {redactor.redact(error.message)[:200]}", good=False)
    except TimeoutError:
        return CheckedBackend(profile, state, "timeout: no answer within the total time", good=False)
    finally:
        await adapter.close()
