"""Output items of the Responses API: what has come of one, and what a whole one holds.

Source: the OpenAI API reference, "Streaming events" (`openai.types.responses.ResponseOutputItem`); other servers' ways
are said where they are read.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from pydantic import JsonValue

from ...canonical import JsonObject
from ...errors import protocol_violation
from ..base import expect_object, expect_text
from ..decoding.said_text import SaidText

_KNOWN = frozenset({"message", "reasoning", "function_call"})
"""Kinds of items that frames carry."""

CLIENT_ITEMS = frozenset(
    {"custom_tool_call", "local_shell_call", "apply_patch_call", "mcp_approval_request", "computer_call"}
)
"""Items that may wait for the client to act; see `waits_for_client`."""

_XAI_TOOLS = frozenset(
    {"x_keyword_search", "x_semantic_search", "x_user_search", "x_thread_fetch", "view_x_video", "view_image"}
)
"""Custom tools that xAI runs itself, parts of its `x_search`, `web_search` and of what those may look at."""

PartKey = tuple[str, int | None]
"""A part of an item: ``content`` or ``summary``, and its index where the server sends one; or ``whole``, and its index
where it came with the whole item only."""


@dataclass(slots=True, eq=False)
class Item:
    """What has come so far of one item of the output."""

    key: int
    kind: str
    index: int | None = None
    name: str = ""
    backend_id: str = ""
    """Of a call: its `call_id`. `call_id` is the one that the client knows."""
    call_id: str = ""
    parts: dict[PartKey, SaidText] = field(default_factory=dict)
    """The text of a message or of reasoning, as it was delivered."""
    thought: SaidText | None = None
    """The part of a reasoning's content that nothing has ended: a delta with another index goes on with it."""
    first_arguments: str = ""
    """Of a call: what it began with. It counts where nothing else comes: some servers send `{}` and then deltas."""
    sealed: bool = False
    """Of a call: its deltas are no JSON object, so that its arguments are those that come as a whole."""
    ended: bool = False
    """The backend sent the item as a whole."""
    spoken: bool = False
    opaque: JsonObject | None = None
    """The item itself, where it has to go back to the provider."""
    extra: JsonObject = field(default_factory=dict)
    """What of it else has to go back, beside its text or call."""
    citations: int = 0
    annotations: list[tuple[int, JsonValue]] = field(default_factory=list)
    """Its annotations with the position of their part, where they were asked for."""

    @property
    def is_lost(self) -> bool:
        """Whether no frame carries it, nor does it go back to the provider."""
        return self.kind not in _KNOWN and self.opaque is None

    def characters(self) -> int:
        """How many have been delivered."""
        return sum(part.length for part in self.parts.values())

    def said(self) -> list[SaidText]:
        """The parts that have said something."""
        return [part for part in self.parts.values() if part]

    def rest(self, whole: list[str]) -> str | None:
        """What the texts of a whole item have beyond the last part that was said; None where they do not continue."""
        said = self.said()
        rests = [part.rest(text) for part, text in zip(said, whole, strict=False)]
        if len(rests) < len(said):
            return self.beyond("".join(whole))
        if None in rests or any(rests[:-1]):
            return None
        return rests[-1] if rests else ""

    def beyond(self, whole: str) -> str | None:
        """What one text has beyond all parts together; None where it does not continue them.

        vLLM counts another part for each delta, and for the whole text in the end.
        """
        for part in self.said():
            if part.rest(whole[: part.length]) is None:
                return None
            whole = whole[part.length :]
        return whole

    def offset(self, begin: int, position: int) -> int | None:
        """Where the part at `position` of a message that begins at `begin` begins; None where no such part was said."""
        for (group, index), part in self.parts.items():
            if (group in ("content", "whole") and index == position) or (index is None and position == 0):
                return begin
            begin += part.length
        return None


def parts_of(value: JsonValue) -> list[JsonObject]:
    """The parts of an item's content or summary; some servers write a text in place of a part, or of all.

    Raises:
        GatewayError: `protocol_violation`, where there are no such parts.
    """
    if value is None:
        return []
    if isinstance(value, str):
        return [{"text": value}]
    if not isinstance(value, list):
        raise protocol_violation("the backend sent an output item's content that is not an array")
    return [
        {"text": part} if isinstance(part, str) else expect_object(part, "a part of an output item")
        for part in value
        if part is not None
    ]


def part_text(part: JsonObject) -> str:
    """Its text, or its refusal. Raises `GatewayError`, `protocol_violation`, where that is no string."""
    if part.get("type") == "refusal":
        return expect_text(part.get("refusal"), "a refusal")
    return expect_text(part.get("text"), "a text")


def reasoning_texts(value: JsonObject) -> list[str]:
    """The texts of a whole reasoning, in the order in which they are delivered."""
    return [part_text(part) for key in ("summary", "content") for part in parts_of(value.get(key))]


def texts_of(value: JsonObject) -> list[str]:
    """The texts of a whole message or reasoning, as they are delivered."""
    if value.get("type") != "message":
        return reasoning_texts(value)
    return [part_text(part) for part in parts_of(value.get("content"))]


def text_or_none(value: JsonValue) -> str | None:
    """`value` where it is a string."""
    return value if isinstance(value, str) else None


def waits_for_client(item: JsonObject) -> bool:
    """Whether the backend expects the client to act on this item, which no frame can carry."""
    kind = item.get("type")
    if kind == "shell_call":  # OpenAI runs those of its own containers
        environment = item.get("environment")
        return not (isinstance(environment, dict) and environment.get("type") == "container_reference")
    if kind == "custom_tool_call":
        return text_or_none(item.get("name")) not in _XAI_TOOLS
    if kind == "tool_search_call":
        return item.get("execution") == "client"
    return isinstance(kind, str) and kind in CLIENT_ITEMS
