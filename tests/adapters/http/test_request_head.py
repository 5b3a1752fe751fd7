"""The heads of requests: what is kept of them changes nothing about what is sent."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import h11
import pytest

from beluna_gateway.adapters.base import HttpRequest
from beluna_gateway.adapters.dialects.anthropic import AnthropicDialect
from beluna_gateway.adapters.http.request_head import MAX_BEGINNINGS, RequestHeads, base_url
from beluna_gateway.config.settings import BackendProfile, BackendSettings, Budget, Reliability
from beluna_gateway.telemetry.trace_context import TraceContext

CHAT = HttpRequest("/chat", {})
TRACE = TraceContext("00-parent", "a=1", 1, 1, 1)


def heads(**headers: str) -> RequestHeads:
    endpoint = "http://h:8/v1?version=2"
    settings = BackendSettings.model_validate(
        {
            "id": "b",
            "dialect": "anthropic",
            "endpoint": endpoint,
            "credential": {"type": "none"},
            "default_model": "m",
            "headers": headers,
        }
    )
    profile = BackendProfile(settings, Reliability(), Budget(), Path())
    return RequestHeads(base_url(endpoint)[0], AnthropicDialect(profile))


def sent(head: bytes) -> tuple[str, dict[str, str]]:
    """The request line, and the headers as a server reads them, none of which is there twice."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(head)
    request = server.next_event()
    assert isinstance(request, h11.Request)
    headers = {name.decode(): value.decode() for name, value in request.headers}
    assert len(headers) == len(list(request.headers))
    return f"{request.method.decode()} {request.target.decode()}", headers


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


def test_what_is_kept_of_heads_is_bounded() -> None:
    """However many paths and secrets there are."""
    ours = heads()
    for n in range(10 * MAX_BEGINNINGS):
        ours.write(HttpRequest(f"/{n}", {}), "one", "s", 5)

    assert len(ours._beginnings) <= MAX_BEGINNINGS
