"""The frames of what is no inference, annotations, metadata of any number, and where a mistake is."""

from __future__ import annotations

import json
from math import inf
from pathlib import Path
from traceback import walk_tb
from typing import Any

import pytest

from beluna_gateway.canonical import Annotation, Embedding, ModelList, TokenCount, UsageStats
from beluna_gateway.wire.frames import MOST_MISTAKES, Infer
from beluna_gateway.wire.ndjson import FrameEncoder, RejectedLine, decode, usage_object

from .samples import valid_line

USAGE = UsageStats(3, None, 3)
PROTOCOL = Path(__file__).parents[2] / "protocol"


@pytest.mark.parametrize(
    ("result", "fields"),
    [
        (
            Embedding([[0.5, -1.0], [0.0, 1.0]], USAGE),
            {"vectors": [[0.5, -1.0], [0.0, 1.0]], "usage": usage_object(USAGE)},
        ),
        (
            Embedding([[0.5]], UsageStats(provider_usage_raw={"n": inf})),
            {"vectors": [[0.5]], "usage": usage_object(UsageStats(provider_usage_raw={"n": None}))},
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


def test_an_annotation_says_what_is_known() -> None:
    """And the provider's own value, whatever it is; a position of 0 is one."""
    full = Annotation("url_citation", {"a": 1}, "https://x", "X", "said", 0, 4)
    encoder = FrameEncoder("r1")

    frames = [json.loads(line) for line in encoder.events([full, Annotation("k", None)]).splitlines()]

    common = {"type": "annotation", "request_id": "r1"}
    known = {"url": "https://x", "title": "X", "text": "said", "start": 0, "end": 4}
    assert [frame | common for frame in frames] == frames
    assert [frame["annotation"] for frame in frames] == [
        {"kind": "url_citation", **known, "raw": {"a": 1}},
        {"kind": "k", "raw": None},
    ]
    for frame in frames:
        valid_line(json.dumps(frame).encode() + b"\n")


@pytest.mark.parametrize("length", [1, 128, 129])
def test_a_rejection_has_the_id_that_can_be_read(length: int) -> None:
    """From the shortest to the longest that a request may have."""
    with pytest.raises(RejectedLine) as caught:
        decode(json.dumps({"type": "infer", "request_id": "r" * length}).encode())

    assert caught.value.request_id == ("r" * length if length <= 128 else None)


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"messages": [{"role": "user", "parts": [{"text": {"text": 5}}]}]}, "messages[0].parts[0].text.text"),
        ({"messages": [{"role": "user", "parts": [{"image_url": {"url": 5}}]}]}, "messages[0].parts[0].image_url.url"),
        ({"messages": [{"role": "user", "parts": [{"json": {}}]}]}, "messages[0].parts[0].json.value"),
        *(
            (
                {"messages": [{"role": "user", "parts": [{tag: {"zz": 1, tag: "x", **rest}}]}]},
                f"messages[0].parts[0].{tag}.zz",
            )
            for tag, rest in (
                ("text", {}),
                ("image_url", {"url": "x"}),
                ("json", {"value": 1}),
                ("file", {"mime_type": "x"}),
            )
        ),
        ({"route": {"kind": "alias", "capability": 5, "alias": "a"}}, "route.capability"),
        ({"route": {"kind": "key", "capability": 5, "binding_id": "a", "key": 1}}, "route.capability"),
        ({"route": {"kind": "alias", "capability": "chat", "alias": 5}}, "route.alias"),
        ({"route": {"kind": "key", "capability": "chat", "binding_id": 5}}, "route.binding_id"),
    ],
)
def test_a_mistake_has_the_path_that_the_client_wrote(fields: Any, path: str) -> None:
    """Without the names by which the models of a union are told apart."""
    with pytest.raises(RejectedLine) as caught:
        decode(json.dumps({"type": "infer", "messages": [], **fields}).encode())

    assert str(caught.value).startswith(f"{path}: ")


def test_a_rejection_holds_nothing_of_the_line() -> None:
    """No frame that read it, each of which would keep megabytes until the garbage collector comes."""
    for line in (b'{"type":"infer"}', b"{}", b"[1e999]"):
        with pytest.raises(RejectedLine) as caught:
            decode(line)

        assert not any("value" in frame.f_locals for frame, _ in walk_tb(caught.value.__traceback__))
        assert caught.value.__context__ is None


@pytest.mark.parametrize("wrong", [MOST_MISTAKES, MOST_MISTAKES + 1])
def test_more_mistakes_than_are_told_are_hinted_at(wrong: int) -> None:
    """So that nobody takes the told ones for all."""
    message = {"role": "user", "parts": [], **{f"unknown-{n}": 1 for n in range(15)}}
    line = {"type": "infer", "messages": [message], **{f"other-{n}": 1 for n in range(wrong - 15)}}
    with pytest.raises(RejectedLine) as caught:
        decode(json.dumps(line).encode())

    assert str(caught.value).endswith("; …") == (wrong > MOST_MISTAKES)
