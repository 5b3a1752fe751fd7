"""Lines: whatever bytes come, a frame or the reason why not; whatever is said, one line of JSON."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from beluna_gateway.wire.frames import Cancel, ClientFrameType, Exit, Infer, StatusQuery
from beluna_gateway.wire.ndjson import RejectedLine, decode, rejected

from .samples import FRAMES, FULL_INFER, VALUES, changed, json_values, places, valid_line

# --- reading -------------------------------------------------------------------------------------------------


def refusal(line: bytes | str) -> RejectedLine:
    with pytest.raises(RejectedLine) as caught:
        decode(line.encode() if isinstance(line, str) else line)
    error = caught.value.error
    assert (error.kind, error.retryable, error.message) == ("invalid_request", False, str(caught.value))
    return caught.value


def infer(**fields: Any) -> str:
    return json.dumps({"type": "infer", "request_id": "r1", "messages": [], **fields})


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        (b'{"type":"exit"}', Exit(type="exit")),
        (b'{"type":"exit"}\r', Exit(type="exit")),
        (b' \t{ "type" : "status" } ', StatusQuery(type="status")),
        (b'{"type":"cancel","request_id":"\\ud83d\\ude00"}', Cancel(type="cancel", request_id="\U0001f600")),
        (
            '{"type":"cancel","request_id":"é\u2028\u0085\x7f"}'.encode(),
            Cancel(type="cancel", request_id="é\u2028\u0085\x7f"),
        ),
        (b'{"type":"exit","type":"status"}', StatusQuery(type="status")),
        (b'{"request_id":"a","type":"cancel","request_id":"b"}', Cancel(type="cancel", request_id="b")),
    ],
    ids=lambda value: repr(value)[:40],
)
def test_frames_are_read(line: bytes, expected: Any):
    """JSON in UTF-8, however it is spaced and escaped; of two equal keys the last counts."""
    assert decode(line) == expected


@pytest.mark.parametrize(
    "line",
    [
        *(b"", b"x", b"exit", b"{", b'{"type":"exit"', b'{"type":"exit",}', b"{'type':'exit'}", b'{type:"exit"}'),
        *(b'{"type":"exit"} x', b'{"type":"exit"}{"type":"exit"}', b'// c\n{"type":"exit"}'),
        *(b'\xef\xbb\xbf{"type":"exit"}', b'\x00{"type":"exit"}', b'\xc2\xa0{"type":"exit"}'),
        *('{"type":"exit"}'.encode(encoding) for encoding in ("utf-16", "utf-16-le", "utf-32", "utf-32-be")),
        *(b'{"type":"cancel","request_id":"\xff"}', b'{"type":"cancel","request_id":"\xc0\xaf"}'),
        *(b'{"type":"cancel","request_id":"\xed\xa0\x80"}', b'{"type":"cancel","request_id":"\xe9"}'),
        *(rb'{"type":"cancel","request_id":"\ud800"}', rb'{"type":"cancel","request_id":"\udc00\ud800"}'),
        *(rb'{"type":"cancel","request_id":"\ud800a"}', rb'{"type":"exit","\ud800":1}'),
        *(b'{"type":"cancel","request_id":"a\nb"}', b'{"type":"cancel","request_id":"a\tb"}'),
        *(b'{"type":"cancel","request_id":"\\x41"}', b'{"type":"exit","a":01}', b'{"type":"exit","a":+1}'),
        *(b'{"type":"exit","a":.5}', b'{"type":"exit","a":1.}', b'{"type":"exit","a":0x1}'),
        *(b'{"type":"exit","a":NaN}', b'{"type":"exit","a":Infinity}', b'{"type":"exit","a":-Infinity}'),
    ],
    ids=repr,
)
def test_what_is_no_json_is_refused(line: bytes):
    """Not UTF-8, not JSON, NaN, infinity, a lone surrogate, bytes before or behind: refused, and no id is guessed."""
    assert refusal(line).request_id is None


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("[]", "an array"),
        ("null", "null"),
        ("7", "a number"),
        ("1.5", "a number"),
        ('"exit"', "a string"),
        ("true", "a boolean"),
    ],
)
def test_json_that_is_no_object_is_refused(line: str, found: str):
    """The message says what was found instead."""
    assert str(refusal(line)) == f"the line is JSON, but not an object: found {found}"


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("{}", "no `type`"),
        ('{"type":"Exit"}', '`type` "Exit"'),
        ('{"type":null}', "`type` null"),
        ('{"type":["exit"]}', "`type` an array"),
        ('{"type":{"exit":{}}}', "`type` an object"),
        ('{"type":"started","request_id":"r1"}', '`type` "started"'),
    ],
)
def test_an_unknown_type_is_refused(line: str, found: str):
    """Only the four frames of a client are taken; the message lists them."""
    assert str(refusal(line)) == f"{found}; expected one of infer, embed, count_tokens, models, cancel, exit, status"


def test_a_rejection_names_the_request_it_could_read():
    """The id is that of the line where it is a valid one, else null."""
    assert refusal(infer(typo=1)).request_id == "r1"
    assert refusal('{"type":"typo","request_id":"r1"}').request_id == "r1"
    assert refusal('{"request_id":"r1"}').request_id == "r1"
    assert refusal('{"type":"exit","request_id":"r1","a":1e999}').request_id == "r1"
    for wrong in ("", "x" * 129, 5, None, ["r1"]):
        assert refusal(infer(request_id=wrong, typo=1)).request_id is None


def test_mistakes_are_named_with_their_places():
    """One answer tells every mistake, of a list its first wrong item, in the words of the wire and without values."""
    line = infer(
        messages=[{"role": "user", "parts": [{"text": {"text": "sk-secret", "zz": 1}}, {"image_url": {}}, {"sk": 1}]}],
        limits={"max_output_tokens": 0},
        output_mode={"json_schema": {"name": 5, "schema": {}}},
        sampling={"seed": 1.5},
        tool_choice="sk-secret",
    )

    assert set(str(refusal(line)).split("; ")) == {
        "messages[0].parts[0].text.zz: unknown field",
        "limits.max_output_tokens: expected at least 1",
        "output_mode: expected 'text' or 'json_object'",
        "output_mode.json_schema.name: expected a string",
        "sampling.seed: expected an integer",
        "tool_choice: expected 'auto', 'none' or 'required'",
        "tool_choice: expected an object",
    }


@pytest.mark.parametrize(
    "fields",
    [
        {f"unknown{number}": 1 for number in range(1000)},
        {"limits": {f"unknown{number}": 1 for number in range(1000)}},
        {"metadata": {f"key{number}": number for number in range(1000)}},
    ],
    ids=["unknown fields", "unknown fields of an object", "metadata"],
)
def test_a_long_list_of_mistakes_is_cut(fields: dict[str, Any]):
    """A frame with a thousand mistakes is answered in a few lines."""
    message = str(refusal(infer(**fields, stream=1)))

    assert 20 <= message.count("; ") + 1 <= 22


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"role": "user", "parts": [], "zz": 1}, "messages[1].zz: unknown field"),
        (1, "messages[1]: expected an object"),
        ({"role": "user", "parts": [1, 2, 3]}, "messages[1].parts[0]: expected an object with one key"),
    ],
    ids=["unknown field", "number", "parts"],
)
def test_of_a_list_the_first_wrong_item_is_named(item: Any, words: str):
    """A list of wrong items is refused for its first one."""
    message = str(refusal(infer(messages=[{"role": "user", "parts": []}, *[item] * 1000])))

    assert message.startswith(words)
    assert ";" not in message


def test_unknown_fields_hide_no_other_mistake():
    """Beside a thousand unknown fields the known ones are judged as ever."""
    unknown = {f"unknown{number}": 1 for number in range(1000)}
    line = json.dumps({**unknown, "type": "infer", "messages": [{"role": "user", "parts": 1, **unknown}]})

    assert "messages[0].parts: expected an array" in str(refusal(line))


@pytest.mark.parametrize("place", ["type", "field", "field of a message"])
def test_a_long_name_is_cut(place: str):
    """A name of megabytes is quoted up to its 100th character."""
    name = "n" * 1_000_000
    line = {
        "type": json.dumps({"type": name}),
        "field": infer(**{name: 1}),
        "field of a message": infer(messages=[{"role": "user", "parts": [], name: 1}]),
    }[place]

    message = str(refusal(line))

    assert "n" * 100 in message
    assert len(message) < 200


@pytest.mark.parametrize(("brackets", "taken"), [(98, True), (198, True), (199, False), (300, False), (500_000, False)])
def test_depth(brackets: int, taken: bool):
    """Objects and arrays inside each other, the frame among them: 100 are always taken, more than 200 never."""
    deep = "[" * brackets + "]" * brackets
    line = f'{{"type":"infer","messages":[],"provider_options":{{"a":{deep}}}}}'
    if taken:
        assert isinstance(decode(line.encode()), Infer)
    else:
        refusal(line)


def test_breadth_is_no_depth():
    """Many brackets beside each other are not deep, nor are those inside of strings."""
    assert isinstance(decode(infer(provider_options={"a": [[]] * 1000, "b": "[" * 1000}).encode()), Infer)


@pytest.mark.parametrize(
    "number",
    [
        *(
            "1e400",
            "-1e400",
            "1E+400",
            "123456.7e308",
            "1e0000400",
            "1e99999",
            "1" + "0" * 309 + ".0",
            "9" * 250 + "e99",
        ),
        *("9" * 210 + ".0e99", "0.1e310", "9" * 309 + ".5", "9" * 309, "-" + "9" * 4000),
    ],
    ids=lambda number: number[:20],
)
def test_numbers_that_become_infinite_are_refused(number: str):
    """A number beyond 64-bit floats is infinity in disguise, in whatever way it is written; an integer, too."""
    message = str(refusal(f'{{"type":"infer","messages":[],"provider_options":{{"a":[{{"b":{number}}}]}}}}'))

    assert "too large for a 64-bit float" in message


@pytest.mark.parametrize(
    "number", ["1e308", "1e-400", "0e999", "1.5e+300", "9" * 300, "-" + "9" * 300, "0." + "0" * 400 + "1"]
)
def test_large_numbers_that_are_finite_are_taken(number: str):
    """Large integers and tiny fractions are JSON like any other."""
    frame = decode(f'{{"type":"infer","messages":[],"provider_options":{{"a":{number}}}}}'.encode())

    assert isinstance(frame, Infer)
    assert frame.provider_options == {"a": json.loads(number)}


@given(json_values)
def test_free_form_json_arrives_as_it_is(value: Any):
    """What is free-form is neither bent nor dropped."""
    frame = decode(infer(provider_options={"a": value}).encode())

    assert isinstance(frame, Infer)
    assert json.dumps(frame.provider_options) == json.dumps({"a": value})


def test_the_full_frame_survives():
    """A frame with every field is read as it was written."""
    frame = decode(json.dumps(FULL_INFER).encode())

    assert isinstance(frame, Infer)
    assert frame.model_dump(by_alias=True, exclude_unset=True, warnings=False) == FULL_INFER


def answer(line: bytes) -> None:
    """A frame, or a rejection that is itself a frame; anything else fails the test."""
    try:
        frame = decode(line)
    except RejectedLine as refused:
        valid_line(rejected(refused.error, refused.request_id))
    else:
        assert isinstance(frame, ClientFrameType)


@given(st.binary(max_size=60))
@example(b"\xf4\x90\x80\x80")
@settings(max_examples=300)
def test_any_bytes_are_answered(line: bytes):
    """Any line gives a frame or a rejection, and no other exception."""
    answer(line)


@given(st.sampled_from(FRAMES), st.data())
@settings(max_examples=300)
def test_any_damage_to_a_frame_is_answered(frame: dict[str, Any], data: st.DataObject):
    """A frame with a piece replaced, cut out or put in, in its JSON or in its bytes, too."""
    place = data.draw(st.sampled_from([place for place in places(frame) if place]))
    line = json.dumps(changed(frame, place, data.draw(st.sampled_from(VALUES) | json_values))).encode()
    start = data.draw(st.integers(0, len(line)))
    end = data.draw(st.integers(start, min(start + 20, len(line))))
    answer(line[:start] + data.draw(st.binary(max_size=8)) + line[end:])
