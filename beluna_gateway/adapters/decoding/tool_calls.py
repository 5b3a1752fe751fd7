"""Fragments of tool calls → `ToolCallDelta` and `ToolCallReady`, glued by the backend's own index.

The rules are those of protocol/README.md, "Order" and "Arguments are never invented": a call is ready when it is proven
complete, never because what has come so far happens to parse; an ambiguous fragment is an error, never a guess.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from typing import Any, cast
from uuid import uuid4

from pydantic import JsonValue
from pydantic_core import from_json

from ...canonical import BackendRawEvent, JsonObject, ToolCall, ToolCallDelta, ToolCallReady
from ...errors import GatewayError, protocol_violation
from ...wire import strict_json
from .scalars import word

MAX_CALLS = 1000
"""Calls of one answer; one more is a `protocol_violation`."""

DEFAULT_MAX_BYTES = 32 * 1024 * 1024
"""The default of `reliability.max_event_bytes`."""


@dataclass(slots=True)
class _Call:
    call_id: str
    backend_id: str | None
    has_key: bool
    name: str | None = None
    arguments: list[str] = field(default_factory=list)
    length: int = 0  # of the arguments, in characters
    placeholder: str = ""
    """The `{}` that it began with, which counts where nothing else comes; see `ToolCalls.fragment`."""
    announced: bool = False
    ready: bool = False
    whole_before_next: bool = False
    """Its arguments were a whole object when the next call began."""
    repeats: bool = False
    """A piece of it has said all of its arguments so far once more."""
    begun_before: int = 0
    """How many calls had begun when the last fragment of this one came."""

    def said(self) -> str:
        """The arguments so far."""
        return "".join(self.arguments) or self.placeholder


class ToolCalls:
    """The calls of one answer.

    Args:
        max_bytes: The most bytes of names, ids and arguments that are kept (`reliability.max_event_bytes`).
    """

    def __init__(self, max_bytes: int = DEFAULT_MAX_BYTES) -> None:
        self._max_bytes = max_bytes
        self._bytes = 0
        self._begun: list[_Call] = []
        self._whole_before_next = 0  # open calls
        self._open: dict[int, _Call] = {}  # by id(), in the order of their begin
        self._by_key: dict[Hashable, _Call] = {}
        self._by_backend_id: dict[str, _Call] = {}
        self._ids: set[str] = set()
        # Open calls by what tells them apart: has an index, has an id.
        self._open_kinds: defaultdict[tuple[bool, bool], int] = defaultdict(int)
        self.any_ready = False

    def fragment(
        self,
        key: Hashable | None,
        events: list[BackendRawEvent],
        *,
        call_id: str | None = None,
        name: str | None = None,
        arguments: str = "",
        may_be_placeholder: bool = False,
    ) -> str:
        """Takes one piece of a call; returns the id that the call has for the client.

        Args:
            key: The backend's index for the call, None where it sends none.
            events: Where the deltas go.
            call_id: The backend's id, where this piece names it; the empty string is none.
            name: The tool's name, where this piece names it.
            arguments: The next piece of the arguments' JSON text.
            may_be_placeholder: `{}` beside the name may only hold the place of arguments that follow it: LiteLLM and
                servers like it pass on the empty `input` with which a block of Anthropic's and Bedrock's begins.

        Raises:
            GatewayError: `protocol_violation`, where it cannot be told which call the piece belongs to, or where the
                calls are too many or too large.
        """
        call = self._find(key, call_id or None, name or None, arguments)
        if call.ready:
            raise _went_on(call)
        if may_be_placeholder and name and arguments.strip() == "{}" and not call.said():
            self._keep(arguments)
            call.placeholder, call.begun_before, arguments = arguments, len(self._begun), ""
        if len(arguments) >= call.length > 0 and (call_id or not name):
            arguments = _without_repetition(call, arguments)
        self._add(call, events, name or None, arguments)
        return call.call_id

    def whole(
        self,
        key: Hashable | None,
        events: list[BackendRawEvent],
        *,
        call_id: str | None = None,
        name: str | None = None,
        arguments: str = "",
        piece_otherwise: bool = False,
        place: int | None = None,
    ) -> str:
        """Takes a call that the backend repeats as a whole: what its fragments left out comes now.

        A call without fragments begins here. Empty arguments say nothing. The call is not ended by this.

        Args:
            key: As for `fragment`.
            events: As for `fragment`.
            call_id: As for `fragment`.
            name: As for `fragment`.
            arguments: All arguments, as JSON text.
            piece_otherwise: Arguments that do not begin with those of the fragments are one more fragment, and no
                contradiction: for a dialect in which it cannot be told whether an item is a whole.
            place: Its place in a list of all calls so far, which may have other indexes there than their fragments had,
                or none.

        Raises:
            GatewayError: `protocol_violation`, where it contradicts the fragments, and as for `fragment`.
        """
        call = self._repeated(key, call_id or None, name, arguments, place, any_id=not piece_otherwise)
        call = call or self._find(key, call_id or None, name or None, arguments)
        rest = _rest(call, arguments, piece_otherwise=piece_otherwise)
        if not call.ready:
            self._add(call, events, name or None, rest)
        elif rest.strip() and not _same_json(call.said().strip() or "{}", arguments):
            raise _went_on(call)
        return call.call_id

    def has_arguments(self, key: Hashable) -> bool:
        """Whether the call has got any piece of its arguments yet."""
        return bool(self._by_key[key].arguments)

    def is_known(self, backend_id: str, name: str, arguments: str) -> bool:
        """Whether there is a call with this id, this name and these arguments."""
        call = self._by_backend_id.get(backend_id)
        return call is not None and call.name == name and _same_json(call.said() or "{}", arguments or "{}")

    def end(self, key: Hashable, events: list[BackendRawEvent]) -> None:
        """The backend says that this call is finished.

        Raises:
            GatewayError: `protocol_violation`, where its arguments are no JSON object or it never had a name.
        """
        call = self._by_key[key]
        if not call.ready:
            self._make_ready(call, _finished(call), events)

    def end_if_whole(self, key: Hashable, events: list[BackendRawEvent]) -> bool:
        """As `end`, for a backend that says "finished" of a call that was cut, too; returns whether the call is ended.

        It does where the arguments are a whole JSON object, which no cut leaves behind. None at all prove nothing.
        """
        return self._ready_if_whole(self._by_key[key], events)

    def end_all(self, events: list[BackendRawEvent]) -> None:
        """The end mark of the answer finishes every call that is still open: all of them, or none where it raises.

        Raises:
            GatewayError: As `end`.
        """
        if not self._open:
            return
        finished = [(call, _finished(call)) for call in self._open.values()]
        for call, whole in finished:
            self._make_ready(call, whole, events)

    def end_before_cut(self, events: list[BackendRawEvent]) -> None:
        """The answer was cut off: only calls after which another one began were finished before."""
        for call in list(self._open.values()):
            if call.begun_before < len(self._begun):
                self._ready_if_whole(call, events)  # otherwise incomplete after all: its deltas stand

    def _find(self, key: Hashable | None, backend_id: str | None, name: str | None, arguments: str) -> _Call:
        """The call that a piece belongs to; a new one where it begins one."""
        known = self._by_backend_id.get(backend_id) if backend_id is not None else None
        if key is not None:
            call = self._by_key.get(key)
            if call is None:
                return self._at_new_key(key, backend_id, name, known)
            if backend_id is None or backend_id == call.backend_id:
                return call
            return known or self._with_new_id(call, key, backend_id, name, arguments)
        if known is not None:
            return known
        if backend_id is not None or name is not None:
            return self._begin(None, backend_id)
        if len(self._open) == 1:
            return next(iter(self._open.values()))
        # The last one, where all others were whole when the next began: a whole object does not go on.
        if not self._open or self._begun[-1].ready or len(self._open) - self._whole_before_next != 1:
            raise _ambiguous()
        return self._begun[-1]

    def _repeated(
        self,
        key: Hashable | None,
        backend_id: str | None,
        name: str | None,
        arguments: str,
        place: int | None,
        *,
        any_id: bool,
    ) -> _Call | None:
        """The call that a list of all calls so far has at `place`, None where it is none of those.

        It is found by its id, or else by its place: unless its index says otherwise, or another id, but for `any_id`.
        """
        if place is None:
            return None
        known = self._by_backend_id.get(backend_id) if backend_id is not None else None
        if known is not None and _may_be(known, name, arguments):
            return known
        there = self._begun[place] if place < len(self._begun) and key == place else None
        if there is None or not _may_be(there, name, arguments):
            return None
        return there if any_id or backend_id is None or there.backend_id in (None, backend_id) else None

    def _at_new_key(self, key: Hashable, backend_id: str | None, name: str | None, known: _Call | None) -> _Call:
        if known is None or (known.has_key and name is not None):
            return self._begin(key, backend_id)
        self._keep(known.call_id)  # as large as an index, at least
        self._by_key[key] = known
        if not known.has_key:  # it began without an index
            self._reclassify(known, has_key=True)
        return known

    def _with_new_id(self, call: _Call, key: Hashable, backend_id: str, name: str | None, arguments: str) -> _Call:
        """For a piece at the index of `call`, with an id that no call has yet."""
        if name is None or (call.backend_id is None and not (arguments and _parsed(call.said()))):
            # An id that comes late; or a server that makes up another id for each piece.
            self._keep(backend_id)
            self._by_backend_id[backend_id] = call
            if call.backend_id is None:
                self._reclassify(call, backend_id=backend_id)
            return call
        # An index used again for a call with another id: some servers say 0 for every call.
        if not call.ready and _parsed(call.said()) is None:
            raise protocol_violation(
                f"the backend began another tool call at the index of {call.call_id!r}, which is not complete"
            )
        return self._begin(key, backend_id)

    def _begin(self, key: Hashable | None, backend_id: str | None) -> _Call:
        kinds = self._open_kinds
        has_key, has_id = key is not None, backend_id is not None
        for (other_key, other_id), number in kinds.items():
            if number and not (has_key and other_key) and not (has_id and other_id):
                raise _ambiguous()  # this piece may as well belong to the call that is open
        if len(self._begun) >= MAX_CALLS:
            raise protocol_violation(f"the backend sent more than {MAX_CALLS} tool calls in one answer")
        if self._begun and not (last := self._begun[-1]).ready and _parsed("".join(last.arguments)) is not None:
            last.whole_before_next = True
            self._whole_before_next += 1
        call_id = backend_id if backend_id is not None and backend_id not in self._ids else f"call_{uuid4().hex}"
        self._keep(call_id)
        call = _Call(call_id, backend_id, has_key)
        self._ids.add(call_id)
        self._begun.append(call)
        self._open[id(call)] = call
        kinds[has_key, has_id] += 1
        call.begun_before = len(self._begun)
        if backend_id is not None:
            self._by_backend_id.setdefault(backend_id, call)
        if key is not None:
            self._by_key[key] = call
        return call

    def _reclassify(self, call: _Call, *, has_key: bool | None = None, backend_id: str | None = None) -> None:
        """Notes that a call has got an index or an id, by which it is told apart from now on."""
        if not call.ready:
            self._open_kinds[call.has_key, call.backend_id is not None] -= 1
        call.has_key = call.has_key if has_key is None else has_key
        call.backend_id = call.backend_id if backend_id is None else backend_id
        if not call.ready:
            self._open_kinds[call.has_key, call.backend_id is not None] += 1

    def _add(self, call: _Call, events: list[BackendRawEvent], name: str | None, arguments: str) -> None:
        if name is not None:
            if call.name is None:
                self._keep(name)
                call.name = name
            elif call.name != name:
                raise protocol_violation(
                    "the backend sent two names for one tool call without an id to tell them apart: "
                    f"{call.name!r}, {name!r}"
                )
        if arguments:
            self._keep(arguments)
            if call.placeholder and arguments.strip():
                if not arguments.lstrip().startswith("{"):
                    arguments = call.placeholder + arguments  # it was the beginning after all
                call.placeholder = ""
            call.arguments.append(arguments)
            call.length += len(arguments)
            call.begun_before = len(self._begun)
        if call.announced:
            if arguments:
                events.append(ToolCallDelta(call.call_id, None, arguments))
        elif call.name is not None:
            # The first delta carries the name, so what came before the name waited for it.
            call.announced = True
            events.append(ToolCallDelta(call.call_id, call.name, "".join(call.arguments)))

    def _keep(self, text: str) -> None:
        self._bytes += len(text) if text.isascii() else len(text.encode())
        if self._bytes > self._max_bytes:
            raise protocol_violation(
                f"the backend sent tool calls of more than {self._max_bytes} bytes (reliability.max_event_bytes)"
            )

    def _ready_if_whole(self, call: _Call, events: list[BackendRawEvent]) -> bool:
        if call.ready:
            return True
        if not call.said().strip():
            return False
        try:
            whole = _finished(call)
        except GatewayError:
            return False
        self._make_ready(call, whole, events)
        return True

    def _make_ready(self, call: _Call, whole: ToolCall, events: list[BackendRawEvent]) -> None:
        if not "".join(call.arguments).strip():
            events.append(ToolCallDelta(call.call_id, None, call.placeholder or "{}"))
        call.ready = self.any_ready = True
        del self._open[id(call)]
        self._whole_before_next -= call.whole_before_next
        self._open_kinds[call.has_key, call.backend_id is not None] -= 1
        events.append(ToolCallReady(whole))


def call_entries(value: JsonValue) -> list[JsonObject]:
    """The entries of a `tool_calls`. An object is the only one: TGI streams them so (text-generation-inference 2949).

    Raises:
        GatewayError: `protocol_violation`, where it is no list of objects.
    """
    entries = [value] if isinstance(value, dict) else value
    if not isinstance(entries, list):
        raise protocol_violation("the backend sent `tool_calls` that is not an array")
    calls = [entry for entry in entries if entry is not None]
    if not all(isinstance(entry, dict) for entry in calls):
        raise protocol_violation("the backend sent a tool call that is not an object")
    return cast("list[JsonObject]", calls)


def call_id_text(value: JsonValue) -> str:
    """The backend's id of a call, the empty string where it has none.

    An integer is the text of its digits (NVIDIA NIM: opencode 19947). The words `"null"` and `"None"` are no id:
    Mistral has the first in later pieces of a call (zed 53605).

    Raises:
        GatewayError: `protocol_violation`, where it is something else.
    """
    if isinstance(value, str):
        return word(value) or ""
    if value is None:
        return ""
    if isinstance(value, bool) or not isinstance(value, int) or value.bit_length() > _MAX_ID_BITS:
        raise protocol_violation("the backend sent a tool call's id that is neither a string nor an integer")
    return str(value)


_MAX_ID_BITS = 64
"""Of an id that is an integer."""


def arguments_text(value: JsonValue) -> str:
    """The arguments of a call as JSON text: a string as it is, an object as it is written, none where it is null.

    Raises:
        GatewayError: `protocol_violation`, where it is something else.
    """
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return strict_json.rewritten(value).decode()
    raise protocol_violation("the backend sent a tool call's arguments that are neither a string nor an object")


def _finished(call: _Call) -> ToolCall:
    """The call, if nothing is missing.

    Raises:
        GatewayError: `protocol_violation`, where something is.
    """
    if call.name is None:
        raise protocol_violation(f"the backend ended tool call {call.call_id!r} without ever naming its tool")
    text = "".join(call.arguments)
    if not text.strip():
        text += call.placeholder or "{}"
    try:
        arguments = strict_json.parse_arguments(text)
    except ValueError as error:
        raise protocol_violation(f"the arguments of tool call {call.call_id!r} ({call.name}) are {error}") from error
    return ToolCall(call.call_id, call.name, text, arguments)


def _rest(call: _Call, arguments: str, *, piece_otherwise: bool) -> str:
    """What the arguments of a whole call have beyond its fragments.

    Raises:
        GatewayError: `protocol_violation`, where they contradict the fragments.
    """
    if not arguments.strip():
        return ""
    rest = _beyond(call, arguments)
    if rest is not None:
        return rest
    if piece_otherwise and not call.ready:
        return arguments
    raise protocol_violation(f"the backend repeated tool call {call.call_id!r} with other arguments than it had sent")


def _beyond(call: _Call, arguments: str) -> str | None:
    """What `arguments` have beyond those of a call so far; None where they are others."""
    may_be_whole = arguments.lstrip().startswith("{") and arguments.rstrip().endswith("}")
    if len(arguments) < call.length and not may_be_whole:
        return None  # without joining the fragments: there may be many such pieces
    said = "".join(call.arguments)
    if not said and arguments.strip() == call.placeholder.strip():
        return ""
    if arguments.startswith(said):
        return arguments[len(said) :]
    if not said.strip():
        return arguments
    return "" if may_be_whole and _same_json(said, arguments) else None


def _without_repetition(call: _Call, piece: str) -> str:
    """What a piece has beyond the arguments so far, where it says all of those once more, as each piece of some servers
    does: Qianfan's DeepSeek (hermes-agent 35718), others (vercel/ai 15888).

    That is known, and no guess, where the piece behind them could never become JSON; from then on it is how the server
    speaks of this call. Behind a whole object nothing is looked at: two of them are no arguments.
    """
    said = "".join(call.arguments)
    if not piece.startswith(said) or not said.strip():
        return piece
    if not call.repeats:
        try:
            from_json(said + piece, allow_partial=True)
        except ValueError:
            call.repeats = True
        else:
            return piece
    return piece[len(said) :]


def _may_be(call: _Call, name: str | None, arguments: str) -> bool:
    """Whether a whole call of this name and with these arguments may be `call` once more."""
    return name in (None, "", call.name) and (not arguments.strip() or _beyond(call, arguments) is not None)


def _same_json(one: str, other: str) -> bool:
    """Whether both are the same JSON object, however it is written."""
    value = _parsed(one)
    return value is not None and value == _parsed(other)


def _parsed(text: str) -> dict[str, Any] | None:
    try:
        return strict_json.parse_arguments(text)
    except ValueError:
        return None


def _went_on(call: _Call) -> GatewayError:
    return protocol_violation(f"the backend went on with tool call {call.call_id!r} after it had ended it")


def _ambiguous() -> GatewayError:
    return protocol_violation(
        "the backend sent a piece of a tool call whose index and id do not tell which call it belongs to"
    )
