"""What each provider refuses of a request's messages, one function a provider, each rule with its source.

The SDKs' types (`oracles.py`) say what a body looks like; here is what no type says: order, pairing, ids, emptiness.
Each function gives the rules that a body breaks, in words; nothing for a body that the provider takes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

Body = dict[str, Any]


NAME = re.compile(r"[a-zA-Z0-9_-]{1,64}")


def anthropic(body: Body) -> Iterator[str]:
    """The Messages API.

    Sources: the guides "Handle tool calls" and "Extended thinking"; the API's own refusals, quoted beside the rules
    (HTTP 400, `invalid_request_error`).
    """
    messages = body["messages"]
    if any(not block["text"].strip() for block in body.get("system", [])):
        yield "system: text content blocks must be non-empty"
    if not messages:
        yield "messages: at least one message is required"
    for index, message in enumerate(messages):
        blocks = message["content"]
        if index and message["role"] == messages[index - 1]["role"]:
            yield "neighbouring messages of one role (results of parallel calls must be in one message)"
        if not blocks:
            yield "all messages must have non-empty content except for the optional final assistant message"
        if any(block["type"] == "text" and not block["text"].strip() for block in blocks):
            yield "text content blocks must contain non-whitespace text"
        if message["role"] == "assistant" and blocks and blocks[-1]["type"] in ("thinking", "redacted_thinking"):
            yield "The final block in an assistant message cannot be `thinking`"
    yield from _anthropic_calls(messages)
    sent = [*body.get("system", []), *(block for message in messages for block in message["content"])]
    marked = [block["type"] for block in sent if "cache_control" in block]
    if len(marked) + ("cache_control" in body) > 4:
        yield "A maximum of 4 blocks with cache_control may be provided"
    if {"thinking", "redacted_thinking"}.intersection(marked):
        yield "cache_control cannot be set for thinking blocks"
    final = messages[-1]["content"][-1] if messages and messages[-1]["content"] else {}
    if messages and messages[-1]["role"] == "assistant" and re.search(r"\s$", final.get("text", "")):
        yield "final assistant content cannot end with trailing whitespace"


def _anthropic_calls(messages: list[Any]) -> Iterator[str]:
    seen: set[str] = set()
    waiting: list[str] = []
    for message in messages:
        blocks = message["content"]
        results = [block["tool_use_id"] for block in blocks if block["type"] == "tool_result"]
        if results != [block.get("tool_use_id") for block in blocks[: len(results)]]:
            yield "tool_result blocks must come first in the content array"
        failed = [block for block in blocks if block["type"] == "tool_result" and block.get("is_error")]
        if any(
            not isinstance(block["content"], str) and {inner["type"] for inner in block["content"]} != {"text"}
            for block in failed
        ):
            yield "all content must be type `text` if `is_error` is true"
        if sorted(results) != sorted(waiting):
            yield "each `tool_use` block must have one corresponding `tool_result` block in the next message"
        waiting = [block["id"] for block in blocks if block["type"] == "tool_use"]
        if seen.intersection(waiting) or len(set(waiting)) < len(waiting):
            yield "`tool_use` ids must be unique"
        seen.update(waiting)
    called = [block for message in messages for block in message["content"] if block["type"] == "tool_use"]
    if any(not NAME.fullmatch(block["name"]) for block in called):
        yield "tool_use.name: String should match pattern '^[a-zA-Z0-9_-]{1,64}$'"
    if any(not re.fullmatch(r"[a-zA-Z0-9_-]+", call_id) for call_id in seen):
        yield "tool_use.id: String should match pattern '^[a-zA-Z0-9_-]+$'"
    if waiting:
        yield "`tool_use` ids were found without `tool_result` blocks immediately after"


def gemini(body: Body, *, signatures: bool = False) -> Iterator[str]:
    """`generateContent`.

    Sources: the guides "Function calling" and "Thought signatures"; the API's own refusals, quoted beside the rules
    (HTTP 400, `INVALID_ARGUMENT`).

    Args:
        body: The request.
        signatures: The model is one of Gemini 3 or later.
    """
    if any(not part["text"] for part in body.get("systemInstruction", {"parts": []})["parts"]):
        yield "systemInstruction: a part without data"
    if not body["contents"]:
        yield "contents are required"
    seen: set[str] = set()
    calls: list[Any] = []
    for index, content in enumerate(body["contents"]):
        parts = content["parts"]
        if index and content["role"] == body["contents"][index - 1]["role"]:
            yield "neighbouring contents of one role"
        if not parts:
            yield "must include at least one parts field"
        if any(part == {"text": ""} for part in parts):
            yield "Unable to submit request because it must have a text parameter"
        responses = [part["functionResponse"] for part in parts if "functionResponse" in part]
        if Counter((r.get("id"), r["name"]) for r in responses) != Counter((c.get("id"), c["name"]) for c in calls):
            yield (
                "the number of function response parts is equal to the number of function call parts of the function "
                "call turn"
            )
        signed = [part for part in parts if "functionCall" in part]
        calls = [part["functionCall"] for part in signed]
        ids = [call["id"] for call in calls if "id" in call]
        if seen.intersection(ids) or len(set(ids)) < len(ids):
            yield "ids of calls are unique"
        seen.update(ids)
        if signatures and signed and not signed[0].get("thoughtSignature"):
            yield "Function call is missing a thought_signature in functionCall parts"
    if calls:
        yield "a function call turn comes immediately before its function response turn"


def openai_responses(body: Body) -> Iterator[str]:
    """The Responses API.

    Sources: the guides "Reasoning models" and "Function calling"; the API's own refusals, quoted beside the rules
    (HTTP 400, `invalid_request_error`).
    """
    calls: Counter[str] = Counter()
    outputs: Counter[str] = Counter()
    yield from _reasoning_and_its_items(body["input"])
    yield from _schemas_of_arguments(body)
    for item in body["input"]:
        kind = item["type"]
        if len(item.get("id", "")) > 64 or len(item.get("call_id", "")) > 64:
            yield "string too long. Expected a string with maximum length 64"
        content = item.get("content") or [] if kind == "message" else ["not a message"]
        if not content or any(part in ({"type": "input_text", "text": ""}, "") for part in content):
            yield "content: empty text"
        if kind == "function_call":
            calls[item["call_id"]] += 1
            if not NAME.fullmatch(item["name"]):
                yield "name: Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'"
        elif kind == "function_call_output":
            outputs[item["call_id"]] += 1
            if outputs[item["call_id"]] > calls[item["call_id"]]:
                yield "No tool call found for function call output"
    ids = Counter(item["id"] for item in body["input"] if "id" in item and item["type"] == "reasoning")
    if any(count > 1 for count in ids.values()):
        yield "Duplicate item found with id"
    if any(count > 1 for count in outputs.values()):
        yield "Duplicate function_call_output for call_id"
    if calls != outputs:
        yield "No tool output found for function call"
    if all(item.get("role") == "system" for item in body["input"]):
        yield "nothing to answer"


def _schemas_of_arguments(body: Body) -> Iterator[str]:
    for tool in body.get("tools", ()):
        if not {"type", "properties"} <= tool["parameters"].keys():
            yield f"Invalid schema for function '{tool['name']}': In context=(), object schema missing properties"


def _reasoning_and_its_items(items: list[Any]) -> Iterator[str]:
    reasoned = unfollowed = False  # since the last item that was the client's
    for item in [*items, {"type": "message", "role": "user"}]:
        if item["type"] == "reasoning":
            reasoned = unfollowed = "id" in item
            continue
        clients = item["type"] == "function_call_output" or item.get("role") in ("user", "system")
        if clients and unfollowed:
            yield "Item of type 'reasoning' was provided without its required following item"
        if not clients and "id" in item and item["type"] in ("message", "function_call") and not reasoned:
            yield "Item was provided without its required 'reasoning' item"
        reasoned, unfollowed = reasoned and not clients, False


def openai_compatible(body: Body) -> Iterator[str]:
    """Chat Completions, as OpenAI is strict about it.

    Sources: the API reference, "Create chat completion", and the API's own refusals, quoted beside the rules (HTTP 400,
    `invalid_request_error`); DeepSeek's guide "Thinking mode" for `reasoning_content`.
    """
    waiting: Counter[str] = Counter()
    called = False  # since the user's last message
    for message in body["messages"]:
        if message["role"] == "tool":
            if not waiting[message["tool_call_id"]]:
                yield "messages with role 'tool' must be a response to a preceeding message with 'tool_calls'"
            waiting[message["tool_call_id"]] -= 1
            continue
        if any(waiting.values()):
            yield (
                "An assistant message with 'tool_calls' must be followed by tool messages responding to each "
                "'tool_call_id'"
            )
        waiting = Counter(call["id"] for call in message.get("tool_calls", ()))
        if any(not NAME.fullmatch(call["function"]["name"]) for call in message.get("tool_calls", ())):
            yield "function.name: Expected a string that matches the pattern '^[a-zA-Z0-9_-]+$'"
        if any(len(call_id) > 40 for call_id in waiting):
            yield "tool_calls[0].id: string too long. Expected a string with maximum length 40"
        if any(count > 1 for count in waiting.values()):
            yield "Duplicate value for 'tool_call_id'"
        called = bool(waiting) or (called and message["role"] != "user")
        if "reasoning_content" in message and not (called or "tools" in body):
            yield "reasoning_content goes back in turns with calls only"
        if message["content"] is None and not waiting:
            yield "expected a string, got null"
    if any(waiting.values()):
        yield "An assistant message with 'tool_calls' must be followed by tool messages"


def ollama(body: Body) -> Iterator[str]:
    """`/api/chat`, which takes messages in any order.

    Source: `api/types.go` (`Message`, `ToolCallFunctionArguments`), which an answer of HTTP 400 quotes: "json: cannot
    unmarshal string into Go struct field …".
    """
    for message in body["messages"]:
        if not isinstance(message["content"], str):
            yield "cannot unmarshal into Go struct field content of type string"
        for call in message.get("tool_calls", ()):
            if not isinstance(call["function"]["arguments"], dict):
                yield "cannot unmarshal into Go struct field arguments"


RULES: dict[str, Callable[[Body], Iterator[str]]] = {
    "anthropic": anthropic,
    "gemini": gemini,
    "openai_responses": openai_responses,
    "openai_compatible": openai_compatible,
    "ollama": ollama,
}
