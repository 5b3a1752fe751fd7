"""`GET /metrics` on a TCP address or a Unix socket."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path

from aiohttp import web

from .sockets import SocketError, listening_socket

_CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@asynccontextmanager
async def metrics_endpoint(listen: str, folder: Path, exposition: Callable[[], bytes]) -> AsyncIterator[None]:
    """Serves `exposition` while the block runs.

    Args:
        listen: ``127.0.0.1:9464``, ``[::1]:9464``, or the path of a Unix socket (mode 0600), relative to `folder`.
        folder: The config file's folder.
        exposition: Gives the text of one scrape.

    Raises:
        SocketError: It cannot listen there.
    """

    async def metrics(_request: web.Request) -> web.Response:
        return web.Response(body=exposition(), headers={"Content-Type": _CONTENT_TYPE})

    application = web.Application()
    application.router.add_get("/metrics", metrics)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    with ExitStack() as stack:
        host, colon, port = listen.rpartition(":")
        site: web.BaseSite
        if colon and port.isdecimal() and "/" not in listen:
            site = web.TCPSite(runner, host.strip("[]") or None, int(port))
        else:
            path = folder / listen.removeprefix("unix:")
            site = web.SockSite(runner, stack.enter_context(listening_socket(path, 0o600)))
        try:
            await site.start()
        except OSError as error:
            await runner.cleanup()
            raise SocketError(f"cannot serve metrics on {listen}: {error.strerror or error}") from error
        try:
            yield
        finally:
            await runner.cleanup()
