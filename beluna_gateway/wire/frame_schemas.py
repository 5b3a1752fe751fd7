"""The JSON Schemas of all frames, written so that generators make good types of them.

Programs that turn a schema into TypeScript, Python or Rust name a type by its place in `$defs` or by its `title`, and
number those that have the same name. So:

- A field has no `title`: a title on a field would make a type of it (`Name`, `Name1`, …).
- What has a `title` in the models (a role, a finish reason, an error's kind) stands once, in `$defs`.
- A reference stands alone, or in `anyOf` beside a description or default: json-schema-to-typescript makes a second type
  of a reference that has siblings, and of one in `allOf` beside a default the type and the default's type at once.
  It has no default that is an object: datamodel-code-generator would give a dictionary to a field of a model's type.
- Any JSON is `$defs/JsonValue`, which allows everything. Spelt out as a union it would be a type of six cases in Rust
  and Python, with each integer a float; `tsType` spells it out for json-schema-to-typescript, which has no name for it.
"""

from __future__ import annotations

from typing import Any, Literal

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from ..schemas.field_docs import describe, subclasses
from .frames import ClientFrame, Shape
from .server_frames import ServerFrame

_JSON_VALUE = {
    "title": "JsonValue",
    "description": "Any JSON value.",
    "tsType": "null | boolean | number | string | JsonValue[] | { [key: string]: JsonValue }",
}
_OF_THE_PLACE = ("description", "default")
"""What a schema says of the place where it stands, and not of the type."""


def client_frame_schema() -> dict[str, Any]:
    """The JSON Schema of a line that a client may send."""
    return _schema("ClientFrame", "A line from a client to the daemon.", TypeAdapter(ClientFrame))


def server_frame_schema() -> dict[str, Any]:
    """The JSON Schema of a line that the daemon writes."""
    return _schema("ServerFrame", "A line from the daemon to a client.", TypeAdapter(ServerFrame))


def _schema(title: str, description: str, adapter: TypeAdapter[Any]) -> dict[str, Any]:
    schema = describe(adapter.json_schema(by_alias=True, schema_generator=_WithoutFieldTitles), subclasses(Shape))
    models = schema.pop("$defs")
    named: dict[str, Any] = {}
    definitions = {name: _rewritten(model, named) for name, model in models.items()} | named
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": title,
        "description": description,
        **schema,
        "$defs": dict(sorted(definitions.items())) | {"JsonValue": _JSON_VALUE},
    }


class _WithoutFieldTitles(GenerateJsonSchema):
    def field_title_should_be_set(self, schema: Any) -> Literal[False]:
        return False


def _rewritten(schema: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    """`schema` of a definition, with what has a title below it in `named` and a reference in its place."""
    if schema.get("additionalProperties") is True:
        # Beside `properties` it says what its absence says; alone it is an object with any JSON in it.
        values = {} if "properties" in schema else {"additionalProperties": {"title": "JsonValue"}}
        schema = {keyword: schema[keyword] for keyword in schema if keyword != "additionalProperties"} | values
    return {keyword: _inside(keyword, argument, named) for keyword, argument in schema.items()}


def _inside(keyword: str, argument: Any, named: dict[str, Any]) -> Any:
    match keyword:
        case "properties":
            return {name: _referring(inner, named) for name, inner in argument.items()}
        case "anyOf" | "oneOf":
            return [_referring(inner, named) for inner in argument]
        case "items" | "additionalProperties" if isinstance(argument, dict):
            return _referring(argument, named)
    return argument


def _referring(schema: dict[str, Any], named: dict[str, Any]) -> dict[str, Any]:
    place = {keyword: schema[keyword] for keyword in _OF_THE_PLACE if keyword in schema}
    shape = _rewritten({keyword: schema[keyword] for keyword in schema if keyword not in place}, named)
    if (name := shape.get("title")) is not None:
        if named.setdefault(name, shape) != shape:
            raise ValueError(f"two types have the title {name}")
        shape = {"$ref": f"#/$defs/{name}"}
    if "$ref" in shape:
        if isinstance(place.get("default"), dict):
            del place["default"]
        return {"anyOf": [shape], **place} if place else shape
    return shape | place
