"""Why an answer ended: every provider's word → ours. Source of the table: protocol/README.md, "finish_reason"."""

from __future__ import annotations

from pydantic import JsonValue

from ...canonical import FinishReason, OtherFinishReason
from ...errors import protocol_violation
from .scalars import word

_STOP = frozenset({"stop", "end_turn", "stop_sequence", "STOP", "completed"})
_LENGTH = frozenset({"length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "model_context_window_exceeded"})
_TOOL_CALLS = frozenset({"tool_calls", "tool_use", "function_call"})
_CONTENT_FILTER = frozenset({"content_filter", "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"})


_BROKEN_OFF = frozenset(
    {
        "refusal",
        "error",  # Mistral, OpenRouter
        "model_length",  # Mistral
        "insufficient_system_resource",  # DeepSeek
        "sensitive",  # Zhipu, as the next
        "network_error",
        "abort",  # vLLM, SGLang
    }
)
"""Further words for an answer that ended before its end. A client sees them as they are."""


def is_cut(word: str) -> bool:
    """The answer ended where the model had not meant to end it: what was open then is unfinished."""
    return word in _LENGTH or word in _CONTENT_FILTER or word in _BROKEN_OFF


def said_reason(value: JsonValue) -> str | None:
    """The finish reason in a field of an answer; null and the words `""`, `"null"`, `"None"` are none.

    Raises:
        GatewayError: `protocol_violation`, where it is not a string.
    """
    if not value or isinstance(value, str):
        return word(value)
    raise protocol_violation("the backend sent a finish reason that is not a string")


def finish_reason(word: str, *, calls_ready: bool = False, refused: bool = False) -> FinishReason:
    """Our word for the provider's.

    Args:
        word: What the provider said.
        calls_ready: A tool call became ready in this answer.
        refused: The model refused in words (OpenAI's refusal text).
    """
    if word in _LENGTH:
        return "length"
    if word in _CONTENT_FILTER:
        return OtherFinishReason("content_filter")
    if refused and word in _STOP:
        return OtherFinishReason("refusal")
    if word in _TOOL_CALLS or (word in _STOP and calls_ready):
        return "tool_calls"
    if word in _STOP:
        return "stop"
    return OtherFinishReason(word)
