"""Annotations: what each provider cites becomes the same events, with positions in characters of the answer's text."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.annotations import (
    MAX_ANNOTATIONS,
    Annotations,
    claude_annotation,
    gemini_annotations,
    openai_annotation,
    perplexity_annotations,
)
from beluna_gateway.adapters.dialects.openai_responses_decoder import ResponsesDecoder
from beluna_gateway.canonical import Annotation, BackendRawEvent, Completed, OutputTextDelta, Progress, Usage
from beluna_gateway.errors import GatewayError
from beluna_gateway.wire.ndjson import annotation_object

from ..arbitrary import json_values
from ..recorded import canonical, dialect, notes

DIALECTS = ("openai_compatible", "openai_responses", "anthropic", "gemini", "ollama")


def decode(name: str, *payloads: Any, whole: bool = False, annotated: bool = True) -> list[BackendRawEvent]:
    frame = {"type": "infer", "messages": [{"role": "user", "parts": [{"text": {"text": "Hi"}}]}]}
    request = canonical(frame | ({"include_annotations": True} if annotated else {}))
    decoder, events = dialect(name).decoder(request, "m"), list[BackendRawEvent]()
    if whole:
        decoder.feed_whole(payloads[0], events)
    else:
        for payload in payloads:
            decoder.feed(json.dumps(payload).encode(), events)
    decoder.finish(events)
    return events


def found(events: list[BackendRawEvent]) -> list[dict[str, Any]]:
    """The annotations as on the wire, without `raw`; they stand after the text and before usage and the end."""
    kinds = [type(event) for event in events]
    if Annotation in kinds:
        last = max(index for index, kind in enumerate(kinds) if kind is OutputTextDelta)
        first = min(index for index, kind in enumerate(kinds) if kind in (Usage, Completed))
        assert all(last < index < first for index, kind in enumerate(kinds) if kind is Annotation)
    objects = [annotation_object(event) for event in events if isinstance(event, Annotation)]
    assert all(one.pop("raw") is not None for one in objects)
    return objects


def not_carried(events: list[BackendRawEvent]) -> Any:
    assert isinstance(events[-1], Completed)
    return events[-1].backend_metadata.get("not_carried")


def text_of(events: list[BackendRawEvent]) -> str:
    return "".join(event.delta for event in events if isinstance(event, OutputTextDelta))


# --- Chat Completions ----------------------------------------------------------------------------------------


def url_citation(start: int, end: int, **more: Any) -> dict[str, Any]:
    inner = {"url": "https://h/", "title": "H", "start_index": start, "end_index": end, **more}
    return {"type": "url_citation", "url_citation": inner}


def chat(delta: Any, finish: str | None = None, key: str = "delta", **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, key: delta, "finish_reason": finish}], **more}


def test_chat_citations_count_characters_of_the_message() -> None:
    """As OpenAI and OpenRouter send them: in a delta of their own, before or with the end mark."""
    cited = url_citation(3, 6, content="quoted")
    events = decode(
        "openai_compatible", chat({"content": "é€𝄞"}), chat({"content": "abc"}), chat({"annotations": [cited]}, "stop")
    )

    assert found(events) == [
        {"kind": "url_citation", "url": "https://h/", "title": "H", "text": "quoted", "start": 3, "end": 6}
    ]
    assert text_of(events)[3:6] == "abc"
    assert not_carried(events) is None
    assert next(event.raw for event in events if isinstance(event, Annotation)) == cited


def test_chat_citations_of_a_whole_message_are_said_once() -> None:
    """A message beside the deltas, or in place of them, has all of them again."""
    cited = url_citation(0, 1)
    message = {"role": "assistant", "content": "x", "annotations": [cited]}

    repeated = decode(
        "openai_compatible",
        chat({"content": "x", "annotations": [cited]}),
        chat(message, "stop", key="message"),
    )
    alone = decode("openai_compatible", chat(message, "stop", key="message"), whole=True)

    assert (
        found(repeated)
        == found(alone)
        == [{"kind": "url_citation", "url": "https://h/", "title": "H", "start": 0, "end": 1}]
    )


def test_perplexitys_sources_come_once_however_often_they_are_repeated() -> None:
    """`search_results` say more than the bare URLs of `citations`, which count only where there are none."""
    results = [{"title": "T", "url": "https://h/", "snippet": "S"}]
    rich = [chat({"content": word}, citations=["https://h/"], search_results=results) for word in "ab"]
    bare = [chat({"content": word}, citations=["https://h/", "https://i/"]) for word in "ab"]

    assert found(decode("openai_compatible", *rich, chat({}, "stop"))) == [
        {"kind": "search_result", "url": "https://h/", "title": "T", "text": "S"}
    ]
    assert found(decode("openai_compatible", *bare, chat({}, "stop"))) == [
        {"kind": "citation", "url": "https://h/"},
        {"kind": "citation", "url": "https://i/"},
    ]


# --- Responses -----------------------------------------------------------------------------------------------


def flat(start: int, end: int) -> dict[str, Any]:
    return {"type": "url_citation", "url": "https://h/", "title": "H", "start_index": start, "end_index": end}


FILE = {"type": "file_citation", "file_id": "f", "filename": "a.pdf", "index": 7}


def message(*parts: tuple[str, list[Any]], index: int = 0) -> dict[str, Any]:
    content = [{"type": "output_text", "text": text, "annotations": annotations} for text, annotations in parts]
    return {"type": "message", "id": f"msg_{index}", "role": "assistant", "status": "completed", "content": content}


def completed(*output: Any) -> dict[str, Any]:
    return {"type": "response.completed", "response": {"status": "completed", "output": list(output)}}


def text_delta(text: str, output: int = 0, content: int | None = 0) -> dict[str, Any]:
    place = {"output_index": output, "content_index": content, "item_id": f"msg_{output}"}
    return {"type": "response.output_text.delta", "delta": text, **place}


def added(annotation: Any, output: int = 0, content: int = 0) -> dict[str, Any]:
    place = {"output_index": output, "content_index": content, "item_id": f"msg_{output}"}
    return {"type": "response.output_text.annotation.added", "annotation": annotation, **place}


def test_responses_citations_count_in_the_answers_text_not_in_their_part() -> None:
    """Streamed, whole, and streamed with the whole item after it give the same, once."""
    parts = (("ab", [flat(0, 2)]), ("cd", [flat(1, 2), FILE]))
    item, second = message(*parts), message(("ef", [flat(0, 1)]), index=1)
    expected = [
        {"kind": "url_citation", "url": "https://h/", "title": "H", "start": 0, "end": 2},
        {"kind": "url_citation", "url": "https://h/", "title": "H", "start": 3, "end": 4},
        {"kind": "file_citation", "title": "a.pdf"},
        {"kind": "url_citation", "url": "https://h/", "title": "H", "start": 4, "end": 5},
    ]
    streamed = [
        *(text_delta("ab"), added(flat(0, 2)), text_delta("cd", content=1), added(flat(1, 2), content=1)),
        *(added(FILE, content=1), text_delta("ef", 1), added(flat(0, 1), 1)),
    ]

    assert found(decode("openai_responses", *streamed, completed(item, second))) == expected
    assert (
        found(decode("openai_responses", *streamed, {**completed(), "response": {"status": "completed"}})) == expected
    )
    assert found(decode("openai_responses", completed(item, second)["response"], whole=True)) == expected


def test_positions_in_mixed_texts_are_left_out() -> None:
    """Where two messages' texts alternate nothing can be said of where a part of one begins."""
    events = decode(
        "openai_responses",
        *(text_delta("a"), text_delta("b", 1), text_delta("c"), added(flat(0, 2))),
        completed(message(("ac", [flat(0, 2)])), message(("b", []), index=1)),
    )

    assert found(events) == [{"kind": "url_citation", "url": "https://h/", "title": "H"}]


