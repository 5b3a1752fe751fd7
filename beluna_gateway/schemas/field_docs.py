"""Puts the docstring under a model's field into the JSON Schema, as the field's description.

pydantic can do this itself (`use_attribute_docstrings`), but at import, by parsing the source of every model: 25 ms of
each start of the daemon, for schemas that are only printed by `beluna-gateway schema`.
"""

from __future__ import annotations

import ast
import inspect
import sys
from collections.abc import Iterable
from functools import cache
from typing import Any

from pydantic import BaseModel


def describe(schema: dict[str, Any], models: Iterable[type[BaseModel]]) -> dict[str, Any]:
    """Adds the descriptions of the fields of `models` to their definitions in `schema`."""
    definitions = {**schema.get("$defs", {}), schema.get("title", ""): schema}
    for model in models:
        properties = definitions.get(model.__name__, {}).get("properties", {})
        for base in model.__mro__:
            if not issubclass(base, BaseModel) or base is BaseModel:
                continue
            for name, text in _docstrings(base).items():
                alias = model.model_fields[name].alias or name
                if alias in properties:
                    properties[alias].setdefault("description", text)
    return schema


def subclasses(base: type[BaseModel]) -> Iterable[type[BaseModel]]:
    """Every model below `base`."""
    for model in base.__subclasses__():
        yield model
        yield from subclasses(model)


def _docstrings(model: type[BaseModel]) -> dict[str, str]:
    tree = _classes(model.__module__).get(model.__qualname__)
    if tree is None:
        return {}
    found = {}
    for field, below in zip(tree.body, tree.body[1:], strict=False):
        match field, below:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                found[name] = inspect.cleandoc(text)
    return found


@cache
def _classes(module: str) -> dict[str, ast.ClassDef]:
    """The classes of a module; parsed once, where `inspect.getsource` of a class parses the module for each of them."""
    tree = ast.parse(inspect.getsource(sys.modules[module]))
    return {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
