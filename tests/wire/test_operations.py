"""The frames of what is no inference, and metadata of any number."""

from __future__ import annotations

import json
from typing import Any

import pytest

from beluna_gateway.canonical import Embedding, ModelList, TokenCount, UsageStats
from beluna_gateway.wire.frames import MOST_MISTAKES, Infer
from beluna_gateway.wire.ndjson import FrameEncoder, RejectedLine, decode, usage_object

from .samples import valid_line

USAGE = UsageStats(3, None, 3)


@pytest.mark.parametrize(
    ("result", "fields"),
    [
        (
            Embedding([[0.5, -1.0], [0.0, 1.0]], USAGE),
            {"vectors": [[0.5, -1.0], [0.0, 1.0]], "usage": usage_object(USAGE)},
        ),
        (TokenCount(7), {"input_tokens": 7}),
        (ModelList([{"id": "m", "owned_by": "x"}]), {"models": [{"id": "m", "owned_by": "x"}]}),
    ],
)
def test_a_result_is_one_frame(result: Any, fields: dict[str, Any]) -> None:
    """It has the request's id, and what was asked for."""
    kinds = {Embedding: "embedding", TokenCount: "token_count", ModelList: "model_list"}

    assert valid_line(FrameEncoder("r1").result(result)) == {"type": kinds[type(result)], "request_id": "r1", **fields}


def infer(metadata: dict[str, Any]) -> Any:
    user = {"role": "user", "parts": [{"text": {"text": "hello"}}]}
    return decode(json.dumps({"type": "infer", "messages": [user], "metadata": metadata}).encode())


@pytest.mark.parametrize("number", [0, 1, MOST_MISTAKES, MOST_MISTAKES + 1, 500])
def test_metadata_of_any_number_arrives(number: int) -> None:
    """The bound is on the mistakes that are told, not on what is right."""
    metadata = {f"key-{n}": str(n) for n in range(number)}
    frame = infer(metadata)

    assert isinstance(frame, Infer)
    assert frame.metadata == metadata


@pytest.mark.parametrize("right", [0, 100])
@pytest.mark.parametrize("wrong", [1, MOST_MISTAKES, 500])
def test_wrong_metadata_is_told_up_to_a_number(right: int, wrong: int) -> None:
    """Wherever it stands among what is right."""
    with pytest.raises(RejectedLine) as caught:
        infer({**{f"right-{n}": "x" for n in range(right)}, **{f"wrong-{n}": n for n in range(wrong)}})

    told = str(caught.value).count("wrong-")
    assert told == min(wrong, MOST_MISTAKES)
    assert "right-" not in str(caught.value)


@pytest.mark.parametrize("metadata", [5, True, None, "x" * 100, ["x"] * 100])
def test_metadata_that_is_no_object_is_told(metadata: Any) -> None:
    """As any other field of the wrong type."""
    with pytest.raises(RejectedLine, match=r"^metadata: expected an object"):
        infer(metadata)
