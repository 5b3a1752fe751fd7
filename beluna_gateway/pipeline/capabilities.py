"""Checks what a request asks for against what the backend can do. Refused here, never approximated in silence."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

from ..canonical import (
    AssistantMessage,
    CanonicalRequest,
    ImagePart,
    JsonSchemaOutput,
    Operation,
    Reasoning,
    TokenCountRequest,
    ToolMessage,
)
from ..config.settings import Capabilities
from ..errors import unsupported

R = TypeVar("R", bound=CanonicalRequest | Operation)


class CapabilityGuard:
    """Lets requests pass or refuses them. Has no state."""

    def admit(self, request: R, capabilities: Capabilities, backend_id: str) -> R:
        """`request` without what is true of the backend anyway: a model that cannot think need not be told not to.

        Raises:
            GatewayError: `unsupported_capability`, naming the field that asks for what the backend cannot do.
        """
        if isinstance(request, CanonicalRequest):
            return self._admit(request, capabilities, backend_id)  # type: ignore[return-value]  # R is that class
        if isinstance(request, TokenCountRequest):
            return replace(request, inference=self._admit(request.inference, capabilities, backend_id))
        return request

    def _admit(self, request: CanonicalRequest, capabilities: Capabilities, backend_id: str) -> CanonicalRequest:
        can = capabilities
        asked = _first_unsupported(request, can)
        if asked is None and not (can.vision and can.tool_calls and can.parallel_tool_calls):
            asked = _first_unsupported_in_history(request, can)
        if asked is not None:
            field, capability = asked
            raise unsupported(f"{field}: backend {backend_id!r} does not have the capability {capability}")
        if not can.reasoning and (request.enable_thinking is False or request.reasoning is not None):
            return replace(request, enable_thinking=None, reasoning=None)
        return request


def _first_unsupported(request: CanonicalRequest, can: Capabilities) -> tuple[str, str] | None:
    if request.stream and not can.streaming:
        return "stream", "streaming"
    if request.tools and not can.tool_calls:
        return "tools", "tool_calls"
    if request.output_mode != "text":
        if isinstance(request.output_mode, JsonSchemaOutput):
            if not can.json_schema_mode:
                return "output_mode", "json_schema_mode"
        elif not can.json_mode:
            return "output_mode json_object", "json_mode"
    if request.parallel_tool_calls and not can.parallel_tool_calls:
        return "parallel_tool_calls", "parallel_tool_calls"
    if not can.reasoning:
        if request.enable_thinking:
            return "enable_thinking", "reasoning"
        if request.include_reasoning:
            return "include_reasoning", "reasoning"
        if request.reasoning not in (None, Reasoning(effort="off")):
            return "reasoning", "reasoning"
    return None


def _first_unsupported_in_history(request: CanonicalRequest, can: Capabilities) -> tuple[str, str] | None:
    for index, message in enumerate(request.messages):
        if not can.vision:
            for position, part in enumerate(message.parts):
                if isinstance(part, ImagePart):
                    return f"messages[{index}].parts[{position}].image_url", "vision"
        if isinstance(message, ToolMessage) and not can.tool_calls:
            return f"messages[{index}]", "tool_calls"
        if isinstance(message, AssistantMessage) and message.tool_calls:
            if not can.tool_calls:
                return f"messages[{index}].tool_calls", "tool_calls"
            if len(message.tool_calls) > 1 and not can.parallel_tool_calls:
                return f"messages[{index}].tool_calls", "parallel_tool_calls"
    return None
