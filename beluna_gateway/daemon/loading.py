"""Loads, once the socket accepts, what the first request needs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ..config.settings import HTTP_DIALECTS, Config

_AUTHORITIES = "SSL_CERT_FILE"
"""OpenSSL's name for the file that is read instead of the system's authorities."""


def load_adapters(config: Config) -> None:
    """Imports the HTTP adapter where a backend needs it: it takes most of the time until the first answer."""
    if any(backend.dialect in HTTP_DIALECTS for backend in config.ai_gateway.backends):
        with _no_authorities():
            from ..adapters.http import adapter  # noqa: F401


@contextmanager
def _no_authorities() -> Iterator[None]:
    """Has new TLS contexts read no authorities.

    `aiohttp.connector` makes two contexts as it is imported, which takes 42 ms and 1.7 MB with the authorities of a
    usual system. They are not used: connections to `https` endpoints are made with those of `config.tls_files`.
    Programs that embed the gateway may use aiohttp themselves, and import it as it is.
    """
    before = os.environ.get(_AUTHORITIES)
    os.environ[_AUTHORITIES] = os.devnull
    try:
        yield
    finally:
        if before is None:
            del os.environ[_AUTHORITIES]
        else:
            os.environ[_AUTHORITIES] = before
