"""Undelivered body bytes: a high-water mark, and bursts that are gathered."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from beluna_gateway.adapters.http.body_buffer import BURST_BYTES, BURST_TURNS, HIGH_WATER_BYTES, BodyBuffer


class Transport(asyncio.ReadTransport):
    """Notes what it is told."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[str] = []

    def is_closing(self) -> bool:
        return "close" in self.told

    def pause_reading(self) -> None:
        self.told.append("pause")

    def resume_reading(self) -> None:
        self.told.append("resume")


class Turns:
    """The part of an event loop that a buffer uses: callbacks, run by the test."""

    def __init__(self) -> None:
        self.callbacks: list[Callable[[], None]] = []

    def call_soon(self, callback: Callable[..., None], *arguments: Any) -> None:
        self.callbacks.append(lambda: callback(*arguments))

    def turn(self) -> None:
        callbacks, self.callbacks = self.callbacks, []
        for callback in callbacks:
            callback()


class Stand:
    """A buffer whose bytes come from a test."""

    def __init__(self) -> None:
        self.transport = Transport()
        self.loop = Turns()
        self.buffer = BodyBuffer(self.transport, self.loop)  # type: ignore[arg-type] # it needs no more of a loop
        self.delivered: list[bytes] = []

    def comes(self, *pieces: bytes) -> bool:
        """One read with these pieces, to a reader that waits; whether it was held back."""
        self.buffer.pieces.extend(pieces)
        gathered = len(self.buffer.pieces) > 1 and self.buffer.gather(sum(map(len, pieces)), self.deliver)
        if not gathered:
            self.deliver()
        return gathered

    def deliver(self) -> None:
        self.delivered.append(self.buffer.take())


def test_reading_is_paused_above_the_mark_and_resumed_when_the_bytes_are_taken():
    """Once each; framing counts, for it is read as well."""
    stand = Stand()
    for _ in range(4):
        stand.buffer.pieces.append(b"x" * 1000)
        stand.buffer.hold(HIGH_WATER_BYTES // 2)

    assert stand.transport.told == ["pause"]
    assert stand.buffer.take() == b"x" * 4000
    assert stand.transport.told == ["pause", "resume"]
    assert stand.buffer.pieces == []

    stand.buffer.hold(HIGH_WATER_BYTES)
    assert stand.transport.told == ["pause", "resume"]
    stand.buffer.hold(1)
    stand.buffer.discard()
    assert stand.transport.told == ["pause", "resume"] * 2


def test_a_large_read_ends_the_turn():
    """And only the turn: what is not taken then keeps its pause, and a closed transport is left alone."""
    for before, after, told in (
        (0, 0, ["pause", "resume"]),
        (0, HIGH_WATER_BYTES + 1, ["pause"]),
        (HIGH_WATER_BYTES + 1, 0, ["pause"]),
    ):
        stand = Stand()
        stand.buffer.hold(before)
        stand.buffer.end_turn()
        stand.buffer.hold(after)
        assert stand.transport.told == ["pause"]
        stand.loop.turn()
        assert stand.transport.told == told

    stand = Stand()
    stand.buffer.end_turn()
    stand.transport.told = ["close"]
    stand.loop.turn()
    assert stand.transport.told == ["close"]


def test_what_is_taken_at_once_never_pauses():
    """Bytes count from the last time that they were taken."""
    stand = Stand()
    for _ in range(10):
        stand.buffer.hold(HIGH_WATER_BYTES // 2)
        stand.buffer.pieces.append(b"x")
        stand.buffer.take()

    assert stand.transport.told == []


def test_neither_the_first_piece_nor_a_single_one_is_held_back():
    """A first token, and a token by itself, go on at once."""
    stand = Stand()

    assert not stand.comes(b"1", b"2")
    assert not stand.comes(b"3")
    assert stand.comes(b"4", b"5")
    assert stand.delivered == [b"12", b"3"]


def test_a_burst_is_gathered_until_a_turn_brings_nothing():
    """And delivered as one."""
    stand = Stand()
    stand.comes(b"1")
    for text in (b"2", b"3", b"4"):
        assert stand.comes(text, text)
        stand.loop.turn()
    assert stand.delivered == [b"1"]
    stand.loop.turn()

    assert stand.delivered == [b"1", b"223344"]
    assert stand.loop.callbacks == []


def test_a_burst_that_goes_on_is_delivered_all_the_same():
    """After so many turns."""
    stand = Stand()
    stand.comes(b"1")
    for _ in range(BURST_TURNS + 1):
        assert len(stand.delivered) == 1
        stand.comes(b"2", b"2")
        stand.loop.turn()

    assert stand.delivered == [b"1", b"22" * (BURST_TURNS + 1)]


@pytest.mark.parametrize("more", [0, 1])
def test_a_large_burst_is_not_held_back(more: int):
    """What is worth a write by itself goes out; what was gathered before goes with it."""
    stand = Stand()
    stand.comes(b"1")
    half = b"x" * (BURST_BYTES // 4)
    assert stand.comes(half, half)

    assert stand.comes(half, half + b"x" * more) is not bool(more)
    assert len(stand.delivered) == 1 + more
