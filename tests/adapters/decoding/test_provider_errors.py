"""A provider's "no" → `GatewayError`, by the table of protocol/README.md, "Error mapping"."""

from __future__ import annotations

import json
from email.utils import formatdate
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.error_kinds import error_in, error_in_stream, error_of_status
from beluna_gateway.adapters.decoding.error_waits import retry_after_ms, wait_ms, with_wait
from beluna_gateway.adapters.decoding.provider_errors import (
    ProviderError,
    beginning,
    find_error,
    read_error,
    read_error_body,
)
from beluna_gateway.adapters.decoding.scalars import LARGEST_NUMBER

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
        ("string_too_long", "invalid_request", False),
        ("token_limit_exceeded", "invalid_request", False),
        ("max_tokens_exceeded", "invalid_request", False),
        ("image_download_failed", "invalid_request", False),
        ("unprocessable", "invalid_request", False),
        ("precondition_failed", "backend_permanent", False),
        ("InputTextSensitiveContentDetected.Violence", "invalid_request", False),
        ("ModelNotOpen", "invalid_request", False),
        ("AccountOverdueError", "rate_limited", False),
        ("OperationDenied.ServiceOverdue", "rate_limited", False),
        ("Client specified an invalid argument", "invalid_request", False),
        ("The service is currently unavailable", "backend_transient", True),
        ("The caller does not have permission to execute the specified operation", "authorization", False),
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
        ("1.1", 1100),  # 1100.0000000000002 as a float
        ("1.0000000004", 1000),
        ("1.000000001", 1001),
        (str(LARGEST_NUMBER), None),
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


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ({"error": {"foo": "é" * 400}}, '{"foo":"' + "é" * 292),
        ({"detail": {"foo": "no"}}, '{"foo":"no"}'),
        ({"error": True}, '{"error":true}'),
    ],
)
def test_an_error_without_a_text_is_quoted(body: Any, said: str) -> None:
    """Its first 300 characters, where no key that is known for it has a text."""
    error = error_in(body)

    assert error is not None
    assert error.message == f"the backend reported an error inside its answer: {said}"


