"""The function calls of a Responses answer: their arguments come with an item's beginning, in deltas, or as a whole."""

from __future__ import annotations

from ...canonical import BackendRawEvent, JsonObject, Progress
from ...errors import protocol_violation
from ..base import expect_text
from ..decoding.tool_calls import ToolCalls, arguments_text, call_id_text
from .openai_responses_items import Item


class Calls:
    """The calls of one answer. An item is the call; what came first for it stands in the item.

    Args:
        max_bytes: The most bytes that are kept of them.
    """

    __slots__ = ("_calls", "_open")

    def __init__(self, max_bytes: int) -> None:
        self._calls = ToolCalls(max_bytes)
        self._open: set[int] = set()

    @property
    def any_open(self) -> bool:
        """Whether nothing has ended one of them yet."""
        return bool(self._open)

    @property
    def any_ready(self) -> bool:
        return self._calls.any_ready

    def begin(self, item: Item, value: JsonObject, events: list[BackendRawEvent]) -> None:
        """The item of a call begins."""
        self._open.add(item.key)
        self._whole(item, value, "", events)
        item.first_arguments = arguments_text(value.get("arguments"))

    def delta(self, item: Item, delta: str, events: list[BackendRawEvent]) -> None:
        """The next piece of its arguments; of such as are no JSON it is only a sign of life."""
        if not self._calls.has_arguments(item.key) and delta.lstrip()[:1] not in ("", "{"):
            item.sealed = True
        if item.sealed:
            events.append(Progress())
        elif delta:
            self._calls.fragment(item.key, events, arguments=delta)

    def arguments_done(self, item: Item, event: JsonObject, events: list[BackendRawEvent]) -> None:
        """Its arguments as a whole."""
        arguments = arguments_text(event.get("arguments"))
        if arguments.strip() == "{}" and not item.sealed and not self._calls.has_arguments(item.key):
            item.first_arguments = item.first_arguments or arguments  # as at its beginning: the item may say more
            arguments = ""
        self._whole(item, {"name": item.name or event.get("name")}, arguments, events)  # vLLM names it here, too

    def complete(self, item: Item, value: JsonObject, events: list[BackendRawEvent], *, proven: bool) -> None:
        """The item as a whole. `proven`: the backend says that it is finished, rather than cut off."""
        self._whole(item, value, arguments_text(value.get("arguments")), events)
        if proven and item.key in self._open:
            self._end_if_whole(item, events)

    def first_arguments(self, items: list[Item], events: list[BackendRawEvent]) -> None:
        """Calls whose arguments came nowhere but with their beginning."""
        for item in items:
            if item.first_arguments and not self._calls.has_arguments(item.key):
                self._calls.fragment(item.key, events, arguments=item.first_arguments)
                if item.ended:
                    self._end_if_whole(item, events)

    def end(self, items: list[Item], events: list[BackendRawEvent]) -> None:
        """The answer is complete, and with it every call.

        Raises:
            GatewayError: `protocol_violation`, for a call whose deltas were no JSON and whose arguments came nowhere
                else, and as `ToolCalls.end_all`.
        """
        for item in items:
            if item.sealed and not self._calls.has_arguments(item.key):
                raise protocol_violation(f"the arguments of tool call {item.call_id!r} ({item.name}) are not JSON")
        self._calls.end_all(events)

    def _whole(self, item: Item, value: JsonObject, arguments: str, events: list[BackendRawEvent]) -> None:
        """A call as its item has it. The first id counts: the item is known by then, and some servers change ids."""
        call_id = call_id_text(value.get("call_id"))
        name = expect_text(value.get("name"), "a tool call's name")
        if name and item.name not in ("", name):
            raise protocol_violation(f"the backend named one tool call twice: {item.name!r}, {name!r}")
        item.name, item.backend_id = item.name or name, item.backend_id or call_id
        item.call_id = self._calls.whole(item.key, events, call_id=item.backend_id, name=name, arguments=arguments)

    def _end_if_whole(self, item: Item, events: list[BackendRawEvent]) -> None:
        if self._calls.end_if_whole(item.key, events):
            self._open.discard(item.key)
