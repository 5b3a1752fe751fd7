"""Large JSON in pieces: the same values, the same refusals, wherever the text is cut."""

from __future__ import annotations

import gc
import json
from typing import Any
from unittest.mock import patch

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from pydantic_core import to_json

from beluna_gateway.wire import json_pieces
from beluna_gateway.wire.json_pieces import MAX_DEPTH, dump, free, in_pieces, parse, read
from beluna_gateway.wire.ndjson import RejectedLine, decode

from .samples import FRAMES, VALUES, changed, json_values, places

# Bytes that decide where a text may be cut, and some that do not.
MEANINGFUL = st.sampled_from([*b'[]{},:"\\ \t\r01-.eEnul', 0xC3, 0xA9, 0xFF]).map(lambda byte: bytes([byte]))
PIECE = st.integers(0, 40)


def nothing() -> None:
    """Nobody interrupts."""


def outcome(text: bytes) -> tuple[str, str | None]:
    """The value as a text that tells 1 from 1.0, or the refusal."""
    try:
        value, mistake = parse(text)
    except ValueError as error:
        return "refused", str(error)
    return repr(value), mistake


def outcome_in_pieces(text: bytes, piece: int) -> tuple[str, str | None]:
    with patch.object(json_pieces, "PIECE_BYTES", piece), in_pieces(nothing):
        return outcome(text)


@given(json_values, PIECE, st.sampled_from([(",", ":"), (", ", ": "), (" ,\t", " \r:")]), st.booleans())
@settings(max_examples=300)
def test_a_value_is_the_same_in_pieces(value: Any, piece: int, separators: tuple[str, str], ascii_only: bool):
    """Whatever the value, its spaces and escapes, and the length of the pieces."""
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only).encode()

    assert outcome_in_pieces(text, piece) == outcome(text)


@given(json_values, PIECE, st.data())
@settings(max_examples=500)
@example(value=[], piece=0, data=None)
def test_a_damaged_text_is_refused_in_the_same_words(value: Any, piece: int, data: st.DataObject | None):
    """Bytes cut out and put in anywhere: the same value, or the same refusal with the same column."""
    text = json.dumps([value, {"a": value}], separators=(",", ":")).encode()
    if data is not None:
        for _ in range(data.draw(st.integers(1, 3))):
            start = data.draw(st.integers(0, len(text)))
            end = data.draw(st.integers(start, min(start + 3, len(text))))
            text = text[:start] + b"".join(data.draw(st.lists(MEANINGFUL, max_size=3))) + text[end:]

    assert outcome_in_pieces(text, piece) == outcome(text)


@given(st.lists(MEANINGFUL, max_size=30).map(b"".join), PIECE)
@settings(max_examples=500)
def test_any_bytes_are_judged_alike(text: bytes, piece: int):
    """Also what never was JSON."""
    assert outcome_in_pieces(text, piece) == outcome(text)


@pytest.mark.parametrize("piece", [0, 7, 100])
@pytest.mark.parametrize("depth", range(MAX_DEPTH - 2, MAX_DEPTH + 4))
@pytest.mark.parametrize("inside", [b"", b"1", b"[]", b"{}", b"1,[2]", b'"a"', b"1e999", b"x"])
def test_depth_is_counted_alike(piece: int, depth: int, inside: bytes):
    """The deepest level, with and without something in it, in arrays and objects, and beside others."""
    for opening, closing in ((b"[", b"]"), (b'{"a":', b"}")):
        text = b"[[1]," + opening * depth + inside + closing * depth + b",[[2]],1e999]"

        assert outcome_in_pieces(text, piece) == outcome(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a":[1,2],"b":{"c":[3,4,5]},"a":[6,7]}',
        b'["' + b"x" * 5000 + b'",1,"' + b"\\\\" * 5000 + b'",2,"' + b'\\"' * 5000 + b'",{"a":"' + b"y" * 5000 + b'"}]',
        b'["' + b"x" * 5000,
        b'["' + b"\\" * 5001 + b'"]',
        b'[1,"' + b"a" * 5000 + b'\xff",2]',
        b"[[1,2],[3,4]]" + b" " * 5000 + b"x",
        b"[[1,2],[3,4]}",
        b'{"a":[1,2]]',
        b"[[1,2] [3,4]]",
        b'{"a":1 {"b":[1,2]}}',
        b'{"a":-{"b":[1,2]}}',
        b'{"a":1{"b":[1,2]}}',
        b"[,[1,2]]",
        b"[[1,2],]",
        b"[[1,2],,[3]]",
        b'{"a":[1,2],}',
        b"[1e999,[1e999]]",
        b"[[1,2],\v[3,4]]",
        b"[[1,2]\v,[3,4]]",
        b"[[1,2],[3,4]\v]",
        b"[[%b1],%b1%b]" % (b"1," * 2100, b"[" * MAX_DEPTH, b"]" * MAX_DEPTH),
    ],
    # Without backslashes: pytest finds no test by an id that has them.
    ids=lambda text: repr(text[:30]).replace("\\", "|"),
)
@pytest.mark.parametrize("piece", [0, 1, 10, 1000])
def test_corners(text: bytes, piece: int):
    """Equal keys, long strings, and each way to stand wrong beside a container that was read in pieces."""
    assert outcome_in_pieces(text, piece) == outcome(text)


