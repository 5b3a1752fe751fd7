"""Errors of a provider → `GatewayError`: of HTTP answers, and inside an answer. No I/O.

Of an HTTP error the HTTP status decides the kind. An error inside an answer that began with HTTP 200 is judged by the
status that it names itself, else by its code word, else by its type word; else it is `backend_transient`. The wording
of a message decides nothing. Source of the table: protocol/README.md, "Error mapping".
"""

from __future__ import annotations

from pydantic import JsonValue
from pydantic_core import to_json

from ...errors import ErrorKind, GatewayError
from .error_waits import delay_ms, longest, reset_at_ms
from .error_words import means_no_money, status_of
from .provider_errors import ProviderError, beginning, find_error

_KIND_OF_STATUS: dict[int, tuple[ErrorKind, bool]] = {
    400: ("invalid_request", False),
    401: ("authentication", False),
    402: ("backend_permanent", False),
    403: ("authorization", False),
    404: ("invalid_request", False),
    405: ("invalid_request", False),
    408: ("timeout", True),
    409: ("backend_transient", True),
    413: ("invalid_request", False),
    415: ("invalid_request", False),
    422: ("invalid_request", False),
    425: ("backend_transient", True),
    429: ("rate_limited", True),
}


def error_of_status(
    status: int, error: ProviderError, *, retry_after_ms: int | None = None, where: str = "the backend answered"
) -> GatewayError:
    """The error for an HTTP answer that is not a success; it names the longer of `retry_after_ms` and RetryInfo."""
    kind, retryable = _kind_of_status(status, error)
    said = f": {error.message}" if error.message else ""
    return GatewayError(
        kind,
        f"{where} HTTP {status}{said}",
        retryable=retryable,
        provider_code=error.code,
        provider_http_status=status,
        retry_after_ms=longest([retry_after_ms, delay_ms(error)]),
    )


def error_in(value: JsonValue) -> GatewayError | None:
    """The error in a parsed event or body of an answer that began with HTTP 200, None where it has none."""
    error = find_error(value)
    return None if error is None else error_in_stream(error)


def error_in_stream(error: ProviderError) -> GatewayError:
    """The error for an error inside an answer that began with HTTP 200, with the wait or the time that it names."""
    kind, retryable = _kind_in_stream(error)
    said = error.message or error.code or (beginning(to_json(error.detail)) if error.detail else "no reason given")
    return GatewayError(
        kind,
        f"the backend reported an error inside its answer: {said}",
        retryable=retryable,
        provider_code=error.code,
        retry_after_ms=delay_ms(error),
        retry_at_ms=reset_at_ms(error),
    )


def _kind_of_status(status: int, error: ProviderError) -> tuple[ErrorKind, bool]:
    kind, retryable = _KIND_OF_STATUS.get(
        status, ("backend_transient", True) if status >= 500 else ("backend_permanent", False)
    )
    return kind, retryable and not (status == 429 and any(map(means_no_money, _words_of(error))))


def _kind_in_stream(error: ProviderError) -> tuple[ErrorKind, bool]:
    if error.status is not None:
        return _kind_of_status(error.status, error)
    for said in _words_of(error):
        if means_no_money(said):
            return "rate_limited", False
        if (status := status_of(said)) is not None:
            return _kind_of_status(status, error)
    return "backend_transient", True


def _words_of(error: ProviderError) -> tuple[str, ...]:
    return error.words or (() if error.code is None else (error.code,))
