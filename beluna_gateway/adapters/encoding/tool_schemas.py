"""Schemas of tools' arguments, for those who want to find more in them than JSON Schema does."""

from __future__ import annotations

from ...canonical import JsonObject
from ...config.settings import is_at, is_openai

_PASS_ON = ("openrouter.ai", "githubcopilot.com")  # openclaw #875, opencode #12653


def openai_judges(endpoint: str | None) -> bool:
    """Whether OpenAI's own checks decide what a backend takes: OpenAI, Azure, and those who pass on to them."""
    return is_openai(endpoint) or is_at(endpoint, *_PASS_ON)


def wants_whole_schemas(endpoint: str | None) -> bool:
    """Whether a backend refuses schemas without `type` or `properties`: OpenAI and DeepSeek.

    HTTP 400 "Invalid schema for function 'f': In context=(), object schema missing properties" (spring-ai #4776;
    through OpenRouter: forgecode #1359; GitHub Copilot: copilot-api #192), "schema must be a JSON Schema of 'type:
    "object"', got 'type: null'" (DeepSeek: dots-hyprland #3640).
    """
    return openai_judges(endpoint) or is_at(endpoint, "deepseek.com")


def whole_schema(schema: JsonObject) -> JsonObject:
    """`schema` with a `type` and with `properties`, of which there may be none: arguments are an object in any case.

    JSON Schema means the same by it, but not all servers do: llama.cpp's grammar takes a schema without `properties`
    for any object, and one whose properties are none for the empty one (llama.cpp #8180).
    """
    if "type" in schema and "properties" in schema:
        return schema
    return {"type": "object", "properties": {}, **schema}
