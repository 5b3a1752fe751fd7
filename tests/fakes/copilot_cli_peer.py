"""A Copilot CLI that does what its command line says: `copilot_cli_peer.py LOG [behaviour[=value]…] [--flags…]`.

Well-behaved unless told otherwise: it says where it listens, takes one connection, reads each session's history from
the client's file system, and answers "hello world". LOG gets a line of JSON for each message that came in, each
history, and one for the start with the environment. Uses the standard library only.
"""

import asyncio
import json
import os
import sys
from itertools import count
from typing import Any
from uuid import uuid4

LOG = sys.argv[1]
BEHAVIOUR = dict(word.partition("=")[::2] for word in sys.argv[2:] if not word.startswith("--"))


def log(entry: dict[str, Any]) -> None:
    with open(LOG, "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(json.dumps(entry) + "\n")


class Connection:
    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader, self._writer = reader, writer
        self._ids = count(1)
        self._asked: dict[int, asyncio.Future[Any]] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def send(self, message: dict[str, Any]) -> None:
        body = json.dumps({"jsonrpc": "2.0", **message}).encode()
        self._writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))

    async def ask(self, method: str, **params: Any) -> Any:
        request_id = next(self._ids)
        self._asked[request_id] = asyncio.get_running_loop().create_future()
        self.send({"id": request_id, "method": method, "params": params})
        return await self._asked[request_id]

    def event(self, session_id: str, kind: str, **data: Any) -> None:
        event = {
            "type": kind,
            "data": data,
            "id": str(uuid4()),
            "timestamp": "2026-01-01T00:00:00.000Z",
            "parentId": None,
        }
        self.send({"method": "session.event", "params": {"sessionId": session_id, "event": event}})

    async def serve(self) -> None:
        while header := await self._reader.readline():
            length = int(header.partition(b":")[2])
            await self._reader.readline()
            message = json.loads(await self._reader.readexactly(length))
            if "method" not in message:
                self._asked.pop(message["id"]).set_result(message.get("result"))
                continue
            log(message)
            task = asyncio.create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _answer(self, message: dict[str, Any]) -> None:
        method, params = message["method"], message.get("params") or {}
        if BEHAVIOUR.get("deaf-to") == method:
            return
        if BEHAVIOUR.get("error-to") == method:
            self.send({"id": message["id"], "error": {"code": -32603, "message": "as you wish"}})
            return
        result: Any = {"success": True}
        match method:
            case "connect":
                assert params["token"] == os.environ["COPILOT_CONNECTION_TOKEN"]
                result = {"ok": True, "protocolVersion": 3, "version": "0"}
            case "auth.getStatus":
                result = {"isAuthenticated": "signed-out" not in BEHAVIOUR, "login": "octocat"}
            case "session.resume":
                path = "/session/events.jsonl"
                file = await self.ask("sessionFs.readFile", sessionId=params["sessionId"], path=path)
                missing = await self.ask("sessionFs.stat", sessionId=params["sessionId"], path="/session/none")
                log({"history": file["content"], "missing": missing["error"]["code"]})
                result = {"sessionId": params["sessionId"]}
            case "session.sendMessages":
                self._turn(params["sessionId"])
                if BEHAVIOUR.get("turn") == "flood":
                    await self._writer.drain()
                    log({"method": "flooded"})  # most of it has been read
                result = {"messageIds": []}
        if "id" in message:
            self.send({"id": message["id"], "result": result})

    def _turn(self, session_id: str) -> None:
        turn = BEHAVIOUR.get("turn")
        if turn == "silent":
            return
        for text in ("hello", " world"):
            self.event(session_id, "assistant.message_delta", deltaContent=text, messageId="m")
            if turn == "exit":
                sys.stderr.write("out of memory\n")
                os._exit(9)
            if turn == "close":
                self._writer.close()
                return
            if turn == "hang":
                return
        if turn == "flood":
            for _ in range(500):
                self.event(session_id, "assistant.message_delta", deltaContent="x" * 1000, messageId="m")
        if turn == "fail":
            self.event(session_id, "model.call_failure", source="top_level", statusCode=503, errorMessage='"busy"')
            return
        calls = {"tools": ("{}", "tool_calls"), "cut-call": ('{"city', "content_filter")}
        piece, finish = calls.get(turn or "", ("", "stop"))
        requests = []
        if piece:
            self.event(session_id, "assistant.tool_call_delta", toolCallId="c", toolName="weather", inputDelta=piece)
            # Of a call that was cut, too: the real program says `{}` for arguments that it could not read.
            requests = [{"toolCallId": "c", "name": "weather", "arguments": {}}]
        self.event(session_id, "assistant.usage", model="m1", inputTokens=1, outputTokens=2, finishReason=finish)
        self.event(session_id, "assistant.message", messageId="m", content="hello world", toolRequests=requests)
        self.event(session_id, "session.idle")


async def main() -> None:
    log({"started": os.getpid(), "environment": dict(os.environ), "args": sys.argv})
    if BEHAVIOUR.get("start") == "exit":
        sys.stderr.write("cannot unpack\n")
        raise SystemExit(3)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await Connection(reader, writer).serve()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    if BEHAVIOUR.get("start") != "silent":
        print(f"CLI server listening on port {server.sockets[0].getsockname()[1]}", flush=True)  # noqa: T201
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(main())
