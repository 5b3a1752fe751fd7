"""`OperationResponse`: one result or one failure."""

from __future__ import annotations

from math import inf

from beluna_gateway.canonical import Embedding, ModelList, UsageStats
from beluna_gateway.pipeline.operation_response import OperationResponse


def test_numbers_that_no_float_holds_become_null():
    """In what is passed on as the provider said it: the entries of a list of models, and the usage of an embedding."""
    listed, embedded = OperationResponse(lambda: 1.0), OperationResponse(lambda: 1.0)
    listed([ModelList([{"id": "m", "size": inf}])])
    embedded([Embedding([[1.0]], UsageStats(1, provider_usage_raw={"a": 10**400, "b": 2}))])

    assert listed.terminal == ModelList([{"id": "m", "size": None}])
    assert embedded.terminal == Embedding([[1.0]], UsageStats(1, provider_usage_raw={"a": None, "b": 2}))
