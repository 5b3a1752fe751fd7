"""Errors of a provider → `GatewayError`: one reader for HTTP errors and for errors inside an answer. No I/O.

Of an HTTP error the HTTP status decides the kind. An error inside an answer that began with HTTP 200 is judged by the
status that it names itself, else by its code word, else by its type word; else it is `backend_transient`. The wording
of a message decides nothing. Source of the table: protocol/README.md, "Error mapping".
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from math import ceil
from typing import NamedTuple

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from ...canonical import immutable
from ...errors import ErrorKind, GatewayError
from ...wire.strict_json import with_short_numbers
from .scalars import LARGEST_NUMBER, whole_number, word

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

# Words as `_plain` writes them: lower case, `_` between words, without `_error` or `_exception` at the end.
_STATUS_OF_WORD: dict[str, int] = {
    # OpenAI (platform.openai.com/docs/guides/error-codes) and the servers that copy it: llama.cpp, vLLM, Groq,
    # DeepSeek, Kimi, TGI (`validation`, `generation`, `overloaded`)
    "invalid_request": 400,
    "bad_request": 400,
    "context_length_exceeded": 400,
    "exceed_context_size": 400,
    "string_above_max_length": 400,
    "array_above_max_length": 400,
    "integer_above_max_value": 400,
    "integer_below_min_value": 400,
    "unknown_parameter": 400,
    "not_supported": 400,
    "content_filter": 400,
    "content_policy_violation": 400,
    "prohibited_content": 400,  # Gemini's
    "tool_use_failed": 400,
    "json_validate_failed": 400,
    "model_decommissioned": 400,
    "validation": 422,
    "unprocessable_entity": 422,
    "invalid_api_key": 401,
    "incorrect_api_key": 401,
    "invalid_authentication": 401,
    "authentication": 401,
    "unauthorized": 401,
    "permission": 403,
    "permission_denied": 403,
    "forbidden": 403,
    "not_found": 404,
    "rate_limit_exceeded": 429,
    "too_many_requests": 429,
    "tokens": 429,  # OpenAI's and Groq's types of `rate_limit_exceeded`
    "requests": 429,
    "engine_overloaded": 429,  # Kimi sends it with HTTP 429
    "server": 500,
    "internal_server": 500,
    "generation": 500,
    "service_unavailable": 503,
    "unavailable": 503,
    "bad_gateway": 502,
    "timeout": 504,
    "request_timeout": 408,  # of gateways, beside the type of a wrong request (litellm 41777)
    "gateway_timeout": 504,
    "vector_store_timeout": 504,
    # What makes a response fail and lies in the request (openai.types.responses.ResponseError), beside `invalid_…`.
    **dict.fromkeys(
        (
            "bio_policy",
            "data_residency_mismatch",
            "empty_image_file",
            "failed_to_download_image",
            "image_content_policy_violation",
            "image_file_not_found",
            "image_file_too_large",
            "image_parse",
            "image_too_large",
            "image_too_small",
            "misalignment_policy_violation",
        ),
        400,
    ),
    # Anthropic: docs.anthropic.com/en/api/errors
    "request_too_large": 413,
    "api": 500,
    "overloaded": 529,
    # Google: google.rpc.Code, as the Gemini API names it in `status`
    "failed_precondition": 400,
    "out_of_range": 400,
    "unauthenticated": 401,
    "aborted": 409,
    "resource_exhausted": 429,
    "internal": 500,
    "unknown": 500,
    "unimplemented": 501,
    "deadline_exceeded": 504,
    # The same codes as xAI writes them: {"code":"Client specified an invalid argument","error":"…"} (ai 10533)
    "client specified an invalid argument": 400,
    "the system is not in a state required for the operation's execution": 400,
    "operation was attempted past the valid range": 400,
    "the request does not have valid authentication credentials": 401,
    "the caller does not have permission to execute the specified operation": 403,
    "some requested entity was not found": 404,
    "some resource has been exhausted": 429,
    "internal error": 500,
    "operation is not implemented or not supported": 501,
    "the service is currently unavailable": 503,
    "deadline expired before operation could complete": 504,
    "data_inspection_failed": 400,  # DashScope, as the next
    "request_time_out": 408,
    "limit_requests": 429,
    "limit_burst_rate": 429,
    # new-api (`types/error.go`), which stands before many providers
    "sensitive_words_detected": 400,
    "prompt_blocked": 400,
    "token_concurrency_limit_reached": 429,
    # ChatGPT's backend of Codex (openai/codex, `codex-api/src/sse/responses.rs`)
    "cyber_policy": 400,
    "usage_limit_reached": 429,
    "tokens_limit_reached": 413,  # GitHub Models
    "model_not_supported": 400,  # GitHub Copilot
    "queue_exceeded": 429,  # Cerebras, as the next
    "wrong_api_key": 401,
    "service_tier_capacity_exceeded": 429,  # Mistral
    # OpenRouter's `metadata.error_type` (openrouter.components.APIErrorType)
    "max_tokens_exceeded": 400,
    "token_limit_exceeded": 400,
    "image_download_failed": 400,
    "precondition_failed": 412,
    "unprocessable": 422,
    "model_not_open": 404,  # Volcengine's Ark, "Error codes"
    # AWS Bedrock: "InvokeModel", section Errors
    "access_denied": 403,
    "model_not_ready": 429,
    "service_quota_exceeded": 429,
}

# What a word has in it that is not in the table; the first match counts.
_STATUS_OF_PIECE: tuple[tuple[str, int], ...] = (
    ("rate_limit", 429),
    ("throttl", 429),
    ("quota_exceeded", 429),
    ("too_many_", 429),
    ("overloaded", 529),
    ("context_length", 400),
    ("context_window", 400),
    ("validation", 422),
    ("invalid_", 400),
    ("unsupported_", 400),
    ("missing_", 400),
    ("not_found", 404),
    ("too_large", 413),
    ("policy_violation", 400),
    ("_too_long", 400),
    ("sensitive_content", 400),  # Volcengine's, with what it was and how
)

_NO_MONEY = frozenset(
    (
        "insufficient_quota",
        "insufficient_balance",
        "insufficient_credits",
        "insufficient_credit",
        "insufficient_funds",
        "exceeded_current_quota",
        "credit_balance_too_low",
        "insufficient_user_quota",  # new-api, as the next
        "pre_consume_token_quota_failed",
        "payment_required",
        "budget_exceeded",  # LiteLLM
        "arrearage",
        "account_overdue",  # Volcengine, as the next
        "operation_denied_service_overdue",
    )
)

_CODE_KEYS = ("code", "error_code", "errorCode", "type", "error_type", "errorType", "__type", "status")
_STATUS_KEYS = (
    *("status_code", "http_status_code", "status", "statusCode", "StatusCode", "http_code"),
    *("code", "error_code", "errorCode"),
)
_ERROR_WORDS = ("error_code", "errorCode", "error_type", "errorType", "__type")
_FAILURE_KEYS = (*_STATUS_KEYS, "error_type", "__type")
"""Beside a text, a code of failure in one of these makes an object an error."""
_TEXT_KEYS = (
    *("message", "msg", "detail", "details", "error_message", "error_msg", "status_msg", "errors", "error"),
    "errorMessage",  # AWS Lambda's, and of other servers in Java
    *("error_description", "description", "reason", "title"),  # OAuth's, RFC 9457's
)
_DEPTH = 4
"""Objects inside each other that are looked through for an error and its text."""
_ENTRIES = 20
"""Entries of an array of errors that are read."""


@immutable
class ProviderError:
    """An error as the provider wrote it."""

    code: str | None
    """Its code: a word where it has one, else a number as a string."""
    message: str | None
    detail: Mapping[str, JsonValue]
    """The error object."""
    status: int | None = None
    """The HTTP status that it names itself."""
    words: tuple[str, ...] = ()
    """Its code word and its type word, those that it has, in this order; `(code,)` where none are given."""


# --- reading -------------------------------------------------------------------------------------------------


def find_error(value: JsonValue) -> ProviderError | None:
    """The error in a parsed event or body of an answer, None where it has none.

    An error is: `error` as an object or a string that says something (at the top, in the first choice, in an entry of
    an array), `errors`, `error_message`, `base_resp` with a `status_code` other than 0, an object of type `error`, and,
    in an object without content, `detail`, and `message`, `msg` or `details` beside a code.
    """
    if not isinstance(value, dict):
        entries = value[:_ENTRIES] if isinstance(value, list) else []
        found = (find_error(entry) for entry in entries if isinstance(entry, dict))
        return next((error for error in found if error is not None), None)
    choices = value.get("choices")
    first = choices[0] if choices and isinstance(choices, list) else None
    if isinstance(first, dict) and "error" in first and _says(first["error"]):
        return read_error(first["error"])
    if value.get("type") == "error" or value.get("object") == "error":
        return read_error(value)
    return None if _ERROR_KEYS.isdisjoint(value) or not _is_error(value) else read_error(value)


def _is_error(value: Mapping[str, JsonValue]) -> bool:
    if any(_says(value.get(key)) for key in ("error", "errors")):
        return True
    if any(_says(value.get(key)) for key in ("error_message", "error_msg", "errorMessage")) and not any(
        value.get(key) in (0, "0") for key in ("error_code", "errorCode")
    ):
        return True
    base = value.get("base_resp")
    if isinstance(base, dict) and _is_code(base.get("status_code")):
        return True
    if any(value.get(key) for key in _CONTENT_KEYS):
        return False
    if _says(value.get("detail")):
        return True
    message = value.get("message")
    said = (isinstance(message, str) and message) or value.get("msg") or value.get("details")
    return bool(said) and (any(_is_code(value.get(key)) for key in _FAILURE_KEYS) or _is_error_type(value))


def _is_error_type(value: Mapping[str, JsonValue]) -> bool:
    """Whether `type` is the word for a failure, and not an event's name."""
    said = word(value.get("type"))
    return said is not None and _status_of_word(said) is not None


