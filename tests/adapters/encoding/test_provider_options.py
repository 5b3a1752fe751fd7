"""`provider_options` in a body: added at every depth, and never in place of what the gateway has set."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from beluna_gateway.adapters.encoding.provider_options import merge_options
from beluna_gateway.errors import GatewayError


@pytest.mark.parametrize(
    ("options", "merged"),
    [
        (None, {"a": 1, "b": {"c": {"d": 1}}}),
        ({}, {"a": 1, "b": {"c": {"d": 1}}}),
        ({"x": [1], "b": {"e": None}}, {"a": 1, "x": [1], "b": {"c": {"d": 1}, "e": None}}),
        ({"b": {"c": {"f": 2}}}, {"a": 1, "b": {"c": {"d": 1, "f": 2}}}),
    ],
)
def test_options_are_added_member_by_member(options: Any, merged: Any) -> None:
    """What is there stays."""
    body: Any = {"a": 1, "b": {"c": {"d": 1}}}
    merge_options(body, options)

    assert body == merged


def test_what_the_body_has_from_the_request_stays_as_it_is() -> None:
    """A schema stands in the body as the client gave it; a second attempt begins with the same one."""
    schema: Any = {"type": "object", "$defs": {"d": {}}}
    before = copy.deepcopy(schema)
    for _ in range(2):
        body: Any = {"format": schema}
        merge_options(body, {"format": {"title": "T", "$defs": {"e": {}}}})

        assert body == {"format": {"type": "object", "$defs": {"d": {}, "e": {}}, "title": "T"}}
    assert schema == before


@pytest.mark.parametrize(
    ("options", "path"),
    [
        ({"a": 1}, "provider_options.a"),
        ({"a": {}}, "provider_options.a"),
        ({"b": 1}, "provider_options.b"),
        ({"b": {"c": {"d": 2}}}, "provider_options.b.c.d"),
    ],
)
def test_what_the_gateway_sets_is_named(options: Any, path: str) -> None:
    """By its whole path, also where it is the same value, and of another type."""
    with pytest.raises(GatewayError) as refused:
        merge_options({"a": 1, "b": {"c": {"d": 1}}}, options)

    assert (refused.value.kind, refused.value.message.split(": ")[0]) == ("invalid_request", path)


def test_a_key_has_two_spellings() -> None:
    """Gemini reads `generation_config` as `generationConfig`: neither overrides the other, nor stands beside it."""
    body: Any = {"generationConfig": {"maxOutputTokens": 5}, "max_tokens": 1}
    with pytest.raises(GatewayError, match=r"provider_options\.generation_config\.max_output_tokens"):
        merge_options(body, {"generation_config": {"max_output_tokens": 9}})

    merge_options(body, {"generation_config": {"top_k": 3, "_": 1}, "safety_settings": [], "maxTokens": 2})

    config = {"maxOutputTokens": 5, "top_k": 3, "_": 1}
    assert body == {"generationConfig": config, "max_tokens": 1, "safety_settings": [], "maxTokens": 2}
