"""Every recorded answer of every dialect: the same events however the bytes come, no success that was not proven."""

from __future__ import annotations

import json
import random
import re
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from beluna_gateway.canonical import Completed, ToolCallReady

from .oracles import ORACLES
from .recorded import Recording, decode, recordings

ALL = recordings()
STREAMED = [recording for recording in ALL if recording.streamed]
WHOLE = [recording for recording in ALL if not recording.streamed]


def each(cases: list[Recording]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("recording", cases, ids=lambda recording: recording.id)


@each(ALL)
def test_the_request_becomes_the_recorded_body(recording: Recording) -> None:
    """`encode` makes exactly the body that was recorded."""
    encoded = recording.dialect.encode(recording.request, recording.request.model or "default-model")

    assert recording.body == json.loads(json.dumps(encoded.body))


@each(ALL)
def test_the_official_sdk_accepts_the_body(recording: Recording) -> None:
    """The provider's own SDK has a type for every part of the body."""
    ORACLES[recording.dialect_name].request(recording.body)


@each([recording for recording in ALL if not recording.looser])
def test_the_official_sdk_understands_the_answer(recording: Recording) -> None:
    """What was recorded (or written by the documentation) is what the provider's own SDK calls valid."""
    oracle = ORACLES[recording.dialect_name]
    if recording.streamed:
        for payload in recording.payloads():
            oracle.event(payload)
    elif recording.status == 200:
        oracle.whole(recording.answer)


@each(WHOLE)
def test_an_unstreamed_answer_gives_the_recorded_events(recording: Recording) -> None:
    """An answer in one piece gives exactly the events that were recorded."""
    assert recording.expected == recording.play_whole()


@each(STREAMED)
def test_a_streamed_answer_gives_the_recorded_events(recording: Recording) -> None:
    """A whole answer, and the same byte by byte, gives exactly the events that were recorded."""
    answer = recording.answer

    assert recording.expected == recording.play([answer])
    assert recording.expected == recording.play(answer[i : i + 1] for i in range(len(answer)))


@each(STREAMED)
def test_where_the_bytes_are_cut_makes_no_difference(recording: Recording) -> None:
    """Cut in two, wherever that may matter, the answer gives the same events."""
    answer = recording.answer
    for cut in _positions(answer):
        assert recording.expected == recording.play([answer[:cut], answer[cut:]]), cut


@each(STREAMED)
@settings(max_examples=10)
@given(data=st.data())
def test_any_chunks_give_the_same_events(recording: Recording, data: st.DataObject) -> None:
    """Cut into any pieces, the answer gives the same events."""
    answer = recording.answer
    cuts = sorted(data.draw(st.sets(st.integers(0, len(answer)), max_size=30)))
    edges = [0, *cuts, len(answer)]

    assert recording.expected == recording.play(answer[a:b] for a, b in pairwise(edges))


@each(STREAMED)
@pytest.mark.parametrize("cut_by", ["connection", "body"])
def test_a_cut_answer_is_never_taken_for_a_whole_one(recording: Recording, cut_by: str) -> None:
    """Cut off, the answer either ends as the whole one or fails as a cut (F1); a call that became ready
    before the cut is ready in the whole answer too, unchanged (F19). So it is where HTTP says that the body is whole,
    but that before the first event it is no answer at all."""
    proper = cut_by == "body"
    nothing_said = ("protocol_violation", False)
    events, error = decode(recording.dialect, recording.request, [recording.answer])
    completions = [event for event in events if isinstance(event, Completed)]
    ready = [event.call.arguments_json for event in events if isinstance(event, ToolCallReady)]
    ended_at = None
    for cut in _positions(recording.answer):
        start = [recording.answer[:cut]]
        cut_events, cut_error = decode(recording.dialect, recording.request, start, cut=not proper)
        cut_ready = [event.call.arguments_json for event in cut_events if isinstance(event, ToolCallReady)]
        assert cut_ready == ready[: len(cut_ready)], cut
        if cut_error is None:
            ended_at = ended_at or cut
            assert completions, f"cut after byte {cut}: completed, but the whole answer is not"
            assert isinstance(cut_events[-1], Completed)
            assert cut_events[-1].finish_reason == completions[0].finish_reason
            assert cut_ready == ready, cut
        elif error is None or cut_error.kind != error.kind:
            failure = (cut_error.kind, cut_error.retryable)
            no_answer = proper and not cut_events and failure == nothing_said
            assert no_answer or failure == ("backend_transient", True), cut
            assert ended_at is None, f"completed when cut after byte {ended_at}, but not after byte {cut}"


def _positions(answer: bytes) -> list[int]:
    """Where an answer is cut: its start, around the end of each line, in each character of several bytes, the last
    60 bytes, and 60 positions more, the same in each run. With `--hypothesis-profile=heavy` everywhere.

    Inside of a line one position is like the next: all that counts is that the line is not there yet.
    """
    everywhere = range(len(answer))
    if settings.get_current_profile_name() == "heavy":
        return list(everywhere)
    chosen = {0, 1} | set(random.Random(len(answer)).sample(everywhere, min(60, len(answer)))) | set(everywhere[-60:])
    for line_end in re.finditer(rb"\r?\n", answer):
        chosen |= set(range(line_end.start() - 1, line_end.end() + 2))
    chosen |= {place for place, byte in enumerate(answer) if byte >= 0x80}
    return sorted(chosen & set(everywhere))
