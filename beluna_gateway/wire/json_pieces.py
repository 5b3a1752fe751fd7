"""Large JSON in pieces: parsed, written and freed so that no single call holds up the other threads of the process.

A parser in C keeps Python's global lock until it has returned: 8 MB of `[],[],…` take it 0.2 s (0.8 s with the garbage
collections that it provokes), and freeing them another 0.1 s. Inside of `in_pieces` the same is done in many calls of a
millisecond at most, between which other threads run.

`parse` cuts the text at commas outside of strings, gives each piece to the parser, and puts the values together. What
it accepts, what it makes of it and the words of its refusals are those of the parser for the whole text: where a piece
is refused, the parser gets the whole text again, with everything before the piece blanked out.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import Any

from pydantic_core import from_json, to_json

MAX_DEPTH = 200
"""Levels of objects and arrays inside each other. The parser's own limit is the same but for an empty one inside."""

LARGEST_FLOAT = sys.float_info.max
"""The largest number of a 64-bit float, 1.8e308. Many JSON libraries refuse a line with a larger one."""

PIECE_BYTES = 16 * 1024
"""So much is parsed in one call; texts up to four times as long are not cut."""

PIECE_OBJECTS = 2000
"""About so many values are written, or freed, in one call."""

_pause: ContextVar[Callable[[], None] | None] = ContextVar("pause", default=None)


@contextmanager
def in_pieces(pause: Callable[[], None]) -> Iterator[None]:
    """While the block runs, in this thread, large values are parsed, written and freed in pieces.

    Args:
        pause: Called between the pieces; may raise, to end what is going on.
    """
    token = _pause.set(pause)
    try:
        yield
    finally:
        _pause.reset(token)


def are_pieces_wanted() -> bool:
    """Whether this runs inside of `in_pieces`: for a large value, in a thread."""
    return _pause.get() is not None


# --- parsing -------------------------------------------------------------------------------------------------


def parse(text: bytes) -> tuple[Any, str | None]:
    """The value of `text`, and why it is refused although it is JSON: None, or what is wrong with it.

    Raises:
        ValueError: It is not JSON in UTF-8, or nested deeper than the parser can go.
    """
    pause = _pause.get()
    if pause is None or len(text) <= 4 * PIECE_BYTES or (first := _BEGIN.match(text)) is None:
        value = _parsed(text)
        return value, _mistake(text, value)
    parser = _PieceParser(text, pause)
    try:
        return parser.value(first.end() - 1), parser.mistake
    except _Refused:
        _parsed(parser.rest())
    finally:
        parser.close()
    raise AssertionError("a text was refused in pieces and taken as a whole")


def read(text: bytes) -> Any:
    """The value of `text`, also where `parse` would refuse it although it is JSON: a backend's answer.

    Raises:
        ValueError: It is not JSON in UTF-8, or nested deeper than the parser can go.
    """
    return _parsed(text) if _pause.get() is None else parse(text)[0]


def _parsed(text: bytes) -> Any:
    return from_json(text, allow_inf_nan=False, cache_strings="keys")


# The parser reads a number above 1.8e308 as infinity, or as an integer where it is digits only. Such a number has an
# exponent of three digits, or at least 200 digits. With all digits made zeros both are substrings, found three times as
# fast as by a regular expression. And with all brackets made braces, one count says how deep it may be.
_FOLDED = bytes.maketrans(b"123456789E[", b"000000000e{")
_OVERFLOWS = (b"0e000", b"0e+000", b"0" * 200)
_TOO_LARGE = "it has a number that is too large for a 64-bit float"
_TOO_DEEP = f"it is nested deeper than {MAX_DEPTH}"


def _mistake(text: bytes, value: Any) -> str | None:
    """What the parser lets through and the protocol does not. Walks `value` only where `text` gives reason to."""
    folded = text.translate(_FOLDED)
    if folded.count(b"{") <= MAX_DEPTH and not _may_overflow(folded):
        return None
    level, depth = [value], 0
    while level:
        below: list[Any] = []
        for item in level:
            if isinstance(item, dict):
                below.extend(item.values())
            elif isinstance(item, list):
                below.extend(item)
            elif isinstance(item, float | int) and not -LARGEST_FLOAT <= item <= LARGEST_FLOAT:
                return _TOO_LARGE
        depth += any(isinstance(item, dict | list) for item in level)
        if depth > MAX_DEPTH:
            return _TOO_DEEP
        level = below
    return None


def _may_overflow(folded: bytes) -> bool:
    return _OVERFLOWS[0] in folded or _OVERFLOWS[1] in folded or _OVERFLOWS[2] in folded


