"""What stands around a backend: TLS, proxies and credentials in the environment, and our own headers."""

from __future__ import annotations

import ssl

import pytest

from tests.fakes.answers import DONE, SILENCE, delta, finish, hang_up, plays, text
from tests.fakes.backend import fake_backend
from tests.fakes.certificate import write_certificate
from tests.fakes.client import connected, said
from tests.fakes.daemon import daemon_process, make_config


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    """A self-made certificate for localhost, with its key; the path of the file."""
    return write_certificate(tmp_path_factory.mktemp("tls") / "localhost.pem")


@pytest.fixture
async def secure(tmp_path, certificate):
    """A fake backend that speaks TLS."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)
    async with fake_backend(tls=context) as fake:
        yield fake


def over_tls(fake):
    return make_config({"b": {"endpoint": "https://localhost:{tls}/b", "reliability": {"max_retries": 0}}}, fake)


async def test_over_tls(tmp_path, secure, certificate):
    """A trusted backend answers, streams, is cut and is let go as any other."""
    environment = {"SSL_CERT_FILE": str(certificate)}
    async with (
        daemon_process(tmp_path, over_tls(secure), environment) as daemon,
        connected(daemon.socket_path) as client,
    ):
        secure.on("b", text("safe"), plays(delta("x"), SILENCE))
        await client.infer("b")
        assert said(await client.answer()) == "safe"
        await client.infer("b")
        await client.expect("started")
        await client.expect("output_text_delta")
        await client.cancel()
        await client.expect_failed("cancelled")
        await secure.requests("b")[1].closed()
        for cut in (hang_up, plays(delta("x"), "cut")):
            secure.on("b", cut)
            await client.infer("b")
            await client.expect_failed("backend_transient")
        assert await daemon.stop() == 0


async def test_a_certificate_that_is_not_trusted(tmp_path, secure):
    """`backend_permanent`, not retryable, and nothing is sent."""
    async with daemon_process(tmp_path, over_tls(secure)) as daemon, connected(daemon.socket_path) as client:
        secure.on("b", text("x"))
        await client.infer("b")

        error = await client.expect_failed("backend_permanent")
        assert error["retryable"] is False
        assert "certificate" in error["message"]
        assert secure.requests("b") == []
        assert await daemon.stop() == 0


async def test_the_environment_changes_nothing(tmp_path, backend):
    """Proxies and `.netrc` are not used: the request goes where the configuration says, with its credential alone."""
    (tmp_path / ".netrc").write_text("machine 127.0.0.1\nlogin canary\npassword canary\n")
    (tmp_path / ".netrc").chmod(0o600)
    proxy = backend.url("proxy")
    environment = dict.fromkeys(("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy", "HTTPS_PROXY"), proxy)
    environment |= {"HOME": str(tmp_path), "NETRC": str(tmp_path / ".netrc")}
    async with (
        daemon_process(tmp_path, make_config({"b": {}}, backend), environment) as daemon,
        connected(daemon.socket_path) as client,
    ):
        backend.on("b", text("direct"))
        await client.infer("b")
        assert said(await client.answer()) == "direct"

        (seen,) = backend.requests("b")
        assert seen.target == "/b/chat/completions"
        assert not {"authorization", "proxy-authorization", "cookie"} & set(seen.headers)
        assert await daemon.stop() == 0


async def test_the_headers_of_a_request(tmp_path, backend):
    """Ours, and those of the configuration; compression is not asked for, cookies are not kept."""
    config = make_config({"b": {"headers": {"X-Team": "beluna", "User-Agent": "mine/1"}}}, backend)
    async with daemon_process(tmp_path, config) as daemon, connected(daemon.socket_path) as client:
        backend.on("b", plays(delta("x"), finish(), DONE, headers={"Set-Cookie": "session=1"}))
        for stream in (True, True):
            await client.infer("b", "id-1", stream=stream)
            await client.answer("id-1")

        first, second = backend.requests("b")
        assert first.header_list == second.header_list
        names = [name.lower() for name, _ in first.header_list]
        assert len(names) == len(set(names))
        wanted = {
            "host": f"127.0.0.1:{backend.port}",
            "content-type": "application/json",
            "accept": "text/event-stream",
            "accept-encoding": "identity",
            "user-agent": "mine/1",
            "x-team": "beluna",
            "x-request-id": "id-1",
            "content-length": str(len(first.body)),
        }
        assert first.headers == wanted
        assert await daemon.stop() == 0
