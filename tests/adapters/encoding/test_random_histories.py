"""Any history can go on at any backend: random ones, against what each provider refuses (`provider_rules.py`).

40 examples a dialect in a run of the suite; `pytest --hypothesis-profile=heavy` takes 2,000.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ..oracles import ORACLES
from ..recorded import canonical, dialect
from .provider_rules import RULES, gemini

BACKENDS: dict[str, dict[str, Any]] = {
    "anthropic": {},
    "gemini": {},
    "openai_responses": {},
    "openai_compatible": {"endpoint": "https://api.openai.com/v1"},
    "ollama": {},
}
MODELS = {"anthropic": "claude-sonnet-4-5", "gemini": "gemini-3-pro-preview"}
some = settings(max_examples=2000 if settings.get_current_profile_name() == "heavy" else 40)
every_dialect = pytest.mark.parametrize("name", BACKENDS)

Message = dict[str, Any]

TOOLS = ("f", "g", "browser.tabs.open", "é" * 200)
IDS = ("call_1", "toolu_a-b", "functions.get_weather:0", "functions_get_weather_0", "é:1", "x" * 64, "x" * 391)
# Opaque pieces as each provider gives them.
OPAQUE: dict[str, list[Any]] = {
    "anthropic": [
        {"type": "thinking", "thinking": "hm", "signature": "c2ln"},
        {"type": "redacted_thinking", "data": "ZGF0YQ=="},
        {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {"query": "q"}},
    ],
    "gemini": [
        {"executableCode": {"language": "PYTHON", "code": "1"}, "thoughtSignature": "c2ln"},
        {"thought": True, "text": "hm"},
    ],
    "openai_responses": [
        {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": "e"},
        {"type": "reasoning", "id": "r" * 416, "summary": [], "encrypted_content": "e"},
        {"type": "reasoning", "id": "rs_2", "summary": [], "content": [{"type": "reasoning_text", "text": "hm"}]},
    ],
    "openai_compatible": [
        {"reasoning_content": "hm"},
        {"reasoning_details": [{"type": "reasoning.text", "text": "hm"}]},
    ],
    "ollama": [{"anything": 1}],
}
EXTRAS: dict[str, list[Any]] = {
    "anthropic": [{}],
    "gemini": [{}, {"id": "own"}, {"thoughtSignature": "c2ln"}, {"id": "own", "thoughtSignature": "c2ln"}],
    "openai_responses": [{}, {"id": "item_1"}, {"id": "i" * 416}],
    "openai_compatible": [{}, {"extra_content": {"google": {"thought_signature": "s"}}}],
    "ollama": [{}],
}


def text(value: str) -> dict[str, Any]:
    return {"text": {"text": value}}


_texts = st.sampled_from(["", " ", "\n\n", "w{}", "w{} \n", " w{}"])


IMAGE = {"image_url": {"url": "data:image/png;base64,AAAA"}}
REMOTE_IMAGE = {"image_url": {"url": "https://example.org/a.png", "mime_type": "image/png"}}
PDF = {"file": {"data": "JVBERi0=", "mime_type": "application/pdf", "name": "a.pdf"}}
REMOTE_PDF = {"file": {"url": "https://example.org/a.pdf", "mime_type": "application/pdf"}}
PLAIN = {"file": {"data": "aGk=", "mime_type": "text/plain"}}
# What each dialect takes of users, and in results.
MEDIA: dict[str, list[Any]] = {
    "anthropic": [IMAGE, REMOTE_IMAGE, PDF, REMOTE_PDF, PLAIN],
    "gemini": [IMAGE, REMOTE_IMAGE, PDF, REMOTE_PDF, PLAIN],
    "openai_responses": [IMAGE, REMOTE_IMAGE, PDF, REMOTE_PDF, PLAIN],
    "openai_compatible": [IMAGE, REMOTE_IMAGE, PDF],
    "ollama": [IMAGE],
}
IN_RESULTS = ("anthropic", "gemini", "openai_responses")


@st.composite
def _parts(draw: st.DrawFn, media: tuple[Any, ...] | list[Any] = ()) -> list[Any]:
    """One part or more; `{}` in a text is numbered later."""
    kinds = [_texts.map(text), st.just({"json": {"value": {"w": 1}}})]
    if media:
        kinds.append(st.sampled_from(media))
    return draw(st.lists(st.one_of(kinds), min_size=1, max_size=3))


@st.composite
def _state(draw: st.DrawFn, name: str, turn: Message) -> dict[str, Any]:
    """A state for this turn: this backend's, another one's, another dialect's, or one in the form of 0.1."""
    owner = draw(st.sampled_from([name, name, name, *BACKENDS]))
    length = sum(len(part["text"]["text"].format(0)) for part in turn["parts"] if "text" in part)
    cut = draw(st.integers(0, length))
    pieces: list[Any] = [{"text": cut}, {"text": length - cut}]
    pieces += [{"call": call["id"], "extra": draw(st.sampled_from(EXTRAS[owner]))} for call in turn["tool_calls"]]
    pieces += [{"opaque": draw(st.sampled_from(OPAQUE[owner]))} for _ in range(draw(st.integers(0, 3)))]
    pieces = draw(st.permutations(pieces))
    backend = draw(st.sampled_from(["recorded", "recorded", "other"]))
    model = draw(st.sampled_from([MODELS.get(name, "m"), MODELS.get(name, "m"), "other"]))
    bare = owner == name and draw(st.booleans()) and draw(st.booleans())
    return {owner: pieces if bare else {"backend": backend, "model": model, "pieces": pieces}}


