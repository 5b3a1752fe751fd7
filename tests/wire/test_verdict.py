"""Verdicts on verified output: what satisfies a schema, where it does not, and which schemas nothing is judged by."""

from __future__ import annotations

import json
import socket
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from beluna_gateway.wire.verdict import UnusableSchemaError, is_simple, mistake, unusable

ITEMS = {
    "type": "object",
    "required": ["items"],
    "properties": {"items": {"type": "array", "items": {"properties": {"price": {"type": "number"}}}}},
}


@pytest.mark.parametrize(
    ("schema", "text", "said"),
    [
        (ITEMS, '{"items":[]}', None),
        (ITEMS, ' {"items":[{"price":1.5}]} ', None),
        (ITEMS, '{"items":[{"price":1},{"price":"2"}]}', "$.items[1].price: '2' is not of type 'number'"),
        (ITEMS, "{}", "$: 'items' is a required property"),
        (ITEMS, '{"items":', "it is not JSON: EOF"),
        (ITEMS, 'Here it is: {"items":[]}', "it is not JSON"),
        (ITEMS, '{"items":[{"price":1e999}]}', "it is not JSON: it has a number"),
        ({"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}, "3", "$: 3"),
        ({"$schema": "http://json-schema.org/draft-07/schema#", "items": [{"type": "null"}]}, "[1]", "$[0]: 1"),
        ({"prefixItems": [{"type": "null"}]}, "[1]", "$[0]: 1"),
        ({"$defs": {"n": {"type": "null"}}, "items": {"$ref": "#/$defs/n"}}, "[null,1]", "$[1]: 1"),
        ({"format": "date"}, '"no date"', None),
    ],
)
def test_a_verdict_names_the_path(schema: Any, text: str, said: str | None):
    """The draft is the one that the schema names; what is wrong is told with its place in the value."""
    verdict = mistake(schema, text)

    assert (verdict is None) is (said is None)
    assert said is None or (verdict or "").startswith(said)


def test_what_is_quoted_is_short():
    """The text that did not satisfy the schema is not repeated at length."""
    assert len(mistake({"type": "null"}, json.dumps("x" * 100_000)) or "") < 400


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"items": {"$ref": "https://example.org/schema"}}, "leads out of the schema"),
        ({"$dynamicRef": "other.json#x"}, "leads out of the schema"),
        ({"pattern": r"\p{Lu}"}, "regular expressions"),
        ({"patternProperties": {"(": {}}}, "regular expressions"),
    ],
)
def test_what_cannot_be_judged_by_is_known_before_the_request(schema: Any, why: str):
    """References to other documents and patterns that Python does not know are named."""
    assert why in (unusable(schema) or "")


@pytest.mark.parametrize("schema", [{"$ref": "#/$defs/nowhere"}, {"$ref": "#"}, {"$ref": "https://127.0.0.1:9/s"}])
def test_references_that_lead_nowhere_are_the_schemas_mistake(schema: Any, monkeypatch: pytest.MonkeyPatch):
    """A verdict never asks the network, and never goes round for ever."""

    def refuse(*_: object) -> None:
        raise AssertionError("a verdict asked the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)

    with pytest.raises(UnusableSchemaError):
        mistake(schema, "1")


_json = st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda some: st.lists(some, max_size=3))


@given(_json, _json)
def test_a_constant_is_satisfied_by_itself_only(one: Any, other: Any):
    """`const` tells equal values from others, through the text and back."""
    assert mistake({"const": one}, json.dumps(one)) is None
    assert (mistake({"const": one}, json.dumps(other)) is None) is (json.dumps(one) == json.dumps(other))


def test_schemas_whose_verdict_may_take_long_are_known():
    """Patterns, references and comparisons of all with all are not simple, at any depth."""
    assert is_simple(ITEMS)
    for keyword in ("pattern", "patternProperties", "$ref", "$dynamicRef", "uniqueItems", "unevaluatedProperties"):
        assert not is_simple({"properties": {"a": {"anyOf": [{}, {keyword: "a"}]}}})


@pytest.mark.parametrize(
    ("schema", "why"),
    [
        ({"$ref": "#/$defs/a"}, r"^the reference '/\$defs/a' leads nowhere$"),
        ({"$ref": "#"}, r"^its references go round in a circle, or it is nested too deeply$"),
        ({"pattern": "("}, r"^a pattern is none of Python's regular expressions: missing \), unterminated"),
    ],
)
def test_a_schema_that_cannot_be_followed_says_why(schema: Any, why: str):
    """Where it shows only when a text is judged."""
    with pytest.raises(UnusableSchemaError, match=why):
        mistake(schema, '"x"')


def test_a_schema_is_looked_through_to_its_end():
    """Every member of every list; a reference within the schema and a property named like a keyword are none."""
    usable = {"$ref": "#/$defs/a", "$defs": {"a": {}}, "properties": {"pattern": {"type": "string"}, "(": {}}}

    assert unusable(usable) is None
    assert unusable({"anyOf": [{"pattern": "("}, {"type": "string"}, {}]}) is not None
    assert unusable({"anyOf": [[{"pattern": "("}], {"allOf": [{}]}]}) is not None


def test_a_mistake_is_quoted_in_part():
    """As much of what the judge says as fits; a short one has no sign of more."""
    short, long = (mistake({"type": "null"}, json.dumps("x" * length)) or "" for length in (10, 1000))

    assert short == "$: 'xxxxxxxxxx' is not of type 'null'"
    assert long == "$: '" + "x" * 299 + "…"


def test_the_draft_is_the_schemas_or_the_newest():
    """`prefixItems` came with 2020-12; a draft that does not know it passes over it."""
    schema: Any = {"prefixItems": [{"type": "null"}]}

    assert mistake(schema, "[1]") is not None
    assert mistake({"$schema": "http://json-schema.org/draft-07/schema#", **schema}, "[1]") is None
