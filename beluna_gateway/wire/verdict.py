"""Whether a JSON text satisfies a JSON Schema, as the package `jsonschema` judges it.

`jsonschema` is imported by the first verdict, not with this module: most daemons never need it.
A schema may take any time to judge (patterns that backtrack, references that branch), so whoever serves others at the
same time judges only small texts by schemas that `is_simple`, and has the rest judged by a process that can be killed
(`processes/schema_judge.py`).
"""

from __future__ import annotations

import re
from typing import Any

from . import strict_json

QUICK_PRODUCT = 4_000_000
"""Characters of a simple schema times characters of the text, up to which a verdict takes a few milliseconds."""

MESSAGE_CHARACTERS = 300
"""How much is quoted of what `jsonschema` says of a mistake; it quotes the value, which may be large."""

_REFERENCES = frozenset({"$ref", "$dynamicRef", "$recursiveRef"})
_SLOW = _REFERENCES | {"pattern", "patternProperties", "uniqueItems", "unevaluatedItems", "unevaluatedProperties"}


class UnusableSchemaError(ValueError):
    """The schema cannot be judged by, however the text looks."""


def _members(schema: Any) -> list[tuple[str, Any]]:
    """Every key of every object in `schema`, with its value. A property may be named like a keyword: it counts, too."""
    found: list[tuple[str, Any]] = []
    left = [schema]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            found += value.items()
            left += value.values()
        elif isinstance(value, list):
            left += value
    return found


def unusable(schema: Any) -> str | None:
    """Why nothing can be judged by `schema`, or None: it refers to another document, or has a pattern that Python
    cannot compile.
    """
    for key, value in _members(schema):
        if key in _REFERENCES and isinstance(value, str) and not value.startswith("#"):
            return f"its {key} {value[:100]!r} leads out of the schema"
        patterns = [value] if key == "pattern" else list(value) if key == "patternProperties" else []
        for pattern in patterns:
            try:
                if isinstance(pattern, str):
                    re.compile(pattern)
            except (re.error, RecursionError, OverflowError) as error:
                return f"its pattern {pattern[:100]!r} is none of Python's regular expressions: {error}"
    return None


def is_simple(schema: Any) -> bool:
    """Whether judging by `schema` takes time in proportion to its size and the text's, at most."""
    return not any(key in _SLOW for key, _ in _members(schema))


def mistake(schema: Any, text: str) -> str | None:
    """Why `text` does not satisfy `schema`, naming the path in the value (`$.items[2].price`); None where it does.

    The draft is the one that `$schema` names, else 2020-12. `format` is not checked: JSON Schema takes it for a remark.

    Raises:
        UnusableSchemaError: A reference leads nowhere or to itself.
    """
    try:
        value = strict_json.parse(text)
    except ValueError as error:
        return f"it is not JSON: {str(error)[:MESSAGE_CHARACTERS]}"
    from jsonschema import Draft202012Validator
    from jsonschema.validators import validator_for
    from referencing import Registry
    from referencing.exceptions import Unresolvable

    # An empty registry: by default `jsonschema` would load what a reference names from the network.
    validator = validator_for(schema, default=Draft202012Validator)(schema, registry=Registry())
    try:
        wrong = next(validator.iter_errors(value), None)
    except Unresolvable as nowhere:
        raise UnusableSchemaError(f"the reference {str(nowhere.ref)[:100]!r} leads nowhere") from None
    except RecursionError:
        raise UnusableSchemaError("its references go round in a circle, or it is nested too deeply") from None
    except re.error as bad:
        raise UnusableSchemaError(f"a pattern is none of Python's regular expressions: {bad}") from None
    if wrong is None:
        return None
    said = wrong.message
    return f"{wrong.json_path}: {said if len(said) <= MESSAGE_CHARACTERS else said[:MESSAGE_CHARACTERS] + '…'}"