@st.composite
def _turn(draw: st.DrawFn, name: str) -> Message:
    """A turn of the model, with up to three calls."""
    ids = draw(st.lists(st.sampled_from(IDS), max_size=3))
    turn: Message = {"role": "assistant", "parts": draw(_parts()) if not ids or draw(st.booleans()) else []}
    turn["tool_calls"] = [
        {"id": call_id, "name": draw(st.sampled_from(TOOLS)), "arguments_json": "{}"} for call_id in ids
    ]
    if draw(st.booleans()):
        turn["provider_state"] = draw(_state(name, turn))
    return turn


@st.composite
def _answers(draw: st.DrawFn, name: str, turn: Message) -> list[Message]:
    """The results of a turn's calls: some failed, and some with images and files, or empty texts, beside the text."""
    answers = []
    for call in turn["tool_calls"]:
        answer: Message = {"role": "tool", "tool_call_id": call["id"], "tool_name": call["name"]}
        kinds = [st.just(text("")), *([st.sampled_from(MEDIA[name])] if name in IN_RESULTS else [])]
        answer["parts"] = draw(st.lists(st.one_of(kinds), max_size=2))
        answer["parts"].insert(draw(st.integers(0, len(answer["parts"]))), text("result"))
        if draw(st.booleans()):
            answer["is_error"] = draw(st.booleans())
        answers.append(answer)
    return answers


@st.composite
def histories(draw: st.DrawFn, name: str, tidy: bool = False) -> list[list[Message]]:
    """A conversation, a piece at a time; every call is answered within its piece.

    Args:
        draw: Hypothesis's.
        name: The dialect that it goes to.
        tidy: Results come at once and in order, so that a provider's wants move nothing.
    """
    pieces: list[list[Message]] = [[{"role": "user", "parts": [text("w{}")]}]]
    for _ in range(draw(st.integers(0, 4))):
        turns = draw(st.lists(_turn(name), min_size=1, max_size=1 if tidy else 2))
        piece: list[Message] = []
        if tidy:
            piece = [turns[0], *draw(_answers(name, turns[0]))]
        else:
            between = st.fixed_dictionaries({"role": st.sampled_from(["user", "system"]), "parts": _parts()})
            piece = [*turns, *draw(st.lists(between, max_size=2))]
            for turn in turns:
                for answer in draw(st.permutations(draw(_answers(name, turn)))):
                    first = next(index for index, message in enumerate(piece) if message is turn) + 1
                    piece.insert(draw(st.integers(first, len(piece))), answer)
        pieces.append(piece)
        pieces.append([{"role": "user", "parts": draw(_parts(MEDIA[name]))} for _ in range(draw(st.integers(0, 2)))])
        if draw(st.booleans()):
            pieces.append([{"role": "system", "parts": draw(_parts())}])
    messages = [message for piece in pieces for message in piece]
    for index in draw(st.sets(st.integers(0, len(messages) - 1), max_size=4)):
        messages[index]["cache"] = True
    return _numbered(pieces)


