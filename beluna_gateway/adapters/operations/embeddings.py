"""Embeddings in each provider's form.

Sources: OpenAI, `POST /embeddings` (openai.types.create_embedding_response); Gemini, `models.batchEmbedContents`
(google.genai.models, mldev); Ollama, `POST /api/embed` (ollama._types.EmbedResponse). Anthropic has none.
"""

from __future__ import annotations

from collections.abc import Callable
from math import isnan
from typing import cast

from pydantic import JsonValue

from ...canonical import Embedding, EmbeddingRequest, JsonObject, UsageStats
from ...errors import protocol_violation
from ...wire.strict_json import LARGEST_FLOAT
from ..base import HttpDialect, HttpRequest
from ..decoding.scalars import whole_number
from ..decoding.usage import openai_usage
from ..encoding.gemini_models import whole_name
from .base import Operation, version_of


def _openai(_: HttpDialect, request: EmbeddingRequest, model: str) -> Operation:
    body: JsonObject = {"model": model, "input": list(request.inputs), "encoding_format": "float"}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    inputs = len(request.inputs)  # a reader that held the request would keep its texts

    def read(answer: JsonObject) -> Embedding:
        data = _list(answer, "data", inputs)
        vectors: list[list[float] | None] = [None] * len(data)
        for position, entry in enumerate(data):
            fields = entry if isinstance(entry, dict) else {}
            index = whole_number(fields.get("index", position))
            if index is None or not 0 <= index < len(data) or vectors[index] is not None:
                raise protocol_violation(
                    f"the backend sent embedding {position} with the index {fields.get('index')!r}"
                )
            vectors[index] = _vector(fields.get("embedding"), f"data[{position}].embedding")
        usage = answer.get("usage")
        return Embedding(
            [vector for vector in vectors if vector is not None],
            openai_usage(usage, "prompt_tokens", "completion_tokens") if isinstance(usage, dict) else UsageStats(),
        )

    return Operation(HttpRequest("/embeddings", body), read)


def _gemini(dialect: HttpDialect, request: EmbeddingRequest, model: str) -> Operation:
    name = whole_name(model)
    options: JsonObject = {} if request.dimensions is None else {"outputDimensionality": request.dimensions}
    requests: list[JsonValue] = [
        {"model": name, "content": {"parts": [{"text": text}]}, **options} for text in request.inputs
    ]
    inputs = len(request.inputs)  # a reader that held the request would keep its texts

    def read(answer: JsonObject) -> Embedding:
        data = _list(answer, "embeddings", inputs)
        vectors = [
            _vector(entry.get("values") if isinstance(entry, dict) else None, f"embeddings[{position}].values")
            for position, entry in enumerate(data)
        ]
        usage = answer.get("usageMetadata")
        tokens = whole_number(usage.get("promptTokenCount")) if isinstance(usage, dict) else None
        return Embedding(vectors, _input_tokens(tokens, usage))

    return Operation(HttpRequest(f"{version_of(dialect)}/{name}:batchEmbedContents", {"requests": requests}), read)


def _ollama(_: HttpDialect, request: EmbeddingRequest, model: str) -> Operation:
    body: JsonObject = {"model": model, "input": list(request.inputs)}
    if request.dimensions is not None:
        body["dimensions"] = request.dimensions
    inputs = len(request.inputs)  # a reader that held the request would keep its texts

    def read(answer: JsonObject) -> Embedding:
        data = _list(answer, "embeddings", inputs)
        vectors = [_vector(entry, f"embeddings[{position}]") for position, entry in enumerate(data)]
        counts: JsonObject = {
            name: value for name, value in answer.items() if name.endswith(("_count", "_duration")) and value
        }
        return Embedding(vectors, _input_tokens(whole_number(answer.get("prompt_eval_count")), counts or None))

    return Operation(HttpRequest("/api/embed", body), read)


EMBEDDINGS: dict[str, Callable[[HttpDialect, EmbeddingRequest, str], Operation]] = {
    "openai_compatible": _openai,
    "openai_responses": _openai,
    "gemini": _gemini,
    "ollama": _ollama,
}
"""Dialect → its way of asking for embeddings."""


def _list(answer: JsonObject, key: str, inputs: int) -> list[JsonValue]:
    data = answer.get(key)
    if not isinstance(data, list):
        raise protocol_violation(f"the backend answered without a list {key!r}")
    if len(data) != inputs:
        raise protocol_violation(f"the backend sent {len(data)} vectors for {inputs} inputs")
    return data


def _vector(value: JsonValue, path: str) -> list[float]:
    if not isinstance(value, list) or not value or not all(type(number) in (int, float) for number in value):
        raise protocol_violation(f"the backend sent {path} that is no list of numbers")
    vector = cast("list[float]", value)
    if not (min(vector) >= -LARGEST_FLOAT and max(vector) <= LARGEST_FLOAT):
        raise protocol_violation(f"the backend sent {path} with a number that is too large for a 64-bit float")
    total = sum(vector)  # finds NaN in an eighth of the time that it takes to ask each number
    if isinstance(total, float) and isnan(total):
        raise protocol_violation(f"the backend sent {path} with NaN in place of a number")
    return vector


def _input_tokens(count: int | None, raw: JsonValue) -> UsageStats:
    return UsageStats(input_tokens=count, total_tokens=count, provider_usage_raw=raw if isinstance(raw, dict) else None)
