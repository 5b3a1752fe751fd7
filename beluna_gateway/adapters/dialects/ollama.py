"""Dialect `ollama`: Ollama's own `/api/chat`, one JSON object a line.

Source: Ollama's `docs/api.md` ("Generate a chat completion"), `api/types.go` (`ChatRequest`, `ChatResponse`) and
`server/routes.go` (`ChatHandler`, `streamResponse`).
"""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import JsonValue
from pydantic_core import to_json

from ...canonical import (
    AssistantMessage,
    BackendRawEvent,
    CanonicalRequest,
    Completed,
    ImagePart,
    JsonObject,
    JsonSchemaOutput,
    Message,
    OutputTextDelta,
    Part,
    ReasoningDelta,
    SpecificTool,
    SystemMessage,
    ToolMessage,
    Usage,
    UsageStats,
)
from ...config.settings import Capabilities
from ...errors import cut_off, protocol_violation, unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder, expect_object, expect_text, parse_object
from ..decoding.finish_reasons import finish_reason
from ..decoding.provider_errors import error_in_stream, read_error
from ..decoding.tool_calls import ToolCalls
from ..decoding.usage import count, usage_stats

# --- request -------------------------------------------------------------------------------------------------


class OllamaDialect(HttpDialect):
    name = "ollama"
    capabilities = Capabilities()
    framing: ClassVar[Literal["sse", "ndjson"]] = "ndjson"
    probe_path = "/api/tags"

    def auth_headers(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}  # ollama.com; a local server asks for nothing

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        body: JsonObject = {
            "model": model,
            "stream": request.stream,
            "messages": [_message(message, index) for index, message in enumerate(request.messages)],
        }
        choice = request.tool_choice
        if choice not in ("auto", "none"):
            word = f"specific ({choice.name})" if isinstance(choice, SpecificTool) else choice
            raise unsupported(f"tool_choice: ollama lets the model choose, it has no word for {word}")
        if request.tools and choice == "auto":  # nor has it one for "none": the tools are left out
            body["tools"] = [
                {
                    "type": "function",
                    "function": {
                        "name": tool.name,
                        **({"description": tool.description} if tool.description is not None else {}),
                        "parameters": tool.input_schema,
                    },
                }
                for tool in request.tools
            ]
        mode = request.output_mode
        if isinstance(mode, JsonSchemaOutput):
            body["format"] = mode.schema  # always enforced, by grammar: there is no less strict form
        elif mode == "json_object":
            body["format"] = "json"
        if request.enable_thinking is not None:
            body["think"] = request.enable_thinking
        if options := _options(request):
            body["options"] = options
        return HttpRequest("/api/chat", body)

    def decoder(self, request: CanonicalRequest) -> ResponseDecoder:
        return OllamaDecoder()


def _options(request: CanonicalRequest) -> JsonObject:
    sampling = request.sampling
    options: JsonObject = {}
    if request.max_output_tokens is not None:
        options["num_predict"] = request.max_output_tokens
    if sampling.temperature is not None:
        options["temperature"] = sampling.temperature
    if sampling.top_p is not None:
        options["top_p"] = sampling.top_p
    if sampling.seed is not None:
        options["seed"] = sampling.seed
    if sampling.stop is not None:
        options["stop"] = list(sampling.stop)
    return options


def _message(message: Message, index: int) -> JsonValue:
    where = f"messages[{index}]"
    if isinstance(message, ToolMessage):
        # `tool_call_id` tells apart two calls of one tool; a server older than it passes over it.
        return {
            "role": "tool",
            "content": message.text,
            "tool_name": message.tool_name,
            "tool_call_id": message.call_id,
        }
    turn = _content(message.parts, where)
    if isinstance(message, AssistantMessage):
        if message.tool_calls:
            turn["tool_calls"] = [
                {"id": call.id, "function": {"index": position, "name": call.name, "arguments": call.arguments}}
                for position, call in enumerate(message.tool_calls)
            ]
        return {"role": "assistant", **turn}
    return {"role": "system" if isinstance(message, SystemMessage) else "user", **turn}