_caches = st.sampled_from([None, {}, {"mode": "auto"}, {"mode": "off"}])


def _numbered(pieces: list[list[Message]]) -> list[list[Message]]:
    """Gives each text, each call and each result a number of its own: a result has that of the call it answers."""
    count = 0
    open_calls: dict[tuple[str, str], deque[int]] = {}
    for message in (message for piece in pieces for message in piece):
        if message["role"] == "tool":
            number = open_calls[message["tool_call_id"], message["tool_name"]].popleft()
            message["parts"] = [
                text(f"result {number}") if part == text("result") else part for part in message["parts"]
            ]
            continue
        for part in message["parts"]:
            if "text" in part:
                count += 1
                part["text"] = {"text": part["text"]["text"].format(count % 10)}
        for call in message.get("tool_calls", ()):
            count += 1
            call["arguments_json"] = json.dumps({"number": count})
            open_calls.setdefault((call["id"], call["name"]), deque()).append(count)
    return pieces


def encoded(name: str, messages: list[Message], **fields: Any) -> Any:
    frame = {"type": "infer", "messages": messages, **fields}
    return dialect(name, **BACKENDS[name]).encode(canonical(frame), MODELS.get(name, "m")).body


# --- reading a body back -------------------------------------------------------------------------------------

Entry = tuple[str, Any]
"""What stands at one place of a body: ("text", …), ("call", (id, number)) or ("result", (id, number))."""


def _number(result: Any) -> int:
    (number,) = {int(found) for found in re.findall(r"result (\d+)", json.dumps(result))}
    return number


def _anthropic_entries(body: Any) -> Iterator[Entry]:
    for block in (block for message in body["messages"] for block in message["content"]):
        if block["type"] == "text":
            yield "text", block["text"]
        elif block["type"] == "tool_use":
            yield "call", (block["id"], block["input"]["number"])
        elif block["type"] == "tool_result":
            yield "result", (block["tool_use_id"], _number(block["content"]))


def _gemini_entries(body: Any) -> Iterator[Entry]:
    for part in (part for content in body["contents"] for part in content["parts"]):
        if "functionCall" in part:
            yield "call", (part["functionCall"].get("id"), part["functionCall"]["args"]["number"])
        elif "functionResponse" in part:
            yield (
                "result",
                (part["functionResponse"].get("id"), _number(part["functionResponse"]["response"])),
            )
        elif "text" in part and "thought" not in part:
            yield "text", part["text"]


def _responses_entries(body: Any) -> Iterator[Entry]:
    for item in body["input"]:
        if item["type"] == "function_call":
            yield "call", (item["call_id"], json.loads(item["arguments"])["number"])
        elif item["type"] == "function_call_output":
            yield "result", (item["call_id"], _number(item["output"]))
        elif item["type"] == "message" and item["role"] != "system":
            yield "text", _plain(item["content"])


def _chat_entries(body: Any) -> Iterator[Entry]:
    for message in body["messages"]:
        if message["role"] == "tool":
            yield "result", (message["tool_call_id"], _number(message["content"]))
        elif message["role"] != "system":
            yield "text", _plain(message["content"] or "")
        for call in message.get("tool_calls", ()):
            arguments = call["function"]["arguments"]
            number = (arguments if isinstance(arguments, dict) else json.loads(arguments))["number"]
            yield "call", (call["id"], number)


def _as_sent(name: str, part: Any) -> str:
    """What a body has of an image or a file: its URL or its base64; Anthropic gets the text of a plain text."""
    (value,) = part.values()
    sent = value.get("data") or value["url"].removeprefix("data:image/png;base64,")
    return '"data": "hi"' if name == "anthropic" and part == PLAIN else sent


