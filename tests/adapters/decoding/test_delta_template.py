"""The fast way for text deltas gives what parsing gives."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.decoding.delta_template import DeltaTemplate
from beluna_gateway.adapters.dialects.openai_compatible_decoder import ChatCompletionsDecoder
from beluna_gateway.canonical import BackendRawEvent, OutputTextDelta

from ..recorded import notes


def chunk(text: str, **extra: Any) -> bytes:
    return json.dumps({"id": "c", "choices": [{"index": 0, "delta": {"content": text}}], **extra}).encode()


def template() -> DeltaTemplate:
    return DeltaTemplate(delta_of, "content")


def delta_of(event: Any) -> Any:
    return event["choices"][0]["delta"]


def test_repeated_envelope_is_matched():
    """An event that differs from the learned one in its text only gives that text."""
    learned = template()
    learned.learn(chunk("Hello"), json.loads(chunk("Hello")), "Hello")

    assert learned.match(chunk(" world!")) == " world!"


def test_json_without_spaces_is_matched():
    """As most servers write it."""
    first, second = (json.dumps(json.loads(chunk(text)), separators=(",", ":")).encode() for text in ("Hello", "Hi"))
    learned = template()
    learned.learn(first, json.loads(first), "Hello")

    assert learned.match(second) == "Hi"


def test_another_envelope_is_not_matched():
    """An event that differs anywhere else is left to the parser."""
    learned = template()
    learned.learn(chunk("Hello"), json.loads(chunk("Hello")), "Hello")

    assert learned.match(chunk("Hello", usage={"prompt_tokens": 1})) is None


def test_text_that_stands_elsewhere_is_not_taken_for_the_delta():
    """Where the text is written with escapes and the same word stands elsewhere, nothing wrong is learned."""
    payload = rb'{"model":"A","choices":[{"delta":{"content":"\u0041"}}]}'
    learned = template()
    learned.learn(payload, json.loads(payload), "A")

    assert learned.match(payload.replace(b'"A"', b'"B"')) is None


def test_learning_stops_where_it_never_helps():
    """A server that never repeats itself costs a handful of attempts at learning, not one an event."""
    learned = template()
    for number in range(10):
        payload = chunk("x", created=number)
        learned.learn(payload, json.loads(payload), "x")

    assert learned.match(chunk("y", created=9)) is None
    assert learned.match(chunk("y", created=2)) == "y"


@given(
    st.lists(
        st.one_of(
            st.text(max_size=5).map(chunk),
            st.text(alphabet='ab"\\{}', max_size=5).map(
                lambda text: json.dumps(json.loads(chunk(text)), ensure_ascii=False).encode()
            ),
            st.integers(0, 2).map(lambda number: chunk("same", created=number)),
            st.text(max_size=3).map(lambda text: chunk("t", model=text)),
            st.just(b'{"id":"c","choices":[{"index":0,"delta":{"content":"x","refusal":"no"}}]}'),
        ),
        max_size=12,
    )
)
def test_same_events_as_parsing_each_one(payloads: list[bytes]):
    """Whatever comes before it, a payload means what it means to a decoder that has seen nothing before."""
    decoder = ChatCompletionsDecoder(notes("openai_compatible"), 1 << 20, annotated=False)
    for payload in payloads:
        events: list[BackendRawEvent] = []
        alone: list[BackendRawEvent] = []
        decoder.feed(payload, events)
        ChatCompletionsDecoder(notes("openai_compatible"), 1 << 20, annotated=False).feed(payload, alone)

        assert alone == events
        assert all(not isinstance(event, OutputTextDelta) or event.delta for event in events)
