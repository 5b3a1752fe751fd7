"""Connections through a proxy: CONNECT (RFC 9110, section 9.3.6), whatever is spoken in the tunnel."""

from __future__ import annotations

import ssl
from collections.abc import Callable
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiohttp
from python_socks import ProxyConnectionError, ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy

from ...config.settings import BackendProfile
from ...errors import GatewayError

if TYPE_CHECKING:
    from aiohttp.client_proto import ResponseHandler

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProxyConnector(aiohttp.BaseConnector):
    """aiohttp's pool, whose connections are made by a proxy. The proxy resolves the backend's name.

    Args:
        profile: The backend's, with a `proxy`.
        context: What TLS inside of the tunnel is made with, where the backend speaks TLS.
        credential: `user:password` for the proxy, or None, asked for each connection.
    """

    def __init__(
        self, profile: BackendProfile, context: ssl.SSLContext | None, credential: Callable[[], str | None]
    ) -> None:
        super().__init__(limit=0)
        self._proxy = urlsplit(profile.backend.proxy or "")
        self._context = context
        self._credential = credential
        self._seconds = profile.reliability.connect_timeout_ms / 1000

    async def _create_connection(self, req: aiohttp.ClientRequest, *_: object) -> ResponseHandler:
        """What `BaseConnector` asks its subclasses for."""
        host, port = req.url.raw_host or "", req.url.port or _DEFAULT_PORTS[req.url.scheme]
        # RFC 7617: UTF-8, which python-socks can be told only like this, for it encodes in Latin-1.
        user, _colon, password = (self._credential() or "").encode().decode("latin-1").partition(":")
        proxy = Proxy(
            ProxyType.HTTP,
            host=self._proxy.hostname or "",
            port=self._proxy.port or 80,
            username=user or None,
            password=password or None,
        )
        try:
            tunnel = await proxy.connect(host, port, timeout=self._seconds)
        except ProxyConnectionError as error:
            raise GatewayError(
                "backend_transient", f"no connection to the proxy {self._proxy.geturl()}: {error}", retryable=True
            ) from error
        except UnicodeError as error:  # of the codec for international host names
            why = f"no connection to the proxy {self._proxy.geturl()}: no host has such a name"
            raise GatewayError("backend_transient", why, retryable=True) from error
        except ProxyError as error:
            raise _refused(self._proxy.geturl(), error) from error
        encrypted = req.url.scheme == "https"
        _transport, protocol = await self._loop.create_connection(
            self._factory,
            sock=tunnel,
            ssl=self._context if encrypted else None,
            server_hostname=host if encrypted else None,
        )
        return protocol


def _refused(proxy: str, error: ProxyError) -> GatewayError:
    # What it answered in bytes that are no UTF-8 stands in the message as halves of surrogate pairs.
    answer = str(error).encode(errors="surrogateescape").decode(errors="replace")
    said = f"the proxy {proxy} did not connect to the backend: {answer}"
    if error.error_code in (401, 403, 407):
        return GatewayError("backend_permanent", f"{said} (proxy_credential)")
    return GatewayError("backend_transient", said, retryable=True)