@pytest.mark.parametrize(
    ("places", "cited", "start"),
    [
        ([None], 0, 0),
        ([None], 1, None),
        ([0, 1, 2], 2, 4),
        ([1, 0], 0, 2),
        ([1, 0], 1, 0),
        ([1, 0], 2, None),
    ],
)
def test_a_responses_citation_counts_from_where_its_part_was_said(
    places: list[int | None], cited: int, start: int | None
) -> None:
    """Parts of two characters, in the order in which they came; a part without an index is the first."""
    deltas = [text_delta("xy", content=place) for place in places]

    [one] = found(decode("openai_responses", *deltas, added(flat(0, 2), content=cited), completed()))

    assert (one.get("start"), one.get("end")) == (start, None if start is None else start + 2)


def test_a_responses_citation_of_a_message_without_text_has_no_place() -> None:
    """It is told all the same."""
    events = decode("openai_responses", completed(message(("", [flat(0, 1)])), message(("ab", []), index=1)))

    assert found(events) == [{"kind": "url_citation", "url": "https://h/", "title": "H"}]


def test_a_responses_citation_is_progress() -> None:
    """While the backend cites it is at work."""
    assert Progress() in decode("openai_responses", text_delta("ab"), added(flat(0, 2)), completed())


@pytest.mark.parametrize("streamed", [True, False])
@pytest.mark.parametrize("annotated", [True, False])
@pytest.mark.parametrize(("length", "fits"), [(3000, True), (6000, False)])
def test_what_is_kept_of_a_responses_citation_is_bounded(
    streamed: bool, annotated: bool, length: int, fits: bool
) -> None:
    """It counts once, also where the whole message repeats it, and only where it was asked for."""
    cited = {**flat(0, 1), "title": "t" * length}
    decoder = ResponsesDecoder(notes("openai_responses"), None, 5000, annotated=annotated)
    payloads = [text_delta("ab"), added(cited)] if streamed else [text_delta("ab")]
    if fits or not streamed:
        payloads.append(completed(message(("ab", [cited]))))

    def fed() -> None:
        for payload in payloads:
            decoder.feed(json.dumps(payload).encode(), [])

    if fits or not annotated:
        fed()
        return
    with pytest.raises(GatewayError, match="5000 bytes"):
        fed()