_ERROR_KEYS = frozenset(
    (
        *("error", "errors", "error_message", "error_msg", "errorMessage", "base_resp"),
        *("detail", "message", "msg", "details"),
    )
)
# Where one of these has something in it, a `message` or a `detail` beside it is no error. (A `message` that is an
# object is content, too, and never taken for a text.)
_CONTENT_KEYS = ("choices", "candidates", "output", "content", "delta", "response", "done")
_SUCCESS_WORDS = frozenset(
    (
        *("ok", "success", "succeeded", "completed", "done", "finished", "ready"),
        *("in_progress", "processing", "running", "started", "starting", "queued", "in_queue", "pending"),
    )
)
"""Of what has gone well, or is under way."""


def _says(value: JsonValue) -> bool:
    """Whether `error` or a key like it holds an error: null, false, 0, `{}`, `[]`, `""` and `"null"` do not."""
    return word(value) is not None if isinstance(value, str) else bool(value)


def _is_code(value: JsonValue) -> bool:
    """Whether `value` is the code of a failure."""
    if isinstance(value, int) and value < 0:
        return True
    number = whole_number(value)
    if number is not None:
        return number != 0 and not 200 <= number <= 299
    said = word(value)
    return said is not None and said.lower() not in _SUCCESS_WORDS


