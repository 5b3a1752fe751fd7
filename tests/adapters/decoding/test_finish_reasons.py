"""Every provider's word for the end of an answer, as protocol/README.md translates it."""

from __future__ import annotations

import pytest

from beluna_gateway.adapters.decoding.finish_reasons import finish_reason, is_cut, said_reason
from beluna_gateway.canonical import OtherFinishReason
from beluna_gateway.errors import GatewayError

STOP = ["stop", "end_turn", "stop_sequence", "STOP", "completed"]
LENGTH = ["length", "max_tokens", "MAX_TOKENS", "max_output_tokens", "model_context_window_exceeded"]
TOOL_CALLS = ["tool_calls", "tool_use", "function_call"]
FILTER = ["content_filter", "SAFETY", "RECITATION", "BLOCKLIST", "PROHIBITED_CONTENT", "SPII"]
OTHER = ["pause_turn", "MALFORMED_FUNCTION_CALL", "OTHER", "incomplete", "refusal", "load", "Stop", ""]


@pytest.mark.parametrize(
    ("words", "expected"),
    [(STOP, "stop"), (LENGTH, "length"), (TOOL_CALLS, "tool_calls"), (FILTER, OtherFinishReason("content_filter"))],
)
def test_known_words_are_translated(words: list[str], expected: object) -> None:
    """Each word of the table has the one meaning that the table gives it."""
    assert [finish_reason(word) for word in words] == [expected] * len(words)


@pytest.mark.parametrize("word", OTHER)
def test_an_unknown_word_is_passed_on_and_never_becomes_stop(word: str) -> None:
    """A word without a translation reaches the client unchanged, whether or not calls became ready (F25)."""
    assert finish_reason(word) == OtherFinishReason(word)
    assert finish_reason(word, calls_ready=True) == OtherFinishReason(word)


def test_a_ready_call_turns_a_stop_into_tool_calls_and_nothing_else() -> None:
    """Servers that say `stop` after a call mean `tool_calls`; a length or a filter stays what it is (F20)."""
    assert {finish_reason(word, calls_ready=True) for word in STOP} == {"tool_calls"}
    assert {finish_reason(word, calls_ready=True) for word in LENGTH} == {"length"}
    assert {finish_reason(word, calls_ready=True) for word in FILTER} == {OtherFinishReason("content_filter")}


def test_a_refusal_in_words_is_a_reason_of_its_own() -> None:
    """OpenAI's refusal text ends with `stop`; the client learns that it was a refusal."""
    assert finish_reason("stop", refused=True) == OtherFinishReason("refusal")
    assert finish_reason("length", refused=True) == "length"
    assert finish_reason("tool_calls", refused=True) == "tool_calls"
    assert finish_reason("OTHER", refused=True) == OtherFinishReason("OTHER")


def test_only_what_the_model_did_not_end_itself_is_a_cut() -> None:
    """After a length, a filter or a refusal, what was open is unfinished."""
    assert all(is_cut(word) for word in [*LENGTH, *FILTER, "refusal"])
    assert not any(is_cut(word) for word in [*STOP, *TOOL_CALLS, "pause_turn", "OTHER", ""])


def test_some_words_are_no_reason() -> None:
    """Servers write `""`, `"null"` and `"None"` in each chunk before the last; a number is no word at all."""
    assert [said_reason(value) for value in (None, "", "null", "None", False, "stop")] == [*[None] * 5, "stop"]
    with pytest.raises(GatewayError) as failure:
        said_reason(5)

    assert failure.value.kind == "protocol_violation"
    assert failure.value.message == "the backend sent a finish reason that is not a string"
