"""One way to the model, driven through one scenario, in a process of its own; prints what it measured as JSON.

usage: driver.py {direct,daemon,openai} ADDRESS SCENARIO CONCURRENCY SECONDS [UPSTREAM]

SCENARIO is the upstream's (``n200-d0``), with a suffix ``!`` for an unstreamed request, or ``cancel``.
"""

from __future__ import annotations

import asyncio
import json
import resource
import statistics
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import uvloop

MESSAGES = [{"role": "user", "content": "Count to two hundred."}]


class Driver(ABC):
    """A client that asks for one answer at a time."""

    @abstractmethod
    async def ask(self, model: str, stream: bool, on_token: Callable[[int], None]) -> None:
        """One answer; `on_token` is called with the number of tokens that each read brought."""

    @abstractmethod
    def hang_up(self) -> None:
        """Closes the connection."""


class Direct(Driver):
    """Straight to the upstream, nothing parsed: the floor."""

    def __init__(self, address: str) -> None:
        host, self._port = address.split(":")
        self._host = host
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, model: str, stream: bool, on_token: Callable[[int], None]) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_connection(self._host, int(self._port))
        body = json.dumps({"model": model, "messages": MESSAGES, "stream": stream}).encode()
        self._writer.write(
            b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
        )
        seen = b""
        while True:
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionError("the upstream closed")
            if stream:
                if tokens := data.count(b'"content":"token'):
                    on_token(tokens)
                seen = (seen + data)[-16:]
                if seen.endswith(b"\r\n0\r\n\r\n"):
                    return
            elif b"}" in data[-2:]:
                on_token(1)
                return

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None


class Gateway(Driver):
    """Through the daemon's socket."""

    def __init__(self, address: str) -> None:
        self._path = address
        self._writer: asyncio.StreamWriter | None = None

    async def ask(self, model: str, stream: bool, on_token: Callable[[int], None]) -> None:
        if self._writer is None:
            self._reader, self._writer = await asyncio.open_unix_connection(self._path)
        parts = [{"text": {"text": MESSAGES[0]["content"]}}]
        frame = {
            "type": "infer",
            "request_id": "r",
            "model": model,
            "stream": stream,
            "messages": [{"role": "user", "parts": parts}],
        }
        self._writer.write(json.dumps(frame).encode() + b"\n")
        seen = b""
        while True:
            data = await self._reader.read(65536)
            if not data:
                raise ConnectionError("the daemon closed")
            if tokens := data.count(b'"output_text_delta"'):
                on_token(tokens)
            seen = (seen + data)[-4096:]
            if b'"type":"completed"' in seen:
                return
            if b'"type":"failed"' in seen:
                raise ConnectionError(seen.decode())

    def hang_up(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()
            self._writer = None


class OpenAISdk(Driver):
    """The official SDK in process: what a program does without a gateway."""

    def __init__(self, address: str) -> None:
        from openai import AsyncOpenAI

        self._client = AsyncOpenAI(base_url=f"http://{address}/v1", api_key="none", max_retries=0)
        self._stream: Any = None

    async def ask(self, model: str, stream: bool, on_token: Callable[[int], None]) -> None:
        create: Any = self._client.chat.completions.create
        if not stream:
            await create(model=model, messages=MESSAGES)
            on_token(1)
            return
        self._stream = await create(model=model, messages=MESSAGES, stream=True)
        async for chunk in self._stream:
            if chunk.choices and chunk.choices[0].delta.content:
                on_token(1)

    def hang_up(self) -> None:
        if self._stream is not None:
            self._task = asyncio.ensure_future(self._stream.close())


DRIVERS: dict[str, Callable[[str], Driver]] = {"direct": Direct, "daemon": Gateway, "openai": OpenAISdk}


async def load(
    make: Callable[[str], Driver], address: str, scenario: str, concurrency: int, seconds: float
) -> dict[str, Any]:
    """`concurrency` clients ask one answer after another for `seconds`, after a short warm-up."""
    first: list[float] = []
    total: list[float] = []
    counts = {"tokens": 0, "requests": 0}
    stream, model = not scenario.endswith("!"), scenario.removesuffix("!")
    drivers = [make(address) for _ in range(concurrency)]
    begin = time.perf_counter() + 0.5
    end = begin + seconds

    async def client(driver: Driver) -> None:
        while (sent := time.perf_counter()) < end:
            came: list[float] = []

            def on_token(tokens: int, came: list[float] = came) -> None:
                now = time.perf_counter()
                if not came:
                    came.append(now)
                if begin <= now < end:
                    counts["tokens"] += tokens

            await driver.ask(model, stream, on_token)
            done = time.perf_counter()
            if sent >= begin and done < end:
                counts["requests"] += 1
                total.append(done - sent)
                first.extend(at - sent for at in came)
        driver.hang_up()

    await asyncio.gather(*map(client, drivers))
    return {
        "first_us": statistics.median(first) * 1e6 if first else None,
        "first_99_us": sorted(first)[int(len(first) * 0.99)] * 1e6 if first else None,
        "total_us": statistics.median(total) * 1e6 if total else None,
        "tokens_per_s": counts["tokens"] / seconds,
        "requests_per_s": counts["requests"] / seconds,
        "tokens": counts["tokens"],
    }


async def cancel(make: Callable[[str], Driver], address: str, upstream: str, times: int = 20) -> dict[str, Any]:
    """How long from closing the client's connection until the upstream, which is silent, sees its own closed."""
    delays = []
    host, port = upstream.split(":")
    for _ in range(times):
        driver = make(address)
        asking = asyncio.ensure_future(driver.ask("n0-d0", True, lambda _: None))
        await asyncio.sleep(0.05)
        at = time.monotonic_ns()
        driver.hang_up()
        await asyncio.sleep(0.05)
        asking.cancel()
        await asyncio.wait([asking])
        reader, writer = await asyncio.open_connection(host, int(port))
        writer.write(b"GET /closed HTTP/1.1\r\n\r\n")
        closed_at = json.loads((await reader.read(65536)).partition(b"\r\n\r\n")[2])["closed_at_ns"]
        writer.close()
        if closed_at > at:
            delays.append((closed_at - at) / 1e6)
    return {"cancel_ms": statistics.median(delays) if delays else None, "cancels_seen": f"{len(delays)}/{times}"}


async def main() -> None:
    kind, address, scenario, concurrency, seconds, *upstream = sys.argv[1:]
    make = DRIVERS[kind]
    if scenario == "cancel":
        measured = await cancel(make, address, upstream[0])
    else:
        measured = await load(make, address, scenario, int(concurrency), float(seconds))
    used = resource.getrusage(resource.RUSAGE_SELF)
    measured["client_cpu_s"] = used.ru_utime + used.ru_stime
    print(json.dumps(measured))


if __name__ == "__main__":
    asyncio.Runner(loop_factory=uvloop.new_event_loop).run(main())
