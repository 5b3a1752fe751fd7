"""The official SDKs as oracles: what they would accept as a request, and what they would understand of an answer.

The SDKs build their objects without validating, so each check here validates explicitly.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

from pydantic import BaseModel, TypeAdapter
from pydantic_core import from_json

Validate = Callable[[Any], None]


@dataclass(frozen=True)
class Oracle:
    """One provider's SDK. Each validator raises `ValueError` (pydantic's `ValidationError` is one)."""

    request: Validate
    """An HTTP body."""
    event: Callable[[bytes], None]
    """One payload of a streamed answer."""
    whole: Callable[[bytes], None]
    """An answer that is no stream."""


@cache
def adapter(of: Any) -> TypeAdapter[Any]:
    return TypeAdapter(of)


def validate(of: Any, value: Any, *, strict_keys: bool = False) -> None:
    """`value` is a valid `of`, at every depth; with `strict_keys` no unknown key is taken."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        extra: Any = "forbid" if strict_keys else None
        if isinstance(of, type) and issubclass(of, BaseModel):
            of.model_validate(value, extra=extra)
        else:
            _exhaust(adapter(of).validate_python(value, extra=extra))


def _exhaust(value: Any) -> None:
    """Walks a validated value: pydantic validates an `Iterable` only while it is read."""
    if isinstance(value, dict):
        for item in value.values():
            _exhaust(item)
    elif hasattr(value, "__iter__") and not isinstance(value, str | bytes | BaseModel):
        for item in value:
            _exhaust(item)


# --- OpenAI, Chat Completions --------------------------------------------------------------------------------


_SWITCHES = ("chat_template_kwargs", "enable_thinking", "thinking")


def _chat_request(body: Any) -> None:
    from openai.types.chat import completion_create_params as params

    # What some other servers take, where the configuration says so (`openai_compatible.thinking`), or gave themselves.
    body = {key: value for key, value in body.items() if key not in _SWITCHES}
    own = ("reasoning_content", "reasoning_details", "extra_content")
    body["messages"] = [{k: v for k, v in message.items() if k not in own} for message in body["messages"]]
    for message in body["messages"]:
        if "tool_calls" in message:
            calls = message["tool_calls"]
            message["tool_calls"] = [{k: v for k, v in call.items() if k not in own} for call in calls]
    validate(
        params.CompletionCreateParamsStreaming if body["stream"] else params.CompletionCreateParamsNonStreaming,
        body,
        strict_keys=True,
    )


def _chat_event(payload: bytes) -> None:
    from openai.types.chat import ChatCompletionChunk

    if payload != b"[DONE]":
        validate(ChatCompletionChunk, from_json(payload))


def _chat_whole(answer: bytes) -> None:
    from openai.types.chat import ChatCompletion

    validate(ChatCompletion, from_json(answer))


# --- Anthropic -----------------------------------------------------------------------------------------------


def _messages_request(body: Any) -> None:
    from anthropic.types import message_create_params as params

    # The SDK 2.x no longer lists what only models before Claude 4.7 and other servers take.
    body = {key: value for key, value in body.items() if key not in ("temperature", "top_p")}
    validate(
        params.MessageCreateParamsStreaming if body["stream"] else params.MessageCreateParamsNonStreaming,
        body,
        strict_keys=True,
    )


def _messages_event(payload: bytes) -> None:
    from anthropic.types import RawMessageStreamEvent
    from anthropic.types.shared import ErrorResponse

    event = from_json(payload)
    if event["type"] == "error":
        validate(ErrorResponse, event)
    elif event["type"] != "ping":  # the SDK drops pings before it looks at them
        validate(RawMessageStreamEvent, event)


def _messages_whole(answer: bytes) -> None:
    from anthropic.types import Message
    from anthropic.types.shared import ErrorResponse

    body = from_json(answer)
    validate(ErrorResponse if body["type"] == "error" else Message, body)


# --- Ollama --------------------------------------------------------------------------------------------------


def _ollama_request(body: Any) -> None:
    from ollama._types import ChatRequest

    validate(ChatRequest, body)


def _ollama_answer(payload: bytes) -> None:
    from ollama import ChatResponse

    body = from_json(payload)
    if "error" in body:  # ollama.Client raises ResponseError(part["error"]) before it looks further
        assert isinstance(body["error"], str)
    else:
        validate(ChatResponse, body)


# --- OpenAI, Responses ---------------------------------------------------------------------------------------


@cache
def _responses_event_classes() -> dict[str, type[BaseModel]]:
    from typing import get_args

    from openai.types.responses import ResponseStreamEvent

    members = get_args(get_args(ResponseStreamEvent)[0])
    return {get_args(member.model_fields["type"].annotation)[0]: member for member in members}


def _responses_request(body: Any) -> None:
    from openai.types.responses import response_create_params as params

    # The type requires an id of reasoning; the API itself does without (Codex never sends one).
    items = [{"id": "rs", **item} if item["type"] == "reasoning" else item for item in body["input"]]
    body = {**body, "input": items}
    validate(
        params.ResponseCreateParamsStreaming if body.get("stream") else params.ResponseCreateParamsNonStreaming,
        body,
        strict_keys=True,
    )


def _responses_event(payload: bytes) -> None:
    if payload != b"[DONE]":
        event = from_json(payload)
        validate(_responses_event_classes()[event["type"]], event)


def _responses_whole(answer: bytes) -> None:
    from openai.types.responses import Response

    validate(Response, from_json(answer))


# --- Gemini --------------------------------------------------------------------------------------------------


def _gemini_request(body: Any) -> None:
    from google.genai import types

    # The SDK has no type for the REST body as a whole: its parts are checked one by one.
    for content in body["contents"]:
        validate(types.Content, content)
    if "systemInstruction" in body:
        validate(types.Content, body["systemInstruction"])
    for tool in body.get("tools", []):
        validate(types.Tool, tool)
    if "toolConfig" in body:
        validate(types.ToolConfig, body["toolConfig"])
    if "generationConfig" in body:
        validate(types.GenerationConfig, body["generationConfig"])


def _gemini_answer(payload: bytes) -> None:
    from google.genai import types

    body = from_json(payload)
    if "error" not in body:
        validate(types.GenerateContentResponse, body)


ORACLES: dict[str, Oracle] = {
    "openai_compatible": Oracle(_chat_request, _chat_event, _chat_whole),
    "openai_responses": Oracle(_responses_request, _responses_event, _responses_whole),
    "anthropic": Oracle(_messages_request, _messages_event, _messages_whole),
    "gemini": Oracle(_gemini_request, _gemini_answer, _gemini_answer),
    "ollama": Oracle(_ollama_request, _ollama_answer, _ollama_answer),
}
