"""Whatever a backend answers, a decoder gives events in their order or a `GatewayError`, and nothing else."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beluna_gateway.adapters.base import HttpDialect, parse_object
from beluna_gateway.adapters.http.ndjson import NdjsonParser
from beluna_gateway.adapters.http.sse import SseParser
from beluna_gateway.canonical import (
    BackendRawEvent,
    CanonicalRequest,
    JsonObject,
    TextPart,
    UserMessage,
)
from beluna_gateway.config.settings import HTTP_DIALECTS
from beluna_gateway.errors import GatewayError

from .arbitrary import assert_in_order
from .oracles import ORACLES
from .recorded import decode, dialect, recordings

STREAMED = [recording for recording in recordings() if recording.streamed]
WHOLE = [recording for recording in recordings() if not recording.streamed and recording.status == 200]
REQUEST = CanonicalRequest("fuzz", (UserMessage((TextPart("Hi"),)),))

_SCALARS = st.none() | st.booleans() | st.integers(-2, 2**70) | st.floats(allow_nan=False) | st.text(max_size=4)
_JSON: st.SearchStrategy[Any] = st.recursive(
    _SCALARS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=4), inner, max_size=2),
    max_leaves=4,
)


def feed_all(of: HttpDialect, payloads: list[bytes]) -> tuple[list[BackendRawEvent], GatewayError | None]:
    decoder, events = of.decoder(REQUEST, "m"), list[BackendRawEvent]()
    try:
        for payload in payloads:
            if payload == b"[DONE]":
                decoder.done_mark()
            else:
                decoder.feed(payload, events)
            if decoder.done:
                break
        decoder.finish(events)
    except GatewayError as error:
        return events, error
    return events, None


@st.composite
def mutated(draw: st.DrawFn, value: Any) -> Any:
    """`value` with one place in it replaced, removed or doubled."""
    if isinstance(value, dict) and value and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(sorted(value)))
        how = draw(st.integers(0, 5))
        changed = dict(value)
        if how == 0:
            del changed[key]
        elif how == 1:
            changed[key] = draw(_JSON)
        else:
            changed[key] = draw(mutated(value[key]))
        return changed
    if isinstance(value, list) and value and draw(st.integers(0, 5)):
        place = draw(st.integers(0, len(value) - 1))
        how = draw(st.integers(0, 5))
        if how == 0:
            return value[:place] + value[place + 1 :]
        if how == 1:
            return [*value, value[place]]
        return [*value[:place], draw(mutated(value[place])), *value[place + 1 :]]
    return draw(_JSON)


@pytest.mark.parametrize("recording", STREAMED, ids=lambda recording: recording.id)
@settings(max_examples=25)
@given(data=st.data())
def test_a_damaged_stream_is_decoded_or_refused(recording: Any, data: st.DataObject) -> None:
    """An event changed at any place, left out, doubled or moved: events in their order, or one error."""
    payloads = recording.payloads()
    place = data.draw(st.integers(0, len(payloads) - 1))
    how = data.draw(st.sampled_from(["mutate", "drop", "double", "swap"]))
    if how == "drop":
        del payloads[place]
    elif how == "double":
        payloads.insert(place, payloads[place])
    elif how == "swap":
        other = data.draw(st.integers(0, len(payloads) - 1))
        payloads[place], payloads[other] = payloads[other], payloads[place]
    else:
        try:
            payloads[place] = json.dumps(data.draw(mutated(json.loads(payloads[place])))).encode()
        except ValueError:
            payloads[place] = b"[DONE"

    events, error = feed_all(recording.dialect, payloads)

    assert_in_order(events, error)


@pytest.mark.parametrize("recording", WHOLE, ids=lambda recording: recording.id)
@settings(max_examples=50)
@given(data=st.data())
def test_a_damaged_body_is_decoded_or_refused(recording: Any, data: st.DataObject) -> None:
    """An unstreamed answer changed at any place: events in their order, or one error."""
    body = data.draw(mutated(json.loads(recording.answer)))
    decoder, events, failure = recording.dialect.decoder(REQUEST, "m"), list[BackendRawEvent](), None
    if not isinstance(body, dict):
        return
    try:
        decoder.feed_whole(json.loads(json.dumps(body)), events)
        decoder.finish(events)
    except GatewayError as error:
        failure = error

    assert_in_order(events, failure)


@pytest.mark.parametrize("name", sorted(ORACLES))
@settings(max_examples=40)
@given(payloads=st.lists(st.binary(max_size=20) | _JSON.map(lambda value: json.dumps(value).encode()), max_size=4))
def test_arbitrary_payloads_are_refused(name: str, payloads: list[bytes]) -> None:
    """Payloads that have nothing to do with the dialect never become a completed answer."""
    events, error = feed_all(dialect(name), payloads)

    assert error is not None
    assert_in_order(events, error)


@pytest.mark.parametrize("name", sorted(ORACLES))
@settings(max_examples=40)
@given(chunks=st.lists(st.binary(max_size=30), max_size=6))
def test_arbitrary_bytes_are_refused(name: str, chunks: list[bytes]) -> None:
    """Bytes that are no stream of the dialect never become a completed answer."""
    _, error = decode(dialect(name), REQUEST, chunks)

    assert error is not None


@pytest.mark.parametrize("name", sorted(ORACLES))
def test_a_body_of_another_api_is_a_protocol_violation(name: str) -> None:
    """An unstreamed answer that is whole, but not of this dialect, is no cut: trying again would not help."""
    bodies: list[JsonObject] = [{}, {"hello": "world"}, {"object": "list", "data": []}]
    for body in bodies:
        decoder = dialect(name).decoder(REQUEST, "m")
        with pytest.raises(GatewayError) as failure:
            decoder.feed_whole(body, [])

        assert failure.value.kind == "protocol_violation"


@pytest.mark.parametrize("manner", ["event", "body"])
@pytest.mark.parametrize("name", sorted(HTTP_DIALECTS))
def test_an_event_with_more_values_than_any_answer_has_is_refused(name, manner):
    """Before it is parsed: a million empty arrays take a hundred times their bytes."""
    of = dialect(name)
    data = b'{"a":[' + b"[]," * 1_000_000 + b"[]]}"
    began = time.process_time()

    with pytest.raises(GatewayError, match="values") as failure:
        read_event(of, data) if manner == "event" else of.decoder(REQUEST, "m").feed_whole(parse_object(data), [])

    assert failure.value.kind == "protocol_violation"
    assert time.process_time() - began < 1


def read_event(of: HttpDialect, data: bytes) -> None:
    decoder = of.decoder(REQUEST, "m")
    ndjson = of.framing == "ndjson"
    payloads = NdjsonParser(1 << 24).feed(data + b"\n") if ndjson else SseParser(1 << 24).feed(b"data: %b\n\n" % data)
    for payload in payloads:
        decoder.feed(payload, [])
