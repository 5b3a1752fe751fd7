"""`verify`: nothing is ready and nothing is completed before it is proven to satisfy its schema."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.canonical import (
    Completed,
    OtherFinishReason,
    OutputTextDelta,
    Started,
    ToolCall,
    ToolCallDelta,
    ToolCallReady,
    Usage,
    UsageStats,
)

from .fakes.adapter import END, stage, transient

STARTED = Started("b", "m")
NUMBER = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
MODE = {"json_schema": {"name": "number", "schema": NUMBER, "verify": True}}
SPENT = Usage(UsageStats(1, 2))
CALLS = Completed("tool_calls", {})


def tool(name: str, **fields: Any) -> dict[str, Any]:
    return {"name": name, "input_schema": NUMBER, **fields}


def ready(call_id: str, name: str, n: Any) -> list[Any]:
    text = f'{{"n":{n}}}'
    call = ToolCall(call_id, name, text, {"n": n})
    return [ToolCallDelta(call_id, name, text), ToolCallReady(call)]


async def test_a_text_that_satisfies_its_schema_is_completed():
    """The deltas come as ever, then the end."""
    async with stage([OutputTextDelta('{"n"'), OutputTextDelta(":1}"), SPENT, END]) as played:
        assert await played.ask(output_mode=MODE) == [
            STARTED, OutputTextDelta('{"n"'), OutputTextDelta(":1}"), SPENT, END
        ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ('{"n":"1"}', "verify: the answer did not satisfy the schema: $.n: '1' is not of type 'integer'"),
        ("", "not JSON"),
        ('```json\n{"n":1}\n```', "not JSON"),
    ],
)
async def test_a_text_that_does_not_is_failed(text: str, why: str):
    """`protocol_violation` names the path; usage is told, for it is spent; the backend is not asked again."""
    async with stage([OutputTextDelta(text), SPENT, END]) as played:
        before, error = await played.failure(output_mode=MODE)

        assert before[-1] == SPENT
        assert (error.kind, error.retryable, played.adapter.begun) == ("protocol_violation", False, 1)
        assert why in error.message


async def test_without_verify_nothing_is_judged():
    """A schema alone is the provider's affair."""
    mode = {"json_schema": {"name": "number", "schema": NUMBER}}
    async with stage([OutputTextDelta("no JSON"), END]) as played:
        assert (await played.ask(output_mode=mode))[-1] == END


@pytest.mark.parametrize("reason", ["length", OtherFinishReason("content_filter"), OtherFinishReason("refusal")])
async def test_an_answer_that_was_cut_is_not_judged(reason: Any):
    """Its finish reason says already that it is not whole."""
    end = Completed(reason, {})
    async with stage([OutputTextDelta('{"n"'), end]) as played:
        assert (await played.ask(output_mode=MODE))[-1] == end


async def test_text_beside_calls_is_not_the_answer():
    """A model that calls tools has not answered yet."""
    async with stage([OutputTextDelta("Let me see."), *ready("c", "f", 1), CALLS]) as played:
        assert (await played.ask(output_mode=MODE, tools=[tool("f")]))[-1] == CALLS


async def test_calls_that_satisfy_their_schemas_are_ready():
    """They become ready at the end, in their order, and the deltas come as ever."""
    first, second = ready("1", "f", 1), ready("2", "g", 2)
    async with stage([*first, *second, SPENT, CALLS]) as played:
        assert await played.ask(tools=[tool("f", verify=True), tool("g")]) == [
            STARTED, first[0], second[0], first[1], second[1], SPENT, CALLS
        ]  # fmt: skip


async def test_one_wrong_call_and_none_is_ready():
    """Not even those before it: an answer is acted upon as a whole or not at all."""
    first, second = ready("1", "g", 1), ready("2", "f", '"no number"')
    async with stage([*first, *second, SPENT, CALLS]) as played:
        before, error = await played.failure(tools=[tool("f", verify=True), tool("g")])

        assert before == [STARTED, first[0], second[0], SPENT]
        assert "the arguments of the call of 'f' did not satisfy the schema: $.n: 'no number'" in error.message


async def test_a_held_call_is_no_output():
    """An attempt that breaks after a call that nobody has seen may be followed by another one."""
    _, is_ready = ready("1", "f", 1)
    async with stage([is_ready, transient()], [is_ready, CALLS]) as played:
        assert await played.ask(tools=[tool("f", verify=True)]) == [STARTED, is_ready, CALLS]


async def test_a_schema_that_takes_long_is_judged_elsewhere():
    """A pattern is judged by another process, with the same verdict."""
    schema = {"properties": {"n": {"pattern": "^a+$"}}}
    mode = {"json_schema": {"name": "letters", "schema": schema, "verify": True}}
    async with stage([OutputTextDelta('{"n":"aaa"}'), END], [OutputTextDelta('{"n":"b"}'), END]) as played:
        assert (await played.ask(output_mode=mode))[-1] == END
        _, error = await played.failure(output_mode=mode)

        assert "$.n: 'b' does not match" in error.message


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "https://example.org/s"}, "leads out of the schema"),
        ({"description": "x" * 300_000}, "longer than 262144 bytes"),
    ],
)
async def test_a_schema_that_cannot_be_judged_by_is_refused_before_the_backend_is_asked(schema: Any, why: str):
    """`invalid_request`, naming the field."""
    async with stage() as played:
        _, error = await played.failure(tools=[{"name": "f", "input_schema": schema, "verify": True}])

        assert (error.kind, played.adapter.begun) == ("invalid_request", 0)
        assert "tools[0].input_schema" in error.message
        assert why in error.message


async def test_a_text_that_is_too_long_to_be_kept_is_failed():
    """What is kept for the verdict is bounded by `max_event_bytes`."""
    half = OutputTextDelta("x" * 600)
    async with stage([half, half, END], reliability={"max_event_bytes": 1000}) as played:
        _, error = await played.failure(output_mode=MODE)

        assert (error.kind, "reliability.max_event_bytes" in error.message) == ("protocol_violation", True)
