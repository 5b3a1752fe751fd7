"""Embeddings, counts of tokens and lists of models: bodies that the SDKs' types take, and answers read or refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.adapters import http_dialect
from beluna_gateway.adapters.base import HttpDialect
from beluna_gateway.adapters.operations.base import OperationDecoder
from beluna_gateway.adapters.operations.embeddings import EMBEDDINGS
from beluna_gateway.adapters.operations.model_lists import MAX_PAGES, ModelPages
from beluna_gateway.adapters.operations.token_counts import TOKEN_COUNTS
from beluna_gateway.canonical import BackendRawEvent, Embedding, EmbeddingRequest, ModelList, TokenCount
from beluna_gateway.config.settings import Config, profiles
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.request_normalizer import RequestNormalizer
from beluna_gateway.wire.frames import CountTokens
from tests.adapters.oracles import validate
from tests.fakes.config import backend, config

DIALECTS = ("openai_compatible", "openai_responses", "anthropic", "gemini", "ollama")
TEXTS = EmbeddingRequest("r", ("one", "two"), dimensions=2)


def dialect(name: str) -> HttpDialect:
    parsed = Config.model_validate(config(backend(dialect=name, endpoint="http://h")))
    return http_dialect(profiles(parsed, Path())["b"])


def read(decoder: OperationDecoder, body: Any) -> BackendRawEvent:
    events: list[BackendRawEvent] = []
    decoder.feed_whole(body, events)
    decoder.finish(events)
    [event] = events
    return event


# --- embeddings ----------------------------------------------------------------------------------------------

VECTORS: dict[str, Any] = {
    "openai": {
        "data": [{"index": 1, "embedding": [3, 4.5]}, {"index": 0, "embedding": [1.0, 2.0]}],
        "usage": {"prompt_tokens": 5, "total_tokens": 5},
    },
    "gemini": {
        "embeddings": [{"values": [1.0, 2.0]}, {"values": [3, 4.5]}],
        "usageMetadata": {"promptTokenCount": 5},
    },
    "ollama": {"model": "m", "embeddings": [[1.0, 2.0], [3, 4.5]], "prompt_eval_count": 5, "total_duration": 9},
}


def vectors(name: str) -> Any:
    return json.loads(json.dumps(VECTORS["openai" if name.startswith("openai") else name]))


def test_embeddings_are_asked_for_as_the_sdks_do():
    """Each body is one that the provider's own type takes."""
    from google.genai import types as gemini
    from ollama._types import EmbedRequest
    from openai.types import EmbeddingCreateParams

    bodies = {name: EMBEDDINGS[name](dialect(name), TEXTS, "m").request for name in EMBEDDINGS}

    for name in ("openai_compatible", "openai_responses"):
        assert bodies[name].path == "/embeddings"
        validate(EmbeddingCreateParams, bodies[name].body, strict_keys=True)
        assert bodies[name].body == {
            "model": "m", "input": ["one", "two"], "encoding_format": "float", "dimensions": 2
        }  # fmt: skip
    assert bodies["gemini"].path == "/v1beta/models/m:batchEmbedContents"
    for text, request in zip(TEXTS.inputs, bodies["gemini"].body["requests"], strict=True):  # type: ignore[arg-type]
        assert request["model"] == "models/m"  # type: ignore[index, call-overload]
        assert request["outputDimensionality"] == 2  # type: ignore[index, call-overload]
        content = gemini.Content.model_validate(request["content"], extra="forbid")  # type: ignore[index, call-overload]
        assert [part.text for part in content.parts or []] == [text]
    assert bodies["ollama"].path == "/api/embed"
    validate(EmbedRequest, bodies["ollama"].body, strict_keys=True)


def test_what_is_not_asked_for_is_not_sent():
    """Without `dimensions` the model's own length counts."""
    plain = EmbeddingRequest("r", ("one",))

    for name in EMBEDDINGS:
        assert "imension" not in json.dumps(EMBEDDINGS[name](dialect(name), plain, "m").request.body)


@pytest.mark.parametrize("name", EMBEDDINGS)
def test_vectors_come_in_the_order_of_the_inputs(name: str):
    """Also where the provider sends them in another one; the tokens are counted where it says them."""
    answer = read(OperationDecoder(EMBEDDINGS[name](dialect(name), TEXTS, "m").read), vectors(name))

    assert isinstance(answer, Embedding)
    assert answer.vectors == [[1.0, 2.0], [3, 4.5]]
    assert (answer.usage.input_tokens, answer.usage.total_tokens) == (5, 5)


