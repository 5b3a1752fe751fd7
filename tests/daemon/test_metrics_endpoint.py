"""`GET /metrics`, from outside."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from beluna_gateway.daemon.metrics_endpoint import metrics_endpoint
from tests.fakes.backend import FakeBackend
from tests.fakes.client import connected
from tests.fakes.daemon import DaemonProcess, daemon_process, make_config


async def scrape(connector: aiohttp.BaseConnector, url: str) -> str:
    async with aiohttp.ClientSession(connector=connector) as session, session.get(url) as response:
        assert response.status == 200
        assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
        return await response.text()


async def test_metrics_on_a_unix_socket(tmp_path):
    """A scrape over the Unix socket shows the request that failed, and only the owner may scrape."""
    config = make_config({"nobody": {"endpoint": "http://127.0.0.1:9"}}, telemetry={"metrics": "./metrics.sock"})
    async with daemon_process(tmp_path, config) as daemon:
        async with connected(daemon.socket_path) as client:
            await client.infer("nobody")
            await client.expect_failed("backend_transient")
        mode = (tmp_path / "metrics.sock").stat().st_mode & 0o777
        text = await scrape(aiohttp.UnixConnector(str(tmp_path / "metrics.sock")), "http://localhost/metrics")

    labels = f'backend_id="nobody",client="{os.getuid()}",model="fake-model",outcome="backend_transient"'
    assert f"beluna_gateway_requests_total{{{labels}}} 1.0" in text
    assert 'beluna_gateway_breaker{backend_id="nobody",state="closed"} 1.0' in text
    assert mode == 0o600


async def test_the_mode_of_the_unix_socket(tmp_path):
    """`socket_mode` lets others scrape, such as Prometheus' own user by a group."""
    metrics = {"listen": "unix:./metrics.sock", "socket_mode": "0660"}
    async with daemon_process(tmp_path, make_config({"nobody": {}}, telemetry={"metrics": metrics})):
        mode = (tmp_path / "metrics.sock").stat().st_mode & 0o777

    assert mode == 0o660


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


@asynccontextmanager
async def metrics_on_a_port(folder: Path, backend: FakeBackend) -> AsyncIterator[tuple[DaemonProcess, int]]:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        port = reserved.getsockname()[1]
    config = make_config({"b": {}}, backend, telemetry={"metrics": f"127.0.0.1:{port}"})
    async with daemon_process(folder, config) as daemon:
        yield daemon, port
        assert await daemon.stop() == 0


async def test_a_flood_of_idle_scrapers(tmp_path, backend):
    """With more connections there than the daemon may have open files, clients connect and a scrape is answered."""
    idle: list[socket.socket] = []
    try:
        async with metrics_on_a_port(tmp_path, backend) as (daemon, port):
            resource.prlimit(daemon.pid, resource.RLIMIT_NOFILE, (100, 100))
            for _ in range(200):
                idle.append(socket.create_connection(("127.0.0.1", port)))
                await asyncio.sleep(0)
            async with connected(daemon.socket_path) as client:
                await client.status()
            assert "beluna_gateway_in_flight" in await scrape(
                aiohttp.TCPConnector(), f"http://127.0.0.1:{port}/metrics"
            )
            async with asyncio.timeout(5):
                while sum(name.startswith("socket:") for name in daemon.descriptors()) > 40:
                    await asyncio.sleep(0.01)
    finally:
        for one in idle:
            one.close()


async def test_a_scraper_that_sends_nothing_is_disconnected(tmp_path, backend):
    """Nobody may hold a connection for longer than a few seconds, whatever it sends or does not read."""
    async with metrics_on_a_port(tmp_path, backend) as (_, port):
        loop = asyncio.get_running_loop()
        began = loop.time()
        silent, first = await asyncio.open_connection("127.0.0.1", port)
        slow, second = await asyncio.open_connection("127.0.0.1", port)
        second.write(b"GET /metrics HTTP/1.1\r\nHost: x\r\n")
        async with asyncio.timeout(10):
            assert await silent.read() == b""
            assert await slow.read() == b""
        assert loop.time() - began > 4
        for end in (first, second):
            end.close()


