"""The heads of requests: what is kept of them changes nothing about what is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h11
import pytest
from yarl import URL

from beluna_gateway.adapters.base import HttpRequest
from beluna_gateway.adapters.dialects.anthropic import AnthropicDialect
from beluna_gateway.adapters.http.request_head import MAX_BEGINNINGS, RequestHeads, base_url, head_of_get
from beluna_gateway.config.settings import BackendProfile, BackendSettings, Budget, Reliability
from beluna_gateway.telemetry.trace_context import TraceContext
from beluna_gateway.version import __version__

CHAT = HttpRequest("/chat", {})
TRACE = TraceContext("00-parent", "a=1", 1, 1, 1)


def dialect(**headers: str) -> AnthropicDialect:
    settings = BackendSettings.model_validate(
        {
            "id": "b",
            "dialect": "anthropic",
            "endpoint": "http://h:8",
            "credential": {"type": "none"},
            "default_model": "m",
            "headers": headers,
        }
    )
    return AnthropicDialect(BackendProfile(settings, Reliability(), Budget(), Path()))


def heads(**headers: str) -> RequestHeads:
    return RequestHeads(URL("http://h:8/v1?version=2"), dialect(**headers))


def sent(head: bytes) -> tuple[str, dict[str, str]]:
    """The request line, and the headers as a server reads them, none of which is there twice."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    headers = {name.decode(): value.decode() for name, value in request.headers}
    assert len(headers) == len(list(request.headers))
    return f"{request.method.decode()} {request.target.decode()}", headers


def test_a_head_is_as_http_has_it() -> None:
    """Line by line; the names as they are usually written, though no server may care."""
    assert heads().write(CHAT, "one", "s", 5, stream=True).decode().split("\r\n") == [
        "POST /v1/chat?version=2 HTTP/1.1",
        "Content-Type: application/json",
        "Accept: text/event-stream",
        "Accept-Encoding: identity",
        f"User-Agent: beluna-gateway/{__version__}",
        "x-api-key: s",
        "anthropic-version: 2023-06-01",
        "Host: h:8",
        "X-Request-Id: one",
        "Content-Length: 5",
        "",
        "",
    ]
    assert "Accept: application/json" in heads().write(CHAT, "one", None, 5).decode()
    assert heads().plain("/models?limit=2", "s").decode().split("\r\n") == [
        "GET /v1/models?version=2&limit=2 HTTP/1.1",
        "Accept-Encoding: identity",
        "x-api-key: s",
        "anthropic-version: 2023-06-01",
        "Host: h:8",
        "",
        "",
    ]
    assert heads().plain("/models", None) == (
        b"GET /v1/models?version=2 HTTP/1.1\r\nAccept-Encoding: identity\r\nHost: h:8\r\n\r\n"
    )
    assert head_of_get(URL("http://h:8/health")) == b"GET /health HTTP/1.1\r\nHost: h:8\r\n\r\n"


@pytest.mark.parametrize(
    ("endpoint", "url", "unix_path"),
    [
        ("http://h:8", "http://h:8/chat", None),
        ("https://h/v1/", "https://h/v1/chat", None),
        ("https://h/v1//?a=b", "https://h/v1/chat?a=b", None),
        ("unix:/run/s", "http://localhost/chat", "/run/s"),
        ("unix:/run/s:/v1:2", "http://localhost/v1:2/chat", "/run/s"),
    ],
)
def test_paths_are_appended_to_the_endpoint(endpoint: str, url: str, unix_path: str | None) -> None:
    """Of a Unix socket that of its server."""
    base, socket = base_url(endpoint)

    assert (str(RequestHeads(base, dialect()).url("/chat")), socket) == (url, unix_path)


def test_a_path_is_text() -> None:
    """What a client chose in it, a model's name, is encoded."""
    assert heads().url("/models/a b%2Fc:\u00fc?alt=sse").raw_path_qs == (
        "/v1/models/a%20b%252Fc:%C3%BC?version=2&alt=sse"
    )


def test_what_heads_share_is_put_together_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Until there are too many of them."""
    asked: list[str] = []

    def auth_headers(secret: str) -> dict[str, str]:
        asked.append(secret)
        return {}

    of = dialect()
    monkeypatch.setattr(of, "auth_headers", auth_headers)
    ours = RequestHeads(URL("http://h:8"), of)
    secrets = [str(n) for n in range(MAX_BEGINNINGS)]
    for secret in [*secrets, *secrets]:
        ours.write(CHAT, "one", secret, 5)
        ours.write(CHAT, "two", secret, 7)
    assert asked == secrets

    ours.write(CHAT, "one", "more", 5)
    ours.write(CHAT, "one", "0", 5)
    assert asked == [*secrets, "more", "0"]


def test_heads_differ_in_what_their_requests_do() -> None:
    """Path, id, length, way to answer, secret and headers of its own: each is that of the request, also the second
    time, when all else is known.
    """
    ours = heads()
    first: dict[str, Any] = {"request": CHAT, "request_id": "one", "secret": "s", "length": 5, "stream": False}
    others: list[dict[str, Any]] = [
        {},
        {"request": HttpRequest("/other?limit=1", {})},
        {"request": replace(CHAT, headers={"X-Beta": "b"})},
        {"request_id": "two"},
        {"request_id": "\u00fc"},
        {"secret": None},
        {"secret": "t"},
        {"length": 7},
        {"length": None},
        {"stream": True},
        {"trace": TRACE},
    ]

    seen = [sent(ours.write(**{**first, **other})) for other in others]

    assert seen == [sent(heads().write(**{**first, **other})) for other in others]
    assert seen == [sent(ours.write(**{**first, **other})) for other in others]
    assert all(one != another for n, one in enumerate(seen) for another in seen[:n])
    line, headers = seen[0]
    assert line == "POST /v1/chat?version=2"
    assert (headers["host"], headers["x-request-id"], headers["content-length"]) == ("h:8", "one", "5")
    assert seen[1][0] == "POST /v1/other?version=2&limit=1"
    assert "x-request-id" not in seen[4][1]
    assert seen[8][0] == "GET /v1/chat?version=2"
    assert not {"content-length", "content-type"} & {*seen[8][1]}
    assert {"traceparent": "00-parent", "tracestate": "a=1"}.items() <= seen[10][1].items()


@pytest.mark.parametrize("name", ["User-Agent", "x-request-id", "HOST", "TraceParent", "accept"])
def test_a_configured_header_is_sent_in_place_of_ours(name: str) -> None:
    """Its name may be spelled otherwise; it stands there once."""
    _, headers = sent(heads(**{name: "mine"}).write(CHAT, "one", "s", 5, trace=TRACE))

    assert headers[name.lower()] == "mine"