# --- Anthropic -----------------------------------------------------------------------------------------------

WEB = {
    "type": "web_search_result_location",
    "url": "https://h/",
    "title": "H",
    "cited_text": "quoted",
    "encrypted_index": "e",
}
CHAR = {
    "type": "char_location",
    "document_index": 0,
    "document_title": "D",
    "cited_text": "quoted",
    "start_char_index": 500,
    "end_char_index": 506,
}


def block(index: int, text: str, *citations: Any) -> list[Any]:
    deltas = [{"type": "citations_delta", "citation": citation} for citation in citations]
    deltas.append({"type": "text_delta", "text": text})
    return [
        {"type": "content_block_start", "index": index, "content_block": {"type": "text", "text": ""}},
        *({"type": "content_block_delta", "index": index, "delta": delta} for delta in deltas),
        {"type": "content_block_stop", "index": index},
    ]


END = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": {"output_tokens": 1}}


def test_claudes_citations_are_for_the_block_that_has_them() -> None:
    """Its own positions are the cited document's, and stay in `raw`."""
    expected = [
        {
            "kind": "web_search_result_location",
            "url": "https://h/",
            "title": "H",
            "text": "quoted",
            "start": 4,
            "end": 7,
        },
        {"kind": "char_location", "title": "D", "text": "quoted", "start": 7, "end": 9},
        {
            "kind": "web_search_result_location",
            "url": "https://h/",
            "title": "H",
            "text": "quoted",
            "start": 7,
            "end": 9,
        },
    ]
    streamed = decode("anthropic", *block(0, "Says"), *block(1, "é€𝄞", WEB), *block(2, "ok", CHAR, WEB), END)
    blocks = [("Says", None), ("é€𝄞", [WEB]), ("ok", [CHAR, WEB])]
    content = [{"type": "text", "text": text, "citations": citations} for text, citations in blocks]
    whole = decode("anthropic", {"content": content, "stop_reason": "end_turn"}, whole=True)

    assert found(streamed) == found(whole) == expected
    assert not_carried(streamed) is None
    assert text_of(streamed)[4:7] == "é€𝄞"


