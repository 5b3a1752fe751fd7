"""`schema_mistake` answers as the drafts' own meta-schemas do, only faster and at every depth."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft4Validator, Draft7Validator, Draft201909Validator, Draft202012Validator

from beluna_gateway.wire.json_schema import _BY_NAME, _LIST, _ONE, _SIMPLE, schema_mistake

KEYWORDS = sorted({*_SIMPLE, *_ONE, *_LIST, *_BY_NAME, "const", "default", "x-unknown", "nullable"})

_words = st.sampled_from(["object", "string", "integer", "null", "a", "b#", "#c", "1x", ""])
_leaves = st.none() | st.booleans() | st.integers(-2, 3) | st.sampled_from([0.5, 1.0, -1.0]) | _words
_values = st.recursive(
    _leaves,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYWORDS) | _words, inner, max_size=4),
    max_leaves=10,
)
_schemas = st.dictionaries(st.sampled_from(KEYWORDS), _values, max_size=4)

META = Draft202012Validator(Draft202012Validator.META_SCHEMA)

# Keywords whose form has changed, with a draft that has the older form.
OLDER = {
    "items": Draft7Validator,
    "exclusiveMinimum": Draft4Validator,
    "exclusiveMaximum": Draft4Validator,
    "$recursiveAnchor": Draft201909Validator,
    "$id": Draft7Validator,
}


def in_older_form(keyword: str, value: Any) -> bool:
    """The value is right for the keyword in an older draft. Draft 4 wants a bound beside an exclusive one."""
    draft = OLDER.get(keyword)
    bound = {"minimum": 1, "maximum": 1} if draft is Draft4Validator else {}
    return draft is not None and draft(draft.META_SCHEMA).is_valid({keyword: value, **bound})


@given(_schemas | _values)
@settings(max_examples=300)
def test_it_agrees_with_the_meta_schema(schema: Any):
    """A value passes here exactly where the meta-schema of draft 2020-12 lets it pass, but for older forms."""
    passes = schema_mistake(schema) is None

    if META.is_valid(schema):
        assert passes
    elif passes:
        assert any(f'"{keyword}"' in json.dumps(schema) for keyword in OLDER)


NO_TYPE = "expected one of the seven types, or a list of different ones"

_SAMPLES: tuple[Any, ...] = (
    *(
        None,
        True,
        0,
        1,
        -1,
        1.0,
        0.5,
        "",
        "object",
        "a#",
        "#b",
        [],
        ["a"],
        ["a", "a"],
        ["object"],
        [1],
        [True],
        [{}],
        {},
    ),
    *({"a": True}, {"a": 1}, {"a": ["b"]}, {"a": ["b", "b"]}, {"a": {"type": "x"}}, {"type": "x"}, [{"type": "x"}]),
)


@pytest.mark.parametrize("keyword", KEYWORDS)
def test_each_keyword_agrees_with_the_meta_schema(keyword: str):
    """No keyword of the table is stricter or laxer than the drafts that have it."""
    expected = [value for value in _SAMPLES if META.is_valid({keyword: value}) or in_older_form(keyword, value)]

    assert expected == [value for value in _SAMPLES if schema_mistake({keyword: value}) is None]


def test_the_mistake_has_its_place():
    """What is wrong is found by its path."""
    schema = {"properties": {"a": {"anyOf": [True, {"items": {"type": "strin"}}]}}}

    mistake = schema_mistake(schema)

    assert mistake == f"$.properties.a.anyOf[1].items.type: {NO_TYPE}"


@pytest.mark.parametrize(
    ("inner", "mistake"),
    [
        ({"not": 1}, "$.properties.a.not: expected a schema: an object, true or false"),
        ({"allOf": {}}, "$.properties.a.allOf: expected an array of schemas, at least one"),
        ({"items": []}, "$.properties.a.items: expected an array of schemas, at least one"),
        ({"$defs": []}, "$.properties.a.$defs: expected an object of schemas"),
        ({"anyOf": [{"type": 1}, True]}, f"$.properties.a.anyOf[0].type: {NO_TYPE}"),
        ({"minLength": -1, "maxLength": 2}, "$.properties.a.minLength: expected a whole number from 0"),
    ],
)
def test_each_mistake_says_where_it_is_and_what_is_expected(inner: Any, mistake: str):
    """Whatever valid schemas stand beside it."""
    assert schema_mistake({"properties": {"a": inner, "b": True}}) == mistake


@pytest.mark.parametrize("number", [1, 4096, 4097, 9000])
def test_a_list_of_different_strings_may_be_long(number: int):
    """Every item of it is compared with every other one."""
    names = [str(n) for n in range(number)]

    assert schema_mistake({"required": names}) is None
    assert schema_mistake({"required": [*names, names[0]]}) is not None
    assert schema_mistake({"required": [*names, names[-1]]}) is not None


def test_anchors_may_have_capital_letters():
    """As the meta-schema's pattern has them: a letter of either case or an underscore, then those, digits and `-._`."""
    assert schema_mistake({"$anchor": "Anchor_Z-9.b"}) is None
    assert schema_mistake({"$anchor": "9a"}) == "$.$anchor: expected an anchor's name"


@pytest.mark.parametrize("keyword", ["items", "not"])
def test_depth_is_no_mistake(keyword: str):
    """However deep a schema is, it is looked at to its end."""
    schema: Any = {"type": "wrong"}
    for _ in range(5000):
        schema = {keyword: schema}

    assert "expected one of the seven types" in (schema_mistake(schema) or "")


def test_a_large_schema_takes_no_time():
    """A schema of a megabyte does not stop the loop: a hundredth of what a general validator takes."""
    schema = {"properties": {f"p{i}": {"type": "string", "description": "x" * 40} for i in range(10_000)}}
    begun = time.process_time()

    assert schema_mistake(schema) is None
    assert time.process_time() - begun < 0.5


def test_long_names_are_not_copied_for_each_keyword():
    """A name of a megabyte above ten thousand keywords costs as much as the two apart: its bytes, not their product."""
    inner = {f"x{i}": True for i in range(10_000)}
    schema = {"properties": {"n" * 1_000_000: {**inner, "properties": dict.fromkeys(("a", "b"), inner)}}}
    begun = time.process_time()

    assert schema_mistake(schema) is None
    assert time.process_time() - begun < 0.5


def test_long_names_are_quoted_in_part():
    """A mistake's path repeats the first hundred characters of a name."""
    mistake = schema_mistake({"properties": {"n" * 500: {"type": 1}}})

    assert mistake == f"$.properties.{'n' * 100}.type: {NO_TYPE}"
