"""Backends behind a proxy, and backends whose TLS has authorities and certificates of its own."""

from __future__ import annotations

import asyncio
import base64
import os
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.config.loading import ConfigError
from beluna_gateway.config.tls_files import system_context
from beluna_gateway.errors import GatewayError
from beluna_gateway.gateway import AIGateway
from tests.fakes.answers import text
from tests.fakes.backend import FakeBackend, fake_backend
from tests.fakes.certificate import write_certificate
from tests.fakes.config import backend, config, load
from tests.fakes.proxy import fake_proxy

REQUEST: dict[str, Any] = {"messages": [{"role": "user", "parts": [{"text": {"text": "hello"}}]}]}


@asynccontextmanager
async def gateway(folder: Path, **keys: Any) -> AsyncIterator[AIGateway]:
    """A gateway with one backend of Chat Completions."""
    settings = {"dialect": "openai_compatible", "reliability": {"max_retries": 0, "connect_timeout_ms": 2000}, **keys}
    async with AIGateway(load(folder, config(backend(**settings))), folder) as running:
        yield running


async def said(folder: Path, **keys: Any) -> str:
    async with gateway(folder, **keys) as running:
        return (await running.infer_once(REQUEST)).output_text


async def failure(folder: Path, **keys: Any) -> GatewayError:
    with pytest.raises(GatewayError) as caught:
        await said(folder, **keys)
    return caught.value


def scripted(server: FakeBackend) -> FakeBackend:
    server.on("b", text("ok"))
    return server


# --- the proxy -----------------------------------------------------------------------------------------------


async def test_a_tunnel_is_made_for_plain_http_too(tmp_path: Path):
    """CONNECT names the backend, and the backend sees an ordinary request."""
    async with fake_backend() as server, fake_proxy() as proxy:
        scripted(server)
        assert await said(tmp_path, endpoint=server.url("b"), proxy=proxy.url) == "ok"

        [head] = proxy.heads
        assert head.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n")
        assert "authorization" not in head.lower()
        assert (await server.request("b")).target == "/b/chat/completions"


async def test_a_tunnel_is_made_once_for_many_requests(tmp_path: Path):
    """Connections through a proxy are kept like others."""
    async with fake_backend() as server, fake_proxy() as proxy:
        scripted(server)
        async with gateway(tmp_path, endpoint=server.url("b"), proxy=proxy.url) as running:
            for _ in range(3):
                await running.infer_once(REQUEST)

        assert len(proxy.heads) == 1


async def test_the_proxys_credential_is_for_the_proxy_only(tmp_path: Path):
    """`proxy_credential` is user and password of CONNECT; the backend's credential stays inside of the tunnel."""
    async with fake_backend() as server, fake_proxy() as proxy:
        scripted(server)
        (tmp_path / "proxy").write_text("me:s3cret:x\n")
        await said(
            tmp_path,
            endpoint=server.url("b"),
            proxy=proxy.url,
            proxy_credential={"type": "file", "path": "proxy"},
            credential={"type": "inline_token", "token": "sk-key"},
        )

        [head] = proxy.heads
        assert base64.b64encode(b"me:s3cret:x").decode() in head
        assert "sk-key" not in head
        headers = (await server.request("b")).headers
        assert headers["authorization"] == "Bearer sk-key"
        assert "proxy-authorization" not in headers


