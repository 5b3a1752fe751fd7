"""A model server that answers at once: Chat Completions over HTTP/1.1, as cheap as Python gets.

The scenario stands in the model's name: ``n200-d0`` is 200 tokens without a delay, ``n100-d20`` one every 20 ms,
``n0-d0`` headers and then silence. `GET /closed` tells when the last connection with an unfinished answer was closed.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
import time
from typing import cast

import uvloop

_ENVELOPE = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench",'
    b'"choices":[{"index":0,"delta":%b,"logprobs":null,"finish_reason":%b}]}\n\n'
)
_USAGE = (
    b'data: {"id":"chatcmpl-bench","object":"chat.completion.chunk","created":1700000000,"model":"bench","choices":[],'
    b'"usage":{"prompt_tokens":10,"completion_tokens":%d,"total_tokens":%d}}\n\ndata: [DONE]\n\n'
)
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"
_TOKEN = _ENVELOPE % (b'{"content":"token "}', b"null")


def _chunked(data: bytes) -> bytes:
    return b"%x\r\n%b\r\n" % (len(data), data)


class Upstream(asyncio.Protocol):
    """One connection, one request at a time."""

    closed_at_ns = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        self.data = b""
        self.answer: asyncio.Task[None] | None = None

    def connection_lost(self, error: Exception | None) -> None:
        if self.answer is not None and not self.answer.done():
            Upstream.closed_at_ns = time.monotonic_ns()
            self.answer.cancel()

    def data_received(self, data: bytes) -> None:
        self.data += data
        head, end, body = self.data.partition(b"\r\n\r\n")
        if not end:
            return
        length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
        if len(body) < (int(length[1]) if length else 0):
            return
        self.data = b""
        if head.startswith(b"GET"):
            self._json({"closed_at_ns": Upstream.closed_at_ns})
            return
        request = json.loads(body)
        tokens, delay = (int(part[1:]) for part in request["model"].split("-"))
        if request.get("stream"):
            self.answer = asyncio.ensure_future(self._stream(tokens, delay / 1000))
        else:
            message = {"role": "assistant", "content": "token " * tokens}
            choice = {"index": 0, "message": message, "finish_reason": "stop"}
            usage = {"prompt_tokens": 10, "completion_tokens": tokens, "total_tokens": tokens + 10}
            self._json(
                {
                    "id": "x",
                    "object": "chat.completion",
                    "created": 1,
                    "model": "bench",
                    "choices": [choice],
                    "usage": usage,
                }
            )

    def _json(self, value: object) -> None:
        body = json.dumps(value).encode()
        self.transport.write(
            b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )

    async def _stream(self, tokens: int, delay: float) -> None:
        write = self.transport.write
        write(_HEAD + _chunked(_ENVELOPE % (b'{"role":"assistant","content":""}', b"null")))
        if tokens == 0:
            await asyncio.Event().wait()
        for _ in range(tokens):
            write(_chunked(_TOKEN))
            await asyncio.sleep(delay)  # also with 0: one write per token, as an engine does
        write(_chunked(_ENVELOPE % (b"{}", b'"stop"')) + _chunked(_USAGE % (tokens, tokens + 10)) + b"0\r\n\r\n")


async def main() -> None:
    server = await asyncio.get_running_loop().create_server(Upstream, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main()) if len(sys.argv) == 1 else sys.exit(__doc__)