def _overlapping(piece: bytes) -> Iterator[bytes]:
    """`piece`, folded, in parts that overlap by more than a number of `_OVERFLOWS`: it may be a string of megabytes."""
    starts = range(0, len(piece), PIECE_BYTES or 1)
    return (piece[start : start + PIECE_BYTES + 256].translate(_FOLDED) for start in starts)


_BEGIN = re.compile(rb"[ \t\r\n]*[\[{]")
_EMPTY = re.compile(rb"[ \t\r\n]*[\]}]")
_BLANK = re.compile(rb"[ \t\r\n]*")
_SPACE = b" \t\r\n"

# A run without strings, in which empty arrays and objects and arrays of one number may stand; a short string; a
# bracket; or the quotation mark of a string that is long or has no end. All repetitions are possessive and bounded.
_TOKEN = re.compile(
    rb'(?:[^"\[\]{}]{1,256}+|\[[^"\[\]{},]{0,64}+\]|\{\}){1,64}+|"(?:[^"\\]{1,4096}+|\\.){0,64}+"|[\[\]{}"]'
)
# The same without arrays and objects in a run.
_PLAIN_TOKEN = re.compile(rb'[^"\[\]{}]{1,4096}+|"(?:[^"\\]{1,4096}+|\\.){0,64}+"|[\[\]{}"]')
_QUOTE, _COMMA = b'"'[0], b","[0]
_OPENERS, _CLOSERS = frozenset(b"[{"), {b"["[0]: b"]"[0], b"{"[0]: b"}"[0]}
_CLOSING = frozenset(_CLOSERS.values())

# What may follow where a container has been read to.
_FRESH, _AFTER_COMMA, _AFTER_CHILD, _IN_CHILD = range(4)


class _Refused(Exception):
    """A piece is no JSON."""


class _Open:
    """An object or array that is not closed yet."""

    __slots__ = ("begin", "comma", "expects", "key", "opened", "value")

    def __init__(self, opened: int, comma: int) -> None:
        self.opened = opened
        """Where its bracket stands."""
        self.begin = opened + 1
        """Up to here its text has been read into `value`."""
        self.comma = comma
        """The last comma between two of its items; -1 before one."""
        self.expects = _FRESH
        self.value: Any = None
        """Made as soon as it is known not to fit into one piece."""
        self.key = ""
        """Its own, in the object around it."""