def test_a_citation_is_for_all_pieces_of_its_blocks_text() -> None:
    """However many deltas the text came in, those of the same shape as the one before included."""
    (begun, *deltas, stopped), pieces = block(0, "ab", CHAR), ("cde", "fg", "h", "i")
    more = [
        {"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": piece}} for piece in pieces
    ]

    events = decode("anthropic", begun, *deltas, *more, stopped, *block(1, "xy", CHAR), END)

    assert text_of(events) == "abcdefghixy"
    assert [(one["start"], one["end"]) for one in found(events)] == [(0, 9), (9, 11)]


# --- Gemini --------------------------------------------------------------------------------------------------


def candidate(text: str | None = None, finish: str | None = None, **fields: Any) -> dict[str, Any]:
    content = {} if text is None else {"content": {"parts": [{"text": text}]}}
    return {"candidates": [{**content, **({"finishReason": finish} if finish else {}), **fields}]}


CHUNKS = [{"web": {"uri": "https://h/", "title": "H"}}, {"retrievedContext": {"uri": "gs://b/x", "title": "X"}}]


def support(start: int | None, end: int, text: str | None, *chunks: int, **more: Any) -> dict[str, Any]:
    segment = {"endIndex": end, **({} if start is None else {"startIndex": start}), **more}
    if text is not None:
        segment["text"] = text
    return {"segment": segment, "groundingChunkIndices": list(chunks)}


def test_geminis_bytes_become_characters() -> None:
    """Of the whole text, however it was cut into chunks; repeated metadata counts once."""
    supports = [support(None, 5, "é€", 0), support(5, 9, "𝄞", 0, 1)]
    grounding = {"groundingChunks": CHUNKS, "groundingSupports": supports}
    web, other = {"kind": "grounding", "url": "https://h/", "title": "H"}, {"url": "gs://b/x", "title": "X"}
    expected = [
        {**web, "text": "é€", "start": 0, "end": 2},
        {**web, "text": "𝄞", "start": 2, "end": 3},
        {**web, **other, "text": "𝄞", "start": 2, "end": 3},
    ]
    streamed = decode(
        "gemini",
        candidate("é"),
        candidate("€𝄞", groundingMetadata={"groundingChunks": CHUNKS[:1]}),
        candidate("!", "STOP", groundingMetadata=grounding),
        candidate(groundingMetadata={"webSearchQueries": ["q"]}),
    )
    whole = decode("gemini", candidate("é€𝄞!", "STOP", groundingMetadata=grounding), whole=True)

    assert found(streamed) == found(whole) == expected
    assert not_carried(streamed) is None


@pytest.mark.parametrize(
    "segment",
    [
        support(1, 2, None, 0),  # in the middle of a character
        support(0, 99, None, 0),
        support(3, 1, None, 0),
        support(0, 2, "e", 0),  # another text stands there
        support(0, 2, None, 0, partIndex=1),
        {"groundingChunkIndices": [0]},
    ],
)
def test_geminis_positions_that_cannot_be_right_are_left_out(segment: Any) -> None:
    """The source is told all the same."""
    grounding = {"groundingChunks": CHUNKS[:1], "groundingSupports": [segment]}
    (one,) = found(decode("gemini", candidate("éa", "STOP", groundingMetadata=grounding)))

    assert (one["kind"], one["url"], "start" in one, "end" in one) == ("grounding", "https://h/", False, False)


def test_geminis_unused_chunks_and_its_citations_are_told() -> None:
    """A chunk that no segment names, and what the text repeats word by word."""
    cited = {"citationSources": [{"startIndex": 2, "endIndex": 3, "uri": "https://c/", "license": "mit"}]}
    events = decode(
        "gemini", candidate("éa", "STOP", groundingMetadata={"groundingChunks": CHUNKS[1:]}, citationMetadata=cited)
    )

    assert found(events) == [
        {"kind": "grounding", "url": "gs://b/x", "title": "X"},
        {"kind": "citation", "url": "https://c/", "start": 1, "end": 2},
    ]


