#!/usr/bin/env python3
"""Asks a model through beluna-gateway and prints the answer as it comes: ask.py SOCKET QUESTION. Ctrl-C cancels."""

import json
import signal
import socket
import sys
from typing import Any


def main() -> int:
    path, question = sys.argv[1:]
    with socket.socket(socket.AF_UNIX) as connection:
        try:
            connection.connect(path)
        except OSError as mistake:
            print(f"no daemon answers at {path}: {mistake.strerror}", file=sys.stderr)
            return 1

        def send(frame: dict[str, Any]) -> None:
            connection.sendall(json.dumps(frame).encode() + b"\n")

        def cancel(*_: object) -> None:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # a second one does not wait: closing the socket cancels, too
            send({"type": "cancel", "request_id": "q1"})

        message = {"role": "user", "parts": [{"text": {"text": question}}]}
        send({"type": "infer", "request_id": "q1", "messages": [message]})
        signal.signal(signal.SIGINT, cancel)

        for line in connection.makefile("rb"):
            frame = json.loads(line)
            match frame["type"]:
                case "output_text_delta":
                    print(frame["delta"], end="", flush=True)
                case "completed":
                    print()
                    return 0
                case "failed" | "rejected":
                    error = frame["error"]
                    again = " (may succeed if it is sent again)" if error["retryable"] else ""
                    print(f"{error['kind']}: {error['message']}{again}", file=sys.stderr)
                    return 1
                # `started`, `usage`, and what a newer daemon says besides: nothing to do
    print("the daemon closed the connection before the answer was complete", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
