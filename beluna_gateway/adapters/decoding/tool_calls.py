"""Fragments of tool calls → `ToolCallDelta` and `ToolCallReady`, glued by the backend's own index.

The rules are those of protocol/README.md, "Order": a call is ready when it is proven complete, never because what has
come so far happens to parse; an ambiguous fragment is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass, field
from uuid import uuid4

from pydantic_core import from_json

from ...canonical import BackendRawEvent, ToolCall, ToolCallDelta, ToolCallReady
from ...errors import GatewayError, protocol_violation


@dataclass(slots=True)
class _Call:
    call_id: str
    backend_id: str | None
    has_key: bool
    name: str | None = None
    arguments: list[str] = field(default_factory=list)
    announced: bool = False
    ready: bool = False
    overtaken: bool = False  # another call began after the last fragment of this one


class ToolCalls:
    """The calls of one answer."""

    def __init__(self) -> None:
        self._calls: list[_Call] = []
        self._by_key: dict[Hashable, _Call] = {}
        self._ids: set[str] = set()
        self.any_ready = False

    def fragment(
        self,
        key: Hashable | None,
        events: list[BackendRawEvent],
        *,
        call_id: str | None = None,
        name: str | None = None,
        arguments: str = "",
    ) -> str:
        """Takes one piece of a call; returns the id that the call has for the client.

        Args:
            key: The backend's index for the call, None where it sends none.
            events: Where the deltas go.
            call_id: The backend's id, where this piece names it; the empty string is none.
            name: The tool's name, where this piece names it.
            arguments: The next piece of the arguments' JSON text.

        Raises:
            GatewayError: `protocol_violation`, where it cannot be told which call the piece belongs to.
        """
        call = self._find(key, call_id or None, name or None)
        if call.ready:
            raise protocol_violation(f"the backend went on with tool call {call.call_id!r} after it had ended it")
        if name:
            if call.name is None:
                call.name = name
            elif call.name != name:
                raise protocol_violation(
                    "the backend sent two names for one tool call without an id to tell them apart: "
                    f"{call.name!r}, {name!r}"
                )
        if arguments:
            call.arguments.append(arguments)
            call.overtaken = False
        if call.announced:
            if arguments:
                events.append(ToolCallDelta(call.call_id, None, arguments))
        elif call.name is not None:
            # The first delta carries the name, so what came before the name waited for it.
            call.announced = True
            events.append(ToolCallDelta(call.call_id, call.name, "".join(call.arguments)))
        return call.call_id

    def has_arguments(self, key: Hashable) -> bool:
        """Whether the call has got any piece of its arguments yet."""
        return bool(self._by_key[key].arguments)

    def end(self, key: Hashable, events: list[BackendRawEvent]) -> None:
        """The backend says that this call is finished.

        Raises:
            GatewayError: `protocol_violation`, where its arguments are no JSON object or it never had a name.
        """
        self._ready(self._by_key[key], events)

    def end_if_whole(self, key: Hashable, events: list[BackendRawEvent]) -> bool:
        """As `end`, for a backend that says "finished" of a call that was cut, too; returns whether the call is ended.

        It does where the arguments are a whole JSON object, which no cut leaves behind. None at all prove nothing.
        """
        return self._ready_if_whole(self._by_key[key], events)

    def end_all(self, events: list[BackendRawEvent]) -> None:
        """The end mark of the answer finishes every call that is still open. Raises as `end`."""
        for call in self._calls:
            if not call.ready:
                self._ready(call, events)

    def end_before_cut(self, events: list[BackendRawEvent]) -> None:
        """The answer was cut off: only calls after which another one began were finished before."""
        for call in self._calls:
            if call.overtaken and not call.ready:
                self._ready_if_whole(call, events)  # otherwise incomplete after all: its deltas stand

    def _find(self, key: Hashable | None, backend_id: str | None, name: str | None) -> _Call:
        if key is not None:
            return self._find_by_key(key, backend_id)
        if backend_id is not None:
            return self._with_id(backend_id) or self._begin(None, backend_id)
        if name is not None:
            return self._begin(None, None)
        open_calls = [call for call in self._calls if not call.ready]
        if len(open_calls) != 1:
            raise _ambiguous()
        return open_calls[0]

    def _find_by_key(self, key: Hashable, backend_id: str | None) -> _Call:
        call = self._by_key.get(key)
        if call is None:
            known = self._with_id(backend_id)
            if known is None or known.has_key:
                return self._begin(key, backend_id)
            known.has_key = True  # it began without an index
            self._by_key[key] = known
            return known
        if backend_id is None or backend_id == call.backend_id:
            return call
        if call.backend_id is None:
            call.backend_id = backend_id
            return call
        # An index used again for a call with another id: some servers say 0 for every call.
        return self._with_id(backend_id) or self._begin(key, backend_id)

    def _with_id(self, backend_id: str | None) -> _Call | None:
        if backend_id is None:
            return None
        return next((call for call in self._calls if call.backend_id == backend_id), None)

    def _begin(self, key: Hashable | None, backend_id: str | None) -> _Call:
        for call in self._calls:
            told_apart = (key is not None and call.has_key) or (backend_id is not None and call.backend_id is not None)
            if not told_apart and not call.ready:
                raise _ambiguous()  # this piece may as well belong to the call that is open
            call.overtaken = True
        call_id = backend_id if backend_id is not None and backend_id not in self._ids else f"call_{uuid4().hex}"
        call = _Call(call_id, backend_id, has_key=key is not None)
        self._ids.add(call_id)
        self._calls.append(call)
        if key is not None:
            self._by_key[key] = call
        return call

    def _ready_if_whole(self, call: _Call, events: list[BackendRawEvent]) -> bool:
        if call.ready:
            return True
        if not "".join(call.arguments).strip():
            return False
        try:
            self._ready(call, events)
        except GatewayError:
            return False
        return True

    def _ready(self, call: _Call, events: list[BackendRawEvent]) -> None:
        if call.name is None:
            raise protocol_violation(f"the backend ended tool call {call.call_id!r} without ever naming its tool")
        text = "".join(call.arguments)
        if not text.strip():
            events.append(ToolCallDelta(call.call_id, None, "{}"))
            text += "{}"
        try:
            arguments = from_json(text, allow_inf_nan=False)
        except ValueError as error:
            raise protocol_violation(
                f"the arguments of tool call {call.call_id!r} ({call.name}) are not JSON: {error}"
            ) from error
        if not isinstance(arguments, dict):
            raise protocol_violation(f"the arguments of tool call {call.call_id!r} ({call.name}) are not a JSON object")
        call.ready = self.any_ready = True
        events.append(ToolCallReady(ToolCall(call.call_id, call.name, text, arguments)))


def _ambiguous() -> GatewayError:
    return protocol_violation(
        "the backend sent a piece of a tool call whose index and id do not tell which call it belongs to"
    )
