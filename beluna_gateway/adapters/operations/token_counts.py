"""The input tokens of a request, as the provider counts them, in each provider's form.

The body is the one that the dialect sends for inference, without what a count does not take; `provider_options` are
merged into the rest, and what a provider's count does not take of them, it says itself.
Sources: Anthropic, `POST /v1/messages/count_tokens` (MessageCountTokensParams); Responses, `POST
/responses/input_tokens` (InputTokenCountParams); Gemini, `models.countTokens` with `generateContentRequest`
(google.genai.types.CountTokensConfig says why: tools and system instruction count only there); Chat Completions,
`POST /chat/completions/input_tokens`, which is llama.cpp's own (tools/server/README.md): OpenAI has no such endpoint.
Ollama has none.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from ...canonical import CanonicalRequest, JsonObject, TokenCount
from ...errors import GatewayError, protocol_violation
from ..base import HttpDialect, HttpRequest
from ..decoding.scalars import whole_number
from ..encoding.gemini_models import whole_name
from ..encoding.provider_options import merge_options
from .base import Operation, Reader, version_of

_ANTHROPIC = frozenset(
    {"messages", "model", "cache_control", "output_config", "system", "thinking", "tool_choice", "tools"}
)
_RESPONSES = frozenset(
    {"input", "instructions", "model", "parallel_tool_calls", "reasoning", "text", "tool_choice", "tools", "truncation"}
)


def _whole(request: CanonicalRequest) -> CanonicalRequest:
    return replace(request, stream=False)


def _count(key: str) -> Reader:
    def read(answer: JsonObject) -> TokenCount:
        count = whole_number(answer.get(key))
        if count is None:
            raise protocol_violation(f"the backend answered without a count of tokens ({key})")
        return TokenCount(count)

    return read


def _anthropic(dialect: HttpDialect, request: CanonicalRequest, model: str) -> Operation:
    asked = dialect.encode(_whole(request), model)
    body = {name: value for name, value in asked.body.items() if name in _ANTHROPIC}
    merge_options(body, request.provider_options)
    return Operation(HttpRequest(f"{asked.path}/count_tokens", body, asked.headers), _count("input_tokens"))


def _responses(dialect: HttpDialect, request: CanonicalRequest, model: str) -> Operation:
    asked = dialect.encode(_whole(request), model)
    body = {name: value for name, value in asked.body.items() if name in _RESPONSES}
    merge_options(body, request.provider_options)
    return Operation(HttpRequest(f"{asked.path}/input_tokens", body, asked.headers), _count("input_tokens"))


def _chat(dialect: HttpDialect, request: CanonicalRequest, model: str) -> Operation:
    asked = dialect.encode(_whole(request), model)
    merge_options(asked.body, request.provider_options)
    wanted = HttpRequest(f"{asked.path}/input_tokens", asked.body, asked.headers)
    return Operation(wanted, _count("input_tokens"), _no_such_path)


def _no_such_path(error: GatewayError) -> GatewayError:
    """Most servers of Chat Completions have no count; they say so with a status."""
    if error.provider_http_status not in (404, 405, 501):
        return error
    return error.replace(
        kind="unsupported_capability",
        retryable=False,
        message=f"count_tokens: this server has no /chat/completions/input_tokens: {error.message}",
    )


def _gemini(dialect: HttpDialect, request: CanonicalRequest, model: str) -> Operation:
    asked = dialect.encode(_whole(request), model)
    merge_options(asked.body, request.provider_options)
    name = whole_name(model)
    body: JsonObject = {"generateContentRequest": {"model": name, **asked.body}}
    return Operation(
        HttpRequest(f"{version_of(dialect)}/{name}:countTokens", body, asked.headers), _count("totalTokens")
    )


TOKEN_COUNTS: dict[str, Callable[[HttpDialect, CanonicalRequest, str], Operation]] = {
    "openai_compatible": _chat,
    "openai_responses": _responses,
    "anthropic": _anthropic,
    "gemini": _gemini,
}
"""Dialect → its way of counting."""
