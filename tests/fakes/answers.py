"""What a `FakeBackend` plays: whole answers, and steps to make any other of.

`plays(delta("Hel"), 0.1, delta("lo"), RESET)` sends a piece, waits a tenth of a second, sends another and resets the
connection: bytes are pieces of the body, numbers are pauses in seconds, the words below are faults.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from typing import Any, Literal

from .backend import Exchange, Script

Fault = Literal["reset", "cut", "silence", "bad chunk", "finish"]

RESET: Fault = "reset"
"""The connection ends with RST."""
CUT: Fault = "cut"
"""The connection ends cleanly, without an end of the body."""
SILENCE: Fault = "silence"
"""Nothing more, for ever."""
BAD_CHUNK: Fault = "bad chunk"
"""Bytes that are no chunk."""
FINISH: Fault = "finish"
"""The body ends properly; what follows comes too late."""

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(value: Any) -> bytes:
    """One server-sent event."""
    return b"data: " + json.dumps(value, ensure_ascii=False).encode() + b"\n\n"


def delta(text: str) -> bytes:
    """A chunk of a chat completion with `text`."""
    return event({"choices": [{"index": 0, "delta": {"content": text}}]})


def finish(reason: str = "stop") -> bytes:
    """The chunk with the end mark."""
    return event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})


def usage(prompt: int = 3, completion: int = 5) -> bytes:
    """The chunk with the usage, which comes after the end mark."""
    return event(
        {
            "choices": [],
            "usage": {"prompt_tokens": prompt, "completion_tokens": completion, "total_tokens": prompt + completion},
        }
    )


def tool_delta(index: int, arguments: str, *, call_id: str | None = None, name: str | None = None) -> bytes:
    """A fragment of a tool call."""
    call: dict[str, Any] = {"index": index, "function": {"arguments": arguments}}
    if call_id is not None:
        call["id"] = call_id
    if name is not None:
        call["function"]["name"] = name
    return event({"choices": [{"index": 0, "delta": {"tool_calls": [call]}}]})


def plays(
    *steps: bytes | float | Fault,
    status: int = 200,
    headers: Mapping[str, str] | None = None,
    framing: str = "chunked",
) -> Script:
    """Headers, then the steps in turn; the body ends properly after the last one unless a fault has ended it."""

    async def script(exchange: Exchange) -> None:
        await exchange.head(status, headers, framing=framing)
        for step in steps:
            if isinstance(step, bytes):
                await exchange.send(step)
            elif isinstance(step, int | float):
                await asyncio.sleep(step)
            else:
                await _fault(exchange, step)
                if step != FINISH:
                    return
        if FINISH not in steps:
            await exchange.finish()
        if framing == "close":
            exchange.cut()

    return script


async def _fault(exchange: Exchange, fault: Fault) -> None:
    if fault in (RESET, BAD_CHUNK):
        await asyncio.sleep(0.02)  # they overtake what has not been read yet
    if fault == RESET:
        exchange.reset()
    elif fault == CUT:
        exchange.cut()
    elif fault == BAD_CHUNK:
        await exchange.raw(b"this is no chunk\r\n")
        await exchange.silence()
    elif fault == FINISH:
        await exchange.finish()
    else:
        await exchange.silence()


def text(*deltas: str, reason: str = "stop") -> Script:
    """A whole streamed answer, with usage."""
    return plays(*(delta(piece) for piece in deltas), finish(reason), usage(), DONE)


def whole(content: str, reason: str = "stop") -> Script:
    """A whole unstreamed answer."""
    return answers(
        200,
        {
            "id": "whole-1",
            "model": "fake",
            "choices": [{"index": 0, "message": {"content": content}, "finish_reason": reason}],
            "usage": {"prompt_tokens": 3, "completion_tokens": 5, "total_tokens": 8},
        },
    )


def answers(status: int, body: Any = None, headers: Mapping[str, str] | None = None) -> Script:
    """A complete answer with a length. `body`: bytes as they are, anything else as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body if body is not None else {}).encode()
    return plays(
        data, status=status, headers={"Content-Type": "application/json", **(headers or {})}, framing=str(len(data))
    )


def fails(status: int, code: str | None = None, message: str = "as scripted", **headers: str) -> Script:
    """An answer that is no success. Underscores in header names stand for dashes."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return answers(status, {"error": {"message": message, "code": code}}, named)


async def silent(exchange: Exchange) -> None:
    """Accepts, reads the request, and says nothing."""
    await exchange.silence()


async def one_byte(exchange: Exchange) -> None:
    """One byte of the status line, and nothing more."""
    await exchange.raw(b"H")
    await exchange.silence()


async def slow_headers(exchange: Exchange) -> None:
    """Headers that never end, one after the other."""
    await exchange.raw(b"HTTP/1.1 200 OK\r\n")
    for number in range(10_000):
        await exchange.raw(b"X-Slow-%d: yes\r\n" % number)
        await asyncio.sleep(0.02)


async def hang_up(exchange: Exchange) -> None:
    """Closes without a word."""
    exchange.cut()


async def reset(exchange: Exchange) -> None:
    """Resets without a word."""
    exchange.reset()


async def endless(exchange: Exchange) -> None:
    """Text without an end, as fast as it is taken."""
    await exchange.head()
    piece = delta("x" * 1000) * 16
    while True:
        await exchange.send(piece)
        await asyncio.sleep(0)
