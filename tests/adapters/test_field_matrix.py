"""Each optional field of the protocol at each kind of backend: its place in the body, its refusal, what comes back.

The two tables, `ROWS` and `ANSWERED`, are complete: a field of the frames without a row, or a backend without a cell,
fails here. docs/providers.md tells the same in words, and is compared with them.
"""

from __future__ import annotations

import json
import re
from collections import defaultdict
from dataclasses import replace
from itertools import dropwhile, takewhile
from pathlib import Path
from typing import Any

import pytest

from beluna_gateway.adapters.copilot.turns import TurnDecoder
from beluna_gateway.adapters.operations.token_counts import TOKEN_COUNTS
from beluna_gateway.canonical import BackendRawEvent, ResolvedCredential
from beluna_gateway.config.settings import DIALECTS, HTTP_DIALECTS
from beluna_gateway.errors import GatewayError
from beluna_gateway.pipeline.request_normalizer import RequestNormalizer
from beluna_gateway.wire import frames, server_frames

from .field_matrix import (
    COLUMNS,
    GONE,
    NOTHING,
    PLAIN,
    USER,
    Cell,
    Row,
    adapter,
    cells_of,
    leaves,
    outcome,
    says,
    text,
)
from .full_answers import FULL
from .oracles import ORACLES
from .recorded import canonical, decode_whole, dialect, wire_events

PAGE = Path(__file__).resolve().parents[2] / "docs" / "providers.md"

PDF = "JVBERi0xLjc="
DATA_URL = f"data:application/pdf;base64,{PDF}"
CALL = {"id": "c", "name": "f", "arguments_json": '{"a":1}'}
ASKS = says("assistant", text("Sure"), tool_calls=[CALL])
TOOL: dict[str, Any] = {"name": "f", "input_schema": {"type": "object"}}
SCHEMA: dict[str, Any] = {"name": "s", "schema": {"type": "object"}}
PNG = {"image_url": {"url": "data:image/png;base64,aGk="}}
LINKED = {"image_url": {"url": "https://h/i.png"}}
HI_CHAT, HI_RESPONSES, HI_CLAUDE = {"type": "text", "text": "Hi"}, {"type": "input_text", "text": "Hi"}, {"text": "Hi"}

EVERYWHERE = tuple(name for name, column in COLUMNS.items() if column.like is None)
COPILOT = ("cli", "language_server")


def result(*parts: Any, **fields: Any) -> dict[str, Any]:
    return says("tool", *parts, tool_call_id="c", tool_name="f", **fields)


