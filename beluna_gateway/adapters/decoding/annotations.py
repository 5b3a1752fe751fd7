"""Citations and grounding of an answer, as every provider writes them → `Annotation` events, where they were asked for.

They are kept until the answer's end: only then are all positions known, and after an end mark they are no content.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from pydantic import JsonValue
from pydantic_core import to_json

from ...canonical import Annotation, JsonObject
from .kept import KeptBytes
from .scalars import whole_number, word

MAX_ANNOTATIONS = 1000
"""Annotations of one answer; further ones are only counted, in `not_carried`."""


class Annotations:
    """The annotations of one answer.

    Args:
        max_bytes: The most bytes of them that are kept.
    """

    def __init__(self, max_bytes: int) -> None:
        self._kept = KeptBytes(max_bytes)
        self._found: list[Annotation] = []
        self._known: set[tuple[bytes, int | None, int | None]] = set()
        self.passed_over = 0
        """Those beyond `MAX_ANNOTATIONS`."""

    def add(self, annotation: Annotation | None) -> None:
        """Takes one, unless it is there already: some servers say all of them again in a whole message."""
        if annotation is None:
            return
        key = (to_json(annotation.raw), annotation.start, annotation.end)
        if key in self._known:
            return
        if len(self._found) >= MAX_ANNOTATIONS:
            self.passed_over += 1
            return
        self._kept.add(len(key[0]))
        self._known.add(key)
        self._found.append(annotation)

    def events(self, length: int | None) -> Iterable[Annotation]:
        """All of them. Positions that are not within an answer of `length` characters are left out.

        Args:
            length: None where positions do not count the answer's text.
        """
        for annotation in self._found:
            start, end = annotation.start, annotation.end
            if start is None or end is None or length is None or not 0 <= start <= end <= length:
                yield replace(annotation, start=None, end=None)
            else:
                yield annotation


def openai_annotation(value: JsonValue, offset: int | None = 0) -> Annotation | None:
    """One entry of `annotations`: flat in the Responses API, under its type's name in Chat Completions.

    OpenAI documents `end_index` as the last character; its servers send the one after it, and its guides cut the text
    so: `text[start_index:end_index]`.

    Args:
        value: The entry.
        offset: Where the text that it counts in begins in the answer; None where that is not known.
    """
    if not isinstance(value, dict):
        return None
    kind = word(value.get("type")) or "annotation"
    inner = value.get(kind)
    fields = inner if isinstance(inner, dict) else value
    start, end = whole_number(fields.get("start_index")), whole_number(fields.get("end_index"))
    return Annotation(
        kind,
        value,
        url=word(fields.get("url")),
        title=word(fields.get("title")) or word(fields.get("filename")),
        text=word(fields.get("content")),  # OpenRouter's
        start=None if start is None or offset is None else start + offset,
        end=None if end is None or offset is None else end + offset,
    )


def perplexity_annotations(results: JsonValue, citations: JsonValue) -> Iterable[Annotation]:
    """Perplexity's `search_results`, or the bare URLs of its `citations` where there are none."""
    if isinstance(results, list) and results:
        for result in results:
            if isinstance(result, dict):
                yield Annotation(
                    "search_result",
                    result,
                    url=word(result.get("url")),
                    title=word(result.get("title")),
                    text=word(result.get("snippet")),
                )
    elif isinstance(citations, list):
        for url in citations:
            if isinstance(url, str) and url:
                yield Annotation("citation", url, url=url)


def claude_annotation(value: JsonValue, start: int, end: int) -> Annotation | None:
    """One citation of a text block, which stands at these characters of the answer: the block is what it is for.

    Anthropic's own positions are those of the cited document; they are in `raw`.
    """
    if not isinstance(value, dict):
        return None
    return Annotation(
        word(value.get("type")) or "citation",
        value,
        url=word(value.get("url")) or word(value.get("source")),
        title=word(value.get("title")) or word(value.get("document_title")),
        text=word(value.get("cited_text")),
        start=start,
        end=end,
    )


def gemini_annotations(lists: JsonObject, text: str) -> Iterable[Annotation]:
    """Gemini's `groundingMetadata` and the sources of its `citationMetadata`, whose positions count bytes of UTF-8.

    Where those are not the border of a character, or the text there is not what the segment says that it is, they are
    left out.

    Args:
        lists: `groundingChunks`, `groundingSupports`, `citationSources` and `citations`, where there are any.
        text: The answer's.
    """
    listed = lists.get("groundingChunks")
    # What is no object keeps its place: supports name chunks by theirs.
    chunks = [chunk if isinstance(chunk, dict) else {} for chunk in listed] if isinstance(listed, list) else []
    supports = [(support, _segment(support)) for support in _objects(lists.get("groundingSupports"))]
    citations = _objects(lists.get("citationSources")) or _objects(lists.get("citations"))
    places = _Places(text, [*(segment for _, segment in supports), *citations])
    supported: set[int] = set()
    for support, segment in supports:
        said = word(segment.get("text"))
        start, end = places.of(segment)
        if start is not None and end is not None:
            right = not segment.get("partIndex") if said is None else end - start == len(said)
            if not right or (said is not None and said != text[start:end]):
                start = end = None
        indexes = support.get("groundingChunkIndices")
        for index in indexes if isinstance(indexes, list) else []:
            if isinstance(index, int) and 0 <= index < len(chunks) and chunks[index]:
                supported.add(index)
                raw: JsonObject = {"groundingSupport": support, "groundingChunk": chunks[index]}
                yield _grounding(chunks[index], raw, said, start, end)
    for index, chunk in enumerate(chunks):
        if chunk and index not in supported:
            yield _grounding(chunk, {"groundingChunk": chunk}, None, None, None)
    for source in citations:
        start, end = places.of(source)
        yield Annotation(
            "citation", source, url=word(source.get("uri")), title=word(source.get("title")), start=start, end=end
        )


def _segment(support: JsonObject) -> JsonObject:
    segment = support.get("segment")
    return segment if isinstance(segment, dict) else {}


def _grounding(chunk: JsonObject, raw: JsonObject, said: str | None, start: int | None, end: int | None) -> Annotation:
    # A chunk is an object with one key, its kind: `web`, `retrievedContext`, `maps`, …
    source = next((value for value in chunk.values() if isinstance(value, dict)), {})
    return Annotation(
        "grounding", raw, url=word(source.get("uri")), title=word(source.get("title")), text=said, start=start, end=end
    )


def _objects(value: JsonValue) -> list[JsonObject]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []


class _Places:
    """Positions in bytes of UTF-8 as positions in characters, for the `startIndex` and `endIndex` of `ranges`.

    The text is walked through once, however many there are.
    """

    def __init__(self, text: str, ranges: list[JsonObject]) -> None:
        data = text.encode()
        self._characters: dict[int | None, int] = {}
        byte = character = 0
        for position in sorted({place for one in ranges for place in _bytes(one) if place is not None}):
            # Within the text, and not in the middle of a character.
            if (position < len(data) and data[position] & 0xC0 == 0x80) or position > len(data):
                continue
            character += len(data[byte:position].decode())
            byte = position
            self._characters[position] = character

    def of(self, one: JsonObject) -> tuple[int | None, int | None]:
        start, end = map(self._characters.get, _bytes(one))
        return (None, None) if start is None or end is None or end < start else (start, end)


def _bytes(one: JsonObject) -> tuple[int | None, int | None]:
    """A beginning of 0 is left out by the API, as every 0 is."""
    return whole_number(one.get("startIndex") or 0), whole_number(one.get("endIndex"))
