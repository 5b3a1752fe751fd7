"""Verdicts in a process of their own: the same as here, and ended where they take too long."""

from __future__ import annotations

import asyncio
import json

import pytest

from beluna_gateway.errors import GatewayError
from beluna_gateway.processes import schema_judge
from beluna_gateway.processes.schema_judge import judge
from beluna_gateway.wire.verdict import UnusableSchemaError

HOSTILE = json.dumps({"pattern": "^(a+)+$"}).encode()
"""Backtracks for longer than anybody waits on `aaa…b`."""


@pytest.mark.parametrize(
    ("text", "verdict"),
    [('"é"', None), ("1", "$: 1 is not of type 'string'"), ("nothing", "it is not JSON")],
)
async def test_the_verdict_is_that_of_the_same_rules(text: str, verdict: str | None):
    """Text and schema arrive unharmed, and what is wrong comes back."""
    said = await judge(b'{"type":"string","minLength":1,"maxLength":1}', text)

    assert (said is None) is (verdict is None)
    assert (said or "").startswith(verdict or "")


async def test_a_schema_that_is_of_no_use_is_told():
    """A reference that leads nowhere comes back as the same exception."""
    with pytest.raises(UnusableSchemaError, match="leads nowhere"):
        await judge(b'{"$ref":"#/nowhere"}', "1")


async def test_what_takes_too_long_is_ended(monkeypatch: pytest.MonkeyPatch):
    """A pattern that backtracks for ever ends with `timeout`, and the event loop goes on meanwhile."""
    monkeypatch.setattr(schema_judge, "LIMIT_SECONDS", 0.5)
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.01)
            turns += 1

    counting = asyncio.create_task(count())
    with pytest.raises(GatewayError, match="could not be judged") as caught:
        await judge(HOSTILE, json.dumps("a" * 60 + "b"))
    counting.cancel()

    assert caught.value.kind == "timeout"
    assert turns > 5


async def test_a_process_that_dies_is_a_failure_not_a_verdict(monkeypatch: pytest.MonkeyPatch):
    """Too little memory, a broken installation: `internal`, never "satisfied"."""
    monkeypatch.setattr(
        schema_judge, "clean_environment", lambda _: {"PYTHONPATH": "/nowhere", "PYTHONHOME": "/nowhere"}
    )

    with pytest.raises(GatewayError, match="judging the answer by the schema ended with exit status") as caught:
        await judge(b"{}", "1")

    assert caught.value.kind == "internal"


async def test_a_cancelled_verdict_leaves_no_process():
    """Whoever waits may leave: the process ends with the wait."""
    waiting = asyncio.create_task(judge(HOSTILE, json.dumps("a" * 60 + "b")))
    await asyncio.sleep(0.3)
    waiting.cancel()

    with pytest.raises(asyncio.CancelledError):
        await waiting