TOO_DEEP, TOO_LARGE = "it is nested deeper than 200", "it has a number that is too large for a 64-bit float"


@pytest.mark.parametrize("piece", [0, 7, 100, 1_000_000])
@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ("[" * MAX_DEPTH + "]" * MAX_DEPTH, None),
        ("[" * MAX_DEPTH + "]" * (MAX_DEPTH - 1) + ",[]]", None),
        ('{"a":' * MAX_DEPTH + "1" + "}" * MAX_DEPTH, None),
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), TOO_DEEP),
        ('{"a":[' * 100 + "{}" + "]}" * 100, TOO_DEEP),
        (f"[{'[],' * 300}{'{},' * 300}0]", None),
        ("[0,[1e999]]", TOO_LARGE),
        ("[1e999,[0],0e999,[0]]", TOO_LARGE),
        ('{"a":-1E+999}', TOO_LARGE),
        (f"[{'9' * 309}]", TOO_LARGE),
        (f"[-{'9' * 309}]", TOO_LARGE),
        ("[0e999,1.7976931348623157e+308,-1.7976931348623157e308]", None),
        ('[0e999,"a",[{"b":null}],true]', None),
        (' \t\r[[1,2], [{"a":[3,4]}] ]', None),
    ],
    ids=lambda value: repr(value)[:12].replace("\\", "|"),
)
def test_what_is_json_is_told_from_what_the_protocol_takes(text: str, mistake: str | None, piece: int):
    """The deepest level and the largest number are taken, one more is not."""
    with patch.object(json_pieces, "PIECE_BYTES", piece), in_pieces(nothing):
        assert parse(text.encode()) == (json.loads(text), mistake)


@pytest.mark.parametrize("before", [100_000, 200_000])
@pytest.mark.parametrize("after", [0, 40_000, 100_000])
def test_a_number_that_is_too_large_is_found_beside_long_texts(before: int, after: int):
    """In a text that is cut as in others, wherever the number stands."""
    text = b'["%b",1e999,"%b"]' % (b"x" * before, b"y" * after)
    with in_pieces(nothing):
        assert parse(text)[1] == TOO_LARGE


_LONG = '"' + r"\"" * 100 + "],}{:[" + r"\\" * 100 + '"'
_ENDS_IN_A_QUOTE = '"],}{:[' + r"\"" * 101 + '"'


@pytest.mark.parametrize("piece", [0, 7, 100, 1000])
def test_nothing_in_a_long_string_is_structure(piece: int):
    """Brackets, commas and quotation marks, behind any number of backslashes."""
    text = f"[{','.join([f'[{_LONG}],{_ENDS_IN_A_QUOTE},{{{_LONG}:[{_ENDS_IN_A_QUOTE}]}},1'] * 5)}]"
    with patch.object(json_pieces, "PIECE_BYTES", piece), in_pieces(nothing):
        assert parse(text.encode()) == (json.loads(text), None)


def test_a_refusal_counts_columns_as_if_the_text_were_one_line():
    """In a text that has been cut, lines are not counted."""
    with patch.object(json_pieces, "PIECE_BYTES", 1), in_pieces(nothing):
        assert outcome(b"[[1,2],\n[3,4],\n\n[5,[\n\nx]]]") == ("refused", "expected value at line 1 column 23")


def test_texts_up_to_four_pieces_are_not_cut():
    """And one byte more is."""
    for more in (0, 1):
        pauses: list[int] = []
        with in_pieces(lambda: pauses.append(0)):  # noqa: B023 - called within the loop's turn
            parse(b"[1,".ljust(4 * json_pieces.PIECE_BYTES - 2 + more) + b"1]")

        assert bool(pauses) is bool(more)


