"""`GatewayError`: read-only, and what is kept of one holds no frame."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.errors import GatewayError, forget_frames

FIELDS: dict[str, Any] = {
    "kind": "rate_limited",
    "message": "too many",
    "retryable": True,
    "backend_id": "b",
    "provider_code": "slow_down",
    "provider_http_status": 429,
    "retry_after_ms": 1000,
}
OTHERS: dict[str, Any] = {
    "kind": "timeout",
    "message": "late",
    "retryable": False,
    "backend_id": None,
    "provider_code": None,
    "provider_http_status": None,
    "retry_after_ms": None,
}


def raised() -> GatewayError:
    """An error with a traceback, a cause, and a context beside it."""
    try:
        try:
            raise ValueError("first")
        except ValueError as first:
            try:
                raise KeyError("second")
            except KeyError:
                raise GatewayError(**FIELDS) from first
    except GatewayError as error:
        return error


@pytest.mark.parametrize("field", FIELDS)
def test_a_field_is_read_only(field: str):
    """Whoever else holds the error sees no change."""
    error = GatewayError(**FIELDS)

    with pytest.raises(AttributeError, match=field):
        setattr(error, field, OTHERS[field])
    assert getattr(error, field) == FIELDS[field]


@pytest.mark.parametrize("field", FIELDS)
def test_another_error_with_a_field_replaced(field: str):
    """`replace` changes what is named, keeps the rest, and leaves the first as it was."""
    error = raised()
    error.add_note("a note is no field")
    change: Any = {field: OTHERS[field]}
    other = error.replace(**change)

    assert {name: getattr(other, name) for name in FIELDS} == {**FIELDS, field: OTHERS[field]}
    assert {name: getattr(error, name) for name in FIELDS} == FIELDS
    assert str(other) == other.message
    assert (other.__traceback__, other.__cause__, other.__context__) == (None, None, None)
    assert error.__traceback__ is not None


def test_frames_are_forgotten():
    """No error of the chain keeps its traceback, neither a cause nor a context, and a chain in a circle ends."""
    error = raised()
    cause, context = error.__cause__, error.__context__
    assert cause is not None
    assert context is not None
    cause.__cause__ = error
    forget_frames(error)

    assert [link.__traceback__ for link in (error, cause, context)] == [None] * 3