def test_a_segments_own_text_proves_its_place() -> None:
    """Whichever part it counts in: where the text that it names stands at its bytes, they are the answer's."""
    grounding = {"groundingChunks": CHUNKS[:1], "groundingSupports": [support(2, 3, "a", 0, partIndex=1)]}
    (one,) = found(decode("gemini", candidate("éa", "STOP", groundingMetadata=grounding)))

    assert (one["start"], one["end"]) == (1, 2)


def test_a_position_that_is_none_takes_no_later_one_with_it() -> None:
    """A byte in the middle of a character, before those that are right."""
    lists: Any = {"citationSources": [{"startIndex": 1, "endIndex": 2}, {"startIndex": 2, "endIndex": 3}, {}]}

    assert [(one.start, one.end) for one in gemini_annotations(lists, "éa")] == [(None, None), (1, 2), (None, None)]


@pytest.mark.parametrize("indexes", [5, "0", None, {"0": 0}, [], [-1], [2], ["0"], [None], [1.0], [[0]]])
def test_a_segment_that_names_no_chunk_says_nothing(indexes: Any) -> None:
    """Nor does it take a chunk for told that nobody names."""
    lists: Any = {"groundingChunks": CHUNKS, "groundingSupports": [{"segment": {}, "groundingChunkIndices": indexes}]}

    assert [one.raw for one in gemini_annotations(lists, "x")] == [{"groundingChunk": chunk} for chunk in CHUNKS]


def test_a_chunk_that_is_none_keeps_its_place() -> None:
    """Segments name the others by their places all the same."""
    lists: Any = {"groundingChunks": [None, *CHUNKS], "groundingSupports": [support(0, 1, "x", 0, 1)]}

    assert [(one.url, one.start) for one in gemini_annotations(lists, "x")] == [("https://h/", 0), ("gs://b/x", None)]


def test_geminis_own_objects_are_beside_what_is_made_of_them() -> None:
    """A segment with the chunk that it names, a chunk that none names, a citation under either name."""
    supported = support(0, 1, "x", 0)
    lists: Any = {"groundingChunks": CHUNKS, "groundingSupports": [supported]}
    cited: Any = {"startIndex": 0, "endIndex": 1, "uri": "https://c/", "title": "C"}

    assert [one.raw for one in gemini_annotations(lists, "x")] == [
        {"groundingSupport": supported, "groundingChunk": CHUNKS[0]},
        {"groundingChunk": CHUNKS[1]},
    ]
    assert (
        list(gemini_annotations({"citationSources": [cited]}, "x"))
        == list(gemini_annotations({"citations": [cited]}, "x"))
        == [Annotation("citation", cited, url="https://c/", title="C", start=0, end=1)]
    )


# --- what all share ------------------------------------------------------------------------------------------

