"""Dialect `openai_responses`: OpenAI's Responses API. The request; `openai_responses_decoder` has the answer.

Source: the OpenAI API reference, "Responses" (`openai.types.responses.ResponseCreateParams`), the guide "Reasoning
models", section "Encrypted reasoning items", and what llama.cpp's server takes.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from pydantic import JsonValue

from ...canonical import (
    AssistantMessage,
    CanonicalRequest,
    FilePart,
    ImagePart,
    JsonObject,
    JsonSchemaOutput,
    MediaPart,
    Message,
    Part,
    SpecificTool,
    SystemMessage,
    ToolMessage,
)
from ...config.settings import BackendProfile, Capabilities, is_openai
from ...errors import invalid_request, unsupported
from ..base import HttpDialect, HttpRequest, ResponseDecoder
from ..encoding.caching import caching, has_cache_lifetimes, openai_cache
from ..encoding.call_ids import CallIds, CallPosition, IdRule, answered_calls
from ..encoding.call_names import PastNames
from ..encoding.provider_state import CallPiece, OpaquePiece, Origin, TextPiece, TurnNotes, part_path, pieces
from ..encoding.reasoning import responses_reasoning
from ..encoding.tool_schemas import wants_whole_schemas, whole_schema
from ..encoding.turns import NOTHING_TO_ANSWER
from .openai_responses_decoder import ResponsesDecoder
from .openai_responses_state import CARRIED, MAX_ID_CHARACTERS, without_id

DIALECT = "openai_responses"


class OpenAIResponsesDialect(HttpDialect):
    name = DIALECT
    capabilities = Capabilities()

    def __init__(self, profile: BackendProfile) -> None:
        super().__init__(profile)
        self._at_openai = is_openai(profile.backend.endpoint)
        self._whole_schemas = wants_whole_schemas(profile.backend.endpoint)

    def auth_headers(self, secret: str) -> dict[str, str]:
        return {"Authorization": f"Bearer {secret}"}

    def encode(self, request: CanonicalRequest, model: str) -> HttpRequest:
        history = _History(request, Origin(DIALECT, self.profile.id, model))
        body: JsonObject = {
            "model": model,
            "stream": request.stream,
            # Every request carries its whole history, so there is nothing to keep at the provider.
            "store": False,
            "input": history.items(),
        }
        if request.tools:
            body["tools"] = [
                {
                    "type": "function",
                    "name": tool.name,
                    **({"description": tool.description} if tool.description is not None else {}),
                    "parameters": whole_schema(tool.input_schema) if self._whole_schemas else tool.input_schema,
                    # Left out it means true here, which refuses schemas that do not forbid additional properties.
                    "strict": tool.strict or False,
                }
                for tool in request.tools
            ]
            choice = request.tool_choice
            body["tool_choice"] = (
                {"type": "function", "name": choice.name} if isinstance(choice, SpecificTool) else choice
            )
            if (parallel := self.may_call_in_parallel(request)) is not None:
                body["parallel_tool_calls"] = parallel
        if request.service_tier is not None:
            body["service_tier"] = request.service_tier
        mode = request.output_mode
        if isinstance(mode, JsonSchemaOutput):
            body["text"] = {
                "format": {"type": "json_schema", "name": mode.name, "schema": mode.schema, "strict": mode.strict}
            }
        elif mode == "json_object":
            body["text"] = {"format": {"type": "json_object"}}
        if request.max_output_tokens is not None:
            body["max_output_tokens"] = request.max_output_tokens
        body |= _sampling(request)
        asked = caching(request, self.profile.backend.cache)
        lifetimes = asked.long and has_cache_lifetimes(model)
        body |= openai_cache(asked, DIALECT, at_openai=self._at_openai, lifetimes=lifetimes)
        body |= _reasoning(request, carries_reasoning=history.carries_reasoning)
        return HttpRequest("/responses", body)

    def decoder(self, request: CanonicalRequest, model: str) -> ResponseDecoder:
        notes = TurnNotes(DIALECT, self.profile.id, model)
        return ResponsesDecoder(
            notes,
            request.max_output_tokens,
            self.max_event_bytes,
            annotated=request.include_annotations,
        )


def _sampling(request: CanonicalRequest) -> JsonObject:
    sampling = request.sampling
    for field_name, value in (("seed", sampling.seed), ("stop", sampling.stop)):
        if value is not None:
            raise unsupported(f"sampling.{field_name}: the Responses API has no such parameter")
    wanted: JsonObject = {"temperature": sampling.temperature, "top_p": sampling.top_p}
    return {key: value for key, value in wanted.items() if value is not None}


def _reasoning(request: CanonicalRequest, *, carries_reasoning: bool) -> JsonObject:
    reasoning = responses_reasoning(request)
    body: JsonObject = {"reasoning": reasoning} if reasoning else {}
    # Only where the request shows that the model reasons: one that does not answers HTTP 400 "Encrypted content is not
    # supported with this model". Where nobody asks, newer models send encrypted reasoning of their own accord.
    if reasoning.get("effort", "none") != "none" or "summary" in reasoning or carries_reasoning:
        body["include"] = ["reasoning.encrypted_content"]
    return body


# "Invalid 'input[4].call_id': string too long. Expected a string with maximum length 64" (HTTP 400); item ids likewise.
# "Duplicate function_call_output for call_id 'terminal:0'. Each function_call must have exactly one matching
# function_call_output" (HTTP 400, hermes-agent #102629): who makes ids as Kimi does counts calls anew in each turn.
_CALL_IDS = IdRule(re.compile(rf".{{1,{MAX_ID_CHARACTERS}}}", re.DOTALL), unique="history")


class _History:
    """The messages of one request as input items."""

    def __init__(self, request: CanonicalRequest, origin: Origin) -> None:
        self._messages = messages = request.messages
        self._names = PastNames(request.tools)
        self._origin = origin
        self._answered = answered_calls(messages)
        self._ids = CallIds(messages, self._answered, _CALL_IDS)
        self._callers: dict[CallPosition, JsonValue] = {}  # of calls that a program made
        self._sent: set[str] = set()  # the ids of reasoning
        self.carries_reasoning = False
        """Encrypted reasoning of earlier turns is among the items."""

    def items(self) -> list[JsonValue]:
        """The input.

        Raises:
            GatewayError: `invalid_request`, where nothing but system messages is left.
        """
        items: list[JsonValue] = []
        asks = False
        for index, message in enumerate(self._messages):
            own = list(self._items(index, message))
            asks = asks or (bool(own) and not isinstance(message, SystemMessage))
            items += own
        if not asks:
            raise invalid_request(NOTHING_TO_ANSWER)
        return items

    def _items(self, index: int, message: Message) -> Iterator[JsonValue]:
        path = f"messages[{index}]"
        match message:
            case ToolMessage(_, _, parts):
                call_id = self._ids.of_result(index)
                output = _content(parts, path, media=True) or ""
                caller = self._callers.get(self._answered[index]) if index in self._answered else None
                called: JsonObject = {} if caller is None else {"caller": caller}
                yield {"type": "function_call_output", "call_id": call_id, "output": output, **called}
            case AssistantMessage():
                turn = list(self._turn(index, message, path))
                if any(item.get("type") != "reasoning" for item in turn):  # reasoning that led to nothing is refused
                    self.carries_reasoning |= any("encrypted_content" in item for item in turn)
                    yield from _followed(turn)
            case _:
                system = isinstance(message, SystemMessage)
                if content := _content(message.parts, path, media=not system):
                    yield {"type": "message", "role": "system" if system else "user", "content": content}

    def _turn(self, index: int, message: AssistantMessage, path: str) -> Iterator[JsonObject]:
        # "Item 'msg_…' of type 'message' was provided without its required 'reasoning' item: 'rs_…'" (HTTP 400)
        reasoned = False  # reasoning with its id stands before
        for piece in pieces(message, self._origin, path):
            match piece:
                case OpaquePiece(value):
                    item = _without_long_id(value)
                    if item.get("type") == "reasoning":
                        item = self._once(item)
                        reasoned = "id" in item
                    yield item
                case TextPiece(text, extra) if text:
                    item = {"type": "message", "role": "assistant", "content": text, **_carried(extra, reasoned)}
                    if "id" in item:  # an item of the API's own is more than a text
                        item["content"] = [{"type": "output_text", "text": text, "annotations": []}]
                        item["status"] = "completed"
                    yield item
                case CallPiece(call, position, extra):
                    call_id = self._ids.of_call(index, position)
                    if "caller" in extra:
                        self._callers[index, position] = extra["caller"]
                    item = {"type": "function_call", "call_id": call_id, "name": self._names.sent(call.name)}
                    yield item | {"arguments": call.arguments_json, **_carried(extra, reasoned)}
                case ImagePart() | FilePart():
                    raise unsupported(f"{part_path(message, piece, path)}.{piece.field}: {_NO_MEDIA_HERE}")

    def _once(self, item: JsonObject) -> JsonObject:
        """`item` without an id that was sent before: one turn's state may stand on two messages.

        "Duplicate item found with id rs_…. Remove duplicate items from your input" (HTTP 400, vercel/ai #7883)
        """
        item_id = item.get("id")
        if isinstance(item_id, str):
            if item_id in self._sent:
                return without_id(item)
            self._sent.add(item_id)
        return item


def _followed(turn: list[JsonObject]) -> list[JsonObject]:
    """The turn, with the ids of reasoning that nothing in it came of left out.

    "Item 'rs_…' of type 'reasoning' was provided without its required following item" (HTTP 400)
    """
    end = max(position for position, item in enumerate(turn) if item.get("type") != "reasoning") + 1
    return turn[:end] + [without_id(item) for item in turn[end:]]


def _without_long_id(item: JsonObject) -> JsonObject:
    item_id = item.get("id")
    return without_id(item) if isinstance(item_id, str) and len(item_id) > MAX_ID_CHARACTERS else item


def _carried(extra: JsonObject, reasoned: bool) -> JsonObject:
    """What an item had besides its content. Its id goes back only together with the reasoning that it needs."""
    carried = _without_long_id({key: extra[key] for key in CARRIED if key in extra})
    return carried if reasoned else without_id(carried)


_NO_MEDIA_HERE = "the Responses API takes images and files of users and tools only"


def _content(parts: tuple[Part, ...], path: str, *, media: bool) -> JsonValue:
    """One text as a string, which every server takes; anything else as parts, so that their borders stay.

    Empty texts, which the API refuses, are left out; None where nothing is left.
    """
    content: list[JsonValue] = []
    texts: list[str] = []
    for position, part in enumerate(parts):
        if not isinstance(part, MediaPart):
            if part.text:
                texts.append(part.text)
                content.append({"type": "input_text", "text": part.text})
        elif not media:
            raise unsupported(f"{path}.parts[{position}].{part.field}: {_NO_MEDIA_HERE}")
        elif isinstance(part, ImagePart):
            content.append({"type": "input_image", "image_url": part.data_url, "detail": "auto"})
        elif part.url is not None:  # has its name in it
            content.append({"type": "input_file", "file_url": part.url})
        else:
            content.append({"type": "input_file", "filename": part.file_name, "file_data": part.data_url})
    return texts[0] if len(content) == len(texts) == 1 else content or None
