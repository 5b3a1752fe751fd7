"""Whether a backend has a model, by the lists that providers and servers give."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.adapters.operations.model_lists import ModelPages, find_model
from beluna_gateway.canonical import ModelList


def find(model: str, answer: Any, dialect: str = "openai_compatible") -> tuple[bool | None, str]:
    """What is found in a list of one page."""
    found = find_model(model, ModelPages(dialect, "/models").read(answer))
    return found.known, found.text


OPENAI = {"object": "list", "data": [{"id": "gpt-4.1-mini", "object": "model"}, {"id": "gpt-4.1", "object": "model"}]}
ANTHROPIC = {"data": [{"type": "model", "id": "claude-haiku-4-5-20251001"}], "has_more": False}
GEMINI = {"models": [{"name": "models/gemini-2.5-flash", "version": "001"}], "nextPageToken": "x"}
OLLAMA = {
    "models": [{"name": "qwen3:4b", "model": "qwen3:4b"}, {"name": "llama3.2:latest", "model": "llama3.2:latest"}]
}


@pytest.mark.parametrize(
    ("dialect", "answer", "model"),
    [
        ("openai_responses", OPENAI, "gpt-4.1-mini"),
        ("anthropic", ANTHROPIC, "claude-haiku-4-5-20251001"),
        ("gemini", GEMINI, "gemini-2.5-flash"),
        ("gemini", GEMINI, "models/gemini-2.5-flash"),
        ("ollama", OLLAMA, "qwen3:4b"),
        ("ollama", OLLAMA, "llama3.2"),
        ("ollama", OLLAMA, "llama3.2:latest"),
        ("openai_compatible", {"data": [{"id": "a", "aliases": ["b"]}]}, "b"),
    ],
)
def test_a_model_that_is_listed(dialect: str, answer: Any, model: str):
    """In each provider's list, by each name that requests may use."""
    assert find(model, answer, dialect) == (True, "listed")


def test_a_model_that_is_not_listed():
    """It is said, with the name that looks most like it, or with the names that there are."""
    assert find("gpt-4.1-mnii", OPENAI) == (False, "not listed; did you mean 'gpt-4.1-mini'?")
    assert find("other", OPENAI) == (False, "not listed; it lists 'gpt-4.1', 'gpt-4.1-mini'")
    many = {"data": [{"id": f"m{number}"} for number in range(500)]}
    assert find("other", many) == (False, "not listed; it lists 'm0', 'm1', 'm10', 'm100', 'm101' and 495 more")
    assert find("qwen3", OLLAMA, "ollama")[0] is False  # `latest` of a model of which only `4b` is there
    assert find_model("m", ModelList([])).text == "cannot tell: the backend lists no models"


def test_llama_cpp_answers_to_any_name():
    """Its list has the loaded model, and says nothing about the name in a request."""
    answer = {"data": [{"id": "loaded", "owned_by": "llamacpp"}]}

    assert find("loaded", answer) == (True, "listed")
    assert find("other", answer) == (None, "cannot tell: llama.cpp takes any name, and lists 'loaded'")