async def test_tls_inside_of_the_tunnel_is_the_backends(tmp_path: Path):
    """The certificate that is checked is that of the backend's name."""
    certificate = write_certificate(tmp_path / "ca.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with fake_backend(tls=context) as server, fake_proxy() as proxy:
        scripted(server)
        keys: dict[str, Any] = {"endpoint": server.tls_url("b"), "proxy": proxy.url}
        assert await said(tmp_path, **keys, tls={"ca_file": "ca.pem"}) == "ok"
        assert (await failure(tmp_path, **keys)).kind == "backend_permanent"  # nobody vouches for it


@pytest.mark.parametrize(
    ("answer", "kind", "retryable"),
    [
        (b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "backend_permanent", False),
        (b"HTTP/1.1 502 Bad Gateway\r\n\r\n", "backend_transient", True),
        (b"nonsense\r\n\r\n", "backend_transient", True),
        (b"HTTP/1.1 502 \xff\xfe\r\n\r\n", "backend_transient", True),
        (b"\x16\x03\x01\xff\xfe", "backend_transient", True),
        (b"", "backend_transient", True),
    ],
)
async def test_a_proxy_that_refuses_is_named(tmp_path: Path, answer: bytes, kind: str, retryable: bool):
    """Who did not connect is told: the proxy, not the backend."""
    async with fake_proxy(answer) as proxy:
        error = await failure(tmp_path, endpoint="http://backend.invalid/b", proxy=proxy.url)

    assert (error.kind, error.retryable) == (kind, retryable)
    assert f"the proxy {proxy.url}" in error.message
    assert error.message.encode()  # a line can hold it


async def test_a_proxy_whose_name_no_host_has(tmp_path: Path):
    """It is told as the proxy's, not as the backend's."""
    error = await failure(tmp_path, endpoint="http://backend.invalid/b", proxy="http://a..b:1")

    assert error.message == "no connection to the proxy http://a..b:1: no host has such a name"


async def test_names_and_passwords_beyond_ascii_reach_the_proxy(tmp_path: Path):
    """The backend's name as DNS has it, the password in UTF-8."""
    secret = {"type": "inline_token", "token": "me:пароль"}
    async with fake_proxy(b"HTTP/1.1 502 Bad Gateway\r\n\r\n") as proxy:
        await failure(tmp_path, endpoint="http://bücher.invalid/b", proxy=proxy.url, proxy_credential=secret)
    (head,) = proxy.heads

    assert head.startswith("CONNECT xn--bcher-kva.invalid:80 HTTP/1.1\r\n")
    assert base64.b64encode("me:пароль".encode()).decode() in head


async def test_a_proxy_that_is_not_there_is_transient(tmp_path: Path):
    """Nobody listens: the message names the proxy."""
    error = await failure(tmp_path, endpoint="http://backend.invalid/b", proxy="http://127.0.0.1:9")

    assert (error.kind, error.retryable) == ("backend_transient", True)
    assert "no connection to the proxy http://127.0.0.1:9" in error.message


async def test_a_proxy_that_says_nothing_ends_with_the_connect_timeout(tmp_path: Path):
    """The tunnel belongs to the connecting."""

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server:
        error = await failure(
            tmp_path,
            endpoint="http://backend.invalid/b",
            proxy=f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}",
            reliability={"max_retries": 0, "connect_timeout_ms": 100},
        )

    assert error.kind == "timeout"
    assert "connect_timeout_ms" in error.message


async def test_a_proxy_of_the_environment_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What variables say is meant for other programs."""
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("ALL_PROXY", "http://127.0.0.1:9")
    async with fake_backend() as server:
        scripted(server)
        assert await said(tmp_path, endpoint=server.url("b")) == "ok"


# --- TLS -----------------------------------------------------------------------------------------------------


async def test_a_certificate_of_our_own_is_shown(tmp_path: Path):
    """A backend that asks for a client's certificate gets it; without it there is no connection."""
    write_certificate(tmp_path / "ca.pem")
    write_certificate(tmp_path / "client.pem")
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=str(tmp_path / "client.pem"))
    context.load_cert_chain(tmp_path / "ca.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    async with fake_backend(tls=context) as server:
        scripted(server)
        trusted = {"ca_file": "ca.pem"}
        assert await said(tmp_path, endpoint=server.tls_url("b"), tls=trusted | {"cert_file": "client.pem"}) == "ok"
        assert (await failure(tmp_path, endpoint=server.tls_url("b"), tls=trusted)).kind == "backend_transient"


@pytest.mark.parametrize("wrong", ["missing", "empty", "fifo"])
async def test_files_that_are_of_no_use_any_more(tmp_path: Path, wrong: str):
    """Where they change before they are first used, requests say so, hold up nobody, and work once they are mended."""
    certificate = write_certificate(tmp_path / "ca.pem")
    text_of_it = certificate.read_bytes()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate)
    async with fake_backend(tls=context) as server, asyncio.timeout(10):
        scripted(server)
        async with gateway(tmp_path, endpoint=server.tls_url("b"), tls={"ca_file": "ca.pem"}) as running:
            certificate.unlink()
            if wrong == "fifo":
                os.mkfifo(certificate)
            elif wrong == "empty":
                certificate.touch()
            with pytest.raises(GatewayError, match=r"^tls\.ca_file: ca\.pem") as caught:
                await running.infer_once(REQUEST)
            assert (caught.value.kind, caught.value.backend_id) == ("backend_permanent", "b")
            certificate.unlink(missing_ok=True)
            certificate.write_bytes(text_of_it)
            assert (await running.infer_once(REQUEST)).output_text == "ok"


