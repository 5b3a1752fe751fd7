"""Run and type-checked beside the generated modules: writes frames of a client, then each answer on standard input."""

import sys

from client import (
    Cancel,
    ClientFrame,
    Embed,
    Infer,
    Json,
    JsonPart,
    JsonSchema,
    JsonSchemaMode,
    Limits,
    Message,
    Reasoning,
    SpecificTool,
    StatusQuery,
    Text,
    TextPart,
    ToolDefinition,
    ToolName,
)
from pydantic import TypeAdapter
from server import CompletedFrame, FailedFrame, OutputTextDeltaFrame, RejectedFrame, ServerFrame

question = Message(
    role="user", parts=[TextPart(text=Text(text="é")), JsonPart(json_=Json(value=[1, None, {"a": 1.5}]))]
)
schema = {"type": "object", "minProperties": 1}
frames: list[ClientFrame] = [
    Infer(type="infer", messages=[question]),
    Infer(
        type="infer",
        request_id="q1",
        messages=[question],
        tools=[ToolDefinition(name="t", input_schema=schema)],
        tool_choice=SpecificTool(specific=ToolName(name="t")),
        output_mode=JsonSchemaMode(json_schema=JsonSchema(name="n", schema_=schema)),
        limits=Limits(max_output_tokens=5),
        reasoning=Reasoning(effort="high"),
        provider_options={"nested": {"any": [1, "x"]}},
    ),
    Embed(type="embed", inputs=["a cat"]),
    Cancel(type="cancel", request_id="q1"),
    StatusQuery(type="status"),
]
for frame in frames:
    print(frame.model_dump_json(by_alias=True, exclude_unset=True))
print("--")

answers: TypeAdapter[ServerFrame] = TypeAdapter(ServerFrame)


def shown(answer: ServerFrame) -> str:
    """A type checker knows each case."""
    if isinstance(answer, OutputTextDeltaFrame):
        return answer.delta
    if isinstance(answer, CompletedFrame):
        return answer.finish_reason if isinstance(answer.finish_reason, str) else answer.finish_reason.other
    if isinstance(answer, FailedFrame | RejectedFrame):
        return f"{answer.error.kind}: {answer.error.message}"
    return answer.type


for line in sys.stdin:
    answer = answers.validate_json(line)
    assert shown(answer)
    print(answer.model_dump_json(by_alias=True, exclude_unset=True))