WRONG: dict[str, Any] = {
    "no numbers": ["1", "2"],
    "empty": [],
    "true": [True, False],
    "infinity": [1.0, float("inf")],  # as 1e400 is read
    "NaN": [1.0, float("nan"), 2.0],
    "minus infinity": [float("-inf"), 1],
    "400 digits": [10**400],
}
"""What is no vector."""


@pytest.mark.parametrize("name", EMBEDDINGS)
@pytest.mark.parametrize("change", [*WRONG, "one less", "one more", "no list", "nothing"])
def test_wrong_vectors_are_a_violation(name: str, change: str):
    """A wrong number of vectors, or what is none, never reaches a client."""
    body = vectors(name)
    key = "data" if name.startswith("openai") else "embeddings"
    inner = {"openai": "embedding", "gemini": "values"}.get(name[:6])
    if change == "one less":
        body[key].pop()
    elif change == "one more":
        body[key].append(body[key][0])
    elif change == "no list":
        body[key] = {"a": 1}
    elif change == "nothing":
        del body[key]
    else:
        wrong = WRONG[change]
        if inner is None:
            body[key][0] = wrong
        else:
            body[key][0][inner] = wrong

    with pytest.raises(GatewayError) as caught:
        read(OperationDecoder(EMBEDDINGS[name](dialect(name), TEXTS, "m").read), body)
    assert caught.value.kind == "protocol_violation"


@pytest.mark.parametrize("index", [0, 2, -1, "x"])
def test_an_index_that_is_there_twice_or_nowhere_is_a_violation(index: Any):
    """Which input a vector belongs to is not guessed."""
    body = vectors("openai_compatible")
    body["data"][0]["index"] = index

    with pytest.raises(GatewayError, match="index"):
        read(OperationDecoder(EMBEDDINGS["openai_compatible"](dialect("openai_compatible"), TEXTS, "m").read), body)


# --- token counts --------------------------------------------------------------------------------------------

COUNTED = CountTokens.model_validate(
    {
        "type": "count_tokens",
        "messages": [
            {"role": "system", "parts": [{"text": {"text": "Be brief."}}]},
            {"role": "user", "parts": [{"text": {"text": "Hello"}}]},
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "sampling": {"temperature": 0},
    }
)
ANSWERS = {
    "openai_compatible": {"object": "response.input_tokens", "input_tokens": 7},
    "openai_responses": {"object": "response.input_tokens", "input_tokens": 7},
    "anthropic": {"input_tokens": 7},
    "gemini": {"totalTokens": 7},
}


@pytest.mark.parametrize("name", TOKEN_COUNTS)
def test_a_count_sends_what_the_inference_would(name: str):
    """The body is the one of an inference, as far as the provider's own type of a count takes it."""
    asked = RequestNormalizer().normalize_operation(COUNTED, "r").inference  # type: ignore[union-attr]
    operation = TOKEN_COUNTS[name](dialect(name), asked, "m")
    inference = dialect(name).encode(asked, "m").body
    path, body = operation.request.path, operation.request.body

    if name == "anthropic":
        from anthropic.types import MessageCountTokensParams

        assert path == "/v1/messages/count_tokens"
        validate(MessageCountTokensParams, body, strict_keys=True)
        assert inference.keys() - body.keys() == {"max_tokens", "stream", "temperature"} & inference.keys()
    elif name == "openai_responses":
        from openai.types.responses import InputTokenCountParams

        assert path == "/responses/input_tokens"
        validate(InputTokenCountParams, body, strict_keys=True)
        assert body["input"] == inference["input"]
        assert body["tools"] == inference["tools"]
    elif name == "gemini":
        assert path == "/v1beta/models/m:countTokens"
        wrapped = body["generateContentRequest"]
        assert isinstance(wrapped, dict)
        assert wrapped["model"] == "models/m"
        assert wrapped["contents"] == inference["contents"]
    else:
        assert path == "/chat/completions/input_tokens"
        assert body["messages"] == inference["messages"]
    assert read(OperationDecoder(operation.read), ANSWERS[name]) == TokenCount(7)


@pytest.mark.parametrize("name", TOKEN_COUNTS)
@pytest.mark.parametrize(
    "body", [{}, {"input_tokens": "many", "totalTokens": None}, {"input_tokens": -1, "totalTokens": -1}]
)
def test_an_answer_without_a_count_is_a_violation(name: str, body: Any):
    """A count is a number from 0, or the answer is wrong."""
    asked = RequestNormalizer().normalize_operation(COUNTED, "r").inference  # type: ignore[union-attr]

    with pytest.raises(GatewayError) as caught:
        read(OperationDecoder(TOKEN_COUNTS[name](dialect(name), asked, "m").read), body)
    assert caught.value.kind == "protocol_violation"


@pytest.mark.parametrize(
    ("status", "kind"), [(404, "unsupported_capability"), (405, "unsupported_capability"), (400, "invalid_request")]
)
def test_a_server_of_chat_completions_without_a_count_is_told_apart(status: int, kind: str):
    """OpenAI itself has no such path; what a server says of a wrong request stays as it is."""
    asked = RequestNormalizer().normalize_operation(COUNTED, "r").inference  # type: ignore[union-attr]
    operation = TOKEN_COUNTS["openai_compatible"](dialect("openai_compatible"), asked, "m")

    error = operation.explain(GatewayError("invalid_request", "no such route", provider_http_status=status))

    assert (error.kind, "no such route" in error.message) == (kind, True)


# --- model lists ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "pages", "paths"),
    [
        ("openai_compatible", [{"data": [{"id": "a", "owned_by": "x"}, {"id": "b"}]}], ["/models"]),
        ("openai_responses", [{"data": [{"id": "a", "owned_by": "x"}, {"id": "b"}]}], ["/models"]),
        (
            "anthropic",
            [
                {"data": [{"id": "a", "owned_by": "x"}], "has_more": True, "last_id": "a"},
                {"data": [{"id": "b"}], "has_more": False, "last_id": "b"},
            ],
            ["/v1/models?limit=1000", "/v1/models?limit=1000&after_id=a"],
        ),
        (
            "gemini",
            [
                {"models": [{"name": "models/a", "owned_by": "x"}], "nextPageToken": "p/+ 2"},
                {"models": [{"name": "tunedModels/b"}]},
            ],
            ["/v1beta/models?pageSize=1000", "/v1beta/models?pageSize=1000&pageToken=p%2F%2B%202"],
        ),
        ("ollama", [{"models": [{"name": "a:latest", "model": "a", "owned_by": "x"}, {"name": "b"}]}], ["/api/tags"]),
    ],
)
def test_every_page_of_a_list_is_read(name: str, pages: list[Any], paths: list[str]):
    """Each model has its id and what the provider says of it."""
    reader, asked, last = ModelPages(name, dialect(name).probe_path), [], ModelList([])
    for page in pages:
        asked.append(reader.path)
        last = reader.read(page)

    assert (asked, reader.path) == (paths, None)
    assert [model["id"] for model in last.models] == ["a", "tunedModels/b" if name == "gemini" else "b"]
    assert last.models[0]["owned_by"] == "x"


