"""`ResponseNormalizer`: whatever a dialect pushes, the client's order holds."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.canonical import (
    Annotation,
    BackendRawEvent,
    Completed,
    Failed,
    GatewayEvent,
    JsonObject,
    OutputTextDelta,
    Progress,
    ReasoningDelta,
    Started,
    TokenCount,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    Usage,
    UsageStats,
)
from beluna_gateway.config.settings import Pricing
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.response_normalizer import ResponseNormalizer
from beluna_gateway.wire import strict_json
from beluna_gateway.wire.ndjson import FrameEncoder

END = Completed("stop", {})
READY = ToolCallReady(ToolCall("c", "t", "{}", {}))


class Sink:
    """An `EventSink` that remembers each write."""

    def __init__(self) -> None:
        self.batches: list[list[GatewayEvent]] = []
        self.blocked = False
        self.waits = 0

    def write(self, events: Sequence[GatewayEvent]) -> None:
        assert events, "an empty batch is not written"
        self.batches.append(list(events))

    async def drained(self) -> None:
        self.waits += 1

    @property
    def events(self) -> list[GatewayEvent]:
        return [event for batch in self.batches for event in batch]


def normalizer(
    sink: Sink, *, include_reasoning: bool = False, later: Callable[[Callable[[], None]], object] = lambda call: call()
) -> ResponseNormalizer:
    return ResponseNormalizer(sink, include_reasoning, lambda: 5.0, later)


def refusal(response: ResponseNormalizer, events: Sequence[BackendRawEvent]) -> str:
    with pytest.raises(GatewayError) as caught:
        response(events)
    assert (caught.value.kind, caught.value.retryable) == ("internal", False)
    return caught.value.message


def test_started_comes_before_everything_else():
    """It is said a moment later than it is known, and never too late."""
    calls: list[Callable[[], None]] = []
    sinks = [Sink(), Sink(), Sink()]
    responses = [normalizer(sink, later=calls.append) for sink in sinks]
    for response in responses:
        response.start("b", "m")
    assert [sink.events for sink in sinks] == [[], [], []]
    responses[0]([OutputTextDelta("x")])
    responses[1].fail(GatewayError("internal", "x"))
    for call in calls:
        call()

    assert [[type(event) for event in sink.events] for sink in sinks] == [
        [Started, OutputTextDelta],
        [Started, Failed],
        [Started],
    ]


def test_started_comes_once():
    """However many attempts begin, the client hears of the first."""
    sink = Sink()
    response = normalizer(sink)
    response.start("b", "m")
    response.start("b", "m")

    assert sink.events == [Started("b", "m")]


def test_a_batch_is_one_write():
    """What came in one read goes out in one write, in its order."""
    sink = Sink()
    events: list[BackendRawEvent] = [
        OutputTextDelta("a"),
        ToolCallDelta("c", "t", "{}"),
        READY,
        OutputTextDelta("b"),
        END,
    ]
    normalizer(sink)(events)

    assert sink.batches == [events]


def test_nothing_to_say_is_not_said():
    """Empty deltas and progress have no frame, and are no output after which an attempt could not be repeated."""
    sink = Sink()
    response = normalizer(sink)
    response([OutputTextDelta(""), ReasoningDelta("hm"), Progress()])
    response([])

    assert sink.batches == []
    assert (response.output_sent, response.first_output_at) == (False, None)


def test_reasoning_is_delivered_where_it_is_asked_for():
    """`include_reasoning` decides, and an empty piece of reasoning is never a frame."""
    sink = Sink()
    normalizer(sink, include_reasoning=True)([ReasoningDelta("hm"), ReasoningDelta("")])

    assert sink.events == [ReasoningDelta("hm")]


def test_the_first_output_is_noted():
    """From the first frame of an answer on no other attempt may follow; its time is kept."""
    response = normalizer(Sink())
    response.start("b", "m")
    assert not response.output_sent
    response([OutputTextDelta("a")])

    assert (response.output_sent, response.first_output_at) == (True, 5.0)


def test_whether_the_first_output_is_reasoning_is_noted():
    """Of what the client gets; later output changes nothing."""
    thought, said = ReasoningDelta("hm"), OutputTextDelta("a")
    cases: list[tuple[list[BackendRawEvent], bool]] = [([thought, said], True), ([said], False)]
    for first, reasoning in cases:
        response = normalizer(Sink(), include_reasoning=True)
        assert response.reasoning_first is False
        response(first)
        response([ReasoningDelta("hm")])

        assert response.reasoning_first is reasoning


def test_an_inference_is_not_answered_with_something_else():
    """The result of another operation is the dialect's mistake."""
    assert refusal(normalizer(Sink()), [TokenCount(3)]) == "the dialect answered an inference with TokenCount"


def test_usage_comes_at_most_once():
    """A second usage is the dialect's mistake, also in one batch."""
    response = normalizer(Sink())
    response([Usage(UsageStats(1, 2))])

    assert refusal(response, [Usage(UsageStats(1, 2))]) == "the dialect reported usage twice"
    assert "usage twice" in refusal(normalizer(Sink()), [Usage(UsageStats()), Usage(UsageStats())])


