"""`GatewayError`: read-only, and what is kept of one holds no frame."""

from __future__ import annotations

from typing import Any

import pytest

from beluna_gateway.errors import (
    GatewayError,
    cut_off,
    forget_frames,
    invalid_request,
    protocol_violation,
    quoted,
    unsupported,
)

FIELDS: dict[str, Any] = {
    "kind": "rate_limited",
    "message": "too many",
    "retryable": True,
    "backend_id": "b",
    "provider_code": "slow_down",
    "provider_http_status": 429,
    "retry_after_ms": 1000,
    "retry_at_ms": 1_800_000_000_000,
}
OTHERS: dict[str, Any] = {
    "kind": "timeout",
    "message": "late",
    "retryable": False,
    "backend_id": None,
    "provider_code": None,
    "provider_http_status": None,
    "retry_after_ms": None,
    "retry_at_ms": None,
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
    assert GatewayError(**FIELDS).replace(**change).__dict__ == other.__dict__


def test_frames_are_forgotten():
    """No error of the chain keeps its traceback, neither a cause nor a context, and a chain in a circle ends."""
    error = raised()
    cause, context = error.__cause__, error.__context__
    assert cause is not None
    assert context is not None
    cause.__cause__ = error
    forget_frames(error)

    assert [link.__traceback__ for link in (error, cause, context)] == [None] * 3


def test_both_arms_of_a_chain_forget_their_frames():
    """A cause of its own and a context of its own, each with what led to it."""
    error, cause, context = raised(), raised(), raised()
    error.__cause__, error.__context__ = cause, context
    below = [link for one in (cause, context) for link in (one.__cause__, one.__context__) if link is not None]
    assert len(below) == 4
    forget_frames(error)

    assert [link.__traceback__ for link in (error, cause, context, *below)] == [None] * 7


@pytest.mark.parametrize(
    ("make", "kind", "retryable"),
    [
        (invalid_request, "invalid_request", False),
        (unsupported, "unsupported_capability", False),
        (protocol_violation, "protocol_violation", False),
        (cut_off, "backend_transient", True),
    ],
)
def test_only_an_answer_that_was_cut_off_may_be_asked_for_again(make: Any, kind: str, retryable: bool):
    """Of the errors that are made in many places. Each says its message, and nothing of a backend."""
    error = make("why")

    assert error.__dict__ == {**OTHERS, "kind": kind, "message": "why", "retryable": retryable}
    assert repr(error) == f"GatewayError({kind}: why)"


@pytest.mark.parametrize("length", [0, 1, 100, 101, 10_000])
def test_a_name_from_outside_is_quoted_in_part(length: int):
    """A message has the first hundred characters of it, escaped, and a sign that there were more."""
    name = ("\n" + "x" * length)[:length]

    assert quoted(name) == repr(name[:100] + ("…" if length > 100 else ""))
