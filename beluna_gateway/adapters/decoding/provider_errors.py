"""A provider's answer that means "no" → `GatewayError`. No I/O, no aiohttp: status and body in, error out.

The HTTP status decides the kind; the provider's code is carried beside it; the wording of a message decides nothing.
An error that comes inside a stream has no status of its own: its code stands for one (`STATUS_OF_CODE`).
Source of the table: protocol/README.md, "Error mapping".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from math import ceil

from pydantic import JsonValue
from pydantic_core import from_json

from ...errors import ErrorKind, GatewayError

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

STATUS_OF_CODE: dict[str, int] = {
    # OpenAI and the servers that copy it: platform.openai.com/docs/guides/error-codes
    "invalid_request_error": 400,
    "invalid_prompt": 400,
    "context_length_exceeded": 400,
    "exceed_context_size_error": 400,
    "invalid_api_key": 401,
    "authentication_error": 401,
    "permission_error": 403,
    "not_found_error": 404,
    "model_not_found": 404,
    "not_supported_error": 400,
    "rate_limit_exceeded": 429,
    "rate_limit_error": 429,
    "insufficient_quota": 429,
    # What makes a response fail and lies in the request, from openai.types.responses.ResponseError.
    **dict.fromkeys(
        (
            "bio_policy",
            "data_residency_mismatch",
            "empty_image_file",
            "failed_to_download_image",
            "image_content_policy_violation",
            "image_file_not_found",
            "image_file_too_large",
            "image_parse_error",
            "image_too_large",
            "image_too_small",
            "invalid_base64_image",
            "invalid_image",
            "invalid_image_format",
            "invalid_image_mode",
            "invalid_image_url",
            "misalignment_policy_violation",
            "unsupported_image_media_type",
        ),
        400,
    ),
    "vector_store_timeout": 504,
    "server_error": 500,
    "internal_server_error": 500,
    "service_unavailable": 503,
    "unavailable_error": 503,
    # Anthropic: docs.anthropic.com/en/api/errors
    "billing_error": 402,
    "request_too_large": 413,
    "api_error": 500,
    "timeout_error": 504,
    "overloaded_error": 529,
    # Google: google.rpc.Code as the Gemini API names it in `status`
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "OUT_OF_RANGE": 400,
    "UNAUTHENTICATED": 401,
    "PERMISSION_DENIED": 403,
    "NOT_FOUND": 404,
    "ABORTED": 409,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNKNOWN": 500,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}


@dataclass(frozen=True, slots=True)
class ProviderError:
    """What a provider said of a failure: its code (a word where it has one), its text, the error object itself."""

    code: str | None
    message: str | None
    detail: Mapping[str, JsonValue]


def read_error(value: JsonValue) -> ProviderError:
    """The error in a parsed body or event, in whichever of the common shapes it is.

    Known: ``{"error":{…}}`` (OpenAI, Gemini, Anthropic), ``[{"error":{…}}]`` (Gemini's streamed array),
    ``{"error":"text"}`` (Ollama), and the fields without an envelope.
    """
    if isinstance(value, list) and value:
        value = value[0]
    if isinstance(value, dict) and "error" in value:
        value = value["error"]
    if isinstance(value, str):
        return ProviderError(None, value, {})
    if not isinstance(value, dict):
        return ProviderError(None, None, {})
    message = next((text for key in ("message", "detail") if isinstance(text := value.get(key), str)), None)
    return ProviderError(_code([value.get(key) for key in ("code", "type", "status")]), message, value)


def read_error_body(body: bytes) -> ProviderError:
    """As `read_error`, of bytes that may not be JSON: then the text itself is the message."""
    try:
        return read_error(from_json(body))
    except ValueError:
        text = body.decode("utf-8", "replace").strip()
        return ProviderError(None, text or None, {})


def _code(candidates: list[JsonValue]) -> str | None:
    words = [c for c in candidates if isinstance(c, str) and c and not c.isdecimal()]
    if words:
        return words[0]
    return next(
        (str(c) for c in candidates if (isinstance(c, int) and not isinstance(c, bool)) or (isinstance(c, str) and c)),
        None,
    )


def error_of_status(
    status: int, error: ProviderError, *, retry_after_ms: int | None = None, where: str = "the backend answered"
) -> GatewayError:
    """The error for an HTTP answer that is not a success."""
    kind, retryable = _KIND_OF_STATUS.get(
        status, ("backend_transient", True) if status >= 500 else ("backend_permanent", False)
    )
    if (
        status == 429
        and error.code is not None
        and (error.code == "insufficient_quota" or error.code.startswith("billing_"))
    ):
        retryable = False
    said = f": {error.message}" if error.message else ""
    return GatewayError(
        kind,
        f"{where} HTTP {status}{said}",
        retryable=retryable,
        provider_code=error.code,
        provider_http_status=status,
        retry_after_ms=retry_after_ms,
    )


def error_in_stream(error: ProviderError, *, retry_after_ms: int | None = None) -> GatewayError:
    """The error for an error event inside an answer that began with HTTP 200."""
    number = error.detail.get("code")
    status = STATUS_OF_CODE.get(error.code or "")
    if status is None and isinstance(number, int | str) and str(number).isdecimal() and 400 <= int(number) <= 599:
        status = int(number)
    said = error.message or error.code or "no reason given"
    if status is None:
        return GatewayError(
            "backend_transient",
            f"the backend reported an error inside its answer: {said}",
            retryable=True,
            provider_code=error.code,
            retry_after_ms=retry_after_ms,
        )
    failure = error_of_status(status, error, retry_after_ms=retry_after_ms)
    return failure.replace(
        message=f"the backend reported an error inside its answer: {said}", provider_http_status=None
    )


def retry_after_ms(value: str | None, now: float) -> int | None:
    """A `Retry-After` header, seconds or HTTP date, as milliseconds from `now` (Unix time). None where unreadable."""
    if value is None:
        return None
    value = value.strip()
    try:
        if value.replace(".", "", 1).isdecimal():
            return ceil(float(value) * 1000)
        return max(0, ceil((parsedate_to_datetime(value).timestamp() - now) * 1000))
    except (ValueError, OverflowError):
        return None