def read_error(value: JsonValue) -> ProviderError:
    """A parsed body or event that is known to be an error, in whichever of the common shapes it is.

    Known: ``{"error":{…}}`` (OpenAI, Gemini, Anthropic), the same in an array (Gemini's stream), ``{"error":"text"}``
    (Ollama), ``{"errors":[…]}`` (Cloudflare), ``{"detail":…}`` (FastAPI), ``{"base_resp":{…}}`` (MiniMax), and the
    fields without an envelope.
    """
    layers, text = _layers(value)
    objects = [layer.fields for layer in layers]
    words = _words(layers)
    if text is not None and _status_of_word(text) is not None:
        words = [text, *words]
    message = _joined([text, *(_own_text(fields) for fields in objects), _raw_text(objects)])
    numbers = (whole_number(fields.get(key)) for fields in objects for key in _CODE_KEYS + _STATUS_KEYS)
    number = next((str(number) for number in numbers if number is not None), None)
    statuses = (_http_status(fields.get(key)) for fields in objects for key in _STATUS_KEYS)
    return ProviderError(
        words[0] if words else number,
        message,
        objects[0] if objects else {},
        next((status for status in statuses if status is not None), None),
        tuple(words),
    )


class _Layer(NamedTuple):
    fields: Mapping[str, JsonValue]
    envelope: bool


