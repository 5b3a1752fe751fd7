"""Holds an answer's calls and its end back until they are proven to satisfy their schemas (`verify`).

Text, reasoning and deltas of calls go on as they come. `tool_call_ready`, `usage` and `completed` wait for the
verdict, which needs the whole answer: if one call does not satisfy its schema, none of the answer is ready.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeGuard

from pydantic_core import to_json

from ..canonical import (
    BackendRawEvent,
    CanonicalRequest,
    Completed,
    JsonObject,
    JsonSchemaOutput,
    Operation,
    OtherFinishReason,
    OutputTextDelta,
    ToolCallReady,
    Usage,
    immutable,
)
from ..errors import GatewayError, invalid_request, protocol_violation
from ..wire import verdict

_CUT = (OtherFinishReason("content_filter"), OtherFinishReason("refusal"))

MAX_SCHEMA_BYTES = 256 * 1024
"""The longest schema that is judged by."""

Judge = Callable[[bytes, str], Awaitable[str | None]]
"""`processes.schema_judge.judge`."""


class Response(Protocol):
    """The response normaliser, as this step uses it."""

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        """Takes a batch."""

    @property
    def blocked(self) -> bool:
        """The client does not read."""

    async def drained(self) -> None:
        """Returns once the client has read enough."""


@immutable
class _Schema:
    schema: JsonObject
    json: bytes
    simple: bool


class OutputVerification:
    """What of a request's answer is to be verified.

    Args:
        request: A request that `wants_verification`.
        limit: The longest text that is kept for the verdict, in characters.
        judge: Judges in another process, for what would hold up the event loop.

    Raises:
        GatewayError: `invalid_request`, where a schema is one that nothing can be judged by.
    """

    def __init__(self, request: CanonicalRequest, limit: int, judge: Judge) -> None:
        self.limit = limit
        self._judge = judge
        self.tools = {
            tool.name: _schema(tool.verify, f"tools[{index}].input_schema")
            for index, tool in enumerate(request.tools)
            if tool.verify is not None
        }
        mode = request.output_mode
        self.output = (
            _schema(mode.schema, "output_mode.json_schema.schema")
            if isinstance(mode, JsonSchemaOutput) and mode.verify
            else None
        )

    async def check(self, schema: _Schema, text: str, what: str) -> None:
        """Raises `GatewayError` where `text` does not satisfy `schema`: `protocol_violation`, naming the path."""
        try:
            if schema.simple and len(schema.json) * len(text) <= verdict.QUICK_PRODUCT:
                await asyncio.to_thread(importlib.import_module, "jsonschema")  # 60 ms, the first time
                mistake = verdict.mistake(schema.schema, text)
            else:
                mistake = await self._judge(schema.json, text)
        except verdict.UnusableSchemaError as error:
            raise invalid_request(f"verify: {what} could not be judged: {error}") from None
        if mistake is not None:
            raise protocol_violation(f"verify: {what} did not satisfy the schema: {mistake}")


def _schema(schema: JsonObject, path: str) -> _Schema:
    in_json = to_json(schema)
    if len(in_json) > MAX_SCHEMA_BYTES:
        raise invalid_request(f"{path}: longer than {MAX_SCHEMA_BYTES} bytes, which cannot be used with verify")
    if why := verdict.unusable(schema):
        raise invalid_request(f"{path}: cannot be used with verify: {why}")
    return _Schema(schema, in_json, verdict.is_simple(schema))


def wants_verification(request: CanonicalRequest | Operation) -> TypeGuard[CanonicalRequest]:
    """Whether the request asks for `verify` anywhere."""
    if not isinstance(request, CanonicalRequest):
        return False
    mode, tools = request.output_mode, request.tools
    if isinstance(mode, JsonSchemaOutput) and mode.verify:
        return True
    return bool(tools) and any(tool.verify is not None for tool in tools)


class HeldAnswer:
    """The `Emit` of one attempt whose answer is verified: passes on to `response` what need not wait."""

    def __init__(self, response: Response, verification: OutputVerification) -> None:
        self._response = response
        self._verification = verification
        self._text: list[str] = []
        self._characters = 0
        self._held: list[BackendRawEvent] = []
        self._end: Completed | None = None

    @property
    def blocked(self) -> bool:
        """See `Emit`."""
        return self._response.blocked

    async def drained(self) -> None:
        """See `Emit`."""
        await self._response.drained()

    def __call__(self, events: Sequence[BackendRawEvent]) -> None:
        """Passes a batch on, but for what waits for the verdict."""
        passed: list[BackendRawEvent] = []
        for event in events:
            if isinstance(event, Completed):
                self._end = event
            if self._end is not None or isinstance(event, ToolCallReady | Usage):
                self._held.append(event)
                continue
            if isinstance(event, OutputTextDelta) and self._verification.output is not None:
                self._keep(event.delta)
            passed.append(event)
        if passed:
            self._response(passed)

    def _keep(self, delta: str) -> None:
        self._characters += len(delta)
        if self._characters > self._verification.limit:
            raise protocol_violation(
                f"verify: the answer is longer than {self._verification.limit} characters (reliability.max_event_bytes)"
            )
        self._text.append(delta)

    def assert_ended(self) -> None:
        """See `ResponseNormalizer.assert_ended`."""
        if self._end is None:
            raise GatewayError("internal", "the dialect left its answer without an end")

    async def release(self) -> None:
        """Judges the answer and passes on what was held.

        Raises:
            GatewayError: `protocol_violation`, where something does not satisfy its schema; usage has been passed on.
        """
        try:
            await self._check()
        except GatewayError:
            usage = [event for event in self._held if isinstance(event, Usage)]
            if usage:  # what was spent is spent
                self._response(usage)
            raise
        self._response(self._held)

    async def _check(self) -> None:
        reason = None if self._end is None else self._end.finish_reason
        if reason == "length" or reason in _CUT:
            return
        for event in self._held:
            if isinstance(event, ToolCallReady) and (schema := self._verification.tools.get(event.call.name)):
                await self._verification.check(
                    schema, event.call.arguments_json, f"the arguments of the call of {event.call.name!r}"
                )
        # Where the model calls tools, its text is what it says on the way, not the answer.
        if self._verification.output is not None and reason != "tool_calls":
            await self._verification.check(self._verification.output, "".join(self._text), "the answer")