def test_numbers_that_no_float_holds_become_null():
    """In everything that is passed on as the provider said it: one number there must not break a client's line."""
    sink = Sink()
    response = normalizer(sink)
    raw: JsonObject = {"a": inf, "b": [1, 10**400]}
    response([Annotation("x", raw), Usage(UsageStats(1, 2, provider_usage_raw=raw)), Completed("stop", {"c": raw})])

    left: JsonObject = {"a": None, "b": [1, None]}
    assert sink.events == [
        Annotation("x", left),
        Usage(UsageStats(1, 2, provider_usage_raw=left)),
        Completed("stop", {"c": left}),
    ]
    lines = FrameEncoder("r").events(sink.events)
    assert [strict_json.parse(line)["type"] for line in lines.splitlines()] == ["annotation", "usage", "completed"]


def test_usage_gets_its_cost():
    """Where the configuration has a price the client sees the cost, and so does the telemetry."""
    sink = Sink()
    response = normalizer(sink)
    response.price = Pricing(input_per_mtok=1_000_000.0, output_per_mtok=0.0)
    response([Usage(UsageStats(3, 4))])

    assert sink.events == [Usage(UsageStats(3, 4, cost=3.0))]
    assert response.usage == UsageStats(3, 4, cost=3.0)


@pytest.mark.parametrize(
    "after", [OutputTextDelta("x"), OutputTextDelta(""), END, Usage(UsageStats()), Progress()], ids=repr
)
def test_nothing_follows_the_end(after: BackendRawEvent):
    """After `Completed` nothing may come; a batch that does so all the same is not said half."""
    sink = Sink()
    response = normalizer(sink)

    assert "after the end" in refusal(response, [END, after])
    assert (sink.batches, response.terminal) == ([], None)
    response([END])
    assert "after the end" in refusal(response, [after])
    assert sink.events == [END]


def test_a_refused_batch_still_leaves_an_end():
    """Whatever a dialect did wrong, the client's request ends."""
    sink = Sink()
    response = normalizer(sink)
    refusal(response, [END, END])
    error = GatewayError("internal", "x")
    response.fail(error)

    assert sink.events == [Failed(error)]


def test_an_answer_without_an_end_is_noticed():
    """An attempt that returned and did not say `Completed` is `internal`."""
    response = normalizer(Sink())
    with pytest.raises(GatewayError, match=r"^the dialect left its answer without an end$") as caught:
        response.assert_ended()
    assert caught.value.kind == "internal"
    response([END])
    response.assert_ended()


def test_the_first_end_stays():
    """A failure after the end says nothing more, and a second failure neither."""
    sink = Sink()
    response = normalizer(sink)
    response([END])
    response.fail(GatewayError("internal", "late"))
    assert sink.events == [END]

    other = Sink()
    response, first = normalizer(other), GatewayError("timeout", "first")
    response.fail(first)
    response.fail(GatewayError("internal", "second"))
    assert other.events == [Failed(first)]


def test_tool_calls_begin_with_a_name_and_end_once():
    """A call's first delta names it, `ready` comes once, and nothing of the call comes after it."""
    assert "without a name" in refusal(normalizer(Sink()), [ToolCallDelta("c", None, "{")])
    response = normalizer(Sink())
    response([ToolCallDelta("c", "t", ""), ToolCallDelta("c", None, "{}"), READY])

    assert "twice" in refusal(response, [READY])
    assert "after its end" in refusal(response, [ToolCallDelta("c", "t", "")])


async def test_the_brake_is_the_sinks():
    """Whether to read on, and when again, is what the client's side says."""
    sink = Sink()
    response = normalizer(sink)
    seen = []
    for blocked in (True, False):
        sink.blocked = blocked
        seen.append(response.blocked)
    await response.drained()

    assert seen == [True, False]
    assert sink.waits == 1


_events: Any = st.one_of(
    st.builds(OutputTextDelta, st.sampled_from(["", "a", "b"])),
    st.builds(ReasoningDelta, st.sampled_from(["", "r"])),
    st.builds(ToolCallDelta, st.sampled_from(["c", "d"]), st.sampled_from([None, "t"]), st.sampled_from(["", "{}"])),
    st.just(READY),
    st.just(Usage(UsageStats(1, 2))),
    st.just(Progress()),
    st.just(END),
)


@given(st.lists(st.lists(_events, max_size=4), max_size=8), st.booleans())
def test_no_dialect_can_break_the_order(batches: list[list[BackendRawEvent]], include_reasoning: bool):
    """Whatever is pushed, in whatever batches: Started first and once, usage at most once, one end, as the last."""
    sink = Sink()
    response = normalizer(sink, include_reasoning=include_reasoning)
    response.start("b", "m")
    try:
        for batch in batches:
            response(batch)
        response.assert_ended()
    except GatewayError as error:
        response.fail(error)

    kinds = [type(event) for event in sink.events]
    assert kinds[0] is Started
    assert kinds.count(Started) == 1
    assert kinds.count(Usage) <= 1
    assert kinds[-1] in (Completed, Failed)
    assert kinds.count(Completed) + kinds.count(Failed) == 1
    assert kinds.count(ToolCallReady) <= 1
    assert all(event.delta for event in sink.events if isinstance(event, OutputTextDelta | ReasoningDelta))
