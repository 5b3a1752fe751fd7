"""What every dialect sends with each request: where, who is asking, and in which form the answer is wanted."""

from __future__ import annotations

from typing import Any

import pytest

from ..recorded import canonical, dialect

BEARER = {"Authorization": "Bearer s3cret"}
SCHEMA: Any = {"type": "object", "properties": {"a": {"type": "string"}}}
RAW = {"output_mode": "json_object"}


def body(name: str, **fields: Any) -> dict[str, Any]:
    user = {"role": "user", "parts": [{"text": {"text": "Hi"}}]}
    request = canonical({"type": "infer", "messages": [user], **fields})
    return dialect(name).encode(request, "m").body


@pytest.mark.parametrize("name", ["openai_compatible", "openai_responses", "ollama"])
def test_the_secret_is_a_bearer_token(name: str) -> None:
    """RFC 6750; and in nothing else."""
    assert dialect(name).auth_headers("s3cret") == BEARER


@pytest.mark.parametrize(
    ("name", "path"),
    [("openai_compatible", "/chat/completions"), ("openai_responses", "/responses"), ("ollama", "/api/chat")],
)
def test_the_path_below_the_endpoint(name: str, path: str) -> None:
    """The model's name stands in the body, so that the path is the same for all of them."""
    request = canonical({"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]})
    sent = dialect(name).encode(request, "m")

    assert (sent.path, sent.body["model"]) == (path, "m")


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("openai_compatible", {"response_format": {"type": "json_object"}}),
        ("openai_responses", {"text": {"format": {"type": "json_object"}}}),
        ("ollama", {"format": "json"}),
    ],
)
def test_any_json_object_is_asked_for_in_each_dialects_words(name: str, fields: dict[str, Any]) -> None:
    """And nothing else of the request changes."""
    assert body(name, **RAW) == {**body(name), **fields}
    assert not fields.keys() & body(name).keys()


@pytest.mark.parametrize("name", ["openai_compatible", "openai_responses"])
@pytest.mark.parametrize(
    ("endpoint", "whole"),
    [
        ("https://api.openai.com/v1", True),
        ("https://a.openai.azure.com/openai/v1", True),
        ("https://openrouter.ai/api/v1", True),
        ("https://api.githubcopilot.com", True),
        ("https://api.deepseek.com/v1", True),
        ("http://127.0.0.1:8080/v1", False),
    ],
)
def test_schemas_of_arguments_are_whole_where_it_is_demanded(name: str, endpoint: str, whole: bool) -> None:
    """HTTP 400 "object schema missing properties", "got 'type: null'"; elsewhere a schema is sent as it is."""
    typed = {"type": "object", "additionalProperties": False}
    schemas: list[Any] = [{}, {"type": "object"}, {"properties": {}}, typed, SCHEMA]
    tools = [{"name": f"f{index}", "input_schema": schema} for index, schema in enumerate(schemas)]
    user = {"role": "user", "parts": [{"text": {"text": "Hi"}}]}
    request = canonical({"type": "infer", "messages": [user], "tools": tools})

    sent: Any = dialect(name, endpoint=endpoint).encode(request, "m").body["tools"]

    empty = {"type": "object", "properties": {}}
    expected = [empty, empty, empty, {**empty, "additionalProperties": False}, SCHEMA] if whole else schemas
    assert [tool.get("function", tool)["parameters"] for tool in sent] == expected
