"""A language server that does what its command line says: `lsp_peer.py LOG [behaviour[=value]…]`.

Well-behaved unless told otherwise: signed in, two panel items. LOG gets a line of JSON for each message that came in,
and one for the start with the environment. Uses the standard library only.
"""

import json
import os
import sys
import time
from typing import Any, NoReturn

LOG = sys.argv[1]
BEHAVIOUR = dict(word.partition("=")[::2] for word in sys.argv[2:])
ITEMS = BEHAVIOUR.get("items", "first,second").split(",")


def log(entry: dict[str, Any]) -> None:
    with open(LOG, "a", encoding="utf-8") as file:  # noqa: PTH123
        file.write(json.dumps(entry) + "\n")


def write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def send(message: dict[str, Any]) -> None:
    body = json.dumps({"jsonrpc": "2.0", **message}).encode()
    write(
        b"Content-Type: application/vscode-jsonrpc; charset=utf-8\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body)
    )


def read() -> dict[str, Any]:
    length = 0
    while (line := sys.stdin.buffer.readline()) != b"\r\n":
        if not line:
            raise SystemExit(0)
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
    message: dict[str, Any] = json.loads(sys.stdin.buffer.read(length))
    log(message)
    return message


def item(text: str) -> dict[str, Any]:
    return {"insertText": text, "range": None, "command": {"command": "github.copilot.didAcceptPanelCompletionItem"}}


PENDING: set[int] = set()


def wait_for_cancel(request_id: int) -> NoReturn:
    PENDING.add(request_id)
    raise Answered


class Answered(Exception):
    """There is no more to say to this request for now."""


def panel(request_id: int, params: dict[str, Any]) -> None:
    fault = BEHAVIOUR.get("panel", "")
    before_the_answer(request_id, fault)
    token = params.get("partialResultToken")
    if not token:
        send({"id": request_id, "result": {"items": [item(text) for text in ITEMS]}})
        return
    if fault == "empty-first":
        progress(token, "")
    progress(token, ITEMS[0])
    if fault == "exit-in-answer":
        raise SystemExit(7)
    if fault == "more-until-cancelled":
        wait_for_cancel(request_id)
    if fault == "deaf-after-item":
        return  # the reply never comes
    for text in ITEMS[1:]:
        progress(token, text)
    send({"id": request_id, "result": {"items": []}})


def progress(token: str, text: str) -> None:
    send({"method": "$/progress", "params": {"token": token, "value": {"items": [item(text)]}}})


NO_FRAMES = {
    "garbage": b"(node:1) Warning: something\n",
    "bad-length": b"Content-Length: -5\r\n\r\n{}",
    "no-length": b"Content-Type: text/plain\r\n\r\n{}",
    "bad-json": b"Content-Length: 3\r\n\r\n{]}",
    "not-an-object": b"Content-Length: 2\r\n\r\n[]",
    "neither": b'Content-Length: 17\r\n\r\n{"jsonrpc":"2.0"}',
    "huge": b"Content-Length: 99999999999\r\n\r\n{",
}


def before_the_answer(request_id: int, fault: str) -> None:
    if fault in NO_FRAMES:
        write(NO_FRAMES[fault])
        time.sleep(600)
    match fault:
        case "silent":
            wait_for_cancel(request_id)
        case "deaf":
            time.sleep(600)
        case "exit":
            raise SystemExit(7)
        case "close":
            os.close(1)
            time.sleep(600)
        case "error":
            send({"id": request_id, "error": {"code": int(BEHAVIOUR["code"]), "message": "as you wish"}})
            raise Answered
        case "item-without-text":
            send({"id": request_id, "result": {"items": [{"range": None}]}})
            raise Answered
        case "flood":
            sys.stderr.write("noise " * 500_000)
            sys.stderr.flush()
        case "ask":
            send({"id": "q1", "method": "window/showMessageRequest", "params": {"type": 3, "message": "Hello!"}})
            send({"id": "q2", "method": "workspace/configuration", "params": {"items": [{}, {}]}})
            send({"id": "q3", "method": "who/knows", "params": {}})
            for _ in range(3):
                read()


def answer(message: dict[str, Any]) -> None:
    request_id, params = message["id"], message.get("params") or {}
    match message["method"]:
        case "initialize":
            send({"method": "window/logMessage", "params": {"type": 3, "message": "starting"}})
            send({"id": request_id, "result": {"capabilities": {}}})
        case "checkStatus":
            status = BEHAVIOUR.get("status", "OK")
            send({"id": request_id, "result": {"status": status, "user": "octocat"}})
        case "textDocument/copilotPanelCompletion" if "no-panel" not in BEHAVIOUR:
            panel(request_id, params)
        case "textDocument/inlineCompletion":
            if BEHAVIOUR.get("inline") == "silent":
                wait_for_cancel(request_id)
            send({"id": request_id, "result": {"items": [item(text) for text in ITEMS]}})
        case "shutdown":
            send({"id": request_id, "result": None})
        case other:
            send({"id": request_id, "error": {"code": -32601, "message": f"Unhandled method {other}"}})


def main() -> None:
    log({"started": os.getpid(), "environment": dict(os.environ)})
    start = BEHAVIOUR.get("start")
    if start == "exit":
        sys.stderr.write("cannot find libsecret\n")
        raise SystemExit(3)
    if start == "garbage":
        write(b"Debugger listening on ws://127.0.0.1:9229\n")
    if start == "never":
        time.sleep(600)
    if start == "flood":
        sys.stderr.write("noise " * 500_000)
        sys.stderr.write(os.environ.get("GH_COPILOT_TOKEN", "") + " is no good\n")
        raise SystemExit(4)
    time.sleep(float(BEHAVIOUR.get("slow", "0")))
    while True:
        message = read()
        if message.get("method") == "exit":
            raise SystemExit(0)
        if message.get("method") == "$/cancelRequest" and message["params"]["id"] in PENDING:
            PENDING.remove(message["params"]["id"])
            send({"id": message["params"]["id"], "error": {"code": -32800, "message": "Request cancelled"}})
        if "id" in message and "method" in message:
            try:
                answer(message)
            except Answered:
                continue


if __name__ == "__main__":
    main()