class _PieceParser:
    def __init__(self, text: bytes, pause: Callable[[], None]) -> None:
        self._text = text
        self._pause = pause
        self._stack: list[_Open] = []
        # The containers inside of the last of `_stack`, by where their brackets and their last commas stand. Most are
        # closed before anything of them is read, and an object for each would cost more than all the rest.
        self._brackets: list[int] = []
        self._commas: list[int] = []
        self.mistake: str | None = None
        self._too_deep = False
        self._read_to = 0

    def value(self, position: int) -> Any:
        """The value of the text, whose first bracket stands at `position`."""
        text, stack, pattern = self._text, self._stack, _TOKEN
        stack.append(_Open(position, -1))
        self._read_to = position
        position += 1
        while True:
            position, end = self._scan(pattern, position)
            if pattern is _TOKEN and len(stack) + len(self._brackets) >= MAX_DEPTH:
                pattern = _PLAIN_TOKEN  # below the deepest level each bracket counts
            elif text[position] == _QUOTE:
                position = self._end_of_string(end)
                self._read_some(position)
            else:
                break
        if _BLANK.fullmatch(text, end) is None:
            self._read()
            raise _Refused
        root = stack[0]
        if root.value is None:
            root.value = _made(text[root.opened])
        self._finish(root, position)
        stack.clear()
        if self.mistake is None and self._too_deep:
            self.mistake = _TOO_DEEP
        return root.value

    def _scan(  # noqa: C901 - the loop over millions of tokens: a call for one costs more than all its branches
        self, pattern: re.Pattern[bytes], position: int
    ) -> tuple[int, int]:
        """Goes on to the end of the whole, to a long string, or to the deepest level; returns where that stands."""
        text, stack, brackets, commas = self._text, self._stack, self._brackets, self._commas
        openers, closing, quote = _OPENERS, _CLOSING, _QUOTE
        careless = pattern is _TOKEN
        room = MAX_DEPTH - len(stack)  # levels that `brackets` may have
        enough = self._read_to + PIECE_BYTES
        for token in pattern.finditer(text, position):
            start, end = token.span()
            byte = text[start]
            if careless and len(brackets) >= room:
                return start, end
            if byte in openers and end - start == 1:
                brackets.append(start)
                commas.append(-1)
                if len(brackets) > room:
                    self._deep(end)
            elif byte in closing:
                if brackets:
                    brackets.pop()
                    commas.pop()
                elif len(stack) == 1:
                    return start, end
                else:
                    self._close(stack.pop(), start)
                    room += 1
            elif byte == quote:
                if end - start == 1:
                    return start, end
            elif (comma := text.rfind(b",", start, end)) >= 0:
                if commas:
                    commas[-1] = comma
                else:
                    stack[-1].comma = comma
            if end > enough:
                self._read_some(end)
                room = MAX_DEPTH - len(stack)
                enough = self._read_to + PIECE_BYTES
        raise _Refused

    def _note(self) -> None:
        """Moves what is open into `_stack`."""
        self._stack += map(_Open, self._brackets, self._commas)
        self._brackets.clear()
        self._commas.clear()

    def rest(self) -> bytes:
        """The text with everything blanked out that has been read: the parser refuses it where it refuses the whole.

        It counts as one line, so that a refusal gives the column in the whole text.
        """
        self._note()
        blanked = bytearray(self._text.replace(b"\n", b"\r"))
        for container in self._stack:
            inside, begin = container.opened + 1, container.begin
            if container.expects == _FRESH:
                continue
            blanked[inside:begin] = b" " * (begin - inside)
            in_object = blanked[container.opened] == b"{"[0]
            item = b'"":0' if in_object else b"0"
            if container.expects == _AFTER_CHILD:
                blanked[inside : inside + len(item)] = item
                continue
            before = item + b","
            last = b""
            if container.expects == _IN_CHILD:
                last = b'"":' if in_object else b""
                if begin - inside < len(before) + len(last):  # the child is the first item
                    before = b""
            blanked[inside : inside + len(before)] = before
            blanked[begin - len(last) : begin] = last
        return bytes(blanked)

    def close(self) -> None:
        """Frees what has been read of a text that is refused, or that nobody wants any more."""
        values = [container.value for container in self._stack]
        self._stack.clear()
        free(values)

    def _deep(self, end: int) -> None:
        """A container below the deepest level: taken by the parser where it is empty."""
        if _EMPTY.match(self._text, end) is None:
            self._read()
            raise _Refused
        self._too_deep = True

    def _end_of_string(self, position: int) -> int:
        """Where a string ends whose content has been read up to `position`."""
        text = self._text
        while True:
            quote = text.find(b'"', position)
            if quote < 0:
                raise _Refused
            escapes = text[position:quote]
            position = quote + 1
            if (len(escapes) - len(escapes.rstrip(b"\\"))) % 2 == 0:
                return position

    def _read_some(self, end: int) -> None:
        """Reads up to `end` where that is worth a call of the parser."""
        if end - self._read_to > PIECE_BYTES:
            self._read()
            self._read_to = end

    def _read(self) -> None:
        """Reads all items that have been found complete into the containers that are open."""
        self._pause()
        self._note()
        text, stack = self._text, self._stack
        for level, container in enumerate(stack):
            if container.value is None:
                container.value = _made(text[container.opened])
            if container.expects == _IN_CHILD:
                continue
            if container.comma >= container.begin:
                self._take(container, container.comma)
                container.begin = container.comma + 1
                container.expects = _AFTER_COMMA
            if level + 1 < len(stack):
                child = stack[level + 1]
                self._enter(container, child)
                container.begin = child.opened
                container.expects = _IN_CHILD

    def _enter(self, container: _Open, child: _Open) -> None:
        """Reads what stands between the last comma and the bracket of a child: nothing, or its key."""
        before = self._text[container.begin : child.opened]
        if container.expects == _AFTER_CHILD:
            raise _Refused
        if isinstance(container.value, list):
            if before.strip(_SPACE):
                raise _Refused
            return
        (child.key,) = _piece(b"{%b[]}" % before)

    def _close(self, closed: _Open, end: int) -> None:
        """A container that was read in pieces ends at `end`: it becomes an item of the one around it."""
        self._stack.append(closed)
        self._finish(closed, end)
        self._stack.pop()
        parent = self._stack[-1]
        if isinstance(parent.value, list):
            parent.value.append(closed.value)
        else:
            parent.value[closed.key] = closed.value
        parent.begin = end + 1
        parent.comma = -1
        parent.expects = _AFTER_CHILD

    def _finish(self, container: _Open, end: int) -> None:
        text = self._text
        if text[end] != _CLOSERS[text[container.opened]]:
            self._read()
            raise _Refused
        if container.expects == _AFTER_COMMA or text[container.begin : end].strip(_SPACE):
            self._take(container, end)

    def _take(self, container: _Open, end: int) -> None:
        """Reads the items between `container.begin` and `end`: at least one, except directly behind a child."""
        piece = self._text[container.begin : end]
        if container.expects == _AFTER_CHILD:
            piece = piece.strip(_SPACE)
            if not piece:
                return
            if piece[0] != _COMMA:
                raise _Refused
            piece = piece[1:]
        items = _piece(b"[%b]" % piece if isinstance(container.value, list) else b"{%b}" % piece)
        if not items:
            raise _Refused
        if self.mistake is None and any(map(_may_overflow, _overlapping(piece))):
            mistake = _mistake(piece, items)
            self.mistake = mistake if mistake == _TOO_LARGE else None
        if isinstance(container.value, list):
            container.value.extend(items)
        else:
            container.value.update(items)