@pytest.mark.parametrize(
    ("tls", "why"),
    [
        ({"ca_file": "nobody.pem"}, "tls.ca_file: nobody.pem cannot be read: No such file"),
        ({"ca_file": "empty.pem"}, "tls.ca_file: empty.pem cannot be used"),
        ({"ca_file": "fifo"}, "tls.ca_file: fifo is not a regular file"),
        ({"cert_file": "good.pem", "key_file": "/dev/zero"}, "tls.key_file: /dev/zero is not a regular file"),
        ({"cert_file": "empty.pem"}, "tls.cert_file: empty.pem cannot be used"),
        (
            {"cert_file": "good.pem", "key_file": "other.pem"},
            "tls.cert_file: good.pem with key_file other.pem cannot be",
        ),
        ({"cert_file": "locked.pem"}, "tls.cert_file: locked.pem cannot be used"),
        ({"ca_file": "~/ca.pem"}, "tls.ca_file: begins with ~"),
        ({"key_file": "good.pem"}, "tls.key_file: without effect, there is no cert_file"),
    ],
)
def test_files_of_no_use_are_mistakes(tmp_path: Path, tls: dict[str, Any], why: str):
    """They are told when the configuration is loaded, and nobody is asked for a passphrase."""
    from cryptography.hazmat.primitives.serialization import (
        BestAvailableEncryption,
        Encoding,
        PrivateFormat,
        load_pem_private_key,
    )

    good, _ = write_certificate(tmp_path / "good.pem"), write_certificate(tmp_path / "other.pem")
    (tmp_path / "empty.pem").write_text("")
    os.mkfifo(tmp_path / "fifo")
    key = load_pem_private_key(good.read_bytes(), None)
    locked = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"passphrase"))
    (tmp_path / "locked.pem").write_bytes(locked + good.read_bytes()[good.read_bytes().index(b"-----BEGIN CERT") :])

    with pytest.raises(ConfigError, match="tls") as caught:
        load(tmp_path, config(backend(dialect="openai_compatible", endpoint="https://h", tls=tls)))

    assert why in "\n".join(caught.value.mistakes)


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"proxy": "http://me:pw@h:1"}, "proxy: holds a user name or password; use `proxy_credential`"),
        ({"proxy": "https://h:1"}, "proxy: found 'https://h:1', expected http://host:port"),
        ({"proxy": "socks5://h:1"}, "expected http://host:port"),
        ({"proxy": "h:1"}, "expected http://host:port"),
        ({"proxy": "http://h:1/path"}, "expected http://host:port"),
        (
            {"proxy": "http://h:1", "endpoint": "unix:/run/s"},
            "proxy: without effect where the endpoint is a Unix socket",
        ),
        ({"proxy_credential": {"type": "none"}}, "proxy_credential: without effect, there is no proxy"),
        ({"tls": {"ca_file": "x"}, "endpoint": "http://h"}, "tls: without effect where the endpoint is not https:"),
    ],
)
def test_settings_without_a_meaning_are_mistakes(tmp_path: Path, keys: dict[str, Any], why: str):
    """Each names the setting and what was expected."""
    settings = {"dialect": "openai_compatible", "endpoint": "https://h", **keys}

    with pytest.raises(ConfigError) as caught:
        load(tmp_path, config(backend(**settings)))

    assert why in "\n".join(caught.value.mistakes)


async def test_a_proxy_credential_of_another_form_is_told(tmp_path: Path):
    """Without a colon there is no password."""
    error = await failure(
        tmp_path,
        endpoint="http://h",
        proxy="http://127.0.0.1:9",
        proxy_credential={"type": "inline_token", "token": "only-a-word"},
    )

    assert error.kind == "authentication"
    assert "not of the form user:password" in error.message


@pytest.mark.parametrize(("endpoint", "read"), [("https://h", True), ("http://h", False)])
async def test_the_authorities_are_read_before_the_first_request(tmp_path: Path, endpoint: str, read: bool):
    """Once for all backends, when the gateway starts, and only where a backend speaks TLS."""
    system_context.cache_clear()
    async with gateway(tmp_path, endpoint=endpoint) as running:
        await running.start()

        assert system_context.cache_info().currsize == read