@given(st.sampled_from(FRAMES), PIECE, st.data())
@settings(max_examples=200)
def test_a_frame_is_decoded_alike(frame: dict[str, Any], piece: int, data: st.DataObject):
    """A large frame is the same frame, or is rejected in the same words, as if it were small."""
    place = data.draw(st.sampled_from([place for place in places(frame) if place]))
    line = json.dumps(changed(frame, place, data.draw(st.sampled_from(VALUES) | json_values))).encode()

    def decoded() -> Any:
        try:
            return decode(line)
        except RejectedLine as rejected:
            return str(rejected), rejected.request_id

    with patch.object(json_pieces, "PIECE_BYTES", piece), in_pieces(nothing):
        large = decoded()
    assert large == decoded()


@given(json_values, st.integers(0, 10))
def test_a_value_is_written_alike(value: Any, objects: int):
    """In pieces of any size."""
    with patch.object(json_pieces, "PIECE_OBJECTS", objects), in_pieces(nothing):
        assert dump(value) == to_json(value)


def pauses_of_dump(value: Any, objects: int) -> int:
    """How many containers of `value` are too large for one call of `objects` values."""
    pauses: list[int] = []
    with patch.object(json_pieces, "PIECE_OBJECTS", objects), in_pieces(lambda: pauses.append(0)):
        assert dump(value) == to_json(value)
    return len(pauses)


@pytest.mark.parametrize(
    ("value", "weight"),
    [
        ([], 1),
        ([1, True, None, 0.5, "x" * 1000], 6),
        ({"a": 1, "b": "c"}, 3),
        ((1, 2), 3),
        ([[1], {"a": {}}], 8),
        # digits take longer than their number: of a number of 1,280 bits as long as 20 others
        ([1 << 1343], 24),
        ([1 << 1406], 24),
    ],
    ids=lambda value: str(value)[:20],
)
def test_a_value_is_written_in_one_call_up_to_its_weight(value: Any, weight: int):
    """Itself, its items, and theirs; a text is one of them, however long it is."""
    assert pauses_of_dump(value, weight) == 0
    assert pauses_of_dump(value, weight - 1) == 1


@pytest.mark.parametrize(
    ("value", "large"),
    [
        ([[0] * 5, [0], [[0] * 5]], 4),
        ({"a": [0] * 5, "b": [0], "c": {"d": [0] * 5}}, 4),
        ([[0] * 5, [0] * 5], 3),
        ({"a": [0] * 5, "b": [0] * 5}, 3),
        ([*([[0]] * 20), [0] * 5, *([0] * 20)], 2),
        ({**{f"a{n}": [n] for n in range(20)}, "b": [0] * 5, **{f"c{n}": n for n in range(20)}}, 2),
    ],
    ids=lambda value: str(value)[:20],
)
def test_others_have_their_turn_before_each_large_container_is_written(value: Any, large: int):
    """At any depth, among small ones and beside other large ones."""
    assert pauses_of_dump(value, 4) == large


@pytest.mark.parametrize("text", [b'{"a":[1,2]}', b"[1e999]", b"[%b1]" % (b"[1]," * 30_000)], ids=len)
def test_what_a_backend_said_is_read_also_where_a_client_might_not_say_it(text: bytes):
    """The same value in pieces, if it is a long one, and in one."""
    pauses: list[int] = []
    with in_pieces(lambda: pauses.append(0)):
        value = read(text)

    assert value == read(text) == json.loads(text)
    assert bool(pauses) is (len(text) > 100_000)


def test_a_long_text_is_parsed_in_many_calls():
    """Between the pieces others have their turn."""
    text = b"[%b]" % b",".join([b'{"a":[1,2]}'] * 20_000)
    pauses: list[int] = []
    with in_pieces(lambda: pauses.append(0)):
        value, mistake = parse(text)

    assert (len(value), mistake) == (20_000, None)
    assert len(pauses) > len(text) // json_pieces.PIECE_BYTES // 2


def test_what_nobody_wants_any_more_is_given_up():
    """An exception between two pieces ends the parsing."""

    class Enough(Exception):
        pass

    def enough() -> None:
        raise Enough

    with in_pieces(enough), pytest.raises(Enough):
        parse(b"[%b]" % b",".join([b"[]"] * 100_000))


class Noted:
    """Notes when it is freed."""

    def __init__(self, freed: list[int], number: int) -> None:
        self.inside: list[Any] = []
        self._freed, self._number = freed, number

    def __del__(self) -> None:
        self._freed.append(self._number)


def test_freeing_takes_nothing_from_others():
    """What somebody else holds stays whole; the rest is gone, without the garbage collector."""
    freed: list[int] = []
    kept = {"list": [Noted(freed, 1)]}
    values: list[Any] = [[{"kept": kept}, Noted(freed, 2), ({"a": Noted(freed, 3)},)]]
    gc.disable()
    try:
        with in_pieces(nothing):
            free(values)
    finally:
        gc.enable()

    assert values == []
    assert sorted(freed) == [2, 3]
    assert len(kept["list"]) == 1
