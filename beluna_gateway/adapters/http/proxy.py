"""Connections through a proxy: CONNECT (RFC 9110, section 9.3.6), whatever is spoken in the tunnel."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable
from urllib.parse import urlsplit

from python_socks import ProxyConnectionError, ProxyError, ProxyType
from python_socks.async_.asyncio import Proxy
from yarl import URL

from ...errors import GatewayError
from .connecting import P

_DEFAULT_PORTS = {"http": 80, "https": 443}


class ProxyConnector:
    """Connects through a proxy, which resolves the backend's name.

    Args:
        proxy: The URL of the proxy.
        url: Has the backend's host and port.
        seconds: The longest time until the tunnel is there.
        credential: `user:password` for the proxy, or None, asked for each connection.
    """

    def __init__(self, proxy: str, url: URL, seconds: float, credential: Callable[[], str | None]) -> None:
        self._proxy = urlsplit(proxy)
        self._host, self._port = url.host or "", url.port or _DEFAULT_PORTS[url.scheme]
        self._credential = credential
        self._seconds = seconds

    async def connect(self, make_protocol: Callable[[], P], context: ssl.SSLContext | None) -> P:
        """See `Connector`.

        Raises:
            GatewayError: The proxy is not there, or does not connect.
        """
        user, _colon, password = (self._credential() or "").partition(":")
        proxy = Proxy(
            ProxyType.HTTP,
            host=self._proxy.hostname or "",
            port=self._proxy.port or 80,
            username=user or None,
            password=password or None,
        )
        try:
            tunnel = await proxy.connect(self._host, self._port, timeout=self._seconds)
        except ProxyConnectionError as error:
            raise GatewayError(
                "backend_transient", f"no connection to the proxy {self._proxy.geturl()}: {error}", retryable=True
            ) from error
        except ProxyError as error:
            raise _refused(self._proxy.geturl(), error) from error
        _, protocol = await asyncio.get_running_loop().create_connection(
            make_protocol, sock=tunnel, ssl=context, server_hostname=None if context is None else self._host
        )
        return protocol

    async def close(self) -> None:
        """See `Connector`."""


def _refused(proxy: str, error: ProxyError) -> GatewayError:
    said = f"the proxy {proxy} did not connect to the backend: {error}"
    if error.error_code in (401, 403, 407):
        return GatewayError("backend_permanent", f"{said} (proxy_credential)")
    return GatewayError("backend_transient", said, retryable=True)
