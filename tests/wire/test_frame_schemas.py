"""The published schemas: those of the models, valid, and written so that generated types have good names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any, get_args

import pytest
from hypothesis import given
from jsonschema import Draft202012Validator
from pydantic import Field

from beluna_gateway.errors import ErrorKind
from beluna_gateway.wire import frame_schemas, frames

from .samples import json_values

PROTOCOL = Path(__file__).parents[2] / "protocol"
CLIENT = frame_schemas.client_frame_schema()
SERVER = frame_schemas.server_frame_schema()

both = pytest.mark.parametrize("schema", [CLIENT, SERVER], ids=["client", "server"])


def schemas(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """`schema` and every schema in it, whatever keyword holds it."""
    yield schema
    for keyword, argument in schema.items():
        if keyword in ("default", "discriminator"):
            continue
        inner = argument.values() if keyword in ("properties", "$defs") else argument
        for one in [inner] if isinstance(inner, dict) else inner if isinstance(inner, Iterable) else []:
            if isinstance(one, dict):
                yield from schemas(one)


@pytest.mark.parametrize("name", ["client", "server"])
def test_the_files_are_those_of_the_models(name: str) -> None:
    """`beluna-gateway schema client` and `server` print exactly these files."""
    # Made here and not above, so that the mutation tester can change how.
    made = frame_schemas.client_frame_schema() if name == "client" else frame_schemas.server_frame_schema()

    assert (PROTOCOL / f"{name}.schema.json").read_text("utf-8") == json.dumps(made, indent=2) + "\n"


@both
def test_a_schema_is_valid(schema: dict[str, Any]) -> None:
    """By the meta-schema of the draft that it names."""
    assert schema["$schema"] == Draft202012Validator.META_SCHEMA["$id"]
    Draft202012Validator.check_schema(schema)


def test_the_client_schema_is_strict_and_the_servers_is_not() -> None:
    """No object of a client may have a key that is unknown; a newer daemon may add keys to each of its own."""
    objects = [inner for inner in schemas(CLIENT) if "properties" in inner]
    assert len(objects) > 20
    assert all(inner.get("additionalProperties") is False for inner in objects)
    assert not any(inner.get("additionalProperties") is False for inner in schemas(SERVER))


def test_the_schema_lists_the_error_kinds() -> None:
    """A client learns all kinds from the schema."""
    assert SERVER["$defs"]["ErrorKind"]["enum"] == list(get_args(ErrorKind))
    assert SERVER["$defs"]["Error"]["properties"]["kind"] == {"$ref": "#/$defs/ErrorKind"}


@pytest.mark.parametrize(("schema", "title"), [(CLIENT, "ClientFrame"), (SERVER, "ServerFrame")])
def test_each_type_has_one_name(schema: dict[str, Any], title: str) -> None:
    """Generators name a type by its title or its place in `$defs`: both are the same, and nothing else has a title."""
    titles = [inner["title"] for inner in schemas(schema) if "title" in inner]

    assert titles == [title, *schema["$defs"]]
    assert [name for name in titles if not re.fullmatch(r"([A-Z][a-z]+)+", name)] == []


@both
def test_each_definition_is_used(schema: dict[str, Any]) -> None:
    """From the root, and every reference leads to one."""
    found, waiting = set(), [{keyword: schema[keyword] for keyword in schema if keyword != "$defs"}]
    while waiting:
        for inner in schemas(waiting.pop()):
            name = inner.get("$ref", "").removeprefix("#/$defs/")
            if name and name not in found:
                found.add(name)
                waiting.append(schema["$defs"][name])

    assert found == set(schema["$defs"])


@both
def test_a_reference_stands_alone(schema: dict[str, Any]) -> None:
    """json-schema-to-typescript makes a second type, with a number in its name, of a reference that does not."""
    assert [inner for inner in schemas(schema) if "$ref" in inner and len(inner) > 1] == []


@both
def test_each_frame_is_told_by_its_type(schema: dict[str, Any]) -> None:
    """The alternatives of the root, their constants and the discriminator's mapping are the same."""
    names = {inner["$ref"]: schema["$defs"][inner["$ref"].removeprefix("#/$defs/")] for inner in schema["oneOf"]}

    assert schema["discriminator"]["propertyName"] == "type"
    assert schema["discriminator"]["mapping"] == {
        definition["properties"]["type"]["const"]: reference for reference, definition in names.items()
    }
    assert all("type" in definition["required"] for definition in names.values())


def test_what_a_docstring_says_is_the_description() -> None:
    """Of a model and of a field, wherever the field's type stands."""
    kind = SERVER["$defs"]["Error"]
    request_id = CLIENT["$defs"]["Cancel"]["properties"]["request_id"]

    assert kind["description"].startswith("Why a request failed or a line was rejected.")
    assert kind["properties"]["retryable"]["description"] == "The same request may succeed if it is sent again."
    assert request_id["anyOf"] == [{"$ref": "#/$defs/RequestId"}]
    assert request_id["description"].startswith("Of a request in flight")
    assert CLIENT["description"] == "A line from a client to the daemon."
    assert SERVER["description"] == "A line from the daemon to a client."


@given(json_values)
def test_any_json_is_a_json_value(value: Any) -> None:
    """Where a field is free-form, the schema names one type that refuses nothing."""
    definition = CLIENT["$defs"]["JsonValue"]

    assert Draft202012Validator(definition).is_valid(value)
    assert definition == SERVER["$defs"]["JsonValue"]
    assert CLIENT["$defs"]["Json"]["properties"]["value"] == {"$ref": "#/$defs/JsonValue"}
    options = CLIENT["$defs"]["Infer"]["properties"]["provider_options"]["anyOf"][0]
    assert options == {"type": "object", "additionalProperties": {"$ref": "#/$defs/JsonValue"}}


def test_two_types_with_one_title_are_a_mistake(monkeypatch: pytest.MonkeyPatch) -> None:
    """One of them would be published in the place of both."""

    class Wrong(frames.Shape):
        one: frames.CacheMode
        other: Annotated[str, Field(title="CacheMode")]

    monkeypatch.setattr(frame_schemas, "ClientFrame", Annotated[Wrong, Field(title="x")])

    with pytest.raises(ValueError, match="two types have the title CacheMode"):
        frame_schemas.client_frame_schema()