def _made(bracket: int) -> list[Any] | dict[str, Any]:
    return [] if bracket == b"["[0] else {}


def _piece(text: bytes) -> Any:
    try:
        return _parsed(text)
    except ValueError:
        raise _Refused from None


# --- writing -------------------------------------------------------------------------------------------------


def dump(value: Any) -> bytes:
    """`value` as compact JSON in UTF-8."""
    pause = _pause.get()
    if pause is None:
        return to_json(value)
    heavy: set[int] = set()
    _weigh(value, heavy)
    pieces: list[bytes] = []
    _write(value, heavy, pieces, pause)
    return b"".join(pieces)


_ITEMS = 16
"""Items of a container, none of them heavy, that are written in one call."""


# Named, because to evaluate `list | tuple` for each of millions of values takes longer than the check itself.
_ARRAYS = (list, tuple)
_CONTAINERS = (dict, list, tuple)
_WEIGHED = (dict, list, tuple, int)
"""A constant: a million numbers are asked."""


def _weigh(value: Any, heavy: set[int]) -> int:
    """The number of values in `value`; notes the containers with many."""
    if isinstance(value, dict):
        items: Any = value.values()
    elif isinstance(value, _ARRAYS):
        items = value
    elif isinstance(value, int):
        return (value.bit_length() // 64) ** 2 // 20  # its digits: 0.1 ms for 4,000, the most that the parser takes
    else:
        return 0
    weight = 1 + len(value) + sum([_weigh(item, heavy) for item in items if isinstance(item, _WEIGHED)])
    if weight > PIECE_OBJECTS:
        heavy.add(id(value))
    return weight


def _write(value: Any, heavy: set[int], pieces: list[bytes], pause: Callable[[], None]) -> None:
    if id(value) not in heavy:
        pieces.append(to_json(value))
        return
    pause()
    is_object = isinstance(value, dict)
    pieces.append(b"{" if is_object else b"[")
    items = iter(value.items() if is_object else value)
    comma = b""
    while some := list(islice(items, _ITEMS)):
        if is_object:
            if not any(id(item) in heavy for _, item in some):
                pieces += (comma, to_json(dict(some))[1:-1])
            else:
                for key, item in some:
                    pieces += (comma, to_json(key), b":")
                    _write(item, heavy, pieces, pause)
                    comma = b","
        elif not any(id(item) in heavy for item in some):
            pieces += (comma, to_json(some)[1:-1])
        else:
            for item in some:
                pieces.append(comma)
                _write(item, heavy, pieces, pause)
                comma = b","
        comma = b","
    pieces.append(b"}" if is_object else b"]")


# --- freeing -------------------------------------------------------------------------------------------------


def free(values: list[Any]) -> None:
    """Empties `values` and, inside of `in_pieces`, frees what nobody else holds of them in pieces.

    The last reference to a value frees everything below it in one go. So the values below are held on to, level by
    level, and let go of some at a time, those that contain others first. Nothing is changed in them.
    """
    if _pause.get() is None:
        values.clear()
        return
    level = values
    while level:
        below: list[Any] = []
        for start in range(0, len(level), PIECE_OBJECTS):
            short: list[Any] = []
            for item in level[start : start + PIECE_OBJECTS]:
                if isinstance(item, _CONTAINERS) and len(item) > PIECE_OBJECTS:  # not in one call
                    inside: Any = item.values() if isinstance(item, dict) else item
                    below += [inner for inner in inside if gc.is_tracked(inner) or isinstance(inner, dict)]
                else:
                    short.append(item)
            inside = gc.get_referents(*short)
            below += [inner for inner in inside if gc.is_tracked(inner) and not isinstance(inner, type)]
        while level:
            del level[-PIECE_OBJECTS:]
        level = below