def _layers(value: JsonValue) -> tuple[list[_Layer], str | None]:
    """The error object, then what it was wrapped in; and the text, where the error is a string instead."""
    layers: list[_Layer] = []
    for _ in range(_DEPTH):
        if isinstance(value, list):
            value = next((entry for entry in value[:_ENTRIES] if isinstance(entry, dict | str)), None)
        if not isinstance(value, dict):
            break
        inner = next(
            (value[key] for key in ("error", "errors", "base_resp") if _holds_error(key, value.get(key))), None
        )
        if inner is None and isinstance(detail := value.get("detail"), dict):
            inner = detail
        if inner is None:
            inner = _error_in_text(value.get("message"))
        layers.insert(0, _Layer(value, envelope=inner is not None))
        if inner is None:
            break
        value = inner
    return layers, word(value.strip()) if isinstance(value, str) else None


def _error_in_text(message: JsonValue) -> dict[str, JsonValue] | None:
    """The error that a proxy passes on as the text of its own: the whole body of the provider's answer."""
    if not isinstance(message, str) or not message.lstrip().startswith("{"):
        return None
    try:
        value = from_json(message)
    except ValueError:
        return None
    return value if isinstance(value, dict) and _is_error(value) else None


def _holds_error(key: str, value: JsonValue) -> bool:
    if key == "base_resp":
        return isinstance(value, dict) and _is_code(value.get("status_code"))
    return isinstance(value, dict | list | str) and _says(value)


def _words(layers: list[_Layer]) -> list[str]:
    """The code words and type words, of the error object first."""
    words: list[str] = []
    for fields, envelope in layers:
        for key in _CODE_KEYS:
            said = word(fields.get(key))
            if said is None or said == "error" or said.isdecimal():
                continue
            # What an envelope says of itself ("status":"failed") is no word for the error.
            if not envelope or key in _ERROR_WORDS or _status_of_word(said) is not None:
                words.append(said)
        metadata = fields.get("metadata")  # OpenRouter
        if isinstance(metadata, dict) and (said := word(metadata.get("error_type"))) is not None:
            words.append(said)
    return words


def _text(value: JsonValue, depth: int = _DEPTH) -> str | None:
    """The text of an error: the first of `_TEXT_KEYS` that has one, the texts of an array joined."""
    if isinstance(value, str):
        return value.strip() or None
    if depth == 0:
        return None
    if isinstance(value, list):
        texts = [text for entry in value[:_ENTRIES] if (text := _text(entry, depth - 1)) is not None]
        return "; ".join(texts) or None
    if not isinstance(value, dict):
        return None
    text = next((said for key in _TEXT_KEYS if (said := _text(value.get(key), depth - 1)) is not None), None)
    path = value.get("loc")  # FastAPI: where in the request the mistake is
    if text is not None and isinstance(path, list) and path:
        steps = [str(step) for step in path[:_ENTRIES] if isinstance(step, str) or whole_number(step) is not None]
        return f"{'.'.join(steps)}: {text}"
    return text


def _own_text(fields: Mapping[str, JsonValue]) -> str | None:
    """The text of one layer: not that of the error inside it, unless there are several."""
    errors = fields.get("errors")
    if isinstance(errors, list) and len(errors) > 1:
        return _text(errors)
    return _text({key: value for key, value in fields.items() if key not in ("error", "errors")})


def _raw_text(objects: list[Mapping[str, JsonValue]]) -> str | None:
    """OpenRouter's `metadata.raw`: the answer of the provider behind it, as text or parsed."""
    for fields in objects:
        metadata = fields.get("metadata")
        if isinstance(metadata, dict) and (raw := metadata.get("raw")):
            return read_error_body(raw.encode("utf-8", "replace")).message if isinstance(raw, str) else _text(raw)
    return None


def _joined(texts: list[str | None]) -> str | None:
    said = list(dict.fromkeys(text for text in texts if text))
    return ": ".join(text for text in said if not any(text != other and text in other for other in said)) or None