# --- errors inside an answer ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "kind", "code", "text"),
    [
        ({"error": {"code": 502, "message": "m"}}, "backend_transient", "502", "m"),
        ({"error": "m"}, "backend_transient", None, "m"),
        (
            {"choices": [{"finish_reason": "error", "error": {"code": 502, "message": "m"}}]},
            "backend_transient",
            "502",
            "m",
        ),
        ({"choices": [{"error": "m"}]}, "backend_transient", None, "m"),
        ([{"error": {"code": 429, "message": "m"}}], "rate_limited", "429", "m"),
        ([{"candidates": []}, {"error": {"code": 429, "message": "m"}}], "rate_limited", "429", "m"),
        ({"error": [{"code": 429, "message": "m"}]}, "rate_limited", "429", "m"),
        ({"errors": [{"code": 7003, "message": "m"}]}, "backend_transient", "7003", "m"),
        ({"errors": [{"message": "m"}, {"message": "n"}]}, "backend_transient", None, "m; n"),
        ({"errors": ["m"]}, "backend_transient", None, "m"),
        ({"detail": "m"}, "backend_transient", None, "m"),
        ({"detail": [{"loc": ["body", "x"], "msg": "m"}]}, "backend_transient", None, "body.x: m"),
        (
            {"detail": {"message": "m", "code": "invalid_request_error"}},
            "invalid_request",
            "invalid_request_error",
            "m",
        ),
        ({"base_resp": {"status_code": 1008, "status_msg": "m"}, "choices": None}, "backend_transient", "1008", "m"),
        ({"error_message": "m", "error_code": "rate_limit_exceeded"}, "rate_limited", "rate_limit_exceeded", "m"),
        ({"error_message": "m"}, "backend_transient", None, "m"),
        ({"error_msg": "m"}, "backend_transient", None, "m"),
        ({"errorMessage": "m", "errorType": "RateLimitExceeded"}, "rate_limited", "RateLimitExceeded", "m"),
        ({"errorMessage": "m", "errorCode": 401}, "authentication", "401", "m"),
        ({"error": "rate_limit_exceeded"}, "rate_limited", "rate_limit_exceeded", "rate_limit_exceeded"),
        ({"code": 401, "message": "m"}, "authentication", "401", "m"),
        ({"code": "InvalidApiKey", "message": "m", "request_id": "r"}, "authentication", "InvalidApiKey", "m"),
        ({"code": "10007", "msg": "m"}, "backend_transient", "10007", "m"),
        ({"code": -1, "message": "m"}, "backend_transient", None, "m"),
        ({"code": 300, "message": "m"}, "backend_transient", "300", "m"),
        ({"status_code": 400, "details": "m"}, "invalid_request", "400", "m"),
        ({"statusCode": 400, "error": "Bad Request", "message": "m"}, "invalid_request", "400", "m"),
        ({"type": "error", "message": "m"}, "backend_transient", None, "m"),
        (
            {"type": "error", "error": {"type": "overloaded_error", "message": "m"}},
            "backend_transient",
            "overloaded_error",
            "m",
        ),
        (
            {"object": "error", "message": "m", "type": "BadRequestError", "code": 400},
            "invalid_request",
            "BadRequestError",
            "m",
        ),
        ({"error": True, "message": "m"}, "backend_transient", None, "m"),
        # a word for a failure stands for its code; AWS has its own name for it
        ({"message": "m", "error_type": "rate_limit_exceeded"}, "rate_limited", "rate_limit_exceeded", "m"),
        ({"message": "m", "__type": "rate_limit_exceeded"}, "rate_limited", "rate_limit_exceeded", "m"),
        ({"message": "m", "type": "overloaded_error"}, "backend_transient", "overloaded_error", "m"),
        # OAuth's and RFC 9457's names of the text
        ({"error": {"description": "m", "code": "model_not_found"}}, "invalid_request", "model_not_found", "m"),
        ({"error": {"title": "m", "status": 429}}, "rate_limited", "429", "m"),
        ({"error": {"reason": "m"}}, "backend_transient", None, "m"),
        # Mistral puts an object where a text should be
        (
            {"object": "error", "message": {"detail": [{"msg": "m"}]}, "type": "invalid_request_error"},
            "invalid_request",
            "invalid_request_error",
            "m",
        ),
    ],
)
def test_an_error_is_found_wherever_servers_put_it(value: Any, kind: str, code: str | None, text: str) -> None:
    """At the top, in a choice, in an array, beside a code; always with the provider's own text."""
    error = error_in(value)

    assert error is not None
    assert (error.kind, error.provider_code, error.provider_http_status) == (kind, code, None)
    assert error.message.endswith(text)


@pytest.mark.parametrize(
    "value",
    [
        {"error": None},
        {"error": ""},
        {"error": {}},
        {"error": False},
        {"error": "null"},
        {"error": []},
        {"errors": []},
        {"choices": []},
        {"choices": {"error": "m"}},
        {"error_code": "0", "error_msg": "success"},
        {"errorCode": 0, "errorMessage": "success"},
        {"detail": None},
        {"choices": [{"error": None, "delta": {"content": "x"}}]},
        {"choices": [{"delta": {"content": "x"}}], "code": 0, "message": "success"},
        {"choices": [{"delta": {"content": "x"}}], "detail": "low"},
        {"base_resp": {"status_code": 0, "status_msg": "success"}},
        {"code": 0, "message": "ok"},
        {"code": "200", "msg": "success"},
        {"code": 299, "msg": "m"},
        {"code": "Success", "message": "done"},
        {"status": "completed", "message": "m"},
        {"status": "PROCESSING", "message": "m"},
        {"status": "pending", "msg": "m", "choices": []},
        {"error_code": 0, "error_msg": "success", "choices": [{"delta": {}}]},
        {"message": "m"},
        {"message": "m", "type": "message"},
        {"message": "m", "type": "response.created", "error_type": None},
        {"message": {"role": "assistant", "content": "x"}, "done": False, "code": 5},
        {"type": "message", "content": []},
        [],
        [5],
        "error",
        None,
    ],
)
def test_what_says_nothing_is_no_error(value: Any) -> None:
    """null, the empty string and object and false are none; nor is a message beside content or a code of success."""
    assert error_in(value) is None