def _content(parts: tuple[Part, ...], where: str) -> JsonObject:
    """Ollama knows one text a message, and beside it the images, in base64."""
    texts: list[str] = []
    images: list[JsonValue] = []
    for position, part in enumerate(parts):
        if not isinstance(part, ImagePart):
            texts.append(part.text)
        elif part.data is not None:
            images.append(part.data)
        else:
            raise unsupported(
                f"{where}.parts[{position}].image_url.url: ollama loads no images from the network; send a data: URL"
            )
    return {"content": "\n".join(texts), **({"images": images} if images else {})}


# --- response ------------------------------------------------------------------------------------------------


class OllamaDecoder(ResponseDecoder):
    """One `ChatResponse` a line; the one with `"done":true` is the last and carries the counts.

    A tool call comes whole, in one line, so it is finished as soon as it is there.
    """

    def __init__(self) -> None:
        self._calls = ToolCalls()
        self._calls_seen = 0
        self._finish = "stop"
        self._usage: UsageStats | None = None
        self._metadata: JsonObject = {}

    def feed(self, payload: bytes, events: list[BackendRawEvent]) -> None:
        self._chunk(parse_object(payload), events)

    def feed_whole(self, body: JsonObject, events: list[BackendRawEvent]) -> None:
        self._chunk(body, events)
        if not self.ended:
            raise protocol_violation('the backend sent an unstreamed answer that is not "done"')

    def finish(self, events: list[BackendRawEvent]) -> None:
        if not self.ended:
            raise cut_off('the backend\'s answer stopped without "done":true: it was cut off')
        if self._usage is not None:
            events.append(Usage(self._usage))
        events.append(Completed(finish_reason(self._finish, calls_ready=self._calls.any_ready), self._metadata))

    def _chunk(self, chunk: JsonObject, events: list[BackendRawEvent]) -> None:
        if chunk.get("error") is not None:
            raise error_in_stream(read_error(chunk))
        message = chunk.get("message")
        done = chunk.get("done")
        if message is not None:  # the last line of older servers has none
            self._message(expect_object(message, "a message"), events)
        elif not done:
            raise protocol_violation("the backend sent a line with neither `message` nor `done`")
        if done is True:
            self._done(chunk)
        elif done not in (False, None):
            raise protocol_violation("the backend sent `done` that is not a boolean")

    def _message(self, message: JsonObject, events: list[BackendRawEvent]) -> None:
        if thinking := message.get("thinking"):
            events.append(ReasoningDelta(expect_text(thinking, "thinking")))
        if content := message.get("content"):
            events.append(OutputTextDelta(expect_text(content, "content")))
        if calls := message.get("tool_calls"):
            if not isinstance(calls, list):
                raise protocol_violation("the backend sent `tool_calls` that is not an array")
            for call in calls:
                self._tool_call(expect_object(call, "a tool call"), events)

    def _tool_call(self, call: JsonObject, events: list[BackendRawEvent]) -> None:
        function = expect_object(call.get("function"), "a tool call's function")
        arguments = function.get("arguments")
        # Not `function.index`, which may begin at 0 again in the next line: each entry is a call of its own.
        key = self._calls_seen
        self._calls_seen += 1
        self._calls.fragment(
            key,
            events,
            call_id=expect_text(call.get("id"), "a tool call's id"),
            name=expect_text(function.get("name"), "a tool call's name"),
            arguments=to_json({} if arguments is None else expect_object(arguments, "arguments")).decode(),
        )
        self._calls.end(key, events)

    def _done(self, chunk: JsonObject) -> None:
        self.ended = self.done = True
        # `done` without a word: older servers, and llm/server.go's DoneReasonConnectionClosed.
        self._finish = expect_text(chunk.get("done_reason"), "a done_reason") or "stop"
        if isinstance(model := chunk.get("model"), str) and model:
            self._metadata["model"] = model
        self._usage = _usage(chunk)


_USAGE_KEYS = (
    "total_duration",
    "load_duration",
    "prompt_eval_count",
    "prompt_eval_duration",
    "eval_count",
    "eval_duration",
)


def _usage(chunk: JsonObject) -> UsageStats | None:
    """`api.Metrics`, which stands in the last line itself and not in an object of its own."""
    raw: JsonObject = {key: chunk[key] for key in _USAGE_KEYS if key in chunk}
    input_tokens, output_tokens = count(raw.get("prompt_eval_count")), count(raw.get("eval_count"))
    if input_tokens is None and output_tokens is None:
        return None
    return usage_stats(raw, input_tokens=input_tokens, output_tokens=output_tokens)
