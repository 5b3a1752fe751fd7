"""Whether a backend has a model, by the lists that providers and servers give."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.model_lists import ModelList


def find(model: str, answer: Any) -> tuple[bool | None, str]:
    found = ModelList(json.dumps(answer).encode()).find(model)
    return found.known, found.text


OPENAI = {"object": "list", "data": [{"id": "gpt-4.1-mini", "object": "model"}, {"id": "gpt-4.1", "object": "model"}]}
ANTHROPIC = {"data": [{"type": "model", "id": "claude-haiku-4-5-20251001"}], "has_more": False}
GEMINI = {"models": [{"name": "models/gemini-2.5-flash", "version": "001"}], "nextPageToken": "x"}
OLLAMA = {
    "models": [{"name": "qwen3:4b", "model": "qwen3:4b"}, {"name": "llama3.2:latest", "model": "llama3.2:latest"}]
}


@pytest.mark.parametrize(
    ("answer", "model"),
    [
        (OPENAI, "gpt-4.1-mini"),
        (ANTHROPIC, "claude-haiku-4-5-20251001"),
        (GEMINI, "gemini-2.5-flash"),
        (GEMINI, "models/gemini-2.5-flash"),
        (OLLAMA, "qwen3:4b"),
        (OLLAMA, "llama3.2"),
        (OLLAMA, "llama3.2:latest"),
        ({"data": [{"id": "a", "aliases": ["b"]}]}, "b"),
    ],
)
def test_a_model_that_is_listed(answer: Any, model: str):
    """In each provider's list, by each name that requests may use."""
    assert find(model, answer) == (True, "listed")


def test_a_model_that_is_not_listed():
    """It is said, with the name that looks most like it, or with the names that there are."""
    assert find("gpt-4.1-mnii", OPENAI) == (False, "not listed; did you mean 'gpt-4.1-mini'?")
    assert find("other", OPENAI) == (False, "not listed; it lists 'gpt-4.1', 'gpt-4.1-mini'")
    many = {"data": [{"id": f"m{number}"} for number in range(500)]}
    assert find("other", many) == (False, "not listed; it lists 'm0', 'm1', 'm10', 'm100', 'm101' and 495 more")
    assert find("qwen3", OLLAMA)[0] is False  # `latest` of a model of which only `4b` is there


@pytest.mark.parametrize("answer", [{}, {"data": []}, {"models": None}, [], "x", 7, {"data": [1, {"id": None}]}])
def test_where_there_is_no_list_nothing_is_said(answer: Any):
    """Neither that the model is there nor that it is not."""
    assert find("m", answer) == (None, "cannot tell: the backend lists no models")
    assert ModelList(b"<html>").find("m").known is None


def test_llama_cpp_answers_to_any_name():
    """Its list has the loaded model, and says nothing about the name in a request."""
    answer = {"data": [{"id": "loaded", "owned_by": "llamacpp"}]}

    assert find("loaded", answer) == (True, "listed")
    assert find("other", answer) == (None, "cannot tell: llama.cpp takes any name, and lists 'loaded'")


_JSON = st.recursive(
    st.none() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["data", "models", "id", "name", "model", "aliases", "owned_by"]), inner)
    ),
    max_leaves=20,
)


@given(st.binary(max_size=50) | _JSON.map(lambda value: json.dumps(value).encode()), st.text(min_size=1, max_size=9))
def test_whatever_the_backend_sends_it_is_taken(body: bytes, model: str):
    """No answer is too strange."""
    assert ModelList(body).find(model).known in (True, False, None)