@pytest.mark.parametrize(
    ("fields", "kind", "retryable"),
    [
        # a status first, by the table of HTTP
        ({"status_code": 422, "code": "server_error"}, "invalid_request", False),
        ({"http_status_code": 503, "type": "invalid_request_error"}, "backend_transient", True),
        ({"status": 401, "code": 500}, "authentication", False),
        ({"code": "429", "type": "invalid_request_error"}, "rate_limited", True),
        ({"code": 400.0}, "invalid_request", False),
        # a reason phrase is the status that it stands for
        ({"code": "", "status": "Too Many Requests"}, "rate_limited", True),
        ({"status": "Internal Server Error", "type": "invalid_request_error"}, "invalid_request", False),
        # a number that is no HTTP status decides nothing
        ({"code": 1302, "type": "rate_limit_error"}, "rate_limited", True),
        ({"code": True, "type": "rate_limit_error"}, "rate_limited", True),
        ({"code": 399, "type": "rate_limit_error"}, "rate_limited", True),
        ({"code": 599, "type": "rate_limit_error"}, "backend_transient", True),
        ({"code": 600, "type": "rate_limit_error"}, "rate_limited", True),
        ({"code": 200, "type": "invalid_request_error"}, "invalid_request", False),
        # then the code word, then the type word
        ({"code": "rate_limit_exceeded", "type": "invalid_request_error"}, "rate_limited", True),
        ({"code": "tool_use_failed", "type": "server_error"}, "invalid_request", False),
        ({"code": "never_heard_of", "type": "invalid_request_error"}, "invalid_request", False),
        ({"code": None, "type": "tokens"}, "rate_limited", True),
        ({"code": "null", "type": "invalid_request_error"}, "invalid_request", False),
        ({"code": "never_heard_of", "type": "nor_of_this"}, "backend_transient", True),
        # the request is wrong, in many words
        ({"error_type": "validation"}, "invalid_request", False),
        ({"code": "context_length_exceeded"}, "invalid_request", False),
        ({"type": "exceed_context_size_error"}, "invalid_request", False),
        ({"code": "json_validate_failed"}, "invalid_request", False),
        ({"code": "unsupported_parameter"}, "invalid_request", False),
        ({"code": "invalid_image_url"}, "invalid_request", False),
        ({"code": "model_not_found"}, "invalid_request", False),
        ({"type": "BadRequestError"}, "invalid_request", False),
        ({"type": "ValidationException"}, "invalid_request", False),
        ({"code": "InvalidParameter"}, "invalid_request", False),
        ({"type": "AccessDeniedException"}, "authorization", False),
        ({"type": "access-denied"}, "authorization", False),
        ({"type": "access.denied"}, "authorization", False),
        ({"status": "INVALID_ARGUMENT"}, "invalid_request", False),
        # the money is gone
        ({"type": "exceeded_current_quota_error"}, "rate_limited", False),
        ({"type": "insufficient_balance_error"}, "rate_limited", False),
        ({"code": "insufficient_quota", "type": "invalid_request_error"}, "rate_limited", False),
        ({"code": "billing_hard_limit_reached", "type": "invalid_request_error"}, "rate_limited", False),
        ({"code": 429, "type": "insufficient_quota"}, "rate_limited", False),
        # and what may pass
        ({"type": "engine_overloaded_error"}, "rate_limited", True),
        ({"type": "ThrottlingException"}, "rate_limited", True),
        ({"code": "rate_limit_reached_error"}, "rate_limited", True),
        # new-api's, Cerebras', Codex', OpenAI's words, and MiniMax' status
        ({"code": "insufficient_user_quota", "type": "new_api_error"}, "rate_limited", False),
        ({"code": "pre_consume_token_quota_failed"}, "rate_limited", False),
        ({"code": "sensitive_words_detected"}, "invalid_request", False),
        ({"code": "token_quota_exceeded", "type": "too_many_tokens_error"}, "rate_limited", True),
        ({"type": "too_many_tokens_error"}, "rate_limited", True),
        ({"type": "usage_limit_reached"}, "rate_limited", True),
        ({"type": "invalid_request", "code": "cyber_policy"}, "invalid_request", False),
        ({"code": "cyber_policy_violation"}, "invalid_request", False),
        ({"type": "unheard_of", "http_code": "429"}, "rate_limited", True),
        ({"metadata": {"error_type": "rate_limit_exceeded"}}, "rate_limited", True),
        # a gateway's, DashScope's, Copilot's, Cerebras', Mistral's and LiteLLM's
        ({"type": "invalid_request_error", "code": "request_timeout"}, "timeout", True),
        ({"code": "RequestTimeOut", "type": "RequestTimeOut"}, "timeout", True),
        ({"code": "limit_requests", "type": "limit_requests"}, "rate_limited", True),
        ({"code": "limit_burst_rate"}, "rate_limited", True),
        ({"code": "model_not_supported", "param": "model"}, "invalid_request", False),
        ({"code": "queue_exceeded", "type": "invalid_request_error"}, "rate_limited", True),
        ({"code": "wrong_api_key", "type": "invalid_request_error"}, "authentication", False),
        ({"type": "service_tier_capacity_exceeded", "code": "3505"}, "rate_limited", True),
        ({"type": "budget_exceeded", "code": None}, "rate_limited", False),
    ],
)
def test_the_kind_is_the_status_then_the_code_then_the_type(fields: Any, kind: str, retryable: bool) -> None:
    """No request error is tried again as if it could pass, and no spent quota."""
    error = error_in({"error": {"message": "m", **fields}})

    assert error is not None
    assert (error.kind, error.retryable) == (kind, retryable)


