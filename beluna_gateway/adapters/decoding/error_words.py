"""The words that providers have for errors, as the HTTP statuses that they stand for. No I/O.

Source of the table: protocol/README.md, "Error mapping"; whose word it is stands beside it.
"""

from __future__ import annotations

import re
from http import HTTPStatus

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

_STATUS_OF_PHRASE = {status.phrase.lower(): status.value for status in HTTPStatus if status >= HTTPStatus.BAD_REQUEST}
"""Of HTTP's reason phrases: Google's SDK for JavaScript has them in `status`, and proxies that are made with it."""


def status_of(said: str) -> int | None:
    """The HTTP status that a code, a type or one of HTTP's reason phrases stands for; None where it is not known."""
    return status_of_word(said) or _STATUS_OF_PHRASE.get(said.lower())


def means_no_money(said: str) -> bool:
    """Whether the word says that the money or the quota is spent: trying again does not help."""
    plain = _plain(said)
    return plain in _NO_MONEY or plain == "billing" or plain.startswith("billing_")


def status_of_word(said: str) -> int | None:
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
