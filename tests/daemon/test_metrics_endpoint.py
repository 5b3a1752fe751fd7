"""`GET /metrics`, from outside."""

from __future__ import annotations

import asyncio
import socket

import aiohttp
import pytest

from tests.fakes.client import connected
from tests.fakes.daemon import DaemonProcess, daemon_process, make_config


async def scrape(connector: aiohttp.BaseConnector, url: str) -> str:
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return await response.text()


async def test_metrics_on_a_unix_socket(tmp_path):
    """A scrape over the Unix socket shows the request that failed, and only the owner may scrape."""
    config = make_config({"nobody": {"endpoint": "http://127.0.0.1:9"}}, telemetry={"metrics": "metrics.sock"})
    async with daemon_process(tmp_path, config) as daemon:
        async with connected(daemon.socket_path) as client:
            await client.infer("nobody")
            await client.expect_failed("backend_transient")
        mode = (tmp_path / "metrics.sock").stat().st_mode & 0o777
        text = await scrape(aiohttp.UnixConnector(str(tmp_path / "metrics.sock")), "http://localhost/metrics")

    assert 'beluna_gateway_requests_total{backend_id="nobody",outcome="backend_transient"} 1.0' in text
    assert 'beluna_gateway_breaker{backend_id="nobody",state="closed"} 1.0' in text
    assert mode == 0o600


async def test_metrics_on_a_tcp_address(tmp_path):
    """A scrape over TCP works, and the port is free again after the daemon's end."""
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    config = make_config({"nobody": {}}, telemetry={"metrics": {"listen": f"127.0.0.1:{port}"}})
    async with daemon_process(tmp_path, config) as daemon:
        text = await scrape(aiohttp.TCPConnector(), f"http://127.0.0.1:{port}/metrics")
        assert await daemon.stop() == 0

    assert "beluna_gateway_in_flight" in text
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_address_that_is_taken_ends_the_daemon(tmp_path):
    """Where the metrics cannot be served the daemon says so and ends with status 73."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        config = make_config({"nobody": {}}, telemetry={"metrics": f"127.0.0.1:{taken.getsockname()[1]}"})
        daemon = DaemonProcess(tmp_path, config)
        try:
            assert await daemon.ended() == 73
        finally:
            daemon.kill()

    assert "cannot serve metrics" in daemon.log()