def test_the_words_beside_an_error_count_too() -> None:
    """TGI writes `error_type` beside a text, others a status beside an object; a state such as `failed` is no word."""
    validation = error_in({"error": "Input validation error: m", "error_type": "validation"})
    beside = error_in({"error": {"message": "m"}, "status_code": 429})
    state = error_in({"error": {"message": "m"}, "status": "failed", "type": "response.failed"})

    assert validation is not None
    assert (validation.kind, validation.provider_code) == ("invalid_request", "validation")
    assert validation.message.endswith("Input validation error: m")
    assert beside is not None
    assert beside.kind == "rate_limited"
    assert state is not None
    assert state.provider_code is None


@pytest.mark.parametrize(
    ("beside", "code"),
    [
        # keys that are only written of errors
        ({"error_code": "never_heard_of"}, "never_heard_of"),
        ({"error_type": "never_heard_of"}, "never_heard_of"),
        ({"__type": "never_heard_of"}, "never_heard_of"),
        # those that may be an event's or a state's
        ({"code": "never_heard_of"}, None),
        ({"type": "never_heard_of"}, None),
        ({"status": "never_heard_of"}, None),
        ({"code": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        ({"type": "rate_limit_exceeded"}, "rate_limit_exceeded"),
        ({"status": "RESOURCE_EXHAUSTED"}, "RESOURCE_EXHAUSTED"),
        ({"code": "Some resource has been exhausted"}, "Some resource has been exhausted"),
    ],
)
def test_a_word_beside_an_error_is_its_code_where_it_must_be_meant(beside: Any, code: str | None) -> None:
    """By its key, or because it is known; where nothing is inside, any word is the error's own."""
    assert read_error({"error": {"message": "m"}, **beside}).code == code
    (word,) = beside.values()
    assert read_error({"message": "m", **beside}).code == word
    assert read_error({"error": True, "message": "m", **beside}).code == word


def test_what_says_nothing_hides_no_error() -> None:
    """An empty `error` beside `errors`, MiniMax' success beside a text."""
    success: Any = {"status_code": 0, "status_msg": "success"}
    nothings: tuple[Any, ...] = ("", {}, [], None, False, "null")

    for nothing in nothings:
        assert read_error({"error": nothing, "errors": [{"message": "m", "code": "c"}]}).message == "m"
    assert read_error({"detail": "m", "base_resp": success}).message == "m"
    assert read_error({"error": {"message": "m"}, "base_resp": success}).message == "m"


@pytest.mark.parametrize("word", ["", "null", "None"])
def test_some_words_are_no_code(word: str) -> None:
    """Nor are they looked for in a table."""
    assert read_error({"error": {"message": "m", "code": word, "type": "t"}}).code == "t"
    assert read_error({"error": {"message": "m", "code": word}}).code is None


@pytest.mark.parametrize(
    ("code", "kind"),
    [("exceeded_current_quota_error", "rate_limited"), ("insufficient_balance_error", "rate_limited")],
)
def test_http_429_for_a_spent_quota_is_not_worth_another_try(code: str, kind: str) -> None:
    """Whether the word is the code or the type."""
    bodies: list[Any] = [{"error": {"type": code, "message": "m"}}, {"error": {"code": "c", "type": code}}]
    for body in bodies:
        error = error_of_status(429, read_error(body))

        assert (error.kind, error.retryable) == (kind, False)


# --- the provider's own text ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            b'{"detail":[{"loc":["body","x"],"msg":"Field required"},{"loc":["body",0],"msg":"n"}]}',
            "body.x: Field required; body.0: n",
        ),
        (b'{"detail":[{"loc":"body","msg":"m"},{"loc":[],"msg":"n"}]}', "m; n"),
        (b'{"detail":[{"loc":["body"]},{"loc":["x",true,null,1],"msg":"n"}]}', "x.1: n"),
        (b'{"errors":[{"code":7003,"message":"m"}],"success":false}', "m"),
        (b'{"errors":[{"code":7003,"message":"m"}],"message":"failed"}', "m: failed"),
        (b'{"errors":[{"message":"m"}],"title":"T"}', "m: T"),
        (b'{"error":{"message":"m"},"title":"T"}', "m: T"),
        (b'{"base_resp":{"status_code":1,"status_msg":"m"},"title":"T"}', "m: T"),
        (b'{"msg":"m","code":5}', "m"),
        (
            b'{"error":{"message":"Provider returned error","code":429,"metadata":{"raw":"upstream is busy"}}}',
            "Provider returned error: upstream is busy",
        ),
        (
            b'{"error":{"message":"Provider error","metadata":{"raw":"{\\"error\\":{\\"message\\":\\"m\\"}}"}}}',
            "Provider error: m",
        ),
        (
            b'{"error":{"message":"Provider returned error","metadata":{"raw":{"error":{"message":"m"}}}}}',
            "Provider returned error: m",
        ),
        (b'{"error":"Bad Request","message":"too long","status":400}', "Bad Request: too long"),
        (b'{"type":"about:blank","title":"Too Many Requests","status":429}', "Too Many Requests"),
        (b'{"unknown":{"shape":1}}', '{"unknown":{"shape":1}}'),
        (b'data: {"error":{"message":"m"}}\n\n', "m"),
        (b'event: error\ndata: {"error":{"message":"m"}}\n\n', "m"),
        (b': waiting\n\ndata: {"error":{"message":"m"}}\n\n', "m"),
        (b'error: {"error":{"message":"m"}}\n', "m"),
        (b'oops\ndata: {"error":{"message":"m"}}', 'oops\ndata: {"error":{"message":"m"}}'),
        (b'{"error":{"message":"cut in the mid', "cut in the mid"),
        (b'\xef\xbb\xbf{"error":{"message":"m"}}', "m"),
        (b'{"error":{"message":"na\xefve, and more"}}', "na\ufffdve, and more"),
        (b"5", "5"),
        (b"{}", None),
    ],
)
def test_the_message_is_the_providers_own_text(body: bytes, message: str | None) -> None:
    """From wherever the body has it; from a body that was cut, too; else the body itself."""
    assert read_error_body(body).message == message


