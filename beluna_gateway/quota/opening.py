"""Makes the owner of the store that a configuration names."""

from __future__ import annotations

import secrets
from pathlib import Path

from ..config.settings import Shared
from .owner import QuotaOwner
from .store import QuotaStore, Secret

LONGEST_LEASE = 2**52
"""In microseconds, 142 years: numbers of a script in Redis are 64-bit floats, exact up to 2^53."""


def open_quota(settings: Shared, folder: Path, secret: Secret) -> QuotaOwner:
    """The owner of a store, which contacts it when it is started or first asked.

    Args:
        settings: `ai_gateway.shared`.
        folder: What relative paths are relative to.
        secret: The password of the server.

    Raises:
        ImportError: The extra `shared` is not installed.
    """
    daemon = secrets.token_hex(5)
    lease = min(settings.lease_ms * 1000, LONGEST_LEASE)
    timeout = settings.timeout_ms / 1000
    store: QuotaStore
    if settings.sqlite is not None:
        from .sqlite_store import SqliteStore

        # A file that is locked is to be told as that before the time for an answer is over.
        store = SqliteStore(folder / settings.sqlite, settings.namespace, lease, timeout * 0.8, daemon)
    else:
        assert settings.url is not None  # noqa: S101 - config/rules.py requires one of the two
        from .redis_store import RedisStore

        store = RedisStore(settings.url, secret, settings.tls, folder, settings.namespace, lease, daemon)
    return QuotaOwner(
        store,
        daemon,
        lease_seconds=lease / 1_000_000,
        timeout_seconds=timeout,
        refuses=settings.on_failure == "refuse",
    )