@pytest.mark.parametrize("body", [{}, {"data": {}}, {"data": [1]}, {"data": [{"id": None}]}, {"data": [{"id": ""}]}])
def test_what_is_no_list_of_models_is_a_violation(body: Any):
    """A list without names says nothing."""
    with pytest.raises(GatewayError, match="model") as caught:
        ModelPages("openai_compatible", "/models").read(body)
    assert caught.value.kind == "protocol_violation"


def test_an_empty_list_may_be_null_or_left_out():
    """Null as Go writes it, where there are no models; left out as Google does on one of several pages."""
    assert ModelPages("openai_compatible", "/models").read({"object": "list", "data": None}).models == []

    pages = ModelPages("gemini", "/models")
    pages.read({"nextPageToken": "a"})
    pages.read({"models": [{"name": "models/x"}], "nextPageToken": "b"})
    assert [model["id"] for model in pages.read({}).models] == ["x"]
    assert pages.path is None
    with pytest.raises(GatewayError, match="without a list"):
        ModelPages("gemini", "/models").read({})


def test_a_list_without_an_end_is_a_violation():
    """A page that names itself as the next one, or too many pages, end the reading."""
    pages = ModelPages("gemini", "/models")
    pages.read({"models": [], "nextPageToken": "a"})
    with pytest.raises(GatewayError, match="has no end"):
        pages.read({"models": [], "nextPageToken": "a"})

    pages = ModelPages("gemini", "/models")
    for number in range(1, MAX_PAGES):
        pages.read({"models": [], "nextPageToken": str(number)})
    with pytest.raises(GatewayError, match="has no end"):
        pages.read({"models": [], "nextPageToken": "one more"})


@pytest.mark.parametrize("body", [{"error": {"code": 429, "message": "slow down"}}])
def test_an_error_under_a_200_is_an_error(body: Any):
    """As in an inference."""
    with pytest.raises(GatewayError, match="slow down") as caught:
        read(OperationDecoder(ModelPages("gemini", "/models").read), body)
    assert caught.value.kind == "rate_limited"