def test_a_body_without_a_text_loses_nothing_else() -> None:
    """It is quoted, and its code, its status and its wait count all the same."""
    body = b'{"error":{"code":"rate_limit_exceeded","status":429,"details":[{"retryDelay":"17s"}]}}'
    error = error_in_stream(read_error_body(body))

    assert (error.kind, error.provider_code, error.retry_after_ms) == ("rate_limited", "rate_limit_exceeded", 17_000)
    assert error.message.endswith(body.decode())
    assert read_error_body(body).words == ("rate_limit_exceeded",)
    assert read_error_body(body).status == 429


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "the backend answered HTTP 429"),
        (b"5", "the backend answered HTTP 429: 5"),
        (b"<html>", "the backend answered HTTP 429: <html>"),
        (b'{"error":"m"}', "the backend answered HTTP 429: m"),
    ],
)
def test_an_http_error_says_its_status_and_the_providers_text(body: bytes, message: str) -> None:
    """The status alone where there is no text; and with the place that the caller names."""
    assert error_of_status(429, read_error_body(body)).message == message
    at_login = error_of_status(429, read_error_body(body), where="the login answered").message
    assert at_login == message.replace("the backend", "the login")


def test_a_body_that_was_cut_shows_its_text_and_no_escapes() -> None:
    """A long text is read up to a limit, and what has come of it is unescaped."""
    whole = b'{"error":{"message":"' + b"\\u00e9" * 3000 + b'"}}'

    message = read_error_body(whole[:12_000]).message

    assert message is not None
    assert set(message) == {"é"}
    assert len(message) > 1990