ANSWERS: dict[str, tuple[list[Any], dict[str, int]]] = {
    "openai_compatible": ([chat({"content": "x", "annotations": [url_citation(0, 1)]}, "stop")], {"citations": 1}),
    "openai_responses": (
        [text_delta("x"), added(flat(0, 1)), completed(message(("x", [flat(0, 1)])))],
        {"citations": 1},
    ),
    "anthropic": ([*block(0, "x", WEB), END], {"citations": 1}),
    "gemini": ([candidate("x", "STOP", groundingMetadata={"groundingChunks": CHUNKS[:1]})], {"grounding": 1}),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_without_asking_there_are_none(name: str) -> None:
    """They are counted in `not_carried`, as ever."""
    answer, counted = ANSWERS[name]

    assert found(decode(name, *answer)) != []
    unasked = decode(name, *answer, annotated=False)
    assert found(unasked) == []
    assert not_carried(unasked) == counted


def test_asking_a_provider_that_cites_nothing_gives_nothing() -> None:
    """Ollama's answer is what it is without."""
    line = {"message": {"content": "x"}, "done": True, "done_reason": "stop"}

    assert decode("ollama", line) == decode("ollama", line, annotated=False)


def test_a_position_may_be_empty_and_at_the_border() -> None:
    """As a mark between two words is, or one at the end of the text."""
    kept = Annotations(1000)
    for start, end in ((0, 0), (2, 2), (3, 3), (0, 3)):
        kept.add(Annotation("k", {}, start=start, end=end))

    assert [(one.start, one.end) for one in kept.events(3)] == [(0, 0), (2, 2), (3, 3), (0, 3)]


def test_what_a_provider_leaves_out_of_a_citation_is_left_out() -> None:
    """A citation without a type has a kind all the same; the other names of a place and a title count."""
    search: Any = {"source": "https://h/", "title": "H", "cited_text": "quoted"}

    assert openai_annotation({"url": "https://h/"}) == Annotation(
        "annotation", {"url": "https://h/"}, url="https://h/", start=None, end=None
    )
    assert claude_annotation(search, 0, 1) == Annotation(
        "citation", search, url="https://h/", title="H", text="quoted", start=0, end=1
    )
    assert openai_annotation(5) is claude_annotation(5, 0, 1) is None
    others: list[Any] = [{"url": "https://h/"}, "https://h/", [5], None]
    for results in others:
        assert list(perplexity_annotations(results, [5, "", None])) == []
    no_results: tuple[Any, ...] = ("https://h/", [], None, {"url": "https://h/"})
    for nothing in no_results:
        assert list(perplexity_annotations(nothing, ["https://c/"])) == [
            Annotation("citation", "https://c/", url="https://c/")
        ]


@pytest.mark.parametrize(("start", "end"), [(0, 9), (2, 1), (None, 1), (0, None)])
def test_positions_outside_of_the_text_are_left_out(start: int | None, end: int | None) -> None:
    """Whatever a provider counts there, it is not the answer's characters."""
    kept = Annotations(1000)
    kept.add(Annotation("k", {}, start=start, end=end))
    ((one),) = kept.events(3)

    assert (one.start, one.end) == (None, None)


NUMBERS = range(MAX_ANNOTATIONS + 5)


@pytest.mark.parametrize(
    ("name", "payloads"),
    [
        (
            "openai_compatible",
            [chat({"content": "x", "annotations": [url_citation(0, 1, title=str(n)) for n in NUMBERS]}, "stop")],
        ),
        ("openai_responses", [completed(message(("x", [flat(0, 1) | {"n": n} for n in NUMBERS])))]),
        ("anthropic", [*block(0, "x", *(CHAR | {"document_index": n} for n in NUMBERS)), END]),
        (
            "gemini",
            [
                candidate(
                    "x", "STOP", groundingMetadata={"groundingChunks": [{"web": {"title": str(n)}} for n in NUMBERS]}
                )
            ],
        ),
    ],
)
def test_very_many_annotations_are_only_counted(name: str, payloads: list[Any]) -> None:
    """The answer goes on; what is beyond the limit is in `not_carried`."""
    events = decode(name, *payloads)

    assert len(found(events)) == MAX_ANNOTATIONS
    assert not_carried(events) == {"citations": 5}


def test_annotations_without_end_are_a_protocol_violation() -> None:
    """Not more than `reliability.max_event_bytes` is kept."""
    kept = Annotations(1000)
    kept.add(Annotation("k", "x" * 900))
    with pytest.raises(GatewayError, match="max_event_bytes"):
        kept.add(Annotation("k", "y" * 900))


@settings(max_examples=100)
@given(
    st.text(max_size=20),
    st.lists(st.tuples(st.integers(0, 60), st.integers(0, 60)), max_size=8),
    st.dictionaries(st.sampled_from(["groundingChunks", "groundingSupports", "citations"]), json_values, max_size=3),
)
def test_any_bytes_and_any_metadata_give_right_positions_or_none(text: str, places: Any, junk: Any) -> None:
    """A position that is given is the one in characters; nothing that a provider sends ends the answer."""
    data = text.encode()
    lists: Any = {"citationSources": [{"startIndex": start, "endIndex": end} for start, end in places]}
    for one, (start, end) in zip(gemini_annotations(lists, text), places, strict=True):
        try:
            expected = len(data[:start].decode()), len(data[:end].decode())
        except UnicodeDecodeError:
            expected = None
        if expected is None or start > end or end > len(data):
            assert (one.start, one.end) == (None, None)
        else:
            assert (one.start, one.end) == expected
    assert list(gemini_annotations(junk, text)) is not None
