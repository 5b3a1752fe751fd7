"""The data of an event → payloads: what is cut off, what is no JSON, and JSON that stands by itself."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.adapters.http.payloads import (
    DONE_MARK,
    BareJson,
    SplitCharacters,
    error_payload,
    may_be_cut,
    payloads_of,
    values_of,
    with_type,
)
from beluna_gateway.errors import GatewayError

_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


# --- what may have been cut off ---


@given(st.dictionaries(st.text(max_size=3), _values) | st.lists(_values), st.data())
def test_every_beginning_of_an_object_or_array_may_be_cut(value: object, draw: st.DataObject) -> None:
    """With white space before it, and at every byte."""
    text = json.dumps(value).encode()
    cut = draw.draw(st.integers(1, len(text) - 1))

    assert may_be_cut(b" \n" + text[:cut])


@pytest.mark.parametrize("end", range(1, len(DONE_MARK)))
def test_every_beginning_of_the_end_mark_may_be_cut(end: int) -> None:
    """It is no JSON, but `[` might have gone on as one."""
    assert may_be_cut(DONE_MARK[:end])
    assert may_be_cut(b" " + DONE_MARK[:end] + b" ")


@pytest.mark.parametrize(
    "data", [b"", b"x", b"12", b'"a', b"nul", b"<html>", b"Error {", b'{"a":x', b"{]", b"[DOG", b"}"]
)
def test_other_text_was_not_cut(data: bytes) -> None:
    """More of it would make it no better."""
    assert not may_be_cut(data)


# --- errors ---


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (b' {"code":1} ', {"code": 1}),
        (b" overloaded ", "overloaded"),
        ('é "x"'.encode(), 'é "x"'),
        (b"bad \xff byte", "bad \ufffd byte"),
        (b"", ""),
    ],
)
def test_whatever_an_error_says_is_in_its_payload(value: bytes, error: object) -> None:
    """As JSON where it is JSON, else as a text; bytes that are no UTF-8 are replaced."""
    assert json.loads(error_payload(value)) == {"error": error}


# --- types ---


def test_the_name_of_an_event_becomes_a_type_whatever_its_bytes_are() -> None:
    """A name is not refused for bytes that are no UTF-8: no decoder knows it."""
    assert with_type(b'{"a":1}', b"response.\xff") == '{"type":"response.\ufffd","a":1}'.encode()


# --- arrays ---


@pytest.mark.parametrize("array", [b'[{"a":NaN}]', b"[Infinity]", b"[-Infinity, {}]", b'[{"a":1}, {'])
def test_an_array_that_is_no_json_is_left_to_the_decoder(array: bytes) -> None:
    """It refuses it; nothing is made up here, and no number that JSON does not have becomes one."""
    assert payloads_of(array) == [array]


# --- JSON without framing ---


def bare(*lines: bytes, limit: int = 100) -> list[bytes]:
    parser = BareJson(limit)
    return [payload for line in lines for payload in parser.feed(line)] + parser.close()


def test_a_value_of_exactly_the_limit_is_taken() -> None:
    """Its line ends count; each value, and each element of an array, begins at nothing."""
    lines = [b'{"a":', b"1234", b"}"]
    size = sum(len(line) + 1 for line in lines)

    assert bare(*lines, *lines, limit=size) == [b"\n".join(lines)] * 2
    with pytest.raises(
        GatewayError, match=rf"one event of more than {size - 1} bytes \(reliability\.max_event_bytes\)"
    ):
        bare(*lines, limit=size - 1)
    assert bare(b"[", *([b'{"a":1234},'] * 50), b"{}", b"]", limit=20) == [b'{"a":1234}'] * 50 + [b"{}"]


def test_white_space_before_a_value_changes_nothing() -> None:
    """Indented lines are as good as others."""
    assert bare(b'  {"a":1}') == [b'{"a":1}']
    assert bare(b" [", b'  {"a":1},', b'  {"b":2}', b" ]") == [b'{"a":1}', b'{"b":2}']
    streamed = BareJson(100)
    assert (streamed.feed(b"  ["), streamed.feed(b'{"a":1},')) == ([], [b'{"a":1}'])
    assert BareJson(9).begins(b"  {")
    assert BareJson(9).begins(b"\t[")
    assert not BareJson(9).begins(b" " + DONE_MARK)
    assert not BareJson(9).begins(b" x{")


def test_it_is_open_from_its_first_line_to_its_last() -> None:
    """So that whoever reads the lines knows which ones belong to it."""
    parser = BareJson(100)
    seen = [parser.open]
    for line in (b"{", b'"a": [1,', b"2]", b"}", b"[", b"]"):
        parser.feed(line)
        seen.append(parser.open)

    assert seen == [False, True, True, True, False, True, False]
    assert parser.close() == []


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ([b'{"a":1}', b"[", b"2", b"]"], [b'{"a":1}', b"2"]),
        ([b"[", b"1,", b"2", b"]", b'{"a":', b"[3]}"], [b"1", b"2", b'{"a":\n[3]}']),
        ([b"[1,", b'{"a":', b"[2]", b"},", b"3]", b"[[4]]"], [b"1", b'{"a":[2]}', b"3", b"[4]"]),
    ],
)
def test_values_follow_one_another(lines: list[bytes], expected: list[bytes]) -> None:
    """What the one was says nothing of the next."""
    assert bare(*lines) == expected


# --- a body of several values ---


@pytest.mark.parametrize(
    ("body", "values"),
    [
        (b'{"a":1}\n{"b":2}', [{"a": 1}, {"b": 2}]),
        (b'\n {"a":1}\r\n\r\n{"b":2}\n\n', [{"a": 1}, {"b": 2}]),
        (b'{\n"a":\n\n1}\n{"b":2}\n{"c":3}\n', [{"a": 1}, {"b": 2}, {"c": 3}]),
        (b'[{"a":1},\n{"b":2}]\n', [{"a": 1}, {"b": 2}]),
        (b"", []),
        (b'{"a":1}\n', []),
        (b'{"a":1}\n{"b":2}\n{"c":', []),
        (b'{"a":1}\n{b}\n', []),
        (b'{"a":1}\n\ndata: x\n{"b":2}\n', []),
        (b'<html>\n{"a":1}\n{"b":2}\n', []),
    ],
)
def test_a_body_is_several_values_or_none(body: bytes, values: list[object]) -> None:
    """Each begins on a line of its own, and may have several; anything else between them makes the body none of it."""
    assert [json.loads(value) for value in values_of(body, 100)] == values


# --- characters in two events ---


def joined(*payloads: bytes) -> list[bytes]:
    characters = SplitCharacters()
    return [characters.joined(payload) for payload in payloads]


@pytest.mark.parametrize("character", "\U00010000\U00050000\U0001f600\U00090000\U000d0000\U0010ffff")
@pytest.mark.parametrize("upper", [False, True])
def test_a_character_in_two_events_is_whole_in_the_second(character: str, upper: bool) -> None:
    """Whichever it is, in digits of either case, and with other events in between."""
    escaped = json.dumps(character)[1:-1]
    high, low = ("\\u" + (half.upper() if upper else half) for half in escaped.split("\\u")[1:])
    first, between, second = joined(f'{{"a":"x{high}"}}'.encode(), b'{"b":"\\n"}', f'{{"a":"{low}y"}}'.encode())

    assert [json.loads(first), json.loads(between), json.loads(second)] == [
        {"a": "x"},
        {"b": "\n"},
        {"a": f"{character}y"},
    ]


@pytest.mark.parametrize(
    ("payloads", "expected"),
    [
        ([rb'["\ude00"]'], [rb'["\ufffd"]']),  # no first half
        ([rb'["\ud83d"]', rb'["x\ude00"]'], [b'[""]', rb'["x\ufffd"]']),  # the second begins no string
        ([rb'["\ud83d."]', rb'["\ude00"]'], [rb'["\ufffd."]', rb'["\ufffd"]']),  # the first ends none
        ([rb'["\ud83d"]', rb'["\ude00"]', rb'["\ude00"]'], [b'[""]', rb'["\ud83d\ude00"]', rb'["\ufffd"]']),
        ([rb'["\ud83d\ude00","\\ud83d"]'], [rb'["\ud83d\ude00","\\ud83d"]']),  # nothing to join
    ],
)
def test_half_a_character_is_joined_to_its_other_half_only(payloads: list[bytes], expected: list[bytes]) -> None:
    """The end of one string and the beginning of a later one, each half once."""
    assert joined(*payloads) == expected


def test_the_last_payload_waits_for_no_other_half() -> None:
    """No half can follow: the first one is replaced."""
    assert SplitCharacters().joined(rb'["\ud83d"]', last=True) == rb'["\ufffd"]'


def test_halves_are_looked_for_up_to_128_kib() -> None:
    """A larger payload is passed on as it is, so that no read takes long."""
    half = rb'"\ud83d."'
    largest = half.rjust(128 * 1024)

    assert joined(largest, b" " + largest) == [largest.replace(rb"\ud83d", rb"\ufffd"), b" " + largest]
