"""JSON-RPC 2.0 with `Content-Length` framing, as language servers speak it over a child's stdin and stdout.

`FrameParser` and `encode` are pure; `RpcConnection` is a thin shell around a reader and a writer.

Why not pygls, which has a client side: measured with 2.1.1, its import stops the event loop, and with it every
client's stream, for 220 to 370 ms and costs 19 MB. After a cancelled request whose answer comes late its read loop is
dead, and every later request hangs. It starts the program itself, past our guard, and its messages have no size limit.
What would be left of it for a client of four methods are these lines.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress

from pydantic import JsonValue
from pydantic_core import from_json, to_json

from ...canonical import JsonObject
from ...errors import ErrorKind, GatewayError, protocol_violation

METHOD_NOT_FOUND = -32601

# The two headers of the specification take 60 bytes; anything longer than this is not a header.
_MAX_HEADER_BYTES = 4 * 1024

_READ_SIZE = 64 * 1024


class RpcError(Exception):
    """The peer's error answer to a request."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


_KIND_OF_CODE: dict[int, tuple[ErrorKind, bool]] = {
    # GitHub's: the enumeration in the language server's own code
    1000: ("authentication", False),  # NoCopilotToken
    1001: ("authentication", False),  # DeviceFlowFailed
    1002: ("backend_permanent", False),  # CopilotNotAvailable: switched off for this document or account
    1003: ("authentication", False),  # NoGitHubToken
    1004: ("authentication", False),  # CodeFlowFailed
    1006: ("authentication", False),  # AuthEnvVarConflict
    # JSON-RPC's and the Language Server Protocol's
    -32700: ("protocol_violation", False),  # ParseError: the server could not parse the request
    -32600: ("invalid_request", False),
    METHOD_NOT_FOUND: ("backend_permanent", False),
    -32602: ("invalid_request", False),
    -32002: ("backend_permanent", False),  # ServerNotInitialized: the handshake was refused
    # Cancelled by the server or outdated: -32800, -32801, -32802. Internal errors: -32603. These are transient.
}


def rpc_failure(error: RpcError) -> GatewayError:
    """Converts the peer's error. Only the code decides the kind, never the wording."""
    kind, retryable = _KIND_OF_CODE.get(error.code, ("backend_transient", True))
    return GatewayError(
        kind, f"the program answered: {error.message}", retryable=retryable, provider_code=str(error.code)
    )


# --- pure ----------------------------------------------------------------------------------------------------


def encode(message: JsonObject) -> bytes:
    """One message as it goes over the wire."""
    body = to_json(message)
    return b"Content-Length: %d\r\n\r\n%b" % (len(body), body)


