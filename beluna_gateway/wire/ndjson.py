"""Decodes a client's lines into frames, and encodes events as lines.

Reading is strict: UTF-8, one JSON object (`strict_json`), a known frame. Of two equal keys the last counts.
Text deltas are written by templates: an answer of a thousand tokens is a thousand lines that differ in one string.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from json.encoder import encode_basestring as quoted  # the C function behind json.dumps(ensure_ascii=False)
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import to_json

from ..canonical import (
    Annotation,
    Completed,
    Embedding,
    Failed,
    GatewayEvent,
    ModelList,
    OperationResult,
    OtherFinishReason,
    OutputTextDelta,
    ReasoningDelta,
    Started,
    TokenCount,
    ToolCallDelta,
    ToolCallReady,
    Usage,
    UsageStats,
)
from ..errors import ErrorKind, GatewayError, forget_frames
from ..schemas import field_errors
from . import json_pieces
from .frames import CLIENT_FRAMES, MOST_MISTAKES, ClientFrameType
from .unknown_keys import take_out_unknown_keys

F = TypeVar("F", bound=ClientFrameType)


class RejectedLine(Exception):
    """A line that is no frame, and had no effect. `request_id` is None where the line has none that can be read."""

    def __init__(self, message: str, request_id: str | None = None, kind: ErrorKind = "invalid_request") -> None:
        super().__init__(message)
        self.error = GatewayError(kind, message)
        self.request_id = request_id

    @classmethod
    def of(cls, error: GatewayError, request_id: str | None) -> RejectedLine:
        """A rejection with the fields of `error`."""
        rejected = cls(error.message, request_id)
        rejected.error = error
        return rejected


# --- reading -------------------------------------------------------------------------------------------------


def decode(line: bytes) -> ClientFrameType:
    """The frame in `line`.

    Raises:
        RejectedLine: There is none; the message says why.
    """
    try:
        value, mistake = json_pieces.parse(line)
    except ValueError as error:
        raise RejectedLine(f"the line is not JSON: {error}") from None
    values = [value]
    del value
    try:
        return _frame(values, mistake)
    except RejectedLine as rejected:
        # What led to it holds parts of the value, which is freed here.
        forget_frames(rejected)
        rejected.__context__ = None
        raise
    finally:
        json_pieces.free(values)


def _frame(values: list[Any], mistake: str | None) -> ClientFrameType:
    """The frame of `values[0]`. What is removed from it unread is appended to `values`, which the caller frees."""
    value = values[0]
    if not isinstance(value, dict):
        raise RejectedLine(f"the line is JSON, but not an object: found {_json_type(value)}")
    if mistake is not None:
        raise RejectedLine(f"the line is refused: {mistake}", _readable_id(value))
    kind = value.get("type")
    model = CLIENT_FRAMES.get(kind) if isinstance(kind, str) else None
    if model is None:
        found = "no `type`" if "type" not in value else f"`type` {_shown(kind)}"
        raise RejectedLine(f"{found}; expected one of {', '.join(CLIENT_FRAMES)}", _readable_id(value))
    if json_pieces.are_pieces_wanted():
        values += take_out_unknown_keys(value, model)
    return validated(model, value)


def validated(model: type[F], value: dict[str, Any]) -> F:
    """The frame of one kind with the fields of `value`.

    Raises:
        RejectedLine: There is none; the message names each mistake by its path.
    """
    try:
        return model.model_validate(value)  # type: ignore[return-value]  # mypy takes the bound of F for F
    except ValidationError as error:
        raise RejectedLine(_explain(error, value), _readable_id(value)) from None


def _readable_id(value: dict[str, Any]) -> str | None:
    request_id = value.get("request_id")
    return request_id if isinstance(request_id, str) and 1 <= len(request_id) <= 128 else None


def _explain(error: ValidationError, value: Any) -> str:
    """The mistakes of a frame, each with its path; never the values, which may be private."""
    mistakes = error.errors(include_input=False, include_url=False)
    sentences = [_mistake(details, value) for details in mistakes[:MOST_MISTAKES]]
    return "; ".join(sentences) + ("; …" if len(mistakes) > MOST_MISTAKES else "")


def _mistake(details: Mapping[str, Any], value: Any) -> str:
    path, _ = field_errors.locate(details, value, _is_tag)
    if details["type"] == "missing":
        return f"{path}: missing, but required"
    if details["type"] == "extra_forbidden":
        return f"{path}: unknown field"
    if details["type"] in ("part", "route"):
        return f"{path}: {details['msg']}"
    return f"{path}: expected {field_errors.expected(details)}"


def _is_tag(before: int | str, step: str) -> bool:
    """`parts` is the one list of a tagged union, and `route` the one field."""
    if before == "route":
        return step in ("alias", "key")
    return isinstance(before, int) and step in ("text", "image_url", "json", "file")


def _shown(kind: Any) -> str:
    return quoted(kind[: field_errors.MAX_NAME_CHARACTERS]) if isinstance(kind, str) else _json_type(kind)


def _json_type(value: Any) -> str:
    if value is None:
        return "null"
    names = {
        bool: "a boolean",
        int: "a number",
        float: "a number",
        str: "a string",
        list: "an array",
        dict: "an object",
    }
    return names[type(value)]


# --- writing -------------------------------------------------------------------------------------------------


class FrameEncoder:
    """Writes the frames of one request. Its id is escaped once, here, and not once per token."""

    def __init__(self, request_id: str) -> None:
        self._id = name = to_json(request_id).decode()
        self._text = '{"type":"output_text_delta","request_id":' + name + ',"delta":'
        self._reasoning = '{"type":"reasoning_delta","request_id":' + name + ',"delta":'

    def events(self, events: Iterable[GatewayEvent]) -> bytes:
        """The frames of a batch, one line each, ready for one write."""
        lines = []
        for event in events:
            if type(event) is OutputTextDelta:  # nearly every event is one, so it is asked first
                lines.append(f"{self._text}{quoted(event.delta)}}}\n")
            elif type(event) is ReasoningDelta:
                lines.append(f"{self._reasoning}{quoted(event.delta)}}}\n")
            else:
                lines.append(self._rare(event))
        return "".join(lines).encode()

    def _rare(self, event: GatewayEvent) -> str:
        # Not by `match` nor `isinstance`, which take several times as long to say no.
        if type(event) is Started:
            return self._frame("started", {"backend_id": event.backend_id, "model": event.model})
        if type(event) is Completed:
            reason = event.finish_reason
            word = {"other": reason.other} if isinstance(reason, OtherFinishReason) else reason
            return self._frame("completed", {"finish_reason": word, "backend_metadata": event.backend_metadata})
        if type(event) is Usage:
            return self._frame("usage", {"usage": usage_object(event.usage)})
        if type(event) is ToolCallDelta:
            delta = {"call_id": event.call_id, "name": event.name, "arguments_delta": event.arguments_delta}
            return self._frame("tool_call_delta", delta)
        if type(event) is ToolCallReady:
            call = event.call
            ready = {"id": call.id, "name": call.name, "arguments_json": call.arguments_json, "status": "ready"}
            return self._frame("tool_call_ready", {"call": ready})
        if type(event) is Annotation:
            return self._frame("annotation", {"annotation": annotation_object(event)})
        if type(event) is Failed:
            return self._frame("failed", {"error": error_object(event.error)})
        raise TypeError(f"{event!r} has no frame")

    def result(self, result: OperationResult) -> bytes:
        """The frame that answers `embed`, `count_tokens` or `models`."""
        match result:
            case Embedding(vectors, usage):
                # In pieces, where the result is large and so encoded in a thread.
                told = to_json({"usage": usage_object(usage)}, inf_nan_mode="null")
                head = b'{"type":"embedding","request_id":%b,"vectors":' % self._id.encode()
                return b"".join((head, json_pieces.dump(vectors), b",", told[1:], b"\n"))
            case TokenCount(count):
                return self._frame("token_count", {"input_tokens": count}).encode()
            case ModelList(models):
                return self._frame("model_list", {"models": models}).encode()

    def _frame(self, kind: str, fields: dict[str, Any]) -> str:
        rest = to_json(fields, inf_nan_mode="null").decode()[1:]
        return f'{{"type":"{kind}","request_id":{self._id},{rest}\n'


def rejected(error: GatewayError, request_id: str | None) -> bytes:
    """The answer to a line that had no effect."""
    return to_json({"type": "rejected", "request_id": request_id, "error": error_object(error)}) + b"\n"


def status(fields: dict[str, Any]) -> bytes:
    """The answer to a `status` query."""
    return to_json({"type": "status", **fields}) + b"\n"


def error_object(error: GatewayError) -> dict[str, Any]:
    """`error` as it stands in `failed` and `rejected`."""
    fields: dict[str, Any] = {
        "kind": error.kind,
        "message": error.message,
        "retryable": error.retryable,
        "backend_id": error.backend_id,
        "provider_code": error.provider_code,
        "provider_http_status": error.provider_http_status,
    }
    if error.retry_after_ms is not None:
        fields["retry_after_ms"] = error.retry_after_ms
    return fields


def annotation_object(annotation: Annotation) -> dict[str, Any]:
    """`annotation` as it stands in its frame."""
    optional = {name: getattr(annotation, name) for name in ("url", "title", "text", "start", "end")}
    known = {name: value for name, value in optional.items() if value is not None}
    return {"kind": annotation.kind, **known, "raw": annotation.raw}


def usage_object(usage: UsageStats) -> dict[str, Any]:
    """`usage` as it stands in its frame: the base keys always, the others where known."""
    fields: dict[str, Any] = {
        "input_tokens": usage.input_tokens,
        "output_tokens": usage.output_tokens,
        "total_tokens": usage.total_tokens,
        "provider_usage_raw": usage.provider_usage_raw,
    }
    if usage.cached_input_tokens is not None:
        fields["cached_input_tokens"] = usage.cached_input_tokens
    if usage.cache_write_input_tokens is not None:
        fields["cache_write_input_tokens"] = usage.cache_write_input_tokens
    if usage.reasoning_tokens is not None:
        fields["reasoning_tokens"] = usage.reasoning_tokens
    if usage.cost is not None:
        fields["cost"] = usage.cost
    if usage.service_tier is not None:
        fields["service_tier"] = usage.service_tier
    return fields