def read_error_body(body: bytes) -> ProviderError:
    """As `read_error`, of bytes that may be no JSON, or only its beginning.

    Where no text is found in them, they are the message themselves.
    """
    text = body.decode("utf-8-sig", "replace").strip()
    payload = text.encode()  # valid UTF-8 in any case: the parser would end at the first byte that is not
    for line in text.splitlines()[:_ENTRIES] if text.startswith(("data:", "event:", "error:", ":")) else ():
        field, _, rest = line.partition(":")  # an error status with a body of server-sent events
        if field in ("data", "error"):
            payload = rest.strip().encode()
            break
    try:
        value = from_json(payload, allow_partial="trailing-strings")  # a long body is read up to a limit
    except ValueError:
        shorter = with_short_numbers(payload)
        return ProviderError(None, text or None, {}) if shorter == payload else read_error_body(shorter)
    if not isinstance(value, dict | list):
        return ProviderError(None, text or None, {})
    error = read_error(value)
    if error.message is not None or not value:
        return error
    return ProviderError(error.code, beginning(body), error.detail, error.status, error.words)


def beginning(body: bytes) -> str:
    """The first 300 characters of a body or payload, to quote it in a message."""
    return body[:1200].decode("utf-8", "replace").strip()[:300]


# --- judging -------------------------------------------------------------------------------------------------


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
        retry_after_ms=_longest([retry_after_ms, _delay_ms(error)]),
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
        retry_after_ms=_delay_ms(error),
        retry_at_ms=_reset_at_ms(error),
    )


def _kind_of_status(status: int, error: ProviderError) -> tuple[ErrorKind, bool]:
    kind, retryable = _KIND_OF_STATUS.get(
        status, ("backend_transient", True) if status >= 500 else ("backend_permanent", False)
    )
    return kind, retryable and not (status == 429 and any(map(_is_money, _words_of(error))))


def _kind_in_stream(error: ProviderError) -> tuple[ErrorKind, bool]:
    if error.status is not None:
        return _kind_of_status(error.status, error)
    for said in _words_of(error):
        if _is_money(said):
            return "rate_limited", False
        if (status := _status_of_word(said) or _STATUS_OF_PHRASE.get(said.lower())) is not None:
            return _kind_of_status(status, error)
    return "backend_transient", True


_STATUS_OF_PHRASE = {status.phrase.lower(): status.value for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST}
"""Of HTTP's reason phrases: Google's SDK for JavaScript has them in `status`, and proxies that are made with it."""


def _words_of(error: ProviderError) -> tuple[str, ...]:
    return error.words or (() if error.code is None else (error.code,))


def _http_status(value: JsonValue) -> int | None:
    number = whole_number(value)
    return number if number is not None and 400 <= number <= 599 else None


def _is_money(said: str) -> bool:
    """Whether the word says that the money or the quota is spent: trying again does not help."""
    plain = _plain(said)
    return plain in _NO_MONEY or plain == "billing" or plain.startswith("billing_")


def _status_of_word(said: str) -> int | None:
    """The HTTP status that a code or type stands for, None for a word that is not known."""
    plain = _plain(said)
    status = _STATUS_OF_WORD.get(plain)
    if status is not None:
        return status
    if " " in plain:
        return None  # a text
    return next((status for piece, status in _STATUS_OF_PIECE if piece in f"{plain}_"), None)


def _plain(said: str) -> str:
    """`BadRequestError`, `bad-request` and `BAD_REQUEST` as ``bad_request``."""
    plain = _BORDER.sub("_", said[:100]).lower().replace("-", "_").replace(".", "_")
    return plain.removesuffix("_error").removesuffix("_exception")


_BORDER = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


# --- when to come back ---------------------------------------------------------------------------------------


def wait_ms(
    error: ProviderError,
    now: float,
    *,
    retry_after: str | None = None,
    milliseconds: Iterable[str | None] = (),
) -> int | None:
    """The longest of the waits that an HTTP answer asks for, in milliseconds; None where it asks for none.

    Args:
        error: Its body, which may hold Google's `RetryInfo` or OpenRouter's `metadata.headers`.
        now: Unix time.
        retry_after: The header `Retry-After`.
        milliseconds: The headers `retry-after-ms` and `x-ms-retry-after-ms`.
    """
    return _longest(
        [
            retry_after_ms(retry_after, now),
            *(_milliseconds(value) for value in milliseconds),
            _delay_ms(error),
            _until(_reset_at_ms(error), now),
        ]
    )