def history(*parts: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": [USER, ASKS, result(*parts, **fields)]}


def asked(*parts: Any) -> dict[str, Any]:
    return {"messages": [says("user", text("Hi"), *parts)]}


def file(**fields: Any) -> dict[str, Any]:
    return {"file": {"mime_type": "application/pdf", **fields}}


def to(columns: tuple[str, ...], cell: Cell) -> dict[str, Cell]:
    return dict.fromkeys(columns, cell)


# --- requests ------------------------------------------------------------------------------------------------

TOOLS = {"tools": [TOOL]}
EMPTY_OBJECT = {"type": "object", "properties": {}}  # as OpenAI wants it written
NO_TOOLS = to(("language_server",), "tools")
RESULT = history(text("ok"))
NO_CALLS = to(("language_server",), "messages[1].tool_calls")
NO_IMAGE = to(COPILOT, "messages[0].parts[1].image_url")
NO_FILE = to(("ollama", *COPILOT), "messages[0].parts[1].file")
BUDGETS = {"minimal": 1024, "low": 2048, "medium": 8192, "high": 16384, "xhigh": 24576, "max": 32000}


def effort(word: str) -> Row:
    claude = {"thinking": {"type": "adaptive"}, "output_config": {"effort": word}}
    level = {"generationConfig": {"thinkingConfig": {"thinkingLevel": word.upper()}}}
    return Row(
        f"reasoning.effort={word}",
        {"reasoning": {"effort": word}},
        {
            "chat": "reasoning.effort",
            "chat_openai": {"reasoning_effort": word},
            "responses": {"reasoning": {"effort": word}, "include": ["reasoning.encrypted_content"]},
            "claude": "reasoning.effort" if word == "minimal" else claude,
            "claude_45": {"thinking": {"type": "enabled", "budget_tokens": BUDGETS[word]}},
            "gemini": "reasoning.effort" if word == "max" else level,
            "gemini_25": {"generationConfig": {"thinkingConfig": {"thinkingBudget": BUDGETS[word]}}},
            "ollama": "reasoning.effort" if word in ("minimal", "xhigh") else {"think": word},
            **to(COPILOT, "reasoning"),
        },
        "`reasoning.effort`",
    )


def option(column: str, options: dict[str, Any], sent: dict[str, Any]) -> Row:
    page = "`provider_options`"
    return Row("provider_options", {"provider_options": options}, {column: sent}, page)


def own(leaf: str, fields: dict[str, Any], plain: dict[str, Any] | None = None, *, calls: bool = False) -> Row:
    """A field of the gateway's own, of which no backend hears."""
    cells = to(EVERYWHERE, NOTHING) | (NO_TOOLS if calls else {})
    return Row(leaf, fields, cells, None if calls else "the gateway's own fields", plain or {})


ROWS = [
    # which backend, which model, which way
    own("request_id", {"request_id": "r"}),
    own("backend_id", {"backend_id": "b"}),
    *[
        own(leaf, {"route": {"kind": kind, "capability": "chat", name: "a"}})
        for kind, name in (("alias", "alias"), ("key", "binding_id"))
        for leaf in (f"route.kind={kind}", "route.capability=chat", f"route.{name}")
    ],
    own("metadata", {"metadata": {"session": "42"}}),
    own("limits.max_request_time_ms", {"limits": {"max_request_time_ms": 5}}),
    own("tools.verify=true", {"tools": [{**TOOL, "verify": True}]}, TOOLS, calls=True),
    own("tools.verify=false", {"tools": [{**TOOL, "verify": False}]}, TOOLS, calls=True),
    Row(
        "model",
        {"model": "other"},
        {
            **to(("chat", "responses", "claude", "ollama", "cli"), {"model": "other"}),
            "gemini": {"POST": "/v1beta/models/other:streamGenerateContent?alt=sse"},
            "language_server": "model",
        },
        "`model`",
    ),
    own("stream=true", {"stream": True}),
    Row(
        "stream=false",
        {"stream": False},
        {
            "chat": {"stream": False, "stream_options": GONE},
            **to(("responses", "claude", "ollama"), {"stream": False}),
            "gemini": {"POST": "/v1beta/models/gemini-3-pro:generateContent"},
            "gemini_25": {"POST": "/v1beta/models/gemini-2.5-pro:generateContent"},
            **to(COPILOT, NOTHING),
        },
        "`stream: false`",
    ),
    # messages
    Row(
        "messages.role=system",
        {"messages": [says("system", text("Be"), text("brief")), USER]},
        {
            "chat": {"messages": [{"role": "system", "content": "Be\n\nbrief"}, {"role": "user", "content": "Hi"}]},
            "chat_openai": {
                "messages": [
                    {"role": "system", "content": [{"type": "text", "text": word} for word in ("Be", "brief")]},
                    {"role": "user", "content": "Hi"},
                ]
            },
            "responses": {
                "input": [
                    {
                        "type": "message",
                        "role": "system",
                        "content": [{"type": "input_text", "text": word} for word in ("Be", "brief")],
                    },
                    {"type": "message", "role": "user", "content": "Hi"},
                ]
            },
            "claude": {"system": [{"type": "text", "text": word} for word in ("Be", "brief")]},
            "gemini": {"systemInstruction": {"parts": [{"text": "Be"}, {"text": "brief"}]}},
            "ollama": {"messages": [{"role": "system", "content": "Be\nbrief"}, {"role": "user", "content": "Hi"}]},
            "cli": {"system": "Be\nbrief"},
            "language_server": {"document": "System: Be\nbrief\n\nUser: Hi\n\nAssistant:"},
        },
        "system messages",
    ),
    Row(
        "messages.role=system",
        {"messages": [USER, says("system", text("Be"))]},
        {
            "chat": {"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be"}]},
            "responses": {
                "input": [
                    {"type": "message", "role": "user", "content": "Hi"},
                    {"type": "message", "role": "system", "content": "Be"},
                ]
            },
            "claude": {"system": [{"type": "text", "text": "Be"}]},
            "gemini": {"systemInstruction": {"parts": [{"text": "Be"}]}},
            "ollama": {"messages": [{"role": "user", "content": "Hi"}, {"role": "system", "content": "Be"}]},
            "cli": "messages[1]",
            "language_server": {"document": "User: Hi\n\nSystem: Be\n\nAssistant:"},
        },
        "system messages after others",
    ),
    Row(
        "messages.role=assistant",
        {"messages": [USER, says("assistant", text("Yes")), USER]},
        {
            **to(
                ("chat", "ollama"),
                {
                    "messages": [
                        {"role": "user", "content": "Hi"},
                        {"role": "assistant", "content": "Yes"},
                        {"role": "user", "content": "Hi"},
                    ]
                },
            ),
            "responses": {
                "input": [
                    {"type": "message", "role": "user", "content": "Hi"},
                    {"type": "message", "role": "assistant", "content": "Yes"},
                    {"type": "message", "role": "user", "content": "Hi"},
                ]
            },
            "claude": {
                "messages": [
                    {"role": role, "content": [{"type": "text", "text": said}]}
                    for role, said in (("user", "Hi"), ("assistant", "Yes"), ("user", "Hi"))
                ]
            },
            "gemini": {
                "contents": [
                    {"role": role, "parts": [{"text": said}]}
                    for role, said in (("user", "Hi"), ("model", "Yes"), ("user", "Hi"))
                ]
            },
            "cli": {
                "events": [
                    {"type": "user.message", "content": "Hi", "transformedContent": "Hi"},
                    {"type": "assistant.message", "content": "Yes", "toolRequests": []},
                    {"type": "user.message", "content": "Hi", "transformedContent": "Hi"},
                ]
            },
            "language_server": {"document": "User: Hi\n\nAssistant: Yes\n\nUser: Hi\n\nAssistant:"},
        },
        "turns of user and assistant",
    ),
    *[
        Row(
            leaf,
            asked(part),
            {
                "chat": {"messages.0.content": f"Hi\n\n{said}"},
                "chat_openai": {"messages.0.content": [HI_CHAT, {"type": "text", "text": said}]},
                "responses": {"input.0.content": [HI_RESPONSES, {"type": "input_text", "text": said}]},
                "claude": {"messages.0.content": [HI_CHAT, {"type": "text", "text": said}]},
                "gemini": {"contents.0.parts": [{"text": "Hi"}, {"text": said}]},
                "ollama": {"messages.0.content": f"Hi\n{said}"},
                "cli": {"events.0.content": f"Hi\n{said}", "events.0.transformedContent": f"Hi\n{said}"},
                "language_server": {"document": f"Hi\n{said}"},
            },
            page,
        )
        for leaf, part, said, page in (
            ("messages.role=user", text("Ho"), "Ho", "text of several parts"),
            ("messages.parts.text.text", text("Ho"), "Ho", "text of several parts"),
            ("messages.parts.json.value", {"json": {"value": {"a": 1}}}, '{"a":1}', "`json` parts"),
        )
    ],
    # images and files
    Row(
        "messages.parts.image_url.url",
        asked(PNG),
        {
            "chat": {"messages.0.content": [HI_CHAT, {"type": "image_url", "image_url": PNG["image_url"]}]},
            "responses": {
                "input.0.content": [
                    HI_RESPONSES,
                    {"type": "input_image", "image_url": PNG["image_url"]["url"], "detail": "auto"},
                ]
            },
            "claude": {
                "messages.0.content": [
                    HI_CHAT,
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                ]
            },
            "gemini": {"contents.0.parts": [HI_CLAUDE, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}]},
            "ollama": {"messages.0.images": ["aGk="]},
            **NO_IMAGE,
        },
        "images of users",
    ),
    Row(
        "messages.parts.image_url.url",
        asked(LINKED),
        {
            "chat": {"messages.0.content": [HI_CHAT, {"type": "image_url", "image_url": LINKED["image_url"]}]},
            "responses": {
                "input.0.content": [
                    HI_RESPONSES,
                    {"type": "input_image", "image_url": "https://h/i.png", "detail": "auto"},
                ]
            },
            "claude": {
                "messages.0.content": [HI_CHAT, {"type": "image", "source": {"type": "url", "url": "https://h/i.png"}}]
            },
            "gemini": {
                "contents.0.parts": [
                    {"text": "Hi"},
                    {"fileData": {"fileUri": "https://h/i.png", "mimeType": "image/png"}},
                ]
            },
            "ollama": "messages[0].parts[1].image_url.url",
            **NO_IMAGE,
        },
    ),
    Row(
        "messages.parts.image_url.mime_type",
        asked({"image_url": {"url": "https://h/i", "mime_type": "image/webp"}}),
        {
            # The server of the URL says it.
            **to(("chat", "responses", "claude"), NOTHING),
            "gemini": {"contents.0.parts.1.fileData.mimeType": "image/webp"},
            "ollama": "messages[0].parts[1].image_url.url",
            **NO_IMAGE,
        },
        "`mime_type` of an image by its URL",
        plain=asked({"image_url": {"url": "https://h/i"}}),
    ),
    Row(
        "messages.parts.image_url.url",
        {"messages": [says("system", PNG), USER]},
        {
            **to(
                ("chat", "responses", "claude", "gemini", *COPILOT),
                "messages[0].parts[0].image_url",
            ),
            "ollama": {
                "messages": [
                    {"role": "system", "content": "", "images": ["aGk="]},
                    {"role": "user", "content": "Hi"},
                ]
            },
        },
        "images in system messages",
    ),
    Row(
        "messages.parts.image_url.url",
        {"messages": [USER, says("assistant", text("Yes"), PNG)]},
        {
            **to(("chat", "responses", "claude", *COPILOT), "messages[1].parts[1].image_url"),
            "gemini": {
                "contents": [
                    {"role": "user", "parts": [{"text": "Hi"}]},
                    {
                        "role": "model",
                        "parts": [{"text": "Yes"}, {"inlineData": {"mimeType": "image/png", "data": "aGk="}}],
                    },
                ]
            },
            "ollama": {
                "messages": [
                    {"role": "user", "content": "Hi"},
                    {"role": "assistant", "content": "Yes", "images": ["aGk="]},
                ]
            },
        },
        "images in assistant messages",
    ),
    *[
        Row(
            leaf,
            asked(file(data=PDF)),
            {
                "chat": {
                    "messages.0.content": [
                        HI_CHAT,
                        {"type": "file", "file": {"filename": "file.pdf", "file_data": DATA_URL}},
                    ]
                },
                "responses": {
                    "input.0.content": [
                        HI_RESPONSES,
                        {"type": "input_file", "filename": "file.pdf", "file_data": DATA_URL},
                    ]
                },
                "claude": {
                    "messages.0.content": [
                        HI_CHAT,
                        {
                            "type": "document",
                            "source": {"type": "base64", "media_type": "application/pdf", "data": PDF},
                        },
                    ]
                },
                "gemini": {
                    "contents.0.parts": [{"text": "Hi"}, {"inlineData": {"mimeType": "application/pdf", "data": PDF}}]
                },
                **NO_FILE,
            },
            "files of users, by their data",
        )
        for leaf in ("messages.parts.file.data", "messages.parts.file.mime_type")
    ],
    Row(
        "messages.parts.file.url",
        asked(file(url="https://h/a.pdf")),
        {
            "chat": "messages[0].parts[1].file.url",
            "responses": {
                "input.0.content": [HI_RESPONSES, {"type": "input_file", "file_url": "https://h/a.pdf"}],
            },
            "claude": {
                "messages.0.content": [
                    HI_CHAT,
                    {"type": "document", "source": {"type": "url", "url": "https://h/a.pdf"}},
                ]
            },
            "gemini": {
                "contents.0.parts": [
                    {"text": "Hi"},
                    {"fileData": {"fileUri": "https://h/a.pdf", "mimeType": "application/pdf"}},
                ]
            },
            **NO_FILE,
        },
        "files of users, by a URL",
    ),
    Row(
        "messages.parts.file.name",
        asked(file(data=PDF, name="a.pdf")),
        {
            "chat": {"messages.0.content.1.file.filename": "a.pdf"},
            "responses": {"input.0.content.1.filename": "a.pdf"},
            "claude": {"messages.0.content.1.title": "a.pdf"},
            "gemini": NOTHING,
            **NO_FILE,
        },
        "`name` of a file",
        plain=asked(file(data=PDF)),
    ),
    # calls and results
    *[
        Row(
            leaf,
            RESULT,
            {
                "chat": {
                    "messages": [
                        {"role": "user", "content": "Hi"},
                        {
                            "role": "assistant",
                            "content": "Sure",
                            "tool_calls": [
                                {"id": "c", "type": "function", "function": {"name": "f", "arguments": '{"a":1}'}}
                            ],
                        },
                        {"role": "tool", "tool_call_id": "c", "content": "ok"},
                    ]
                },
                "responses": {
                    "input": [
                        {"type": "message", "role": "user", "content": "Hi"},
                        {"type": "message", "role": "assistant", "content": "Sure"},
                        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'},
                        {"type": "function_call_output", "call_id": "c", "output": "ok"},
                    ]
                },
                "claude": {
                    "messages": [
                        {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
                        {
                            "role": "assistant",
                            "content": [
                                {"type": "text", "text": "Sure"},
                                {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
                            ],
                        },
                        {
                            "role": "user",
                            "content": [{"type": "tool_result", "tool_use_id": "c", "content": "ok"}],
                        },
                    ]
                },
                **{
                    name: {
                        "contents": [
                            {"role": "user", "parts": [{"text": "Hi"}]},
                            {
                                "role": "model",
                                "parts": [
                                    {"text": "Sure"},
                                    {"functionCall": {"name": "f", "args": {"a": 1}, "id": "c"}, **signature},
                                ],
                            },
                            {
                                "role": "user",
                                "parts": [{"functionResponse": {"id": "c", "name": "f", "response": {"output": "ok"}}}],
                            },
                        ]
                    }
                    for name, signature in (
                        ("gemini", {"thoughtSignature": "skip_thought_signature_validator"}),
                        ("gemini_25", {}),
                    )
                },
                "ollama": {
                    "messages": [
                        {"role": "user", "content": "Hi"},
                        {
                            "role": "assistant",
                            "content": "Sure",
                            "tool_calls": [{"id": "c", "function": {"index": 0, "name": "f", "arguments": {"a": 1}}}],
                        },
                        {"role": "tool", "content": "ok", "tool_name": "f", "tool_call_id": "c"},
                    ]
                },
                "cli": {
                    "events": [
                        {"type": "user.message", "content": "Hi", "transformedContent": "Hi"},
                        {
                            "type": "assistant.message",
                            "content": "Sure",
                            "toolRequests": [
                                {"toolCallId": "c", "name": "f", "arguments": {"a": 1}, "type": "function"}
                            ],
                        },
                        {
                            "type": "tool.execution_complete",
                            "toolCallId": "c",
                            "success": True,
                            "result": {"content": "ok"},
                        },
                    ]
                },
                **NO_CALLS,
            },
            "tool calls and results",
        )
        for leaf in (
            *("messages.role=tool", "messages.tool_call_id", "messages.tool_name"),
            *("messages.tool_calls.id", "messages.tool_calls.name", "messages.tool_calls.arguments_json"),
        )
    ],
    Row(
        "messages.tool_calls.status=ready",
        {
            "messages": [
                USER,
                says("assistant", text("Sure"), tool_calls=[{**CALL, "status": "ready"}]),
                RESULT["messages"][2],
            ]
        },
        to(EVERYWHERE, NOTHING) | NO_CALLS,
        plain=RESULT,
    ),
    Row(
        "messages.parts.image_url.url",
        history(text("ok"), PNG),
        {
            **to(("chat", "ollama", "cli"), "messages[2].parts[1].image_url"),
            "responses": {
                "input.3.output": [
                    {"type": "input_text", "text": "ok"},
                    {"type": "input_image", "image_url": PNG["image_url"]["url"], "detail": "auto"},
                ]
            },
            "claude": {
                "messages.2.content.0.content": [
                    {"type": "text", "text": "ok"},
                    {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": "aGk="}},
                ]
            },
            "gemini": {
                "contents.2.parts.0.functionResponse.parts": [
                    {"inlineData": {"mimeType": "image/png", "data": "aGk="}},
                ]
            },
            **NO_CALLS,
        },
        "images and files in tool results",
        plain=RESULT,
    ),
    Row(
        "messages.is_error=true",
        history(text("ok"), is_error=True),
        {
            **to(("chat", "responses", "ollama", "cli"), NOTHING),
            "claude": {"messages.2.content.0.is_error": True},
            "gemini": {
                "contents.2.parts.0.functionResponse.response.output": GONE,
                "contents.2.parts.0.functionResponse.response.error": "ok",
            },
            **NO_CALLS,
        },
        "`is_error` of a result",
        plain=RESULT,
    ),
    Row(
        "messages.is_error=false",
        history(text("ok"), is_error=False),
        to(EVERYWHERE, NOTHING) | NO_CALLS,
        plain=RESULT,
    ),
    Row(
        "messages.provider_state",
        {
            "messages": [
                USER,
                says(
                    "assistant",
                    text("Yes"),
                    provider_state={"anthropic": {"backend": "else", "model": "m", "pieces": [{"text": 3}]}},
                ),
                USER,
            ]
        },
        to(EVERYWHERE, NOTHING),
        "`provider_state` from elsewhere",
        plain={"messages": [USER, says("assistant", text("Yes")), USER]},
    ),
    *[
        Row(
            "messages.provider_state",
            {
                "messages": [
                    USER,
                    says(
                        "assistant",
                        text("Yes"),
                        tool_calls=[CALL],
                        provider_state={
                            COLUMNS[column].dialect: {
                                "backend": "recorded",
                                "model": COLUMNS[column].model,
                                "pieces": [{"opaque": opaque}, {"text": 3}, {"call": "c"}],
                            }
                        },
                    ),
                    result(text("ok")),
                ]
            },
            {column: sent, "claude_45": NOTHING} if column == "claude" else {column: sent},  # another model
            "`provider_state` of the same backend and model",
            plain={"messages": [USER, says("assistant", text("Yes"), tool_calls=[CALL]), result(text("ok"))]},
        )
        for column, opaque, sent in (
            ("chat", {"reasoning_content": "hm"}, {"messages.1.reasoning_content": "hm"}),
            (
                "responses",
                {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
                {
                    "include": ["reasoning.encrypted_content"],
                    "input": [
                        {"type": "message", "role": "user", "content": "Hi"},
                        {"type": "reasoning", "id": "rs", "summary": [], "encrypted_content": "x"},
                        {"type": "message", "role": "assistant", "content": "Yes"},
                        {"type": "function_call", "call_id": "c", "name": "f", "arguments": '{"a":1}'},
                        {"type": "function_call_output", "call_id": "c", "output": "ok"},
                    ],
                },
            ),
            (
                "claude",
                {"type": "thinking", "thinking": "hm", "signature": "s"},
                {
                    "messages.1.content": [
                        {"type": "thinking", "thinking": "hm", "signature": "s"},
                        {"type": "text", "text": "Yes"},
                        {"type": "tool_use", "id": "c", "name": "f", "input": {"a": 1}},
                    ]
                },
            ),
            (
                "gemini_25",
                {"executableCode": {"language": "PYTHON", "code": "1"}},
                {
                    "contents.1.parts": [
                        {"executableCode": {"language": "PYTHON", "code": "1"}},
                        {"text": "Yes"},
                        {"functionCall": {"name": "f", "args": {"a": 1}}},
                    ],
                    "contents.2.parts.0.functionResponse.id": GONE,
                },
            ),
        )
    ],
    Row(
        "messages.cache=true",
        {"messages": [{**USER, "cache": True}]},
        to(EVERYWHERE, NOTHING) | {"claude": {"messages.0.content.0.cache_control": {"type": "ephemeral"}}},
        "`cache` on a message",
    ),
    Row("messages.cache=false", {"messages": [{**USER, "cache": False}]}, to(EVERYWHERE, NOTHING)),
    # tools
    *[
        Row(
            leaf,
            TOOLS,
            {
                "chat": {
                    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
                    "tool_choice": "auto",
                },
                "chat_openai": {
                    "tools": [{"type": "function", "function": {"name": "f", "parameters": EMPTY_OBJECT}}],
                    "tool_choice": "auto",
                },
                "responses": {
                    "tools": [{"type": "function", "name": "f", "parameters": EMPTY_OBJECT, "strict": False}],
                    "tool_choice": "auto",
                },
                "claude": {
                    "tools": [{"name": "f", "input_schema": {"type": "object"}}],
                    "tool_choice": {"type": "auto"},
                },
                "gemini": {
                    "tools": [{"functionDeclarations": [{"name": "f", "parametersJsonSchema": {"type": "object"}}]}],
                    "toolConfig": {"functionCallingConfig": {"mode": "AUTO"}},
                },
                "ollama": {
                    "tools": [{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}]
                },
                "cli": {
                    "tools": [
                        {
                            "name": "f",
                            "description": "",
                            "parameters": {"type": "object"},
                            "handler": None,
                            "skip_permission": True,
                            "overrides_built_in_tool": True,
                            "defer": "never",
                        }
                    ]
                },
                **NO_TOOLS,
            },
            "`tools`",
        )
        for leaf in ("tools.name", "tools.input_schema", "tool_choice=auto")
    ],
    Row(
        "tools.description",
        {"tools": [{**TOOL, "description": "d"}]},
        {
            **to(("chat", "ollama"), {"tools.0.function.description": "d"}),
            **to(("responses", "claude", "cli"), {"tools.0.description": "d"}),
            "gemini": {"tools.0.functionDeclarations.0.description": "d"},
            **NO_TOOLS,
        },
        "`tools`",
        plain=TOOLS,
    ),
    *[
        Row(
            f"tools.strict={str(value).lower()}",
            {"tools": [{**TOOL, "strict": value}]},
            {
                "chat": {"tools.0.function.strict": value},
                "responses": {"tools.0.strict": True} if value else NOTHING,  # it stands there in any case
                "claude": {"tools.0.strict": value},
                **to(("gemini", "ollama", "cli"), NOTHING),
                **NO_TOOLS,
            },
            "`strict` of a tool" if value else None,
            plain=TOOLS,
        )
        for value in (True, False)
    ],
    Row(
        "tool_choice=none",
        {"tool_choice": "none"},
        {
            **to(("chat", "responses"), {"tool_choice": "none"}),
            "claude": {"tool_choice.type": "none"},
            "gemini": {"toolConfig.functionCallingConfig.mode": "NONE"},
            "ollama": {"tools": GONE},
            "cli": {"tools": []},
            **NO_TOOLS,
        },
        "`tool_choice` `none`",
        plain=TOOLS,
    ),
    Row(
        "tool_choice=required",
        {"tool_choice": "required"},
        {
            **to(("chat", "responses"), {"tool_choice": "required"}),
            "claude": {"tool_choice.type": "any"},
            "gemini": {"toolConfig.functionCallingConfig.mode": "ANY"},
            **to(("ollama", "cli"), "tool_choice"),
            **NO_TOOLS,
        },
        "`tool_choice` `required`, one tool",
        plain=TOOLS,
    ),
    Row("tool_choice=required", {"tool_choice": "required"}, to(("ollama", *COPILOT), "tool_choice")),
    Row(
        "tool_choice=required",
        {"tool_choice": "required"},
        to(("chat", "responses", "claude", "gemini"), "tool_choice"),
        kind="invalid_request",
    ),
    Row(
        "tool_choice.specific.name",
        {"tool_choice": {"specific": {"name": "f"}}},
        {
            "chat": {"tool_choice": {"type": "function", "function": {"name": "f"}}},
            "responses": {"tool_choice": {"type": "function", "name": "f"}},
            "claude": {"tool_choice.type": "tool", "tool_choice.name": "f"},
            "gemini": {
                "toolConfig.functionCallingConfig.mode": "ANY",
                "toolConfig.functionCallingConfig.allowedFunctionNames": ["f"],
            },
            **to(("ollama", "cli"), "tool_choice"),
            **NO_TOOLS,
        },
        "`tool_choice` `required`, one tool",
        plain=TOOLS,
    ),
    Row(
        "parallel_tool_calls=true",
        {"parallel_tool_calls": True},
        {
            **to(("chat", "responses"), {"parallel_tool_calls": True}),
            "claude": {"tool_choice.disable_parallel_tool_use": False},
            **to(("gemini", "ollama", "cli"), NOTHING),
            **NO_TOOLS,
        },
        "`parallel_tool_calls: true`",
        plain=TOOLS,
    ),
    Row(
        "parallel_tool_calls=false",
        {"parallel_tool_calls": False},
        {
            **to(("chat", "responses"), {"parallel_tool_calls": False}),
            "claude": {"tool_choice.disable_parallel_tool_use": True},
            **to(("gemini", "ollama", "cli"), "parallel_tool_calls"),
            **NO_TOOLS,
        },
        "`parallel_tool_calls: false`",
        plain=TOOLS,
    ),
    # output
    own("output_mode=text", {"output_mode": "text"}),
    Row(
        "output_mode=json_object",
        {"output_mode": "json_object"},
        {
            "chat": {"response_format": {"type": "json_object"}},
            "responses": {"text": {"format": {"type": "json_object"}}},
            "gemini": {"generationConfig": {"responseMimeType": "application/json"}},
            "ollama": {"format": "json"},
            **to(("claude", *COPILOT), "output_mode"),
        },
        "`json_object`",
    ),
    *[
        Row(
            leaf,
            {"output_mode": {"json_schema": SCHEMA}},
            {
                "chat": {
                    "response_format": {
                        "type": "json_schema",
                        "json_schema": {"name": "s", "schema": {"type": "object"}, "strict": True},
                    }
                },
                "responses": {
                    "text": {
                        "format": {"type": "json_schema", "name": "s", "schema": {"type": "object"}, "strict": True}
                    }
                },
                "claude": {"output_config": {"format": {"type": "json_schema", "schema": {"type": "object"}}}},
                "gemini": {
                    "generationConfig": {
                        "responseMimeType": "application/json",
                        "responseJsonSchema": {"type": "object"},
                    }
                },
                "ollama": {"format": {"type": "object"}},
                **to(COPILOT, "output_mode"),
            },
            "`json_schema`",
        )
        for leaf in (
            *("output_mode.json_schema.name", "output_mode.json_schema.schema"),
            "output_mode.json_schema.strict=true",
        )
    ],
    Row(
        "output_mode.json_schema.strict=false",
        {"output_mode": {"json_schema": {**SCHEMA, "strict": False}}},
        {
            "chat": {"response_format.json_schema.strict": False},
            "responses": {"text.format.strict": False},
            **to(("claude", "gemini", "ollama"), NOTHING),  # always strict
            **to(COPILOT, "output_mode"),
        },
        "`strict: false` of a `json_schema`",
        plain={"output_mode": {"json_schema": SCHEMA}},
    ),
    *[
        Row(
            f"output_mode.json_schema.verify={str(value).lower()}",
            {"output_mode": {"json_schema": {**SCHEMA, "verify": value}}},
            to(EVERYWHERE, NOTHING) | to(COPILOT, "output_mode"),
            plain={"output_mode": {"json_schema": SCHEMA}},
        )
        for value in (True, False)
    ],
    Row(
        "limits.max_output_tokens",
        {"limits": {"max_output_tokens": 5000}},
        {
            "chat": {"max_tokens": 5000},
            "chat_openai": {"max_completion_tokens": 5000},
            "responses": {"max_output_tokens": 5000},
            "claude": {"max_tokens": 5000},
            "gemini": {"generationConfig": {"maxOutputTokens": 5000}},
            "ollama": {"options": {"num_predict": 5000}},
            **to(COPILOT, "limits.max_output_tokens"),
            "cli_provider": {"provider.max_output_tokens": 5000},
        },
        "`max_output_tokens`",
    ),
    # sampling
    *[
        Row(
            f"sampling.{name}",
            {"sampling": {name: 0.5}},
            {
                **to(("chat", "responses", "claude"), {name: 0.5}),
                "gemini": {"generationConfig": {gemini: 0.5}},
                "ollama": {"options": {name: 0.5}},
                **to(COPILOT, f"sampling.{name}"),
            },
            "`temperature`, `top_p`",
        )
        for name, gemini in (("temperature", "temperature"), ("top_p", "topP"))
    ],
    Row(
        "sampling.seed",
        {"sampling": {"seed": 0}},
        {
            "chat": {"seed": 0},
            "gemini": {"generationConfig": {"seed": 0}},
            "ollama": {"options": {"seed": 0}},
            **to(("responses", "claude", *COPILOT), "sampling.seed"),
        },
        "`seed`",
    ),
    Row(
        "sampling.stop",
        {"sampling": {"stop": ["x"]}},
        {
            "chat": {"stop": ["x"]},
            "claude": {"stop_sequences": ["x"]},
            "gemini": {"generationConfig": {"stopSequences": ["x"]}},
            "ollama": {"options": {"stop": ["x"]}},
            **to(("responses", *COPILOT), "sampling.stop"),
        },
        "`stop`",
    ),
    # reasoning
    Row(
        "enable_thinking=true",
        {"enable_thinking": True},
        {
            "chat": "enable_thinking",
            "chat_openai": {"reasoning_effort": "medium"},
            "responses": {"reasoning": {"effort": "medium"}, "include": ["reasoning.encrypted_content"]},
            "claude": {"thinking": {"type": "adaptive"}},
            "claude_45": {"thinking": {"type": "enabled", "budget_tokens": 32_000}},
            "gemini": {"generationConfig": {"thinkingConfig": {"thinkingBudget": -1}}},
            "ollama": {"think": True},
            **to(COPILOT, "enable_thinking"),
        },
        "`enable_thinking: true`",
    ),
    Row(
        "enable_thinking=false",
        {"enable_thinking": False},
        {
            "chat": NOTHING,
            "chat_openai": {"reasoning_effort": "none"},
            "responses": {"reasoning": {"effort": "none"}},
            "claude": {"thinking": {"type": "disabled"}},
            "gemini": {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}},
            "ollama": {"think": False},
            **to(COPILOT, NOTHING),
        },
        "`enable_thinking: false`",
    ),
    Row(
        "reasoning.effort=off",
        {"reasoning": {"effort": "off"}},
        {
            "chat": "reasoning.effort",
            "chat_openai": {"reasoning_effort": "none"},
            "responses": {"reasoning": {"effort": "none"}},
            "claude": {"thinking": {"type": "disabled"}},
            "gemini": "reasoning.effort",
            "gemini_25": {"generationConfig": {"thinkingConfig": {"thinkingBudget": 0}}},
            "ollama": {"think": False},
            **to(COPILOT, NOTHING),
        },
        "`reasoning.effort` `off`",
    ),
    *[effort(word) for word in BUDGETS],
    Row(
        "reasoning.budget_tokens",
        {"reasoning": {"budget_tokens": 2000}},
        {
            **to(("chat", "responses", "claude", "gemini", "ollama"), "reasoning.budget_tokens"),
            "claude_45": {"thinking": {"type": "enabled", "budget_tokens": 2000}},
            "gemini_25": {"generationConfig": {"thinkingConfig": {"thinkingBudget": 2000}}},
            **to(COPILOT, "reasoning"),
        },
        "`reasoning.budget_tokens`",
    ),
    *[
        Row(
            f"reasoning.summary={word}",
            {"reasoning": {"summary": word}},
            {
                **to(("chat", "claude", "gemini", "ollama"), "reasoning.summary"),
                "responses": {"reasoning": {"summary": word}, "include": ["reasoning.encrypted_content"]},
                **to(COPILOT, "reasoning"),
            },
            "`reasoning.summary`",
        )
        for word in ("auto", "concise", "detailed")
    ],
    Row(
        "include_reasoning=true",
        {"include_reasoning": True},
        {
            **to(("chat", "claude", "ollama"), NOTHING),
            "responses": {"reasoning": {"summary": "auto"}, "include": ["reasoning.encrypted_content"]},
            "gemini": {"generationConfig": {"thinkingConfig": {"includeThoughts": True}}},
            **to(COPILOT, "include_reasoning"),
        },
        "`include_reasoning`",
    ),
    own("include_reasoning=false", {"include_reasoning": False}),
    # caching
    Row(
        "cache.mode=auto",
        {"cache": {"mode": "auto"}},
        to(EVERYWHERE, NOTHING) | {"claude": {"cache_control": {"type": "ephemeral"}}},
        "`cache.mode` `auto`",
    ),
    Row(
        "cache.mode=off",
        {"cache": {"mode": "off", "key": "k", "retention": "long"}},
        to(EVERYWHERE, NOTHING),
        "`cache.mode` `off`",
    ),
    Row(
        "cache.key",
        {"cache": {"key": "k"}},
        {
            **to(("chat", "claude", "gemini", "ollama", *COPILOT), "cache.key"),
            **to(("chat_openai", "responses"), {"prompt_cache_key": "k"}),
        },
        "`cache.key`",
    ),
    Row(
        "cache.retention=short",
        {"cache": {"retention": "short"}},
        to(EVERYWHERE, NOTHING) | {"claude": {"cache_control": {"type": "ephemeral"}}},
        "`cache.retention` `short`",
    ),
    Row(
        "cache.retention=long",
        {"cache": {"retention": "long"}},
        {
            **to(("chat", "gemini", "ollama", *COPILOT), "cache.retention"),
            **to(("chat_openai", "responses"), {"prompt_cache_retention": "24h"}),
            "claude": {"cache_control": {"type": "ephemeral", "ttl": "1h"}},
        },
        "`cache.retention` `long`",
    ),
    # the rest
    Row(
        "service_tier",
        {"service_tier": "auto"},
        {
            **to(("chat", "responses", "claude"), {"service_tier": "auto"}),
            "gemini": {"serviceTier": "auto"},
            **to(("ollama", *COPILOT), "service_tier"),
        },
        "`service_tier`",
    ),
    Row(
        "include_annotations=true",
        {"include_annotations": True},
        to(EVERYWHERE, NOTHING),
        "`include_annotations`",
    ),
    own("include_annotations=false", {"include_annotations": False}),
    option("chat", {"logprobs": True}, {"logprobs": True}),
    option("responses", {"truncation": "auto"}, {"truncation": "auto"}),
    option("claude", {"metadata": {"user_id": "u"}}, {"metadata": {"user_id": "u"}}),
    option("gemini", {"generationConfig": {"topK": 5}}, {"generationConfig": {"topK": 5}}),
    option("ollama", {"keep_alive": "5m"}, {"keep_alive": "5m"}),
    Row("provider_options", {"provider_options": {"a": 1}}, to(COPILOT, "provider_options"), page="`provider_options`"),
    Row(
        "provider_options",
        {"provider_options": {"n": 2}},
        to(EVERYWHERE, "provider_options"),
        "several answers (`n`, `candidateCount`, `num_choices` above 1)",
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.leaf)
def test_each_field_has_its_place_or_is_refused_by_name(row: Row) -> None:
    """Nothing else of the body changes, and the provider's own SDK takes it."""
    for column, cell in cells_of(row):
        found = outcome(column, row)
        if isinstance(cell, str):
            assert re.match(rf"{row.kind} {re.escape(cell)}[: .]", str(found)), (column, found)
        else:
            assert (column, found) == (column, cell)


def test_every_field_of_the_frames_has_a_row_for_every_backend() -> None:
    """Also the words of each closed list; a count has no field that an inference has not."""
    told: defaultdict[str, set[str]] = defaultdict(set)
    for row in ROWS:
        told[row.leaf].update(column for column, _ in cells_of(row))
    fields = list(dict.fromkeys(leaves(frames.Infer)))

    assert {column.dialect for column in COLUMNS.values()} == set(DIALECTS)
    assert set(told) == set(fields)
    assert {leaf: set(COLUMNS) - columns for leaf, columns in told.items() if set(COLUMNS) - columns} == {}
    assert set(leaves(frames.CountTokens)) < set(fields)


# --- answers -------------------------------------------------------------------------------------------------

ALL = frozenset(FULL)
CITING = ALL - {"ollama", "cli"}
ANSWERED = {
    "output_text_delta.delta": ALL,
    "reasoning_delta.delta": ALL,
    "tool_call_delta.call_id": ALL,
    "tool_call_delta.name": ALL,
    "tool_call_delta.arguments_delta": ALL,
    "tool_call_ready.call.id": ALL,
    "tool_call_ready.call.name": ALL,
    "tool_call_ready.call.arguments_json": ALL,
    "tool_call_ready.call.status": ALL,
    "annotation.annotation.kind": CITING,
    "annotation.annotation.url": CITING,
    "annotation.annotation.title": CITING,
    "annotation.annotation.text": CITING - {"openai_compatible", "openai_responses"},
    "annotation.annotation.start": CITING,
    "annotation.annotation.end": CITING,
    "annotation.annotation.raw": CITING,
    "usage.usage.input_tokens": ALL,
    "usage.usage.output_tokens": ALL,
    "usage.usage.total_tokens": ALL,
    "usage.usage.provider_usage_raw": ALL,
    "usage.usage.cached_input_tokens": ALL - {"ollama"},
    "usage.usage.cache_write_input_tokens": ALL - {"gemini", "ollama"},
    "usage.usage.reasoning_tokens": ALL - {"ollama"},
    "usage.usage.cost": frozenset({"openai_compatible"}),
    "usage.usage.service_tier": ALL - {"ollama", "cli"},
    "completed.finish_reason": ALL,
    "completed.backend_metadata": ALL,
}
"""Field of an inference's frames → where it comes from."""

METADATA = {
    "response_id": ALL - {"ollama"},
    "model": ALL,
    "provider_state": ALL - {"ollama", "cli"},
    "not_carried": ALL - {"cli"},
}
"""What `completed.backend_metadata` has, from where."""

COUNTS = {"input_tokens": 10, "output_tokens": 5, "total_tokens": 15}


def frames_of(name: str) -> list[dict[str, Any]]:
    request = canonical({"type": "infer", **PLAIN, "include_reasoning": True, "include_annotations": True})
    events: list[BackendRawEvent] = []
    if name == "cli":
        of = TurnDecoder()
        for kind, data in FULL[name]:
            of.feed(kind, data, events)
        return wire_events(events, None, request)
    answer = json.dumps(FULL[name]).encode()
    ORACLES[name].whole(answer)
    events, error = decode_whole(dialect(name), request, answer)
    assert error is None
    return wire_events(events, error, request)


@pytest.mark.parametrize("name", FULL)
def test_each_field_of_an_answer_comes_from_the_providers_that_have_it(name: str) -> None:
    """Of an answer with everything nothing is lost, and nothing is made up; the counts are everybody's."""
    answer = frames_of(name)
    told = {path for frame in answer for path in ANSWERED if value_at(frame, path) is not None}
    metadata = answer[-1]["backend_metadata"]

    assert told == {path for path, names in ANSWERED.items() if name in names}
    assert set(metadata) & METADATA.keys() == {key for key, names in METADATA.items() if name in names}
    assert {key: value_at(answer[-2], f"usage.usage.{key}") for key in COUNTS} == COUNTS


def value_at(frame: dict[str, Any], path: str) -> Any:
    """What stands at a path of `ANSWERED`, None where the frame is another or has nothing there."""
    kind, *keys = path.split(".")
    value: Any = frame if frame["type"] == kind else None
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def test_every_field_of_an_answer_has_a_row() -> None:
    """Of all frames in which a provider's words come back."""
    kinds = {
        "output_text_delta": server_frames.OutputTextDeltaFrame,
        "reasoning_delta": server_frames.ReasoningDeltaFrame,
        "tool_call_delta": server_frames.ToolCallDeltaFrame,
        "tool_call_ready": server_frames.ToolCallReadyFrame,
        "annotation": server_frames.AnnotationFrame,
        "usage": server_frames.UsageFrame,
        "completed": server_frames.CompletedFrame,
    }
    fields = {
        f"{kind}.{re.sub('=.*|[.]other', '', leaf)}"
        for kind, frame in kinds.items()
        for leaf in leaves(frame)
        if leaf != "request_id"
    }

    assert set(ANSWERED) == fields
    assert {name for name in FULL if name != "cli"} == HTTP_DIALECTS


# --- operations ----------------------------------------------------------------------------------------------

OPERATIONS: dict[str, tuple[Any, frozenset[str]]] = {
    "`embed`": (
        {"type": "embed", "model": "m", "inputs": ["a"], "dimensions": 2},
        frozenset({"chat", "responses", "gemini", "ollama"}),
    ),
    "`count_tokens`": ({"type": "count_tokens", **PLAIN}, frozenset({"chat", "responses", "claude", "gemini"})),
    "`models`": ({"type": "models"}, frozenset({"chat", "responses", "claude", "gemini", "ollama"})),
}
"""Row of docs/providers.md → a frame, and which backends have it. Bodies and answers: `operations/`."""


@pytest.mark.parametrize("page", OPERATIONS)
@pytest.mark.parametrize("column", EVERYWHERE)
def test_an_operation_is_prepared_or_refused_by_name(page: str, column: str) -> None:
    """Before anything is sent."""
    frame, having = OPERATIONS[page]
    kind: Any = frames.CLIENT_FRAMES[frame["type"]]
    asked = RequestNormalizer().normalize_operation(kind.model_validate(frame), "r")
    if column in having:
        adapter(column).prepare_operation(asked, "m", ResolvedCredential(None))
    else:
        with pytest.raises(GatewayError, match=f"^{frame['type']}: ") as refused:
            adapter(column).prepare_operation(asked, "m", ResolvedCredential(None))
        assert refused.value.kind == "unsupported_capability"


@pytest.mark.parametrize("kind", ["embed", "models"])
def test_every_field_of_an_operation_is_in_its_example(kind: str) -> None:
    """Those of a count are an inference's."""
    assert {*OPERATIONS[f"`{kind}`"][0], "request_id", "backend_id"} == {*leaves(frames.CLIENT_FRAMES[kind]), "type"}


@pytest.mark.parametrize("name", TOKEN_COUNTS)
def test_options_are_counted_too(name: str) -> None:
    """They stand where they stand in an inference, and may not override what the gateway sets."""
    of = dialect(name)
    asked = replace(canonical({"type": "infer", **PLAIN}), provider_options={"tool_config": {"a": 1}})
    body = TOKEN_COUNTS[name](of, asked, "m").request.body
    inner = body["generateContentRequest"] if name == "gemini" else body

    assert inner["tool_config"] == {"a": 1}  # type: ignore[index, call-overload]
    taken = "contents" if name == "gemini" else "model"
    with pytest.raises(GatewayError, match=f"^provider_options.{taken}: ") as refused:
        TOKEN_COUNTS[name](of, replace(asked, provider_options={taken: "x"}), "m")
    assert refused.value.kind == "invalid_request"


# --- docs/providers.md ---------------------------------------------------------------------------------------

ORDER = ("openai_compatible", "openai_responses", "anthropic", "gemini", "ollama", "github_copilot_sdk")
WORDS = {
    "refused": re.compile(r"[Rr]efused|\bno `"),
    "nothing": re.compile(r"satisfied|passed over|dropped|what comes|nothing|not needed"),
}
"""How a cell says what is not sent. It says something besides where there is more."""


def table(heading: str) -> dict[str, dict[str, str]]:
    """The first table below a heading: row → dialect → cell."""
    lines = iter(PAGE.read_text().partition(f"\n## {heading}\n")[2].splitlines())
    rows = [line.strip("|").split("|") for line in takewhile(bool, dropwhile(lambda line: line[:1] != "|", lines))]
    head, _, *body = [[cell.strip() for cell in row] for row in rows]
    assert [name.strip("`") for name in head[1:]] == list(ORDER)
    return {row[0]: dict(zip(ORDER, row[1:], strict=True)) for row in body}


def test_the_page_tells_what_is_sent_and_what_is_refused() -> None:
    """Each row of its first table is one of ours, and each cell says whether it is refused, or sent, or neither."""
    kinds: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for row in ROWS:
        for column, cell in cells_of(row):
            if row.page is not None:
                kind = "refused" if isinstance(cell, str) else "sent" if cell else "nothing"
                kinds[row.page, COLUMNS[column].dialect].add(kind)
    for page, (_, having) in OPERATIONS.items():
        for column in EVERYWHERE:
            kinds[page, COLUMNS[column].dialect].add("sent" if column in having else "refused")
    told = table("Requests")
    assert set(told) - {"interface"} == {page for page, _ in kinds}

    for (page, name), found in kinds.items():
        said = told[page][name]
        assert {kind for kind, words in WORDS.items() if words.search(said)} == found - {"sent"}, (page, name, found)
        if "sent" in found:
            assert re.sub("refused|satisfied|dropped|passed over", "", said), (page, name)


def test_the_page_tells_what_comes_back() -> None:
    """A cell of its second table is `yes` where a field comes from that dialect's answers."""
    fields = {path.rpartition(".")[2]: names for path, names in ANSWERED.items()} | METADATA
    for row, cells in table("What comes back").items():
        for name, said in cells.items():
            assert (said.split(",")[0] == "yes") == (
                {"github_copilot_sdk": "cli"}.get(name, name)
                in fields[row.partition(",")[0].strip("`").rpartition(".")[2]]
            ), (row, name)