def test_a_text_is_looked_for_in_four_objects_inside_each_other() -> None:
    """Or arrays; further ones could be without end."""
    for wrapped in (lambda inner: {"message": inner}, lambda inner: [inner]):
        value: Any = "m"
        for depth in range(1, 7):
            value = wrapped(value)
            assert read_error({"message": value}).message == ("m" if depth < 4 else None)


def test_half_a_character_in_a_quoted_answer_is_replaced() -> None:
    """It cannot be written as UTF-8."""
    assert read_error({"message": "m", "metadata": {"raw": "busy \ud800"}}).message == "m: busy ?"


def test_the_text_of_deep_and_long_errors_is_bounded() -> None:
    """Errors inside each other, or thousands in one array, are read up to a limit."""
    deep: Any = {"message": "m"}
    for _ in range(100):
        deep = {"error": deep}
    many: Any = {"errors": [{"message": "m" * 100}] * 10_000}

    assert find_error(deep) is not None
    assert len(read_error(many).message or "") < 5000


def test_the_beginning_of_a_body_is_quoted_in_characters() -> None:
    """At most 300 of them, whatever bytes they take."""
    assert beginning("é".encode() * 1000) == "é" * 300
    assert beginning(b"  <html> \n") == "<html>"
    assert beginning(b"\xff<html>") == "\ufffd<html>"


def test_an_error_without_anything_says_so() -> None:
    """Else its text is its message, its code, or the error itself."""
    said = [
        error_in_stream(ProviderError(code, message, detail)).message.partition(": ")[2]
        for code, message, detail in (
            ("c", "m", {"x": 1}),
            ("c", None, {"x": 1}),
            (None, None, {"x": 1}),
            (None, None, {}),
        )
    ]

    assert said == ["m", "c", '{"x":1}', "no reason given"]


# --- when to come back ---------------------------------------------------------------------------------------


def openrouter(reset: Any) -> dict[str, Any]:
    return {"error": {"code": 429, "message": "m", "metadata": {"headers": {"X-RateLimit-Reset": reset}}}}


@pytest.mark.parametrize(
    ("body", "headers", "expected"),
    [
        ({}, {"retry_after": "1", "milliseconds": ["0", None]}, 1000),
        ({}, {"retry_after": "1", "milliseconds": ["2500"]}, 2500),
        ({}, {"retry_after": formatdate(NOW + 30, usegmt=True)}, 30_000),
        ({}, {"milliseconds": [None, "1500.2"]}, 1501),
        ({}, {}, None),
        ({}, {"milliseconds": [str(LARGEST_NUMBER)]}, LARGEST_NUMBER),
        ({}, {"milliseconds": [str(LARGEST_NUMBER + 1)]}, None),
        ({}, {"retry_after": "9" * 20, "milliseconds": ["9" * 5000, "soon"]}, None),
        ({"error": {"details": [{"retryDelay": "17s"}]}}, {"retry_after": "3"}, 17_000),
        ({"error": {"details": [{"@type": "x"}, {"retryDelay": "3.5s"}, {"retryDelay": "1s"}]}}, {}, 3500),
        ({"error": {"details": [{"retryDelay": "9" * 5000 + "s"}, {"retryDelay": "9999999999999999s"}]}}, {}, None),
        ({"error": {"details": [{"retryDelay": 5}, 5, {"retryDelay": "soon"}]}}, {}, None),
        (openrouter(str(int((NOW + 42) * 1000))), {"retry_after": "3"}, 42_000),
        (openrouter(int((NOW + 42) * 1000)), {}, 42_000),
        (openrouter(int((NOW - 42) * 1000)), {}, 0),
        (openrouter("9" * 5000), {}, None),
        (openrouter(10**400), {}, None),
        (openrouter({"a": 1}), {}, None),
        (openrouter(str(int(NOW + 42))), {}, 42_000),
        (openrouter("42"), {}, 42_000),
        # the borders between a wait, seconds of Unix time and milliseconds of it
        (openrouter(999_999_999), {}, 999_999_999_000),
        (openrouter(1_000_000_000), {}, 0),
        (openrouter(999_999_999_999), {}, 998_199_999_999_000),
        (openrouter(1_000_000_000_000), {}, 0),
        (openrouter(True), {}, None),
        ({"error": {"metadata": {"retry_after_seconds": 11, "headers": None}}}, {"retry_after": "3"}, 11_000),
        ({"error": {"metadata": {"retry_after_seconds": 10.918}}}, {}, 10_918),
        ({"error": {"metadata": {"retry_after_seconds": True}}}, {}, None),
        ({"error": {"metadata": {"retry_after_seconds": -1}}}, {}, None),
        ({"error": {"metadata": {"retry_after_seconds": 1e300}}}, {}, None),
        ({"error": {"metadata": {"headers": {"retry-after": "7"}}}}, {}, 7000),
        ({"error": {"metadata": {"headers": {"Retry-After": "soon"}}}}, {}, None),
        ({"error": {"metadata": ["x"]}}, {}, None),
        ({"error": {"type": "usage_limit_reached", "resets_in_seconds": 9568}}, {"retry_after": "3"}, 9_568_000),
    ],
)
def test_the_longest_wait_counts(body: Any, headers: Any, expected: int | None) -> None:
    """Of the headers, Google's RetryInfo and OpenRouter's reset time; what no clock can count is not said."""
    assert wait_ms(read_error(body), NOW, **headers) == expected