def _plain(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


ENTRIES: dict[str, Callable[[Any], Iterator[Entry]]] = {
    "anthropic": _anthropic_entries,
    "gemini": _gemini_entries,
    "openai_responses": _responses_entries,
    "openai_compatible": _chat_entries,
    "ollama": _chat_entries,
}


def _said(messages: list[Message]) -> str:
    """All text of a history but its results and system messages, without white space."""
    parts = [part for message in messages if message["role"] in ("user", "assistant") for part in message["parts"]]
    texts = [
        json.dumps(part["json"]["value"]) if "json" in part else part.get("text", {"text": ""})["text"]
        for part in parts
    ]
    return "".join("".join(texts).split())


@every_dialect
@some
@given(data=st.data())
def test_any_history_goes_on_at_any_backend(name: str, data: st.DataObject) -> None:
    """The body breaks none of the provider's rules, its SDK takes it, and nothing of the history is lost in it:
    all text in its order, each call once, each result with its own call."""
    history = [message for piece in data.draw(histories(name)) for message in piece]

    body = encoded(name, history, stream=data.draw(st.booleans()), cache=data.draw(_caches))

    assert list(RULES[name](body)) == []
    ORACLES[name].request(json.loads(json.dumps(body)))
    entries = list(ENTRIES[name](body))
    assert "".join("".join(value for kind, value in entries if kind == "text").split()) == _said(history)
    sent = {kind: [value for entry, value in entries if entry == kind] for kind in ("call", "result")}
    numbers = [json.loads(call["arguments_json"])["number"] for m in history for call in m.get("tool_calls", ())]
    assert sorted(number for _, number in sent["call"]) == numbers
    assert sorted(sent["result"], key=str) == sorted(sent["call"], key=str)
    media = [part for message in history for part in message["parts"] if "image_url" in part or "file" in part]
    sent_media = json.dumps(body)
    for part in MEDIA[name]:
        assert sent_media.count(_as_sent(name, part)) == media.count(part)
    # Calls without ids, which Gemini makes, are told apart by their order.
    without_id = {kind: [value for value in values if value[0] is None] for kind, values in sent.items()}
    assert without_id["result"] == without_id["call"]


@some
@given(data=st.data())
def test_gemini_3_gets_a_signature_for_every_turn_with_calls(data: st.DataObject) -> None:
    """Whoever made a turn, its first call has a signature, its own or the documented one."""
    history = [message for piece in data.draw(histories("gemini")) for message in piece]

    assert list(gemini(encoded("gemini", history), signatures=True)) == []


def _sequences(body: Any) -> Iterator[list[Any]]:
    """What grows in a body from turn to turn, each block with the role of its turn."""
    if "contents" in body:
        yield [(content["role"], part) for content in body["contents"] for part in content["parts"]]
        yield body.get("systemInstruction", {"parts": []})["parts"]
    elif "input" in body:
        yield body["input"]
    elif "max_tokens" in body:
        yield [(message["role"], block) for message in body["messages"] for block in message["content"]]
        yield body.get("system", [])
    else:
        yield body["messages"]


@every_dialect
@some
@given(data=st.data())
def test_the_next_body_begins_with_this_one(name: str, data: st.DataObject) -> None:
    """A message is sent the same way whatever follows it, its mark included, so that a provider finds the beginning in
    its cache."""
    pieces = data.draw(histories(name, tidy=True))
    cache = data.draw(_caches)
    bodies = []
    for count in range(1, len(pieces) + 1):
        messages = [message for piece in pieces[:count] for message in piece]
        body = encoded(name, messages, cache=cache)
        # White space at the end of a last turn of the model is the one thing that Anthropic takes elsewhere only.
        if not (name == "anthropic" and body["messages"][-1]["role"] == "assistant"):
            bodies.append(body)

    for shorter, longer in pairwise(bodies):
        for begun, continued in zip(_sequences(shorter), _sequences(longer), strict=True):
            assert json.dumps(continued[: len(begun)]) == json.dumps(begun)
