"""tinyproxy, Debian's: `proxy` and `proxy_credential` against a proxy that is not ours.

Not faithful in: nothing that matters here. It answers CONNECT as RFC 9110 says.
"""

from __future__ import annotations

import asyncio
import shutil
import socket
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.errors import GatewayError
from beluna_gateway.gateway import AIGateway
from tests.fakes.answers import text
from tests.fakes.backend import fake_backend
from tests.fakes.certificate import write_certificate
from tests.fakes.config import backend, config, load

from .conftest import PROGRAMS

TINYPROXY = shutil.which("tinyproxy", path="/usr/bin:/usr/sbin:/usr/local/bin")

pytestmark = [
    pytest.mark.skipif(PROGRAMS is None, reason="NOT CHECKED: run `make foreign`"),
    pytest.mark.skipif(TINYPROXY is None, reason="NOT CHECKED: tinyproxy is missing (Debian: apt install tinyproxy)"),
]

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}]}]}


@asynccontextmanager
async def tinyproxy(folder: Path) -> AsyncIterator[str]:
    """A running tinyproxy that wants user and password; its URL."""
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    settings = folder / "tinyproxy.conf"
    settings.write_text(f"Port {port}\nListen 127.0.0.1\nTimeout 60\nBasicAuth me s3cret\nLogLevel Error\n")
    with subprocess.Popen([TINYPROXY or "", "-d", "-c", settings], stdout=subprocess.DEVNULL) as process:
        try:
            async with asyncio.timeout(10):
                while True:
                    try:
                        _, writer = await asyncio.open_connection("127.0.0.1", port)
                    except OSError:
                        await asyncio.sleep(0.05)
                    else:
                        writer.close()
                        break
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def said(folder: Path, **keys: Any) -> str:
    settings = {"dialect": "openai_compatible", "reliability": {"max_retries": 0}, **keys}
    async with AIGateway(load(folder, config(backend(**settings))), folder) as gateway:
        return (await gateway.infer_once(REQUEST)).output_text


async def test_http_and_https_go_through_it(tmp_path: Path):
    """Both by CONNECT, with the proxy's user and password; without them it refuses."""
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(write_certificate(tmp_path / "ca.pem"))
    async with fake_backend(tls=context) as server, tinyproxy(tmp_path) as proxy:
        server.on("b", text("ok"))
        login = {"proxy": proxy, "proxy_credential": {"type": "inline_token", "token": "me:s3cret"}}

        assert await said(tmp_path, endpoint=server.url("b"), **login) == "ok"
        assert await said(tmp_path, endpoint=server.tls_url("b"), tls={"ca_file": "ca.pem"}, **login) == "ok"
        with pytest.raises(GatewayError, match="407") as caught:
            await said(tmp_path, endpoint=server.url("b"), proxy=proxy)
    assert caught.value.kind == "backend_permanent"
