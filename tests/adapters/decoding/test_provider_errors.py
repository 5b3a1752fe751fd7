"""A provider's "no" → `GatewayError`, by the table of protocol/README.md, "Error mapping"."""

from __future__ import annotations

from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.provider_errors import (
    ProviderError,
    error_in_stream,
    error_of_status,
    read_error,
    read_error_body,
    retry_after_ms,
)

NOTHING = ProviderError(None, None, {})


@pytest.mark.parametrize(
    ("statuses", "kind", "retryable"),
    [
        ([400, 404, 405, 413, 415, 422], "invalid_request", False),
        ([401], "authentication", False),
        ([403], "authorization", False),
        ([402], "backend_permanent", False),
        ([408], "timeout", True),
        ([429], "rate_limited", True),
        ([409, 425, 500, 501, 502, 503, 504, 507, 529, 599], "backend_transient", True),
        ([406, 410, 418, 451, 499, 300, 301, 302, 304, 307, 308], "backend_permanent", False),
    ],
)
def test_the_status_decides_the_kind(statuses: list[int], kind: str, retryable: bool) -> None:
    """Each HTTP status has the kind that the table gives it, and is carried beside it."""
    for status in statuses:
        error = error_of_status(status, NOTHING)

        assert (error.kind, error.retryable, error.provider_http_status) == (kind, retryable, status)


@pytest.mark.parametrize("code", ["insufficient_quota", "billing_hard_limit_reached", "billing_not_active"])
def test_a_spent_quota_is_not_worth_another_try(code: str) -> None:
    """HTTP 429 whose code says that the quota is spent is `rate_limited`, but not retryable."""
    error = error_of_status(429, ProviderError(code, None, {}))

    assert (error.kind, error.retryable, error.provider_code) == ("rate_limited", False, code)


def test_the_wording_of_a_message_decides_nothing() -> None:
    """A 500 that mentions a quota, a key or a policy is an outage."""
    said = ProviderError(None, "insufficient_quota: invalid api key, policy violation, rate limit", {})

    assert error_of_status(500, said).kind == "backend_transient"
    assert error_in_stream(said).kind == "backend_transient"


@pytest.mark.parametrize(
    ("body", "code", "message"),
    [
        ({"error": {"message": "m", "type": "t", "param": None, "code": None}}, "t", "m"),
        ({"error": {"message": "m", "type": "t", "code": "c"}}, "c", "m"),
        ({"error": {"message": "m", "type": "t", "code": 400}}, "t", "m"),
        ({"error": {"message": "m", "code": 404}}, "404", "m"),
        ({"error": {"message": "m", "code": "404"}}, "404", "m"),
        ({"error": {"message": "m", "code": "404", "type": "t"}}, "t", "m"),
        ({"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}, "INVALID_ARGUMENT", "m"),
        ([{"error": {"code": 400, "message": "m", "status": "INVALID_ARGUMENT"}}], "INVALID_ARGUMENT", "m"),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "m"}}, "overloaded_error", "m"),
        ({"error": "model 'x' not found"}, None, "model 'x' not found"),
        ({"object": "error", "message": "m", "type": "BadRequestError", "code": 400}, "BadRequestError", "m"),
        ({"detail": "Not Found"}, None, "Not Found"),
        ({"error": {"code": True, "message": 5}}, None, None),
        ({"error": None}, None, None),
        ([], None, None),
        ("text", None, "text"),
        (None, None, None),
    ],
)
def test_errors_are_read_in_every_shape(body: Any, code: str | None, message: str | None) -> None:
    """The code is the first of `code`, `type`, `status` that is a word, else the number, as a string."""
    error = read_error(body)

    assert (error.code, error.message) == (code, message)


@pytest.mark.parametrize(
    ("body", "message"),
    [(b"upstream connect error", "upstream connect error"), (b"\xff\xfe", "\ufffd\ufffd"), (b" \n", None), (b"", None)],
)
def test_a_body_that_is_no_json_is_the_message(body: bytes, message: str | None) -> None:
    """Proxies answer in text or HTML."""
    assert read_error_body(body).message == message


@pytest.mark.parametrize(
    ("code", "kind", "retryable"),
    [
        ("overloaded_error", "backend_transient", True),
        ("api_error", "backend_transient", True),
        ("timeout_error", "backend_transient", True),
        ("server_error", "backend_transient", True),
        ("UNAVAILABLE", "backend_transient", True),
        ("rate_limit_error", "rate_limited", True),
        ("rate_limit_exceeded", "rate_limited", True),
        ("RESOURCE_EXHAUSTED", "rate_limited", True),
        ("insufficient_quota", "rate_limited", False),
        ("billing_error", "rate_limited", False),
        ("invalid_request_error", "invalid_request", False),
        ("not_found_error", "invalid_request", False),
        ("request_too_large", "invalid_request", False),
        ("authentication_error", "authentication", False),
        ("invalid_api_key", "authentication", False),
        ("permission_error", "authorization", False),
        ("PERMISSION_DENIED", "authorization", False),
        ("never_heard_of", "backend_transient", True),
        (None, "backend_transient", True),
    ],
)
def test_an_error_inside_a_stream_is_judged_by_its_code(code: str | None, kind: str, retryable: bool) -> None:
    """It has no HTTP status of its own: its code stands for one, and without a known code it may pass."""
    error = error_in_stream(ProviderError(code, "said", {"code": code}))

    assert (error.kind, error.retryable, error.provider_code) == (kind, retryable, code)
    assert error.provider_http_status is None
    assert "said" in error.message


@pytest.mark.parametrize(
    ("number", "kind"), [(400, "invalid_request"), ("429", "rate_limited"), (503, "backend_transient")]
)
def test_a_number_inside_a_stream_is_a_status(number: int | str, kind: str) -> None:
    """llama.cpp and OpenRouter write the HTTP status into the error's `code`."""
    error = error_in_stream(read_error({"error": {"code": number, "message": "m"}}))

    assert (error.kind, error.provider_code) == (kind, str(number))


NOW = 1_800_000_000.0


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (None, None),
        ("0", 0),
        ("7", 7000),
        (" 1.5 ", 1500),
        ("0.0001", 1),
        (formatdate(NOW + 30, usegmt=True), 30_000),
        (formatdate(NOW - 30, usegmt=True), 0),
        ("soon", None),
        ("-5", None),
        ("", None),
        ("1e5", None),
        ("²", None),
        ("9" * 400, None),
        ("Fri, 31 Dec 99999 23:59:59 GMT", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str | None, expected: int | None) -> None:
    """A header that cannot be read says nothing."""
    assert retry_after_ms(value, NOW) == expected


@given(st.text(max_size=40))
def test_any_retry_after_is_read_or_passed_over(value: str) -> None:
    """No header, however broken, gives more than a number or nothing."""
    milliseconds = retry_after_ms(value, NOW)

    assert milliseconds is None or milliseconds >= 0


_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["error", "code", "type", "status", "message", "detail"]), inner, max_size=4)
    ),
    max_leaves=8,
)


@given(_JSON)
def test_any_error_body_gives_a_gateway_error(body: Any) -> None:
    """Whatever a backend answers, it becomes an error with a kind and a printable text."""
    error = error_in_stream(read_error(body))

    assert error.kind
    assert error.message.startswith("the backend reported an error inside its answer: ")