def with_wait(error: GatewayError, now: float) -> GatewayError:
    """`error`, with the longer of its wait and the one from `now` (Unix time) until its `retry_at_ms`."""
    wait = _longest([error.retry_after_ms, _until(error.retry_at_ms, now)])
    return error.replace(retry_after_ms=wait, retry_at_ms=None)


def _until(at_ms: int | None, now: float) -> int | None:
    return None if at_ms is None else max(0, ceil(at_ms - now * 1000))


def retry_after_ms(value: str | None, now: float) -> int | None:
    """A `Retry-After` header, seconds or HTTP date, as milliseconds from `now` (Unix time). None where unreadable."""
    if value is None:
        return None
    value = value.strip()
    if _NUMBER.fullmatch(value):
        return _seconds(value)
    try:
        return max(0, ceil((parsedate_to_datetime(value).timestamp() - now) * 1000))
    except (ValueError, OverflowError):
        return None


_NUMBER = re.compile(r"[0-9]{1,16}(?:\.[0-9]{0,20})?|\.[0-9]{1,20}")
_DURATION = re.compile(r"([0-9]{1,16}(?:\.[0-9]{1,9})?)s")


def _milliseconds(value: JsonValue) -> int | None:
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        return _bounded(float(value))
    return whole_number(value)


def _seconds(value: JsonValue) -> int | None:
    """A number of seconds, or the digits of one, as milliseconds."""
    if isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= LARGEST_NUMBER:
        return None
    return _bounded(value * 1000)


def _bounded(milliseconds: float) -> int | None:
    number = ceil(round(milliseconds, 6))
    return number if number <= LARGEST_NUMBER else None


def _longest(waits: list[int | None]) -> int | None:
    return max((wait for wait in waits if wait is not None), default=None)


def _delay_ms(error: ProviderError) -> int | None:
    """The waits in the error itself: google.rpc.RetryInfo's `retryDelay`, a protobuf duration in JSON (``"3.5s"``),
    OpenRouter's `metadata.retry_after_seconds` and `metadata.headers`, and Codex' `resets_in_seconds`.
    """
    details = error.detail.get("details")
    delays = (
        [entry.get("retryDelay") for entry in details if isinstance(entry, dict)] if isinstance(details, list) else []
    )
    matches = [_DURATION.fullmatch(delay) for delay in delays if isinstance(delay, str)]
    metadata, headers = _openrouter(error)
    seconds = [metadata.get("retry_after_seconds"), headers.get("retry-after"), error.detail.get("resets_in_seconds")]
    reset = _milliseconds(headers.get("x-ratelimit-reset"))
    return _longest(
        [
            *(_bounded(float(match[1]) * 1000) for match in matches if match is not None),
            *map(_seconds, seconds),
            reset * 1000 if reset is not None and reset < _FIRST_TIME else None,
        ]
    )


def _reset_at_ms(error: ProviderError) -> int | None:
    """The `X-RateLimit-Reset` that OpenRouter puts into `error.metadata.headers`, as Unix time in milliseconds.

    OpenRouter's own has milliseconds, those of providers behind it may have seconds, or say seconds from now.
    """
    reset = _milliseconds(_openrouter(error)[1].get("x-ratelimit-reset"))
    if reset is None or reset < _FIRST_TIME:
        return None
    return reset * 1000 if reset < 1000 * _FIRST_TIME else reset


_FIRST_TIME = 1_000_000_000
"""2001-09-09 in Unix seconds; what is below is no time but a wait."""


def _openrouter(error: ProviderError) -> tuple[Mapping[str, JsonValue], Mapping[str, JsonValue]]:
    """`error.metadata` and its `headers`, whose names are made lower case."""
    metadata = error.detail.get("metadata")
    if not isinstance(metadata, dict):
        return {}, {}
    headers = metadata.get("headers")
    return metadata, {name.lower(): value for name, value in headers.items()} if isinstance(headers, dict) else {}
