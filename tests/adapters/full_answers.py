"""One answer of each provider, not streamed, with everything that a frame may carry of it."""

from __future__ import annotations

from typing import Any

FULL: dict[str, Any] = {
    "openai_compatible": {
        "id": "r",
        "object": "chat.completion",
        "created": 1,
        "model": "m-1",
        "service_tier": "flex",
        "choices": [
            {
                "index": 0,
                "finish_reason": "tool_calls",
                "logprobs": {"content": [{"token": "a", "logprob": 0.0, "top_logprobs": []}], "refusal": None},
                "message": {
                    "role": "assistant",
                    "content": "Paris.",
                    "reasoning_content": "hm",
                    "annotations": [
                        {
                            "type": "url_citation",
                            "url_citation": {"url": "https://h", "title": "T", "start_index": 0, "end_index": 5},
                        }
                    ],
                    "tool_calls": [{"id": "c", "type": "function", "function": {"name": "f", "arguments": "{}"}}],
                },
            }
        ],
        "usage": {
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "total_tokens": 15,
            "prompt_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            "completion_tokens_details": {"reasoning_tokens": 3},
            "cost": 0.25,
        },
    },
    "openai_responses": {
        "id": "r",
        "object": "response",
        "created_at": 1,
        "model": "m-1",
        "status": "completed",
        "service_tier": "flex",
        "parallel_tool_calls": True,
        "tool_choice": "auto",
        "tools": [],
        "output": [
            {
                "type": "reasoning",
                "id": "rs",
                "summary": [{"type": "summary_text", "text": "hm"}],
                "encrypted_content": "x",
            },
            {"type": "web_search_call", "id": "ws", "status": "completed", "action": {"type": "search", "query": "q"}},
            {
                "type": "message",
                "id": "msg",
                "role": "assistant",
                "status": "completed",
                "content": [
                    {
                        "type": "output_text",
                        "text": "Paris.",
                        "annotations": [
                            {
                                "type": "url_citation",
                                "url": "https://h",
                                "title": "T",
                                "start_index": 0,
                                "end_index": 5,
                            }
                        ],
                    }
                ],
            },
            {
                "type": "function_call",
                "id": "fc",
                "call_id": "c",
                "name": "f",
                "arguments": "{}",
                "status": "completed",
            },
        ],
        "usage": {
            "input_tokens": 10,
            "output_tokens": 5,
            "total_tokens": 15,
            "input_tokens_details": {"cached_tokens": 4, "cache_write_tokens": 2},
            "output_tokens_details": {"reasoning_tokens": 3},
        },
    },
    "anthropic": {
        "id": "r",
        "type": "message",
        "role": "assistant",
        "model": "m-1",
        "stop_reason": "tool_use",
        "stop_sequence": None,
        "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"},
            {"type": "server_tool_use", "id": "srvtoolu_1", "name": "web_search", "input": {}},
            {
                "type": "text",
                "text": "Paris.",
                "citations": [
                    {
                        "type": "web_search_result_location",
                        "url": "https://h",
                        "title": "T",
                        "cited_text": "Paris is",
                        "encrypted_index": "e",
                    }
                ],
            },
            {"type": "tool_use", "id": "c", "name": "f", "input": {}},
        ],
        "usage": {
            "input_tokens": 4,
            "output_tokens": 5,
            "cache_read_input_tokens": 4,
            "cache_creation_input_tokens": 2,
            "output_tokens_details": {"thinking_tokens": 3},
            "service_tier": "standard",
        },
    },
    "gemini": {
        "responseId": "r",
        "modelVersion": "m-1",
        "candidates": [
            {
                "index": 0,
                "finishReason": "STOP",
                "content": {
                    "role": "model",
                    "parts": [
                        {"text": "hm", "thought": True},
                        {"executableCode": {"language": "PYTHON", "code": "1"}},
                        {"text": "Paris."},
                        {"functionCall": {"name": "f", "args": {}}, "thoughtSignature": "cw=="},
                    ],
                },
                "groundingMetadata": {
                    "groundingChunks": [{"web": {"uri": "https://h", "title": "T"}}],
                    "groundingSupports": [
                        {
                            "segment": {"startIndex": 0, "endIndex": 5, "text": "Paris"},
                            "groundingChunkIndices": [0],
                        }
                    ],
                },
            }
        ],
        "usageMetadata": {
            "promptTokenCount": 10,
            "candidatesTokenCount": 2,
            "thoughtsTokenCount": 3,
            "totalTokenCount": 15,
            "cachedContentTokenCount": 4,
            "trafficType": "ON_DEMAND_FLEX",
        },
    },
    "ollama": {
        "model": "m-1",
        "message": {
            "role": "assistant",
            "content": "Paris.",
            "thinking": "hm",
            "tool_calls": [{"function": {"name": "f", "arguments": {}}}],
        },
        "logprobs": [{"token": "Paris", "logprob": 0.0}],
        "done": True,
        "done_reason": "stop",
        "prompt_eval_count": 10,
        "eval_count": 5,
    },
    "cli": [
        ("assistant.reasoning_delta", {"deltaContent": "hm"}),
        (
            "assistant.usage",
            {
                "model": "m-1",
                "apiCallId": "r",
                "inputTokens": 10,
                "outputTokens": 5,
                "cacheReadTokens": 4,
                "cacheWriteTokens": 2,
                "reasoningTokens": 3,
                "finishReason": "tool_calls",
            },
        ),
        (
            "assistant.message",
            {"content": "Paris.", "toolRequests": [{"toolCallId": "c", "name": "f", "arguments": {}}]},
        ),
    ],
}