class FrameParser:
    """Bytes in, whole messages out; how the bytes were split makes no difference.

    Args:
        limit: The most bytes that one message may have; more is a `protocol_violation`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._length: int | None = None  # of the body whose header has been read

    def feed(self, chunk: bytes) -> list[JsonObject]:
        """The messages that `chunk` completes.

        Raises:
            GatewayError: `protocol_violation`: what came is no frame. There is no way back into step after that.
        """
        self._buffer += chunk
        messages: list[JsonObject] = []
        while True:
            if self._length is None:
                self._length = self._header()
            if self._length is None or len(self._buffer) < self._length:
                return messages
            body = bytes(self._buffer[: self._length])
            del self._buffer[: self._length]
            self._length = None
            messages.append(_message(body))

    def _header(self) -> int | None:
        """The length of the next body, None where the header has not come whole."""
        end = self._buffer.find(b"\r\n\r\n")
        header = bytes(self._buffer if end < 0 else self._buffer[:end])
        lines = header.split(b"\r\n")
        # The last line of an unfinished header may still become one. Other output is refused at its first line end and
        # not at the limit: a program that prints one line to standard output may then be silent for ever.
        whole = lines if end >= 0 else lines[:-1]
        if any(b":" not in line for line in whole) or b"\n" in header.replace(b"\r\n", b""):
            raise protocol_violation(f"the program wrote something that is no header to its output: {_shown(header)}")
        if end < 0:
            if len(header) > _MAX_HEADER_BYTES:
                raise protocol_violation(f"the program sent a header of more than {_MAX_HEADER_BYTES} bytes")
            return None
        fields = {name.strip().lower(): value.strip() for name, _, value in (line.partition(b":") for line in whole)}
        length = fields.get(b"content-length", b"")
        if not length.isdigit():  # int() would also take signs and underscores
            raise protocol_violation(f"the program sent a message without a Content-Length: {_shown(header)}")
        if len(length) > 18 or int(length) > self._limit:
            raise protocol_violation(
                f"the program sent one message of {_shown(length)} bytes, more than {self._limit} "
                "(reliability.max_event_bytes)"
            )
        del self._buffer[: end + 4]
        return int(length)


def _message(body: bytes) -> JsonObject:
    try:
        message = from_json(body, cache_strings="keys")
    except ValueError as error:
        raise protocol_violation(f"the program sent a message that is not JSON: {error}") from error
    if not isinstance(message, dict):
        raise protocol_violation(f"the program sent a message that is not an object but {type(message).__name__}")
    return message


def _shown(data: bytes) -> str:
    return repr(data[:80].decode("utf-8", "replace"))


# --- the connection ------------------------------------------------------------------------------------------


class RpcRequest:
    """A request under way. `await request.answer()`, or `cancel()` it."""

    def __init__(self, connection: RpcConnection, request_id: int, future: asyncio.Future[JsonValue]) -> None:
        self._connection = connection
        self._id = request_id
        self.future = future

    async def answer(self) -> JsonValue:
        """The result.

        Being cancelled in here cancels the waiting only, not the request: say `cancel()`.

        Raises:
            RpcError: The peer answered with an error.
            GatewayError: The connection ended before the answer.
        """
        await asyncio.wait([self.future])
        return self.future.result()

    def cancel(self) -> None:
        """Cancels the request at the peer, which still answers: an error or, if it was faster, a result."""
        if not self.future.done():
            self._connection.notify("$/cancelRequest", {"id": self._id})

    async def settled(self) -> None:
        """Returns when the peer has answered in any way, or the connection has ended."""
        await asyncio.wait([self.future])


class RpcConnection:
    """Both directions of one peer.

    Args:
        reader: From the peer.
        writer: To the peer.
        limit: The most bytes that a message of the peer may have.
        on_request: What to answer to each of the peer's own requests, by method; others are refused.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        *,
        limit: int,
        on_request: Mapping[str, Callable[[JsonValue], JsonValue]],
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._parser = FrameParser(limit)
        self._on_request = on_request
        self._waiting: dict[int, asyncio.Future[JsonValue]] = {}
        self._on_progress: dict[str, Callable[[JsonValue], None]] = {}
        self._last_id = 0
        self._failure: GatewayError | None = None

    async def run(self) -> None:
        """Reads until the peer closes its output.

        Raises:
            GatewayError: `protocol_violation`: the peer does not speak JSON-RPC (any more).
        """
        with suppress(ConnectionError):
            while chunk := await self._reader.read(_READ_SIZE):
                for message in self._parser.feed(chunk):
                    self._take(message)

    def fail(self, failure: GatewayError) -> None:
        """Ends every request under way, and every later one, with (a copy of) `failure`. The first failure counts."""
        if self._failure is None:
            self._failure = failure
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(self._failure.replace())
                future.exception()  # marked as retrieved: the waiting task may be gone

    def request(self, method: str, params: JsonValue) -> RpcRequest:
        """Sends a request. Raises `GatewayError` where the connection has ended."""
        if self._failure is not None:
            raise self._failure.replace()
        self._last_id += 1
        future: asyncio.Future[JsonValue] = asyncio.get_running_loop().create_future()
        self._waiting[self._last_id] = future
        self._send({"jsonrpc": "2.0", "id": self._last_id, "method": method, "params": params})
        return RpcRequest(self, self._last_id, future)

    async def call(self, method: str, params: JsonValue) -> JsonValue:
        """The result of a request, which is cancelled at the peer where this is cancelled here. Raises as `answer`."""
        request = self.request(method, params)
        try:
            return await request.answer()
        finally:
            request.cancel()

    def notify(self, method: str, params: JsonValue) -> None:
        """Sends a notification; does nothing where the connection has ended."""
        if self._failure is None:
            self._send({"jsonrpc": "2.0", "method": method, "params": params})

    def on_progress(self, token: str, handler: Callable[[JsonValue], None] | None) -> None:
        """Sets the callback for the values of `$/progress` with `token`; None removes it."""
        if handler is None:
            self._on_progress.pop(token, None)
        else:
            self._on_progress[token] = handler

    def _send(self, message: JsonObject) -> None:
        # Not drained: what is in the pipe is bounded by the requests that the budget lets in, and a program that does
        # not read is found by the timers.
        with suppress(ConnectionError, RuntimeError):  # the program has just ended: `run` and `fail` report it
            self._writer.write(encode(message))

    def _take(self, message: JsonObject) -> None:
        method, request_id = message.get("method"), message.get("id")
        if isinstance(method, str):
            if request_id is not None:
                self._answer(method, request_id, message.get("params"))
            elif method == "$/progress":
                self._progress(message.get("params"))
            return  # other notifications (logs, status) do not concern an answer
        if isinstance(request_id, int) and not isinstance(request_id, bool):
            future = self._waiting.pop(request_id, None)
            if future is None or future.done():
                return  # the answer to a request that was abandoned
            if message.get("error") is not None:
                future.set_exception(_rpc_error(message["error"]))
                future.exception()
            elif "result" in message:
                future.set_result(message["result"])
            else:
                future.set_exception(protocol_violation("the program sent an answer with neither result nor error"))
                future.exception()
            return
        raise protocol_violation("the program sent a message that is neither a request nor an answer to one of ours")

    def _answer(self, method: str, request_id: JsonValue, params: JsonValue) -> None:
        answer: JsonObject = {"jsonrpc": "2.0", "id": request_id}
        if method in self._on_request:
            answer["result"] = self._on_request[method](params)
        else:
            answer["error"] = {"code": METHOD_NOT_FOUND, "message": f"not known here: {method}"}
        self._send(answer)

    def _progress(self, params: JsonValue) -> None:
        if isinstance(params, dict) and (handler := self._on_progress.get(str(params.get("token")))) is not None:
            handler(params.get("value"))


def _rpc_error(error: JsonValue) -> Exception:
    if isinstance(error, dict):
        code, message = error.get("code"), error.get("message")
        if isinstance(code, int) and not isinstance(code, bool):
            return RpcError(code, message if isinstance(message, str) else "no reason given")
    return protocol_violation("the program sent an error without a code")