REQUESTS = {
    "whole": (b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n", "200 OK"),
    "old": (b"GET /metrics HTTP/1.0\n\n", "200 OK"),
    "query": (b"GET /metrics?x=1 HTTP/1.1\r\n\r\n", "200 OK"),
    "absolute": (b"GET http://localhost:9464/metrics HTTP/1.1\r\n\r\n", "200 OK"),
    "elsewhere": (b"GET / HTTP/1.1\r\n\r\n", "404 Not Found"),
    "post": (b"POST /metrics HTTP/1.1\r\n\r\n", "405 Method Not Allowed"),
    "no http": (b"hello\r\n\r\n", "400 Bad Request"),
    "binary": (b"\x16\x03\x01\n\n", "400 Bad Request"),
    "long": (b"GET /metrics HTTP/1.1\r\nX: " + b"x" * 9000, "431 Request Header Fields Too Large"),
}


@pytest.mark.parametrize("pieces", [1, 1000000], ids=["byte by byte", "at once"])
@pytest.mark.parametrize(("request_bytes", "status"), REQUESTS.values(), ids=REQUESTS)
async def test_what_the_metrics_port_answers(tmp_path, request_bytes, status, pieces):
    """One request a connection, answered by its status, however it is cut; then the connection is closed."""
    async with metrics_endpoint("./metrics.sock", tmp_path, some_metrics):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "metrics.sock")
        for at in range(0, len(request_bytes), pieces):
            writer.write(request_bytes[at : at + pieces])
            if len(request_bytes) < 1000:
                await asyncio.sleep(0)
        async with asyncio.timeout(5):
            head, _, body = (await reader.read()).decode().partition("\r\n\r\n")
        writer.close()
        first, *headers = head.split("\r\n")

    assert first == f"HTTP/1.1 {status}"
    assert f"Content-Length: {len(body)}" in headers
    assert "Connection: close" in headers
    assert (body == "the metrics\n") == (status == "200 OK")


@pytest.mark.parametrize("target", ["/metrics", "/elsewhere"])
async def test_a_scraper_that_half_closes(tmp_path, target):
    """`printf … | socat - UNIX-CONNECT:metrics.sock` closes its sending side, and gets its answer all the same."""
    async with metrics_endpoint("./metrics.sock", tmp_path, slow_metrics):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "metrics.sock")
        writer.write(f"GET {target} HTTP/1.0\r\n\r\n".encode())
        writer.write_eof()
        async with asyncio.timeout(5):
            answer = await reader.read()
        writer.close()

    assert answer.startswith(b"HTTP/1.1 200 OK" if target == "/metrics" else b"HTTP/1.1 404 Not Found")
    assert answer.endswith(b"the metrics\n" if target == "/metrics" else b"the metrics are at /metrics\n")


async def slow_metrics() -> bytes:
    await asyncio.sleep(0.02)
    return b"the metrics\n"


async def some_metrics() -> bytes:
    return b"the metrics\n"


async def test_metrics_that_fail(tmp_path):
    """An exception in them is the answer 500, and the endpoint goes on."""
    answers: Iterator[Exception | bytes] = iter([ZeroDivisionError(), b"fine\n"])

    async def scrape() -> bytes:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    statuses = []
    async with metrics_endpoint("./metrics.sock", tmp_path, scrape):
        for _ in range(2):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "metrics.sock")
            writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
            statuses.append((await reader.readline()).split()[1])
            writer.close()

    assert statuses == [b"500", b"200"]


async def test_the_endpoint_closes_what_is_open(tmp_path):
    """A scraper that is connected does not outlive it, and the socket file is removed."""
    async with metrics_endpoint("./metrics.sock", tmp_path, some_metrics):
        reader, writer = await asyncio.open_unix_connection(tmp_path / "metrics.sock")
        await asyncio.sleep(0.01)
    async with asyncio.timeout(5):
        assert await reader.read() == b""
    writer.close()
    assert list(tmp_path.iterdir()) == []


async def test_a_scraper_that_leaves_early(tmp_path):
    """What it asked for is cancelled with its connection."""
    begun, cancelled = asyncio.Event(), asyncio.Event()

    async def scrape() -> bytes:
        begun.set()
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            cancelled.set()
        return b""

    async with metrics_endpoint("./metrics.sock", tmp_path, scrape), asyncio.timeout(5):
        _, writer = await asyncio.open_unix_connection(tmp_path / "metrics.sock")
        writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
        await begun.wait()
        writer.transport.abort()
        await cancelled.wait()
