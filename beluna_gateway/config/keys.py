"""The keys of the configuration by place, for mistakes in them."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import cache
from typing import Any, get_args

from pydantic import BaseModel

from ..schemas.nested_models import models_in
from .settings import Config, CredentialRef

_LONGEST_KEY = 100  # comparing takes time that is quadratic in this


def _tag(model: type[BaseModel]) -> Any:
    field = model.model_fields.get("type")
    return get_args(field.annotation)[0] if field is not None and field.is_required() else None


CREDENTIAL_TYPES: tuple[str, ...] = tuple(_tag(model) for model in get_args(get_args(CredentialRef)[0]))
"""The words that the `type` of a credential may be."""


def similar_key(way: Iterable[int | str], wrong: str) -> str | None:
    """The known key that looks most like `wrong`; None where none is alike.

    Args:
        way: Where `wrong` stands: the steps before it, as in a path of pydantic's.
        wrong: An unknown key.
    """
    if len(wrong) > _LONGEST_KEY:
        return None
    known = {_plain(name): name for model in _models_at(way) for name in _keys(model)}
    from difflib import get_close_matches  # only wrong configurations pay for the import

    found = get_close_matches(_plain(wrong), known, n=1)
    return known[found[0]] if found else None


@cache
def known_words() -> frozenset[str]:
    """Every word that is a key somewhere, and the words of JSON."""
    models: list[type[BaseModel]] = [Config]
    for model in models:  # grows by those inside of it
        inner = {one for field in model.model_fields.values() for one in models_in(field.annotation, BaseModel)}
        models += inner.difference(models)
    return frozenset({"true", "false", "null", *(key for model in models for key in _keys(model))})


def _plain(key: str) -> str:
    """`key` as others may spell it: `maxRetries`, `max-retries`."""
    return re.sub(r"[\W_]", "", key).lower()


def _keys(model: type[BaseModel]) -> list[str]:
    return [field.alias or name for name, field in model.model_fields.items()]


def _models_at(way: Iterable[int | str]) -> list[type[BaseModel]]:
    """The models that may stand at a path of the configuration, as pydantic writes it."""
    models: list[type[BaseModel]] = [Config]
    for step in way:
        # the tag of a credential, which may be one of its keys, too, or the name of a union's member
        named = [model for model in models if step in (model.__name__, _tag(model))] if len(models) > 1 else []
        fields = [model.model_fields[step] for model in models if step in model.model_fields]
        if fields and not named:
            models = [model for field in fields for model in models_in(field.annotation, BaseModel)]
        else:  # an index and a key of a plain object change nothing
            models = named or models
    return models
