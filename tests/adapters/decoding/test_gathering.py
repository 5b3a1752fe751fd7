"""The order of an unstreamed answer's events."""

from __future__ import annotations

from beluna_gateway.adapters.decoding.gathering import gathered, is_answer
from beluna_gateway.canonical import BackendRawEvent, OutputTextDelta, Progress, ReasoningDelta, ToolCallDelta


def test_texts_are_joined_and_come_before_the_rest():
    """Reasoning first, then text, each as one delta; what is left keeps its order."""
    first, second = ToolCallDelta("a", "f", ""), ToolCallDelta("b", "f", "")
    events: list[BackendRawEvent] = [
        OutputTextDelta("1"),
        first,
        ReasoningDelta("x"),
        OutputTextDelta("2"),
        second,
        ReasoningDelta("y"),
    ]

    assert gathered(events) == [ReasoningDelta("xy"), OutputTextDelta("12"), first, second]
    assert gathered([first, ReasoningDelta("x")]) == [ReasoningDelta("x"), first]
    assert gathered([OutputTextDelta("1"), OutputTextDelta("2")]) == [OutputTextDelta("12")]
    assert gathered([Progress()]) == [Progress()]


def test_an_answer_has_text_or_calls():
    """Reasoning alone is none."""
    assert is_answer([Progress(), OutputTextDelta("1")])
    assert is_answer([ToolCallDelta("a", "f", "")])
    assert not is_answer([ReasoningDelta("x"), Progress()])