@pytest.mark.parametrize(("header", "expected"), [(None, 17_000), (3000, 17_000), (20_000, 20_000)])
def test_an_http_error_names_the_longer_wait(header: int | None, expected: int) -> None:
    """Of its header and of Google's RetryInfo in its body."""
    error = read_error({"error": {"code": 429, "details": [{"retryDelay": "17s"}]}})

    assert error_of_status(429, error, retry_after_ms=header).retry_after_ms == expected


def test_an_error_in_the_text_of_another_is_the_providers_own() -> None:
    """Google's SDK for JavaScript, and proxies made with it, have the provider's whole answer in `message`."""
    inner = {"error": {"code": 429, "message": "m", "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "5s"}]}}
    error = error_in({"error": {"message": f" {json.dumps(inner)}\n", "code": "", "status": "Unknown"}})

    assert error is not None
    assert (error.kind, error.provider_code, error.retry_after_ms) == ("rate_limited", "RESOURCE_EXHAUSTED", 5000)


@pytest.mark.parametrize("message", ["{", '{"a":1}', '{"error":{}}', "[]", '"error"'])
def test_a_text_that_holds_no_error_is_a_text(message: str) -> None:
    """JSON or not: it decides nothing, and is told."""
    error = error_in({"error": {"message": message, "type": "rate_limit_error"}})

    assert error is not None
    assert (error.kind, error.provider_code) == ("rate_limited", "rate_limit_error")
    assert message in error.message


def test_an_error_inside_an_answer_names_its_wait_too() -> None:
    """Gemini's RetryInfo stands in the stream."""
    error = error_in({"error": {"code": 429, "status": "RESOURCE_EXHAUSTED", "details": [{"retryDelay": "17s"}]}})

    assert error is not None
    assert (error.kind, error.retry_after_ms) == ("rate_limited", 17_000)


@pytest.mark.parametrize(
    ("more", "expected"), [({}, 42_000), ({"retry_after_seconds": 50}, 50_000), ({"retry_after_seconds": 3}, 42_000)]
)
def test_a_time_inside_an_answer_becomes_a_wait_where_there_is_a_clock(more: dict[str, Any], expected: int) -> None:
    """Decoders know no time: their error names OpenRouter's reset time, of which the longer wait is made."""
    body = openrouter(str(int((NOW + 42) * 1000)))
    body["error"]["metadata"] |= more
    error = error_in({"choices": [{"finish_reason": "error", "error": body["error"]}]})

    assert error is not None
    assert error.retry_at_ms == (NOW + 42) * 1000
    waiting = with_wait(error, NOW)
    assert (waiting.kind, waiting.retry_after_ms, waiting.retry_at_ms) == ("rate_limited", expected, None)


@given(_JSON)
def test_any_value_is_an_error_or_none(value: Any) -> None:
    """Looking for an error never fails, whatever a backend sends."""
    error = error_in(value)

    assert error is None or error.message
