"""The tables of docs/configuration.md, written from the models of `config/settings.py`.

`python -m tests.configuration_page` writes them anew; a test fails where they are old.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from beluna_gateway.config.settings import json_schema

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"
TABLE = re.compile(r"<!-- table: (\w+) -->\n.*?<!-- end -->", re.DOTALL)


def rewritten(text: str) -> str:
    """`text` with each table as the models have it."""
    schema = json_schema()
    definitions = {**schema["$defs"], "Config": schema}
    return TABLE.sub(lambda found: f"<!-- table: {found[1]} -->\n{_table(definitions[found[1]])}<!-- end -->", text)


def _table(model: dict[str, Any]) -> str:
    lines = ["| key | value | default | meaning |", "|---|---|---|---|"]
    for key, field in model["properties"].items():
        meaning = " ".join(field.get("description", "").split()).replace("|", "\\|")
        required = key in model.get("required", ())
        lines.append(f"| `{key}` | {_value(field)} | {'required' if required else _default(field)} | {meaning} |")
    return "\n".join(lines) + "\n"


def _default(field: dict[str, Any]) -> str:
    default = field.get("default")
    return "" if isinstance(default, dict) else f"`{json.dumps(default)}`"


def _value(field: dict[str, Any]) -> str:
    if "const" in field:
        return f"`{json.dumps(field['const'])}`"
    if "enum" in field:
        return ", ".join(f"`{json.dumps(value)}`" for value in field["enum"])
    if "$ref" in field:
        return f"[object](#{field['$ref'].rpartition('/')[2].removesuffix('Settings').lower()})"
    if "oneOf" in field:
        return "[one of these](#credential)"
    if "anyOf" in field:
        return " or ".join(_value(option) for option in field["anyOf"])
    if field["type"] == "array":
        return f"array of {_value(field['items'])}"
    if field["type"] == "object":
        values = field.get("additionalProperties") or {}
        if values is True:
            return "object"
        return f"object of {_value(values)}" if "$ref" in values else "object of strings"
    bounds = {"minimum": "at least", "pattern": "as"}
    return str(field["type"]) + "".join(f", {text} `{field[name]}`" for name, text in bounds.items() if name in field)


if __name__ == "__main__":
    PAGE.write_text(rewritten(PAGE.read_text("utf-8")), "utf-8")
